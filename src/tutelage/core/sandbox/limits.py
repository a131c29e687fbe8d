"""What a program may use, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from tutelage.core.errors import InputError

Status = Literal["passed", "failed", "timeout", "memory", "output", "exited", "crashed"]

_LEAST = {"mem_mb": 64, "procs": 1, "file_mb": 1, "disk_mb": 1, "files": 16, "output_kb": 1}


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    cpu_s: seconds of processor time of a process. wall_s: seconds from its start until it is killed. mem_mb: address space of
    a process in MB; all together may take `procs` times as much. procs: processes and threads at once, the first included.
    file_mb: the largest file; disk_mb: all files together (where namespaces hold the program). files: open descriptors.
    output_kb: what is kept of each of stdout and stderr; a program that prints 256 times as much is ended.
    """

    cpu_s: float = 5.0
    wall_s: float = 8.0
    mem_mb: int = 512
    procs: int = 8
    file_mb: int = 1
    disk_mb: int = 16
    files: int = 64
    output_kb: int = 64

    def __post_init__(self) -> None:
        for name in ("cpu_s", "wall_s"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not (math.isfinite(value) and 0 < value <= 86400)
            ):
                raise InputError(f"limits.{name}", value, "seconds above 0, at most a day")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1 << 20:
                raise InputError(f"limits.{name}", value, f"a whole number of at least {least}")

    def relative_to(self, reference_s: float, *, factor: float = 10.0, least_s: float = 1.0) -> Limits:
        """Limits for a task whose reference solution takes `reference_s` seconds: `factor` times that, but not below `least_s`.

        `wall_s` stays an upper limit. A slow machine slows the reference too, so verdicts depend less on the machine.
        """
        if not (math.isfinite(reference_s) and reference_s >= 0):
            raise InputError("reference_s", reference_s, "seconds, 0 or more")
        if not (factor > 0 and least_s > 0):
            raise InputError("factor, least_s", (factor, least_s), "numbers above 0")
        return replace(self, wall_s=min(self.wall_s, max(least_s, factor * reference_s)))

    def as_dict(self) -> dict[str, float]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True)
class Isolation:
    """What keeps a program to itself. layers: name -> how; missing: name -> why not.

    Names: files, network, processes, ipc, user, syscalls, limits.
    """

    layers: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.missing

    def __str__(self) -> str:
        """`isolated: files, network, …; not isolated: user (why)`."""
        text = f"isolated: {', '.join(self.layers) or 'nothing'}"
        if self.missing:
            text += "; not isolated: " + ", ".join(f"{name} ({why})" for name, why in self.missing.items())
        return text


@dataclass(frozen=True)
class ExecResult:
    """How a program ended.

    status: passed (it, and its tests, came to their end) · failed (an exception, a failed assertion, sys.exit) · timeout (of
    wall clock or processor) · memory · output (it floods) · exited (it left without a verdict: os._exit, exec, closed
    descriptors) · crashed (ended by a signal). error: one line, empty if passed. stdout, stderr: UTF-8, what is no UTF-8
    replaced, cut at `output_kb`; truncated says so. wall_s: seconds from its start to its end. isolation: what held it.
    """

    status: Status
    stdout: str
    stderr: str
    wall_s: float
    isolation: Isolation
    error: str = ""
    truncated: bool = False

    @property
    def passed(self) -> bool:
        return self.status == "passed"
