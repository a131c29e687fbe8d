"""Suites: attacks one after the other, each only on what the ones before it left unbroken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats.budgets import Budget, parse_budget
from tutelage.threats.engine import FGSM, PGD, AttackResult
from tutelage.threats.objectives import margin


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
    attacks: tuple[tuple[str, PGD], ...]

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
        )

    @property
    def name(self) -> str:
        return f"{self.budget} standard suite"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> SuiteResult:
        """x (B, ...), y (B,) -> for each sample the first point that broke it, else the last attack's strongest point."""
        total = SuiteResult(x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device), torch.zeros(len(x)).to(x), 0, 0)
        stages = []
        for name, attack in self.attacks:
            # every attack draws its seeds for the whole batch, so that survivors do not depend on their neighbours
            seeds = torch.randint(2**62, (len(x),), generator=generator)
            left = (~total.success).nonzero().squeeze(1)
            forward = backward = 0
            if len(left):
                result = attack.run_seeded(model, x[left], y[left], seeds[left.cpu()])
                total.x_adv[left], total.loss[left], total.success[left] = result.x_adv, result.loss, result.success
                forward, backward = result.forward, result.backward
                total.warnings += [f"{name}: {warning}" for warning in result.warnings]
            total.forward, total.backward = total.forward + forward, total.backward + backward
            stages.append(Stage(name, total.success.clone(), forward, backward))
        total.stages = tuple(stages)
        return total


def parse_threat(text: str) -> Suite:
    """`linf@8/255` -> the standard suite; `fgsm:linf@8/255` or `pgd-50:l2@0.5` -> that one attack."""
    attack, colon, budget_text = text.strip().rpartition(":")
    budget = parse_budget(budget_text)
    if not colon:
        return Suite.standard(budget)
    if attack == "fgsm":
        return Suite(budget, (("FGSM", FGSM(budget)),))
    if attack.startswith("pgd-") and attack[4:].isdigit() and int(attack[4:]) > 0:
        return Suite(budget, ((f"PGD-{attack[4:]}", PGD(budget, steps=int(attack[4:]))),))
    raise InputError("threats", text, "linf@EPS or l2@EPS, optionally behind 'fgsm:' or 'pgd-STEPS:'")
