"""Class sizes made unequal on purpose, to see what a method does to the small classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.data.images import ImageSet


def exponential_counts(largest: int, classes: int, ratio: float) -> list[int]:
    """Class sizes largest * ratio ** (-k / (classes - 1)), k = 0, 1, ...: from `largest` down to largest / ratio.

    Rounded, at least 1. ratio: the largest class over the smallest, >= 1.
    """
    check_integer("largest", largest)
    check_integer("classes", classes, low=2)
    check_number("ratio", ratio, "the largest class over the smallest, a number >= 1", low=1)
    return [max(1, round(largest * ratio ** (-k / (classes - 1)))) for k in range(classes)]


def thinned(data: ImageSet, ratio: float, *, order: Sequence[int] | None = None, seed: int = 0) -> ImageSet:
    """`data` with exponential class sizes: the largest class keeps all that the smallest class of `data` has.

    order: the labels from the largest class to the smallest; by default drawn by `seed`, as are the samples that stay.
    What stays is in its old order; its name says what was done.
    """
    classes = len(data.classes)
    if order is None:
        order = numpy_generator(seed, "thinned", "order").permutation(classes).tolist()
    if sorted(order) != list(range(classes)):
        raise InputError("order", list(order), f"every label from 0 to {classes - 1} once")
    counts = class_counts(data)
    if int(counts.min()) == 0:
        raise InputError("data", f"no sample of class {int(counts.argmin())}", "at least one of each class")
    kept = []
    for label, n in zip(order, exponential_counts(int(counts.min()), classes, ratio), strict=True):
        mine = (data.labels == label).nonzero().squeeze(1).numpy()
        kept.append(numpy_generator(seed, "thinned", label).permutation(mine)[:n])
    part = data.take(torch.from_numpy(np.sort(np.concatenate(kept))))
    return replace(part, name=f"{data.name}, thinned to ratio {ratio:g}")


def class_counts(data: ImageSet) -> Tensor:
    """How many samples each class has, (classes,) int64."""
    return torch.bincount(data.labels, minlength=len(data.classes))
