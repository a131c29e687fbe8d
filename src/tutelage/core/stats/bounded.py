"""Means of bounded values, without any assumption on their distribution: Hoeffding and empirical Bernstein.

Both hold for every n and for all independent values in [lo, hi], at least at `level`. Hoeffding needs the mean only;
empirical Bernstein is the shorter one where the spread is small beside the range and n is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, finite, integer, matrix, vector
from tutelage.core.stats.interval import Interval, Intervals, Side, checked_side

Array = npt.NDArray[np.float64]
Radius = Callable[[Array, float, float, int], Array]  # values (m, n), range, level, limits -> half widths (m,)


def hoeffding(
    values: npt.ArrayLike, *, lo: float = 0.0, hi: float = 1.0, level: float = 0.95, side: Side = "two-sided"
) -> Interval:
    """Interval of the mean of n >= 1 independent values in [lo, hi] (Hoeffding 1963, theorem 2).

    mean ± (hi - lo) sqrt(ln(2/d) / 2n) with d = 1 - level, cut to [lo, hi]. One-sided limits ("lower", "upper") have
    ln(1/d) in place of ln(2/d). Raises `InputError`.
    """
    return _rows(vector("values", values)[None], lo, hi, level, side, _hoeffding, "hoeffding")[0]


def hoeffding_mean(
    mean: float, n: int, *, lo: float = 0.0, hi: float = 1.0, level: float = 0.95, side: Side = "two-sided"
) -> Interval:
    """`hoeffding` where only the mean of the n values is known. Raises `InputError`."""
    lo, hi = _range(lo, hi)
    mean, n = finite("mean", mean), integer("n", n)
    if not lo <= mean <= hi:
        raise InputError("mean", mean, f"a mean of values in [lo, hi] = [{lo:g}, {hi:g}]")
    if n < 1:
        raise InputError("n", n, "at least one value")
    limits, level = checked_side(side), checked_level(level)
    return _cut(np.array([mean]), np.array([_hoeffding_radius(n, hi - lo, level, limits)]), lo, hi, level, side, "hoeffding")[0]


def hoeffding_rows(
    values: npt.ArrayLike, *, lo: float = 0.0, hi: float = 1.0, level: float = 0.95, side: Side = "two-sided"
) -> Intervals:
    """`hoeffding` of every row of `values` (m, n). Each row has its interval at `level`: for all rows jointly, divide
    1 - level by m first (Bonferroni). Raises `InputError`.
    """
    return _rows(matrix("values", values), lo, hi, level, side, _hoeffding, "hoeffding")


def empirical_bernstein(
    values: npt.ArrayLike, *, lo: float = 0.0, hi: float = 1.0, level: float = 0.95, side: Side = "two-sided"
) -> Interval:
    """Interval of the mean of n >= 2 independent values in [lo, hi] (Maurer & Pontil 2009, arXiv 0907.3740, theorem 4).

    One-sided ("lower", "upper"): mean ∓ (sqrt(2 V ln(2/d) / n) + 7 (hi - lo) ln(2/d) / 3(n - 1)) with d = 1 - level and
    V the variance with n - 1 in its denominator. "two-sided" is the union of both at d/2, so it has ln(4/d). Cut to
    [lo, hi]. Raises `InputError`.
    """
    return _rows(vector("values", values)[None], lo, hi, level, side, _bernstein, "empirical-bernstein")[0]


def empirical_bernstein_rows(
    values: npt.ArrayLike, *, lo: float = 0.0, hi: float = 1.0, level: float = 0.95, side: Side = "two-sided"
) -> Intervals:
    """`empirical_bernstein` of every row of `values` (m, n); each row by itself, as in `hoeffding_rows`."""
    return _rows(matrix("values", values), lo, hi, level, side, _bernstein, "empirical-bernstein")


def _rows(values: Array, lo: float, hi: float, level: float, side: Side, radius: Radius, method: str) -> Intervals:
    lo, hi = _range(lo, hi)
    level, limits = checked_level(level), checked_side(side)
    smallest, largest = float(values.min()), float(values.max())
    if smallest < lo or largest > hi:
        raise InputError("values", f"values from {smallest:g} to {largest:g}", f"values in [lo, hi] = [{lo:g}, {hi:g}]")
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(1)
        half = radius(values, hi - lo, level, limits)
    if not (np.isfinite(mean).all() and np.isfinite(half).all()):
        raise InputError("values", "a mean or spread that overflows", "values small enough to average")
    mean = np.clip(mean, values.min(1), values.max(1))  # that of equal values may round to a little outside of them
    return _cut(mean, half, lo, hi, level, side, method)


def _cut(mean: Array, radius: Array, lo: float, hi: float, level: float, side: Side, method: str) -> Intervals:
    low = np.full_like(mean, lo) if side == "upper" else np.maximum(lo, mean - radius)
    high = np.full_like(mean, hi) if side == "lower" else np.minimum(hi, mean + radius)
    return Intervals(low, high, level, method if side == "two-sided" else f"{method}-{side}")


def _hoeffding(values: Array, width: float, level: float, limits: int) -> Array:
    return np.full(values.shape[0], _hoeffding_radius(values.shape[1], width, level, limits))


def _hoeffding_radius(n: int, width: float, level: float, limits: int) -> float:
    return width * math.sqrt(math.log(limits / (1.0 - level)) / (2.0 * n))


def _bernstein(values: Array, width: float, level: float, limits: int) -> Array:
    n = values.shape[1]
    if n < 2:
        raise InputError("values", "1 value", "at least 2 values for a variance (hoeffding takes 1)")
    log = math.log(2.0 * limits / (1.0 - level))
    equal = values.min(1) == values.max(1)
    variance: Array = np.where(equal, 0.0, values.var(1, ddof=1))
    radius: Array = np.sqrt(2.0 * variance * log / n) + 7.0 * width * log / (3.0 * (n - 1))
    return radius


def _range(lo: float, hi: float) -> tuple[float, float]:
    lo, hi = finite("lo", lo), finite("hi", hi)
    if not lo < hi or not math.isfinite(hi - lo):
        raise InputError("hi", hi, f"more than lo = {lo:g}")
    return lo, hi
