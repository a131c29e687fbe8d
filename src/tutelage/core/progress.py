"""Progress with an ETA: a live bar on a terminal, a line now and then in a log, silence where nobody asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Task:
    """One piece of work of known length."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Report `amount` more done; `note` is a short state shown beside the bar."""


class Progress:
    """Where work reports to. This base class says nothing; see `shown`."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        yield Task()

    def print(self, text: str) -> None:
        """A line above the bars."""


QUIET = Progress()


class _Live(Progress):
    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        identity = self._bars.add_task(description, total=total, note="")
        try:
            yield _LiveTask(self._bars, identity)
        finally:
            if self._bars.tasks and len(self._bars.tasks) > 1:  # the outermost bar stays, so that the time can be read
                self._bars.remove_task(identity)

    def print(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False)


class _LiveTask(Task):
    def __init__(self, bars: Bars, identity: TaskID) -> None:
        self._bars, self._identity = bars, identity

    def advance(self, amount: float = 1, note: str = "") -> None:
        if note:
            self._bars.update(self._identity, advance=amount, note=note)
        else:
            self._bars.update(self._identity, advance=amount)


class _Lines(Progress):
    """For logs: a line at the start, at most one every `every` seconds, and one at the end."""

    def __init__(self, stream: TextIO, every: float) -> None:
        self._stream, self._every = stream, every

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        task = _LineTask(self, description, total, self._every)
        yield task
        task.say()

    def print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _LineTask(Task):
    def __init__(self, lines: _Lines, description: str, total: float, every: float) -> None:
        self._lines, self._description, self._total, self._every = lines, description, total, every
        self._done, self._note, self._start = 0.0, "", time.monotonic()
        self._last = self._start

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        if time.monotonic() - self._last >= self._every:
            self.say()

    def say(self) -> None:
        self._last = time.monotonic()
        spent = self._last - self._start
        left = f", ETA {spent * (self._total - self._done) / self._done:.0f} s" if 0 < self._done < self._total else ""
        share = f"{self._done:.0f}/{self._total:.0f}"
        self._lines.print(f"{self._description}: {share} in {spent:.0f} s{left}{'  ' + self._note if self._note else ''}")


@contextmanager
def shown(*, every: float = 10.0) -> Iterator[Progress]:
    """Progress on standard error: bars on a terminal, otherwise a line every `every` seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(sys.stderr, every)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console, refresh_per_second=4) as bars:
        yield _Live(bars)
