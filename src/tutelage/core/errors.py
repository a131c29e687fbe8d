"""Every error a user can cause or meet. Each message is one sentence that says what to do."""

from __future__ import annotations

import errno
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

# what to do about an OSError; after each of them the same call goes on from what was finished
_FULL = "free some space there (or choose another folder), then run it again"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "files may not grow so large there: choose another folder or raise the limit (ulimit -f), then run it again",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.EIO: "the disk fails: choose another folder",
}


def advice(error: OSError) -> str:
    """What to do about a disk that does not take what is written; nothing for other errors."""
    return _ADVICE.get(error.errno or 0, "")


def short_path(path: object, limit: int = 200) -> str:
    """A path as a sentence can hold it: of a long one the end."""
    text = str(path)
    return text if len(text) <= limit else f"…{text[-limit:]}"


class TutelageError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with `exit_code`."""

    exit_code = 2

    def __str__(self) -> str:
        """On one line, also where it tells what another library said on several."""
        return " ".join(super().__str__().split())

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come home from worker processes, whatever arguments they were made of."""
        return _again, (type(self), str(self), {**vars(self), **({"errno": self.errno} if isinstance(self, OSError) else {})})


def _again(kind: type[TutelageError], message: str, state: dict[str, Any]) -> TutelageError:
    error = kind.__new__(kind)
    error.args = (message,)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class InputError(TutelageError, ValueError):
    """An argument is wrong: names it, what was got and what was wanted."""

    def __init__(self, argument: str, got: object, wanted: str) -> None:
        super().__init__(f"{argument}: got {_short(got)}, wanted {wanted}")
        self.argument = argument


@contextmanager
def named(argument: str) -> Iterator[None]:
    """What is refused inside is told of `argument`, under which the user knows it."""
    try:
        yield
    except (InputError, MissingError) as error:
        # "data", "path" and what is called otherwise there name the same thing; a label or a size is a part of it
        text = str(error)
        part = text.partition(": ")[0]
        error.args = (f"{argument}: {text if part in ('image', 'label', 'size') else text.removeprefix(f'{part}: ')}",)
        if isinstance(error, InputError):
            error.argument = argument
        raise


class MissingError(TutelageError):
    """Something that must be on disk or installed is not there; the message says how to get it."""


class SplitError(InputError):
    """Test data was about to be used for fitting or selection."""


class AuditError(TutelageError):
    """The sanity check of an audit failed: its numbers would mean nothing."""


class AttackError(TutelageError):
    """An attack broke its own contract (left its budget or the input range)."""


class ModelChanged(TutelageError):
    """A model that had to stay fixed changed while it was used."""


class QueryBudgetExceeded(TutelageError):
    """A teacher was asked more often than its budget allows."""


class WriteError(TutelageError, OSError):
    """A file could not be written: a full disk, a read-only folder. Nothing that was there before is lost."""

    def __init__(self, path: object, error: OSError) -> None:
        reason = os.strerror(error.errno) if error.errno else str(error)
        super().__init__(f"cannot write {short_path(path)}: {reason}; {advice(error) or 'choose another folder'}")
        self.errno = error.errno


class CheckpointError(TutelageError):
    """A checkpoint is truncated, foreign or does not fit what is being resumed."""


class NotFinite(TutelageError):
    """Training met a NaN or an infinity. `step` is the optimiser step that was not taken."""

    exit_code = 3

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"training stopped at step {step}: {what} is not finite; the model holds the last good weights")
        self.step = step


class Interrupted(TutelageError):
    """Stopped by the user at a clean point; what was done is on disk."""

    exit_code = 130


class _Repr(reprlib.Repr):
    """As repr, but never more than is shown: the aliases of a YAML file can make a list of a billion entries of a few lines."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = self.maxdict = 60
        self.maxstring = self.maxlong = self.maxother = 400

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In the dictionary's own order."""
        if level <= 0 and x:
            return "{...}"
        pairs = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in islice(x.items(), self.maxdict)
        ]
        return "{" + ", ".join([*pairs, *(["..."] if len(x) > self.maxdict else [])]) + "}"


_REPR = _Repr()


def _short(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) else _REPR.repr(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
