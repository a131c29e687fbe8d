"""Named sets: the bundled one, and standard sets from `$TUTELAGE_DATA/<set>`."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tutelage.core.errors import InputError, MissingError
from tutelage.data.images import ImageSet
from tutelage.data.readers import read_images

FASHION_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# set -> classes, and split -> file under $TUTELAGE_DATA
STANDARD: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "fashion-mnist": (FASHION_CLASSES, {"train": "fashion-mnist/train.npz", "test": "fashion-mnist/test.npz"}),
    "mnist-10k": (DIGITS, {"train": "mnist/train10k.npz", "test": "mnist/test.npz"}),
    "cifar10": (CIFAR10_CLASSES, {"train": "cifar10/train.parquet", "test": "cifar10/test.parquet"}),
}
# content that goes by a more exact name than the set's
KNOWN = {
    "c1f7c41592ac095db24e2983ac83311fc670bd272e7e06d8f985bfd1fa75c166": "cifar10-jpeg",
    "98be457a9686048ae02e8c7ed0a61fd7df1b9c35280137dc890ca9c544d9472e": "cifar10-jpeg",
}
HOMES = {
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist",
    "mnist-10k": "http://yann.lecun.com/exdb/mnist",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
}


def fashion_mnist_subset(split: Literal["train", "test"]) -> ImageSet:
    """The bundled subset of Fashion-MNIST: 10,000 training or 2,000 test images 1x28x28, equal shares of 10 classes."""
    if split not in ("train", "test"):
        raise InputError("split", split, "train or test")
    with (files("tutelage") / "data" / "bundled" / "fashion_mnist.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays[f"{split}_image"], arrays[f"{split}_label"]
    return ImageSet(
        torch.from_numpy(images)[:, None],
        torch.from_numpy(labels.astype(np.int64)),
        FASHION_CLASSES,
        name="Fashion-MNIST subset (bundled)",
        split=split,
    )


def standard_set(name: str, split: Literal["train", "test"]) -> ImageSet:
    """A standard set from `$TUTELAGE_DATA`: fashion-mnist, mnist-10k (10,000 of the training digits) or cifar10.

    Raises MissingError, with the set's home page and the place where it is looked for.
    """
    if name not in STANDARD:
        raise InputError("data", name, f"one of {', '.join(STANDARD)}")
    classes, parts = STANDARD[name]
    if split not in parts:
        raise InputError("split", split, " or ".join(parts))
    root = os.environ.get("TUTELAGE_DATA")
    path = Path(root or "").expanduser() / parts[split]
    if not root or not path.is_file():
        where = f"{path} is not there" if root else "TUTELAGE_DATA is not set"
        raise MissingError(
            f"data: {where}; put {name} from {HOMES[name]} at $TUTELAGE_DATA/{parts[split]} "
            "(.npz with arrays image and label, or Parquet with those columns)"
        )
    loaded = read_images(path, classes=classes)
    exact = KNOWN.get(loaded.origin["file_sha256"], name)
    return ImageSet(loaded.images, loaded.labels, classes, name=exact, split=split, origin=loaded.origin)
