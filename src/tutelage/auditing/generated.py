"""Made pictures, judged: how near they are to real ones in a network's features, and how often a thing is seen in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.feature_distances import frechet_distance, kernel_distance, precision_recall
from tutelage.core.stats import Interval, mcnemar, wilson
from tutelage.models.checks import check_inputs
from tutelage.models.guard import evaluating

Features = Callable[[Tensor], Tensor]


@torch.no_grad()
def features_of(images: Tensor, features: nn.Module | Features, *, batch_size: int = 512) -> Tensor:
    """(N, D) of images (N, C, H, W) in [0, 1] or uint8: what `features` says of each, flattened; a module in eval mode."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not len(images):
        raise InputError("images", getattr(images, "shape", type(images).__name__), "images (N, C, H, W)")
    check_integer("batch_size", batch_size)
    if images.dtype != torch.uint8:
        check_inputs(images)

    def ask(function: Features) -> Tensor:
        parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        return torch.cat([function(p.float().div(255) if p.dtype == torch.uint8 else p).flatten(1) for p in parts])

    if isinstance(features, nn.Module):
        with evaluating(features):
            return ask(features)
    return ask(features)


@dataclass(frozen=True)
class Likeness:
    """Distances of made pictures to real ones in one network's features; the shares of Kynkäänniemi et al., in [0, 1]."""

    frechet: float
    kernel: float
    precision: float
    recall: float
    n_real: int
    n_made: int


def likeness(real: Tensor, made: Tensor, features: nn.Module | Features | None = None, *, neighbours: int = 1000) -> Likeness:
    """How like the pictures `made` are to `real`. features None: both are features (N, D) already.

    neighbours: precision and recall compare each with each, so they use at most that many of both.
    """
    check_integer("neighbours", neighbours, low=10)
    a, b = (real, made) if features is None else (features_of(real, features), features_of(made, features))
    shares = precision_recall(a[:neighbours], b[:neighbours])
    return Likeness(
        frechet_distance(a, b), kernel_distance(a, b), shares.precision, shares.recall, len(a), len(b)
    )  # fmt: skip


@dataclass(frozen=True)
class Suppression:
    """A thing that must not be there, in n pictures without and with a negative prompt, from the same noise.

    before, after: shares of pictures that show it, with Wilson intervals. p_value: exact test (McNemar) that both are equal.
    """

    n: int
    before: float
    before_ci95: Interval
    after: float
    after_ci95: Interval
    p_value: float

    @property
    def without(self) -> float:
        """Share of pictures without the thing, as the paper reports it."""
        return 1 - self.after


def suppression(seen_before: Tensor | Sequence[bool], seen_after: Tensor | Sequence[bool]) -> Suppression:
    """The suppression rate of paired pictures: whether the thing was seen in each (N,), before and after."""
    before, after = (torch.as_tensor(one) for one in (seen_before, seen_after))
    for name, one in (("seen_before", before), ("seen_after", after)):
        if one.dtype != torch.bool or one.dim() != 1 or not len(one):
            raise InputError(name, f"{one.dtype} of shape {tuple(one.shape)}", "booleans (N,), one for each picture")
    if len(before) != len(after):
        raise InputError("seen_after", f"{len(after)} pictures", f"{len(before)}, the same as before")
    n, a, b = len(before), int(before.sum()), int(after.sum())
    return Suppression(n, a / n, wilson(a, n), b / n, wilson(b, n), mcnemar(before.numpy(), after.numpy()).p_value)
