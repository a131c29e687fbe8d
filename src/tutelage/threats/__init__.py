"""Everything that can go wrong with an input: budgets, objectives and the attack engine."""

from tutelage.threats.apgd import APGD
from tutelage.threats.budgets import L1, L2, Budget, Linf, parse_budget
from tutelage.threats.decision import Decision, zero_one
from tutelage.threats.engine import FGSM, PGD, Attack, AttackResult
from tutelage.threats.minimal import FMN, Distances
from tutelage.threats.objectives import AttackBatch, cross_entropy, dlr, kl_to_reference, margin, misclassified
from tutelage.threats.parse import parse_threat
from tutelage.threats.randomised import Randomised, confirmed
from tutelage.threats.square import Square
from tutelage.threats.suite import Suite, SuiteResult
from tutelage.threats.targeted import TargetedAPGD
from tutelage.threats.transfer import MeanLogits, Transfer, TransferResult

__all__ = [
    "APGD",
    "FGSM",
    "FMN",
    "L1",
    "L2",
    "PGD",
    "Attack",
    "AttackBatch",
    "AttackResult",
    "Budget",
    "Decision",
    "Distances",
    "Linf",
    "MeanLogits",
    "Randomised",
    "Square",
    "Suite",
    "SuiteResult",
    "TargetedAPGD",
    "Transfer",
    "TransferResult",
    "confirmed",
    "cross_entropy",
    "dlr",
    "kl_to_reference",
    "margin",
    "misclassified",
    "parse_budget",
    "parse_threat",
    "zero_one",
]
