"""Shares: one proportion, two models judged on the same items, and at least one right answer of k."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import booleans, checked_level, counts, integer, same_length
from tutelage.core.stats.interval import Interval


@dataclass(frozen=True)
class McNemar:
    """Items that only A (`b`) and only B (`c`) got right, and the exact two-sided p-value of "both equally likely"."""

    b: int
    c: int
    p_value: float


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion, (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927).

    Inside [0, 1] and around p = successes / n, also for 0 and n successes. Raises `InputError`.
    """
    successes, n = counts(successes, n)
    return _wilson(successes, n, checked_level(level))


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Exact interval of a proportion from beta quantiles; covers at least at `level` (Clopper & Pearson 1934).

    From Beta(a/2; k, n-k+1), or 0 at k = 0, to Beta(1-a/2; k+1, n-k), or 1 at k = n; a = 1 - level, k successes.
    Raises `InputError`.
    """
    k, n = counts(successes, n)
    tail = (1.0 - checked_level(level)) / 2.0
    lo = 0.0 if k == 0 else float(scipy.stats.beta.ppf(tail, k, n - k + 1))
    hi = 1.0 if k == n else float(scipy.stats.beta.isf(tail, k + 1, n - k))
    return Interval(lo, hi, float(level), "clopper-pearson")


def mcnemar(a_correct: npt.ArrayLike, b_correct: npt.ArrayLike) -> McNemar:
    """Exact test that two models judged on the same items are equally often right (McNemar 1947, exact form).

    Of the b + c items on which they disagree, b ~ Binomial(b + c, 1/2): p = min(1, 2 P(X <= min(b, c))), and 1 if they
    never disagree. Both arguments are boolean, one entry an item. Raises `InputError`.
    """
    _, b, c, _ = _paired_table(a_correct, b_correct)
    p_value = min(1.0, 2.0 * float(scipy.stats.binom.cdf(min(b, c), b + c, 0.5)))
    return McNemar(b, c, p_value)


def newcombe_paired(a_correct: npt.ArrayLike, b_correct: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Interval of accuracy(A) - accuracy(B) on the same items (Newcombe 1998, Stat. Med. 17:2635, method 10).

    Adds the distances to the two Wilson limits in squares, less their covariance through the continuity-corrected phi
    of the 2x2 table. Inside [-1, 1]. Both arguments are boolean, one entry an item. Raises `InputError`.
    """
    both, only_a, only_b, neither = _paired_table(a_correct, b_correct)
    level = checked_level(level)
    n = both + only_a + only_b + neither
    right_a, right_b = both + only_a, both + only_b
    p_a, p_b, difference = right_a / n, right_b / n, (only_a - only_b) / n
    wilson_a, wilson_b = _wilson(right_a, n, level), _wilson(right_b, n, level)

    excess = both * neither - only_a * only_b
    corrected = float(excess) if excess < 0 else max(excess - n / 2.0, 0.0)
    margins = right_a * (n - right_a) * right_b * (n - right_b)
    phi = corrected / math.sqrt(margins) if margins else 0.0

    def distance(from_a: float, from_b: float) -> float:
        return math.sqrt(max(0.0, from_a**2 - 2.0 * phi * from_a * from_b + from_b**2))

    lo = max(-1.0, difference - distance(p_a - wilson_a.lo, wilson_b.hi - p_b))
    hi = min(1.0, difference + distance(wilson_a.hi - p_a, p_b - wilson_b.lo))
    return Interval(lo, hi, level, "newcombe-paired")


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int) -> npt.NDArray[np.float64]:
    """Unbiased estimate of "at least one of k answers is right" from n answers, c of them right (Chen et al. 2021).

    1 - C(n - c, k) / C(n, k), which is 1 where n - c < k (arXiv 2107.03374, equation 1). One entry for each problem:
    `n` and `c` are integers or integer arrays that broadcast against each other, 0 <= c <= n and 1 <= k <= n. Summed as
    logarithms of 1 - c / (n - j), j < k, so neither large n nor small shares lose digits. Returns an array of the
    broadcast shape, values in [0, 1]; its mean over problems is the usual number. Raises `InputError`.
    """
    answers, right, k = _integers("n", n), _integers("c", c), integer("k", k)
    try:
        answers, right = np.broadcast_arrays(answers, right)
    except ValueError:
        raise InputError("c", f"shape {right.shape}", f"one that fits the shape {answers.shape} of n") from None
    if (right < 0).any() or (right > answers).any():
        raise InputError("c", f"counts from {right.min()} to {right.max()}", "counts from 0 to n")
    if not 1 <= k <= answers.min():
        raise InputError("k", k, f"a number from 1 to the smallest n, {answers.min()}")
    log_all_wrong = np.zeros(answers.shape)
    certain = answers - right < k
    for j in range(k):
        share = np.where(certain, 0.0, right / (answers - j))
        log_all_wrong += np.log1p(-share)
    estimate: npt.NDArray[np.float64] = np.where(certain, 1.0, 0.0 - np.expm1(log_all_wrong))
    return estimate


def _integers(argument: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise InputError(argument, values, "integers") from None
    if array.dtype.kind not in "iu" or array.size == 0:
        raise InputError(argument, f"{array.dtype} of shape {array.shape}", "an integer or a non-empty array of integers")
    return array.astype(np.int64)


def _wilson(successes: int, n: int, level: float) -> Interval:
    z = float(scipy.stats.norm.isf((1.0 - level) / 2.0))
    p = successes / n
    scale = 1.0 + z * z / n
    centre = (p + z * z / (2.0 * n)) / scale
    half = z * math.sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n)) / scale
    lo, hi = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return Interval(lo, hi, level, "wilson")


def _paired_table(a_correct: npt.ArrayLike, b_correct: npt.ArrayLike) -> tuple[int, int, int, int]:
    """How many items both, only A, only B and neither got right."""
    a, b = booleans("a_correct", a_correct), booleans("b_correct", b_correct)
    same_length(a, b, "a_correct", "b_correct")
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    return both, only_a, only_b, a.size - both - only_a - only_b
