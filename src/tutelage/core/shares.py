"""Which rows of a batch this process computes, when several processes compute one batch together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Rows start..stop of a batch of `whole` rows; never empty.

    weight: what the mean over these rows counts in the mean over the processes, so that the result is the mean over
    the whole batch: processes * rows / whole. A process for which no row is left repeats one at weight 0.
    """

    start: int
    stop: int
    whole: int
    processes: int
    weight: float

    @property
    def rows(self) -> int:
        return self.stop - self.start


def share_of(whole: int, rank: int, processes: int) -> Share:
    """The share of process `rank` in a batch of `whole` >= 1 rows: contiguous, and equal up to one row."""
    start, stop = whole * rank // processes, whole * (rank + 1) // processes
    weight = processes * (stop - start) / whole
    if start == stop:
        start, stop = min(start, whole - 1), min(start, whole - 1) + 1
    return Share(start, stop, whole, processes, weight)


_current: ContextVar[Share | None] = ContextVar("share", default=None)


def current_share() -> Share | None:
    """The share that this process computes now; None outside a training of several processes."""
    return _current.get()


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Inside the block, noise and meters are those of the whole batch."""
    token = _current.set(share)
    try:
        yield
    finally:
        _current.reset(token)


def rows_of_all(rows: int) -> int:
    """How many rows all processes handle together while this one handles `rows`."""
    share = _current.get()
    if share is None:
        return rows
    return share.whole if rows == share.rows else rows * share.processes
