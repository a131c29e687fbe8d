"""Transfer: points that break a model of one's own, shown to a model that only answers.

The gradients come from a surrogate, a model trained for the same task, and the target is asked about a few points of that
search. On inputs where the surrogate is wrong the target often is wrong, too, more so the less the points fit the surrogate
alone. Three things help against that. Momentum (MI; Dong et al. 2018, arXiv 1710.06081) with diverse inputs T (DI; Xie et al.
2019, arXiv 1803.06978: with some probability the surrogate sees a smaller copy at a random place),

    g_{t+1} = mu g_t + grad J(T(x_t)) / |grad J(T(x_t))|_1,                                                         (1)
    x_{t+1} = P(x_t + alpha s(g_{t+1})),    s the steepest direction of the budget,                                 (2)

and several surrogates at once, by the mean of their logits (Dong et al., equation 6),

    l(x) = 1/K sum_k l_k(x).                                                                                        (3)

The search does not stop where the surrogate breaks: it climbs for all its steps, as points just across one model's border
seldom lie across another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise, uniform
from tutelage.models.checks import check_inputs, check_labels, run_model
from tutelage.models.guard import evaluating
from tutelage.threats.apgd import _sparse_signs
from tutelage.threats.budgets import L1, Budget
from tutelage.threats.engine import Attack, AttackResult, keep, share_of_zeros
from tutelage.threats.objectives import AttackBatch

SPREAD = 0.02  # L1: the share of the coordinates that a step moves; chosen on held-out training images of Fashion-MNIST
SMALLEST = 0.8  # of the sides of a diverse copy


class MeanLogits(nn.Module):
    """Several models as one: the mean of their logits (3). models: at least one, all with the same classes."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models or not all(isinstance(model, nn.Module) for model in models):
            raise InputError("models", models, "at least one nn.Module that returns logits")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [model(x) for model in self.models]
        if any(one.shape != outputs[0].shape for one in outputs):
            shapes = ", ".join(str(tuple(one.shape)) for one in outputs)
            raise InputError("models", f"logits of shapes {shapes}", "models of the same classes")
        return torch.stack(outputs).mean(0)


@dataclass
class TransferResult(AttackResult):
    """forward counts what the target was asked, backward is 0; the passes of the surrogate are told apart."""

    surrogate_forward: int = 0
    surrogate_backward: int = 0


