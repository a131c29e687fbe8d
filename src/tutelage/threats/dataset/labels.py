"""Wrong labels in a training set: some labels are replaced at random, and the mask of those is returned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError

Noise = Literal["uniform", "other", "next"]


@dataclass(frozen=True, eq=False)
class CorruptedLabels:
    """labels: (n,) int64, corrupted. mask: (n,) bool, the rows that were chosen. wrong: (n,) bool, those that changed."""

    labels: Tensor
    mask: Tensor
    wrong: Tensor


def corrupt_labels(
    labels: Tensor, share: float, n_classes: int, generator: torch.Generator, *, noise: Noise = "uniform"
) -> CorruptedLabels:
    """Replace the labels of floor(share * n) rows, drawn without replacement; the labels given are not changed.

    labels: (n,) integers from 0 to n_classes - 1. share: in [0, 1]. noise: "uniform" draws over all classes, so that a
    chosen row keeps its label once in n_classes (symmetric noise of the memorisation literature); "other" draws over the
    other classes; "next" takes the next class, label + 1 mod n_classes (pair flips). Raises InputError.
    """
    check_integer("n_classes", n_classes, low=2)
    check_number("share", share, "a share from 0 to 1", low=0, high=1)
    check_choice("noise", noise, ("uniform", "other", "next"))
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError("labels", got, "a tensor of integer labels (n,)")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < n_classes):
        raise InputError("labels", f"{int(labels.min())} to {int(labels.max())}", f"labels from 0 to {n_classes - 1}")
    n = len(labels)
    # 0.35 * 100 is 35.0 and 0.29 * 100 is 28.999...: the floor is meant of the number, not of its rounding
    count = math.floor(share * n + 1e-9)
    rows = torch.randperm(n, generator=generator)[:count]
    if noise == "uniform":
        drawn = torch.randint(n_classes, (count,), generator=generator)
    else:
        shift = torch.randint(1, n_classes, (count,), generator=generator) if noise == "other" else 1
        drawn = (labels[rows].cpu() + shift) % n_classes
    found = labels.clone()
    found[rows.to(labels.device)] = drawn.to(labels)
    mask = torch.zeros(n, dtype=torch.bool, device=labels.device)
    mask[rows.to(labels.device)] = True
    return CorruptedLabels(found, mask, found != labels)
