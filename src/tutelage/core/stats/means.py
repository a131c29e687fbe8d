"""Means of independent units, by Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, same_length, vector
from tutelage.core.stats.interval import Interval


@dataclass(frozen=True)
class PairedT:
    """A mean paired difference, its interval, the two-sided p-value of "no difference" and the number of pairs."""

    difference: float
    interval: Interval
    p_value: float
    n: int


def paired_t(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> PairedT:
    """Student's paired t: d = mean(a - b), interval d ± t(n-1) * s / sqrt(n), two-sided p (Student 1908).

    `a[i]` and `b[i]` are the same unit under two methods; n >= 2. If all differences are equal, the interval has zero
    width and p is 1 (all zero) or 0. Raises `InputError`.
    """
    first, second = vector("a", a), vector("b", b)
    same_length(first, second)
    with np.errstate(over="ignore"):
        differences = first - second
    mean, error, interval = student_t("a", differences, level, "paired-t")
    n = differences.size
    if error == 0.0:
        return PairedT(mean, interval, 1.0 if mean == 0.0 else 0.0, n)
    return PairedT(mean, interval, float(2.0 * scipy.stats.t.sf(abs(mean) / error, n - 1)), n)


def mean_t(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, Interval]:
    """Mean of n >= 2 units and its Student-t interval, mean ± t(n-1) * s / sqrt(n). Raises `InputError`."""
    mean, _, interval = student_t("values", vector("values", values), level, "student-t")
    return mean, interval


def student_t(argument: str, values: npt.NDArray[np.float64], level: float, method: str) -> tuple[float, float, Interval]:
    """Mean, standard error and interval. Equal values have an error of exactly zero, whatever their mean rounds to."""
    level = checked_level(level)
    n = values.size
    if n < 2:
        raise InputError(argument, "1 unit", "at least 2 independent units")
    with np.errstate(over="ignore", invalid="ignore"):
        if values.min() == values.max():
            mean, error = float(values[0]), 0.0
        else:
            mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
        half = float(scipy.stats.t.isf((1.0 - level) / 2.0, n - 1)) * error
    interval = Interval(mean - half, mean + half, level, method)
    if not (math.isfinite(interval.lo) and math.isfinite(interval.hi)):
        raise InputError(argument, "a mean or spread that overflows", "values small enough to average")
    return mean, error, interval
