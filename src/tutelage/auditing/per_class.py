"""Accuracy class by class: who is left behind?

To judge a model by its weakest classes, choose them on validation data and evaluate them on test data::

    tail = weakest_classes(held_on_validation, validation.labels)  # (N,) bool, right under attack, and labels
    tail_accuracy(held_on_test, test.labels, chosen=tail)

Right answers are (N,) bools in the order of the set: `predict(model, data).argmax(1) == data.labels`, or under a threat
`~attack_set(model, data, threat).broken`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.stats import Interval, wilson
from tutelage.models.checks import check_labels


def class_accuracy(correct: Tensor, y: Tensor, classes: int | None = None) -> Tensor:
    """The share of right answers in each class, (classes,) float64 in [0, 1]; NaN for a class without a sample.

    correct: (N,) bool. y: (N,) labels. classes: how many there are; by default the highest label + 1.
    """
    hits, n = _counts(correct, y, classes)
    return hits / n  # 0 / 0 is NaN


def weakest_classes(correct: Tensor, y: Tensor, frac: float = 0.3) -> Tensor:
    """The labels of the least accurate classes: a share `frac` of those that occur, rounded up; of equal ones the first.

    To judge a model by its weakest classes, choose them on other data than those they are judged on.
    """
    check_number("frac", frac, "a share above 0 and up to 1", low=1e-9, high=1)
    accuracy = class_accuracy(correct, y)
    present = (~accuracy.isnan()).nonzero().squeeze(1)
    k = math.ceil(frac * len(present) - 1e-9)  # 0.3 of 10 is 3, whatever its last bit says
    return present[accuracy[present].argsort(stable=True)[:k]]


def tail_accuracy(correct: Tensor, y: Tensor, frac: float = 0.3, *, chosen: Tensor | None = None) -> float:
    """The mean accuracy of the weakest classes, in [0, 1]; every class counts the same. frac=1 is the macro accuracy.

    chosen: labels of the classes to judge, from `weakest_classes` on other data. Without it they are chosen on the very
    data, which is too low an estimate: chance makes some classes look weak.
    """
    if chosen is None:
        chosen = weakest_classes(correct, y, frac)
    check_labels(chosen, len(chosen), name="chosen")
    if len(chosen) == 0:
        raise InputError("chosen", "no class", "at least one label")
    accuracy = class_accuracy(correct, y, max(int(y.max()), int(chosen.max())) + 1)[chosen]
    if bool(accuracy.isnan().any()):
        raise InputError("chosen", f"class {int(chosen[accuracy.isnan()][0])}", "classes that occur in y")
    return float(accuracy.mean())


@dataclass(frozen=True)
class ClassRow:
    """One class: its name, its n samples, clean and robust accuracy in [0, 1] with their 95 % Wilson intervals."""

    name: str
    n: int
    clean: float
    robust: float
    clean_ci: Interval
    robust_ci: Interval


@dataclass(frozen=True)
class ClassReport:
    """All classes that occur, by label. Disparity: the best class minus the worst, in [0, 1]."""

    rows: tuple[ClassRow, ...]

    @property
    def disparity_clean(self) -> float:
        return max(row.clean for row in self.rows) - min(row.clean for row in self.rows)

    @property
    def disparity_robust(self) -> float:
        return max(row.robust for row in self.rows) - min(row.robust for row in self.rows)

    @property
    def worst(self) -> ClassRow:
        """The class of the lowest robust accuracy."""
        return min(self.rows, key=lambda row: row.robust)

    def __str__(self) -> str:
        wide = max(len("disparity"), *(len(row.name) for row in self.rows))
        lines = [f"{'class':{wide}}      n   clean [95 % interval]   robust [95 % interval]"]
        lines += [
            f"{row.name:{wide}} {row.n:6}  {_percent(row.clean, row.clean_ci)}    {_percent(row.robust, row.robust_ci)}"
            for row in self.rows
        ]
        gaps = f"{100 * self.disparity_clean:5.1f}                   {100 * self.disparity_robust:5.1f}"
        return "\n".join([*lines, f"{'disparity':{wide}}         {gaps}"])


def per_class_report(clean: Tensor, robust: Tensor, y: Tensor, names: Sequence[str] | None = None) -> ClassReport:
    """Clean and robust accuracy of each class. clean, robust: (N,) bool, right on the clean input and under attack."""
    if names is not None:
        check_labels(y, len(y), len(names))
    classes = int(y.max()) + 1 if names is None else len(names)
    right, n = _counts(clean, y, classes)
    held, _ = _counts(robust, y, classes)
    rows = [
        ClassRow(
            names[label] if names else str(label),
            int(n[label]),
            float(right[label] / n[label]),
            float(held[label] / n[label]),
            wilson(int(right[label]), int(n[label])),
            wilson(int(held[label]), int(n[label])),
        )
        for label in n.nonzero().squeeze(1).tolist()
    ]
    return ClassReport(tuple(rows))


def _counts(correct: Tensor, y: Tensor, classes: int | None) -> tuple[Tensor, Tensor]:
    """(right answers, samples) of each class, float64 (classes,)."""
    if not isinstance(correct, Tensor) or correct.dtype != torch.bool or correct.dim() != 1 or len(correct) == 0:
        got = f"{correct.dtype} of shape {tuple(correct.shape)}" if isinstance(correct, Tensor) else type(correct).__name__
        raise InputError("correct", got, "one bool a sample, (N,)")
    if classes is not None:
        check_integer("classes", classes)
    check_labels(y, len(correct), classes)
    number = int(y.max()) + 1 if classes is None else classes
    n = torch.bincount(y, minlength=number).double()
    return torch.bincount(y, weights=correct.double(), minlength=number), n


def _percent(value: float, ci: Interval) -> str:
    return f"{100 * value:5.1f} [{100 * ci.lo:5.1f}, {100 * ci.hi:5.1f}]"
