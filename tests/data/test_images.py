"""ImageSet, its splits and loaders, augmentations, and the guard that keeps test data out of a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset

from tutelage.core.errors import InputError, SplitError
from tutelage.data import ImageSet, composed, random_flip, random_shift, training_only
from tutelage.data.guard import refuse_test_data

light = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(labels: list[int], split: Any = "", name: str = "numbered") -> ImageSet:
    """Sample i is one image 1x2x2 filled with the value i."""
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageSet(images, torch.tensor(labels), tuple("abcdefghij"[: max(labels) + 1]), name=name, split=split)


def ids(data: ImageSet) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


# The set


def test_bytes_come_out_as_shares_of_255() -> None:
    data = ImageSet(torch.tensor([[[[0, 51], [204, 255]]]], dtype=torch.uint8), torch.tensor([0]), ("a",))
    x, y = data[0]
    # 51 / 255 = 0.2, 204 / 255 = 0.8
    torch.testing.assert_close(x, torch.tensor([[[0.0, 0.2], [0.8, 1.0]]]))
    assert x.dtype == torch.float32
    assert y == 0


def test_floats_come_out_as_they_are() -> None:
    images = torch.rand(3, 3, 2, 2, generator=seeded())
    x, _ = ImageSet(images, torch.tensor([0, 1, 0]), ("a", "b"))[:]
    assert torch.equal(x, images)


@pytest.mark.parametrize(
    ("index", "expected"), [(2, 2), ([2, 0], [2, 0]), (slice(1, 3), [1, 2]), (torch.tensor([3, 3]), [3, 3]), (-1, 3)]
)
def test_indexing(index: Any, expected: Any) -> None:
    x, y = numbered([0, 1, 0, 1])[index]
    assert (x[..., 0, 0, 0] * 255).round().tolist() == expected
    assert y.tolist() == (torch.tensor(expected) % 2).tolist()


def test_take_and_describe() -> None:
    data = numbered([0, 1, 0, 1], split="train")
    part = data.take([3, 1])
    assert ids(part) == [3, 1]
    assert part.labels.tolist() == [1, 1]
    assert (part.split, part.name, part.classes) == ("train", "numbered", ("a", "b"))
    assert data.take(slice(2), "validation").split == "validation"
    about = part.describe()
    assert about == {"name": "numbered", "kind": "file", "split": "train", "n": 2, "sha256": part.sha256}


def test_hash_is_of_the_content() -> None:
    data = numbered([0, 1, 0, 1])
    assert data.sha256 == numbered([0, 1, 0, 1], split="test", name="other").sha256
    assert data.take([0, 1, 2, 3]).sha256 == data.sha256
    assert data.take([1, 0, 2, 3]).sha256 != data.sha256
    assert numbered([0, 1, 1, 1]).sha256 != data.sha256
    changed = data.images.clone()
    changed[3, 0, 1, 1] += 1
    assert ImageSet(changed, data.labels, data.classes).sha256 != data.sha256


I8, L8 = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (I8[:, 0], L8, r"^image: got shape \(4, 2, 2\), wanted \(N, C, H, W\) with 1 or 3 channels"),
        (I8.expand(4, 2, 2, 2), L8, r"^image: got shape \(4, 2, 2, 2\)"),
        (I8[:0], L8[:0], "^image: got no images, wanted at least one"),
        (I8.double(), L8, "^image: got dtype torch.float64, wanted uint8, or float32"),
        (I8.int(), L8, "^image: got dtype torch.int32"),
        (I8.float() + 2, L8, r"^image: got values from 2 to 2, wanted float images in \[0, 1\]"),
        (I8.float() - 0.5, L8, r"^image: got values from -0.5 to -0.5"),
        (I8.float() + torch.nan, L8, "^image: got NaN"),
        (I8.float() + torch.inf, L8, "^image: got values from inf to inf"),
        (I8, L8[:3], r"^label: got torch.int64 of shape \(3,\), wanted integers of shape \(4,\)"),
        (I8, L8[:, None], r"^label: got torch.int64 of shape \(4, 1\)"),
        (I8, L8.float(), "^label: got torch.float32"),
        (I8, L8 - 1, "^label: got -1, wanted labels from 0"),
        (I8, L8 + 2, "^label: got 3, wanted labels below the number of classes, 3"),
    ],
)
def test_bad_arrays(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSet(images, labels, ("a", "b", "c"))


# Splits


def test_split_off_has_equal_shares() -> None:
    data = numbered([0] * 40 + [1] * 40 + [2] * 40, split="train")
    rest, part = data.split_off(30, seed=1)
    assert part.labels.bincount().tolist() == [10, 10, 10]
    assert rest.labels.bincount().tolist() == [30, 30, 30]
    assert (rest.split, part.split) == ("train", "validation")


def test_split_off_of_unequal_classes_by_hand() -> None:
    # 6, 3 and 1 samples: shares of 5 are 3, 1.5 and 0.5. Ranks (i + 1/2) / size are 1/12, 3/12, 5/12 ...; 1/6, 3/6 ...; 1/2:
    # the four lowest are 1/12, 1/6, 3/12, 5/12; the fifth is 3/6 of the second class or 1/2 of the third, as the draw has it
    seen = set()
    for seed in range(20):
        _, part = numbered([0] * 6 + [1] * 3 + [2]).split_off(5, seed=seed)
        seen.add(tuple(part.labels.bincount(minlength=3).tolist()))
    assert seen == {(3, 2, 0), (3, 1, 1)}


@light
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data(), st.integers(0, 2**31))
def test_split_off_is_a_stratified_partition(labels: list[int], data: st.DataObject, seed: int) -> None:
    whole = numbered(labels)
    n = data.draw(st.integers(1, len(labels) - 1))
    rest, part = whole.split_off(n, seed=seed)
    assert len(part) == n
    assert sorted(ids(rest) + ids(part)) == list(range(len(labels)))
    assert ids(part) == sorted(ids(part))  # the old order
    assert ids(rest) == sorted(ids(rest))
    assert all(int(y) == labels[i] for y, i in zip(part.labels, ids(part), strict=True))
    counts, drawn = whole.labels.bincount(minlength=5), part.labels.bincount(minlength=5)
    classes = int((counts > 0).sum())
    # each class has its share within half a sample, plus its share of what the others are rounded by
    assert bool(((drawn - counts * n / len(labels)).abs() <= 0.5 + counts * classes / 2 / len(labels) + 1e-6).all())


def test_split_off_is_drawn_by_the_seed() -> None:
    data = numbered([0, 1] * 50)
    assert ids(data.split_off(20, seed=3)[1]) == ids(data.split_off(20, seed=3)[1])
    assert ids(data.split_off(20, seed=3)[1]) != ids(data.split_off(20, seed=4)[1])
    first_half = [ids(data.split_off(1, seed=seed)[1])[0] < 50 for seed in range(60)]
    assert 15 <= sum(first_half) <= 45  # 30 expected, 15 is almost 4 standard deviations (3.87) away


@pytest.mark.parametrize("n", [0, -1, 10, 11])
def test_split_off_of_too_many(n: int) -> None:
    with pytest.raises(InputError, match=rf"^n: got {n}, wanted between 1 and 9"):
        numbered([0, 1] * 5).split_off(n)


# Loaders


def batches(loader: Any) -> list[list[int]]:
    return [(x[:, 0, 0, 0] * 255).round().int().tolist() for x, _ in loader]


def test_without_a_generator_the_order_is_kept() -> None:
    data = numbered([0, 1] * 5)
    assert batches(data.loader(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches(data.loader(4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(data.loader(4)) == 3


def test_the_order_comes_from_the_generator() -> None:
    data, generator = numbered([0, 1] * 5), seeded(7)
    loader = data.loader(4, generator=generator)
    state = generator.get_state()
    first, second = batches(loader), batches(loader)
    assert [i for batch in first for i in batch] == torch.randperm(10, generator=seeded(7)).tolist()
    assert sorted(i for batch in second for i in batch) == list(range(10))
    assert first != second
    generator.set_state(state)
    assert batches(loader) == first


def test_labels_follow_their_images() -> None:
    data = numbered([0, 1] * 5)
    for x, y in data.loader(3, generator=seeded(1)):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (1, 2, 2)
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long() % 2, y)


@pytest.mark.parametrize("generator", [None, seeded()])
def test_a_loader_leaves_the_global_generator_alone(generator: torch.Generator | None) -> None:
    before = torch.get_rng_state()
    batches(numbered([0, 1] * 5).loader(4, generator=generator))
    assert torch.equal(torch.get_rng_state(), before)


# Augmentations


def test_flip_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]).repeat(6, 1, 1, 1)
    out = random_flip(x, seeded(2))
    coins = (torch.rand(6, generator=seeded(2)) < 0.5).tolist()
    assert set(coins) == {True, False}
    for image, flipped in zip(out, coins, strict=True):
        assert image[0].tolist() == ([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]] if flipped else [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_shift_by_hand() -> None:
    # a picture 1 2 / 3 4 moved by up to one pixel: all nine positions, zeros moving in
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).repeat(300, 1, 1, 1)
    moved = {
        ((0, 0), (0, 1)),  # down and right
        ((0, 0), (1, 2)),  # down
        ((0, 0), (2, 0)),
        ((0, 1), (0, 3)),
        ((1, 2), (3, 4)),  # not at all
        ((2, 0), (4, 0)),
        ((0, 3), (0, 0)),
        ((3, 4), (0, 0)),  # up
        ((4, 0), (0, 0)),
    }
    seen = {tuple(tuple(int(v) for v in row) for row in image[0].tolist()) for image in random_shift(1)(x, seeded())}
    assert seen == moved


def test_shift_moves_all_channels_together_and_each_image_alone() -> None:
    x = torch.rand(40, 1, 5, 6, generator=seeded()).repeat(1, 3, 1, 1)
    out = random_shift(2)(x, seeded(1))
    assert out.shape == x.shape
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])
    assert len({tuple(image.nonzero()[0].tolist()) for image in out}) > 3
    assert torch.equal(random_shift(0)(x, seeded()), x)


def test_augmentations_are_drawn_by_the_generator_and_leave_their_input() -> None:
    x = torch.rand(8, 1, 6, 6, generator=seeded())
    before = x.clone()
    augment = composed(random_flip, random_shift(2))
    assert torch.equal(augment(x, seeded(1)), augment(x, seeded(1)))
    assert not torch.equal(augment(x, seeded(1)), augment(x, seeded(2)))
    assert torch.equal(x, before)


def test_composed_goes_from_left_to_right() -> None:
    def double(x: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * x

    def add(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 1

    one = torch.ones(1)
    assert composed(double, add)(one, seeded()).tolist() == [3.0]
    assert composed(add, double)(one, seeded()).tolist() == [4.0]
    assert composed()(one, seeded()).tolist() == [1.0]


# The guard

READS: list[Callable[[ImageSet], object]] = [
    lambda data: data[0],
    lambda data: data[[0, 1]],
    lambda data: next(iter(data.loader(2))),
    lambda data: next(iter(data.loader(2, generator=seeded()))),
    lambda data: next(iter(DataLoader(data, batch_size=2))),
    lambda data: Subset(data, [1, 2])[0],
    lambda data: ConcatDataset([data, data])[5],
    lambda data: data.take([0, 1])[0],
    lambda data: refuse_test_data(data),
    lambda data: refuse_test_data(data.loader(2)),
    lambda data: refuse_test_data(DataLoader(Subset(data, [0]))),
]


@pytest.mark.parametrize("read", READS)
def test_test_data_cannot_be_read_in_a_fit(read: Callable[[ImageSet], object]) -> None:
    data = numbered([0, 1] * 2, split="test")
    read(data)
    with pytest.raises(SplitError, match=r"^data: got test data inside a fit, wanted training data"), training_only():
        read(data)
    read(data)


@pytest.mark.parametrize("split", ["train", "validation", ""])
@pytest.mark.parametrize("read", READS)
def test_other_data_can(read: Callable[[ImageSet], object], split: str) -> None:
    with training_only():
        read(numbered([0, 1] * 2, split=split))


def test_the_guard_ends_with_its_block_and_can_be_nested() -> None:
    data = numbered([0, 1], split="test")
    with pytest.raises(ZeroDivisionError), training_only():
        raise ZeroDivisionError
    data[0]
    with training_only():
        with training_only():
            pass
        with pytest.raises(SplitError):
            data[0]


def test_what_is_no_data_set_is_let_through() -> None:
    with training_only():
        refuse_test_data(None)
        refuse_test_data([1, 2])
