"""PointNet (Qi et al. 2017, arXiv 1612.00593), small, without its transformer nets, and with masks.

Every point goes through the same layers, f_j = h(x_j); the cloud is max_j f_j over its real points; a head of two layers
follows. Normalisation is LayerNorm over the channels of one point: no statistics are shared among points or clouds, so padding
cannot reach the logits and meta-learning has no running averages to leak through.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError

LEAST = 16  # points of a cloud, as data.points has it: models and data do not import each other


class PointNet(nn.Module):
    """points (B, N, 3), mask (B, N) bool or None -> logits (B, classes).

    widths: of the layers of a point. head: width of the hidden layer behind the pooling.
    """

    def __init__(self, classes: int, widths: Sequence[int] = (64, 64, 128, 256), head: int = 128) -> None:
        super().__init__()
        check_integer("classes", classes)
        if not widths or any(not isinstance(w, int) or w < 1 for w in widths):
            raise InputError("widths", widths, "widths of at least one layer")
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths[:-1]), widths, strict=True):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]
        self.point = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(widths[-1], head), nn.LayerNorm(head), nn.ReLU(), nn.Linear(head, classes))

    def features(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, widths[-1]): what the head sees."""
        return masked_max(self.point(check_points(points)), mask)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.features(points, mask))
        return out


def check_points(points: Tensor) -> Tensor:
    """Only shapes: values were checked where the cloud was made, and a net runs in every step."""
    if points.dim() != 3 or points.shape[2] != 3 or points.shape[1] < LEAST:
        raise InputError("points", f"shape {tuple(points.shape)}", f"clouds (B, N, 3) of at least {LEAST} points")
    return points


def masked_max(features: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, C) -> (B, C), the maximum over the points that the mask says are real; a cloud without any gives zeros."""
    if mask is None:
        return features.amax(1)
    filled = features.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return torch.where(mask.any(1)[:, None], filled, torch.zeros_like(filled))
