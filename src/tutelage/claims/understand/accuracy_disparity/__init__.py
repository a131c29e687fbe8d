"""The claim of accuracy disparity: does robust training widen the class gap more where classes are imbalanced?

MNIST-10k, digits 1 against 7 and 3 against 8 (the second one is the minority), linear classifiers, Linf of 0.75 times the
largest half mean difference of the pair. A unit is a seed: it draws the images that are kept, the part held out, weights
and order. Standard and robust classifiers of a unit share all of it. All arms choose learning rate and epoch on held-out
training data, as the released code does (clean loss; `-own-selection` uses the loss of training). Test data are balanced.

Further arms: another norm and a small net; the same on scikit-learn's digits and breast-cancer data; Gaussian classes,
where the formula predicts each number; Cauchy classes, where a threshold is fitted to the sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tutelage.claims.claim import Cell, Claim, Sentence
from tutelage.claims.recipes import build_net
from tutelage.claims.understand.accuracy_disparity.config import Config
from tutelage.claims.understand.accuracy_disparity.generated import gaussian, heavy_tailed
from tutelage.claims.understand.accuracy_disparity.tasks import (
    Task,
    breast_cancer_arrays,
    class_pairs,
    image_splits,
    tasks,
)
from tutelage.core.files import sha256_tensors
from tutelage.core.rng import derive, generator
from tutelage.data.images import ImageSet
from tutelage.data.sets import digits
from tutelage.methods.understand.accuracy_disparity.measure import (
    Samples,
    arrays,
    class_accuracies,
    class_pair,
    half_mean_difference,
    labels_of,
    make_imbalanced,
    part,
)
from tutelage.methods.understand.accuracy_disparity.training import PAPER_RATES, Selection, linear_attack, train_on_pair
from tutelage.models.guard import evaluating
from tutelage.threats.budgets import L2, Budget, Linf
from tutelage.threats.engine import PGD

MAIN = ("ratio-1", "ratio-2", "ratio-5", "ratio-10")
ARMS = (
    *MAIN,
    "ratio-10-standard-reseeded", "ratio-1-same-size",
    "ratio-1-own-selection", "ratio-10-own-selection",
    "ratio-1-l2", "ratio-10-l2", "ratio-1-mlp", "ratio-10-mlp",
    "digits-ratio-1", "digits-ratio-10", "breast-cancer-ratio-1", "breast-cancer-ratio-10",
    "gaussian-ratio-1", "gaussian-ratio-2", "gaussian-ratio-5", "gaussian-ratio-10",
    "cauchy-ratio-1", "cauchy-ratio-5", "cauchy-ratio-10", "cauchy-ratio-30",
)  # fmt: skip
CONTROLS = ("ratio-10-standard-reseeded",)


def cell(cell: Cell) -> Mapping[str, float]:
    """Train and measure one arm on one unit. Accuracies and gaps in per cent."""
    config: Config = cell.config
    ratio = float(cell.arm.split("ratio-")[1].split("-")[0])
    if cell.arm.startswith("gaussian"):
        return gaussian(config, ratio, cell)
    if cell.arm.startswith("cauchy"):
        return heavy_tailed(config, ratio, cell.unit)
    found = [_pair(task, ratio, cell) for task in tasks(config, cell)]
    means = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
    each = {f"delta_pair_{i}": one["delta_accuracy_disparity"] for i, one in enumerate(found, 1)}
    return {**means, **(each if len(found) > 1 else {})}


def _pair(task: Task, ratio: float, cell: Cell) -> dict[str, float]:
    """Standard and robust classifiers of one pair of classes."""
    config: Config = cell.config
    norm = "l2" if cell.arm.endswith("-l2") else "linf"
    mu = half_mean_difference(task.pool)
    size = float(mu.norm() if norm == "l2" else mu.abs().max())
    budgets = [L2(f * size) if norm == "l2" else Linf(f * size) for f in (config.fraction, config.small_fraction)]
    sample = _sample(task, ratio, config, cell, cell.unit)
    standard = _train(task, sample, None, cell, cell.unit)
    if cell.arm in CONTROLS:  # standard again, with another draw, weights and order in the place of robust training
        again = derive(cell.unit, "again")
        robust = _train(task, _sample(task, ratio, config, cell, again), None, cell, again)
    else:
        robust = _train(task, sample, budgets[0], cell, cell.unit)
    gaps = [_gap(model, task.test) for model in (standard, robust)]
    growth = {}
    if cell.arm in MAIN:
        added = _gap(_train(task, sample, budgets[1], cell, cell.unit), task.test)[2] - gaps[0][2]
        growth = {"delta_small_eps": added, "growth_with_eps": gaps[1][2] - gaps[0][2] - added}
    share = 1 / (1 + ratio)
    accuracy = [majority * (1 - share) + minority * share for majority, minority, _ in gaps]
    attacked = [_accuracy_under(model, task, budgets[0], cell) for model in (standard, robust)]
    return {
        "delta_accuracy_disparity": gaps[1][2] - gaps[0][2],
        "disparity_standard": gaps[0][2],
        "disparity_robust": gaps[1][2],
        "delta_accuracy": accuracy[0] - accuracy[1],
        **growth,
        "majority_standard": gaps[0][0],
        "minority_standard": gaps[0][1],
        "majority_robust": gaps[1][0],
        "minority_robust": gaps[1][1],
        "attacked_standard": attacked[0],
        "attacked_robust": attacked[1],
        "eps": float(budgets[0].eps),
    }


def _sample(task: Task, ratio: float, config: Config, cell: Cell, seed: int) -> Samples:
    """The unit's imbalanced part of the pool. All ratios have the same majority, the same-size arm as many samples as R 10."""
    rng = generator(seed, "imbalance", ratio)
    counts = labels_of(task.pool).bincount()
    n = min(config.n_majority or int(counts.min()), int(counts.min()))
    return make_imbalanced(task.pool, ratio, rng, n_majority=round(0.55 * n) if cell.arm.endswith("same-size") else n)


