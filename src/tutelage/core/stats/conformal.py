"""The order statistic of split conformal prediction, and what coverage it gives."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, integer
from tutelage.core.stats.interval import Interval

# A float stands for the simplest fraction near it: 1 - 0.9 is meant as 1/10.
MAX_DENOMINATOR = 10**9


def conformal_rank(n: int, alpha: float | Fraction) -> int:
    """ceil((n + 1)(1 - alpha)), in exact arithmetic: which of n ordered scores is the conformal quantile.

    n >= 1 scores; 0 < alpha < 1 is the miscoverage. A float alpha is read as the nearest fraction with a denominator of
    at most 1e9, so that rounding cannot move the rank: 0.1, 1 - 0.9 and Fraction(1, 10) are the same. A rank of n + 1
    means that n scores are too few for this alpha. Raises `InputError`.
    """
    n = integer("n", n)
    if n < 1:
        raise InputError("n", n, "at least one calibration score")
    return max(1, math.ceil((n + 1) * (1 - _fraction(alpha))))


def conformal_quantile(scores: npt.ArrayLike, alpha: float | Fraction) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest of n calibration scores; infinity where that rank is n + 1.

    If the n scores and a new one are exchangeable, the new one is at most this quantile with a probability of at least
    1 - alpha, and of at most 1 - alpha + 1/(n + 1) without ties (Vovk et al. 2005; Lei et al. 2018, arXiv 1604.04173,
    theorem 2.2). `scores` (n,), larger is stranger; infinities are allowed, NaN is not. Raises `InputError`.
    """
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("scores", scores, "a sequence of numbers") from None
    if array.ndim != 1 or array.size == 0:
        raise InputError("scores", f"shape {array.shape}", "a one-dimensional, non-empty sequence")
    if np.isnan(array).any():
        raise InputError("scores", "NaN", "scores that can be ordered")
    rank = conformal_rank(array.size, alpha)
    return math.inf if rank > array.size else float(np.partition(array, rank - 1)[rank - 1])


def conformal_coverage(n: int, alpha: float | Fraction, level: float = 0.95) -> Interval:
    """Between which values the true coverage of a conformal quantile lies, over the draw of its n calibration scores.

    For continuous scores the coverage given the calibration set is Beta(k, n + 1 - k) with k the conformal rank (Vovk
    2012, arXiv 1209.2673); [lo, hi] holds `level` of it, with equal tails. Ties only raise the coverage. [1, 1] where
    the quantile is infinite. Raises `InputError`.
    """
    k, level = conformal_rank(n, alpha), checked_level(level)
    if k > n:
        return Interval(1.0, 1.0, level, "conformal-beta")
    tail = (1.0 - level) / 2.0
    lo, hi = float(scipy.stats.beta.ppf(tail, k, n + 1 - k)), float(scipy.stats.beta.isf(tail, k, n + 1 - k))
    return Interval(lo, hi, level, "conformal-beta")


def _fraction(alpha: float | Fraction) -> Fraction:
    wanted = "a miscoverage between 0 and 1, such as 0.1"
    if isinstance(alpha, Fraction):
        exact = alpha
    elif isinstance(alpha, float | np.floating) and math.isfinite(alpha):
        exact = Fraction(float(alpha))
        if 0 < exact < 1:  # within 0.5e-9 of 0 or 1 it becomes 0 or 1: the rank is n + 1 or 1 for both, if n < 1e9
            return exact.limit_denominator(MAX_DENOMINATOR)
    else:
        raise InputError("alpha", alpha, wanted)
    if not 0 < exact < 1:
        raise InputError("alpha", alpha, wanted)
    return exact
