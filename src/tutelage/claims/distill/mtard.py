"""The claim of MTARD: is the mean of clean and attacked accuracy higher with two balanced teachers than with one?

Fashion-MNIST (bundled subset), Linf 0.1. Every unit is a seed with its own clean and robust teacher. Arms: adversarial
training without teachers; one robust teacher (RSLAD); two teachers at fixed weights (a sweep: is a balancer more than a
point on that curve?); each balancer alone; both. A second setting trains for 20 epochs. All arms have the same net,
data, schedule, attack and selection (best W-Robust on validation data); only the objective differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from tutelage.auditing.measure import attack_set, predict
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.recipes import Recipe, build_net, inner_attack, teacher, train_student
from tutelage.core.errors import InputError
from tutelage.core.rng import derive, generator
from tutelage.data.images import ImageSet
from tutelage.data.sets import fashion_mnist_subset, standard_set
from tutelage.methods.distill.mtard import MTARD, Balance, MTARDConfig
from tutelage.models.loading import load_model
from tutelage.teaching.fit import FitResult
from tutelage.teaching.fit import Objective as TrainingObjective
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy, RobustDistillation
from tutelage.teaching.teachers import Teacher
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD
from tutelage.threats.objectives import kl_to_reference
from tutelage.threats.suite import Suite


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["fashion-mnist-subset", "cifar10", "random"] = "fashion-mnist-subset"
    n_validation: int = Field(1500, ge=1)
    n_test: int = Field(0, ge=0, description="test images used; 0 for all")
    eps: float = Field(0.1, gt=0, description="Linf budget of training and audit")
    attack_steps: int = Field(10, ge=1, description="steps of the training attack, of eps/4 each")
    student: str = Field("u16", description="a net of recipes.NETS, or package.module:function")
    clean_teacher: str = "t32"
    robust_teacher: str = "u32"
    clean_teacher_weights: str = Field("", description="safetensors; trained here if empty")
    robust_teacher_weights: str = ""
    epochs: int = Field(8, ge=1)
    long_epochs: int = Field(20, ge=1, description="epochs of the arms that end in -long")
    clean_teacher_epochs: int = Field(12, ge=1)
    robust_teacher_epochs: int = Field(9, ge=1)
    lr: float = Field(0.05, gt=0)
    weight_decay: float = Field(2e-4, ge=0)
    teacher_weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(128, ge=1)
    eta_w: float = Field(0.025, ge=0, le=1)
    eta_tau: float = Field(0.02, ge=0, description="0.001 in the paper's 100,000 steps; about (range of tau)/steps here")
    label_smoothing: float = Field(0.1, ge=0, lt=1)


ARMS = (
    "pgd-at",
    "single-robust-teacher",
    "fixed-weights-0.10",
    "fixed-weights-0.25",
    "fixed-weights-0.50",
    "entropy-balance-only",
    "mtard",
    "b-mtard",
    "single-robust-teacher-long",
    "b-mtard-long",
    "hard-labels-only",
    "pgd-at-label-smoothing",
)
CONTROLS = ("hard-labels-only", "pgd-at-label-smoothing")

BALANCE: dict[str, tuple[Balance, ...]] = {
    "entropy-balance-only": ("entropy",),
    "mtard": ("loss",),
    "b-mtard": ("loss", "entropy"),
}


def splits(config: Config) -> tuple[ImageSet, ImageSet, ImageSet]:
    """(train, validation, test); validation is split off the training data, the same for every unit."""
    if config.data == "random":
        everything = _random_set(3 * 64)
        train, validation, test = (everything.take(slice(64 * i, 64 * (i + 1))) for i in range(3))
        return train, validation.take(slice(None), "validation"), test.take(slice(None), "test")
    if config.data == "cifar10":
        whole, test = standard_set("cifar10", "train"), standard_set("cifar10", "test")
    else:
        whole, test = fashion_mnist_subset("train"), fashion_mnist_subset("test")
    train, validation = whole.split_off(config.n_validation)
    return train, validation, test.split_off(config.n_test, split="test")[1] if config.n_test else test


def _random_set(n: int) -> ImageSet:
    """Random 8x8 images of two classes, told apart by their upper half: something to learn in three steps."""
    g = generator(0, "random images")
    labels = torch.arange(n) % 2
    images = torch.rand(n, 1, 8, 8, generator=g) * 0.5
    images[:, :, :4] += 0.4 * labels[:, None, None, None]
    return ImageSet(images, labels, ("dark", "bright"), name="random 8x8 images", split="train", kind="generated")


def cell(cell: Cell) -> Mapping[str, float]:
    """Train one arm on one unit and audit it on test data. Accuracies in per cent."""
    config: Config = cell.config
    train, validation, test = splits(config)
    seed = derive(cell.unit, "mtard")
    long = cell.arm.endswith("-long")
    arm = cell.arm.removesuffix("-long")
    recipe = Recipe(
        config.student,
        config.long_epochs if long else config.epochs,
        lr=config.lr,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        flip=config.data != "random",
        shift=4 if config.data == "cifar10" else 0,
        attack_steps=config.attack_steps,
    )
    student = build_net(config.student, train, seed)
    objective = _objective(arm, config, train, validation, seed, cell)
    result = train_student(
        student, objective, recipe, train, validation, seed=seed, select="w_robust", eps=config.eps,
        progress=cell.progress, name=cell.arm,
    )  # fmt: skip
    assert result.best is not None
    return {**_audit(student, test, config, cell), **_trace(result), "best_epoch": result.best["epoch"]}


def _objective(arm: str, config: Config, train: ImageSet, validation: ImageSet, seed: int, cell: Cell) -> TrainingObjective:
    attack = inner_attack(config.eps, config.attack_steps)
    if arm == "hard-labels-only":
        return CrossEntropy()
    if arm == "pgd-at":
        return AdversarialTraining(attack)
    if arm == "pgd-at-label-smoothing":
        return AdversarialTraining(attack, label_smoothing=config.label_smoothing)
    robust = Teacher(_teacher("robust", config, train, validation, seed, cell), name="robust teacher")
    if arm == "single-robust-teacher":
        soft = PGD(attack.budget, steps=attack.steps, step_size=attack.step_size, start="gaussian", objective=kl_to_reference)
        return RobustDistillation(robust, soft)
    clean = Teacher(_teacher("clean", config, train, validation, seed, cell), name="clean teacher")
    clean_weight = float(arm.removeprefix("fixed-weights-")) if arm.startswith("fixed-weights-") else 0.5
    constants = MTARDConfig(balance=BALANCE.get(arm, ()), clean_weight=clean_weight, eta_w=config.eta_w, eta_tau=config.eta_tau)
    return MTARD({"clean": clean, "robust": robust}, attack, constants)


def _teacher(
    kind: Literal["clean", "robust"], config: Config, train: ImageSet, validation: ImageSet, seed: int, cell: Cell
) -> nn.Module:
    net, weights, epochs = (
        (config.clean_teacher, config.clean_teacher_weights, config.clean_teacher_epochs)
        if kind == "clean"
        else (config.robust_teacher, config.robust_teacher_weights, config.robust_teacher_epochs)
    )
    if weights:
        return load_model(net, weights)
    shift = {"fashion-mnist-subset": 1 if kind == "clean" else 0, "cifar10": 4, "random": 0}[config.data]
    recipe = Recipe(
        net,
        epochs,
        lr=config.lr,
        weight_decay=config.teacher_weight_decay,
        batch_size=config.batch_size,
        shift=shift,
        flip=config.data != "random",
        eps=config.eps if kind == "robust" else 0.0,
        attack_steps=config.attack_steps,
    )
    return teacher(recipe, train, validation, seed=derive(seed, kind), cache=cell.cache, progress=cell.progress)


def _audit(student: nn.Module, test: ImageSet, config: Config, cell: Cell) -> dict[str, float]:
    clean = float((predict(student, test).argmax(1) == test.labels).double().mean())
    if config.data == "random":
        suite = Suite(Linf(config.eps), (("PGD-2", PGD(Linf(config.eps), steps=2)),))
    else:
        suite = Suite.standard(Linf(config.eps))
    measured = attack_set(student, test, suite, seed=derive(cell.unit, "audit"), progress=cell.progress)
    stages = {f"robust_{name.split()[0].lower()}": broken for name, broken in list(measured.stages.items())[:2]}
    robust = measured.robust_accuracy
    return {
        "clean": 100 * clean,
        "robust": 100 * robust,
        "w_robust": 50 * (clean + robust),
        **{name: 100 * float((~broken).double().mean()) for name, broken in stages.items()},
    }


def _trace(result: FitResult) -> dict[str, float]:
    """Of the two-teacher arms: where weights, temperatures and entropies ended, averaged over the last epoch."""
    last = [row for row in result.history if row["epoch"] == result.history[-1]["epoch"]]
    if "entropy_clean" not in last[0]:
        return {}

    def mean(key: str) -> float:
        return sum(row[key] for row in last) / len(last)

    return {
        "entropy_gap": abs(mean("entropy_clean") - mean("entropy_robust")),
        "temperature_clean": mean("temperature_clean"),
        "temperature_robust": mean("temperature_robust"),
        "weight_clean": mean("weight_clean"),
    }


def data(config: Config) -> list[dict[str, Any]]:
    sets = [part.describe() for part in splits(config)]
    for kind, net in (("clean", config.clean_teacher), ("robust", config.robust_teacher)):
        if not net:  # said before the first arm trains
            raise InputError(f"{kind}_teacher", "none", f"--set {kind}_teacher=module:function {kind}_teacher_weights=FILE")
    return sets


CLAIM = Claim(
    slug="mtard",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="random", student="linear", clean_teacher="linear", robust_teacher="linear", attack_steps=2,
            batch_size=21, epochs=1, long_epochs=2, clean_teacher_epochs=2, robust_teacher_epochs=2, lr=1.0,
        ),
        "claim": Config(),
        "paper": Config(
            data="cifar10", n_validation=5000, eps=8 / 255, student="resnet-18", clean_teacher="resnet-56",
            robust_teacher="", epochs=300, long_epochs=300, clean_teacher_epochs=200, robust_teacher_epochs=200,
            lr=0.1, eta_tau=0.001,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "B-MTARD has a higher W-Robust than MTARD (without the entropy balance).",
            "w_robust", "b-mtard", "mtard",
        ),
        Sentence(
            "B-MTARD has a higher clean accuracy than the single robust teacher.",
            "clean", "b-mtard", "single-robust-teacher",
        ),
        Sentence(
            "B-MTARD loses at most 1 point of attacked accuracy against the single robust teacher.",
            "robust", "b-mtard", "single-robust-teacher", kind="noninferiority", margin=-1.0,
        ),
        Sentence(
            "B-MTARD has a higher W-Robust than adversarial training without teachers.",
            "w_robust", "b-mtard", "pgd-at",
        ),
        *(
            Sentence(
                f"B-MTARD has a higher W-Robust than fixed weights with {w} clean.",
                "w_robust", "b-mtard", f"fixed-weights-{w}",
            )
            for w in ("0.10", "0.25", "0.50")
        ),
        Sentence(
            "The loss balance alone (MTARD) adds W-Robust over fixed weights with 0.50 clean.",
            "w_robust", "mtard", "fixed-weights-0.50",
        ),
        Sentence(
            "The entropy balance alone adds W-Robust over fixed weights with 0.50 clean.",
            "w_robust", "entropy-balance-only", "fixed-weights-0.50",
        ),
        Sentence(
            "In B-MTARD's last epoch the mean entropies of the two teachers differ by less than 0.05 nats.",
            "entropy_gap", "b-mtard", kind="threshold", better="lower", margin=0.05,
        ),
        Sentence(
            "Trained for 20 epochs, B-MTARD has a higher W-Robust than the single robust teacher.",
            "w_robust", "b-mtard-long", "single-robust-teacher-long",
        ),
        Sentence(
            "Trained for 20 epochs, B-MTARD has a higher clean accuracy than the single robust teacher.",
            "clean", "b-mtard-long", "single-robust-teacher-long",
        ),
    ),
    axes=("clean", "robust"),
    metric_labels={"clean": "clean accuracy, %", "robust": "accuracy under attack, %", "w_robust": "W-Robust, %"},
)  # fmt: skip
