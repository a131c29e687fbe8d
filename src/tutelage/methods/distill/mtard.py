"""MTARD and B-MTARD: one small student taught by a clean teacher and a robust teacher.

For whoever has a good ordinary checkpoint and an adversarially trained one of the same classes, and wants one small
model that keeps the accuracy of the first under the threat of the second.

    Zhao, Wang, Wei: Mitigating the Accuracy-Robustness Trade-off via Multi-Teacher Adversarial Distillation,
    arXiv 2306.16170 (2023), TPAMI 2024. The ECCV 2022 ancestor, MTARD, is the same without (4).

Student S (always at temperature 1), clean teacher T_n, robust teacher T_a, temperatures t_n, t_a, weights w_n + w_a = 1.
On every batch (x, y), in this order:

    x' = argmax over the budget of CE(S(x'), y), S in eval mode                     (1) the hard label, no teacher
    L_a = KL(softmax(T_a(x') / t_a) || softmax(S(x')))                              (2) attacked inputs only
    L_n = KL(softmax(T_n(x) / t_n) || softmax(S(x)))                                (3) clean inputs only
    t_k <- clamp(t_k - eta_tau sign(H_k / H_j - 1), 1, 10), H the mean entropy      (4) Entropy-Based Balance
    w_k <- w_k - eta_w (w_k - r_k^b / sum r^b), r_k = L_k / L_k(0)                  (5) Normalization Loss Balance
    minimise w_a L_a + w_n L_n                                                      (6) no hard-label term

(4) takes effect from the next batch on, (5) in the same batch.
The two student passes are separate, attacked first, so BatchNorm sees two batches. eta_w and eta_tau follow the
learning-rate schedule. Where the released code differs: it averages the KL over samples and classes (`reduction="mean"`,
1/C of ours; its learning rate 0.1 belongs to that) and adds 1e-5 inside logarithms (below 1e-3 of the loss; not here).

Example::

    import tutelage
    from torch.optim import SGD
    from tutelage.models import SmallCNN

    data = tutelage.fashion_mnist_subset("train").take(slice(0, 512))  # or your own DataLoader of (image, label)
    clean, robust, student = SmallCNN(8), SmallCNN(8), SmallCNN(4)  # your two trained teachers, your student
    result = tutelage.fit_mtard(
        student, {"clean": clean, "robust": robust}, data.loader(64), threat=tutelage.Linf(0.1), epochs=1,
        optimizer=SGD(student.parameters(), lr=0.05, momentum=0.9),
    )
    print(result.history[-1])
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from tutelage.auditing.measure import clean_and_robust
from tutelage.core.checks import check_callable, check_choice, check_number
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.data.checks import check_in_memory
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs, check_labels, check_not_probabilities, run_model
from tutelage.models.guard import evaluating
from tutelage.teaching.balance import EntropyBalancer, LossBalancer
from tutelage.teaching.divergences import Reduction, entropy, kl
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.objectives import Attack, pair
from tutelage.teaching.schedules import Schedule, multistep
from tutelage.teaching.teachers import Teacher
from tutelage.threats.budgets import Budget, Linf
from tutelage.threats.engine import PGD

if TYPE_CHECKING:
    from accelerate import Accelerator

Balance = Literal["loss", "entropy"]
CLEAN, ROBUST = "clean", "robust"
PAPER_THREAT = Linf(8 / 255)
PAPER_SCHEDULE = multistep((215 / 300, 260 / 300, 285 / 300))


@dataclass(frozen=True)
class MTARDConfig:
    """The method's own constants; the defaults are the paper's.

    balance: "loss" is (5), "entropy" is (4). Both: B-MTARD. Only "loss": MTARD. Neither: two teachers at fixed weights.
    clean_weight: w_n at the start; w_a is 1 minus it.
    eta_tau: 0.001 is meant for 100,000 steps; in a short run it needs about (temperature range) / steps.
    """

    balance: Collection[Balance] = ("loss", "entropy")
    clean_weight: float = 0.5
    eta_w: float = 0.025
    b: float = 1.0
    eta_tau: float = 0.001
    temperature_bounds: tuple[float, float] = (1.0, 10.0)
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        several = isinstance(self.balance, Collection) and not isinstance(self.balance, str)
        if not several or any(word not in ("loss", "entropy") for word in self.balance):
            raise InputError("balance", self.balance, 'any of loss and entropy, such as ("loss", "entropy")')
        check_number("clean_weight", self.clean_weight, "a weight from 0 to 1", low=0, high=1)
        check_number("eta_w", self.eta_w, "a rate from 0 to 1", low=0, high=1)
        check_number("b", self.b, "a finite number >= 0", low=0)
        check_number("eta_tau", self.eta_tau, "a finite number >= 0", low=0)
        bounds = self.temperature_bounds
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise InputError("temperature_bounds", bounds, "a pair (low, high)")
        for bound in bounds:
            check_number("temperature_bounds", bound, "finite temperatures above 0", low=1e-6)
        if bounds[0] > bounds[1]:
            raise InputError("temperature_bounds", bounds, "the lower temperature first")
        check_choice("reduction", self.reduction, ("batchmean", "mean"))


class MTARD:
    """The objective of (1) to (6) for `fit`; batches are (x, y) with x in [0, 1].

    teachers: {"clean": T_n, "robust": T_a}. attack: the search of (1), called on (x, y) with the student.
    Its state (weights, temperatures, L(0), teacher meters) is checkpointed by `fit`.
    """

    def __init__(self, teachers: Mapping[str, Teacher], attack: Attack, config: MTARDConfig | None = None) -> None:
        _check_teachers(teachers)
        for name, teacher in teachers.items():
            if not isinstance(teacher, Teacher):
                raise InputError("teachers", f"{type(teacher).__name__} as {name!r}", "a Teacher: Teacher(model)")
        check_callable("attack", attack, "an attack such as PGD(Linf(8/255), steps=10)")
        if config is not None and not isinstance(config, MTARDConfig):
            raise InputError("config", type(config).__name__, "an MTARDConfig")
        self.teachers, self.attack, self.config = dict(teachers), attack, config or MTARDConfig()
        start = {CLEAN: self.config.clean_weight, ROBUST: 1 - self.config.clean_weight}
        rate_w = self.config.eta_w if "loss" in self.config.balance else 0.0
        rate_tau = self.config.eta_tau if "entropy" in self.config.balance else 0.0
        self.weights = LossBalancer((CLEAN, ROBUST), rate=rate_w, b=self.config.b, weights=start)
        self.temperatures = EntropyBalancer((CLEAN, ROBUST), rate=rate_tau, bounds=self.config.temperature_bounds)
        self._checked, self._classes = False, 0

    def __call__(self, student: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = pair(batch)
        if self._checked:
            check_labels(y, len(x), self._classes)
        else:
            self._check_inputs(student, x, y)
        teacher_clean = self.teachers[CLEAN].query(x).logits
        if not self._checked:
            self._check_teacher(CLEAN, teacher_clean)
        x_adv = self.attack(x, y, model=student, generator=ctx.generator)  # (1)
        diverged = ctx.batch_mean({"x_adv": float(not bool(torch.isfinite(x_adv).all()))})["x_adv"] > 0
        if diverged:  # `fit` stops and names the step
            return student(x).sum() * float("nan"), {}
        teacher_robust = self.teachers[ROBUST].query(x_adv).logits
        if not self._checked:
            self._check_teacher(ROBUST, teacher_robust)
            self._checked = True

        student_robust = student(x_adv)
        student_clean = student(x)
        tau = self.temperatures.temperatures
        tau_robust, tau_clean = tau[ROBUST], tau[CLEAN]
        reduction = self.config.reduction
        loss_robust = kl(teacher_robust, student_robust, teacher_temperature=tau_robust, reduction=reduction)  # (2)
        loss_clean = kl(teacher_clean, student_clean, teacher_temperature=tau_clean, reduction=reduction)  # (3)

        # of the whole batch, so that every process of a training has the same weights and temperatures
        means = ctx.batch_mean(
            {
                f"entropy_{CLEAN}": float(entropy(teacher_clean, temperature=tau_clean)),
                f"entropy_{ROBUST}": float(entropy(teacher_robust, temperature=tau_robust)),
                f"loss_{CLEAN}": float(loss_clean.detach()),
                f"loss_{ROBUST}": float(loss_robust.detach()),
            }
        )
        entropies = {name: means[f"entropy_{name}"] for name in (CLEAN, ROBUST)}
        self.temperatures.update(entropies, scale=ctx.lr_scale)  # (4)
        # a KL of 0 can round to just below it
        losses = {name: _at_least_zero(means[f"loss_{name}"]) for name in (CLEAN, ROBUST)}
        w = self.weights.update(losses, scale=ctx.lr_scale) if _finite(losses) else self.weights.weights  # (5)

        total = w[ROBUST] * loss_robust + w[CLEAN] * loss_clean  # (6)
        log: dict[str, Tensor | float] = {}
        for name in (CLEAN, ROBUST):
            log |= {f"loss_{name}": losses[name], f"weight_{name}": w[name], f"entropy_{name}": entropies[name]}
        return total, log | {f"temperature_{CLEAN}": tau_clean, f"temperature_{ROBUST}": tau_robust}

    def _check_inputs(self, student: nn.Module, x: Tensor, y: Tensor) -> None:
        """On the first batch, before anything else: ranges, labels, logits."""
        check_inputs(x)
        if any(teacher.model is student for teacher in self.teachers.values()):
            raise InputError("student", "a model that is also a teacher", "a model of its own, such as copy.deepcopy(teacher)")
        with torch.no_grad(), evaluating(student):
            logits = run_model(student, x, name="student")
        check_not_probabilities(logits, name="student")
        check_labels(y, len(x), logits.shape[1])
        self._classes = logits.shape[1]

    def _check_teacher(self, name: str, logits: Tensor) -> None:
        """On a teacher's first answer, before the student is changed."""
        check_not_probabilities(logits, name=f"{name} teacher")
        if logits.shape[1] != self._classes:
            raise InputError(f"{name} teacher", f"{logits.shape[1]} classes", f"{self._classes}, as many as the student has")

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights.state_dict(),
            "temperatures": self.temperatures.state_dict(),
            "teachers": {name: teacher.state_dict() for name, teacher in self.teachers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.load_state_dict(state["weights"])
        self.temperatures.load_state_dict(state["temperatures"])
        for name, teacher in self.teachers.items():
            teacher.load_state_dict(state["teachers"][name])


def fit_mtard(
    student: nn.Module,
    teachers: Mapping[str, nn.Module | Teacher],
    loader: DataLoader[Any],
    *,
    threat: Budget = PAPER_THREAT,
    attack: Attack | None = None,
    config: MTARDConfig | None = None,
    epochs: int = 300,
    optimizer: Optimizer | None = None,
    schedule: Schedule = PAPER_SCHEDULE,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    validation: ImageSet | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: Progress = QUIET,
) -> FitResult:
    """Teach `student` in place by a clean and a robust teacher (B-MTARD with the default config).

    student: nn.Module, images (B, C, H, W) in [0, 1] -> logits (B, classes). teachers: {"clean": ..., "robust": ...},
    any architectures with the same classes; they are not changed. loader: batches (x, y), y integer labels.
    threat: the budget to be robust in. attack: default PGD, 10 steps of eps/4 from a start 0.001 N(0, 1) away.
    optimizer: default SGD, learning rate 0.1, momentum 0.9, weight decay 2e-4, as in the paper.
    validation: if given, the epoch of best W-Robust (mean of clean and PGD-20 accuracy) on it is kept; never test data.
    Returns a FitResult whose history holds both losses, weights, temperatures and entropies of every step.

    Raises InputError (before any training) for teachers with other classes, probabilities instead of logits, inputs
    outside [0, 1], labels out of range; SplitError for test data. `fit` says what else it raises.
    """
    if not isinstance(student, nn.Module):
        raise InputError("student", type(student).__name__, "an nn.Module that returns logits")
    if not isinstance(threat, Budget):
        raise InputError("threat", threat, "a Budget such as Linf(8/255)")
    if validation is not None and not isinstance(validation, ImageSet):
        raise InputError("validation", type(validation).__name__, "an ImageSet: as_images(data)")
    if augment is not None:
        check_callable("augment", augment, "a function of (x, generator), such as random_flip")
    _check_teachers(teachers)
    check_in_memory(loader)
    wrapped = {name: t if isinstance(t, Teacher) else Teacher(t, name=f"{name} teacher") for name, t in teachers.items()}
    if attack is None:
        attack = PGD(threat, steps=10, step_size=_quarter(threat), start="gaussian")
    validate = None
    if validation is not None:
        with training_only():
            refuse_test_data(validation)
        audit = PGD(threat, steps=20)

        def validate(model: nn.Module) -> Mapping[str, float]:
            return clean_and_robust(model, validation, audit, seed=seed)

    return fit(
        student,
        MTARD(wrapped, attack, config),
        loader,
        epochs=epochs,
        optimizer=optimizer or SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4),
        schedule=schedule,
        augment=augment,
        validate=validate,
        select="w_robust" if validation is not None else None,
        checkpoint=checkpoint,
        seed=seed,
        accelerator=accelerator,
        progress=progress,
        name="MTARD",
    )


def _check_teachers(teachers: object) -> None:
    names = sorted(map(str, teachers)) if isinstance(teachers, Mapping) else []
    if names != [CLEAN, ROBUST]:
        got = names if isinstance(teachers, Mapping) else type(teachers).__name__
        raise InputError("teachers", got, "one for each of 'clean' and 'robust': {'clean': ..., 'robust': ...}")


def _quarter(threat: Budget) -> float:
    if isinstance(threat.eps, Tensor):
        raise InputError("threat", "one eps a sample", "one eps, or an attack of your own")
    return float(threat.eps) / 4


def _at_least_zero(value: float) -> float:
    return 0.0 if value < 0 else value  # NaN stays NaN


def _finite(losses: Mapping[str, float]) -> bool:
    # a NaN is for `fit` to report, with the step's number; the balancers keep their last good state
    return all(value - value == 0 for value in losses.values())
