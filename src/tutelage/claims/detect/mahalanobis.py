"""The claim of Mahalanobis: does it tell far-away pictures from digits better than the maximum softmax probability?

MNIST-10k: 7,600 digits train the net, 1,000 choose its epoch, 400 set what a detector has to set, 1,000 the threshold of
the guard. Every unit is a seed with its own nets, far-away pictures and attacks. Far: rendered letters, emoji in grey,
Gaussian noise. Near, where the method is known to be weak: a second net, trained on the digits 0 to 7, meets 8 and 9. No
detector sees any outlier before these two tests: weights and step lengths, ODIN's too, are set on validation digits, as they
are and attacked by FGSM.

Attacked: FGSM, PGD-20 and smallest L2 changes (FMN, for DeepFool) by the protocol of the paper: clean and noisy digits are
inside, and a detector is set on validation digits attacked in the same way. Once more with what was set on FGSM alone, for
which PGD and FMN are unseen attacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tutelage.auditing.detection import (
    ODIN,
    Detector,
    Energy,
    GuardedModel,
    LocalDimension,
    MaxSoftmax,
    NearestNeighbours,
    auroc,
    detection_metrics,
)
from tutelage.auditing.detection.attacked import attacked_pairs, attacked_triples
from tutelage.auditing.measure import predict
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.claims.recipes import Recipe, teacher
from tutelage.core.files import write_atomic
from tutelage.core.rng import derive, generator
from tutelage.data.emoji import EmojiSet, emoji
from tutelage.data.images import ImageSet
from tutelage.data.letters import letters
from tutelage.data.readers import read_images
from tutelage.data.sets import standard_set
from tutelage.methods.detect.mahalanobis import Mahalanobis
from tutelage.models.loading import fingerprint
from tutelage.threats.budgets import L2, Linf
from tutelage.threats.engine import FGSM, PGD, Attack
from tutelage.threats.minimal import FMN

STEPS = "0,0.0005,0.001,0.0014,0.002,0.005,0.01"
HELD_OUT = 2  # classes of the near task: the last ones
HERE = "tutelage.claims.detect.mahalanobis"
ARMS = (
    "mahalanobis",
    "mahalanobis-standardised-sum",
    "mahalanobis-last-layer",
    "mahalanobis-no-step",
    "max-softmax",
    "odin",
    "energy",
    "knn",
    "lid",
    "mean-brightness",
)


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["mnist-10k", "cifar10", "gratings"] = "mnist-10k"
    far: str = Field("letters,emoji,noise", description="also files of images (.npz, Parquet), by commas")
    n_validation: int = Field(1000, ge=60, description="of each of two parts: epoch, threshold")
    n_setting: int = Field(400, ge=60, description="validation images that a detector is set on, as they are and attacked")
    n_test: int = Field(2000, ge=1)
    n_far: int = Field(1000, ge=1, description="pictures of each far set")
    n_attacked: int = Field(400, ge=1, description="test images that are attacked")
    net: str = Field(f"{HERE}:ten_classes", description="of recipes.NETS, or package.module:function")
    near_net: str = Field(f"{HERE}:eight_classes", description="the same with two classes fewer")
    layers: str = Field("0,1,2,3", description="tapped modules, by commas")
    epochs: int = Field(8, ge=1)
    lr: float = Field(0.05, gt=0)
    batch_size: int = Field(128, ge=1)
    shrinkage: float = Field(1e-6, ge=0, le=1)
    steps: str = Field(STEPS, description="lengths of the input step to choose from, by commas")
    temperature: float = Field(1000.0, gt=0, description="of ODIN")
    neighbours: int = Field(50, ge=1)
    lid: str = Field("10,20,50,90", description="numbers of neighbours to choose from, by commas")
    eps: float = Field(0.2, gt=0, lt=1, description="Linf budget of FGSM and PGD, in validation and test")
    attack_steps: int = Field(20, ge=1)
    fmn_steps: int = Field(30, ge=1)

    @field_validator("steps")
    @classmethod
    def _lengths(cls, text: str) -> str:
        if not text or any(float(part) < 0 for part in text.split(",")):
            raise ValueError("numbers >= 0, by commas")
        return text

    @property
    def lid_choices(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.lid.split(","))

    @property
    def lengths(self) -> tuple[float, ...]:
        return tuple(float(part) for part in self.steps.split(","))


class FourBlocks(nn.Sequential):
    """Four blocks of a 3 x 3 convolution, BatchNorm and ReLU, the last three with stride 2; spatial mean; linear head."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (16, 32, 64, 64)) -> None:
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            before = widths[i - 1] if i else 1
            conv = nn.Conv2d(before, width, 3, stride=2 if i else 1, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
        super().__init__(*blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(widths[-1], classes))


def ten_classes() -> nn.Module:
    """The net of the claim: images (B, 1, H, W) in [0, 1] -> 10 logits; blocks 0 to 3 are tapped."""
    return FourBlocks(10)


def eight_classes() -> nn.Module:
    """The same for the digits 0 to 7."""
    return FourBlocks(8)


def tiny_ten() -> nn.Module:
    """For the smoke scale."""
    return FourBlocks(10, (4, 8, 8, 8))


def tiny_eight() -> nn.Module:
    return FourBlocks(8, (4, 8, 8, 8))


class MeanBrightness(Detector):
    """The trivial control: minus the distance of an image's mean brightness from that of the training images."""

    name = "mean-brightness"
    mean = 0.0

    def fit(self, train: ImageSet) -> Self:
        self.mean = float(train[slice(None)][0].mean())
        return self

    def _score(self, x: Tensor) -> Tensor:
        return -(x.flatten(1).mean(1) - self.mean).abs()

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(model)


class Parts:
    """The splits of one task: all classes, or (near) without the last two."""

    def __init__(self, config: Config, *, near: bool) -> None:
        whole, test = _sets(config.data)
        test = test.split_off(config.n_test, split="test")[1] if config.n_test < len(test) else test
        if near:
            whole = without_last(whole)
        rest, self.threshold = whole.split_off(config.n_validation, seed=1)
        rest, self.setting = rest.split_off(config.n_setting, seed=2)
        self.train, self.epoch = rest.split_off(config.n_validation, seed=3)
        known = len(self.train.classes)
        held = test.labels >= known
        self.outside = test.take(held.nonzero().squeeze(1)) if near else None
        self.test = replace(test.take((~held).nonzero().squeeze(1)), classes=self.train.classes)


@cache
def _sets(name: str) -> tuple[ImageSet, ImageSet]:
    if name == "gratings":
        return gratings(660, "train"), gratings(80, "test")
    return standard_set(name, "train"), standard_set(name, "test")


def gratings(n: int, split: Literal["train", "test"]) -> ImageSet:
    """For the smoke scale: n images 12 x 12, ten classes of waves in ten directions, faint and noisy."""
    g = generator(0, "gratings", split)
    labels = torch.arange(n) % 10
    angle = labels * torch.pi / 10
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    along = angle.cos()[:, None, None] * columns + angle.sin()[:, None, None] * rows
    waves = (1.6 * along + 6.28 * torch.rand(n, 1, 1, generator=g)).sin()
    images = (0.4 + 0.2 * waves + 0.05 * torch.randn(n, 12, 12, generator=g)).clamp(0, 1)
    names = tuple(f"{18 * i} degrees" for i in range(10))
    return ImageSet(images[:, None], labels, names, name="gratings 12x12", split=split, kind="generated")


def without_last(data: ImageSet) -> ImageSet:
    """Without the classes that the near task holds out."""
    known = len(data.classes) - HELD_OUT
    return replace(data.take((data.labels < known).nonzero().squeeze(1)), classes=data.classes[:known])


@cache
def _drawings() -> EmojiSet:
    return emoji()


def far_sets(config: Config, unit: int, like: ImageSet) -> dict[str, ImageSet]:
    """The far pictures of a unit, in the form (channels, size) of the inside ones."""
    return _far_sets(config, unit, like.images.shape[1], like.images.shape[-1])


@cache
def _far_sets(config: Config, unit: int, channels: int, size: int) -> dict[str, ImageSet]:
    seed = derive(unit, "mahalanobis", "far")
    found = {}
    for name in config.far.split(","):
        if name == "letters":
            images = letters(config.n_far, size=size, seed=seed, split="test").images.float() / 255
        elif name == "emoji":
            drawings = _drawings()
            order = torch.randperm(len(drawings), generator=generator(seed, "emoji"))[: config.n_far]
            images = drawings.take(order).on("black").images.float() / 255
        elif name == "noise":  # N(1/2, 1), cut to [0, 1], as ODIN has it
            source = generator(seed, "noise")
            images = (torch.randn(config.n_far, channels, size, size, generator=source) + 0.5).clamp(0, 1)
        else:
            images = read_images(Path(name)).images[: config.n_far]
            images = images.float() / 255 if images.dtype == torch.uint8 else images
        labels = torch.zeros(len(images), dtype=torch.int64)
        found[Path(name).stem] = ImageSet(_formed(images, channels, size), labels, ("outside",), name, "test", "generated")
    return found


def _formed(images: Tensor, channels: int, size: int) -> Tensor:
    """(N, C, H, W) -> (N, channels, size, size): luminance or repeated grey, resized."""
    if images.shape[1] == 3 and channels == 1:
        images = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return images.expand(-1, channels, -1, -1).clamp(0, 1).contiguous()


def trained(config: Config, parts: Parts, cell: Cell, *, near: bool) -> nn.Module:
    """The net of this unit, from the cache if it was trained before."""
    colour = config.data == "cifar10"
    recipe = Recipe(
        config.near_net if near else config.net, config.epochs, config.lr, batch_size=config.batch_size,
        flip=colour, shift={"cifar10": 4, "mnist-10k": 1, "gratings": 0}[config.data],
    )  # fmt: skip
    seed = derive(cell.unit, "mahalanobis", "near" if near else "far")
    return teacher(recipe, parts.train, parts.epoch, seed=seed, cache=cell.cache, progress=cell.progress)


Attacked = dict[str, Tensor]  # clean, attacked and perhaps noisy images, each (n, C, H, W)


def attacked(net: nn.Module, data: ImageSet, attack: Attack, *, noisy: bool, seed: int, cell: Cell) -> Attacked:
    """Images that the net gets right when clean (and when noisy), and wrong when attacked; from the cache if made before."""
    key = {
        "net": fingerprint(net),
        "data": data.sha256,
        "attack": f"{attack.name} {attack.budget} {attack.settings}",
        "noisy": noisy,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": code_sha256(__name__),
    }

    def build(folder: Path) -> None:
        if noisy:
            three = attacked_triples(net, data, attack, seed=seed, progress=cell.progress)
            found = {"clean": three.clean, "noisy": three.noisy, "attacked": three.attacked}
        else:
            two = attacked_pairs(net, data, attack, seed=seed, progress=cell.progress)
            found = {"clean": two.clean, "attacked": two.attacked}
        write_atomic(folder / "images.safetensors", save({kind: images.contiguous() for kind, images in found.items()}))

    return load_file(cell.cache.get("attacked", key, build) / "images.safetensors")


def _set(images: Tensor, like: ImageSet) -> ImageSet:
    """Images without labels of their own."""
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), like.classes, like.name, like.split, "generated")


