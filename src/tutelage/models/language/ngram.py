"""An n-gram language model: counts, smoothed. Exact, fast, needs no extra; a baseline, an oracle for tests, a fluency score.

Probabilities are smoothed towards the next shorter history (MacKay and Peto, A Hierarchical Dirichlet Language Model, 1995):

    (1)  P_k(w | h) = (c(h w) + λ P_{k-1}(w | h')) / (c(h) + λ)

h is the history of k-1 units, h' is h without its oldest one, c counts in the training texts, and P_0 is uniform over the
vocabulary, which holds the end of a text and one place for everything unknown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, write_atomic
from tutelage.models.language.protocol import Backend, Finish, Generation, GenRequest, LogLik, cut_at_stop
from tutelage.models.language.sampling import draw

Unit = Literal["character", "word"]
UNKNOWN, END = "", "\0"  # what no text can contain: a unit is never empty, and a NUL is refused
_WORD = re.compile(r"\s?\S+|\s")


class NGramLM(Backend):
    """An n-gram model over characters, or over words with the space before them; the units of a text join to the text.

    order: n; a unit depends on the n - 1 before it. strength: λ of equation (1).

    Example::

        >>> from tutelage.models.language import GenRequest, NGramLM
        >>> lm = NGramLM.fit(["1+1=2", "2+1=3"], order=3)
        >>> lm.generate([GenRequest("1+1", max_tokens=8)])[0][0].text
        '=2'
    """

    capabilities = frozenset({"generate", "loglikelihood", "logprobs"})

    def __init__(self, counts: dict[str, dict[str, int]], *, order: int, unit: Unit, strength: float, name: str = "") -> None:
        self.order, self.unit, self.strength = order, unit, strength
        self.name = name or f"{order}-gram of {unit}s"
        self._counts = counts
        self.vocabulary = (UNKNOWN, END, *sorted(w for w in counts.get("[]", {}) if w not in (UNKNOWN, END)))
        self._place = {w: i for i, w in enumerate(self.vocabulary)}

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, order: int = 5, unit: Unit = "character", strength: float = 1.0, name: str = ""
    ) -> NGramLM:
        """Count the n-grams of `texts`, each with its end. Raises InputError."""
        check_integer("order", order)
        check_choice("unit", unit, ("character", "word"))
        check_positive("strength", strength, "a number > 0")
        if isinstance(texts, str):
            raise InputError("texts", "one text", "a list of texts")
        counts: dict[str, dict[str, int]] = {}
        some = False
        for text in texts:
            units = [*units_of(text, unit), END]
            some = True
            for at, w in enumerate(units):
                for k in range(min(order - 1, at) + 1):
                    row = counts.setdefault(_key(units[at - k : at]), {})
                    row[w] = row.get(w, 0) + 1
        if not some:
            raise InputError("texts", "none", "one text at least")
        return cls(counts, order=order, unit=unit, strength=strength, name=name)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(canonical_json(self._state()).encode()).hexdigest()

    def probabilities(self, history: list[str]) -> np.ndarray:
        """P(w | history) by equation (1): (V,) over `vocabulary`, summing to 1."""
        p = np.full(len(self.vocabulary), 1.0 / len(self.vocabulary))
        for k in range(min(self.order - 1, len(history)) + 1):
            row = self._counts.get(_key(history[len(history) - k :]))
            if row is None:
                break  # a history that was never seen adds nothing, and neither does a longer one
            p *= self.strength
            for w, count in row.items():
                p[self._place[w]] += count
            p /= sum(row.values()) + self.strength
        return p

    def save(self, path: Path | str) -> None:
        """Write the counts as JSON."""
        write_atomic(Path(path), canonical_json(self._state()))

    @classmethod
    def load(cls, path: Path | str) -> NGramLM:
        """Read what `save` wrote. Raises MissingError, InputError."""
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
            counts, order, unit, strength = (state[key] for key in ("counts", "order", "unit", "strength"))
            return cls(counts, order=order, unit=unit, strength=strength, name=state["name"])
        except FileNotFoundError as error:
            raise MissingError(f"path: there is no file {path}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError("path", str(path), f"a file that NGramLM.save wrote ({error})") from error

    def _state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "order": self.order,
            "unit": self.unit,
            "strength": self.strength,
            "counts": self._counts,
        }

    def _known(self, text: str) -> list[str]:
        return [w if w in self._place else UNKNOWN for w in units_of(text, self.unit)]

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        for index, request in enumerate(requests):
            assert isinstance(request.prompt, str)  # a conversation was refused: no capability "chat"
            prompt = self._known(request.prompt)
            yield index, [self._complete(prompt, request, stream) for stream in request.streams()]

    def _complete(self, prompt: list[str], request: GenRequest, stream: np.random.Generator) -> Generation:
        ids: list[int] = []
        logprobs: list[float] = []
        history, text = list(prompt), ""
        finish: Finish = "length"
        for _ in range(request.max_tokens):
            p = self.probabilities(history)
            allowed = p.copy()
            allowed[0] = 0.0  # nobody can write down what is unknown
            if request.temperature == 0:
                at = int(np.argmax(allowed))
            else:
                scaled = np.zeros_like(allowed)
                scaled[1:] = np.exp((np.log(allowed[1:]) - np.log(allowed[1:].max())) / request.temperature)
                at = draw(scaled / scaled.sum(), request.top_p, stream)
            ids.append(at)
            logprobs.append(float(np.log(p[at])))
            if self.vocabulary[at] == END:
                finish = "stop"
                break
            history.append(self.vocabulary[at])
            text += self.vocabulary[at]
            cut, stopped = cut_at_stop(text, request.stop)
            if stopped:
                text, finish = cut, "stop"
                break
        return Generation(text, len(ids), finish, tuple(ids), tuple(logprobs) if request.logprobs else None)

    def _score(self, pairs: list[tuple[str, str]]) -> list[LogLik]:
        found = []
        for context, continuation in pairs:
            history = self._known(context)
            logprobs, greedy = [], True
            for w in self._known(continuation):
                p = self.probabilities(history)
                logprobs.append(float(np.log(p[self._place[w]])))
                greedy = greedy and w != UNKNOWN and int(np.argmax(p[1:])) + 1 == self._place[w]
                history.append(w)
            found.append(LogLik(float(np.sum(logprobs)), len(logprobs), greedy, tuple(logprobs)))
        return found


def units_of(text: str, unit: Unit) -> list[str]:
    """Characters, or words with one space before them; "".join gives the text back. InputError for no text, or a NUL in it."""
    if not isinstance(text, str):
        raise InputError("texts", f"one of type {type(text).__name__}", "texts")
    if END in text:
        raise InputError("texts", f"a NUL character in {text!r}", "texts without it")
    return list(text) if unit == "character" else _WORD.findall(text)


def _key(history: list[str]) -> str:
    return json.dumps(history, ensure_ascii=False, separators=(",", ":"))
