"""The models that attack_suite.py attacks: how they are trained, on what, and within which budget they are attacked.

All of them are trained here, once, on training data; the epoch that counts is chosen on validation data; the attacked images
are test images. What takes long to train is kept in models/, its recipe and epochs beside it. The bundled subset of
Fashion-MNIST serves all but one, CIFAR-10 is read from $TUTELAGE_DATA.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD

from tutelage.auditing.measure import clean_and_robust, predict
from tutelage.claims.recipes import build_net
from tutelage.core.files import sha256_text, write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator
from tutelage.data.images import ImageSet, composed, random_flip, random_shift
from tutelage.data.sets import fashion_mnist_subset, standard_set
from tutelage.models.loading import load_weights, save_weights
from tutelage.teaching.fit import fit
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats import L2, PGD, Budget, Linf

LEVELS, SHARPNESS = 8, 100
KEPT = Path(__file__).resolve().parent / "models"  # weights that take most of an hour to train


class Quantised(nn.Module):
    """The net sees its input rounded to 8 grey levels. Rounding is flat, so the gradient is zero wherever there is one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(torch.round(x * (LEVELS - 1)) / (LEVELS - 1))
        return logits


class Saturated(nn.Module):
    """softmax(100 z) instead of the logits z, what distillation at a temperature of 100 comes to. In float32 one class has
    1 and the others 0 unless two logits are close, and the gradient of that is zero."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return torch.softmax(SHARPNESS * logits, 1)


MASKS: dict[str, Callable[[nn.Module], nn.Module]] = {"quantised": Quantised, "saturated": Saturated}


@dataclass(frozen=True)
class Attacked:
    """One model. budget: that of the attack. trained: of its adversarial training with PGD of `steps` steps, None for none.

    like: the name of the model whose weights it has, behind the mask of MASKS that has its own name. half: train in bfloat16
    where the processor has it.
    """

    name: str
    what: str
    budget: Budget
    data: Literal["fashion-mnist-subset", "cifar10"] = "fashion-mnist-subset"
    net: str = "u32"
    trained: Budget | None = None
    steps: int = 0
    epochs: int = 6
    lr: float = 0.05
    shift: int = 1
    validation: int = 1000
    half: bool = False
    like: str = ""

    @property
    def masked(self) -> bool:
        return bool(self.like)


MODELS = {
    model.name: model
    for model in (
        Attacked("clean-cnn", "undefended CNN", Linf(4 / 255)),
        Attacked("at-cnn", "PGD-AT CNN", Linf(0.1), trained=Linf(0.1), steps=7),
        Attacked("l2-cnn", "PGD-AT CNN in L2", L2(1.0), trained=L2(1.0), steps=7),
        Attacked(
            "at-resnet", "PGD-AT ResNet-20", Linf(8 / 255), data="cifar10", net="resnet-20", trained=Linf(8 / 255), steps=2,
            epochs=4, lr=0.1, shift=2, validation=500, half=True,
        ),
        Attacked("quantised", "PGD-AT CNN, input rounded to 8 levels", Linf(0.1), like="at-cnn"),
        Attacked("saturated", "undefended CNN, outputs softmax(100 z)", Linf(4 / 255), like="clean-cnn"),
    )
}  # fmt: skip


def split(model: Attacked, which: Literal["train", "test"]) -> ImageSet:
    """Raises MissingError where the set is not on this machine."""
    return fashion_mnist_subset(which) if model.data == "fashion-mnist-subset" else standard_set("cifar10", which)


def attacked_images(model: Attacked, n: int) -> ImageSet:
    """n test images, the classes in equal shares."""
    return split(model, "test").split_off(n, split="test")[1]


def weights(model: Attacked, folder: Path, *, quick: bool, progress: Progress = QUIET) -> Path:
    """The file with a model's weights: in `folder`, or kept in KEPT; else trained first. A training that was killed goes on."""
    model = MODELS[model.like] if model.like else model
    if quick:
        model = replace(model, epochs=1, steps=min(model.steps, 1), validation=50, half=False)
    recipe = {key: str(value) for key, value in sorted(vars(model).items()) if key not in ("what", "budget", "like")}
    path = folder / f"{model.name}-{sha256_text(repr(recipe))[:8]}.safetensors"
    for there in (path, KEPT / path.name):
        if there.exists():
            return there
    start = time.monotonic()
    train, validation = split(model, "train").split_off(model.validation)
    if quick:
        train = train.take(slice(0, 256))
    net = build_net(model.net, train, seed=0)
    attack = PGD(model.trained, steps=model.steps) if model.trained else None
    careful = PGD(model.trained, steps=10) if model.trained else None

    def validate(net: nn.Module) -> dict[str, float]:
        if careful is not None:
            return clean_and_robust(net, validation, careful)
        return {"clean": float((predict(net, validation).argmax(1) == validation.labels).double().mean())}

    half = model.half and torch.cpu._is_avx512_bf16_supported()
    checkpoint = path.with_suffix("")
    result = fit(
        net,
        AdversarialTraining(attack) if attack else CrossEntropy(),
        train.loader(128, generator=generator(0, "order"), drop_last=True),
        epochs=model.epochs,
        optimizer=SGD(net.parameters(), lr=model.lr, momentum=0.9, weight_decay=5e-4),
        schedule=warmup_cosine(1 / model.epochs),
        augment=composed(random_flip, random_shift(model.shift)),
        validate=validate,
        select="robust" if attack else "clean",
        checkpoint=checkpoint,
        seed=derive(0, model.name),
        accelerator=Accelerator(cpu=True, mixed_precision="bf16") if half else None,
        progress=progress,
        name=model.name,
    )
    about = {"recipe": recipe, "half": half, "epochs": result.epochs, "best": result.best}
    write_json(path.with_suffix(".json"), {**about, "seconds": time.monotonic() - start})
    save_weights(net, path)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return path


def loaded(model: Attacked, images: ImageSet, path: Path) -> nn.Module:
    """The net as it is attacked: its mask in front or behind, in evaluation mode, parameters without gradients."""
    net = build_net(MODELS[model.like].net if model.like else model.net, images, seed=0)
    load_weights(net, path)
    return (MASKS[model.name](net) if model.masked else net).eval().requires_grad_(False)
