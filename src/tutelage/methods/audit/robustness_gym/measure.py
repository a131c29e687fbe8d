"""Numbers of one slice: metrics with intervals, and how it compares with what it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats import mcnemar, newcombe_paired, wilson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
# a metric of one's own: (classes (n,), probabilities (n, C)) -> a number, higher is better
Metric = Callable[[Ints, Floats], float]
NAMED = ("accuracy", "balanced_accuracy", "macro_f1")
RESAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """A number and its interval, or None and the reason why there is none. Never 0 for what could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Compared:
    """A slice against its reference. delta: accuracy of the slice minus the reference's.

    test: "mcnemar" (the same rows before the edit), "fisher" (other rows: the rest of the data, or the root data of an
    evaluation set). p_holm: after Holm's correction over the slices of one model.
    """

    reference: float
    delta: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    test: Literal["mcnemar", "fisher"]


def confusion(places: Ints, predicted: Ints, classes: int) -> Ints:
    """(C, C) counts: true class by row, predicted by column."""
    return np.bincount(places * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def measure(
    name: str, metric: Metric | None, places: Ints, probabilities: Floats, rng: np.random.Generator, level: float
) -> Measured:
    """One metric of a slice, with Wilson's interval for accuracy and a bootstrap one for the others."""
    n, classes = probabilities.shape
    if n == 0:
        return Measured(None, reason="the slice is empty")
    predicted = probabilities.argmax(1)
    if name == "accuracy":
        right = int((predicted == places).sum())
        interval = wilson(right, n, level)
        return Measured(right / n, interval.lo, interval.hi)
    tail = (1 - level) / 2
    if metric is None:
        counts = confusion(places, predicted, classes)
        if name == "balanced_accuracy" and (counts.sum(1) > 0).sum() < 2:
            return Measured(None, reason="one class only")
        # resampling rows with replacement draws the cells of their table from a multinomial
        drawn = rng.multinomial(n, counts.ravel() / n, size=RESAMPLES).reshape(RESAMPLES, classes, classes)
        score = _balanced if name == "balanced_accuracy" else _macro_f1
        value, some = float(score(counts[None].astype(float))[0]), score(drawn.astype(float))
    else:
        value = float(metric(places, probabilities))
        rows = [rng.integers(0, n, n) for _ in range(RESAMPLES // 5)]
        some = np.array([metric(places[i], probabilities[i]) for i in rows], np.float64)
    if not np.isfinite(value):
        return Measured(None, reason=f"{name} is not defined here")
    some = some[np.isfinite(some)]
    if n < 20 or len(some) < RESAMPLES // 10:
        return Measured(value, reason="too few rows for an interval")
    low, high = np.quantile(some, (tail, 1 - tail))
    return Measured(value, float(low), float(high))


def _balanced(counts: Floats) -> Floats:
    """Mean recall over the classes that are there; counts (R, C, C)."""
    rows = counts.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.diagonal(counts, axis1=1, axis2=2) / rows
    result: Floats = np.nanmean(np.where(rows > 0, recall, np.nan), axis=1)
    return result


def _macro_f1(counts: Floats) -> Floats:
    """Mean F1 over the classes that are there or were predicted."""
    hits, both = np.diagonal(counts, axis1=1, axis2=2), counts.sum(1) + counts.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / both
    result: Floats = np.nanmean(np.where(both > 0, f1, np.nan), axis=1)
    return result


def against_source(before: Bools, after: Bools, level: float) -> Compared:
    """Edited rows against the same rows before: Newcombe's interval, McNemar's exact test."""
    interval = newcombe_paired(after, before, level)
    p = mcnemar(after, before).p_value
    delta = float(after.mean() - before.mean())
    return Compared(float(before.mean()), delta, interval.lo, interval.hi, p, p, "mcnemar")


def against_rest(inside: Bools, correct: Bools) -> Compared:
    """A subpopulation against the whole: the test compares it with the rest of the data, which it does not overlap."""
    own, rest = correct[inside], correct[~inside]
    p = fisher(own, rest) if len(rest) else 1.0
    whole = float(correct.mean())
    return Compared(whole, float(own.mean()) - whole, None, None, p, p, "fisher")


def against_other(own: Bools, root: Bools) -> Compared:
    """Rows of another data set against the root data."""
    p = fisher(own, root)
    return Compared(float(root.mean()), float(own.mean() - root.mean()), None, None, p, p, "fisher")


def fisher(a: Bools, b: Bools) -> float:
    """Two-sided exact p-value that both have one share of right answers."""
    table = np.array([[a.sum(), (~a).sum()], [b.sum(), (~b).sum()]], np.int64)
    return float(min(1.0, scipy.stats.fisher_exact(table).pvalue))


def shares(places: Ints, labels: list[Any]) -> dict[str, float]:
    """label -> share."""
    if not len(places):
        return {}
    counts = np.bincount(places, minlength=len(labels)) / len(places)
    return {str(label): float(share) for label, share in zip(labels, counts, strict=True)}


def check_metrics(metrics: Mapping[str, Metric | None]) -> None:
    for name, metric in metrics.items():
        if metric is None and name not in NAMED:
            raise InputError("metrics", name, f"one of {', '.join(NAMED)}, or a name with a function")
