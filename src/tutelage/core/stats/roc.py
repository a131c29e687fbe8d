"""Intervals of what a score's ROC and precision-recall curves are summed up by: AUROC, average precision, FPR at a TPR.

A score separates positives (n of them) from negatives (m). Samples are independent; the intervals stay inside [0, 1] and
do not shrink to a point where the separation seems perfect.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, integer, vector
from tutelage.core.stats.interval import Interval
from tutelage.core.stats.proportions import clopper_pearson


def auroc_interval(auroc: float, n: int, m: int, level: float = 0.95) -> Interval:
    """Score interval of an AUROC of n positives against m negatives (Newcombe 2006, Stat. Med. 25:559, method 5).

    The limits are the t with |t - AUROC| = z sqrt(V(t)), where

        V(t) = t (1 - t) [1 + N (1 - t) / (2 - t) + N t / (1 + t)] / (n m),   N = (n + m) / 2 - 1.             (1)

    This is the variance of Hanley & McNeil (1982) at t, made symmetric in n and m. auroc in [0, 1]. Raises `InputError`.
    """
    area, n, m, level = _share("auroc", auroc), _count("n", n), _count("m", m), checked_level(level)
    z, pooled = float(scipy.stats.norm.isf((1.0 - level) / 2.0)), (n + m) / 2.0 - 1.0

    def excess(t: float) -> float:
        bracket = 1.0 + pooled * (1.0 - t) / (2.0 - t) + pooled * t / (1.0 + t)
        return (t - area) ** 2 - z**2 * t * (1.0 - t) * bracket / (n * m)

    # the excess is at least 0 at the ends of [0, 1] and below 0 at the estimate, or just beside it where that is an end
    inner = min(max(area, 1e-9), 1.0 - 1e-9)
    lo = 0.0 if area == 0.0 else float(scipy.optimize.brentq(excess, 0.0, inner))
    hi = 1.0 if area == 1.0 else float(scipy.optimize.brentq(excess, inner, 1.0))
    return Interval(lo, hi, level, "newcombe-auroc")


def average_precision_interval(precision: float, n: int, level: float = 0.95) -> Interval:
    """Interval of an average precision (AUPR) with n positives, as that of a share of n (Boyd, Eng & Page 2013).

    Their binomial interval, with Wilson's limits instead of Wald's; approximate. Raises `InputError`.
    """
    p, n, level = _share("precision", precision), _count("n", n), checked_level(level)
    z2 = float(scipy.stats.norm.isf((1.0 - level) / 2.0)) ** 2
    centre, spread = p + z2 / (2 * n), math.sqrt(z2) * math.sqrt(p * (1.0 - p) / n + z2 / (4.0 * n * n))
    lo, hi = (centre - spread) / (1.0 + z2 / n), (centre + spread) / (1.0 + z2 / n)
    return Interval(min(p, max(0.0, lo)), max(p, min(1.0, hi)), level, "wilson-average-precision")


def fpr_interval(positives: npt.ArrayLike, negatives: npt.ArrayLike, tpr: float, level: float = 0.95) -> Interval:
    """Interval of the false-positive rate at a true-positive rate, with the threshold's own uncertainty in it.

    positives (n,), negatives (m,): scores, higher is more positive. With error a = 1 - level: the threshold lies between
    two order statistics of the positives (binomial, error a/2), and at each of the two the share of negatives at or above
    it has a Clopper-Pearson limit (error a/2). So it covers at least at `level`. Raises `InputError`.
    """
    inside, outside, level = np.sort(vector("positives", positives))[::-1], vector("negatives", negatives), checked_level(level)
    if not isinstance(tpr, float | int) or not 0.0 < tpr < 1.0:
        raise InputError("tpr", tpr, "a rate between 0 and 1, such as 0.95")
    half, n = (1.0 - level) / 2.0, inside.size
    # how many of the n lie at or above the true threshold: Binomial(n, tpr)
    fewest = int(scipy.stats.binom.ppf(half / 2.0, n, tpr))
    most = int(scipy.stats.binom.isf(half / 2.0, n, tpr)) + 1
    strict = inside[fewest - 1] if fewest > 0 else math.inf
    loose = inside[most - 1] if most <= n else -math.inf
    lo = clopper_pearson(int((outside >= strict).sum()), outside.size, 1.0 - half).lo
    hi = clopper_pearson(int((outside >= loose).sum()), outside.size, 1.0 - half).hi
    return Interval(lo, hi, level, "order-statistic-clopper-pearson")


def _share(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int | np.number) or not 0.0 <= value <= 1.0:
        raise InputError(argument, value, "a number from 0 to 1")
    return float(value)


def _count(argument: str, value: int) -> int:
    n = integer(argument, value)
    if n < 1:
        raise InputError(argument, n, "at least one sample")
    return n