def _train(task: Task, sample: Samples, budget: Budget | None, cell: Cell, seed: int) -> nn.Module:
    config: Config = cell.config
    deep = cell.arm.endswith("-mlp")
    attack = None
    if budget is not None and deep:
        attack = PGD(budget, steps=config.attack_steps, bounds=task.bounds)
    elif budget is not None:
        attack = linear_attack(budget, task.bounds)
    shape = arrays(part(sample, torch.tensor([0])))[0].shape[1:]

    def build() -> nn.Module:
        if deep and config.net:
            assert isinstance(sample, ImageSet)
            return build_net(config.net, sample, seed)
        inputs = math.prod(shape)
        layers = [nn.Linear(inputs, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 2)] if deep else [nn.Linear(inputs, 2)]
        return nn.Sequential(nn.Flatten(), *layers)

    select: Selection = "own" if cell.arm.endswith("own-selection") else "clean"
    return train_on_pair(
        build, sample, attack=attack, rates=config.rates, epochs=config.epochs, batch_size=config.batch_size,
        optimizer=config.optimizer, validation_share=config.validation_share, select=select, seed=derive(seed, "pair"),
        progress=cell.progress,
    )  # fmt: skip


def _gap(model: nn.Module, test: Samples) -> tuple[float, float, float]:
    """(majority, minority, gap), in per cent."""
    majority, minority = (100 * share for share in class_accuracies(model, test))
    return majority, minority, majority - minority


def _accuracy_under(model: nn.Module, task: Task, budget: Budget, cell: Cell) -> float:
    """Accuracy on balanced test data under attack, in per cent: is the robust classifier in fact the more robust one?"""
    x, y = arrays(task.test)
    deep = cell.arm.endswith("-mlp")
    attack = PGD(budget, steps=2 * cell.config.attack_steps, bounds=task.bounds) if deep else linear_attack(budget, task.bounds)
    with evaluating(model):
        result = attack.run(model, x, y, generator(cell.unit, "attack"))
    return 100 * float((~result.success).double().mean())


def data(config: Config) -> list[dict[str, Any]]:
    sets = []
    for each in image_splits(config.data, 0):
        sets += [{**class_pair(each, *pair).describe()} for pair in class_pairs(config.pairs)]
    x, y = breast_cancer_arrays()
    table = {"name": "scikit-learn breast cancer", "kind": "file", "split": "", "n": len(y)}
    generated = {"kind": "generated", "split": "", "generator": "tutelage.claims.understand.accuracy_disparity", "version": 1}
    return [
        *sets,
        *([] if config.data == "digits" else [digits().describe()]),
        {**table, "sha256": sha256_tensors({"image": x, "label": y})},
        {"name": "Gaussian classes", "n": config.n_gaussian, **generated},
        {"name": "Cauchy classes", "n": config.n_cauchy, **generated},
    ]