def fitted(arm: str, net: nn.Module, parts: Parts, config: Config) -> Detector:
    """The detector of an arm, fitted on the training data."""
    if arm == "max-softmax":
        return MaxSoftmax(net)
    if arm == "energy":
        return Energy(net)
    if arm == "mean-brightness":
        return MeanBrightness(net).fit(parts.train)
    if arm == "odin":
        return ODIN(net, config.temperature, 0.0)
    loader = parts.train.loader(256)
    if arm == "knn":
        return NearestNeighbours(net, k=config.neighbours).fit(loader)
    layers = config.layers.split(",")
    if arm == "lid":
        loader = parts.train.loader(256, generator=generator(derive(config.n_setting, "lid"), "order"))
        return LocalDimension(net, layers, k=config.lid_choices[0]).fit(loader)
    layers = layers[-1:] if arm.endswith("last-layer") else layers
    return Mahalanobis(net, layers, shrinkage=config.shrinkage).fit(loader)


def set_on(detector: Detector, arm: str, inside: ImageSet, outside: ImageSet, config: Config) -> Detector:
    """The detector with what it has to set set on validation data: inside, and attacked for the outside."""
    if isinstance(detector, ODIN):
        choices = [ODIN(detector.model, config.temperature, length) for length in sorted(config.lengths)]
        found = [detection_metrics(one.scores(inside), one.scores(outside)) for one in choices]
        best = max(range(len(choices)), key=lambda i: (found[i].tnr, found[i].auroc, -i))
        return choices[best]
    if isinstance(detector, LocalDimension):
        return detector.fit_on_sets(inside, outside, choices=config.lid_choices)
    if isinstance(detector, Mahalanobis):
        if arm.endswith("standardised-sum"):
            return detector.fit_standardised(detector.set_scores(inside))
        return detector.fit_on_sets(inside, outside, choices=(0.0,) if arm.endswith("no-step") else config.lengths)
    return detector


