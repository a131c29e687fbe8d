"""What a search by labels alone knows of its samples: which points are broken, and the nearest broken one so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats.budgets import Budget
from tutelage.threats.engine import Attack, AttackResult
from tutelage.threats.objectives import AttackBatch


@dataclass
class Asked:
    """The N samples still in the search, and all that is known of them. What is broken inside the budget goes to `found`.

    active: (N,) their places in the batch under attack. noise: a generator for each. at_once: how many points the model is
    given at a time. reach: (N,) how far from x a first point may be, in the budget's norm. nearest: (N, ...) the nearest
    broken points. size: (N,) their distances, infinite where there is none yet.
    """

    attack: Attack
    model: nn.Module
    part: AttackBatch
    budget: Budget
    active: Tensor
    noise: list[torch.Generator]
    found: AttackResult
    at_once: int
    reach: Tensor

    def __post_init__(self) -> None:
        self.nearest = self.part.x.clone()
        self.size = torch.full_like(self.reach, torch.inf)

    @property
    def x(self) -> Tensor:
        return self.part.x

    def in_range(self, points: Tensor) -> Tensor:
        return points if self.attack.bounds is None else points.clamp(*self.attack.bounds)

    def ask(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Whether points (M, ...) of the samples `rows` (M,), by default one of each, are broken; (M,) bool."""
        rows = torch.arange(len(points), device=points.device) if rows is None else rows
        answers, losses = [], []
        for some, of in zip(torch.split(points, self.at_once), torch.split(rows, self.at_once), strict=True):
            part = self.part.take(of)
            outputs = self.model(some)
            if not bool(torch.isfinite(outputs).all()):  # the argmax of NaN is a class like any other
                raise InputError("model", "NaN or infinity at a point of the search", "finite logits")
            answers.append(self.attack.accept(outputs, part))
            losses.append(self.attack.objective(outputs, part))
        self.found.forward += len(points)
        broken = torch.cat(answers)
        self._see(points, rows, broken, torch.cat(losses))
        return broken

    def _see(self, points: Tensor, rows: Tensor, broken: Tensor, losses: Tensor) -> None:
        size = torch.where(broken, self.budget.take(rows).size(self.x[rows], points), torch.inf)
        least = torch.full_like(self.size, torch.inf).scatter_reduce(0, rows, size, "amin")
        better = (least < self.size).nonzero().squeeze(1)
        if not len(better):
            return
        places = torch.arange(len(points), device=points.device)
        firsts = torch.where(size == least[rows], places, len(points))  # of points equally near, the first
        best = torch.full_like(self.active, len(points)).scatter_reduce(0, rows, firsts, "amin")
        self.nearest[better], self.size[better] = points[best[better]], least[better]
        inside = better[self.inside()[better]]
        at = self.active[inside]
        known = self.budget.take(inside).size(self.x[inside], self.found.x_adv[at])
        smaller = ~self.found.success[at] | (self.size[inside] < known)
        inside, at = inside[smaller], at[smaller]
        self.found.x_adv.index_copy_(0, at, self.nearest[inside])
        self.found.loss[at] = losses[best[inside]].to(self.found.loss)
        self.found.success[at] = True

    def inside(self) -> Tensor:
        """(N,) bool: the nearest broken point is within the budget."""
        return self.size <= torch.as_tensor(self.budget.eps).to(self.size)

    def retire(self) -> Tensor | None:
        """Let the samples go that are broken within the budget -> (M,) those that stay; None if all do."""
        over = self.inside()
        if not (self.attack.retire and bool(over.any())):
            return None
        left = (~over).nonzero().squeeze(1)
        self.take(left)
        return left

    def take(self, left: Tensor) -> None:
        if len(left) < len(self.size):
            self.part, self.budget, self.active = self.part.take(left), self.budget.take(left), self.active[left]
            self.nearest, self.size, self.reach = self.nearest[left], self.size[left], self.reach[left]
            self.noise = [self.noise[i] for i in left.tolist()]


def wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to meet the shape of `like`."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
