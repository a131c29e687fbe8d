"""How far two samples of one column are apart: shares over bins, distances of shares, and tests.

Bins come from the reference alone: its quantiles for numbers, its categories for words. What the reference never held, and
what is missing, has a bin of its own, so that it cannot hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import integer, vector

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """edges: inner borders (numbers) or None; categories: known words or None."""

    edges: tuple[float, ...] | None
    categories: tuple[str, ...] | None

    def counts(self, values: npt.ArrayLike) -> Floats:
        """How many values are in each bin; the last two bins are "unknown" and "missing"."""
        array = np.asarray(values)
        if self.edges is not None:
            numbers = array.astype(np.float64)
            known = numbers[~np.isnan(numbers)]
            inside = np.bincount(np.searchsorted(self.edges, known, side="left"), minlength=len(self.edges) + 1)
            return np.array([*inside, 0, len(numbers) - len(known)], np.float64)
        places = {one: i for i, one in enumerate(self.categories or ())}
        found = np.zeros(len(places) + 2)
        for value, times in zip(*np.unique(texts(array), return_counts=True), strict=True):
            found[-1 if value == "" else places.get(str(value), len(places))] += times
        return found

    def shares(self, values: npt.ArrayLike) -> Floats:
        found = self.counts(values)
        return np.asarray(found / max(1.0, found.sum()))


def texts(values: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Values as text; None and NaN as the empty text."""
    array = np.asarray(values)
    if array.dtype.kind in "US":
        return array.astype(np.str_)
    return np.array(["" if one is None or one != one else str(one) for one in array.tolist()], dtype=np.str_)


def bins_of(reference: npt.ArrayLike, bins: int = 10) -> Bins:
    """The bins of a reference column: `bins` quantiles of numbers (fewer where values repeat), or all its categories."""
    array = np.asarray(reference)
    if array.ndim != 1 or not array.size:
        raise InputError("reference", f"shape {array.shape}", "a column with at least one value")
    if integer("bins", bins) < 2:
        raise InputError("bins", bins, "at least 2 bins")
    if array.dtype.kind in "OUSb":
        return Bins(None, tuple(one for one in np.unique(texts(array)).tolist() if one))
    numbers = array.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return Bins((0.0,), None)
    inner = np.unique(np.quantile(numbers, np.arange(1, bins) / bins))
    return Bins(tuple(inner.tolist()), None)


def psi(p: npt.ArrayLike, q: npt.ArrayLike, floor: float = 1e-4) -> float:
    """Population stability index sum (q - p) ln(q / p) of shares p (reference) and q; shares below `floor` are set to it."""
    first, second = _shares(p, q)
    a, b = np.maximum(first, floor), np.maximum(second, floor)
    return float(((b - a) * np.log(b / a)).sum())


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Jensen-Shannon distance of shares, base 2, in [0, 1]: the root of the divergence from their mean."""
    first, second = _shares(p, q)
    middle = (first + second) / 2

    def divergence(one: Floats) -> float:
        there = one > 0
        return float((one[there] * np.log2(one[there] / middle[there])).sum())

    return float(np.sqrt(min(1.0, max(0.0, (divergence(first) + divergence(second)) / 2))))


def hellinger(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Hellinger distance of shares, in [0, 1]."""
    first, second = _shares(p, q)
    return float(min(1.0, np.sqrt(((np.sqrt(first) - np.sqrt(second)) ** 2).sum() / 2)))


def wasserstein(reference: npt.ArrayLike, current: npt.ArrayLike) -> float:
    """Wasserstein-1 distance over the reference's standard deviation (over 1 if it has none)."""
    first, second = vector("reference", reference), vector("current", current)
    gaps, steps = _gaps(first, second)
    return float(np.abs(gaps[:-1]) @ steps) / (float(first.std()) or 1.0)


def kolmogorov_smirnov(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[float, float]:
    """(largest distance of the two distribution functions, p-value of "one distribution"), by Kolmogorov's limit law."""
    first, second = vector("reference", reference), vector("current", current)
    largest = float(np.abs(_gaps(first, second)[0]).max())
    root = float(np.sqrt(first.size * second.size / (first.size + second.size)))
    return largest, float(scipy.special.kolmogorov(root * largest))


def _gaps(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """How far the distribution functions of x and y are apart at all their values, in order, and the steps between these."""
    a, b = np.sort(x), np.sort(y)
    values = np.sort(np.concatenate([a, b]))
    gaps = np.searchsorted(a, values, side="right") / a.size - np.searchsorted(b, values, side="right") / b.size
    return gaps, np.diff(values)


def chi_squared(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[float, float]:
    """(Cramér's V, p-value of "the same shares") from counts over the same bins; bins that are empty in both are left out."""
    table = np.array([vector("reference", reference), vector("current", current)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2 or (table.sum(1) == 0).any():
        return 0.0, 1.0
    found = scipy.stats.chi2_contingency(table, correction=False)
    return float(np.sqrt(found.statistic / table.sum())), float(found.pvalue)


def _shares(p: npt.ArrayLike, q: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = vector("p", p), vector("q", q)
    if first.shape != second.shape or first.min() < 0 or second.min() < 0:
        raise InputError("q", f"{second.size} shares", f"{first.size} shares of 0 or more, over the same bins as p")
    for name, one in (("p", first), ("q", second)):
        if abs(one.sum() - 1) > 1e-6:
            raise InputError(name, f"shares that sum to {one.sum():g}", "a sum of 1")
    return first, second