def cell(cell: Cell) -> Mapping[str, float]:
    """One detector on one unit: far, near and attacked pictures. AUROC, rates and accuracies in per cent."""
    metrics: dict[str, float] = {}
    for near in (False, True):
        parts = Parts(cell.config, near=near)
        net = trained(cell.config, parts, cell, near=near)
        detector = fitted(cell.arm, net, parts, cell.config)
        metrics |= outliers(cell, parts, net, detector)
        if not near:
            metrics |= attacks(cell, parts, net, detector)
    first = ("far_ood_auroc", "near_ood_auroc", "adversarial_auroc")
    return {**{name: metrics[name] for name in first}, **metrics}


def outliers(cell: Cell, parts: Parts, net: nn.Module, detector: Detector) -> dict[str, float]:
    """Far pictures, or held-out classes; the detector is set on digits attacked by FGSM."""
    config: Config = cell.config
    seed = derive(cell.unit, "mahalanobis", "attacks")
    pairs = attacked(net, parts.setting, FGSM(Linf(config.eps)), noisy=False, seed=seed, cell=cell)
    inside, outside = _set(pairs["clean"], parts.setting), _set(pairs["attacked"], parts.setting)
    detector = set_on(detector, cell.arm, inside, outside, config)
    scores = detector.scores(parts.test)
    others = {"near": parts.outside} if parts.outside is not None else far_sets(config, cell.unit, parts.test)
    found = {name: detection_metrics(scores, detector.scores(data)) for name, data in others.items()}
    task = "far" if parts.outside is None else "near"
    metrics = {
        f"{task}_ood_auroc": 100 * sum(f.auroc for f in found.values()) / len(found),
        f"{task}_ood_tnr": 100 * sum(f.tnr for f in found.values()) / len(found),
    }
    if parts.outside is not None:
        return metrics
    metrics |= {f"auroc_{name}": 100 * f.auroc for name, f in found.items()}
    metrics["accuracy"] = 100 * float((predict(net, parts.test).argmax(1) == parts.test.labels).double().mean())
    metrics["step"] = float(getattr(detector, "eps", 0.0))
    guard = GuardedModel.calibrate(detector, parts.threshold)
    metrics["accepted_inside"] = 100 * float((scores >= guard.threshold).double().mean())
    return metrics


