"""Training recipes that several claims share, and their cache: a teacher trained once serves every claim that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD

from tutelage.auditing.measure import clean_and_robust, predict
from tutelage.claims.codehash import code_sha256
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.images import Augment, ImageSet, composed, random_flip, random_shift
from tutelage.models.cnn import SmallCNN
from tutelage.models.loading import load_model, load_weights, save_weights
from tutelage.models.resnet import resnet
from tutelage.teaching.fit import FitResult, fit
from tutelage.teaching.fit import Objective as TrainingObjective
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD

# name -> (channels, size, classes) -> net. u: PixelUnshuffle stem; t: both convolutions stride.
NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "u16": lambda c, s, k: SmallCNN(16, channels=c, size=s, classes=k),
    "u32": lambda c, s, k: SmallCNN(32, channels=c, size=s, classes=k),
    "t32": lambda c, s, k: SmallCNN(32, channels=c, size=s, classes=k, unshuffle=False),
    "linear": lambda c, s, k: nn.Sequential(nn.Flatten(), nn.Linear(c * s * s, k)),
    "resnet-18": lambda c, s, k: resnet(18, channels=c, classes=k),
    "resnet-20": lambda c, s, k: resnet(20, channels=c, classes=k),
    "resnet-56": lambda c, s, k: resnet(56, channels=c, classes=k),
}


def build_net(name: str, data: ImageSet, seed: int) -> nn.Module:
    """A fresh net for `data`: a name of NETS, or a user's factory 'package.module:function'. Initialised by `seed`."""
    _, channels, height, _ = data.images.shape
    with seeded(seed, "init", name):
        if name in NETS:
            # channels-last convolutions are the faster ones on CPUs
            net = NETS[name](channels, height, len(data.classes))
            return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        if ":" in name:
            return load_model(name).train()
    raise InputError("net", name, f"one of {', '.join(NETS)}, or a factory 'package.module:function'")


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: SGD with momentum 0.9, one warm-up epoch, cosine; the best epoch on validation data."""

    net: str
    epochs: int
    lr: float = 0.05
    weight_decay: float = 5e-4
    batch_size: int = 128
    shift: int = 0
    flip: bool = True
    eps: float = 0.0  # of PGD adversarial training in Linf; 0 is ordinary training
    attack_steps: int = 10

    @property
    def augment(self) -> Augment | None:
        parts: list[Augment] = [random_flip] if self.flip else []
        if self.shift:
            parts.append(random_shift(self.shift))
        return composed(*parts) if parts else None


def train_student(
    net: nn.Module,
    objective: TrainingObjective,
    recipe: Recipe,
    train: ImageSet,
    validation: ImageSet,
    *,
    seed: int,
    select: Literal["clean", "robust", "w_robust"],
    eps: float,
    progress: Progress = QUIET,
    name: str = "training",
) -> FitResult:
    """Train `net` by `objective` under `recipe`; keep the epoch best in `select` on `validation` (PGD-10 for robustness)."""
    attack = PGD(Linf(eps), steps=recipe.attack_steps) if eps > 0 else None

    def validate(model: nn.Module) -> dict[str, float]:
        if select == "clean" or attack is None:
            return {"clean": float((predict(model, validation).argmax(1) == validation.labels).double().mean())}
        return clean_and_robust(model, validation, attack, seed=seed)

    return fit(
        net,
        objective,
        train.loader(recipe.batch_size, generator=generator(seed, "order"), drop_last=len(train) > recipe.batch_size),
        epochs=recipe.epochs,
        optimizer=SGD(net.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay),
        schedule=warmup_cosine(1 / recipe.epochs),
        augment=recipe.augment,
        validate=validate,
        select=select,
        seed=derive(seed, "student"),
        progress=progress,
        name=name,
    )


def inner_attack(eps: float, steps: int) -> PGD:
    """The search of adversarial training: steps of eps/4 on cross-entropy, from 0.001 N(0, 1) beside the input."""
    return PGD(Linf(eps), steps=steps, step_size=eps / 4, start="gaussian")


def teacher(
    recipe: Recipe, train: ImageSet, validation: ImageSet, *, seed: int, cache: Cache, progress: Progress = QUIET
) -> nn.Module:
    """A classifier trained by `recipe`, from the cache if it was trained before with the same data, seed and code."""
    key = {
        "recipe": asdict(recipe),
        "train": train.sha256,
        "validation": validation.sha256,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": code_sha256(__name__),
    }
    robust = recipe.eps > 0

    def build(folder: Path) -> None:
        net = build_net(recipe.net, train, seed)
        objective = AdversarialTraining(inner_attack(recipe.eps, recipe.attack_steps)) if robust else CrossEntropy()
        train_student(
            net, objective, recipe, train, validation, seed=seed, select="robust" if robust else "clean",
            eps=recipe.eps, progress=progress, name="robust teacher" if robust else "clean teacher",
        )  # fmt: skip
        save_weights(net, folder / "model.safetensors")

    net = build_net(recipe.net, train, seed)
    load_weights(net, cache.get("teachers", key, build) / "model.safetensors")
    return net.eval()
