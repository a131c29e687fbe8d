"""Bootstrap intervals: of independent units, and of whole clusters of dependent ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

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
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", rng, "a numpy.random.Generator")
    if integer("n_resamples", n_resamples) < 1:
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
