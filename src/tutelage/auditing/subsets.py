"""Accuracy with every subset of the modalities: each encoder once, then all 2^M - 1 fusions of its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from torch import nn

from tutelage.auditing.page import Table, percent
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.stats import wilson
from tutelage.data.multimodal import MultiModalSet
from tutelage.models.guard import evaluating


@dataclass(frozen=True)
class SubsetRow:
    """Accuracy in [0, 1] with these modalities only, its Wilson interval, and on how many samples (those that have one)."""

    modalities: tuple[str, ...]
    accuracy: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class SubsetTable:
    """All rows, the largest subsets first. modalities: of the model."""

    modalities: tuple[str, ...]
    rows: tuple[SubsetRow, ...]

    def __getitem__(self, names: Sequence[str]) -> SubsetRow:
        """The row of a subset, whatever the order of its names."""
        wanted = frozenset([names] if isinstance(names, str) else names)
        for row in self.rows:
            if frozenset(row.modalities) == wanted:
                return row
        raise InputError("names", sorted(wanted), "one of " + "; ".join(", ".join(row.modalities) for row in self.rows))

    def without(self, name: str) -> SubsetRow:
        """The row in which only `name` is missing."""
        return self[[one for one in self.modalities if one != name]]

    def table(self) -> Table:
        """For a page."""
        rows = []
        for row in self.rows:
            marks = ["yes" if name in row.modalities else "–" for name in self.modalities]
            rows.append([" + ".join(row.modalities), *marks, percent(row.accuracy, row.ci95), f"{row.n:,}"])
        header = ["given", *self.modalities, "accuracy [95 %]", "samples"]
        return Table("Accuracy with every subset of the modalities", header, rows, "l" + "l" * len(self.modalities) + "rr")


def evaluate_subsets(
    model: nn.Module,
    data: MultiModalSet,
    *,
    subsets: Literal["all"] | Sequence[Sequence[str]] = "all",
    batch_size: int = 256,
) -> SubsetTable:
    """Accuracy of `model` when only some modalities are given, for all or some subsets.

    model: in two halves, as `FusionModel` is: `encode(batch)` -> features of each modality, `fuse(features, present)` with
    present (B, M) bool -> logits, and the names `modalities`, in the order of the columns.
    A sample that has none of a subset's modalities is left out of that row. Raises InputError for a model without the two
    halves, and for a modality of the model that no sample has.
    """
    halves: Any = model
    if not all(hasattr(model, name) for name in ("encode", "fuse", "modalities")):
        raise InputError("model", type(model).__name__, "a model with encode, fuse and modalities, such as FusionModel")
    if not isinstance(data, MultiModalSet):
        raise InputError("data", type(data).__name__, "a MultiModalSet")
    check_integer("batch_size", batch_size)
    names: tuple[str, ...] = tuple(halves.modalities)
    for name in names:
        if name not in data.inputs:
            raise InputError("data", f"no {name}", f"samples with {', '.join(names)}")
    wanted = all_subsets(names) if subsets == "all" else [_checked(one, names) for one in subsets]
    right, counted = [0] * len(wanted), [0] * len(wanted)
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(data), batch_size):
            batch, y = data[start : start + batch_size]
            has = torch.stack([batch.has(name) for name in names], 1)
            features = halves.encode(batch)  # each encoder once
            for i, subset in enumerate(wanted):
                present = has & torch.tensor([name in subset for name in names])
                some = present.any(1)
                hits = (halves.fuse(features, present).argmax(1) == y) & some
                right[i] += int(hits.sum())
                counted[i] += int(some.sum())
    rows = []
    for subset, k, n in zip(wanted, right, counted, strict=True):
        if n == 0:
            raise InputError("data", f"no sample with any of {', '.join(subset)}", "samples for every subset")
        interval = wilson(k, n)
        rows.append(SubsetRow(subset, k / n, (interval.lo, interval.hi), n))
    return SubsetTable(names, tuple(rows))


def all_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The 2^M - 1 subsets that are not empty, the largest first."""
    return [one for size in range(len(names), 0, -1) for one in combinations(names, size)]


def _checked(subset: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(subset, str) or not subset or any(name not in names for name in subset):
        raise InputError("subsets", subset, f"tuples of names among {', '.join(names)}")
    return tuple(name for name in names if name in subset)
