"""Targets one after the other, the most promising first (the idea of the Minimum-Margin attack, Gao et al. 2022).

An untargeted search may climb towards a class that it never reaches, beside one that is near. Here each sample is driven
towards several classes in turn, and they are ordered by how far the border to each seems to be. Near x a net is about linear,
so that distance is the logit difference over the length of its gradient,

    d_j = (z_y - z_j) / |grad_x (z_y - z_j)|_dual,                                                             (1)

and Auto-PGD then maximises z_t - z_y for the class t of the smallest d, then of the next, until the sample is broken.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.threats.apgd import APGD
from tutelage.threats.engine import AttackResult, check_grows
from tutelage.threats.minimal import DUAL
from tutelage.threats.objectives import AttackBatch, Objective, margin, misclassified


def gap(logits: Tensor, batch: AttackBatch) -> Tensor:
    """z_t - z_y for a target t; without one the margin, the largest of these."""
    if batch.target is None:
        return margin(logits, batch)
    return (logits.gather(1, batch.target[:, None]) - logits.gather(1, batch.y[:, None])).squeeze(1)


def leaves_its_label(logits: Tensor, batch: AttackBatch) -> Tensor:
    """Success whichever class is reached, the target or another."""
    return logits.argmax(1) != batch.y


@dataclass(frozen=True)
class TargetedAPGD(APGD):
    """Auto-PGD towards `targets` classes in turn, ordered by (1). Fields as of `APGD`; steps are for each target.

    candidates: how many classes of the largest logits are ordered; each costs one gradient. near: where other attacks have
    left more than this share of a sample's margin standing, it is not searched (`batch.reached`, which a suite knows; 1
    searches all). Its goal is any wrong class, so that it takes no `target` and fits a suite.
    """

    steps: int = 30
    targets: int = 9
    candidates: int = 10
    near: float = 1.0
    objective: Objective = field(default=gap, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("targets", self.targets)
        check_integer("candidates", self.candidates, low=self.targets)
        check_number("near", self.near, "a share from 0 to 1", low=0, high=1)
        if self.targeted:
            raise InputError("targeted", True, "False: this attack chooses its targets itself")

    @property
    def name(self) -> str:
        return f"T{self.targets}-{super().name}" + (" near" if self.near < 1 else "")

    @property
    def settings(self) -> dict[str, object]:
        return {**super().settings, "targets": self.targets, "candidates": self.candidates, "near": self.near}

    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        sources = noise if isinstance(noise, torch.Generator) else list(noise)
        if self.near < 1 and batch.reached is not None:
            close = (batch.reached[active] >= self.near * found.loss[active]).nonzero().squeeze(1)  # both are below 0
            active = active[close]
            sources = sources if isinstance(sources, torch.Generator) else [sources[i] for i in close.tolist()]
        if not len(active):
            return
        order = self._nearest(model, batch.take(active), found)
        search = replace(self, accept=leaves_its_label) if self.accept is misclassified else self
        for t in range(order.shape[1]):
            left = (~found.success[active]).nonzero().squeeze(1) if self.retire else torch.arange(len(active)).to(active)
            if not len(left):
                break
            target = torch.zeros_like(batch.y)
            target[active[left]] = order[left, t]
            some = sources if isinstance(sources, torch.Generator) else [sources[i] for i in left.tolist()]
            aimed = AttackBatch(batch.x, batch.y, target, batch.reference)
            APGD._climb(search, model, aimed, active[left], some, found, first=first and t == 0)
        with torch.no_grad():  # gaps to single targets become margins again
            part = batch.take(active)
            found.loss[active] = self.objective(model(found.x_adv[active]), part)
        found.forward += len(active)

    def _nearest(self, model: nn.Module, part: AttackBatch, found: AttackResult) -> Tensor:
        """(B, targets) classes by their estimated distance (1), nearest first."""
        x = part.x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(x)
            check_grows(logits)
            found.forward += len(x)
            others = logits.detach().scatter(1, part.y[:, None], -torch.inf)
            count = min(self.candidates, logits.shape[1] - 1)
            classes: Tensor = others.topk(count, dim=1).indices
            distances = []
            for c in range(count):
                difference = logits.gather(1, part.y[:, None]) - logits.gather(1, classes[:, c : c + 1])
                (grad,) = torch.autograd.grad(difference.sum(), x, retain_graph=c < count - 1)
                found.backward += len(x)
                slope = torch.linalg.vector_norm(grad.flatten(1), DUAL[self.budget.norm], dim=1)
                distances.append(difference.detach().squeeze(1) / slope.clamp_min(1e-12))
        order = torch.stack(distances, 1).argsort(dim=1)[:, : self.targets]
        nearest: Tensor = classes.gather(1, order)
        return nearest
