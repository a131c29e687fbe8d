"""Bootstrap intervals: of independent units, and of whole clusters of dependent ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, integer, vector
from tutelage.core.stats.interval import Interval

BOOTSTRAP_MIN_UNITS = 20
BOOTSTRAP_BATCH_VALUES = 1_000_000


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
    x = vector("values", values)
    level = checked_level(level)
    if x.size < BOOTSTRAP_MIN_UNITS:
        wanted = f"at least {BOOTSTRAP_MIN_UNITS} independent units for a bootstrap (use mean_t or paired_t below that)"
        raise InputError("values", f"{x.size} units", wanted)
    _resamples(rng, n_resamples)

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


def cluster_bootstrap(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    kind: Literal["bca", "percentile"] = "bca",
    few: bool = False,
) -> Interval:
    """Bootstrap interval where values of one cluster (a document, a lesson, a speaker) depend on each other.

    G of the G clusters are drawn with replacement, each with all its values (Field & Welsh 2007); the statistic is that
    of the drawn values. `values` (n,), `clusters` (n,) labels of any kind that can be sorted; clusters may differ in
    size. `statistic` maps a 1-D array to a number; np.mean is computed for many resamples at once. "bca" takes bias
    from the resamples and acceleration from leaving out one cluster at a time (Efron 1987); where it is undefined,
    `method` says "cluster-percentile". With fewer than 20 clusters the interval is too short, so they are refused
    unless `few=True`; 2 is the least. Raises `InputError`.
    """
    x, level = vector("values", values), checked_level(level)
    members = _members(clusters, x.size)
    g = len(members)
    least = 2 if few else BOOTSTRAP_MIN_UNITS
    if g < least:
        hint = "" if few else " (use mean_t on the means of the clusters below that)"
        raise InputError("clusters", f"{g} clusters", f"at least {least} independent clusters for a bootstrap{hint}")
    if kind not in ("bca", "percentile"):
        raise InputError("kind", kind, "bca or percentile")
    _resamples(rng, n_resamples)

    if statistic is np.mean:
        sums, sizes = np.array([x[m].sum() for m in members]), np.array([m.size for m in members], dtype=np.float64)

        def many(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            means: npt.NDArray[np.float64] = sums[drawn].sum(1) / sizes[drawn].sum(1)
            return means
    else:

        def many(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            return np.array([_number(statistic, x[np.concatenate([members[c] for c in row])]) for row in drawn])

    batch = max(1, BOOTSTRAP_BATCH_VALUES // g)
    sizes_of_batches = [min(batch, n_resamples - start) for start in range(0, n_resamples, batch)]
    resampled = np.concatenate([many(rng.integers(0, g, (size, g))) for size in sizes_of_batches])
    every = np.arange(g)
    estimate = float(many(every[None])[0])
    jackknife = np.concatenate([many(np.delete(every, out)[None]) for out in range(g)])
    if not (np.isfinite(resampled).all() and np.isfinite(jackknife).all() and math.isfinite(estimate)):
        raise InputError("statistic", statistic, "a function with one finite number for every resample of the clusters")

    tails = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    corrected = _bca_tails(estimate, resampled, jackknife, tails) if kind == "bca" else None
    lo, hi = (float(limit) for limit in np.quantile(resampled, tails if corrected is None else corrected))
    return Interval(lo, hi, level, "cluster-percentile" if corrected is None else "cluster-bca")


def _bca_tails(
    estimate: float, resampled: npt.NDArray[np.float64], jackknife: npt.NDArray[np.float64], tails: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Which quantiles of the resamples are the limits (Efron 1987, equations 2.3 and 6.6); None where undefined."""
    bias = scipy.stats.norm.ppf(((resampled < estimate).mean() + (resampled <= estimate).mean()) / 2.0)
    away = jackknife.mean() - jackknife
    spread = float((away**2).sum())
    if not math.isfinite(bias) or spread == 0.0:
        return None
    acceleration = float((away**3).sum()) / (6.0 * spread**1.5)
    z = bias + scipy.stats.norm.ppf(tails)
    denominator = 1.0 - acceleration * z
    if (denominator <= 0.0).any():
        return None
    corrected: npt.NDArray[np.float64] = scipy.stats.norm.cdf(bias + z / denominator)
    return corrected


def _members(clusters: npt.ArrayLike, n: int) -> list[npt.NDArray[np.int64]]:
    """The positions of each cluster's values, clusters in the order of their labels."""
    try:
        labels = np.asarray(clusters)
        if labels.ndim != 1:
            raise InputError("clusters", f"shape {labels.shape}", "a one-dimensional sequence of labels")
        _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("clusters", clusters, "labels that can be sorted") from None
    if labels.size != n:
        raise InputError("clusters", f"{labels.size} labels", f"{n}, one for each value")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise InputError("clusters", "NaN", "a label for each value")
    return np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])


def _number(statistic: Callable[..., Any], values: npt.NDArray[np.float64]) -> float:
    number = np.asarray(statistic(values), dtype=np.float64)
    return float(number) if number.ndim == 0 else math.nan


def _resamples(rng: object, n_resamples: int) -> None:
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", rng, "a numpy.random.Generator")
    if integer("n_resamples", n_resamples) < 1:
        raise InputError("n_resamples", n_resamples, "a positive number")
