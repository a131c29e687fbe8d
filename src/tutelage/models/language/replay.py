"""Record what a language model answers, and replay it: the same question is asked once, also across processes and crashes.

The answers lie in one SQLite file. A sample's key is the SHA-256 of the model's fingerprint, the prompt, the parameters, the
seed and the index of the sample, so n=8 after n=4 asks for four more. Each answer is committed when it comes: a process that is
killed at any moment loses the answers that had not come, and no other.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.files import canonical_json, sha256_text
from tutelage.models.language.protocol import (
    Backend,
    Capability,
    Generation,
    GenRequest,
    LanguageModel,
    LogLik,
    require,
)

MARK = 0x7475_6C6D  # "tulm", SQLite's application id of our files
VERSION = 1
SAVED_EVERY = 64  # scores that are asked for, and kept, at a time
_TABLES = (
    "CREATE TABLE IF NOT EXISTS models (fingerprint TEXT PRIMARY KEY, name TEXT, max_context INTEGER, capabilities TEXT)",
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, fingerprint TEXT, question TEXT, answer TEXT)",
)


class StoreError(TutelageError):
    """A file of recorded answers could not be read or written. What was committed before is still there."""

    exit_code = 1


class Store:
    """Answers in an SQLite file, shared by threads and processes."""

    def __init__(self, path: Path | str) -> None:
        if not isinstance(path, str | Path):
            raise InputError("path", type(path).__name__, "the path of an SQLite file")
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        with self._open():
            pass

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None or self._owner != os.getpid():  # SQLite's connections do not survive a fork
                    self._connection, self._owner = self._connected(), os.getpid()
                yield self._connection
            except sqlite3.Error as error:
                raise StoreError(f"{self.path}: {error}; give another file, or mend this one") from error

    def _connected(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("path", str(self.path), f"a file that can be written ({error.strerror})") from error
        connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
        try:
            mark, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            empty = not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            if not empty and (mark, version) != (MARK, VERSION):
                raise InputError(
                    "path", str(self.path), "a file that tutelage recorded answers in, or one that is not there yet"
                )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            if empty:
                connection.execute("BEGIN IMMEDIATE")
                for table in _TABLES:
                    connection.execute(table)
                connection.execute(f"PRAGMA application_id={MARK}")
                connection.execute(f"PRAGMA user_version={VERSION}")
                connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            connection.close()
            raise InputError("path", str(self.path), f"an SQLite file of recorded answers ({error})") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def get(self, key: str) -> Any | None:
        with self._open() as connection:
            row = connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, question: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep the first answer to a question: a later one, of another process, is not taken."""
        values = (key, question["fingerprint"], canonical_json(question), canonical_json(answer))
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", values)

    def put_model(self, lm: LanguageModel, fingerprint: str) -> None:
        values = (fingerprint, lm.name, lm.max_context, " ".join(sorted(lm.capabilities)))
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)", values)

    def models(self) -> dict[str, tuple[str, int | None, frozenset[Capability]]]:
        """fingerprint -> (name, max_context, capabilities) of every model that was recorded."""
        with self._open() as connection:
            rows = connection.execute("SELECT fingerprint, name, max_context, capabilities FROM models").fetchall()
        return {row[0]: (row[1], row[2], frozenset(row[3].split())) for row in rows}

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
            self._connection = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


class Recorded(Backend):
    """A language model whose answers are kept in `path` (an SQLite file, made if it is not there) and not asked for twice.

    A greedy answer is kept like a sampled one. hidden states are not kept. hits, misses: samples and scores that were there,
    and that were asked for, so far. Raises InputError for a file that is something else, StoreError for one that fails.

    Example::

        >>> import tempfile, pathlib
        >>> from tutelage.models.language import FunctionLM, GenRequest, Recorded
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "answers.sqlite"
        >>> lm = Recorded(FunctionLM(lambda prompt, seed: prompt[::-1], name="mirror", fingerprint="1"), path)
        >>> [lm.generate([GenRequest("abc")])[0][0].text for _ in range(2)], lm.hits, lm.misses
        (['cba', 'cba'], 1, 1)
    """

    def __init__(self, lm: LanguageModel, path: Path | str) -> None:
        require(lm)
        self.lm, self.store = lm, Store(path)
        self.name, self.capabilities = lm.name, lm.capabilities
        self.hits = self.misses = 0

    @property
    def fingerprint(self) -> str:
        return self.lm.fingerprint

    @property
    def max_context(self) -> int | None:
        return self.lm.max_context

    def hidden(self, texts: Sequence[str], layer: int | str) -> list[Tensor]:
        return self.lm.hidden(texts, layer)

    def with_soft_prompt(self, embeddings: Tensor) -> LanguageModel:
        return Recorded(self.lm.with_soft_prompt(embeddings), self.store.path)

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        fingerprint = self.fingerprint
        wanted = [[(sample, _key_of(sample, fingerprint)) for sample in _samples(request)] for request in requests]
        found = {key: self.store.get(key) for row in wanted for _, key in row}
        open_ones = {key: sample for row in wanted for sample, key in row if found[key] is None}
        self.hits += sum(found[key] is not None for row in wanted for _, key in row)
        self.misses += len(open_ones)
        if open_ones:
            self.store.put_model(self.lm, fingerprint)
        keys = list(open_ones)
        for index, answers in _streamed(self.lm, list(open_ones.values())):
            self.store.put(keys[index], _question(open_ones[keys[index]], fingerprint), asdict(answers[0]))
        for index, row in enumerate(wanted):
            yield index, [_generation(found[key] or self._kept(key)) for _, key in row]

    def _score(self, pairs: list[tuple[str, str]]) -> list[LogLik]:
        fingerprint = self.fingerprint
        keys = [_pair_key(pair, fingerprint) for pair in pairs]
        found = {key: self.store.get(key) for key in keys}
        open_ones = {key: pair for key, pair in zip(keys, pairs, strict=True) if found[key] is None}
        self.hits += sum(found[key] is not None for key in keys)
        self.misses += len(open_ones)
        if open_ones:
            self.store.put_model(self.lm, fingerprint)
        items = list(open_ones.items())
        for at in range(0, len(items), SAVED_EVERY):
            part = items[at : at + SAVED_EVERY]
            for (key, pair), answer in zip(part, self.lm.loglikelihood([pair for _, pair in part]), strict=True):
                self.store.put(key, _pair_question(pair, fingerprint), asdict(answer))
        return [_loglik(found[key] or self._kept(key)) for key in keys]

    def _kept(self, key: str) -> Any:
        answer = self.store.get(key)
        if answer is None:
            raise StoreError(f"{self.store.path}: a recorded answer is gone; does something else write this file?")
        return answer


