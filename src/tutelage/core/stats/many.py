"""Many at once: several tests, several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import checked_level, matrix, vector
from tutelage.core.stats.interval import Interval
from tutelage.core.stats.means import student_t
from tutelage.core.stats.proportions import wilson


@dataclass(frozen=True)
class WorstOverSeeds:
    """The mean over items of each item's worst result over seeds, beside the milder readings of "worst" and "average".

    `value` and its `interval` (over items) take the worst seed for every item by itself; `worst_seed_mean` is the mean
    under the one seed that is worst on the whole, `worst_seed` its row; `mean` averages over all. For a metric where
    higher is better, value <= worst_seed_mean <= mean.
    """

    value: float
    interval: Interval
    worst_seed_mean: float
    worst_seed: int
    mean: float
    n_seeds: int
    n_items: int


def worst_over_seeds(
    values: npt.ArrayLike, *, better: Literal["higher", "lower"] = "higher", level: float = 0.95
) -> WorstOverSeeds:
    """Worst case over seeds: `values` (seeds, items) has one row for each seed, one column for each item; both >= 2.

    The worst result of an item is its smallest, or for "lower" its largest. The interval of their mean is Wilson's for
    booleans and Student-t otherwise. It speaks about other items under these seeds: more seeds can only make `value`
    worse. Raises `InputError`.
    """
    table = matrix("values", values)
    level = checked_level(level)
    if better not in ("higher", "lower"):
        raise InputError("better", better, "higher or lower")
    seeds, items = table.shape
    if seeds < 2 or items < 2:
        raise InputError("values", f"{seeds} seeds and {items} items", "at least 2 seeds (rows) and 2 items (columns)")
    worst = table.min(0) if better == "higher" else table.max(0)
    if np.asarray(values).dtype == np.bool_:
        value, interval = float(worst.mean()), wilson(int(worst.sum()), items, level)
    else:
        value, _, interval = student_t("values", worst, level, "student-t")
    means = table.mean(1)
    seed = int(means.argmin() if better == "higher" else means.argmax())
    return WorstOverSeeds(value, interval, float(means[seed]), seed, float(means.mean()), seeds, items)


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values, in the order given: max over j <= i of min(1, (m - j + 1) p_(j)).

    Rejecting where the result is <= alpha keeps the family-wise error at alpha. Raises `InputError`.
    """
    p = vector("p_values", p_values)
    if p.min() < 0.0 or p.max() > 1.0:
        raise InputError("p_values", f"values from {p.min():g} to {p.max():g}", "probabilities in [0, 1]")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
