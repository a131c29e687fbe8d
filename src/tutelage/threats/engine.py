"""The attack engine: search x geometry x objective, each chosen apart.

`run` is the careful one, for audits: it checks its inputs, retires samples as soon as they are broken and goes on with
a smaller batch, counts passes, keeps the strongest point seen, and verifies at the end that every x_adv is inside the
budget and the input range. Calling an attack is the bare one, for training: the last iterate of exactly `steps`
forward and backward passes. Both hold the model in evaluation mode and hand it back as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import AttackError, InputError
from tutelage.core.rng import Noise, normal
from tutelage.models.checks import check_differentiable, check_inputs, check_labels, check_module, run_model
from tutelage.models.guard import evaluating
from tutelage.threats.budgets import L1, Budget
from tutelage.threats.objectives import AttackBatch, Objective, cross_entropy, misclassified

Start = Literal["uniform", "gaussian", "clean"]

TOLERANCE = 1e-5  # of a distance, relative to eps and to the input range: rounding of x + delta in float32


@dataclass
class AttackResult:
    """What an attack found for each of the B samples, in their order.

    x_adv: (B, ...) the first point that succeeded, else the one of highest objective seen (never below its start).
    success: (B,) bool. A sample that was misclassified from the start is a success with x_adv = x.
    loss: (B,) the objective at x_adv. forward, backward: samples passed through the model, summed over the attack.
    warnings: reasons to distrust the result.
    """

    x_adv: Tensor
    success: Tensor
    loss: Tensor
    forward: int
    backward: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Attack(ABC):
    """What every attack shares: geometry, goal, checks before, bookkeeping, verification after. The search is `_climb`.

    budget: where it may move. objective: maximised; called on (outputs, batch), gives (B,). restarts: independent starts,
    each on what is still unbroken. targeted: `run` then needs `target`. bounds: the range of valid inputs, None for none.
    accept(outputs, batch): success, (B,) bool. retire=False keeps broken samples in the search.
    """

    needs_gradients: ClassVar[bool] = True

    budget: Budget
    objective: Objective = field(default=cross_entropy, kw_only=True)
    restarts: int = field(default=1, kw_only=True)
    targeted: bool = field(default=False, kw_only=True)
    bounds: tuple[float, float] | None = field(default=(0.0, 1.0), kw_only=True)
    retire: bool = field(default=True, kw_only=True)
    accept: Callable[[Tensor, AttackBatch], Tensor] = field(default=misclassified, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            raise InputError("budget", self.budget, "a Budget such as Linf(8/255)")
        check_integer("restarts", self.restarts)
        if self.bounds is not None:
            if not isinstance(self.bounds, tuple | list) or len(self.bounds) != 2:
                raise InputError("bounds", self.bounds, "a pair (lowest, highest) of valid inputs, or None")
            for bound in self.bounds:
                check_number("bounds", bound, "a pair of finite numbers, or None for no bounds")
            if not self.bounds[0] < self.bounds[1]:
                raise InputError("bounds", self.bounds, "the lowest valid input first, then the highest")
        check_callable("objective", self.objective, "a function of (outputs, batch) that gives one number a sample")
        check_callable("accept", self.accept, "a function of (outputs, batch) that gives one bool a sample")

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, object]:
        """What a report says of the attack, besides its name and budget."""
        return {"restarts": self.restarts}

    @abstractmethod
    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        """One search, from one start, of the samples `active` (indices into batch); what it finds goes to `found`."""

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        *,
        target: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> AttackResult:
        """Attack x (B, ...) with labels y (B,). The model must return logits (B, classes).

        The noise of a sample depends on `generator` and the sample's place in the data, not on the batch size.
        Raises InputError for bad inputs, ModelChanged if a buffer of the model changed, AttackError if a point left
        its budget.
        """
        seeds = torch.randint(2**62, (len(x) if isinstance(x, Tensor) and x.dim() else 0,), generator=generator)
        return self.run_seeded(model, x, y, seeds, target=target, reference=reference)

    def run_seeded(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        seeds: Tensor,
        *,
        target: Tensor | None = None,
        reference: Tensor | None = None,
        logits: Tensor | None = None,
        reached: Tensor | None = None,
    ) -> AttackResult:
        """`run` with the seed of each sample's noise given, (B,) int64 on the CPU.

        What other attacks have found out spares passes: logits (B, classes), those of x, and reached (B,), the highest
        margin at their points.
        """
        check_module(model)
        if self.needs_gradients:
            check_differentiable(model, self.name)
        check_inputs(x, self.bounds)
        check_labels(y, len(x))
        if self.targeted != (target is not None):
            raise InputError("target", target, "target classes (B,) if and only if the attack is targeted")
        if isinstance(self.budget.eps, Tensor) and self.budget.eps.shape != (len(x),):
            raise InputError("eps", f"shape {tuple(self.budget.eps.shape)}", f"one number, or one a sample ({len(x)},)")
        batch = AttackBatch(x, y, target, reference, reached)
        with evaluating(model):
            result = self._search(model, batch, seeds, logits)
        self._verify(x, result.x_adv)
        return result

    def _search(self, model: nn.Module, batch: AttackBatch, seeds: Tensor, logits: Tensor | None) -> AttackResult:
        n, passes = len(batch.x), 0
        with torch.no_grad():
            if logits is None:
                logits, passes = run_model(model, batch.x), n
            check_labels(batch.y, n, logits.shape[1])
            if batch.target is not None:
                check_labels(batch.target, n, logits.shape[1], name="target")
            if batch.reference is not None and batch.reference.shape != logits.shape:
                raise InputError(
                    "reference", f"shape {tuple(batch.reference.shape)}", f"the shape of the logits, {tuple(logits.shape)}"
                )
            accepted = _one_each("accept", self.accept(logits, batch), n)
            loss = _one_each("objective", self.objective(logits, batch), n)
            if accepted.dtype != torch.bool:
                raise InputError("accept", f"a result of dtype {accepted.dtype}", "one bool a sample, True for a success")
            found = AttackResult(batch.x.clone(), accepted, loss, passes, 0)
        for restart in range(self.restarts):
            active = (~found.success).nonzero().squeeze(1) if self.retire else torch.arange(n, device=batch.x.device)
            if not len(active):
                break
            # one generator a sample and restart: retired neighbours and batch size do not change the noise
            noise = [torch.Generator().manual_seed(seed + restart) for seed in seeds[active.cpu()].tolist()]
            self._climb(model, batch, active, noise, found, first=restart == 0)
        return found

    def _verify(self, x: Tensor, x_adv: Tensor) -> None:
        eps = torch.as_tensor(self.budget.eps).to(x)
        excess = float((self.budget.size(x, x_adv) - eps * (1 + TOLERANCE)).max())
        if excess > TOLERANCE * max(1.0, float(x.abs().max())):
            raise AttackError(f"{self.name}: a point is {excess:.3g} outside its budget {self.budget}")
        if self.bounds is not None:
            check_inputs(x_adv, self.bounds, name="x_adv")


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent in a budget (Madry et al. 2018): x <- P(x + step_size * steepest(grad)).

    step_size: in input units; without it, `relative_step` times eps (default 2.5 / steps). start: "uniform" in the
    budget, "gaussian" noise of standard deviation `start_std` (then projected), or "clean". eot: gradients summed over
    that many passes, for randomised models. project(x, x_adv): a further constraint, applied before the budget. The other
    fields are those of `Attack`; a call needs `target`, too, if the attack is targeted.
    """

    steps: int = 20
    step_size: float | None = None
    relative_step: float | None = None
    start: Start = "uniform"
    start_std: float = 0.001
    eot: int = 1
    project: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("steps", self.steps)
        check_integer("eot", self.eot)
        if self.step_size is not None:
            check_positive("step_size", self.step_size, "a number > 0, in input units")
        if self.relative_step is not None:
            check_positive("relative_step", self.relative_step, "a number > 0, in units of eps")
        check_choice("start", self.start, get_args(Start))
        check_number("start_std", self.start_std, "a number >= 0, in input units", low=0)
        if self.project is not None:
            check_callable("project", self.project, "a function of (x, x_adv) that gives inputs of the same shape")

    @property
    def name(self) -> str:
        base = f"PGD-{self.steps}" + (f" x{self.restarts}" if self.restarts > 1 else "")
        return f"{base} {self.objective.__name__}" if hasattr(self.objective, "__name__") else base

    @property
    def settings(self) -> dict[str, object]:
        step = self.step_size if self.step_size is not None else f"{self.relative_step or 2.5 / self.steps:g} eps"
        return {**super().settings, "steps": self.steps, "step_size": step, "start": self.start, "eot": self.eot}

    def __call__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        model: nn.Module,
        generator: Noise,
        target: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """The last iterate from one start: x' (B, ...) inside the budget, after `steps` forward and backward passes.

        Nothing is checked, retired or verified: this is the inner loop of training. y may be missing for an objective
        that does not use labels.
        """
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device) if y is None else y
        batch = AttackBatch(x, labels, target, reference)
        with evaluating(model, verify=False):
            x_adv = self._initial(x, self.budget, generator)
            box = self._box(x, self.budget)
            for _ in range(self.steps):
                _, _, grad = self._gradient(model, batch, x_adv)
                x_adv = self._move(x, x_adv, grad, self.budget, box)
        return x_adv

    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        part, budget = batch.take(active), self.budget.take(active)
        x_adv, box = self._initial(part.x, budget, noise), self._box(part.x, budget)
        for step in range(self.steps + 1):
            last = step == self.steps
            if last:
                with torch.no_grad():
                    logits = model(x_adv)
                    loss, grad = _one_each("objective", self.objective(logits, part), len(active)), x_adv
            else:
                logits, loss, grad = self._gradient(model, part, x_adv)
                found.backward += len(active) * self.eot
                if step == 0 and first and (share := share_of_zeros(grad)) > 0.05:
                    found.warnings.append(f"the gradient is zero for {share:.0%} of the samples")
            found.forward += len(active) * (1 if last else self.eot)
            broken = _one_each("accept", self.accept(logits, part), len(active))
            if not bool(torch.isfinite(loss).all()):
                raise InputError("model", f"NaN or infinity inside the budget, in {self.name}", "finite logits and objective")
            keep(found, active, x_adv, loss, broken)
            if last:
                return
            if self.retire and bool(broken.any()):
                left = (~broken).nonzero().squeeze(1)
                if not len(left):
                    return
                active, part, budget = active[left], part.take(left), budget.take(left)
                x_adv, grad = x_adv.index_select(0, left), grad.index_select(0, left)
                box = box and (box[0].index_select(0, left), box[1].index_select(0, left))
            x_adv = self._move(part.x, x_adv, grad, budget, box)

    def _gradient(self, model: nn.Module, batch: AttackBatch, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            grads: list[Tensor] = []
            for _ in range(self.eot):
                logits = model(x_adv)
                loss = _one_each("objective", self.objective(logits, batch), len(x_adv))
                grads += slopes(loss, x_adv)
        return logits.detach(), loss.detach(), grads[0] if self.eot == 1 else torch.stack(grads).sum(0)

    def _initial(self, x: Tensor, budget: Budget, noise: Noise) -> Tensor:
        if self.start == "clean":
            return x
        if self.start == "uniform":
            return self._cut(x, x + budget.sample(x, noise), budget)
        return self._cut(x, x + self.start_std * normal(x.shape, noise).to(x), budget)

    def _box(self, x: Tensor, budget: Budget) -> tuple[Tensor, Tensor] | None:
        return budget.box(x, self.bounds) if self.project is None else None

    def _move(self, x: Tensor, x_adv: Tensor, grad: Tensor, budget: Budget, box: tuple[Tensor, Tensor] | None = None) -> Tensor:
        step: float | Tensor
        if self.step_size is not None:
            step = self.step_size
        else:
            step = (self.relative_step or 2.5 / self.steps) * budget.eps
            if isinstance(step, Tensor):
                step = step.to(x).reshape(-1, *[1] * (x.dim() - 1))
        if isinstance(budget, L1):
            grad = unblocked(grad, x_adv, self.bounds)  # a blocked coordinate would be chosen again and again
        moved = budget.steepest(grad).mul_(step).add_(x_adv)
        return self._within(x, moved, budget, box)

    def _within(self, x: Tensor, moved: Tensor, budget: Budget, box: tuple[Tensor, Tensor] | None) -> Tensor:
        """`moved`, which may be written over, cut back; with a box in one pass."""
        return self._cut(x, moved, budget) if box is None else moved.clamp_(*box)

    def _cut(self, x: Tensor, x_adv: Tensor, budget: Budget) -> Tensor:
        if self.project is not None:
            x_adv = self.project(x, x_adv)
            if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
                raise InputError("project", _form(x_adv), f"inputs of the same shape, {tuple(x.shape)}")
        return budget.project_within(x, x_adv, self.bounds)


def FGSM(budget: Budget, *, objective: Objective = cross_entropy, targeted: bool = False) -> PGD:  # noqa: N802
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length eps from the clean input."""
    return PGD(budget, steps=1, relative_step=1.0, start="clean", objective=objective, targeted=targeted)


def _one_each(argument: str, values: object, n: int) -> Tensor:
    """The (n,) tensor that a user's objective or accept must give; only the shape is looked at, as this is in the loop."""
    if not isinstance(values, Tensor) or values.shape != (n,):
        raise InputError(
            argument, _form(values), f"a tensor of shape ({n},), one number a sample (no mean or sum over the batch)"
        )
    return values


def _form(value: object) -> str:
    return (
        f"a result of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a result of type {type(value).__name__}"
    )


def keep(found: AttackResult, active: Tensor, x_adv: Tensor, loss: Tensor, broken: Tensor) -> None:
    """Remember a point if it breaks a sample that was unbroken, or climbs higher in the same state."""
    had, best = found.success[active], found.loss[active]
    better = (broken & ~had) | ((broken == had) & (loss > best))
    if len(active) == len(found.x_adv):  # all of them, in their order: one pass without a copy
        torch.where(better.reshape(-1, *[1] * (x_adv.dim() - 1)), x_adv, found.x_adv, out=found.x_adv)
        torch.where(better, loss, found.loss, out=found.loss)
        found.success |= better & broken
        return
    rows = better.nonzero().squeeze(1)
    index = active[rows]
    # whole rows at once: indexing with a mask costs twice the time
    found.x_adv.index_copy_(0, index, x_adv.index_select(0, rows))
    found.loss[index] = loss[rows]
    found.success[index] = broken[rows]


def slopes(loss: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The gradient of each sample's loss (B,) by its x (B, ...)."""
    check_grows(loss)
    try:
        return torch.autograd.grad(loss.sum(), x)
    except RuntimeError as error:  # views made under no_grad say that they have a gradient
        if "appears to not have been used" not in str(error):
            raise
        raise InputError(
            "model", "logits that do not depend on the input for autograd (a no_grad inside)", "a differentiable model"
        ) from error


def check_grows(outputs: Tensor) -> None:
    """InputError where a model let no gradient through to its outputs, or to what an objective made of them."""
    if not outputs.requires_grad:
        wanted = "a model and an objective that let gradients through (no detach, argmax or numpy), or black-box attacks"
        raise InputError("model", "outputs without a gradient", wanted)


def unblocked(grad: Tensor, x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """The gradient without the coordinates that are at the end of their range and would leave it."""
    if bounds is None:
        return grad
    return grad.masked_fill(((grad > 0) & (x >= bounds[1])) | ((grad < 0) & (x <= bounds[0])), 0)


def share_of_zeros(grad: Tensor) -> float:
    return float((grad.flatten(1).abs().amax(1) == 0).float().mean())
