"""The audit: standard and robust models at several imbalance ratios, and the gap split into its two parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from tutelage.core.checks import check_callable, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.core.stats import mean_t
from tutelage.data.guard import training_only
from tutelage.data.images import ImageSet
from tutelage.methods.understand.accuracy_disparity.measure import Samples, class_accuracies, labels_of, make_imbalanced

Train = Callable[[Any, float, int], nn.Module]  # (imbalanced training data, eps, seed) -> model; eps 0 is standard training
Models = Mapping[tuple[float, float, int], nn.Module]  # (ratio, eps, seed) -> a model that was trained before


@dataclass(frozen=True)
class ModelRow:
    """One model: clean accuracy of each class on the balanced test data, in [0, 1]. eps 0 is the standard model."""

    ratio: float
    eps: float
    seed: int
    acc_majority: float
    acc_minority: float

    @property
    def disparity(self) -> float:
        """AD: majority minus minority, with its sign."""
        return self.acc_majority - self.acc_minority

    @property
    def accuracy(self) -> float:
        """Accuracy on test data with the imbalance of the training data."""
        return (self.ratio * self.acc_majority + self.acc_minority) / (1 + self.ratio)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % Student-t interval (None for one seed), in shares."""

    value: float
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class EffectRow:
    """Robust against standard models of one ratio and one eps, paired by seed.

    delta_disparity: Delta_AD, the gap that robustness adds. delta_accuracy: Delta_ACC, the accuracy that it takes, on test
    data with the imbalance of the training data. disparity_standard, disparity_robust: the two gaps.
    """

    ratio: float
    eps: float
    delta_disparity: Estimate
    delta_accuracy: Estimate
    disparity_standard: Estimate
    disparity_robust: Estimate


@dataclass(frozen=True)
class Part:
    """The decomposition at one eps. inherent: the accuracy that robustness takes on balanced data, (7).

    by_imbalance: ratio -> the gap that robustness adds there and not at ratio 1, paired by seed: what imbalance makes of it.
    """

    eps: float
    inherent: Estimate
    by_imbalance: dict[float, Estimate]


@dataclass
class DisparityAudit:
    """What `disparity_audit` found. rows: one a model. table: one row for each ratio and eps. decomposition: one part an eps.

    predicted: (ratio, eps) -> (Delta_AD, Delta_ACC) of a formula, for the report. warnings: reasons to distrust it.
    """

    rows: list[ModelRow]
    table: list[EffectRow]
    decomposition: list[Part]
    data: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    predicted: Callable[[float, float], tuple[float, float]] | None = None

    def effect(self, ratio: float, eps: float) -> EffectRow:
        """The row of a ratio and an eps; InputError if there is none."""
        for row in self.table:
            if (row.ratio, row.eps) == (ratio, eps):
                return row
        raise InputError("ratio", f"ratio {ratio}, eps {eps}", "a ratio and an eps above 0 of this audit")

    def to_report(self, path: Path | str) -> Path:
        """Write one self-contained HTML page with the decomposition, the figure and all models; returns its path."""
        from tutelage.methods.understand.accuracy_disparity.report import write_report

        return write_report(Path(path), self)


def disparity_audit(
    train: Train | Models,
    data: tuple[Samples, Samples],
    *,
    ratios: Sequence[float] = (1, 2, 5, 10),
    eps: Sequence[float],
    seeds: int | Sequence[int] = 5,
    n_majority: int | None = None,
    predicted: Callable[[float, float], tuple[float, float]] | None = None,
    progress: Progress = QUIET,
) -> DisparityAudit:
    """How much of a robust model's class gap comes from robustness itself, and how much from imbalance?

    train: (training data, eps, seed) -> model, an nn.Module from inputs to two logits, trained on the given data against
        attacks of size eps (0: standard training); or a mapping (ratio, eps, seed) -> model of models trained before.
        Attack, norm and net are its own affair. While it runs, reading test data raises SplitError.
    data: (training data, test data) of two classes, 0 the majority-to-be and 1 the minority (`class_pair` makes them): an
        ImageSet or (x, y) tensors each. For each ratio and seed the training data are subsampled (`make_imbalanced`); the
        test data are not: each class has its own accuracy there.
    ratios: majority over minority, 1 among them. eps: sizes above 0. seeds: how many, or which; n_majority: see
        `make_imbalanced`. predicted: (ratio, eps) -> (Delta_AD, Delta_ACC) of a formula, drawn dashed in the report.

    Trains (1 + len(eps)) * len(ratios) * len(seeds) models. Raises InputError before the first of them.
    """
    ratios, sizes, numbers = _grid(ratios, eps, seeds)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputError("data", type(data).__name__, "a pair (training data, test data)")
    whole, test = data
    for each in (whole, test):
        labels_of(each)
    for ratio in ratios:  # a class that is too small is told now
        make_imbalanced(whole, ratio, generator(0), n_majority=n_majority)
    cells = [(ratio, seed, size) for ratio in ratios for seed in numbers for size in (0.0, *sizes)]
    if isinstance(train, Mapping):
        if missing := [(r, e, s) for r, s, e in cells if (r, e, s) not in train]:
            raise InputError("train", f"{len(missing)} missing models, first {missing[0]}", "one for each (ratio, eps, seed)")
    else:
        check_callable("train", train, "a function of (training data, eps, seed) that gives a model, or trained models")
    rows = []
    with progress.task("class gaps", len(cells)) as task:
        for ratio, seed, size in cells:
            if isinstance(train, Mapping):
                model = train[ratio, size, seed]
            else:
                # one draw for all eps of a seed: standard and robust models are paired by their data
                sample = make_imbalanced(whole, ratio, generator(seed, "imbalance", ratio), n_majority=n_majority)
                with training_only():
                    model = train(sample, size, seed)
            if not isinstance(model, nn.Module):
                raise InputError("train", type(model).__name__, "a function that gives an nn.Module")
            rows.append(ModelRow(ratio, size, seed, *class_accuracies(model, test)))
            task.advance(1, f"ratio {ratio:g}, eps {size:g}: gap {rows[-1].disparity:+.3f}")
    return summarise(rows, data=_describe(whole, test), predicted=predicted)