class Replay(Backend):
    """The recorded answers of a model that is not there. What was not recorded raises MissingError with the question.

    fingerprint: which model, where the file holds several.
    """

    def __init__(self, path: Path | str, *, fingerprint: str | None = None) -> None:
        if isinstance(path, str | Path) and not Path(path).is_file():
            raise MissingError(f"path: there is no file {path}")
        self.store = Store(path)
        models = self.store.models()
        if fingerprint is None and len(models) == 1:
            fingerprint = next(iter(models))
        if fingerprint not in models:
            names = ", ".join(f"{key} ({name})" for key, (name, _, _) in models.items()) or "none: nothing was recorded"
            raise InputError("fingerprint", fingerprint, f"one of those in {path}: {names}")
        self._fingerprint = fingerprint
        self.name, self._max_context, recorded = models[fingerprint]
        self.capabilities = recorded - {"hidden", "soft_prompt"}

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def max_context(self) -> int | None:
        return self._max_context

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        for index, request in enumerate(requests):
            keys = [_key_of(sample, self._fingerprint) for sample in _samples(request)]
            yield index, [_generation(self._get(key, f"request {index}: {request.spelled()['prompt']!r}")) for key in keys]

    def _score(self, pairs: list[tuple[str, str]]) -> list[LogLik]:
        keys = [_pair_key(pair, self._fingerprint) for pair in pairs]
        return [_loglik(self._get(key, f"pair {index}: {pairs[index]!r}")) for index, key in enumerate(keys)]

    def _get(self, key: str, what: str) -> Any:
        answer = self.store.get(key)
        if answer is None:
            shown = what if len(what) < 200 else what[:200] + "…"
            raise MissingError(
                f"{self.store.path} holds no answer of {self.name} to {shown} with these settings; record it first"
            )
        return answer


def _streamed(lm: LanguageModel, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
    if isinstance(lm, Backend):
        yield from lm.stream(requests)
    else:  # a class of the user's own: one by one, so that each answer is kept before the next is asked for
        for index, request in enumerate(requests):
            yield index, lm.generate([request])[0]


def _samples(request: GenRequest) -> list[GenRequest]:
    return [replace(request, n=1, first=index) for index in range(request.first, request.first + request.n)]


def _question(sample: GenRequest, fingerprint: str) -> dict[str, Any]:
    return {"kind": "generate", "fingerprint": fingerprint, **sample.spelled(), "sample": sample.first}


def _key_of(sample: GenRequest, fingerprint: str) -> str:
    return sha256_text(canonical_json(_question(sample, fingerprint)))


def _pair_question(pair: tuple[str, str], fingerprint: str) -> dict[str, Any]:
    return {"kind": "loglikelihood", "fingerprint": fingerprint, "context": pair[0], "continuation": pair[1]}


def _pair_key(pair: tuple[str, str], fingerprint: str) -> str:
    return sha256_text(canonical_json(_pair_question(pair, fingerprint)))


def _generation(answer: dict[str, Any]) -> Generation:
    logprobs = answer["token_logprobs"]
    return Generation(
        **{
            **answer,
            "tokens": tuple(answer["tokens"]),
            "token_logprobs": None if logprobs is None else tuple(logprobs),
        }
    )


def _loglik(answer: dict[str, Any]) -> LogLik:
    return LogLik(**{**answer, "token_logprobs": tuple(answer["token_logprobs"])})
