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
    if _fitting.get() and any(getattr(one, "split", "") == "test" for one in wrapped(data)):
        raise SplitError("data", "test data inside a fit", "training data, and validation data for selection")


def refuse_relabelling(split: str, wanted: str) -> None:
    """Raise SplitError if test data would get the name of another split while something is being fitted."""
    if _fitting.get() and split == "test" and wanted != "test":
        raise SplitError("split", f"test data renamed to {wanted!r} inside a fit", "test data that stay test data")


def wrapped(data: object) -> Iterator[object]:
    """`data` and every data set that it wraps: Subset and loaders (`.dataset`), ConcatDataset (`.datasets`)."""
    open_ends: list[object] = [data]
    seen: set[int] = set()
    while open_ends:
        one = open_ends.pop()
        if id(one) in seen:  # a wrapper of itself
            continue
        seen.add(id(one))
        yield one
        several = getattr(one, "datasets", ())
        inner = [getattr(one, "dataset", None), *(several if isinstance(several, list | tuple) else ())]
        open_ends += [part for part in inner if part is not None]


def split_of(data: object) -> str:
    """The split of whatever `data` wraps: "test" if any part is, the common one of all parts, else ""."""
    found = {split for one in wrapped(data) if isinstance(split := getattr(one, "split", None), str)}
    return "test" if "test" in found else found.pop() if len(found) == 1 else ""
