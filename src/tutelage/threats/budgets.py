"""Budgets: the geometry of a threat. How far may an input move, and how is a move drawn, measured and cut back?

A budget knows no model and no loss. `eps` is one number or one a sample; distances are in input units (pixels in [0, 1]).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.core.rng import Noise, normal, uniform


def _per_sample(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Shape (B,) -> (B, 1, ...) on the device of `like`; numbers pass."""
    if isinstance(value, Tensor):
        return value.to(like).reshape(-1, *[1] * (like.dim() - 1))
    return value


@dataclass(frozen=True)
class Budget(ABC):
    """All inputs within distance `eps` (a number > 0, or a tensor (B,) of them >= 0) of x."""

    eps: float | Tensor
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.eps, int | float | Tensor) or isinstance(self.eps, bool):
            raise InputError("eps", self.eps, "a finite number >= 0, or a tensor with one a sample")
        eps = torch.as_tensor(self.eps, dtype=torch.float64)
        if eps.dim() > 1 or not bool(torch.isfinite(eps).all()) or bool((eps < 0).any()):
            raise InputError("eps", self.eps, "a finite number >= 0, or one a sample")

    def take(self, index: Tensor) -> Self:
        """The budget of a part of the batch."""
        return replace(self, eps=self.eps[index.to(self.eps.device)]) if isinstance(self.eps, Tensor) else self

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    @abstractmethod
    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The point of the budget around x that is nearest to x_adv. Shapes (B, ...)."""

    def project_within(self, x: Tensor, x_adv: Tensor, bounds: tuple[float, float] | None) -> Tensor:
        """A point inside the budget and the range of valid inputs; x itself must be in that range.

        First the budget, then the range: what the range cuts off never leads out of the budget. In Linf it is the nearest.
        """
        x_adv = self.project(x, x_adv)
        return x_adv if bounds is None else x_adv.clamp(*bounds)

    def box(self, x: Tensor, bounds: tuple[float, float] | None) -> tuple[Tensor, Tensor] | None:
        """The lowest and highest values inside the budget and the range, each (B, ...), where each coordinate is free.

        Then one clamp does what `project_within` does. None for budgets of any other form.
        """
        return None

    @abstractmethod
    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        """A perturbation drawn uniformly from the budget, drawn on the CPU; shape of x."""

    @abstractmethod
    def size(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance of each x_adv from its x, shape (B,)."""

    @abstractmethod
    def steepest(self, grad: Tensor) -> Tensor:
        """The direction of unit size along which a linear function with gradient `grad` rises fastest; a tensor of its own."""

    def __str__(self) -> str:
        eps = self.eps
        text = "per-sample" if isinstance(eps, Tensor) else f"{eps:g}"
        if isinstance(eps, float) and 0 < eps < 1 and math.isclose(eps * 255, round(eps * 255), rel_tol=1e-9):
            text = f"{round(eps * 255)}/255"
        return f"{self.norm}@{text}"


