"""The claim of DONE: do worst-case sample weights lift the classes that adversarial training leaves weak?

Fashion-MNIST (bundled subset) whose training classes are thinned exponentially to ratio 10, Linf 0.1. Every unit is a seed
with its own order of the classes, its own thinned set and its own initialisation; validation and test data keep equal
classes. Arms: PGD adversarial training, TRADES, GAIRAT, inverse-frequency weights (the control), DONE without and with its
implicit gradients. All arms have the same net, data, schedule, attack steps and selection of the epoch. Each arm is trained
`tries` times on every unit, with as many values of its own constant, and the best on validation data is audited.

Epoch and constant are selected by RA-Tail-30 under PGD on validation data, and so are the 30 % of classes that the test
data are judged on. Weights by the loss can mask gradients, so the audit also attacks the margin, the DLR and scaled logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD

from tutelage.auditing.measure import attack_set, predict
from tutelage.auditing.per_class import class_accuracy, tail_accuracy, weakest_classes
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.recipes import Recipe, build_net, inner_attack
from tutelage.core.rng import derive, generator
from tutelage.data.images import ImageSet
from tutelage.data.imbalance import class_counts, thinned
from tutelage.data.sets import fashion_mnist_subset, standard_set
from tutelage.methods.harden.doubly_robust_at import DONE, BarrierAttack, DONEConfig, clean_robust_tail
from tutelage.teaching.fit import FitResult, fit
from tutelage.teaching.fit import Objective as TrainingObjective
from tutelage.teaching.objectives import AdversarialTraining
from tutelage.teaching.robust import GAIRAT, TRADES, WeightedAdversarialTraining
from tutelage.teaching.schedules import warmup_cosine
from tutelage.teaching.weights import ClassWeights
from tutelage.threats.apgd import APGD
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD
from tutelage.threats.objectives import AttackBatch, cross_entropy, dlr, kl_to_reference
from tutelage.threats.suite import Suite

TAIL = 0.3  # share of the classes


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["fashion-mnist-subset", "cifar10", "random"] = "fashion-mnist-subset"
    ratio: float = Field(10.0, ge=1, description="of the largest training class to the smallest")
    n_validation: int = Field(1500, ge=1)
    n_test: int = Field(0, ge=0, description="test images used; 0 for all")
    eps: float = Field(0.1, gt=0, le=1, description="Linf budget of training and audit")
    attack_steps: int = Field(7, ge=1, description="steps of the training attacks and of the selection")
    net: str = Field("u16", description="a net of recipes.NETS, or package.module:function")
    epochs: int = Field(8, ge=1)
    lr: float = Field(0.05, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(64, ge=1)
    tries: int = Field(3, ge=1, le=3, description="how many values of its own constant every arm may try")


# arm -> the values of its own constant, the first one alone if there is one try
GRID: dict[str, tuple[float, ...]] = {
    "at": (5e-4, 1e-4, 2e-3),  # weight decay: adversarial training has no constant of its own
    "trades": (6.0, 3.0, 1.0),  # beta
    "gairat": (-1.0, 0.0, 1.0),  # the shift Lambda
    "at-inverse-frequency": (1.0, 0.75, 0.5),  # the power of the inverse class size
    "done-plain": (1.0, 2.0, 5.0),  # r
    "done-implicit": (1.0, 2.0, 5.0),  # r
}
ARMS = tuple(GRID)
CONTROLS = ("at-inverse-frequency",)


@dataclass(frozen=True)
class ScaledCrossEntropy:
    """Cross-entropy of logits times `scale`: its gradient does not vanish where a model is made too sure or too flat."""

    scale: float

    def __call__(self, logits: Tensor, batch: AttackBatch) -> Tensor:
        return cross_entropy(self.scale * logits, batch)


def splits(config: Config) -> tuple[ImageSet, ImageSet, ImageSet]:
    """(train before it is thinned, validation, test); validation is split off the training data, the same for every unit."""
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
    """Random 8x8 images of four classes, told apart by the brighter quarter: something to learn in a few steps."""
    g = generator(0, "random images")
    labels = torch.arange(n) % 4
    images = torch.rand(n, 1, 2, 4, 2, 4, generator=g) * 0.5
    images[torch.arange(n), 0, labels // 2, :, labels % 2, :] += 0.4
    return ImageSet(
        images.reshape(n, 1, 8, 8), labels, ("nw", "ne", "sw", "se"), name="random 8x8 images", split="train", kind="generated"
    )


def cell(cell: Cell) -> Mapping[str, float]:
    """Train one arm on one unit, once for each value of its constant, and audit the best. Accuracies in per cent."""
    config: Config = cell.config
    whole, validation, test = splits(config)
    seed = derive(cell.unit, "doubly-robust-at")
    train = thinned(whole, config.ratio, seed=seed)
    best: tuple[float, float, nn.Module, FitResult] | None = None
    for value in GRID[cell.arm][: config.tries]:
        net = build_net(config.net, train, seed)
        result = _train(net, value, cell, train, validation, seed)
        assert result.best is not None
        if best is None or result.best["tail"] > best[1]:
            best = value, result.best["tail"], net, result
    assert best is not None
    value, tail, net, result = best
    audited = _audit(net, validation, test, cell)
    return {**audited, "validation_tail": 100 * tail, "constant": value, **_trace(result)}


def _train(net: nn.Module, value: float, cell: Cell, train: ImageSet, validation: ImageSet, seed: int) -> FitResult:
    config: Config = cell.config
    recipe = Recipe(config.net, config.epochs, flip=config.data != "random", shift=4 if config.data == "cifar10" else 0)
    judge = PGD(Linf(config.eps), steps=config.attack_steps)
    weight_decay = value if cell.arm == "at" else config.weight_decay
    return fit(
        net,
        _objective(cell.arm, value, config, train),
        train.loader(config.batch_size, generator=generator(seed, "order"), drop_last=len(train) > config.batch_size),
        epochs=config.epochs,
        optimizer=SGD(net.parameters(), lr=config.lr, momentum=0.9, weight_decay=weight_decay),
        schedule=warmup_cosine(1 / config.epochs),
        augment=recipe.augment,
        validate=lambda model: clean_robust_tail(model, validation, judge, seed=seed, frac=TAIL),
        select="tail",
        seed=derive(seed, "student"),
        progress=cell.progress,
        name=f"{cell.arm} {value:g}",
    )


def _objective(arm: str, value: float, config: Config, train: ImageSet) -> TrainingObjective:
    attack = inner_attack(config.eps, config.attack_steps)
    if arm == "at":
        return AdversarialTraining(attack)
    if arm == "trades":
        return TRADES(replace(attack, objective=kl_to_reference), beta=value)
    if arm == "gairat":
        return GAIRAT(attack, shift=value)
    if arm == "at-inverse-frequency":
        return WeightedAdversarialTraining(attack, weights=ClassWeights(class_counts(train), value))
    if arm == "done-plain":
        return DONE(attack, DONEConfig(r=value, mode="plain"))
    return DONE(BarrierAttack(Linf(config.eps), steps=config.attack_steps), DONEConfig(r=value))


def suite(config: Config) -> Suite:
    """The standard suite, then what a model with masked gradients does not stand: scaled logits and APGD on the DLR."""
    budget = Linf(config.eps)
    if config.data == "random":
        return Suite(budget, (("FGSM", PGD(budget, steps=1)), ("APGD-20 CE", PGD(budget, steps=2))))
    scaled = tuple(
        (f"PGD-20 CE of {scale:g} z", PGD(budget, objective=ScaledCrossEntropy(scale))) for scale in (0.1, 10.0, 100.0)
    )
    return Suite(
        budget,
        (*Suite.standard(budget).attacks, *scaled, ("APGD-50 DLR", APGD(budget, steps=50, objective=dlr))),
        label="standard suite, scaled logits, APGD",
    )


def _audit(net: nn.Module, validation: ImageSet, test: ImageSet, cell: Cell) -> dict[str, float]:
    config: Config = cell.config
    seed = derive(cell.unit, "audit")
    weak = weakest_classes(~attack_set(net, validation, PGD(Linf(config.eps)), seed=seed).broken, validation.labels, TAIL)
    clean = predict(net, test).argmax(1) == test.labels
    measured = attack_set(net, test, suite(config), seed=seed, progress=cell.progress)
    robust, by_pgd = ~measured.broken, ~measured.stages["APGD-20 CE"]
    by_class = class_accuracy(robust, test.labels)
    found = {
        "ra_tail_30": tail_accuracy(robust, test.labels, chosen=weak),
        "robust": float(robust.double().mean()),
        "clean": float(clean.double().mean()),
        "robust_pgd": float(by_pgd.double().mean()),
        "masked": float((by_pgd & ~robust).double().mean()),
        "ra_tail_30_chosen_on_test": tail_accuracy(robust, test.labels, TAIL),
        "clean_tail_30": tail_accuracy(clean, test.labels, chosen=weak),
        "worst_class": float(by_class.min()),
        "disparity": float(by_class.max() - by_class.min()),
    }
    return {name: 100 * value for name, value in found.items()}


def _trace(result: FitResult) -> dict[str, float]:
    """Of the DONE arms: how many samples of a batch counted in the last epoch, on average."""
    last = [row for row in result.history if row["epoch"] == result.history[-1]["epoch"]]
    if "effective_share" not in last[0]:
        return {}
    return {"effective_share": sum(row["effective_share"] for row in last) / len(last)}


def data(config: Config) -> list[dict[str, Any]]:
    train, validation, test = splits(config)
    note = {"thinned": f"by every unit: exponential class sizes, ratio {config.ratio:g}, order of the classes drawn"}
    return [{**train.describe(), **note}, validation.describe(), test.describe()]


def _over(baseline: str, said: str) -> Sentence:
    return Sentence(
        f"DONE with implicit gradients has a higher RA-Tail-30 than {said}.", "ra_tail_30", "done-implicit", baseline
    )


CLAIM = Claim(
    slug="doubly-robust-at",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(data="random", ratio=2, net="linear", attack_steps=2, batch_size=16, epochs=4, lr=0.3, tries=1),
        "claim": Config(),
        "paper": Config(
            data="cifar10", n_validation=5000, eps=8 / 255, attack_steps=10, net="resnet-18", epochs=20, lr=0.1, batch_size=128
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        _over("at-inverse-frequency", "adversarial training with inverse-frequency weights"),
        _over("trades", "TRADES"),
        _over("gairat", "GAIRAT"),
        _over("done-plain", "DONE without them (reweighted adversarial training)"),
        Sentence(
            "DONE without implicit gradients has a higher RA-Tail-30 than adversarial training.",
            "ra_tail_30", "done-plain", "at",
        ),
        Sentence(
            "DONE loses at most 1 point of robust accuracy over all classes against adversarial training.",
            "robust", "done-implicit", "at", kind="noninferiority", margin=-1.0,
        ),
        Sentence(
            "DONE loses at most 1 point of clean accuracy against adversarial training.",
            "clean", "done-implicit", "at", kind="noninferiority", margin=-1.0,
        ),
        Sentence(
            "DONE's robust accuracy of the worst class is higher than that of adversarial training.",
            "worst_class", "done-implicit", "at",
        ),
        Sentence(
            "Stronger attacks break at most 2 points of what PGD on cross-entropy leaves of DONE.",
            "masked", "done-implicit", kind="threshold", better="lower", margin=2.0,
        ),
    ),
    axes=("robust", "ra_tail_30"),
    metric_labels={
        "robust": "accuracy under attack, %",
        "ra_tail_30": "under attack, weakest 30 % of classes, %",
        "clean": "clean accuracy, %",
        "worst_class": "under attack, worst class, %",
        "masked": "broken by stronger attacks only, %",
    },
)  # fmt: skip
