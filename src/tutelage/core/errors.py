"""Every error a user can cause or meet. Each message is one sentence that says what to do."""

from __future__ import annotations


class TutelageError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with `exit_code`."""

    exit_code = 2


class InputError(TutelageError, ValueError):
    """An argument is wrong: names it, what was got and what was wanted."""

    def __init__(self, argument: str, got: object, wanted: str) -> None:
        super().__init__(f"{argument}: got {_short(got)}, wanted {wanted}")
        self.argument = argument


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


def _short(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
