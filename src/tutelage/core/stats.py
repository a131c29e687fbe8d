"""Intervals, tests and verdicts: the only place where a number of this project gets its uncertainty.

Every function takes plain numbers or one-dimensional sequences with one entry for each independent unit (a seed, an
image, a trial), returns Python floats that are always finite, and raises `InputError` for what it cannot use.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError

BOOTSTRAP_MIN_UNITS = 20
BOOTSTRAP_BATCH_VALUES = 1_000_000

Kind = Literal["superiority", "noninferiority", "threshold"]
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval [lo, hi] in the units of what was measured."""

    lo: float
    hi: float
    level: float = 0.95
    method: str = "unstated"


@dataclass(frozen=True)
class PairedT:
    """A mean paired difference, its interval, the two-sided p-value of "no difference" and the number of pairs."""

    difference: float
    interval: Interval
    p_value: float
    n: int


@dataclass(frozen=True)
class McNemar:
    """Items that only A (`b`) and only B (`c`) got right, and the exact two-sided p-value of "both equally likely"."""

    b: int
    c: int
    p_value: float


@dataclass(frozen=True)
class Decision:
    """The verdict on one claim with the numbers it rests on."""

    difference: float
    interval: Interval
    ci_method: str
    n_units: int
    verdict: Verdict


