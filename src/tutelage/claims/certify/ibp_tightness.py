"""The claim of IBP-tightness: does training with interval bounds make them tight, by orders of magnitude?

MNIST-10k, Linf 0.1, a CNN of two strided convolutions with BatchNorm and a linear layer. A unit is a seed: initialisation and
order of the data. Arms: untrained (the control), standard training, PGD, small boxes (SABR) and IBP; IBP also at half and
double width and with four convolutions; untrained nets of those shapes. All trained arms have the same data, optimiser,
schedule and length, and the last epoch is judged; eps rises over the same steps in all that have one. Tightness is (6) of the
method for the margins of the label, in the mean over test samples, compared as log10.

Nets of two hidden layers on images averaged to 7x7 are small enough for exact answers: true tightness beside local, and the
exact robust accuracy between what is certified and what PGD leaves. IBP certifies every test sample it can, CROWN the first
`n_crown` (CROWN-IBP for the wide and the deep net), MILP the first `n_exact`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from tutelage.auditing.measure import attack_set, predict
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.images import ImageSet
from tutelage.data.sets import digits, standard_set
from tutelage.guarantees.certify import certify
from tutelage.guarantees.layers import layers_of
from tutelage.methods.certify.ibp_tightness import (
    CertifiedConfig,
    fit_certified,
    ibp_accuracy,
    mean_tightness,
    relu_states,
    tightness,
)
from tutelage.teaching.fit import fit
from tutelage.teaching.objectives import CrossEntropy
from tutelage.teaching.schedules import multistep
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD

# arm -> (training, shape of the net)
ARMS: dict[str, tuple[str, str]] = {
    "untrained": ("none", "base"),
    "standard-training": ("standard", "base"),
    "pgd-training": ("pgd", "base"),
    "sabr-training": ("sabr", "base"),
    "ibp-training": ("ibp", "base"),
    "ibp-training-half-width": ("ibp", "half"),
    "ibp-training-double-width": ("ibp", "double"),
    "ibp-training-deep": ("ibp", "deep"),
    "untrained-double-width": ("none", "double"),
    "untrained-deep": ("none", "deep"),
    "small-standard-training": ("standard", "small"),
    "small-ibp-training": ("ibp", "small"),
}
CONTROLS = ("untrained",)
CROWN = ("base", "half", "small")  # shapes whose every neuron is bounded by CROWN; the larger ones get CROWN-IBP


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["mnist-10k", "mnist", "cifar10", "digits"] = "mnist-10k"
    n_validation: int = Field(1000, ge=1, description="held out of the training data; constants were chosen on them")
    n_test: int = Field(0, ge=0, description="test images used; 0 for all")
    eps: float = Field(0.1, gt=0, le=1)
    width: int = Field(16, ge=2, description="channels of the first convolution; the last has twice as many")
    hidden: int = Field(24, ge=1, description="units of each hidden layer of the small nets")
    epochs: int = Field(10, ge=1)
    lr: float = Field(0.005, gt=0, description="of Adam; 0.005 certified more of the validation part than 0.002")
    batch_size: int = Field(128, ge=1)
    ramp_end: float = Field(0.5, ge=0, le=1, description="share of the training after which eps has its value")
    attack_steps: int = Field(7, ge=1, description="of the training attacks")
    audit_steps: int = Field(20, ge=1, description="of the PGD that judges")
    small_box: float = Field(0.4, gt=0, le=1, description="lambda of SABR")
    n_tightness: int = Field(500, ge=1, description="test images for tightness and ReLU states")
    n_attack: int = Field(500, ge=1, description="test images that PGD attacks")
    n_crown: int = Field(12, ge=0, description="test images for CROWN")
    n_exact: int = Field(50, ge=0, description="test images for MILP, small nets")
    n_true: int = Field(5, ge=0, description="test images for true tightness, small nets")
    node_limit: int = Field(20_000, ge=1, description="of each program")


class ConvNet(nn.Sequential):
    """Strided convolutions of `width` and 2 `width` channels, `more` of stride 1 behind each; BatchNorm, ReLU, linear."""

    def __init__(self, width: int, more: int, channels: int, size: int, classes: int) -> None:
        layers: list[nn.Module] = []
        before = channels
        for after in (width, 2 * width):
            for stride in (2, *[1] * more):
                layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
        side = math.ceil(math.ceil(size / 2) / 2)
        super().__init__(*layers, nn.Flatten(), nn.Linear(2 * width * side**2, classes))


def build(shape: str, config: Config, data: ImageSet, seed: int) -> nn.Module:
    """A fresh net of one of the shapes, initialised as torch does."""
    _, channels, size, _ = data.images.shape
    classes = len(data.classes)
    with seeded(seed, "init", shape):
        if shape == "small":
            pool = max(1, size // 7)
            inputs = channels * (size // pool) ** 2
            return nn.Sequential(
                nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(inputs, config.hidden), nn.ReLU(),
                nn.Linear(config.hidden, config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes),
            )  # fmt: skip
        width = {"half": config.width // 2, "double": 2 * config.width}.get(shape, config.width)
        return ConvNet(width, 1 if shape == "deep" else 0, channels, size, classes)


def splits(config: Config) -> tuple[ImageSet, ImageSet]:
    """(training, test); the validation part is taken out and not read here, the same for every unit."""
    if config.data == "digits":
        whole, test = digits().split_off(597, split="test")
        whole = whole.take(slice(None), "train")
    else:
        whole, test = standard_set(config.data, "train"), standard_set(config.data, "test")
    train, _ = whole.split_off(config.n_validation)
    return train, test.split_off(config.n_test, split="test")[1] if config.n_test else test


def cell(cell: Cell) -> Mapping[str, float]:
    """Train one arm on one unit and measure it on test data. Accuracies and shares in per cent."""
    config: Config = cell.config
    training, shape = ARMS[cell.arm]
    train, test = splits(config)
    seed = derive(cell.unit, "ibp-tightness")
    net = build(shape, config, train, seed)
    if training != "none":
        train_net(net, training, config, train, seed, cell)
    return measure(net.eval(), config, test, shape, seed)


def train_net(net: nn.Module, training: str, config: Config, train: ImageSet, seed: int, cell: Cell) -> None:
    loader = train.loader(config.batch_size, generator=generator(seed, "order"), drop_last=len(train) > config.batch_size)
    optimizer, schedule = Adam(net.parameters(), lr=config.lr), multistep((5 / 7, 6 / 7), 0.2)
    if training == "standard":
        fit(
            net, CrossEntropy(), loader, epochs=config.epochs, optimizer=optimizer, schedule=schedule,
            seed=derive(seed, "fit"), progress=cell.progress, name="standard training",
        )  # fmt: skip
        return
    how = CertifiedConfig(
        method=training,  # type: ignore[arg-type]
        small_box=config.small_box, attack_steps=config.attack_steps, ramp=(0.0, config.ramp_end),
    )  # fmt: skip
    fit_certified(
        net, loader, config.eps, config=how, epochs=config.epochs, optimizer=optimizer, schedule=schedule,
        seed=derive(seed, "fit"), progress=cell.progress,
    )  # fmt: skip


def measure(net: nn.Module, config: Config, test: ImageSet, shape: str, seed: int) -> dict[str, float]:
    """Tightness, ReLU states, natural, certified, attacked and, of small nets, exact accuracy."""
    eps = config.eps
    x, y = test[: config.n_tightness]
    graph = layers_of(net, x)
    tau = tightness(graph, x, eps, y)
    states = relu_states(graph, x, eps).mean(0)
    found = {
        "log10_mean_local_tightness": math.log10(mean_tightness(tau)),
        "largest_tightness": float(tau.nan_to_num(0.0).max()),
        "dead": 100 * float(states[0]),
        "active": 100 * float(states[1]),
        "unstable": 100 * float(states[2]),
        "natural": 100 * float((predict(net, test).argmax(1) == test.labels).double().mean()),
        "ibp_certified": 100 * ibp_accuracy(graph, test, eps),
        "pgd": 100 * _attacked(net, test, config, config.n_attack, seed),
    }
    if config.n_crown:
        some, labels = test[: config.n_crown]
        report = certify(net, some, labels, eps, ("ibp", "crown" if shape in CROWN else "crown-ibp"))
        found["crown_certified"] = 100 * report.certified_accuracy
        found["pgd_of_crown_samples"] = 100 * _attacked(net, test, config, config.n_crown, seed)
    if shape == "small" and config.n_exact:
        found |= _exact(net, config, test, seed)
    return found


def _attacked(net: nn.Module, test: ImageSet, config: Config, n: int, seed: int) -> float:
    attack = PGD(Linf(config.eps), steps=config.audit_steps, restarts=2)
    return attack_set(net, test.take(slice(0, n)), attack, seed=seed).robust_accuracy


def _exact(net: nn.Module, config: Config, test: ImageSet, seed: int) -> dict[str, float]:
    """The bracket on the first samples, and true beside local tightness on fewer."""
    x, y = test[: config.n_exact]
    report = certify(net, x, y, config.eps, ("ibp", "crown", "milp"), node_limit=config.node_limit)
    found = {f"exact_by_{stage}": 100 * report.counts[stage] / len(x) for stage in report.stages}
    found |= {
        "exact_certified": 100 * report.certified_accuracy,
        "exact_open": 100 * report.counts["open"] / len(x),
        "exact_attacked": 100 * _attacked(net, test, config, config.n_exact, seed),
    }
    found["bracket_violation"] = max(0.0, found["exact_certified"] - found["exact_attacked"])
    if config.n_true:
        few: tuple[Tensor, Tensor] = x[: config.n_true], y[: config.n_true]
        true = tightness(net, few[0], config.eps, few[1], mode="true", node_limit=config.node_limit)
        local = tightness(net, few[0], config.eps, few[1])
        both = mean_tightness(true), mean_tightness(local)
        if all(value > 0 for value in both):  # the few samples may all have boxes that are points: those have no tightness
            found["log10_true_tightness"], found["log10_local_tightness_same_samples"] = map(math.log10, both)
    return found


def data(config: Config) -> list[dict[str, Any]]:
    return [one.describe() for one in splits(config)]


def _tighter(first: str, second: str, words: str) -> Sentence:
    return Sentence(words, "log10_mean_local_tightness", first, second)


CLAIM = Claim(
    slug="ibp-tightness",
    arms=tuple(ARMS),
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="digits", n_validation=900, n_test=40, eps=0.05, width=2, hidden=6, epochs=2, lr=0.02, batch_size=50,
            attack_steps=1, audit_steps=2, n_tightness=20, n_attack=20, n_crown=2, n_exact=2, n_true=1,
        ),
        "claim": Config(),
        "paper": Config(data="mnist", n_validation=5000, epochs=70, lr=5e-4, batch_size=256, ramp_end=20 / 70, attack_steps=10),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "IBP training raises the mean local tightness more than tenfold over standard training.",
            "log10_mean_local_tightness", "ibp-training", "standard-training", margin=1.0,
        ),
        _tighter("ibp-training", "sabr-training", "IBP training is tighter than training on small boxes (SABR)."),
        _tighter("sabr-training", "pgd-training", "Training on small boxes (SABR) is tighter than training by PGD."),
        _tighter("pgd-training", "standard-training", "Training by PGD is tighter than standard training."),
        _tighter("untrained", "untrained-double-width", "At initialisation a net of double width is looser."),
        _tighter("untrained", "untrained-deep", "At initialisation a net of double depth is looser."),
        Sentence(
            "Double width raises the accuracy that IBP certifies after IBP training.",
            "ibp_certified", "ibp-training-double-width", "ibp-training",
        ),
        Sentence(
            "Double width raises the natural accuracy after IBP training.",
            "natural", "ibp-training-double-width", "ibp-training",
        ),
        Sentence(
            "Half width lowers the accuracy that IBP certifies after IBP training.",
            "ibp_certified", "ibp-training", "ibp-training-half-width",
        ),
        Sentence(
            "Standard training keeps a higher natural accuracy than IBP training.",
            "natural", "standard-training", "ibp-training",
        ),
        Sentence(
            "No tightness exceeds 1 + 1e-5 after IBP training.",
            "largest_tightness", "ibp-training", kind="threshold", better="lower", margin=1 + 1e-5,
        ),
        Sentence(
            "On small nets, true tightness, too, is higher after IBP training than after standard training.",
            "log10_true_tightness", "small-ibp-training", "small-standard-training",
        ),
    ),
    axes=("ibp_certified", "log10_mean_local_tightness"),
    metric_labels={
        "log10_mean_local_tightness": "mean local tightness, log10",
        "log10_true_tightness": "mean true tightness, log10",
        "ibp_certified": "certified by IBP, % of test data",
        "crown_certified": "certified by CROWN, % of the first test images",
        "natural": "natural accuracy, %",
        "pgd": "accuracy under PGD, %",
        "largest_tightness": "largest tightness",
    },
)  # fmt: skip
