"""Where programs run: settled once by the zygote, read by each warden and each program."""

from __future__ import annotations

from dataclasses import dataclass, field

INNER_UID = 1000  # of a program, inside the user namespace


@dataclass
class Place:
    """Where and as whom programs run.

    confined: namespaces hold them. uid: the user to become (None: stay). work: their folder, or the folder of their folders.
    layers, missing: what is isolated and how; what is not and why. outer: what holds the zygote itself, if anything.
    """

    confined: bool = False
    uid: int | None = None
    work: str = "/tmp"
    layers: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    outer: str = ""