def attacks(cell: Cell, parts: Parts, net: nn.Module, detector: Detector) -> dict[str, float]:
    """Attacked digits against clean and noisy ones; the detector is set on each attack, and on FGSM for the others."""
    config: Config = cell.config
    seed = derive(cell.unit, "mahalanobis", "attacks")
    known: dict[str, Attack] = {
        "fgsm": FGSM(Linf(config.eps)),
        "pgd": PGD(Linf(config.eps), steps=config.attack_steps),
        "fmn": FMN(L2(20.0), steps=config.fmn_steps),
    }
    victims = parts.test.take(slice(0, config.n_attacked))
    tests = {
        name: attacked(net, victims, attack, noisy=True, seed=derive(seed, name), cell=cell) for name, attack in known.items()
    }

    def area(detector: Detector, name: str) -> float:
        clean, noisy, broken = (tests[name][kind] for kind in ("clean", "noisy", "attacked"))
        scores = detector.scores(_set(torch.cat([clean, noisy, broken]), victims))
        return 100 * auroc(scores[: -len(broken)], scores[-len(broken) :])

    metrics: dict[str, float] = {}
    unseen: dict[str, float] = {}
    for name, attack in known.items():
        three = attacked(net, parts.setting, attack, noisy=True, seed=seed, cell=cell)
        inside = _set(torch.cat([three["clean"], three["noisy"]]), parts.setting)
        aware = set_on(detector, cell.arm, inside, _set(three["attacked"], parts.setting), config)
        metrics[f"auroc_{name}"] = area(aware, name)
        metrics[f"kept_{name}"] = 100 * len(tests[name]["clean"]) / len(victims)
        if name == "fgsm":
            unseen = {f"auroc_{other}_unseen": area(aware, other) for other in known if other != name}
    return {
        **metrics,
        **unseen,
        "adversarial_auroc": sum(metrics[f"auroc_{name}"] for name in known) / len(known),
        "unseen_attack_auroc": sum(unseen.values()) / len(unseen),
    }


