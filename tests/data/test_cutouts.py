"""Pictures taken apart: values by hand, bit-exact put together, the readers, the refusals, the split guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tutelage.core.errors import InputError, MissingError, SplitError
from tutelage.data.cutouts import CutoutSet, eight_bits, filled, largest_object, read_cutouts, read_masked
from tutelage.data.emoji import emoji
from tutelage.data.guard import training_only
from tutelage.data.images import ImageSet
from tutelage.data.photographs import photo_crops, sample_photograph


def images(n: int = 4, size: int = 8, split: Any = "") -> ImageSet:
    x = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return ImageSet(eight_bits(x), torch.arange(n) % 2, ("a", "b"), split=split)


def squares(n: int = 4, size: int = 8) -> Tensor:
    mask = torch.zeros(n, 1, size, size)
    mask[:, :, 2:5, 3:7] = 1
    return mask


def test_put_together_by_hand() -> None:
    # a colour of (0.2, 0.4, 1) with alpha 0, 0.2 and 1 before a background of 0.5
    cutouts = torch.zeros(3, 4, 1, 1)
    cutouts[:, :3] = torch.tensor([0.2, 0.4, 1.0])[:, None, None]
    cutouts[:, 3] = torch.tensor([0.0, 0.2, 1.0])[:, None, None]
    data = CutoutSet.on(cutouts[1:], torch.full((3,), 0.5), torch.tensor([0, 1]), ("a", "b"))
    scene, labels = data[[0, 1]]
    torch.testing.assert_close(scene.image[0, :, 0, 0], torch.tensor([0.44, 0.48, 0.6]))  # 0.2 colour + 0.8 * 0.5
    assert torch.equal(scene.image[1, :, 0, 0], cutouts[2, :3, 0, 0])
    torch.testing.assert_close(scene.rate, torch.tensor([0.2, 1.0]))
    assert labels.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"^alpha: got an empty mask at index 0, wanted an object in every mask"):
        CutoutSet.on(cutouts, torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64), ("a", "b"))


def test_an_image_with_a_mask_comes_back_bit_for_bit() -> None:
    data = images()
    apart = CutoutSet.of(data, squares())
    assert torch.equal(apart[[0, 1, 2, 3]][0].image, data[[0, 1, 2, 3]][0])
    assert torch.equal(apart.images.images, data.images)
    # the background is the image where the object is not, and something else where it is
    outside = (squares() == 0).expand(-1, 3, -1, -1)
    assert torch.equal(apart.backgrounds[outside], data[[0, 1, 2, 3]][0][outside])


def test_emoji_come_back_as_their_own_compositing_has_them() -> None:
    drawings = emoji(styles="noto", split="validation", groups="food-drink")
    labels, classes = drawings.labels()
    white = torch.ones(3)
    apart = CutoutSet.on(drawings.images, white * 1.0, labels, classes)
    torch.testing.assert_close(apart[slice(None)][0].image, drawings.on("white").images, atol=1e-6, rtol=0)


def test_filling_a_hole() -> None:
    flat = torch.full((1, 3, 16, 16), 0.3)
    hole = torch.zeros(1, 1, 16, 16)
    hole[:, :, 4:12, 5:11] = 1
    damaged = torch.where(hole > 0, 1.0, flat)
    torch.testing.assert_close(filled(damaged, hole), flat)  # one colour around: one colour inside
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    smooth = filled(torch.where(hole > 0, 0.0, ramp), hole)
    assert float((smooth - ramp).abs().max()) < 0.25  # without the hole's black, which is up to 0.67 away
    assert torch.equal(smooth[(hole == 0).expand(-1, 3, -1, -1)], ramp[(hole == 0).expand(-1, 3, -1, -1)])
    torch.testing.assert_close(filled(flat, torch.ones_like(hole)), torch.full_like(flat, 0.5))  # nothing known
    odd = filled(torch.rand(2, 3, 7, 5), torch.ones(2, 1, 7, 5).index_fill(3, torch.tensor([0]), 0))
    assert bool(torch.isfinite(odd).all())
    assert odd.shape == (2, 3, 7, 5)


def test_the_largest_object_by_hand() -> None:
    mask = torch.zeros(2, 1, 6, 8)
    mask[0, 0, 0:2, 0:2] = 1  # 4 pixels
    mask[0, 0, 3:6, 3:7] = 0.5  # 12 pixels: larger, though of lower sum than 12
    mask[0, 0, 3, 4] = 0
    kept = largest_object(mask)
    assert torch.equal(kept[0, 0, 3:6, 3:7], mask[0, 0, 3:6, 3:7])
    assert float(kept[0, 0, :3].sum()) == 0
    assert float(kept[1].sum()) == 0


def test_test_pictures_are_guarded() -> None:
    apart = CutoutSet.of(images(split="test"), squares())
    assert apart.split == "test"
    assert apart.images.split == "test"
    with training_only():
        with pytest.raises(SplitError):
            apart[[0]]
        with pytest.raises(SplitError):
            apart.take([0], "train")


def test_take_and_hash() -> None:
    apart = CutoutSet.of(images(), squares())
    part = apart.take([2, 0])
    assert part.labels.tolist() == [0, 0]
    assert torch.equal(part[[0]][0].image, apart[[2]][0].image)
    assert part.sha256 != apart.sha256
    assert apart.take(slice(None)).sha256 == apart.sha256
    with pytest.raises(InputError, match=r"^index"):
        apart.take([9])
    one = CutoutSet.on(torch.rand(2, 4, 4, 4), torch.rand(3, 4, 4), torch.tensor([0, 1]), ("a", "b")).take([1])
    assert len(one.backgrounds) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": torch.ones(4, 1, 8, 7)}, r"^alpha: got shape \(4, 1, 8, 7\), wanted .*\(4, 1, 8, 8\)"),
        ({"alpha": torch.ones(4, 1, 8, 8) * 2}, r"^alpha: got values from 2 to 2, wanted values in \[0, 1\]"),
        ({"alpha": torch.ones(4, 1, 8, 8).long()}, r"^alpha: got dtype torch.int64"),
        ({"backgrounds": torch.rand(3, 3, 8, 8)}, r"^backgrounds: got shape \(3, 3, 8, 8\)"),
        ({"backgrounds": torch.rand(4, 1, 8, 8)}, r"^backgrounds: got shape"),
        ({"classes": "ab"}, r"^classes: got ab, wanted a tuple"),
        ({"labels": torch.tensor([0, 1, 2, 5])}, r"^label: got 5"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "colours": torch.rand(4, 3, 8, 8), "alpha": squares(), "backgrounds": torch.rand(4, 3, 8, 8),
        "labels": torch.tensor([0, 1, 0, 1]), "classes": ("a", "b"),
    }  # fmt: skip
    CutoutSet(**good)
    with pytest.raises(InputError, match=message):
        CutoutSet(**{**good, **change})


# Readers


def write(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def test_a_folder_of_cutouts(tmp_path: Path) -> None:
    drawings = emoji(styles="noto", split="test", groups=("food-drink", "activities")).take([0, 1, 2])
    names = [drawings.groups[i] for i in drawings.labels()[0].tolist()]
    for i, (picture, name) in enumerate(zip(drawings.images, names, strict=True)):
        write(tmp_path / "set" / name / f"{i}.png", picture.permute(1, 2, 0).numpy())
    (tmp_path / "set" / names[0] / ".hidden.png").write_bytes(b"")
    data = read_cutouts(tmp_path / "set", torch.tensor([1.0, 1.0, 1.0]), split="test")
    assert len(data) == 3
    assert data.split == "test"
    assert torch.equal(data.alpha, drawings.images[:, 3:])
    assert torch.equal(data.colours, drawings.images[:, :3])
    small = read_cutouts(tmp_path / "set", torch.full((3,), 0.5), size=16)
    assert small.colours.shape == (3, 3, 16, 16)
    # invisible black does not darken the edges: where alpha is low, colours are still those of the drawing
    assert float(small.alpha.float().mean()) == pytest.approx(float(data.alpha.float().mean()), abs=2.0)
    write(tmp_path / "set" / names[0] / "9.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"9.png without alpha"):
        read_cutouts(tmp_path / "set", torch.ones(3))
    with pytest.raises(MissingError):
        read_cutouts(tmp_path / "nowhere", torch.ones(3))


@pytest.mark.parametrize("value", [1, 255])
def test_images_with_masks(tmp_path: Path, value: int) -> None:
    picture = images(1, 12).images[0].permute(1, 2, 0).numpy()
    mask = np.zeros((12, 12), np.uint8)
    mask[0, 0] = value  # a speck, another object
    mask[4:9, 3:8] = value
    write(tmp_path / "x" / "cat" / "one.png", picture)
    write(tmp_path / "m" / "cat" / "one.png", mask)
    data = read_masked(tmp_path / "x", tmp_path / "m")
    assert int(data.alpha.sum()) == 25  # without the speck
    assert int(read_masked(tmp_path / "x", tmp_path / "m", largest=False).alpha.sum()) == 26
    assert torch.equal(data.images.images[0].permute(1, 2, 0), torch.from_numpy(picture))
    assert read_masked(tmp_path / "x", tmp_path / "m", size=6).colours.shape == (1, 3, 6, 6)
    write(tmp_path / "x" / "cat" / "two.png", picture)
    with pytest.raises(MissingError, match=r"there is no mask cat/two.png"):
        read_masked(tmp_path / "x", tmp_path / "m")
    write(tmp_path / "m" / "cat" / "two.png", np.zeros((12, 12), np.uint8))
    with pytest.raises(InputError, match=r"an empty mask cat/two.png"):
        read_masked(tmp_path / "x", tmp_path / "m")
    write(tmp_path / "m" / "cat" / "two.png", np.full((5, 12), 255, np.uint8))
    with pytest.raises(InputError, match=r"two.png of \(5, 12\), wanted the size of its image, \(12, 12\)"):
        read_masked(tmp_path / "x", tmp_path / "m")


# Photographs


def test_crops_of_photographs() -> None:
    photo = sample_photograph("china")
    assert photo.shape == (3, 427, 640)
    photo.zero_()
    assert int(sample_photograph("china").max()) > 0  # what one caller changes stays with him
    crops = photo_crops([sample_photograph("china"), torch.full((3, 20, 30), 7, dtype=torch.uint8)], 6, 24, seed=1)
    assert crops.shape == (6, 3, 24, 24)
    assert torch.equal(
        crops, photo_crops([sample_photograph("china"), torch.full((3, 20, 30), 7, dtype=torch.uint8)], 6, 24, seed=1)
    )
    assert int((crops == 7).flatten(1).all(1).sum()) == 3  # each photograph as often as the other; a small one is enlarged
    with pytest.raises(InputError, match=r"^photographs: got none"):
        photo_crops([], 1, 8, seed=0)
    with pytest.raises(InputError, match=r"^photographs"):
        photo_crops([torch.rand(3, 8, 8)], 1, 8, seed=0)
    with pytest.raises(InputError, match=r"^name: got sky"):
        sample_photograph("sky")  # type: ignore[arg-type]
