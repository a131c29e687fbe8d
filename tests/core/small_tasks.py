"""Small things to compute in workers, on Ray or not; imported by them, so it has no heavy imports."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def square(number: int) -> tuple[int, int]:
    return number, number * number


def broken() -> None:
    raise ImportError("no module named such")


def dies(folder: Path, times: int) -> str:
    """Killed in its first `times` attempts, as by the kernel when memory runs out."""
    attempt = len(list(folder.glob("attempt-*")))
    (folder / f"attempt-{attempt}").touch()
    if attempt < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"done in attempt {attempt}"


def waits(folder: Path, seconds: float) -> None:
    (folder / "started").touch()
    time.sleep(seconds)
    (folder / "ended").touch()


def which(shared: dict[str, int], number: int) -> tuple[int, int, int]:
    """A sum, the process that made it, and where in it the shared object lies."""
    return shared["add"] + number, os.getpid(), id(shared)


def refuses(number: int) -> None:
    from tutelage.core.errors import InputError

    raise InputError("number", number, "another")


def dies_as(folder: Path, number: int) -> int:
    """Task 1 is killed, after task 0 is done."""
    if number == 1:
        while not (folder / "0").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / str(number)).touch()
    return number
