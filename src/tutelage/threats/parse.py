"""Threats by name: what a command line says."""

from __future__ import annotations

import re
from collections.abc import Callable

from tutelage.core.errors import InputError
from tutelage.threats.apgd import APGD
from tutelage.threats.budgets import Budget, parse_budget
from tutelage.threats.decision import Decision
from tutelage.threats.engine import FGSM, PGD, Attack
from tutelage.threats.minimal import FMN
from tutelage.threats.square import Square
from tutelage.threats.suite import Suite
from tutelage.threats.targeted import TargetedAPGD

# name -> attack within a budget, of so many steps or queries
COUNTED: dict[str, Callable[[Budget, int], Attack]] = {
    "pgd": lambda budget, count: PGD(budget, steps=count),
    "apgd": lambda budget, count: APGD(budget, steps=count),
    "targeted-apgd": lambda budget, count: TargetedAPGD(budget, steps=count),
    "fmn": lambda budget, count: FMN(budget, steps=count),
    "square": lambda budget, count: Square(budget, queries=count),
    "decision": lambda budget, count: Decision(budget, queries=count),
}


def parse_threat(text: str) -> Suite:
    """`linf@8/255` -> the standard suite; `fgsm:linf@8/255`, `pgd-50:l2@0.5` or another NAME-COUNT -> that one attack."""
    if not isinstance(text, str):
        raise InputError("threats", text, "text such as linf@8/255")
    attack, colon, budget_text = text.strip().rpartition(":")
    budget = parse_budget(budget_text)
    if not colon:
        return Suite.standard(budget)
    if attack == "fgsm":
        return Suite(budget, (("FGSM", FGSM(budget)),))
    match = re.fullmatch(r"([a-z-]+)-([1-9][0-9]{0,5})", attack)
    if match and match[1] in COUNTED:
        return Suite(budget, ((attack_name(match[1], match[2]), COUNTED[match[1]](budget, int(match[2]))),))
    raise InputError("threats", text, "linf@EPS, l2@EPS or l1@EPS, optionally behind 'fgsm:' or a name like 'pgd-STEPS:'")


def attack_name(kind: str, count: str) -> str:
    known = {"square": "Square", "decision": "Decision", "targeted-apgd": "T9-APGD"}
    return f"{known.get(kind, kind.upper())}-{count}"
