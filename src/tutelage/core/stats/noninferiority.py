"""Is a new model not worse than an old one by more than a margin? Paired on the same items, one-sided limits, any margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats

from tutelage.core.checks import check_choice, check_number
from tutelage.core.errors import InputError
from tutelage.core.stats.checks import counts, finite, integer, same_length, vector
from tutelage.core.stats.resampling import cluster_bootstrap

Method = Literal["score", "bootstrap", "student-t"]
Status = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class NonInferiority:
    """difference: mean(new - old). lower, upper: one-sided limits, each at level 1 - alpha. status: "pass" where lower >=
    -delta, "fail" where upper < -delta, else "inconclusive". p_inferior: of "worse by delta or more" (small: it is not);
    p_fine: of "worse by delta at most" (small: it is worse). gained, lost: items that only the new or only the old model got
    right, None for values.
    """

    difference: float
    lower: float
    upper: float
    delta: float
    alpha: float
    n: int
    p_inferior: float
    p_fine: float
    gained: int | None
    lost: int | None
    method: str
    status: Status


def score_z(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's score statistic of "the paired difference of shares is `difference`" (Tango 1998, Stat. Med. 17:891, eq. 3).

    T = (b - c - n d) / sqrt(n (2 q + d (1 - d))), b = gained, c = lost, and q the share of c under the restriction: the larger
    root of 2n q^2 + (-b - c + (2n - b + c) d) q - c d (1 - d) = 0. For d = 0 it is McNemar's (b - c) / sqrt(b + c). 0 where
    nothing can be told (no spread, no difference), infinite where the restriction cannot hold. Raises `InputError`.
    """
    _table(gained, lost, n)
    d = finite("difference", difference)
    if not -1.0 <= d <= 1.0:
        raise InputError("difference", d, "a difference of shares, from -1 to 1")
    b, c = gained, lost
    linear = -b - c + (2 * n - b + c) * d
    q = (math.sqrt(max(0.0, linear**2 + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
    away, variance = b - c - n * d, n * (2 * q + d * (1 - d))
    if variance <= 1e-12 * n:
        return 0.0 if abs(away) <= 1e-9 * n else math.copysign(math.inf, away)
    return away / math.sqrt(variance)


def score_limits(gained: int, lost: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """(lower, upper): one-sided limits at level 1 - alpha of the paired difference of shares, where `score_z` is ±z(alpha).

    Both exist for every table, also without any discordant item: then ∓z²/(n + z²). Raises `InputError`.
    """
    _table(gained, lost, n)
    check_number("alpha", alpha, "a level between 0 and 0.5", low=1e-12, high=0.5)
    z, here = float(scipy.stats.norm.isf(alpha)), (gained - lost) / n

    def limit(end: float, goal: float) -> float:
        if here == end or abs(score_z(gained, lost, n, end)) <= abs(goal):
            return end
        return float(scipy.optimize.brentq(lambda d: score_z(gained, lost, n, d) - goal, end, here, xtol=1e-10))

    return limit(-1.0, z), limit(1.0, -z)


def noninferiority(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    *,
    delta: float,
    alpha: float = 0.05,
    method: Method | None = None,
    clusters: npt.ArrayLike | None = None,
    rng: np.random.Generator | None = None,
    n_resamples: int = 2000,
) -> NonInferiority:
    """Judge mean(new - old) against -delta on the same n >= 2 items.

    new, old: booleans (right or wrong) or numbers where higher is better. delta >= 0: the margin, infinity allowed. method:
    "score" (booleans only, the default for them), "student-t" (the default for numbers), "bootstrap" (percentiles of
    `n_resamples` resamples drawn by `rng`; of whole clusters if items come in `clusters`, such as days). Raises `InputError`.
    """
    first, second = vector("new", _numbers(new)), vector("old", _numbers(old))
    same_length(first, second, "new", "old")
    n = first.size
    if n < 2:
        raise InputError("new", "1 item", "at least 2 items")
    if isinstance(delta, bool) or not isinstance(delta, int | float | np.number) or not delta >= 0:
        raise InputError("delta", delta, "a margin of 0 or more")
    check_number("alpha", alpha, "a level between 0 and 0.5", low=1e-12, high=0.5)
    shares = np.asarray(new).dtype == np.bool_ and np.asarray(old).dtype == np.bool_
    if clusters is not None and method not in (None, "bootstrap"):
        raise InputError("method", method, "bootstrap for items in clusters")
    chosen = method or ("bootstrap" if clusters is not None else "score" if shares else "student-t")
    check_choice("method", chosen, get_args(Method))
    if chosen == "score" and not shares:
        raise InputError("method", "score", "student-t or bootstrap for values that are not booleans")
    apart = first - second
    gained, lost = (int((apart > 0).sum()), int((apart < 0).sum())) if shares else (None, None)
    mean, margin = float(apart.mean()), -float(delta)
    if chosen == "score":
        assert gained is not None
        assert lost is not None
        lower, upper = score_limits(gained, lost, n, alpha)
        z = math.inf if margin <= -1 else score_z(gained, lost, n, margin)
        p_inferior, p_fine = float(scipy.stats.norm.sf(z)), float(scipy.stats.norm.cdf(z))
    elif chosen == "student-t":
        lower, upper, p_inferior, p_fine = _student(apart, margin, alpha)
    else:
        means = _resampled(apart, clusters, rng, n_resamples)
        lower, upper = (float(end) for end in np.quantile(means, (alpha, 1 - alpha)))
        p_inferior = (1 + int((means < margin).sum())) / (n_resamples + 1)
        p_fine = (1 + int((means >= margin).sum())) / (n_resamples + 1)
    status: Status = "pass" if lower >= margin else "fail" if upper < margin else "inconclusive"
    name = "cluster-bootstrap" if clusters is not None else chosen
    return NonInferiority(mean, lower, upper, float(delta), alpha, n, p_inferior, p_fine, gained, lost, name, status)


def items_needed(discordant: float, *, delta: float, alpha: float = 0.05, power: float = 0.9, difference: float = 0.0) -> int:
    """How many items a paired comparison needs to pass with probability `power`, by the normal approximation.

    (z(alpha) + z(1 - power))² (q - d²) / (delta + d)²: q the share of items on which only one model is right, d the true
    difference (> -delta). Raises `InputError`.
    """
    check_number("discordant", discordant, "a share from 0 to 1", low=0, high=1)
    check_number("alpha", alpha, "a level between 0 and 0.5", low=1e-12, high=0.5)
    check_number("power", power, "a power between 0.5 and 1", low=0.5, high=1 - 1e-12)
    check_number("difference", difference, "a difference of shares", low=-1, high=1)
    room = finite("delta", delta) + difference
    if room <= 0:
        raise InputError("delta", delta, f"more than what the model is worse by, {-difference:g}")
    z = float(scipy.stats.norm.isf(alpha) + scipy.stats.norm.isf(1 - power))
    return max(2, math.ceil(z * z * max(0.0, discordant - difference**2) / room**2))


def _numbers(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("new", values, "one value an item") from None


def _table(gained: int, lost: int, n: int) -> None:
    counts(integer("gained", gained) + integer("lost", lost), n)
    if gained < 0 or lost < 0:
        raise InputError("gained", (gained, lost), "counts of 0 or more")


def _student(apart: npt.NDArray[np.float64], margin: float, alpha: float) -> tuple[float, float, float, float]:
    mean, n = float(apart.mean()), apart.size
    if apart.min() == apart.max():
        return mean, mean, float(mean < margin), float(mean >= margin)
    error = float(apart.std(ddof=1)) / math.sqrt(n)
    half, t = float(scipy.stats.t.isf(alpha, n - 1)) * error, (mean - margin) / error
    return mean - half, mean + half, float(scipy.stats.t.sf(t, n - 1)), float(scipy.stats.t.cdf(t, n - 1))


def _resampled(
    apart: npt.NDArray[np.float64], clusters: npt.ArrayLike | None, rng: np.random.Generator | None, n_resamples: int
) -> npt.NDArray[np.float64]:
    """Means of resamples. Of few different values (right or wrong) their counts are drawn, which is the same and quicker."""
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", rng, "a numpy.random.Generator for a bootstrap")
    if integer("n_resamples", n_resamples) < 100:
        raise InputError("n_resamples", n_resamples, "at least 100")
    if clusters is not None:
        kept: list[npt.NDArray[np.float64]] = []
        _, which = np.unique(np.asarray(clusters), return_inverse=True)
        if which.shape != apart.shape:
            raise InputError("clusters", f"{which.size} labels", f"{apart.size}, one an item")
        cluster_bootstrap(apart[:1].repeat(which.max() + 1), np.arange(which.max() + 1), rng=rng, n_resamples=1)  # its checks
        sums, sizes = np.bincount(which, apart), np.bincount(which).astype(np.float64)
        for _ in range(n_resamples):
            drawn = rng.integers(0, sums.size, sums.size)
            kept.append(sums[drawn].sum() / sizes[drawn].sum())
        return np.array(kept)
    values, times = np.unique(apart, return_counts=True)
    if values.size <= 16:
        drawn = rng.multinomial(apart.size, times / apart.size, n_resamples)
        found: npt.NDArray[np.float64] = drawn @ values / apart.size
        return found
    return np.array([apart[rng.integers(0, apart.size, apart.size)].mean() for _ in range(n_resamples)])
