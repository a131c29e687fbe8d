"""Accuracy of a point-cloud model under corruptions: clean, by corruption and severity, mean, worst, mean corruption error.

As Hendrycks and Dietterich (arXiv 1903.12261) do for images: E(s, c) is the error rate under corruption c of severity s, E_b
that of a named baseline, CE(c) = sum_s E(s, c) / sum_s E_b(s, c), and mCE = mean_c CE(c). A cloud has one seed a corruption,
whatever the model and the batch size, so that models are compared on the same corrupted clouds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.data.points.cloud import PointSet
from tutelage.models.checks import check_logits
from tutelage.models.guard import evaluating
from tutelage.threats.points.corruptions import PointCorruption, corrupt_points


@dataclass(frozen=True)
class PointRow:
    """Accuracy (0 to 1) under one corruption at one severity. strength: in the corruption's unit. at_least: share of the clouds
    that would have lost more points and kept the least number instead."""

    corruption: str
    severity: float
    strength: float
    unit: str
    accuracy: float
    at_least: float


@dataclass(frozen=True)
class PointTable:
    """clean: accuracy without corruption; rows: the others, in the order asked for; n: clouds."""

    clean: float
    rows: tuple[PointRow, ...]
    n: int

    @property
    def values(self) -> list[float]:
        return [row.accuracy for row in self.rows]

    @property
    def mean(self) -> float:
        """Over all corruptions and severities."""
        return sum(self.values) / len(self.rows)

    @property
    def worst(self) -> PointRow:
        return min(self.rows, key=lambda row: row.accuracy)

    def of(self, names: Sequence[str]) -> float:
        """The mean over the rows of some corruptions."""
        found = [row.accuracy for row in self.rows if row.corruption in names]
        if not found:
            raise InputError("names", names, f"some of {', '.join(dict.fromkeys(row.corruption for row in self.rows))}")
        return sum(found) / len(found)

    def mce(self, baseline: PointTable) -> float:
        """The mean corruption error, 1 for a model as good as the baseline; infinite where only the baseline makes no error.

        Raises InputError for another set of rows.
        """
        if [(r.corruption, r.severity) for r in self.rows] != [(r.corruption, r.severity) for r in baseline.rows]:
            raise InputError("baseline", "a table of other corruptions", "the same corruptions and severities")
        names = dict.fromkeys(row.corruption for row in self.rows)
        ratios = []
        for name in names:
            own, other = (sum(1 - r.accuracy for r in t.rows if r.corruption == name) for t in (self, baseline))
            ratios.append(own / other if other > 0 else 1.0 if own == 0 else float("inf"))
        return sum(ratios) / len(ratios)


@torch.no_grad()
def point_logits(model: nn.Module, points: Tensor, mask: Tensor, batch_size: int = 128) -> Tensor:
    """Logits (B, K) of model(points, mask), in eval mode, in batches."""
    with evaluating(model):
        parts = [model(points[i : i + batch_size], mask[i : i + batch_size]) for i in range(0, len(points), batch_size)]
    return check_logits(torch.cat(parts), len(points))


def accuracy(model: nn.Module, data: PointSet) -> float:
    """Share of the clouds that are answered rightly."""
    points, mask, labels = data[slice(0, len(data))]
    return float((point_logits(model, points, mask).argmax(1) == labels).double().mean())


def corruption_table(
    model: nn.Module, data: PointSet, corruptions: Mapping[PointCorruption, Sequence[float]], *, seed: int = 0
) -> PointTable:
    """The table of a model called as model(points, mask). corruptions: {PointCorruption("jitter"): (0.1, 0.4), ...}.

    Raises InputError for no corruptions, and what `corrupt_points` raises.
    """
    if not corruptions or not all(len(severities) for severities in corruptions.values()):
        raise InputError("corruptions", "none", "at least one corruption with its severities")
    points, mask, labels = data[slice(0, len(data))]
    rows = []
    for corruption, severities in corruptions.items():
        seeds = [derive(seed, corruption.name, i) for i in range(len(data))]
        for severity in severities:
            noisy = corrupt_points(corruption, points, severity, mask=mask, seeds=seeds)
            right = point_logits(model, noisy.points, noisy.mask).argmax(1) == labels
            rows.append(
                PointRow(
                    corruption.name, severity, severity * corruption.strength, corruption.unit,
                    float(right.double().mean()), float(noisy.at_least.double().mean()),
                )
            )  # fmt: skip
    return PointTable(accuracy(model, data), tuple(rows), len(data))