def data(config: Config) -> list[dict[str, Any]]:
    parts = Parts(config, near=False)
    inside = [part.describe() for part in (parts.train, parts.epoch, parts.setting, parts.threshold, parts.test)]
    return inside + [replace(one, name=f"{name} (unit 0)").describe() for name, one in far_sets(config, 0, parts.test).items()]


def _against(words: str, baseline: str, metric: str = "far_ood_auroc", **about: Any) -> Sentence:
    return Sentence(words, metric, "mahalanobis", baseline, **about)


CLAIM = Claim(
    slug="mahalanobis",
    arms=ARMS,
    controls=("mean-brightness",),
    scales={
        "smoke": Config(
            data="gratings", n_validation=60, n_setting=80, n_test=60, n_far=30, n_attacked=30, net=f"{HERE}:tiny_ten",
            near_net=f"{HERE}:tiny_eight", epochs=2, lr=0.2, batch_size=20, steps="0,0.005", neighbours=5, lid="10",
            attack_steps=2, fmn_steps=3,
        ),
        "claim": Config(),
        "paper": Config(
            data="cifar10", n_setting=1000, n_test=10_000, n_far=10_000, n_attacked=10_000, net="resnet-18",
            near_net="resnet-18", layers="stem,layers.1,layers.3,layers.5,layers.7", epochs=200, lr=0.1, eps=8 / 255,
            fmn_steps=100,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        _against("Its mean far-OOD AUROC is above 98 %.", "", kind="threshold", margin=98.0),
        Sentence(
            "Where it loses: on held-out digits 8 and 9 (near-OOD) the maximum softmax probability has the higher AUROC.",
            "near_ood_auroc", "max-softmax", "mahalanobis",
        ),
        _against(
            "Against attacked digits, its weights set on the same attack, its AUROC is at least 5 points above that of the "
            "maximum softmax probability (mean of FGSM, PGD-20 and FMN).",
            "max-softmax", "adversarial_auroc", margin=5.0,
        ),
        _against(
            "The same on PGD-20 and FMN with weights set on FGSM alone.", "max-softmax", "unseen_attack_auroc", margin=5.0
        ),
        Sentence(
            "Where it loses, too: smallest changes (FMN) end at the border of two classes, and the maximum softmax probability "
            "has the higher AUROC.",
            "auroc_fmn", "max-softmax", "mahalanobis",
        ),
        *(
            _against(f"Its far-OOD AUROC is higher than that of {words}.", arm)
            for words, arm in (
                ("ODIN", "odin"), ("the energy", "energy"), ("the 50th nearest neighbour", "knn"),
                ("the last layer alone", "mahalanobis-last-layer"),
                ("the layers without the input step", "mahalanobis-no-step"),
                ("the plain sum of standardised layers", "mahalanobis-standardised-sum"),
            )
        ),
        _against(
            "Against attacked digits its AUROC is higher than that of local intrinsic dimension.", "lid", "adversarial_auroc"
        ),
        Sentence(
            "The plain sum of standardised layers, too, has a higher far-OOD AUROC than the maximum softmax probability.",
            "far_ood_auroc", "mahalanobis-standardised-sum", "max-softmax",
        ),
        _against(
            "A guard set to accept 95 % of validation digits accepts at least 93 % of the test digits.",
            "", "accepted_inside", kind="threshold", margin=93.0,
        ),
    ),
    axes=("far_ood_auroc", "near_ood_auroc"),
    metric_labels={
        "far_ood_auroc": "AUROC against far pictures, %", "near_ood_auroc": "AUROC against held-out digits, %",
        "adversarial_auroc": "AUROC against attacked digits, %", "accuracy": "accuracy of the classifier, %",
    },
)  # fmt: skip
