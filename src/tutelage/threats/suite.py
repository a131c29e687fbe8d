"""Suites: attacks one after the other, each only on what the ones before it left unbroken."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.checks import check_inputs, check_labels
from tutelage.threats.budgets import Budget, parse_budget
from tutelage.threats.engine import FGSM, PGD, Attack, AttackResult
from tutelage.threats.objectives import margin

# Between the seeds of two attacks of a suite; small, because torch's CPU generator reads only the low 32 bits of a seed.
STAGE_STRIDE = 1_000_003


@dataclass
class Stage:
    """One attack of a suite: what is broken after it, and what it cost (samples passed)."""

    name: str
    success: Tensor
    forward: int
    backward: int


@dataclass
class SuiteResult(AttackResult):
    """Worst case over the attacks; `stages` tells them apart, cumulatively."""

    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Named attacks within one budget. `Suite.standard(budget)` is what a bare budget in an audit means."""

    budget: Budget
    attacks: tuple[tuple[str, Attack], ...]
    label: str = ""

    @classmethod
    def standard(cls, budget: Budget) -> Suite:
        """FGSM, then PGD-20 with 5 restarts on cross-entropy, then the same on the margin."""
        return cls(
            budget,
            (
                ("FGSM", FGSM(budget)),
                ("PGD-20 x5 CE", PGD(budget, restarts=5)),
                ("PGD-20 x5 margin", PGD(budget, restarts=5, objective=margin)),
            ),
            label="standard suite",
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
        """x (B, ...), y (B,) -> for each sample the first point that broke it, else the last attack's strongest point."""
        check_inputs(x, getattr(self.attacks[0][1], "bounds", None))
        check_labels(y, len(x))
        total = SuiteResult(x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device), torch.zeros(len(x)).to(x), 0, 0)
        stages = []
        # One draw a sample, whatever the batch size and whoever survives.
        seeds = torch.randint(2**61, (len(x),), generator=generator)
        for stage, (name, attack) in enumerate(self.attacks):
            left = (~total.success).nonzero().squeeze(1)
            forward = backward = 0
            if len(left):
                part = replace(attack, budget=attack.budget.take(left))
                result = part.run_seeded(model, x[left], y[left], seeds[left.cpu()] + stage * STAGE_STRIDE)
                total.x_adv[left], total.loss[left], total.success[left] = (
                    result.x_adv,
                    result.loss.to(total.loss),
                    result.success,
                )
                forward, backward = result.forward, result.backward
                total.warnings += [f"{name}: {warning}" for warning in result.warnings]
            total.forward, total.backward = total.forward + forward, total.backward + backward
            stages.append(Stage(name, total.success.clone(), forward, backward))
        total.stages = tuple(stages)
        return total


def parse_threat(text: str) -> Suite:
    """`linf@8/255` -> the standard suite; `fgsm:linf@8/255` or `pgd-50:l2@0.5` -> that one attack."""
    if not isinstance(text, str):
        raise InputError("threats", text, "text such as linf@8/255")
    attack, colon, budget_text = text.strip().rpartition(":")
    budget = parse_budget(budget_text)
    if not colon:
        return Suite.standard(budget)
    if attack == "fgsm":
        return Suite(budget, (("FGSM", FGSM(budget)),))
    if match := re.fullmatch(r"pgd-([1-9][0-9]{0,5})", attack):
        return Suite(budget, ((f"PGD-{match[1]}", PGD(budget, steps=int(match[1]))),))
    raise InputError("threats", text, "linf@EPS or l2@EPS, optionally behind 'fgsm:' or 'pgd-STEPS:'")
