"""The nets and what they answer on every item, under every condition: made once, then only looked up.

Nets of the trials: a small MLP each, trained on its own random half of the training part. Versions of the monitor: v3 sees the
whole image, v2 only its lower half, v1 only its upper half. Conditions: clean, five strengths of blur, a row of sensors that
reports the same value whatever it sees, and either half of the image dead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from tutelage.claims.audit.robust_mlops.config import Config
from tutelage.claims.claim import Cell
from tutelage.claims.codehash import code_sha256
from tutelage.core.cache import Cache
from tutelage.core.rng import derive, generator, numpy_generator, seeded
from tutelage.data.images import ImageSet
from tutelage.data.sets import digits, standard_set

# sigma in pixels of a 28 x 28 image: from what nobody sees to what costs tens of points on the training part
BLURS = (0.7, 1.4, 2.1, 2.8, 3.5)
CONDITIONS = ("clean", *(f"blur{i}" for i in range(1, 6)), "sensor", "upper", "lower")
VERSIONS = ("v3", "v2", "v1")  # the champion first, then newest first
SENSORS = [f"s{i}" for i in range(8)]  # mean brightness of 4 x 2 blocks


@dataclass(frozen=True, eq=False)
class World:
    """labels (N,) of the test items; right and confidence (models, N) of the nets of the trials.

    answers, certainty: "condition/version" -> (N,); sensors: condition -> (N, 8).
    """

    labels: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float64]
    answers: dict[str, npt.NDArray[np.int64]]
    certainty: dict[str, npt.NDArray[np.float64]]
    sensors: dict[str, npt.NDArray[np.float64]]


def parts(config: Config) -> tuple[ImageSet, ImageSet]:
    """(training part, test part)."""
    if config.data == "digits":
        whole = digits()
        order = numpy_generator(0, "robust-mlops digits").permutation(len(whole)).tolist()
        return whole.take(order[:900], "train"), whole.take(order[900:], "test")
    return standard_set("mnist-10k", "train"), standard_set("mnist-10k", "test")


def load_world(cell: Cell) -> World:
    """The world of the cell's config, from the cache."""
    return _world(cell.config, cell.cache.root)


@cache
def _world(config: Config, root: Path) -> World:
    used = ("data", "models", "hidden", "epochs", "lr")
    key = {**{name: getattr(config, name) for name in used}, "torch": torch.__version__,
           "threads": torch.get_num_threads(), "code": code_sha256("tutelage.claims.audit.robust_mlops.world")}  # fmt: skip

    def build(folder: Path) -> None:
        arrays = _made(config)
        with (folder / "world.npz").open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    with np.load(Cache(root).get("robust-mlops", key, build) / "world.npz") as kept:
        all_ = {name: kept[name] for name in kept.files}

    def group(name: str) -> dict[str, npt.NDArray[np.float64]]:
        return {key.partition("/")[2]: values for key, values in all_.items() if key.startswith(f"{name}/")}

    answers = {key: values.astype(np.int64) for key, values in group("answers").items()}
    return World(all_["labels"], all_["right"], all_["confidence"], answers, group("certainty"), group("sensors"))


def _made(config: Config) -> dict[str, npt.NDArray[Any]]:
    train, test = parts(config)
    x, y = train[:]
    half = len(y) // 2
    nets = []
    for number in range(config.models):
        mine = numpy_generator(number, "robust-mlops half").permutation(len(y))[:half]
        nets.append(_trained(x[mine], y[mine], config, f"model {number}"))
    versions = {
        version: _trained(_halved(x, {"v3": "clean", "v2": "upper", "v1": "lower"}[version]), y, config, version)
        for version in VERSIONS
    }
    images, labels = test.images.float() / (255 if test.images.dtype == torch.uint8 else 1), test.labels
    arrays: dict[str, npt.NDArray[Any]] = {"labels": labels.numpy()}
    answers = [_answers(net, images) for net in nets]
    arrays["right"] = np.stack([found == labels.numpy() for found, _ in answers])
    arrays["confidence"] = np.stack([sure for _, sure in answers])
    for condition in CONDITIONS:
        changed = _changed(images, condition)
        arrays[f"sensors/{condition}"] = _sensors(changed)
        for version, net in versions.items():
            found, sure = _answers(net, changed)
            arrays[f"answers/{condition}/{version}"], arrays[f"certainty/{condition}/{version}"] = found, sure
    return arrays


def _trained(x: Tensor, y: Tensor, config: Config, name: str) -> nn.Module:
    """Adam on cross-entropy, batches of 100."""
    with seeded(0, "robust-mlops", name):
        net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), config.hidden), nn.ReLU(), nn.Linear(config.hidden, 10))
    optimizer, order = torch.optim.Adam(net.parameters(), config.lr), generator(derive(0, name), "order")
    for _ in range(config.epochs):
        shuffled = torch.randperm(len(x), generator=order)
        for start in range(0, len(x), 100):
            batch = shuffled[start : start + 100]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


@torch.no_grad()
def _answers(net: nn.Module, x: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    sure, found = net(x).softmax(1).max(1)
    return found.numpy(), sure.double().numpy()


def _halved(x: Tensor, dead: str) -> Tensor:
    middle = x.shape[2] // 2
    changed = x.clone()
    if dead == "upper":
        changed[:, :, :middle] = 0
    elif dead == "lower":
        changed[:, :, middle:] = 0
    return changed


def _changed(x: Tensor, condition: str) -> Tensor:
    if condition.startswith("blur"):
        sigma = BLURS[int(condition[4:]) - 1] * x.shape[-1] / 28
        return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma)))
    if condition == "sensor":  # one of four rows of sensors reports its average
        rows = x.shape[2] // 4
        changed = x.clone()
        changed[:, :, rows : 2 * rows] = float(x[:, :, rows : 2 * rows].mean())
        return changed
    return _halved(x, condition)


def _sensors(x: Tensor) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = nn.functional.adaptive_avg_pool2d(x, (4, 2)).flatten(1).double().numpy()
    return found
