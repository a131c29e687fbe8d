"""The bundled set is what its README says; standard sets are found where they are, or the error says where to put them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError, MissingError, SplitError
from tutelage.data import fashion_mnist_subset, standard_set, training_only
from tutelage.data.sets import CIFAR10_CLASSES, FASHION_CLASSES, STANDARD, digits

here = pytest.mark.skipif(
    not os.environ.get("TUTELAGE_DATA"), reason="TUTELAGE_DATA is not set: put the standard sets there, see data/sets.py"
)


# The bundled set


def test_the_bundled_file_is_the_one_that_was_built() -> None:
    content = (files("tutelage") / "data" / "bundled" / "fashion_mnist.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "76d227fe11dd10e4978cc53069dcf1b3c271b0247c411b7290fc0b7b0386a4a2"
    assert "The MIT License" in (files("tutelage") / "data" / "bundled" / "README.md").read_text()


@pytest.mark.parametrize(
    ("split", "each", "sha256"),
    [
        ("train", 1000, "bf297a899735f252d30a9984a918de90b8d6113d796953c89dee32f171141576"),
        ("test", 200, "9d7d0969fe9bd8b1adc5bae21230420ad3118b4dfb2e8419ccecd8fea945dc0e"),
    ],
)
def test_bundled_counts_and_hashes(split: Literal["train", "test"], each: int, sha256: str) -> None:
    data = fashion_mnist_subset(split)
    assert data.images.shape == (10 * each, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert data.labels.bincount().tolist() == [each] * 10
    assert data.classes == FASHION_CLASSES
    assert (data.split, data.kind) == (split, "file")
    assert data.sha256 == sha256
    assert "subset" in data.name  # its numbers are not those of the complete set


def test_bundled_pixels() -> None:
    train, test = fashion_mnist_subset("train"), fashion_mnist_subset("test")
    # the official sets begin with these labels, and a class's first samples are all in the subset
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    # the official means are 0.2860 and 0.2868 of full brightness; a tenth or a fifth of the images is close to them
    assert float(train.images.float().mean()) / 255 == pytest.approx(0.2860, abs=0.002)
    assert float(test.images.float().mean()) / 255 == pytest.approx(0.2868, abs=0.004)
    for data in (train, test):
        assert (int(data.images.min()), int(data.images.max())) == (0, 255)
    # the first training image is an ankle boot, toe to the left: nothing above row 3, and most of it in the lower half
    boot = train.images[0, 0].int()
    assert int(boot[:3].sum()) == 0
    assert int(boot[14:].sum()) > int(boot[:14].sum())
    # trousers (class 1) are taller than wide: more columns than rows are empty
    trousers = train.images[train.labels == 1][:, 0].int()
    assert int((trousers.sum(1) == 0).sum()) > 3 * int((trousers.sum(2) == 0).sum())


def test_bundled_splits_share_no_image() -> None:
    train = {image.numpy().tobytes() for image in fashion_mnist_subset("train").images}
    test = {image.numpy().tobytes() for image in fashion_mnist_subset("test").images}
    assert len(train) == 10_000
    assert len(test) == 2_000
    assert not train & test


def test_bundled_test_data_is_guarded() -> None:
    data = fashion_mnist_subset("test")
    with training_only(), pytest.raises(SplitError):
        data[0]


def test_an_unknown_split_of_the_bundled_set() -> None:
    with pytest.raises(InputError, match=r"^split: got validation, wanted train or test"):
        fashion_mnist_subset("validation")  # type: ignore[arg-type]


# Standard sets, in a folder of our own


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    return tmp_path


def put(path: Path, labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image=np.zeros((len(labels), 28, 28), np.uint8), label=np.array(labels, np.uint8))


def test_a_set_is_read_with_its_own_classes(folder: Path) -> None:
    put(folder / "fashion-mnist" / "test.npz", [3, 0])
    data = standard_set("fashion-mnist", "test")
    assert data.classes == FASHION_CLASSES  # all ten, though two are there
    assert (data.name, data.split, len(data)) == ("fashion-mnist", "test", 2)
    assert data.describe()["file"] == "test.npz"
    digest = hashlib.sha256((folder / "fashion-mnist" / "test.npz").read_bytes()).hexdigest()
    assert data.describe()["file_sha256"] == digest
    with training_only(), pytest.raises(SplitError):
        data[0]


def test_a_label_that_the_set_does_not_have(folder: Path) -> None:
    put(folder / "mnist" / "test.npz", [3, 10])
    with pytest.raises(InputError, match=r"^label: got 10, wanted labels below the number of classes, 10"):
        standard_set("mnist-10k", "test")


def test_an_error_names_the_command_that_gets_the_set(folder: Path) -> None:
    for name in ("mnist", "fashion-mnist", "cifar10"):
        with pytest.raises(MissingError, match=rf"put {name} from http.*, or run `tutelage data get {name}`$"):
            standard_set(name, "test")
    for name in ("mnist-10k", "cifar10-jpeg"):  # nobody serves these
        with pytest.raises(MissingError) as error:
            standard_set(name, "test")
        assert "data get" not in str(error.value)


@pytest.mark.parametrize("name", list(STANDARD))
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_that_is_not_there(folder: Path, name: str, split: Literal["train", "test"]) -> None:
    file = STANDARD[name][1][split]
    with pytest.raises(MissingError) as error:
        standard_set(name, split)
    assert f"{folder / file} is not there" in str(error.value)
    assert f"$TUTELAGE_DATA/{file}" in str(error.value)
    assert "http" in str(error.value)


@pytest.mark.parametrize(
    "change", [lambda m: m.delenv("TUTELAGE_DATA", raising=False), lambda m: m.setenv("TUTELAGE_DATA", "")]
)
def test_without_a_folder(monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], Any]) -> None:
    change(monkeypatch)
    with pytest.raises(MissingError, match=r"TUTELAGE_DATA is not set; put mnist-10k from http"):
        standard_set("mnist-10k", "test")


def test_unknown_names_and_splits(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^data: got imagenet, wanted one of fashion-mnist, mnist, mnist-10k, "):
        standard_set("imagenet", "test")
    with pytest.raises(InputError, match=r"^split: got validation, wanted train or test"):
        standard_set("mnist-10k", "validation")  # type: ignore[arg-type]


# Standard sets, as they are


@pytest.mark.data
@here
def test_fashion_mnist_contains_the_bundled_set() -> None:
    whole, part = standard_set("fashion-mnist", "test"), fashion_mnist_subset("test")
    assert whole.labels.bincount().tolist() == [1000] * 10
    keep = torch.cat([(whole.labels == c).nonzero().squeeze(1)[:200] for c in range(10)]).sort().values
    assert torch.equal(whole.images[keep], part.images)
    assert torch.equal(whole.labels[keep], part.labels)


@pytest.mark.data
@here
def test_mnist() -> None:
    test = standard_set("mnist-10k", "test")
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # the official order
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(test.images.float().mean()) / 255 == pytest.approx(0.1325, abs=1e-4)


@pytest.mark.data
@here
def test_names_tell_content_apart() -> None:
    train = standard_set("mnist-10k", "train")
    assert (len(train), train.name) == (10_000, "mnist-10k")
    for name in ("cifar10", "cifar10-jpeg"):  # the copy at hand is decoded JPEG
        assert standard_set(name, "test").name == "CIFAR-10 (JPEG copy)"
    digits = standard_set("mnist", "test")  # all 10,000 of them are there, but not the 60,000
    assert (digits.name, digits.sha256) == ("mnist", standard_set("mnist-10k", "test").sha256)
    with pytest.raises(MissingError, match="tutelage data get mnist`"):
        standard_set("mnist", "train")


@pytest.mark.data
@here
def test_cifar10() -> None:
    test = standard_set("cifar10", "test")
    assert test.images.shape == (10_000, 3, 32, 32)
    assert test.classes == CIFAR10_CLASSES
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # the official order
    assert test.labels.bincount().tolist() == [1000] * 10
    # the official channel means, which a JPEG copy moves little
    means = test.images.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4942, 0.4851, 0.4504]), atol=1e-3, rtol=0)


def test_scikit_learns_digits_are_1797_images_of_16_grey_levels_in_its_order() -> None:
    from sklearn.datasets import load_digits

    found, theirs = digits(), load_digits()
    assert tuple(found.images.shape) == (1797, 1, 8, 8)
    assert torch.equal(found.images[:, 0] * 16, torch.from_numpy(theirs.images).float())
    assert found.labels.tolist() == theirs.target.tolist()
    assert found.split == ""  # no official split: who uses them makes one
