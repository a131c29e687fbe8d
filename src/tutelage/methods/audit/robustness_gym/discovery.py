"""Discovery: slices with many errors that nobody named, proposed on one half of the data and confirmed on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.core.stats import holm

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Discovered:
    """A conjunction of at most two features. n, error: on the confirming half; p_holm: one-sided, over all proposed."""

    name: str
    n: int
    error: float
    overall: float
    p_holm: float
    confirmed: bool


def discover(
    names: Sequence[str],
    membership: npt.ArrayLike,
    wrong: npt.ArrayLike,
    ids: Sequence[str],
    *,
    delta: float = 0.05,
    n_min: int = 30,
    alpha: float = 0.05,
    most: int = 20,
    seed: int = 0,
) -> list[Discovered]:
    """Slices whose error rate is at least `delta` above the overall one.

    membership: (N, F) booleans of F named features; wrong: (N,) booleans; ids: split the data into halves, whatever the order.
    Conjunctions of two are looked at where both features alone have n_min rows (apriori). Of those that lie above on the
    first half, the `most` clearest go to the second, where Fisher's one-sided test against the other rows decides, after
    Holm. Sorted by error there. Raises InputError.
    """
    table, errors = np.asarray(membership), np.asarray(wrong)
    if table.dtype != np.bool_ or table.shape != (len(ids), len(names)):
        raise InputError("membership", f"{table.dtype} of shape {table.shape}", f"booleans of shape ({len(ids)}, {len(names)})")
    if errors.dtype != np.bool_ or errors.shape != (len(ids),):
        raise InputError("wrong", f"{errors.dtype} of shape {errors.shape}", f"booleans of shape ({len(ids)},)")
    check_number("delta", delta, "a share from 0 to 1", low=0, high=1)
    check_integer("n_min", n_min)
    first = np.array([derive(seed, "discovery", one) % 2 == 0 for one in ids], bool)
    here, there = np.flatnonzero(first), np.flatnonzero(~first)
    if not len(here) or not len(there):
        return []
    overall = float(errors[here].mean())
    frequent = [f for f in range(len(names)) if table[here, f].sum() >= n_min]
    proposed = []
    for parts in [*((f,) for f in frequent), *combinations(frequent, 2)]:
        inside = _all(table, here, parts)
        n = int(inside.sum())
        if n < n_min or n == len(here):
            continue
        rate = float(errors[here][inside].mean())
        if rate > overall + delta:
            proposed.append((_p(errors[here], inside), parts))
    proposed.sort()
    found = []
    base = float(errors[there].mean())
    for _, parts in proposed[:most]:
        inside = _all(table, there, parts)
        if not inside.any():
            continue
        name = " and ".join(names[f] for f in parts)
        found.append((name, int(inside.sum()), float(errors[there][inside].mean()), _p(errors[there], inside)))
    if not found:
        return []
    adjusted = holm([p for *_, p in found])
    rows = [
        Discovered(name, n, rate, base, float(p), bool(p <= alpha and rate > base + delta))
        for (name, n, rate, _), p in zip(found, adjusted, strict=True)
    ]
    return sorted(rows, key=lambda row: (-row.error, row.name))


def _all(table: Bools, rows: npt.NDArray[np.int64], parts: tuple[int, ...]) -> Bools:
    inside = np.ones(len(rows), bool)
    for f in parts:
        inside &= table[rows, f]
    return inside


def _p(errors: Bools, inside: Bools) -> float:
    a, b = errors[inside], errors[~inside]
    table = np.array([[a.sum(), (~a).sum()], [b.sum(), (~b).sum()]], np.int64)
    return float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
