"""The training engine: the fit loop, teachers, divergences, balancers, schedules, checkpoints."""

from tutelage.teaching.balance import EntropyBalancer, LossBalancer
from tutelage.teaching.divergences import entropy, kl
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy, RobustDistillation
from tutelage.teaching.schedules import constant, multistep, warmup_cosine
from tutelage.teaching.teachers import QueryBudget, Supervision, Teacher, remembered_logits

__all__ = [
    "AdversarialTraining",
    "Context",
    "CrossEntropy",
    "EntropyBalancer",
    "FitResult",
    "LossBalancer",
    "QueryBudget",
    "RobustDistillation",
    "Supervision",
    "Teacher",
    "constant",
    "entropy",
    "fit",
    "kl",
    "multistep",
    "remembered_logits",
    "warmup_cosine",
]
