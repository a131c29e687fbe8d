"""Learning-rate schedules: (step, total steps) -> factor on every base learning rate."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from tutelage.core.errors import InputError

Schedule = Callable[[int, int], float]


def constant(step: int, total: int) -> float:
    return 1.0


def warmup_cosine(warmup: float) -> Schedule:
    """A linear rise over the first `warmup` share of the steps, in [0, 1], then half a cosine down to 0."""
    if not 0 <= warmup <= 1:
        raise InputError("warmup", warmup, "a share of the run, from 0 to 1")

    def factor(step: int, total: int) -> float:
        rise = max(1, round(warmup * total)) if warmup > 0 else 0
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))

    return factor


def multistep(milestones: Sequence[float], gamma: float = 0.1) -> Schedule:
    """`gamma` per milestone passed; milestones are shares of the run, such as 215/300, 260/300, 285/300."""
    if any(not 0 <= mark <= 1 for mark in milestones):
        raise InputError("milestones", list(milestones), "shares of the run, from 0 to 1, such as 215/300")
    marks = sorted(milestones)

    def factor(step: int, total: int) -> float:
        return float(gamma ** bisect_right(marks, step / total))

    return factor
