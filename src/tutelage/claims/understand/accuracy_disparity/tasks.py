"""The pairs of real classes: where they come from, and their balanced test data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.claims.claim import Cell
from tutelage.claims.understand.accuracy_disparity.config import Config
from tutelage.core.errors import InputError
from tutelage.core.rng import derive, generator
from tutelage.data.images import ImageSet
from tutelage.data.sets import digits, fashion_mnist_subset, standard_set
from tutelage.methods.understand.accuracy_disparity.measure import Samples, class_pair

DIGIT_PAIRS = "1/7 3/8"


@dataclass(frozen=True)
class Task:
    """Two classes: training pool, balanced test data, the range of inputs (None: any)."""

    pool: Samples
    test: Samples
    bounds: tuple[float, float] | None


def tasks(config: Config, cell: Cell) -> list[Task]:
    if cell.arm.startswith("breast-cancer"):
        return [_breast_cancer(cell.unit)]
    digits_only = cell.arm.startswith("digits")
    whole, test = image_splits("digits" if digits_only else config.data, cell.unit)
    return [
        Task(class_pair(whole, *pair), balanced(class_pair(test, *pair), config.n_test), (0.0, 1.0))
        for pair in class_pairs(DIGIT_PAIRS if digits_only else config.pairs)
    ]


def class_pairs(text: str) -> list[tuple[str | int, str | int]]:
    """1/7 3/8 -> [(1, 7), (3, 8)], majority first; InputError for anything else."""
    names = [word.split("/") for word in text.split()]
    if not names or any(len(pair) != 2 for pair in names):
        raise InputError("pairs", text, "class pairs majority/minority, by number or name, such as 1/7 3/8")
    return [(_name(majority), _name(minority)) for majority, minority in names]


def _name(word: str) -> str | int:
    return int(word) if word.isdigit() else word


def image_splits(name: str, unit: int) -> tuple[ImageSet, ImageSet]:
    """(training data, test data). scikit-learn's digits have no official split: each unit has its own."""
    if name == "fashion-mnist-subset":
        return fashion_mnist_subset("train"), fashion_mnist_subset("test")
    if name != "digits":
        return standard_set(name, "train"), standard_set(name, "test")
    whole = digits()
    train, test = whole.split_off(len(whole) // 3, seed=derive(unit, "digits"), split="test")
    return train.take(slice(None), "train"), test


def _breast_cancer(unit: int) -> Task:
    """569 samples of 30 features; malignant is the minority. Each unit has its own split; features are standardised."""
    x, y = breast_cancer_arrays()
    order = torch.randperm(len(x), generator=generator(unit, "breast cancer"))
    test = torch.cat([order[y[order] == c][:70] for c in (0, 1)])
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[test] = False
    mean, spread = x[rest].mean(0), x[rest].std(0)
    x = (x - mean) / spread
    return Task((x[rest], y[rest]), (x[test], y[test]), None)


def breast_cancer_arrays() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return torch.from_numpy(found.data).float(), torch.from_numpy(1 - found.target).long()  # 0 benign, 1 malignant


def balanced(data: ImageSet, n: int) -> ImageSet:
    """The first images of each class, as many of one as of the other, at most n."""
    index = [(data.labels == c).nonzero().squeeze(1) for c in (0, 1)]
    size = min(n, *(len(one) for one in index))
    return data.take(torch.cat([one[:size] for one in index]).sort().values)
