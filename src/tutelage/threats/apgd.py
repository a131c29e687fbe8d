"""Auto-PGD: projected gradient ascent that chooses its own step sizes (Croce & Hein 2020, arXiv 2003.01690; L1: 2103.01208).

For Linf and L2, from a start x_0, with eta_0 = 2 eps and momentum alpha = 0.75:

    z_{k+1} = P(x_k + eta s(grad f(x_k)))                                            (1)
    x_{k+1} = P(x_k + alpha (z_{k+1} - x_k) + (1 - alpha) (x_k - x_{k-1}))           (2)

At checkpoints, which come ever closer together, a sample's step is halved and its search goes on from the best point
seen, if fewer than rho = 0.75 of the steps since the last checkpoint climbed, or if neither its step nor its best value
changed since then (3).

For L1 the ball is cut with the range of valid inputs, steps go along the signs of the k largest coordinates of the
gradient, and k follows the number of coordinates that the best point so far has changed. The search begins in a ball of
3 eps, goes on in 2 eps and ends in eps, each time from the projected best point; only the last counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.threats.budgets import L1, Budget
from tutelage.threats.engine import PGD, AttackResult, keep, share_of_zeros, unblocked
from tutelage.threats.objectives import AttackBatch

MOMENTUM, RHO = 0.75, 0.75
L1_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # (radius in eps, share of the steps)
L1_SPARSITY = 0.2  # share of the coordinates that the first steps move
L1_EVERY = 0.04  # of all steps: between two checkpoints


def checkpoints(steps: int) -> set[int]:
    """The steps after which step sizes are looked at: 22 % of all, and then ever sooner, down to every 6 %."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # rounded up; the tiny amount taken off is the rounding error of the sums
    return {-int(-(share * steps - 1e-9) // 1) for share in shares[1:] if share < 1}


@dataclass
class _Climb:
    """What the search knows of each sample that is still in it. First dimension of all: these samples."""

    row: Tensor  # place in the batch of this climb
    x_adv: Tensor
    before: Tensor  # the point before x_adv
    grad: Tensor
    loss: Tensor  # at x_adv
    best: Tensor
    best_loss: Tensor
    best_grad: Tensor
    step: Tensor  # its size
    risen: Tensor  # steps since the last checkpoint that raised the loss
    best_loss_then: Tensor  # at the last checkpoint
    halved_then: Tensor  # bool: whether the last checkpoint changed the step
    spread: Tensor  # L1: how many coordinates the best point changes, at the last checkpoint
    sparsity: Tensor  # L1: the share of coordinates that a step moves

    @classmethod
    def start(cls, x_adv: Tensor, step: Tensor) -> Self:
        low, no = torch.full_like(step, -torch.inf), torch.zeros_like(step, dtype=torch.bool)
        rows = torch.arange(len(x_adv), device=x_adv.device)
        spread, sparsity = torch.full_like(step, x_adv[0].numel()), torch.full_like(step, L1_SPARSITY)
        return cls(
            rows, x_adv, x_adv, x_adv, low, x_adv.clone(), low, torch.zeros_like(x_adv), step, torch.zeros_like(step), low, no,
            spread, sparsity,
        )  # fmt: skip

    def take(self, index: Tensor) -> Self:
        return type(self)(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))

    def see(self, loss: Tensor, grad: Tensor) -> None:
        """Take in what the model said at x_adv."""
        self.risen = self.risen + (loss > self.loss)
        better = loss > self.best_loss
        wide = _wide(better, grad)
        torch.where(wide, self.x_adv, self.best, out=self.best)  # in place: fresh memory costs more than the copy
        torch.where(wide, grad, self.best_grad, out=self.best_grad)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.loss, self.grad = loss, grad

    def back_to_best(self, which: Tensor) -> None:
        wide = _wide(which, self.x_adv)
        self.before = torch.where(wide, self.x_adv, self.before)
        self.x_adv = torch.where(wide, self.best, self.x_adv)
        self.grad = torch.where(wide, self.best_grad, self.grad)
        self.loss = torch.where(which, self.best_loss, self.loss)


@dataclass(frozen=True)
class APGD(PGD):
    """Auto-PGD: no step size to choose. Fields and results as of `PGD`; `step_size` and `relative_step` are left out.

    steps: gradients a sample and restart, at most.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step_size", "relative_step"):
            if getattr(self, name) is not None:
                raise InputError(name, getattr(self, name), "none: APGD chooses its steps itself")

    @property
    def name(self) -> str:
        return "A" + super().name

    @property
    def settings(self) -> dict[str, object]:
        return {**super().settings, "step_size": "its own"}

    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        part, budget = batch.take(active), self.budget.take(active)
        if not isinstance(budget, L1):
            self._ascend(model, part, budget, self._initial(part.x, budget, noise), self.steps, active, found, first=first)
            return
        widest = budget.scaled(L1_PHASES[0][0])
        x_adv, left = self._initial(part.x, widest, noise), self.steps
        spread: Tensor | None = None
        for factor, share in L1_PHASES:
            steps = max(1, int(self.steps * share)) if factor > 1 else max(1, left)
            left -= steps
            within = budget.scaled(factor)
            start = self._cut(part.x, x_adv, within)
            x_adv = self._ascend(
                model, part, within, start, steps, active, found, first=first, final=factor == 1, spread=spread
            )
            first, spread = False, (x_adv != part.x).flatten(1).sum(1).to(x_adv)

    def _ascend(
        self,
        model: nn.Module,
        batch: AttackBatch,
        budget: Budget,
        x_adv: Tensor,
        steps: int,
        active: Tensor,
        found: AttackResult,
        *,
        first: bool,
        final: bool = True,
        spread: Tensor | None = None,
    ) -> Tensor:
        """`steps` moves from x_adv -> the best points. Only a `final` ascent counts: in a wider ball nothing is kept."""
        sparse = isinstance(budget, L1)
        eps = torch.as_tensor(budget.eps).to(x_adv).expand(len(x_adv))
        climb = _Climb.start(x_adv, eps if sparse else 2 * eps)
        if spread is not None:
            climb.spread, climb.sparsity = spread, spread / (1.5 * x_adv[0].numel())
        best, box = x_adv.clone(), self._box(batch.x, budget)
        every = max(1, int(L1_EVERY * self.steps))
        marks = set(range(every, steps, every)) if sparse else checkpoints(steps)
        last_mark = 0
        for k in range(steps + 1):
            if k == steps:
                with torch.no_grad():
                    logits = model(climb.x_adv)
                    loss, grad = self.objective(logits, batch), climb.x_adv
            else:
                logits, loss, grad = self._gradient(model, batch, climb.x_adv)
                found.backward += len(grad) * self.eot
                if k == 0 and first and (share := share_of_zeros(grad)) > 0.05:
                    found.warnings.append(f"the gradient is zero for {share:.0%} of the samples")
            found.forward += len(grad) * (1 if k == steps else self.eot)
            if not bool(torch.isfinite(loss).all()):
                raise InputError("model", f"NaN or infinity inside the budget, in {self.name}", "finite logits and objective")
            climb.see(loss, grad)
            if final:
                broken = self.accept(logits, batch)
                keep(found, active, climb.x_adv, loss, broken)
                if k < steps and self.retire and bool(broken.any()):
                    left = (~broken).nonzero().squeeze(1)
                    if not len(left):
                        return best
                    best.index_copy_(0, climb.row, climb.best)
                    climb, active, batch, budget = climb.take(left), active[left], batch.take(left), budget.take(left)
                    box = box and (box[0].index_select(0, left), box[1].index_select(0, left))
            if k == steps:
                break
            if k == 0:
                climb.risen.zero_()  # the start did not climb
            elif k in marks:
                (self._look_l1 if sparse else self._look)(climb, batch.x, budget, k - last_mark)
                last_mark = k
            self._step(climb, batch.x, budget, box, momentum=k > 0)
        best.index_copy_(0, climb.row, climb.best)
        return best

    def _step(self, climb: _Climb, x: Tensor, budget: Budget, box: tuple[Tensor, Tensor] | None, *, momentum: bool) -> None:
        here, size = climb.x_adv, _wide(climb.step, x)
        if isinstance(budget, L1):
            grad = unblocked(climb.grad, here, self.bounds)  # a blocked coordinate would use up a sparse step for nothing
            climb.x_adv = self._cut(x, _sparse_signs(grad, climb.sparsity).mul_(size).add_(here), budget)
            return
        moved = self._within(x, budget.steepest(climb.grad).mul_(size).add_(here), budget, box)  # (1)
        if momentum:  # (2), its terms put together
            mixed = moved.mul_(MOMENTUM).add_(here, alpha=2 * (1 - MOMENTUM)).sub_(climb.before, alpha=1 - MOMENTUM)
            moved = self._within(x, mixed, budget, box)
        climb.before, climb.x_adv = here, moved

    @staticmethod
    def _look(climb: _Climb, x: Tensor, budget: Budget, steps: int) -> None:
        """A checkpoint of Linf and L2 (3)."""
        stuck = climb.risen < RHO * steps
        still = ~climb.halved_then & (climb.best_loss <= climb.best_loss_then)
        halve = stuck | still
        climb.step = torch.where(halve, climb.step / 2, climb.step)
        climb.back_to_best(halve)
        climb.halved_then, climb.best_loss_then, climb.risen = halve, climb.best_loss, torch.zeros_like(climb.risen)

    @staticmethod
    def _look_l1(climb: _Climb, x: Tensor, budget: Budget, steps: int) -> None:
        """A checkpoint of L1: the best point got sparser -> begin again from it with full steps; else slow down."""
        eps = torch.as_tensor(budget.eps).to(climb.step)
        spread = (climb.best != x).flatten(1).sum(1).to(climb.step)
        sparser = spread < 0.95 * climb.spread
        climb.step = torch.where(sparser, eps, torch.maximum(climb.step / 1.5, eps / 10))
        climb.back_to_best(sparser)
        climb.sparsity, climb.spread = spread / (1.5 * x[0].numel()), spread


def _sparse_signs(grad: Tensor, share: Tensor) -> Tensor:
    """The signs of each gradient's largest coordinates, `share` (B,) of them, with L1 size 1."""
    size = grad.flatten(1).abs()
    k = (share * size.shape[1]).long().clamp(1, size.shape[1])
    smallest = size.topk(int(k.max()), dim=1).values.gather(1, k[:, None] - 1)
    signs = torch.where(size >= smallest, grad.flatten(1).sign(), 0.0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).reshape(grad.shape)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to meet the shape of `like`."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
