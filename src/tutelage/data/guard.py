"""The split guard: data marked as test data cannot be read while something is fitted or selected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tutelage.core.errors import SplitError

_fitting: ContextVar[bool] = ContextVar("fitting", default=False)


@contextmanager
def training_only() -> Iterator[None]:
    """Inside this block, reading a set whose `split` is "test" raises SplitError."""
    token = _fitting.set(True)
    try:
        yield
    finally:
        _fitting.reset(token)


def refuse_test_data(data: object) -> None:
    """Raise SplitError if `data`, or a data set that it wraps (`.dataset`), is test data and something is being fitted."""
    if not _fitting.get():
        return
    open_ends: list[object] = [data]
    while open_ends:
        one = open_ends.pop()
        if getattr(one, "split", "") == "test":
            raise SplitError("data", "test data inside a fit", "training data, and validation data for selection")
        inner = [getattr(one, "dataset", None), *getattr(one, "datasets", ())]  # Subset and loaders; ConcatDataset
        open_ends += [part for part in inner if part is not None]
