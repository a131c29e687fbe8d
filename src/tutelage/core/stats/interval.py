"""What every estimate carries: its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError

Side = Literal["two-sided", "lower", "upper"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval [lo, hi] in the units of what was measured.

    Two-sided, unless `method` ends in "-lower" or "-upper": then only that limit was estimated at `level`, and the other
    one is the end of the range of the values.
    """

    lo: float
    hi: float
    level: float = 0.95
    method: str = "unstated"


@dataclass(frozen=True, eq=False)
class Intervals:
    """Confidence intervals of m rows: `lo` and `hi` of shape (m,), each at `level` by itself, not all of them jointly."""

    lo: npt.NDArray[np.float64]
    hi: npt.NDArray[np.float64]
    level: float = 0.95
    method: str = "unstated"

    def __len__(self) -> int:
        return int(self.lo.size)

    def __getitem__(self, row: int) -> Interval:
        return Interval(float(self.lo[row]), float(self.hi[row]), self.level, self.method)


def checked_side(side: str) -> int:
    """How many limits share the error of the interval: 2 for "two-sided", 1 for "lower" or "upper"."""
    if side not in get_args(Side):
        raise InputError("side", side, "one of " + ", ".join(get_args(Side)))
    return 2 if side == "two-sided" else 1
