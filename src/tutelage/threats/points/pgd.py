"""Gradient attacks on point clouds: every point may move within a ball of its own.

    delta_j <- P( delta_j + step g_j / |g_j| ), g_j = d loss / d x_j, P the projection on |delta_j| <= eps            (1)

Max-pooling nets give most points no gradient at all; such a point stays where its random start put it. Points that the mask
or `moved` leaves out do not move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.data.points.checks import check_cloud
from tutelage.models.guard import evaluating

PointLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits (B, K), labels (B,), displacement (B, N, 3) -> sum over clouds


def cross_entropy(logits: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


@dataclass(frozen=True)
class PointPGD:
    """PGD with an L2 ball of radius `eps` around each point. `attack(model, points, mask, labels, generator) -> points`.

    steps, step_size: default 2.5 eps / steps. start: a random one within the balls. loss: what is maximised.
    """

    eps: float
    steps: int = 5
    step_size: float | None = None
    start: bool = True
    loss: PointLoss = cross_entropy

    def __post_init__(self) -> None:
        check_number("eps", self.eps, "a radius >= 0 in units of the clouds", low=0)
        check_integer("steps", self.steps)
        if self.step_size is not None:
            check_number("step_size", self.step_size, "a length >= 0", low=0)

    def __call__(
        self,
        model: nn.Module,
        points: Tensor,
        mask: Tensor | None,
        labels: Tensor,
        generator: torch.Generator,
        *,
        moved: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        """points (B, N, 3) -> attacked ones. moved: (B, N) bool, which points may move (default: the real ones). eps: (B,)
        radii, one a cloud, instead of the attack's own. The model is called as model(points, mask), in eval mode."""
        points, mask = check_cloud(points, mask)
        free = (mask if moved is None else moved & mask)[..., None]
        radius = points.new_full((len(points),), self.eps) if eps is None else eps.to(points)
        radius = radius[:, None, None]
        step = radius * 2.5 / self.steps if self.step_size is None else torch.full_like(radius, self.step_size)
        delta = torch.zeros_like(points)
        if self.start:
            direction = F.normalize(torch.randn(points.shape, generator=generator), dim=2)
            share = torch.rand(points.shape[:2], generator=generator)[..., None] ** (1 / 3)
            delta = (direction * share).to(points) * radius * free
        with evaluating(model, verify=False):
            for _ in range(self.steps):
                delta.requires_grad_()
                logits = model(points + delta, mask)
                (gradient,) = torch.autograd.grad(self.loss(logits, labels, delta), delta)
                # a tiny norm is no direction: such points rest
                gradient = gradient / gradient.norm(dim=2, keepdim=True).clamp(min=1e-12)
                delta = within_balls(delta.detach() + step * gradient, radius) * free
        return torch.where(free, points + delta, points)


def within_balls(delta: Tensor, radius: Tensor | float) -> Tensor:
    """Displacements (B, N, 3), each cut to length `radius` (a number, or broadcastable to (B, N, 1))."""
    length = delta.norm(dim=2, keepdim=True)
    cut: Tensor = delta * (torch.as_tensor(radius).to(delta) / length.clamp(min=1e-20)).clamp(max=1.0)
    return cut