def paired_t(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> PairedT:
    """Student's paired t: d = mean(a - b), interval d ± t(n-1) * s / sqrt(n), two-sided p (Student 1908).

    `a[i]` and `b[i]` are the same unit under two methods; n >= 2. If all differences are equal, the interval has zero
    width and p is 1 (all zero) or 0. Raises `InputError`.
    """
    first, second = _vector("a", a), _vector("b", b)
    _same_length(first, second)
    with np.errstate(over="ignore"):
        differences = first - second
    mean, error, interval = _student_t("a", differences, level, "paired-t")
    n = differences.size
    if error == 0.0:
        return PairedT(mean, interval, 1.0 if mean == 0.0 else 0.0, n)
    return PairedT(mean, interval, float(2.0 * scipy.stats.t.sf(abs(mean) / error, n - 1)), n)


def mean_t(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, Interval]:
    """Mean of n >= 2 units and its Student-t interval, mean ± t(n-1) * s / sqrt(n). Raises `InputError`."""
    mean, _, interval = _student_t("values", _vector("values", values), level, "student-t")
    return mean, interval


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion, (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927).

    Inside [0, 1] and around p = successes / n, also for 0 and n successes. Raises `InputError`.
    """
    successes, n = _counts(successes, n)
    return _wilson(successes, n, _level(level))


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Exact interval of a proportion from beta quantiles; covers at least at `level` (Clopper & Pearson 1934).

    From Beta(a/2; k, n-k+1), or 0 at k = 0, to Beta(1-a/2; k+1, n-k), or 1 at k = n; a = 1 - level, k successes.
    Raises `InputError`.
    """
    k, n = _counts(successes, n)
    tail = (1.0 - _level(level)) / 2.0
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
    level = _level(level)
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


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values, in the order given: max over j <= i of min(1, (m - j + 1) p_(j)).

    Rejecting where the result is <= alpha keeps the family-wise error at alpha. Raises `InputError`.
    """
    p = _vector("p_values", p_values)
    if p.min() < 0.0 or p.max() > 1.0:
        raise InputError("p_values", f"values from {p.min():g} to {p.max():g}", "probabilities in [0, 1]")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Bias-corrected and accelerated percentile interval of a scalar statistic of n >= 20 units (Efron 1987).

    `statistic` maps a 1-D array to a number; one that takes `axis` is called on many resamples at once. Where BCa is
    undefined (a median among ties, say) the plain percentile interval of the same resamples is returned, and
    `method` says "percentile" and not "bca". Raises `InputError`.
    """
    x = _vector("values", values)
    level = _level(level)
    if x.size < BOOTSTRAP_MIN_UNITS:
        wanted = f"at least {BOOTSTRAP_MIN_UNITS} independent units for a bootstrap (use mean_t or paired_t below that)"
        raise InputError("values", f"{x.size} units", wanted)
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", rng, "a numpy.random.Generator")
    if _integer("n_resamples", n_resamples) < 1:
        raise InputError("n_resamples", n_resamples, "a positive number")

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = scipy.stats.bootstrap(
            (x,),
            statistic,
            n_resamples=n_resamples,
            batch=max(1, BOOTSTRAP_BATCH_VALUES // x.size),
            confidence_level=level,
            method="BCa",
            rng=rng,
        )
    resampled = np.asarray(result.bootstrap_distribution, dtype=np.float64)
    if resampled.ndim != 1 or not np.isfinite(resampled).all():
        raise InputError("statistic", statistic, "a function with one finite number for every resample of the values")
    lo, hi = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if math.isfinite(lo) and math.isfinite(hi):
        return Interval(lo, hi, level, "bca")
    tail = (1.0 - level) / 2.0
    lo, hi = (float(limit) for limit in np.quantile(resampled, (tail, 1.0 - tail)))
    return Interval(lo, hi, level, "percentile")


def decide(differences: npt.ArrayLike, *, margin: float, kind: Kind) -> Decision:
    """The verdict on a claim from its 95 % Student-t interval: "holds" if lo > margin, "does not hold" if hi < margin.

    `differences` has one signed advantage over the baseline for each of n >= 2 units, positive where the method is
    better, in the units of the metric. "superiority" takes a margin >= 0; "noninferiority" one < 0, below which the
    advantage may not fall; for "threshold" both the values and the margin are the metric itself, times -1 if lower is
    better. That the method also beats each trivial control is for the caller to check. Raises `InputError`.
    """
    if kind not in get_args(Kind):
        raise InputError("kind", kind, "one of " + ", ".join(get_args(Kind)))
    margin = _finite("margin", margin)
    if kind == "superiority" and margin < 0.0:
        raise InputError("margin", margin, "zero or more for superiority (a negative margin is non-inferiority)")
    if kind == "noninferiority" and margin >= 0.0:
        raise InputError("margin", margin, "a negative number for noninferiority")
    method = "student-t" if kind == "threshold" else "paired-t"
    units = _vector("differences", differences)
    mean, _, interval = _student_t("differences", units, 0.95, method)
    verdict: Verdict = "undecided"
    if interval.lo > margin:
        verdict = "holds"
    elif interval.hi < margin:
        verdict = "does not hold"
    return Decision(mean, interval, method, units.size, verdict)


def _student_t(argument: str, values: npt.NDArray[np.float64], level: float, method: str) -> tuple[float, float, Interval]:
    """Mean, standard error and interval. Equal values have an error of exactly zero, whatever their mean rounds to."""
    level = _level(level)
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
    a, b = _booleans("a_correct", a_correct), _booleans("b_correct", b_correct)
    _same_length(a, b, "a_correct", "b_correct")
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    return both, only_a, only_b, a.size - both - only_a - only_b


def _vector(argument: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(argument, values, "a sequence of numbers") from None
    if vector.ndim != 1 or vector.size == 0:
        raise InputError(argument, f"shape {vector.shape}", "a one-dimensional, non-empty sequence")
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise InputError(argument, f"{vector[bad[0]]} at position {bad[0]}", "finite numbers")
    return vector


def _booleans(argument: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    try:
        vector = np.asarray(values)
    except (TypeError, ValueError):
        raise InputError(argument, values, "a sequence of booleans") from None
    if vector.dtype != np.bool_ or vector.ndim != 1 or vector.size == 0:
        got = f"{vector.dtype} of shape {vector.shape}"
        raise InputError(argument, got, "a one-dimensional, non-empty sequence of booleans")
    return vector


def _same_length(a: npt.NDArray[Any], b: npt.NDArray[Any], first: str = "a", second: str = "b") -> None:
    if a.size != b.size:
        raise InputError(second, f"{b.size} values", f"{a.size}, as many as {first} has")


def _counts(successes: int, n: int) -> tuple[int, int]:
    successes, n = _integer("successes", successes), _integer("n", n)
    if n < 1:
        raise InputError("n", n, "at least one trial")
    if not 0 <= successes <= n:
        raise InputError("successes", successes, f"a count from 0 to n = {n}")
    return successes, n


def _integer(argument: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(argument, value, "an integer") from None


def _finite(argument: str, value: object) -> float:
    if not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise InputError(argument, value, "a finite number")
    return float(value)


def _level(level: object) -> float:
    if not isinstance(level, int | float | np.number) or not 0.0 < level < 1.0:
        raise InputError("level", level, "a confidence level between 0 and 1, such as 0.95")
    return float(level)
