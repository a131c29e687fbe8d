"""The claim of RMT: does the symmetric, contrastive mean teacher stay lower in error on a long stream than a plain one?

MNIST-10k: 7,000 digits train the net, 1,000 choose its epoch, 1,000 the learning rate of each arm; test digits make the
streams. The long stream: eight corruptions at severity 5, two of each family, each with images of its own, in an order that
the unit draws, passed through three times without a reset. Every unit is a stream order with its own seed and source model.
The other streams, one pass each from a fresh start: severities that rise and fall (gradual), and images sorted by class,
where methods that adapt by batches are known to lose.

All arms that learn choose their learning rate by the same rule: the lowest mean error over a validation stream, as long as
the test stream, of digits from the third part under the four corruptions that the benchmark keeps for validation. All mean
teachers have the same start, average and augmentation, and (but for one arm) the same warm-up on training digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from tutelage.auditing.streams import Stream, StreamReport, run_stream
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.recipes import NETS, Recipe, teacher
from tutelage.core.errors import InputError
from tutelage.core.rng import derive, generator
from tutelage.data.images import ImageSet
from tutelage.data.sets import standard_set
from tutelage.data.strong import StrongAugment
from tutelage.methods.adapt.rmt import RMT
from tutelage.models.loading import load_model
from tutelage.models.prototypes import class_prototypes
from tutelage.teaching.test_time import Adapter, CoTTA, MeanTeacher, NormAdapter, Source, Tent
from tutelage.threats.corruptions import COMMON, NAMES, frost_source

HERE = "tutelage.claims.adapt.rmt"
HELD_OUT = ",".join(NAMES[len(COMMON) :])  # those of the benchmark that are for validation
ARMS = (
    "rmt-source-free",
    "rmt-replay",
    "rmt-cross-entropy",
    "rmt-without-contrast",
    "rmt-without-warm-up",
    "mean-teacher-cross-entropy",
    "tent",
    "cotta",
    "source",
    "bn-1",
)
CONTROLS = ("source", "bn-1")


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["mnist-10k", "cifar10", "waves"] = "mnist-10k"
    n_validation: int = Field(1000, ge=8, description="training images for the epoch, and as many for the learning rate")
    net: str = Field(f"{HERE}:four_blocks", description="of recipes.NETS, or package.module:function")
    weights: str = Field("", description="safetensors of the source model; trained here if empty")
    epochs: int = Field(8, ge=1)
    lr: float = Field(0.05, gt=0, description="of the source model's training")
    train_batch: int = Field(128, ge=1, description="of the source model's training")
    corruptions: str = "gaussian_noise,impulse_noise,glass_blur,motion_blur,snow,fog,contrast,elastic_transform"
    validation_corruptions: str = HELD_OUT
    n: int = Field(320, ge=2, description="images of each corruption")
    gradual: str = Field("1,2,3,4,5,4,3,2,1", description="severities of the gradual stream, by commas")
    n_gradual: int = Field(64, ge=2, description="images of each of these steps")
    passes: int = Field(3, ge=3)
    batch_size: int = Field(64, ge=2)
    rates: str = Field("0.0001,0.0003,0.001", description="learning rates to choose from, by commas")
    warmup_samples: int = Field(3000, ge=1)
    momentum: float = Field(0.999, ge=0, le=1)
    augmentations: int = Field(8, ge=1, description="of CoTTA; 32 in its paper")

    @field_validator("rates")
    @classmethod
    def _positive(cls, text: str) -> str:
        if any(float(part) <= 0 for part in text.split(",")):
            raise ValueError("learning rates > 0, by commas")
        return text


class FourBlocks(nn.Sequential):
    """Four 3 x 3 convolutions with BatchNorm and ReLU, the last three with stride 2; spatial mean; linear head."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 64, 96), classes: int = 10) -> None:
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            before = widths[i - 1] if i else 1
            conv = nn.Conv2d(before, width, 3, stride=2 if i else 1, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def four_blocks() -> nn.Module:
    """The net of the claim, 95,000 weights: images (B, 1, H, W) in [0, 1] -> 10 logits."""
    return FourBlocks()


def tiny() -> nn.Module:
    """For the smoke scale."""
    return FourBlocks((4, 8, 8, 8))


class Parts:
    """The splits: train and epoch for the source model, rate for the learning rates, test for the streams."""

    def __init__(self, config: Config) -> None:
        whole, self.test = _sets(config.data)
        rest, self.rate = whole.split_off(config.n_validation, seed=1)
        self.train, self.epoch = rest.split_off(config.n_validation, seed=2)


@cache
def _sets(name: str) -> tuple[ImageSet, ImageSet]:
    if name == "waves":
        return waves(160, "train"), waves(120, "test")
    return standard_set(name, "train"), standard_set(name, "test")


def waves(n: int, split: Literal["train", "test"]) -> ImageSet:
    """For the smoke scale: n images 16 x 16, ten classes of waves in ten directions."""
    g = generator(0, "waves", split)
    labels = torch.arange(n) % 10
    angle = labels * torch.pi / 10
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    along = angle.cos()[:, None, None] * columns + angle.sin()[:, None, None] * rows
    images = 0.5 + 0.4 * (1.2 * along + 6.28 * torch.rand(n, 1, 1, generator=g)).sin()
    names = tuple(f"{18 * i} degrees" for i in range(10))
    return ImageSet(images[:, None], labels, names, name="waves 16x16", split=split, kind="generated")


def stream_of(data: ImageSet, corruptions: str, seed: int, n: int, **settings: Any) -> Stream:
    """A stream of `n` images for each step, each with images of its own if there are enough."""
    names = corruptions.split(",")
    distinct = n * len(names) * len(settings.get("severities", (5,))) <= len(data)
    return Stream.corrupted(data, names, n=min(n, len(data)), distinct=distinct, order="shuffled", seed=seed, **settings)


def source_model(config: Config, parts: Parts, cell: Cell) -> nn.Module:
    """The source model of this unit, from the user's file or the cache."""
    if config.weights:
        if config.net in NETS:
            raise InputError("net", config.net, "a factory of yours with the weights, package.module:function")
        return load_model(config.net, config.weights)
    colour = config.data == "cifar10"
    shift = {"cifar10": 4, "mnist-10k": 1, "waves": 0}[config.data]
    recipe = Recipe(config.net, config.epochs, config.lr, batch_size=config.train_batch, flip=colour, shift=shift)
    seed = derive(cell.unit, "rmt", "source")
    return teacher(recipe, parts.train, parts.epoch, seed=seed, cache=cell.cache, progress=cell.progress)


@dataclass(frozen=True)
class Arm:
    """An arm on a unit: everything an adapter is made of, but for the learning rate."""

    name: str
    model: nn.Module
    prototypes: Tensor | None
    parts: Parts
    config: Config
    seed: int


def adapter_of(arm: Arm, rate: float) -> Adapter:
    """The adapter of an arm at a learning rate."""
    name, model, config, seed = arm.name, arm.model, arm.config, arm.seed
    if name == "source":
        return Source(model)
    if name == "bn-1":
        return NormAdapter(model)
    if name == "tent":
        return Tent(model, lr=rate, seed=seed)
    common: dict[str, Any] = {
        "augment": StrongAugment(flip=config.data == "cifar10"), "lr": rate, "momentum": config.momentum, "seed": seed,
    }  # fmt: skip
    if name == "cotta":
        return CoTTA(model, augmentations=config.augmentations, **common)
    warmup = 0 if name == "rmt-without-warm-up" else config.warmup_samples
    common |= {"source": arm.parts.train, "warmup_samples": warmup, "source_batch": config.batch_size}
    if name == "mean-teacher-cross-entropy":
        return MeanTeacher(model, alpha=0.0, **common)
    lam = (1.0, float(name != "rmt-without-contrast"), float(name == "rmt-replay"))
    return RMT(model, prototypes=arm.prototypes, alpha=0.0 if name == "rmt-cross-entropy" else 0.5, lam=lam, **common)


def chosen_rate(arm: Arm) -> float:
    """The learning rate with the lowest mean error on the validation stream; of equal ones the smaller."""
    config, data = arm.config, arm.parts.rate
    rates = sorted(float(part) for part in config.rates.split(","))
    if arm.name in CONTROLS or len(rates) == 1:
        return rates[0]
    names, tested = config.validation_corruptions.split(","), config.corruptions.split(",")
    # as many images as the test stream has
    n = min(len(data) // len(names), config.n)
    passes = max(1, round(config.passes * config.n * len(tested) / (n * len(names))))
    stream = stream_of(data, config.validation_corruptions, derive(arm.seed, "validation"), n, passes=passes)
    errors = [run_stream(adapter_of(arm, rate), stream, batch_size=config.batch_size).error() for rate in rates]
    return rates[errors.index(min(errors))]


def cell(cell: Cell) -> Mapping[str, float]:
    """One arm on the three streams of one unit. Errors in per cent, means over corruptions."""
    config: Config = cell.config
    parts, seed = Parts(config), derive(cell.unit, "rmt")
    model = source_model(config, parts, cell)
    prototypes = class_prototypes(model, parts.train.loader(256)) if cell.arm.startswith("rmt") else None
    arm = Arm(cell.arm, model, prototypes, parts, config, seed)
    rate = chosen_rate(arm)
    adapter = adapter_of(arm, rate)

    def run(stream: Stream) -> StreamReport:
        adapter.reset()
        return run_stream(adapter, stream, batch_size=config.batch_size, progress=cell.progress)

    stream = stream_of(parts.test, config.corruptions, seed, config.n, passes=config.passes)
    long = run(stream)
    drift = adapter.diff().total
    names, metrics = ("first", "second", "third"), {}
    for number, name in enumerate(names, start=1):
        metrics[f"{name}_pass_online_error"] = 100 * long.error(number)
    if long.parts.keys() == {"student", "teacher"}:
        metrics |= {f"third_pass_{part}_error": 100 * long.error(3, part=part) for part in long.parts}
    ordered = stream_of(parts.test, config.corruptions, seed, config.n, labels="sorted")
    metrics["class_sorted_online_error"] = 100 * run(ordered).error()
    steps = tuple(int(step) for step in config.gradual.split(","))
    rising = stream_of(parts.test, config.corruptions, seed, config.n_gradual, severities=steps)
    metrics["gradual_online_error"] = 100 * run(rising).error()
    return {"third_pass_online_error": metrics["third_pass_online_error"], **metrics, "rate": rate, "drift": drift}


def data(config: Config) -> list[dict[str, Any]]:
    parts = Parts(config)
    found = [part.describe() for part in (parts.train, parts.epoch, parts.rate, parts.test)]
    if "frost" in config.corruptions.split(","):
        found[-1]["frost"] = frost_source()
    return found


def _lower(words: str, baseline: str, metric: str = "third_pass_online_error", method: str = "rmt-source-free") -> Sentence:
    return Sentence(words, metric, method, baseline, better="lower")


CLAIM = Claim(
    slug="rmt",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="waves", n_validation=20, net=f"{HERE}:tiny", epochs=6, lr=0.1, train_batch=12,
            corruptions="impulse_noise,contrast", validation_corruptions="speckle_noise", n=10, gradual="1,3", n_gradual=10,
            batch_size=10, rates="0.003", warmup_samples=20, augmentations=2,
        ),
        "claim": Config(),
        "paper": Config(
            data="cifar10", n_validation=2500, net="tutelage.models.wide_resnet:wrn_28_10", epochs=200, lr=0.1,
            corruptions=",".join(COMMON), n=10_000, n_gradual=1000, batch_size=200, warmup_samples=50_000, augmentations=32,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        _lower("Source-free RMT has a lower online error in the third pass than BN-1.", "bn-1"),
        _lower("Already in the first pass source-free RMT has a lower online error.", "mean-teacher-cross-entropy",
               "first_pass_online_error"),
        _lower("Replay of source data lowers the error of RMT in the third pass.", "rmt-source-free", method="rmt-replay"),
        _lower("The symmetric loss in RMT has a lower error in the third pass than cross-entropy in RMT.", "rmt-cross-entropy"),
        _lower("The contrastive loss lowers the error of RMT in the third pass.", "rmt-without-contrast"),
        _lower("The warm-up lowers the error of RMT in the third pass.", "rmt-without-warm-up"),
        _lower("Source-free RMT has a lower online error in the third pass than TENT.", "tent"),
        _lower("Source-free RMT has a lower online error in the third pass than CoTTA.", "cotta"),
        _lower("On the gradual stream source-free RMT has a lower online error than the mean teacher with cross-entropy.",
               "mean-teacher-cross-entropy", "gradual_online_error"),
        _lower("On the gradual stream source-free RMT has a lower online error than the source model.", "source",
               "gradual_online_error"),
        _lower("Where it should lose: on the stream sorted by class the source model has a lower online error than RMT.",
               "rmt-source-free", "class_sorted_online_error", method="source"),
    ),
    axes=("third_pass_online_error", "class_sorted_online_error"),
    metric_labels={
        "first_pass_online_error": "online error in the first pass, %",
        "third_pass_online_error": "online error in the third pass, %",
        "class_sorted_online_error": "online error on the class-sorted stream, %",
        "gradual_online_error": "online error on the gradual stream, %",
    },
)  # fmt: skip
