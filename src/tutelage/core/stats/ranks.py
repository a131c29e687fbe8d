"""Wilcoxon's signed ranks: a paired comparison that needs no normal differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, vector
from tutelage.core.stats.interval import Interval

EXACT_UP_TO = 50
MOST_UNITS = 4000  # n(n + 1)/2 averages of pairs are held at once: 64 MB


@dataclass(frozen=True)
class Wilcoxon:
    """Hodges-Lehmann estimate of the shift, its interval, and the signed-rank test of "symmetric around zero".

    `statistic` is the sum of the ranks of the positive differences. `interval` is None where so few units cannot reach
    the level (5 or fewer at 95 %). `n` counts all differences, `zeros` those of them that the test leaves out.
    """

    estimate: float
    interval: Interval | None
    statistic: float
    p_value: float
    n: int
    zeros: int


def wilcoxon(differences: npt.ArrayLike, level: float = 0.95) -> Wilcoxon:
    """Wilcoxon's (1945) signed-rank test of n paired differences, two-sided, with the Hodges-Lehmann (1963) estimate.

    Test: zeros are dropped (Wilcoxon's own rule), the rest is ranked by size, ties get their mid-rank. Up to 50 ranks
    the p-value is exact, with ties too (the law of the very mid-ranks under random signs); above, normal with the
    variance of the mid-ranks. p is 1 if all are zero. Estimate: the median of the averages (d_i + d_j)/2, i <= j, of
    *all* differences. Interval: the k-th smallest to the k-th largest average, k from the law without ties; covers at
    least at `level` for symmetric differences (exact up to n = 50), conservative where they tie. 1 <= n <= 4000.
    Raises `InputError`.
    """
    d = vector("differences", differences)
    level = checked_level(level)
    n = d.size
    if n > MOST_UNITS:
        raise InputError("differences", f"{n} units", f"at most {MOST_UNITS}; for more, paired_t or bootstrap are precise")
    half = d / 2.0
    averages = np.sort(np.concatenate([half[i:] + half[i] for i in range(n)]))
    nonzero = d[d != 0.0]
    if nonzero.size:
        ranks = scipy.stats.rankdata(np.abs(nonzero))
        statistic = float(ranks[nonzero > 0.0].sum())
        p_value = _p_value(ranks, statistic)
    else:
        statistic, p_value = 0.0, 1.0
    k = _rank(n, (1.0 - level) / 2.0)
    interval = Interval(float(averages[k - 1]), float(averages[-k]), level, "hodges-lehmann") if k else None
    return Wilcoxon(float(np.median(averages)), interval, statistic, p_value, n, n - nonzero.size)


def _p_value(ranks: npt.NDArray[np.float64], statistic: float) -> float:
    if ranks.size > EXACT_UP_TO:
        z = abs(statistic - ranks.sum() / 2.0) / math.sqrt(float((ranks**2).sum()) / 4.0)
        return min(1.0, 2.0 * float(scipy.stats.norm.sf(z)))
    law = _law(np.rint(2.0 * ranks).astype(int))  # twice the mid-ranks are whole numbers
    at = round(2.0 * statistic)
    return min(1.0, 2.0 * min(float(law[: at + 1].sum()), float(law[at:].sum())))


def _law(ranks: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """P(sum of a random half of `ranks` = s), s = 0 … sum: every rank is in it with probability 1/2."""
    law = np.zeros(int(ranks.sum()) + 1)
    law[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(law)
        shifted[rank:] = law[:-rank]
        law = (law + shifted) / 2.0
    return law


def _rank(n: int, tail: float) -> int:
    """The largest k with P(T < k) <= tail for the signed-rank sum T of n units without ties; 0 if there is none."""
    if n <= EXACT_UP_TO:
        # a sum of probabilities that is the tail itself may come out a rounding error above it
        return int(np.searchsorted(np.cumsum(_law(np.arange(1, n + 1))), tail * (1.0 + 1e-12), side="right"))
    mean, spread = n * (n + 1) / 4.0, math.sqrt(n * (n + 1) * (2 * n + 1) / 24.0)
    return max(0, math.floor(mean - float(scipy.stats.norm.isf(tail)) * spread))
