"""Small things to compute on Ray; imported by its workers, so it has no heavy imports."""

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