@dataclass(frozen=True)
class Transfer(Attack):
    """An attack with the gradients of `surrogate`, judged by the model it is run on, of which nothing but answers is used.

    surrogate: an nn.Module from the same inputs to logits of the same classes, on the same device; several: `MeanLogits`.
    steps: gradients of the surrogate a sample and restart. step_size: in input units; without it, `relative_step` times eps
    (default 2 / steps). momentum: mu in (1), 0 for none. diversity: the probability of a diverse copy, for images only.
    looks: how many points of a search are shown to the target, evenly spaced, the last one always. The first search begins
    at x, restarts at random points of the budget. The other fields are those of `Attack`.

    Raises InputError for a surrogate that is no module, whose outputs are no logits or do not have the classes of y.

    Example::

        import torch
        from torch import nn
        from tutelage.threats import Linf, MeanLogits, Transfer

        target, *own = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(3))
        x = torch.rand(8, 1, 8, 8)
        y = target(x).argmax(1)
        attack = Transfer(Linf(0.3), MeanLogits(own), looks=2)
        result = attack.run(target, x, y, torch.Generator().manual_seed(0))
        print(result.success, result.forward, result.surrogate_backward)
    """

    needs_gradients: ClassVar[bool] = False

    surrogate: nn.Module = field(default_factory=nn.Identity)
    steps: int = 20
    step_size: float | None = None
    relative_step: float | None = None
    momentum: float = 1.0
    diversity: float = 0.0
    looks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.surrogate, nn.Module) or type(self.surrogate) is nn.Identity:
            raise InputError(
                "surrogate", type(self.surrogate).__name__, "an nn.Module that returns logits, or MeanLogits of some"
            )
        check_integer("steps", self.steps)
        check_integer("looks", self.looks)
        if self.looks > self.steps:
            raise InputError("looks", self.looks, f"at most one a step, {self.steps}")
        if self.step_size is not None:
            check_positive("step_size", self.step_size, "a number > 0, in input units")
        if self.relative_step is not None:
            check_positive("relative_step", self.relative_step, "a number > 0, in units of eps")
        check_number("momentum", self.momentum, "a number >= 0", low=0)
        check_number("diversity", self.diversity, "a probability in [0, 1]", low=0, high=1)

    @property
    def name(self) -> str:
        return f"Transfer-{self.steps}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    @property
    def settings(self) -> dict[str, object]:
        return {
            **super().settings,
            "surrogate": _name(self.surrogate),
            "steps": self.steps,
            "step_size": self.step_size if self.step_size is not None else f"{self.relative_step or 2 / self.steps:g} eps",
            "momentum": self.momentum,
            "diversity": self.diversity,
            "looks": self.looks,
            "passes": "of the target; those of the surrogate are not among them",
        }

    def run_seeded(self, model: nn.Module, x: Tensor, y: Tensor, seeds: Tensor, **more: Any) -> TransferResult:
        check_inputs(x, self.bounds)
        check_labels(y, len(x))
        if self.diversity and x.dim() != 4:
            raise InputError(
                "diversity", f"{self.diversity:g} for inputs of shape {tuple(x.shape)}", "0, or images (B, C, H, W)"
            )
        with torch.no_grad(), evaluating(self.surrogate):
            check_labels(y, len(x), run_model(self.surrogate, x[:1], "surrogate").shape[1])
        counted = _Counted(self.surrogate)
        with evaluating(self.surrogate):
            result = super(Transfer, replace(self, surrogate=counted)).run_seeded(model, x, y, seeds, **more)
        return TransferResult(**vars(result), surrogate_forward=counted.passes, surrogate_backward=counted.passes)

    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        part, budget = batch.take(active), self.budget.take(active)
        sources = [noise] if isinstance(noise, torch.Generator) else list(noise)
        x_adv = part.x
        if not first:
            x_adv = budget.project_within(part.x, part.x + budget.sample(part.x, sources), self.bounds)
        velocity = torch.zeros_like(part.x)
        looks = {self.steps * (i + 1) // self.looks for i in range(self.looks)}
        for step in range(1, self.steps + 1):
            grad = self._gradient(part, x_adv, sources)
            if step == 1 and first and (share := share_of_zeros(grad)) > 0.05:
                found.warnings.append(f"the gradient of the surrogate is zero for {share:.0%} of the samples")
            size = grad.abs().flatten(1).sum(1).clamp_min(1e-12).reshape(-1, *[1] * (grad.dim() - 1))
            velocity = self.momentum * velocity + grad / size  # (1)
            x_adv = self._move(part.x, x_adv, velocity, budget)
            if step not in looks:
                continue
            with torch.no_grad():
                logits = model(x_adv)
                loss, broken = self.objective(logits, part), self.accept(logits, part)
            found.forward += len(x_adv)
            if not bool(torch.isfinite(loss).all()):
                raise InputError("model", "NaN or infinity inside the budget", "finite logits and a finite objective")
            keep(found, active, x_adv, loss, broken)
            if self.retire and step < self.steps and bool(broken.any()):
                left = (~broken).nonzero().squeeze(1)
                if not len(left):
                    return
                active, part, budget = active[left], part.take(left), budget.take(left)
                x_adv, velocity = x_adv[left], velocity[left]
                sources = [sources[i] for i in left.tolist()]

    def _move(self, x: Tensor, x_adv: Tensor, velocity: Tensor, budget: Budget) -> Tensor:
        """One step (2)."""
        if isinstance(budget, L1):  # the steepest direction is a single coordinate, which one model shares with no other
            if self.bounds is not None:  # a coordinate at the end of its range would use up a step for nothing
                low, high = self.bounds
                velocity = velocity.masked_fill(((velocity > 0) & (x_adv >= high)) | ((velocity < 0) & (x_adv <= low)), 0)
            unit = _sparse_signs(velocity, torch.full_like(velocity.flatten(1)[:, 0], SPREAD))
        else:
            unit = budget.steepest(velocity)
        step = self.step_size
        if step is None:
            eps = torch.as_tensor(budget.eps).to(x).reshape(-1, *[1] * (x.dim() - 1))
            return budget.project_within(x, x_adv + (self.relative_step or 2 / self.steps) * eps * unit, self.bounds)
        return budget.project_within(x, x_adv + step * unit, self.bounds)

    def _gradient(self, part: AttackBatch, x_adv: Tensor, noise: list[torch.Generator]) -> Tensor:
        """Of the objective on the surrogate's logits, (B, ...)."""
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            seen = _diverse(x_adv, self.diversity, noise) if self.diversity else x_adv
            loss = self.objective(self.surrogate(seen), part)
            (grad,) = torch.autograd.grad(loss.sum(), x_adv)
        if not bool(torch.isfinite(grad).all()):
            raise InputError("surrogate", "gradients with NaN or infinity inside the budget", "finite gradients")
        return grad


class _Counted(nn.Module):
    """A surrogate that counts the samples it is asked for gradients of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.passes = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        outputs: Tensor = self.model(x)
        return outputs


def _name(model: nn.Module) -> str:
    if isinstance(model, _Counted):
        return _name(model.model)
    if isinstance(model, MeanLogits):
        return f"mean logits of {', '.join(_name(one) for one in model.models)}"
    return type(model).__name__


def _diverse(x: Tensor, probability: float, noise: list[torch.Generator]) -> Tensor:
    """Images (B, C, H, W), each with that probability as a copy of SMALLEST to 1 times its sides at a random place, on 0."""
    drawn = uniform((len(x), 4), noise).to(x)
    scale = SMALLEST + (1 - SMALLEST) * drawn[:, 1]
    place = (2 * drawn[:, 2:] - 1) * (1 - scale[:, None])  # of the middle; -1 and 1 are the ends of the image
    where = torch.zeros(len(x), 2, 3, dtype=x.dtype, device=x.device)
    where[:, 0, 0] = where[:, 1, 1] = 1 / scale
    where[:, :, 2] = -place / scale[:, None]
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    copy = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.where((drawn[:, 0] < probability)[:, None, None, None], copy, x)
