"""The smallest change that breaks a sample, by fast minimum-norm search (FMN; Pintor et al. 2021, arXiv 2102.12827).

Other attacks ask whether a sample breaks within eps. This one finds how far it is from breaking, so that one search gives
accuracy over all eps. With the margin loss L(x) = z_y - max_{j != y} z_j (below 0: broken), in each of K steps

    eps_k = |delta| + L / |grad L|_dual         as long as the sample has never been broken: the distance to a linear border
            eps_{k-1} (1 + gamma_k)             if it has been, and is not at this point
            min(eps_{k-1} (1 - gamma_k), |delta*|)   if it is broken at this point; delta* is the smallest so far      (1)
    delta = P_eps_k(delta - alpha_k grad L / |grad L|_2),                                                            (2)

where gamma and alpha fall along a cosine. Our additions: coordinates that are at the end of the range of inputs do not count in
grad L, or the border seems nearer than it is and the search stops short; and at the end delta* is shortened by bisection
between x and x + delta*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.threats.budgets import Budget
from tutelage.threats.engine import Attack, AttackResult, share_of_zeros, slopes, unblocked
from tutelage.threats.objectives import AttackBatch, Objective, margin

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
FIRST_STEP = {"linf": 10.0, "l2": 1.0, "l1": 1.0}  # alpha_1, of a normalised gradient; the last is 1/1000 of it
GAMMA = (0.05, 0.001)
FAR = 1e6  # a distance beyond every input
BEYOND = 1 + 1e-4  # a little past the linear border, on which both classes tie


@dataclass
class Distances:
    """How far each of B samples is from breaking.

    distance: (B,) size of the smallest change found; 0 if wrong from the start, infinite if nothing was found. It is an
    upper bound of the true distance (empirical). x_adv: (B, ...) the broken points. forward, backward: samples passed.
    """

    distance: Tensor
    x_adv: Tensor
    forward: int
    backward: int

    def accuracy(self, eps: float) -> float:
        """The share of samples that no change of at most eps was found for."""
        return float((self.distance > eps).double().mean())


@dataclass(frozen=True)
class FMN(Attack):
    """Smallest changes in Linf, L2 or L1. As an `Attack` it succeeds where the smallest change is within the budget;
    of several restarts the smallest change is kept, if they are all run (retire=False; `distances` does so).

    steps: gradients a sample and restart. first_step: alpha_1 in (2); by the norm if left out. bisections: forward passes
    for the final shortening. The objective is the margin; the other fields are those of `Attack`.
    """

    steps: int = 100
    first_step: float | None = None
    bisections: int = 10
    objective: Objective = field(default=margin, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("norm", self.budget.norm, tuple(DUAL))
        check_integer("steps", self.steps)
        check_integer("bisections", self.bisections, low=0)
        if self.first_step is not None:
            check_positive("first_step", self.first_step, "a number > 0, in input units")

    @property
    def name(self) -> str:
        return f"FMN-{self.steps}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    @property
    def settings(self) -> dict[str, object]:
        return {**super().settings, "steps": self.steps, "bisections": self.bisections}

    def distances(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Distances:
        """How far x (B, ...) with labels y (B,) is from breaking, whatever the budget's eps."""
        # what one start broke, the next may break by less
        wide = replace(self, budget=type(self.budget)(FAR), retire=self.retire and self.restarts == 1)
        result = wide.run(model, x, y, generator)
        size = self.budget.size(x, result.x_adv)
        return Distances(torch.where(result.success, size, torch.inf), result.x_adv, result.forward, result.backward)

    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        part, budget = batch.take(active), self.budget.take(active)
        x, n = part.x, len(active)
        start = x if first else budget.project_within(x, x + budget.sample(x, noise), self.bounds)
        search = _Search(start, x, torch.full((n,), torch.inf, dtype=x.dtype, device=x.device))
        for k in range(1, self.steps + 2):
            last = k > self.steps
            x_adv = search.x_adv.detach().requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                logits = model(x_adv)
                gain = self.objective(logits, part)
                (grad,) = (x_adv.detach(),) if last else slopes(gain, x_adv)
            found.forward += n
            found.backward += 0 if last else n
            if k == 1 and first and (share := share_of_zeros(grad)) > 0.05:
                found.warnings.append(f"the gradient is zero for {share:.0%} of the samples")
            if not bool(torch.isfinite(gain).all()):
                raise InputError("model", f"NaN or infinity inside the budget, in {self.name}", "finite logits and objective")
            broken = self.accept(logits, part)
            search.see(x, broken, self.budget)
            if not last:
                self._move(search, x, -gain.detach(), grad, broken, k)
        self._shorten(model, part, search, found)
        eps = torch.as_tensor(budget.eps).to(x)
        inside = (search.smallest <= eps) & torch.isfinite(search.smallest)
        with torch.no_grad():  # what is kept is what the model says of it
            logits = model(search.best)
        found.forward += n
        rows = inside.nonzero().squeeze(1)
        taken = part.take(rows)
        loss, broken = self.objective(logits[rows], taken), self.accept(logits[rows], taken)
        had = self.budget.size(taken.x, found.x_adv[active[rows]])
        better = broken & (~found.success[active[rows]] | (search.smallest[rows] < had))
        into, rows = active[rows][better], rows[better]
        found.x_adv[into], found.loss[into], found.success[into] = search.best[rows], loss[better], True

    def _move(self, search: _Search, x: Tensor, loss: Tensor, grad: Tensor, broken: Tensor, k: int) -> None:
        """One step of (1) and (2); grad is that of the gain, -L, without what would lead out of the range of inputs."""
        grad = unblocked(grad, search.x_adv, self.bounds)
        norm = self.budget.norm
        gamma = _cosine(GAMMA[0], GAMMA[1], k, self.steps)
        first_step = self.first_step if self.first_step is not None else FIRST_STEP[norm]
        alpha = _cosine(first_step, first_step / 1000, k, self.steps)
        flat = grad.flatten(1)
        slope = torch.linalg.vector_norm(flat, DUAL[norm], dim=1)
        here = self.budget.size(x, search.x_adv)
        border = (here + loss.clamp_min(0) / slope.clamp_min(1e-12)) * BEYOND
        ever = torch.isfinite(search.smallest)
        eps = torch.where(ever, search.eps * (1 + gamma), border)
        eps = torch.where(broken, torch.minimum(search.eps.clamp_max(FAR) * (1 - gamma), search.smallest), eps)
        search.eps = eps.clamp(0, FAR)
        unit = (flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(1e-12)).reshape(grad.shape)
        ball = replace(self.budget, eps=search.eps)
        search.x_adv = ball.project_within(x, search.x_adv + alpha * unit, self.bounds)

    @torch.no_grad()
    def _shorten(self, model: nn.Module, part: AttackBatch, search: _Search, found: AttackResult) -> None:
        """Bisection between x, which holds, and the smallest change, which does not."""
        low, high = torch.zeros_like(search.smallest), torch.ones_like(search.smallest)
        whole = search.best - part.x
        for _ in range(self.bisections):
            middle = (low + high) / 2
            x_adv = part.x + _wide(middle, whole) * whole
            broken = self.accept(model(x_adv), part)
            found.forward += len(x_adv)
            high, low = torch.where(broken, middle, high), torch.where(broken, low, middle)
            search.see(part.x, broken, self.budget, x_adv)


@dataclass
class _Search:
    """The points of the samples: where each is, the smallest broken one so far and its size (infinite: none yet)."""

    x_adv: Tensor
    best: Tensor
    smallest: Tensor
    eps: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        self.eps = torch.full_like(self.smallest, FAR)

    def see(self, x: Tensor, broken: Tensor, budget: Budget, x_adv: Tensor | None = None) -> None:
        at = self.x_adv if x_adv is None else x_adv
        size = budget.size(x, at)
        better = broken & (size < self.smallest)
        self.best = torch.where(_wide(better, at), at, self.best)
        self.smallest = torch.where(better, size, self.smallest)


def _cosine(first: float, last: float, k: int, steps: int) -> float:
    """From `first` at k = 1 to `last` at k = steps."""
    return last + (first - last) * (1 + math.cos(math.pi * (k - 1) / max(1, steps - 1))) / 2


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