CLAIM = Claim(
    slug="accuracy-disparity",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="digits", pairs="1/7", n_majority=60, n_test=30, hidden=4, attack_steps=2, epochs=3, batch_size=20,
            rates=(0.2,), n_gaussian=60, d_gaussian=3, gaussian_fractions=(0.5,), n_cauchy=200,
        ),
        "claim": Config(),
        "paper": Config(data="mnist", epochs=500, rates=PAPER_RATES, optimizer="sgd", attack_steps=40, d_gaussian=100),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "On the first pair, 1 and 7, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_pair_1", "ratio-10", "ratio-1",
        ),
        Sentence(
            "On the second pair, 3 and 8, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_pair_2", "ratio-10", "ratio-1",
        ),
        Sentence(
            "Robust training adds more to the gap at ratio 10 than at ratio 1 with as many images in all.",
            "delta_accuracy_disparity", "ratio-10", "ratio-1-same-size",
        ),
        Sentence(
            "Robust training adds more to the gap at ratio 5 than at ratio 2.",
            "delta_accuracy_disparity", "ratio-5", "ratio-2",
        ),
        Sentence(
            "At ratio 10, an eps of 0.75 of the largest half mean difference adds more to the gap than one of 0.5.",
            "growth_with_eps", "ratio-10", kind="threshold",
        ),
        Sentence(
            "At ratio 1, robust training takes accuracy.",
            "delta_accuracy", "ratio-1", kind="threshold",
        ),
        Sentence(
            "Where rate and epoch are chosen by the loss of training, it adds more to the gap at ratio 10 than at ratio 1.",
            "delta_accuracy_disparity", "ratio-10-own-selection", "ratio-1-own-selection",
        ),
        Sentence(
            "In L2, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_accuracy_disparity", "ratio-10-l2", "ratio-1-l2",
        ),
        Sentence(
            "Of a net with one hidden layer, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_accuracy_disparity", "ratio-10-mlp", "ratio-1-mlp",
        ),
        Sentence(
            "On scikit-learn's digits, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_accuracy_disparity", "digits-ratio-10", "digits-ratio-1",
        ),
        Sentence(
            "On the breast-cancer data, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_accuracy_disparity", "breast-cancer-ratio-10", "breast-cancer-ratio-1",
        ),
        Sentence(
            "On generated Gaussian classes, robust training adds more to the gap at ratio 10 than at ratio 1.",
            "delta_accuracy_disparity", "gaussian-ratio-10", "gaussian-ratio-1",
        ),
        *(
            Sentence(
                f"On Gaussian classes at ratio {r}, no class accuracy, at three eps and at 0, is 2 points from the formula.",
                "prediction_error", f"gaussian-ratio-{r}", kind="threshold", better="lower", margin=2.0,
            )
            for r in (1, 10)
        ),
        Sentence(
            "On generated Cauchy classes at ratio 5, robust training makes the gap smaller.",
            "delta_accuracy_disparity", "cauchy-ratio-5", kind="threshold", better="lower",
        ),
        Sentence(
            "On Cauchy classes, robust training adds more to the gap at ratio 10 than at ratio 30, where both have collapsed.",
            "delta_accuracy_disparity", "cauchy-ratio-10", "cauchy-ratio-30",
        ),
    ),
    axes=("delta_accuracy", "delta_accuracy_disparity"),
    metric_labels={
        "delta_accuracy": "accuracy lost by robust training, percentage points",
        "delta_accuracy_disparity": "gap added by robust training, percentage points",
        "delta_pair_1": "gap added on the first pair, percentage points",
        "delta_pair_2": "gap added on the second pair, percentage points",
        "growth_with_eps": "gap added by the larger eps, percentage points",
        "disparity_standard": "gap of standard training, percentage points",
        "disparity_robust": "gap of robust training, percentage points",
        "prediction_error": "largest error of the formula, percentage points",
    },
)  # fmt: skip