@dataclass(frozen=True)
class Linf(Budget):
    """Every coordinate moves by at most eps."""

    norm: ClassVar[str] = "linf"

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        eps = _per_sample(self.eps, x)
        return x_adv.clamp(x - eps, x + eps)

    def box(self, x: Tensor, bounds: tuple[float, float] | None) -> tuple[Tensor, Tensor] | None:
        if type(self) is not Linf:
            return None  # a subclass may project otherwise
        eps = _per_sample(self.eps, x)
        low, high = x - eps, x + eps
        return (low, high) if bounds is None else (low.clamp_(*bounds), high.clamp_(*bounds))

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        return (uniform(x.shape, noise).to(x) * 2 - 1) * _per_sample(self.eps, x)

    def size(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return (x_adv - x).abs().flatten(1).amax(1)

    def steepest(self, grad: Tensor) -> Tensor:
        return grad.sign()


@dataclass(frozen=True)
class L2(Budget):
    """The Euclidean distance is at most eps."""

    norm: ClassVar[str] = "l2"

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        delta = x_adv - x
        norm = _flat_norm(delta)
        eps = torch.as_tensor(_per_sample(self.eps, x)).to(norm)
        return x + delta * torch.where(norm > eps, eps / norm.clamp_min(1e-12), torch.ones_like(norm))

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        # uniform in the ball: a uniform direction and a radius distributed as u^(1/d)
        direction = normal(x.shape, noise).to(x)
        u = uniform((x.shape[0], *[1] * (x.dim() - 1)), noise).to(x)
        radius = u ** (1 / max(1, x[0].numel())) * _per_sample(self.eps, x)
        return direction / _flat_norm(direction).clamp_min(1e-12) * radius

    def size(self, x: Tensor, x_adv: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm((x_adv - x).flatten(1), dim=1)
        return distance

    def steepest(self, grad: Tensor) -> Tensor:
        return grad / _flat_norm(grad).clamp_min(1e-12)


@dataclass(frozen=True)
class L1(Budget):
    """The sum of absolute changes is at most eps."""

    norm: ClassVar[str] = "l1"

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return self.project_within(x, x_adv, None)

    def project_within(self, x: Tensor, x_adv: Tensor, bounds: tuple[float, float] | None) -> Tensor:
        """The nearest point that is inside the budget and the range at once.

        It is x + sign(u) min(max(|u| - t, 0), room) with u = x_adv - x, room the way to the range's end, and the smallest
        t >= 0 that makes the sum of changes at most eps. As t falls, that sum is piecewise linear: a coordinate begins to
        grow at t = |u| and stops at t = |u| - room, so t lies between two of these sorted points.
        """
        u = (x_adv - x).flatten(1).double()
        size, eps = u.abs(), torch.as_tensor(self.eps, dtype=torch.float64, device=x.device).expand(len(x))
        if bounds is None:
            room = torch.full_like(size, torch.inf)
        else:
            room = torch.where(u > 0, bounds[1] - x.flatten(1).double(), x.flatten(1).double() - bounds[0]).clamp_min(0)
        ends = torch.cat([size, (size - room).clamp_min(0)], 1)
        points, order = ends.sort(dim=1, descending=True)
        slope = torch.where(order < size.shape[1], 1.0, -1.0).to(points).cumsum(1)
        last = points.shape[1] - 1
        below = torch.cat([points[:, 1:], points.new_zeros(len(x), 1)], 1)
        total = (slope * (points - below)).cumsum(1)  # the sum of changes at t = below
        k = (total < eps[:, None]).sum(1).clamp_max(last)[:, None]  # the piece in which it reaches eps
        t = (below + (total - eps[:, None]) / slope.clamp_min(1)).gather(1, k).clamp_min(0)
        change = torch.minimum((size - t).clamp_min(0), room) * u.sign()
        return x + change.to(x).reshape(x.shape)

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        # uniform in the ball: d + 1 exponential variables over their sum, the last one dropped, with random signs
        u = uniform(x.shape, noise).to(x) * 2 - 1
        change = -u.sign() * torch.log1p(-u.abs().clamp_max(1 - 1e-7))
        rest = -torch.log1p(-uniform((len(x), *[1] * (x.dim() - 1)), noise).to(x).clamp_max(1 - 1e-7))
        return change / (_per_sample(self.size(torch.zeros_like(x), change), x) + rest) * _per_sample(self.eps, x)

    def size(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return (x_adv - x).abs().flatten(1).sum(1)

    def steepest(self, grad: Tensor) -> Tensor:
        flat = grad.flatten(1)
        at = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, at, flat.gather(1, at).sign()).reshape(grad.shape)


def _flat_norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm.reshape(-1, *[1] * (x.dim() - 1))


BUDGETS: dict[str, type[Budget]] = {"linf": Linf, "l2": L2, "l1": L1}


def parse_budget(text: str) -> Budget:
    """`linf@8/255` or `l2@0.5` -> a budget. eps must be above 0 here, and below the width of [0, 1] in linf."""
    if not isinstance(text, str):
        raise InputError("threats", text, "text such as linf@8/255 or l2@0.5")
    match = re.fullmatch(r"\s*(\w+)@([0-9.eE+-]+)(?:/([0-9.eE+-]+))?\s*", text)
    if not match or match[1].lower() not in BUDGETS:
        raise InputError(
            "threats", text, f"NORM@EPS with NORM one of {', '.join(BUDGETS)}, such as linf@8/255, l2@0.5 or l1@12"
        )
    try:
        eps = float(match[2]) / float(match[3] or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError("threats", text, "a number as EPS, such as 0.1 or 8/255") from None
    if not (math.isfinite(eps) and eps > 0):
        raise InputError("threats", text, "an EPS above 0")
    if match[1].lower() == "linf" and eps >= 1:
        # inside such a budget every image is every other: almost surely a number of 0-255 pixels
        raise InputError("threats", text, "an EPS below 1, as pixels are in [0, 1]: linf@8/255 for 8 of 255 grey levels")
    return BUDGETS[match[1].lower()](eps)
