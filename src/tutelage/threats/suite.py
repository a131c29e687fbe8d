"""Suites: attacks one after the other, each only on what the ones before it left unbroken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.checks import check_inputs, check_labels, check_logits, check_module, run_model
from tutelage.models.guard import evaluating
from tutelage.models.stand_ins import StandIn, stand_in
from tutelage.threats.apgd import APGD
from tutelage.threats.budgets import L1, Budget
from tutelage.threats.engine import FGSM, Attack, AttackResult
from tutelage.threats.objectives import AttackBatch, margin
from tutelage.threats.square import Square
from tutelage.threats.targeted import TargetedAPGD

# Between the seeds of two attacks of a suite; small, because torch's CPU generator reads only the low 32 bits of a seed.
STAGE_STRIDE = 1_000_003
NEAR = 0.25  # share of the margin on clean data: who has lost more is searched again


@dataclass
class Stage:
    """One attack of a suite: what is broken after it, and what it cost (samples passed)."""

    name: str
    success: Tensor
    forward: int
    backward: int


@dataclass
class SuiteResult(AttackResult):
    """Worst case over the attacks; `stages` tells them apart, cumulatively.

    loss: the margin at x_adv (of the stand-in, where that has a scale of its own). search: in what form the model was
    searched, see `Suite.fast`.
    """

    stages: tuple[Stage, ...] = ()
    search: str = "float32"


@dataclass(frozen=True)
class Suite:
    """Named attacks within one budget. `Suite.standard(budget)` is what a bare budget in an audit means.

    fast: search with a stand-in (`models.stand_ins`) where one follows the model closely and is quicker, or has slopes where
    a softmax at its end has none. The model itself judges every point; where it does not confirm a success, the attack is run
    again, on the model.
    """

    budget: Budget
    attacks: tuple[tuple[str, Attack], ...]
    label: str = ""
    fast: bool = False

    @classmethod
    def standard(cls, budget: Budget) -> Suite:
        """The cheapest attack first; there is nothing to choose.

        FGSM; APGD on cross-entropy; APGD on the margin to up to nine classes, the nearest border first, once more with five
        times the steps where hardly any margin is left; and the Square attack, without gradients, which goes on where it
        climbs higher in its first 200 queries than they did in all.
        """
        steps = 50 if isinstance(budget, L1) else 20  # in L1 they are shared by three balls
        return cls(
            budget,
            (
                ("FGSM", FGSM(budget)),
                (f"APGD-{steps} CE", APGD(budget, steps)),
                (f"T9-APGD-{steps}", TargetedAPGD(budget, steps)),
                (f"T9-APGD-{5 * steps} near", TargetedAPGD(budget, 5 * steps, near=NEAR)),
                ("Square", Square(budget, patience=200)),
            ),
            label="standard suite",
            fast=True,
        )

    @property
    def name(self) -> str:
        return f"{self.budget} {self.label or ' + '.join(name for name, _ in self.attacks)}"

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            raise InputError("budget", self.budget, "a Budget such as Linf(8/255)")
        named = isinstance(self.attacks, tuple | list) and all(isinstance(one, tuple) and len(one) == 2 for one in self.attacks)
        if not named or not self.attacks or not all(hasattr(attack, "run_seeded") for _, attack in self.attacks):
            raise InputError("attacks", self.attacks, 'at least one pair (name, attack), such as (("PGD-20", PGD(budget)),)')
        for name, attack in self.attacks:
            if getattr(attack, "targeted", False):
                raise InputError("attacks", f"{name!r}, which is targeted", "untargeted attacks: a suite has no target classes")
            if type(attack.budget) is not type(self.budget):
                raise InputError("attacks", f"{name!r} in {attack.budget}", f"attacks within the suite's budget {self.budget}")

    def run(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> SuiteResult:
        """x (B, ...), y (B,) -> for each sample the first point that broke it, else the one of the highest margin."""
        seeds = torch.randint(2**61, (len(x) if isinstance(x, Tensor) and x.dim() else 0,), generator=generator)
        return self.run_seeded(model, x, y, seeds)

    def run_seeded(self, model: nn.Module, x: Tensor, y: Tensor, seeds: Tensor) -> SuiteResult:
        """`run` with one seed a sample, (B,) int64 on the CPU, whatever the batch size and whoever survives."""
        check_module(model)
        check_inputs(x, getattr(self.attacks[0][1], "bounds", None))
        check_labels(y, len(x))
        whole = AttackBatch(x, y)
        with torch.no_grad(), evaluating(model):
            logits = run_model(model, x)
            check_labels(y, len(x), logits.shape[1])
            substitute = stand_in(model, x, logits) if self.fast else None
            broken = self.attacks[0][1].accept(logits, whole)
            forward = len(x)
            if substitute and not substitute.same_scale:
                logits, forward = substitute(x), 2 * len(x)
        total = SuiteResult(
            x.clone(), broken, margin(logits, whole), forward, 0, search=substitute.how if substitute else "float32"
        )
        stages = []
        for stage, (name, attack) in enumerate(self.attacks):
            left = (~total.success).nonzero().squeeze(1)
            forward = backward = 0
            if len(left):
                forward, backward = self._stage(
                    model, substitute, name, attack, whole, left, logits, seeds + stage * STAGE_STRIDE, total
                )
            total.forward, total.backward = total.forward + forward, total.backward + backward
            # the clean pass belongs to the attack that comes first
            stages.append(Stage(name, total.success.clone(), forward + (len(x) if stage == 0 else 0), backward))
        total.stages = tuple(stages)
        return total

    @staticmethod
    def _stage(
        model: nn.Module,
        substitute: StandIn | None,
        name: str,
        attack: Attack,
        whole: AttackBatch,
        left: Tensor,
        logits: Tensor,
        seeds: Tensor,
        total: SuiteResult,
    ) -> tuple[int, int]:
        """One attack on the samples `left`; what it finds goes to `total`. Returns the samples passed, forward and backward.

        logits: of x, in the scale in which margins are compared: the model's, unless the stand-in has one of its own.
        """
        forward = backward = 0
        own_scale = substitute is not None and not substitute.same_scale
        for searched in (substitute, model) if substitute else (model,):
            part = whole.take(left)
            known = (None, None) if own_scale and searched is model else (logits[left], total.loss[left])
            result = replace(attack, budget=attack.budget.take(left)).run_seeded(
                searched, part.x, part.y, seeds[left.cpu()], logits=known[0], reached=known[1]
            )
            with torch.no_grad(), evaluating(model):
                judged = check_logits(model(result.x_adv), len(left))
                broken = attack.accept(judged, part)
                height = margin(substitute(result.x_adv) if substitute and own_scale else judged, part).to(total.loss)
            forward, backward = forward + result.forward + len(left) * (1 + own_scale), backward + result.backward
            total.warnings += [w for warning in result.warnings if (w := f"{name}: {warning}") not in total.warnings]
            better = (broken | (height > total.loss[left])).nonzero().squeeze(1)
            rows = left[better]
            total.x_adv.index_copy_(0, rows, result.x_adv.index_select(0, better))
            total.loss[rows], total.success[rows] = height[better], broken[better]
            left = left[result.success & ~broken]
            if not len(left):
                break
        return forward, backward
