"""Phase 2: the student, its objective and its report; and the arms that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tutelage.auditing.points import PointTable, accuracy, corruption_table
from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator as generator_of
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.points.checks import check_cloud
from tutelage.data.points.cloud import PointSet, random_turn, thinned
from tutelage.methods.harden.intact.noise import Noise, Noised, targeted_noise
from tutelage.methods.harden.intact.saliency import Kind as SaliencyKind
from tutelage.methods.harden.intact.saliency import saliency_map
from tutelage.models.checks import check_labels, check_logits
from tutelage.models.guard import evaluating
from tutelage.teaching.curricula.level import Curriculum
from tutelage.teaching.divergences import kl
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.schedules import Schedule, constant
from tutelage.threats.points.corruptions import PointCorruption
from tutelage.threats.points.pgd import PointPGD


@dataclass(frozen=True)
class IntactConfig:
    """The constants of (4) to (7).

    w_clean, w_distill, w_saliency, temperature: of (6). saliency, n_aug, saliency_temperature: how the teacher's saliency is
    measured; "uniform" asks no teacher. noise: of (5).
    """

    noise: Noise = field(default_factory=Noise)
    w_clean: float = 0.3
    w_distill: float = 0.5
    w_saliency: float = 0.0
    temperature: float = 2.0
    saliency: SaliencyKind | Literal["uniform"] = "grad"
    n_aug: int = 0
    saliency_temperature: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Noise):
            raise InputError("noise", type(self.noise).__name__, "a Noise")
        check_number("w_clean", self.w_clean, "a weight from 0 to 1", low=0, high=1)
        check_number("w_distill", self.w_distill, "a weight >= 0", low=0)
        check_number("w_saliency", self.w_saliency, "a weight >= 0", low=0)
        check_positive("temperature", self.temperature, "a temperature above 0")
        check_choice("saliency", self.saliency, ("grad", "radial", "uniform"))
        check_integer("n_aug", self.n_aug, low=0)
        if self.w_saliency and self.saliency == "uniform":
            raise InputError("w_saliency", self.w_saliency, "0 where no saliency is measured")

    @property
    def needs_teacher(self) -> bool:
        return self.saliency != "uniform" or self.w_distill > 0 or self.w_saliency > 0


class Intact:
    """The objective (6) for `fit`; batches are (points, mask, labels).

    `gradients` counts the clouds that went forward and backward, through student or teacher: what a training costs.
    """

    def __init__(
        self, teacher: nn.Module | None, config: IntactConfig | None = None, curriculum: Curriculum | None = None
    ) -> None:
        self.config, self.curriculum = config or IntactConfig(), curriculum or Curriculum("sqrt")
        if self.config.needs_teacher and not isinstance(teacher, nn.Module):
            raise InputError("teacher", type(teacher).__name__, "an nn.Module, or saliency 'uniform' and no distillation")
        self.teacher = teacher if self.config.needs_teacher else None
        self.gradients, self._checked = 0, False
        self.last: float | None = None
        self.log: list[tuple[int, float]] = []

    def __call__(self, student: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        points, mask, labels = triple(batch)
        config = self.config
        if not self._checked:
            check_first(student, points, mask, labels)
            self._checked = True
        level = self.curriculum.level(min(1.0, ctx.progress), self.last)
        p = mask / mask.sum(1, keepdim=True)
        teacher_logits: Tensor | None = None
        log: dict[str, Tensor | float] = {"level": level}
        if self.teacher is not None:
            with evaluating(self.teacher, verify=False):
                if config.saliency == "uniform":
                    with torch.no_grad():
                        teacher_logits = self.teacher(points, mask)
                else:
                    found = saliency_map(
                        self.teacher, points, labels, mask, kind=config.saliency, n_aug=config.n_aug,
                        temperature=config.saliency_temperature, generator=ctx.generator,
                    )  # fmt: skip
                    p, teacher_logits = found.p.detach(), found.logits.detach()
                    self.gradients += (1 + config.n_aug) * len(points)
                    log["saliency_flat"] = float(found.flat.double().mean())
        noised = targeted_noise(student, points, mask, labels, p, level, config.noise, ctx.generator)
        self.gradients += int(noised.attacked.sum()) * config.noise.attack_steps
        loss, terms = self._loss(student, points, mask, labels, noised, p, teacher_logits)
        log |= terms
        self.last = ctx.batch_mean({"noised_accuracy": float(terms["noised_accuracy"])})["noised_accuracy"]
        self.log.append((ctx.step, level))
        return loss, log

    def _loss(
        self, student: nn.Module, points: Tensor, mask: Tensor, labels: Tensor, noised: Noised, p: Tensor, soft: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        config, log = self.config, dict[str, Tensor | float]()
        same = torch.equal(noised.points, points) and torch.equal(noised.mask, mask)
        if config.w_saliency:  # the student's own saliency of X', differentiable: a double backward pass
            own = saliency_map(
                student, noised.points, labels, noised.mask, kind="grad", temperature=config.saliency_temperature,
                create_graph=True,
            )  # fmt: skip
            logits = own.logits
            self.gradients += len(points)
        else:
            logits = student(noised.points, noised.mask)
        self.gradients += len(points)
        loss = F.cross_entropy(logits, labels)
        log["noised_accuracy"] = float((logits.detach().argmax(1) == labels).double().mean())
        log["loss_noised"] = loss.detach()
        if config.w_clean and not same:  # where nothing was changed both terms are one
            clean = F.cross_entropy(student(points, mask), labels)
            self.gradients += len(points)
            log["loss_clean"] = clean.detach()
            loss = (1 - config.w_clean) * loss + config.w_clean * clean
        if config.w_distill and soft is not None:
            t = config.temperature
            term = t**2 * kl(soft, logits, teacher_temperature=t, student_temperature=t)
            log["loss_distill"] = term.detach()
            loss = loss + config.w_distill * term
        if config.w_saliency:
            # points that X' lost have no saliency there: the teacher's is taken on what is left
            wanted = p * noised.mask
            wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-12)
            ratio = wanted.clamp(min=1e-12).log() - own.p.clamp(min=1e-12).log()
            term = (wanted * ratio).sum(1).mean()
            log["loss_saliency"] = term.detach()
            loss = loss + config.w_saliency * term
        return loss, log

    def state_dict(self) -> dict[str, Any]:
        return {"curriculum": self.curriculum.state_dict(), "gradients": self.gradients, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curriculum.load_state_dict(state["curriculum"])
        self.gradients, self.last = int(state["gradients"]), state["last"]


class PointAdversarial:
    """PGD adversarial training on point clouds: cross-entropy at what `attack` finds for the student as it is."""

    def __init__(self, attack: PointPGD) -> None:
        self.attack, self.gradients = attack, 0

    def __call__(self, student: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        points, mask, labels = triple(batch)
        x = self.attack(student, points, mask, labels, ctx.generator)
        self.gradients += (self.attack.steps + 1) * len(points)
        logits = student(x, mask)
        return F.cross_entropy(logits, labels), {"noised_accuracy": float((logits.argmax(1) == labels).double().mean())}


class Advisor:
    """The curriculum "advisor" of the sister paper (arXiv 2409.12379) as its abstract lets it be read: no teacher, no saliency.

    L = l(g(X)) + w(t) l(g(X')), w growing on the curriculum from 0 to `weight`; X' maximises l + beta H, H the entropy of the
    prediction g(X'), the bonus for diverse attacks: X' shall not all end in one wrong class.
    """

    def __init__(
        self, eps: float, steps: int = 2, *, beta: float = 0.1, weight: float = 1.0, curriculum: Curriculum | None = None
    ) -> None:
        check_number("beta", beta, "a weight >= 0", low=0)
        check_number("weight", weight, "a weight >= 0", low=0)
        self.weight, self.curriculum, self.gradients, self.beta = weight, curriculum or Curriculum("sqrt"), 0, beta
        self.attack = PointPGD(eps, steps=steps, loss=self._diverse)

    def _diverse(self, logits: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        return F.cross_entropy(logits, labels, reduction="sum") - self.beta * (log_p.exp() * log_p).sum()

    def __call__(self, student: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        points, mask, labels = triple(batch)
        x = self.attack(student, points, mask, labels, ctx.generator)
        self.gradients += (self.attack.steps + 2) * len(points)
        level = self.curriculum.level(min(1.0, ctx.progress))
        hard = F.cross_entropy(student(x, mask), labels)
        return F.cross_entropy(student(points, mask), labels) + self.weight * level * hard, {"level": level}


class FullNoise:
    """Random-noise augmentation at its highest level: each cloud is jittered or thinned, whole, no curriculum, no teacher."""

    def __init__(self, noise: Noise) -> None:
        # both are the untargeted noise of the curriculum, which a share of 1 and no attack make of it
        self.noise, self.gradients = replace(noise, target=1.0, how=("jitter", "drop")), 0

    def __call__(self, student: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        points, mask, labels = triple(batch)
        p = mask / mask.sum(1, keepdim=True)
        x = targeted_noise(student, points, mask, labels, p, 1.0, self.noise, ctx.generator)
        self.gradients += len(points)
        logits = student(x.points, x.mask)
        return F.cross_entropy(logits, labels), {"noised_accuracy": float((logits.argmax(1) == labels).double().mean())}


class Plain:
    """Ordinary training (ERM): cross-entropy on the clouds as they are."""

    def __init__(self) -> None:
        self.gradients = 0

    def __call__(self, student: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        points, mask, labels = triple(batch)
        self.gradients += len(points)
        return F.cross_entropy(student(points, mask), labels), {}


@dataclass
class IntactReport:
    """What came of a training. levels: (step, level) of the curriculum. gradients: clouds forward and backward, all nets.

    table: of the student on the validation data, if there were any: corruption x severity.
    """

    fit: FitResult
    levels: list[tuple[int, float]] = field(default_factory=list)
    gradients: int = 0
    table: PointTable | None = None

    @property
    def history(self) -> list[dict[str, float]]:
        return self.fit.history


def intact_train(
    student: nn.Module,
    teacher: nn.Module | None,
    data: PointSet,
    *,
    config: IntactConfig | None = None,
    curriculum: Curriculum | None = None,
    objective: Any = None,
    n_points: int | None = None,
    epochs: int = 30,
    batch_size: int = 32,
    optimizer: Optimizer | None = None,
    lr: float = 2e-3,
    schedule: Schedule = constant,
    turn: bool = True,
    validation: PointSet | None = None,
    corruptions: Mapping[PointCorruption, tuple[float, ...]] | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
    name: str = "INTACT",
) -> IntactReport:
    """Phase 2: train `student` in place on clouds that the teacher's saliency and the curriculum corrupt.

    student, teacher: modules called as model(points (B, N, 3), mask (B, N)) -> logits (B, K); the teacher (of `meta_teacher`,
    or any other) is frozen and may be None where the config asks for none. data: in the unit sphere, or in metres with the
    lengths of the noise in metres. n_points: points drawn of each cloud anew in each batch. turn: turn each cloud about the
    vertical axis. validation, corruptions: if given, the epoch of highest mean accuracy over clean and corrupted validation
    clouds is kept, and the report holds the table; never test data. objective: another one of the same shape, for baselines.

    Raises InputError before any training for clouds that `check_cloud` refuses, labels outside the student's classes;
    SplitError for test data; what `fit` raises.
    """
    for argument, module in (("student", student), ("teacher", teacher)):
        if not isinstance(module, nn.Module) and not (argument == "teacher" and module is None):
            raise InputError(argument, type(module).__name__, "an nn.Module called as model(points, mask)")
    if not isinstance(data, PointSet):
        raise InputError("data", type(data).__name__, "a PointSet")
    if validation is not None and not isinstance(validation, PointSet):
        raise InputError("validation", type(validation).__name__, "a PointSet")
    n = data.points.shape[1] if n_points is None else n_points
    check_integer("n_points", n, low=16, high=data.points.shape[1])
    if teacher is student and teacher is not None:
        raise InputError("student", "the teacher itself", "a model of its own, such as copy.deepcopy(teacher)")
    if n < data.points.shape[1] and data.mask is not None:
        raise InputError("n_points", n, "all points of clouds that have a mask")
    with training_only():
        for part in (data, validation):
            if part is not None:
                refuse_test_data(part)
    if objective is None:
        objective = Intact(teacher, config, curriculum)
    check_callable("objective", objective, "an objective of (model, (points, mask, labels), ctx)")

    loader = data.loader(batch_size, generator=generator_of(seed, "order"), drop_last=len(data) > batch_size)
    validate = None
    if validation is not None:
        val, wanted = fixed(validation, n), corruptions or {}

        def validate(model: nn.Module) -> Mapping[str, float]:
            clean = accuracy(model, val)
            rows = corruption_table(model, val, wanted, seed=0).values if wanted else []
            corrupted = sum(rows) / len(rows) if rows else clean
            return {"clean": clean, "corrupted": corrupted, "mean": (clean + corrupted) / 2}

    result = fit(
        student, _Drawn(objective, n, turn), loader, epochs=epochs,
        optimizer=optimizer or AdamW(student.parameters(), lr=lr, weight_decay=1e-2),
        schedule=schedule, validate=validate, select=None if validation is None else "mean", checkpoint=checkpoint, seed=seed,
        progress=progress, name=name,
    )  # fmt: skip
    table = corruption_table(student, fixed(validation, n), corruptions, seed=0) if validation and corruptions else None
    return IntactReport(result, getattr(objective, "log", []), getattr(objective, "gradients", 0), table)


class _Drawn:
    """Draws the points of a batch and turns the clouds, with the run's generator, before the objective sees them."""

    def __init__(self, objective: Any, n: int, turn: bool) -> None:
        self.objective, self.n, self.turn = objective, n, turn

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        points, mask, labels = triple(batch)
        if self.n < points.shape[1]:
            points, mask = thinned(points, self.n, ctx.generator), mask[:, : self.n]
        if self.turn:
            points = random_turn(points, ctx.generator)
        found: tuple[Tensor, Mapping[str, Tensor | float]] = self.objective(model, (points, mask, labels), ctx)
        return found

    def state_dict(self) -> dict[str, Any]:
        return dict(self.objective.state_dict()) if hasattr(self.objective, "state_dict") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(state)


def fixed(data: PointSet, n: int) -> PointSet:
    """The same clouds with n points each, the same ones every time."""
    if n >= data.points.shape[1]:
        return data
    return replace(data, points=thinned(data.points, n, generator_of(0, "fixed points", data.split)))


def triple(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The (points, mask, labels) of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) != 3:
        got = f"batches of {len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise InputError("data", got, "batches (points, mask, labels), as PointSet.loader gives them")
    return batch[0], batch[1], batch[2]


def check_first(model: nn.Module, points: Tensor, mask: Tensor, labels: Tensor) -> None:
    """Of the first batch: clouds, labels and what the model answers."""
    check_cloud(points, mask)
    with torch.no_grad(), evaluating(model):
        logits = check_logits(model(points[:1], mask[:1]), 1)
    check_labels(labels, len(points), logits.shape[1], name="labels")
