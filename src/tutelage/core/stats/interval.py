"""What every estimate carries: its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval [lo, hi] in the units of what was measured."""

    lo: float
    hi: float
    level: float = 0.95
    method: str = "unstated"