def summarise(
    rows: Sequence[ModelRow],
    *,
    data: dict[str, Any] | None = None,
    predicted: Callable[[float, float], tuple[float, float]] | None = None,
) -> DisparityAudit:
    """The audit of accuracies that were measured before: every ratio with every eps (0 and ratio 1 among them) and seed."""
    at = {(row.ratio, row.eps, row.seed): row for row in rows}
    ratios, sizes = sorted({row.ratio for row in rows}), sorted({row.eps for row in rows})
    seeds = sorted({row.seed for row in rows})
    if not rows or 0 not in sizes or 1 not in ratios or len(sizes) < 2 or len(at) != len(ratios) * len(sizes) * len(seeds):
        raise InputError("rows", f"{len(rows)} models", "each ratio (1 among them) with each eps (0 among them) and each seed")
    table, parts, warnings = [], [], []
    for eps in sizes[1:]:
        added = {ratio: [at[ratio, eps, s].disparity - at[ratio, 0, s].disparity for s in seeds] for ratio in ratios}
        for ratio in ratios:
            pairs = [(at[ratio, 0, s], at[ratio, eps, s]) for s in seeds]
            table.append(
                EffectRow(
                    ratio,
                    eps,
                    _estimate(added[ratio]),
                    _estimate([standard.accuracy - robust.accuracy for standard, robust in pairs]),
                    _estimate([standard.disparity for standard, _ in pairs]),
                    _estimate([robust.disparity for _, robust in pairs]),
                )
            )
            if all(robust.acc_minority == 0 for _, robust in pairs):
                warnings.append(f"ratio {ratio:g}, eps {eps:g}: every robust model always names the majority")
        inherent = _estimate([at[1, 0, s].accuracy - at[1, eps, s].accuracy for s in seeds])
        beyond = {r: _estimate([a - b for a, b in zip(added[r], added[1], strict=True)]) for r in ratios if r != 1}
        parts.append(Part(eps, inherent, beyond))
    if len(seeds) == 1:
        warnings.append("one seed: no interval can be given")
    return DisparityAudit(list(rows), table, parts, data or {}, warnings, predicted)


def _estimate(values: Sequence[float]) -> Estimate:
    if len(values) == 1:
        return Estimate(values[0], None, 1)
    mean, interval = mean_t(values)
    return Estimate(mean, (interval.lo, interval.hi), len(values))


def _grid(
    ratios: Sequence[float], eps: Sequence[float], seeds: int | Sequence[int]
) -> tuple[list[float], list[float], list[int]]:
    for argument, values in (("ratios", ratios), ("eps", eps)):
        if not isinstance(values, list | tuple) or not values or len(set(values)) < len(values):
            raise InputError(argument, values, "a list of different numbers")
    for ratio in ratios:
        check_number("ratios", ratio, "majority over minority, >= 1", low=1)
    if 1 not in ratios:
        raise InputError("ratios", list(ratios), "1 among them: it shows what is inherent")
    for size in eps:
        check_number("eps", size, "sizes above 0 (standard training, 0, is always done)", low=1e-12)
    if isinstance(seeds, list | tuple | range):
        numbers = list(seeds)
        if not numbers or len(set(numbers)) < len(numbers):
            raise InputError("seeds", seeds, "different seeds, at least one")
        for seed in numbers:
            check_integer("seeds", seed, low=0)
    else:
        check_integer("seeds", seeds)
        numbers = list(range(cast(int, seeds)))
    return sorted(float(r) for r in ratios), sorted(float(e) for e in eps), numbers


def _describe(whole: Samples, test: Samples) -> dict[str, Any]:
    def one(data: Samples) -> str:
        name = data.name if isinstance(data, ImageSet) else "arrays"
        return f"{name}, {len(labels_of(data)):,} samples"

    return {"training": one(whole), "test": one(test)}
