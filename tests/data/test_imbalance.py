"""Thinned sets: sizes by hand, the same draw for the same seed, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.errors import InputError
from tutelage.data import ImageSet, fashion_mnist_subset
from tutelage.data.imbalance import class_counts, exponential_counts, thinned


def test_counts_by_hand() -> None:
    assert exponential_counts(1000, 4, 1000) == [1000, 100, 10, 1]
    assert exponential_counts(100, 3, 4) == [100, 50, 25]
    assert exponential_counts(50, 3, 1) == [50, 50, 50]
    assert exponential_counts(3, 2, 100) == [3, 1]


def test_a_thinned_set_has_these_counts_in_the_given_order_and_real_samples() -> None:
    data = fashion_mnist_subset("train").take(slice(0, 1000))
    smallest = int(class_counts(data).min())
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    part = thinned(data, 10, order=order)
    assert class_counts(part)[order].tolist() == exponential_counts(smallest, 10, 10)
    assert int(class_counts(part)[3]) == smallest
    assert part.split == "train"
    assert part.name.endswith("thinned to ratio 10")
    known = {image.numpy().tobytes(): int(label) for image, label in zip(data.images, data.labels, strict=True)}
    assert all(known[image.numpy().tobytes()] == int(label) for image, label in zip(part.images, part.labels, strict=True))


def test_the_seed_decides_order_and_samples() -> None:
    data = fashion_mnist_subset("train").take(slice(0, 500))
    first, again, other = thinned(data, 5, seed=1), thinned(data, 5, seed=1), thinned(data, 5, seed=2)
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256
    assert class_counts(first).tolist() != class_counts(other).tolist()
    fixed = list(range(10))
    assert thinned(data, 5, order=fixed, seed=1).sha256 != thinned(data, 5, order=fixed, seed=2).sha256


def test_ratio_1_makes_the_classes_equal() -> None:
    data = ImageSet(torch.zeros(5, 1, 2, 2), torch.tensor([0, 0, 0, 1, 1]), ("a", "b"))
    assert class_counts(thinned(data, 1)).tolist() == [2, 2]


def test_what_is_refused() -> None:
    data = ImageSet(torch.zeros(2, 1, 2, 2), torch.tensor([0, 0]), ("a", "b"))
    with pytest.raises(InputError, match="data: got no sample of class 1"):
        thinned(data, 2)
    with pytest.raises(InputError, match="order"):
        thinned(fashion_mnist_subset("train"), 2, order=[0, 1])
    with pytest.raises(InputError, match="ratio"):
        exponential_counts(10, 2, 0.5)
