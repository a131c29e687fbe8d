"""The Square attack: random search with square-shaped changes, for models that only tell their logits (Andriushchenko et al.
2020, arXiv 1912.00049; in L1: Croce & Hein 2021, arXiv 2103.01208).

Each query changes one square of the current point at a random place and keeps the change if the objective rises. The
share of the input that a square covers starts at p and is halved again and again:

    side s = sqrt(p_i h w),    p_i = p / 2^k,    k = how many of the query counts in HALVINGS (of 10,000) are behind     (1)

Linf: every channel of the square is moved by +-2 eps and cut to the budget, so that each pixel is at an end of its range;
the search begins with vertical stripes of +-eps.                                                                        (2)
L2 and L1: the square gets a bump, a centre that falls off to its sides, with the length that another square gives up and
that is left of eps:  length^q = (eps^q - |delta|^q) / channels + |delta in both squares|^q  a channel, q = 2 or 1.       (3)

No gradients are used. Inputs that are no images are taken as one channel of height 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise, uniform
from tutelage.threats.budgets import L1, L2, Budget, Linf
from tutelage.threats.engine import Attack, AttackResult, keep
from tutelage.threats.objectives import AttackBatch, Objective, margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
DRAWN_AT_ONCE = 64  # queries whose random numbers a sample draws together


@dataclass(frozen=True)
class Square(Attack):
    """Random search by squares. queries: forward passes a sample and restart, at most. p: the first square's share.

    Budgets in Linf, L2 and L1. The objective is the margin; the other fields are those of `Attack`.

    patience: after so many queries a sample is given up where other attacks have already reached a higher objective
    (`batch.reached`, which a suite knows). Where they have not, their gradients lie, and the search goes on.
    """

    needs_gradients: ClassVar[bool] = False

    queries: int = 5000
    p: float = 0.8
    patience: int | None = None
    objective: Objective = field(default=margin, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("queries", self.queries)
        if self.patience is not None:
            check_integer("patience", self.patience)
        check_number("p", self.p, "a share of the input, above 0 and at most 1", low=math.ulp(0.0), high=1)
        if not isinstance(self.budget, Linf | L2 | L1):
            raise InputError("budget", self.budget, "a budget in linf, l2 or l1")

    @property
    def name(self) -> str:
        return f"Square-{self.queries}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    @property
    def settings(self) -> dict[str, object]:
        return {**super().settings, "queries": self.queries, "p": self.p, "patience": self.patience}

    @torch.no_grad()
    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        part, budget = batch.take(active), self.budget.take(active)
        shape = (-1, *part.x.shape[-3:]) if part.x.dim() >= 4 else (len(part.x), 1, 1, part.x[0].numel())
        sources = [noise] if isinstance(noise, torch.Generator) else list(noise)
        x = part.x.reshape(shape)
        best = self._within(x, self._first(x, budget, sources), budget)
        highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        draws = torch.empty(0)
        for query in range(self.queries):
            drawn = (query - 1) % DRAWN_AT_ONCE
            if query > 0 and drawn == 0:
                draws = uniform((len(x), DRAWN_AT_ONCE, 5 + x.shape[1]), sources).to(x)
            tried = best if query == 0 else self._change(x, best, budget, draws[:, drawn], self._share(query))
            x_adv = tried.reshape(part.x.shape)
            logits = model(x_adv)
            loss, broken = self.objective(logits, part), self.accept(logits, part)
            found.forward += len(x)
            if not bool(torch.isfinite(loss).all()):
                raise InputError("model", f"NaN or infinity inside the budget, in {self.name}", "finite logits and objective")
            keep(found, active, x_adv, loss, broken)
            better = loss > highest
            best = torch.where(better[:, None, None, None], tried, best)
            highest = torch.where(better, loss, highest)
            over = broken & self.retire
            if query + 1 == self.patience and part.reached is not None:
                over |= highest <= part.reached
            if bool(over.any()):
                left = (~over).nonzero().squeeze(1)
                if not len(left):
                    return
                active, part, budget, x = active[left], part.take(left), budget.take(left), x[left]
                best, highest, draws = best[left], highest[left], draws[left] if len(draws) else draws
                sources = [sources[i] for i in left.tolist()]

    def _share(self, query: int) -> float:
        """p_i (1)."""
        return float(self.p / 2 ** sum(query * 10_000 / self.queries > count for count in HALVINGS))

    def _within(self, x: Tensor, x_adv: Tensor, budget: Budget) -> Tensor:
        return budget.project_within(x, x_adv, self.bounds)

    def _first(self, x: Tensor, budget: Budget, sources: list[torch.Generator]) -> Tensor:
        """Stripes of one column in Linf (2); a grid of bumps in L2 and L1."""
        n, channels, height, width = x.shape
        if isinstance(budget, Linf):
            return x + _eps(budget, x) * _signs(uniform((n, channels, 1, width), sources).to(x))
        rows, columns = max(height // 5, 1), max(width // 5, 1)
        down, across = height // rows, width // columns
        signs = _signs(uniform((n, channels, down, across), sources).to(x))
        grid = signs.repeat_interleave(rows, 2).repeat_interleave(columns, 3) * _bump(rows, columns).to(x).repeat(down, across)
        return _stretched(x, nn.functional.pad(grid, (0, width - columns * across, 0, height - rows * down)), budget)

    def _change(self, x: Tensor, best: Tensor, budget: Budget, draws: Tensor, share: float) -> Tensor:
        """The points with one square changed. draws: (B, 5 + channels) uniform numbers: two places, a turn, the signs."""
        n, channels, height, width = x.shape
        flat = isinstance(budget, Linf)
        side = round(math.sqrt(share * height * width))
        side = max(side, 1) if flat else max(side, 3) // 2 * 2 + 1  # a bump has a middle
        rows = min(side, height)
        columns = min(side if rows == side else max(1, round(share * height * width / rows)), width)
        window = _windows(draws[:, 0], draws[:, 1], rows, columns, height, width).expand(-1, channels, -1)
        signs = _signs(draws[:, 5:])[:, :, None]
        if flat:
            moved = self._within(x, x + _eps(budget, x) * signs[..., None], budget).flatten(2)
            return best.flatten(2).scatter(2, window, moved.gather(2, window)).reshape(x.shape)
        other = _windows(draws[:, 2], draws[:, 3], rows, columns, height, width).expand(-1, channels, -1)
        q = 2 if isinstance(budget, L2) else 1
        delta = (best - x).flatten(2)
        power = delta.abs() ** q
        both = torch.zeros_like(delta).scatter(2, window, 1.0).scatter(2, other, 1.0)
        spare = (_eps(budget, x).reshape(-1, 1) ** q - power.sum((1, 2), keepdim=True)[..., 0]).clamp_min(0) / channels
        length = (spare + (power * both).sum(2)) ** (1 / q)  # (3)
        bump = _bump(rows, columns).to(x)
        turned = bump.T if rows == columns else bump.flip(0)
        bumps = torch.where(draws[:, 4, None, None] < 0.5, bump, turned).reshape(n, 1, -1)
        new = bumps * signs + _unit(delta.gather(2, window), q)
        delta = delta.scatter(2, other, 0.0).scatter(2, window, _unit(new, q) * length[..., None])
        return self._within(x, _stretched(x, delta.reshape(x.shape), budget), budget)


def _windows(u: Tensor, v: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    """Flat positions (B, 1, rows * columns) of windows whose corners the uniform numbers u and v (B,) place."""
    top, left = (u * (height - rows + 1)).long(), (v * (width - columns + 1)).long()
    r = top[:, None] + torch.arange(rows, device=u.device)
    c = left[:, None] + torch.arange(columns, device=u.device)
    return (r[:, :, None] * width + c[:, None, :]).reshape(len(u), 1, -1)


def _bump(rows: int, columns: int) -> Tensor:
    """Two hills side by side, one up, one down; at distance m from its middle a hill is as high as sum_{k >= m} 1/(k+1)^2."""
    if columns > rows:
        return _bump(columns, rows).T
    upper = _hill(rows // 2, columns)
    return torch.cat([upper, -_hill(rows - rows // 2, columns)])


def _hill(rows: int, columns: int) -> Tensor:
    reach = max(rows // 2, columns // 2) + 1
    heights = (1 / torch.arange(1.0, reach + 1).square()).flip(0).cumsum(0).flip(0)
    r, c = (torch.arange(rows) - rows // 2).abs(), (torch.arange(columns) - columns // 2).abs()
    return heights[torch.maximum(r[:, None], c[None, :])]


def _stretched(x: Tensor, delta: Tensor, budget: Budget) -> Tensor:
    """x + delta with delta as long as the budget allows."""
    zero = torch.zeros_like(delta)
    length = budget.size(zero, delta).clamp_min(1e-12).reshape(-1, 1, 1, 1)
    return x + delta * (_eps(budget, x) / length)


def _unit(values: Tensor, q: int) -> Tensor:
    """Each channel (last dimension) with Lq length 1; zeros stay zeros."""
    length: Tensor = torch.linalg.vector_norm(values, q, dim=2, keepdim=True)
    return values / length.clamp_min(1e-12)


def _signs(u: Tensor) -> Tensor:
    return torch.where(u < 0.5, -1.0, 1.0).to(u)


def _eps(budget: Budget, x: Tensor) -> Tensor:
    return torch.as_tensor(budget.eps).to(x).reshape(-1, 1, 1, 1)
