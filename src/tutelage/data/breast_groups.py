"""Breast cancer Wisconsin, as scikit-learn carries it, as three modalities: means, standard errors and worst values."""

from __future__ import annotations

import numpy as np
import torch

from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.data.images import Split
from tutelage.data.multimodal import MultiModalSet

GROUPS = ("mean", "error", "worst")
SHARES = {"train": (0, 340), "validation": (340, 440), "test": (440, 569)}


def breast_groups(split: Split, *, unit: int = 0) -> MultiModalSet:
    """569 tumours, 10 measurements each as mean, standard error and worst value: {"mean", "error", "worst"}, each (N, 10).

    340 train, 100 validate, 129 test, dealt out by `unit`. Each column is in standard deviations of the training part.
    """
    from sklearn.datasets import load_breast_cancer

    if split not in SHARES:
        raise InputError("split", split, "train, validation or test")
    found = load_breast_cancer()
    order = numpy_generator(unit, "breast groups").permutation(len(found.target))
    train = found.data[order[slice(*SHARES["train"])]]
    values = (found.data - train.mean(0)) / train.std(0)
    rows = order[slice(*SHARES[split])]
    inputs = {name: torch.from_numpy(values[rows, 10 * i : 10 * i + 10].astype(np.float32)) for i, name in enumerate(GROUPS)}
    labels = torch.from_numpy(found.target[rows].astype(np.int64))
    classes = tuple(str(name) for name in found.target_names)
    return MultiModalSet(inputs, labels, classes, name="breast cancer (scikit-learn), in three groups", split=split)
