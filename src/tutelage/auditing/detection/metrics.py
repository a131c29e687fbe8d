"""How well a score tells inside from outside: AUROC, FPR at a TPR, average precision, best accuracy, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import scipy.stats
from torch import Tensor

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.core.stats.checks import vector
from tutelage.core.stats.interval import Interval
from tutelage.core.stats.roc import auroc_interval, average_precision_interval, fpr_interval

Scores = Tensor | npt.ArrayLike
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectionMetrics:
    """Inside samples are the positives, higher scores are more inside; all shares in [0, 1].

    auroc: P(inside > outside) + P(equal) / 2. tpr: the rate of inside samples that are to be accepted, threshold: the
    highest score that accepts so many. fpr: the share of outside samples that it accepts too; tnr is 1 - fpr.
    aupr_in, aupr_out: average precision with the inside, with the outside samples as positives; both move with the ratio of
    the two sample sizes. accuracy: max over thresholds of (TPR + TNR) / 2, an optimistic number, as it is chosen on these
    very samples. intervals: 95 % each, of auroc, fpr, aupr_in and aupr_out.
    """

    auroc: float
    fpr: float
    aupr_in: float
    aupr_out: float
    accuracy: float
    threshold: float
    tpr: float
    n_inside: int
    n_outside: int
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def tnr(self) -> float:
        """The share of outside samples that are refused while `tpr` of the inside ones are accepted."""
        return 1 - self.fpr

    def table(self) -> str:
        """A few lines for people, in per cent."""
        lines = []
        words = {"auroc": "AUROC", "fpr": f"FPR at TPR {100 * self.tpr:g} %", "aupr_in": "AUPR in", "aupr_out": "AUPR out"}
        for name, text in words.items():
            at = self.intervals[name]
            lines.append(f"{text:<18} {100 * getattr(self, name):6.2f}  [{100 * at.lo:.2f}, {100 * at.hi:.2f}]")
        lines.append(f"{'best accuracy':<18} {100 * self.accuracy:6.2f}")
        return "\n".join(lines)


def detection_metrics(inside: Scores, outside: Scores, *, tpr: float = 0.95, level: float = 0.95) -> DetectionMetrics:
    """Metrics of scores of inside samples (N,) against outside samples (M,), higher is more inside.

    Raises InputError for NaN, infinity, empty or nested scores, and for a tpr outside (0, 1).
    """
    a, b = _vector("inside", inside), _vector("outside", outside)
    threshold = threshold_at(a, tpr)
    area = auroc(a, b)
    fpr = float((b >= threshold).mean())
    aupr_in, aupr_out = _average_precision(a, b), _average_precision(-b, -a)
    intervals = {
        "auroc": auroc_interval(area, a.size, b.size, level),
        "fpr": fpr_interval(a, b, tpr, level),
        "aupr_in": average_precision_interval(aupr_in, a.size, level),
        "aupr_out": average_precision_interval(aupr_out, b.size, level),
    }
    accuracy = _best_accuracy(a, b)
    return DetectionMetrics(area, fpr, aupr_in, aupr_out, accuracy, threshold, float(tpr), a.size, b.size, intervals)


def auroc(inside: Scores, outside: Scores) -> float:
    """P(inside > outside) + P(equal) / 2 over all pairs: the Mann-Whitney statistic over N M."""
    a, b = _vector("inside", inside), _vector("outside", outside)
    ranks = scipy.stats.rankdata(np.concatenate([a, b]))
    above = ranks[: a.size].sum() - a.size * (a.size + 1) / 2
    return float(above / (a.size * b.size))


def threshold_at(inside: Scores, tpr: float = 0.95) -> float:
    """The highest threshold t for which at least `tpr` of the scores (N,) are >= t: the ceil(tpr N)-th largest score."""
    a = _vector("inside", inside)
    check_number("tpr", tpr, "a rate between 0 and 1, such as 0.95", low=1e-9, high=1 - 1e-9)
    rank = math.ceil(a.size * Fraction(tpr).limit_denominator(10**9))  # 0.95 is meant as 19/20
    return float(np.sort(a)[a.size - max(1, rank)])


def _average_precision(positive: Array, negative: Array) -> float:
    """Sum over thresholds of precision times the rise of recall; equal scores are one threshold."""
    scores = np.concatenate([positive, negative])
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(order < positive.size)
    ends = np.append(ordered[1:] != ordered[:-1], True)
    recall = hits[ends] / positive.size
    precision = hits[ends] / (np.flatnonzero(ends) + 1)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _best_accuracy(a: Array, b: Array) -> float:
    cuts = np.unique(np.concatenate([a, b]))
    tpr = 1 - np.searchsorted(np.sort(a), cuts, side="left") / a.size
    tnr = np.searchsorted(np.sort(b), cuts, side="left") / b.size
    return float(max(0.5, ((tpr + tnr) / 2).max()))  # to refuse all is right for half


def _vector(argument: str, scores: Scores) -> Array:
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu().double().numpy()
    if isinstance(scores, str):
        raise InputError(argument, scores, "a sequence of numbers")
    return vector(argument, scores)
