"""Pictures taken apart: an object, its mask, and what is behind it. From cut-outs with alpha, or from images with masks.

Example::

    import torch
    from tutelage.data.cutouts import CutoutSet
    from tutelage.data.emoji import emoji

    drawings = emoji(styles="noto", split="test", groups=("animals-nature", "food-drink"))
    labels, classes = drawings.labels()
    meadow = torch.tensor([0.5, 0.7, 0.4])[:, None, None].expand(3, 32, 32)
    pictures = CutoutSet.on(drawings.images, meadow, labels, classes, name="emoji on green", split="test")
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_tensors
from tutelage.data.checks import check_image_arrays
from tutelage.data.guard import refuse_relabelling, refuse_test_data
from tutelage.data.images import ImageSet, Split
from tutelage.data.readers import reason_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
MAX_PIXELS = 2**26  # of one image
HALF = 128  # grey level from which a mask says "object"


@dataclass(frozen=True)
class Scene:
    """B pictures taken apart. object (B, C, H, W): the object's colours times alpha; alpha (B, 1, H, W): how much of a pixel it
    covers; background (B, C, H, W): what is behind it, also where it hides it. All float32 in [0, 1].
    """

    object: Tensor
    alpha: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def image(self) -> Tensor:
        """The pictures put together: object + (1 - alpha) background."""
        return (self.object + (1 - self.alpha) * self.background).clamp_(0, 1)

    @property
    def rate(self) -> Tensor:
        """The share of the frame that each object covers, (B,)."""
        return self.alpha.flatten(1).mean(1)

    def with_background(self, background: Tensor) -> Scene:
        return replace(self, background=background)


@dataclass(frozen=True, eq=False)
class CutoutSet:
    """N objects with exact masks, each before a background of its own.

    colours (N, C, H, W): of the objects, not multiplied by alpha; alpha (N, 1, H, W); backgrounds (N, C, H, W) or (1, C, H, W)
    for all; each uint8 (divided by 255) or float32 in [0, 1], C = 1 or 3. labels (N,) int64 from 0. Test data are guarded as
    those of an ImageSet are. Raises InputError for other shapes and ranges, and for a mask without an object (with its index).
    """

    colours: Tensor
    alpha: Tensor
    backgrounds: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "cut-outs"
    split: Split = ""
    kind: Literal["file", "generated", "environment"] = "file"
    origin: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ImageSet(self.colours, self.labels, self.classes, split=self.split)  # raises InputError
        n, _, h, w = self.colours.shape
        check_image_arrays(self.backgrounds, self.labels[:1].expand(len(self.backgrounds)), None)
        if tuple(self.backgrounds.shape) not in ((n, *self.colours.shape[1:]), (1, *self.colours.shape[1:])):
            wanted = f"{(n, *self.colours.shape[1:])}, as the objects, or one for all"
            raise InputError("backgrounds", f"shape {tuple(self.backgrounds.shape)}", wanted)
        if not isinstance(self.alpha, Tensor) or self.alpha.shape != (n, 1, h, w):
            got = f"shape {tuple(self.alpha.shape)}" if isinstance(self.alpha, Tensor) else type(self.alpha).__name__
            raise InputError("alpha", got, f"a tensor of shape {(n, 1, h, w)}, one mask an image")
        if self.alpha.dtype not in (torch.uint8, torch.float32):
            raise InputError("alpha", f"dtype {self.alpha.dtype}", "uint8, or float32 in [0, 1]")
        low, high = float(self.alpha.min()), float(self.alpha.max())
        if self.alpha.dtype == torch.float32 and not (low >= 0 and high <= 1):
            raise InputError("alpha", f"values from {low:.4g} to {high:.4g}", "values in [0, 1]: 1 where the object is")
        if bool((empty := self.alpha.flatten(1).amax(1) == 0).any()):
            raise InputError("alpha", f"an empty mask at index {int(empty.nonzero()[0])}", "an object in every mask")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> tuple[Scene, Tensor]:
        """(pictures taken apart, labels) at some positions."""
        refuse_test_data(self)
        alpha = _unit(self.alpha[index])
        behind = self.backgrounds.expand(len(self), -1, -1, -1) if len(self.backgrounds) == 1 else self.backgrounds
        return Scene(_unit(self.colours[index]) * alpha, alpha, _unit(behind[index])), self.labels[index]

    @classmethod
    def on(cls, cutouts: Tensor, background: Tensor, labels: Tensor, classes: Sequence[str], **about: Any) -> CutoutSet:
        """Cut-outs (N, 4, H, W), RGB and straight alpha, before a colour (3,), an image (3, H, W) or one each (N, 3, H, W).

        All uint8, or floats in [0, 1].
        """
        if not isinstance(cutouts, Tensor) or cutouts.dim() != 4 or cutouts.shape[1] != 4:
            got = f"shape {tuple(cutouts.shape)}" if isinstance(cutouts, Tensor) else type(cutouts).__name__
            raise InputError("cutouts", got, "images with alpha (N, 4, H, W)")
        if not isinstance(background, Tensor) or background.dim() not in (1, 3, 4):
            raise InputError("background", type(background).__name__, "a tensor (3,), (3, H, W) or (N, 3, H, W)")
        behind = background.reshape(1, -1, 1, 1).expand(1, -1, *cutouts.shape[2:]) if background.dim() == 1 else background
        behind = behind[None] if behind.dim() == 3 else behind
        return cls(cutouts[:, :3], cutouts[:, 3:], behind, labels, tuple(classes), **about)

    @classmethod
    def of(cls, images: ImageSet, masks: Tensor, background: Tensor | None = None) -> CutoutSet:
        """Images with masks (N, 1, H, W), bool or in [0, 1], 1 where the object is.

        What the object hides is not known: `filled` paints it from around, or give `background` (N, C, H, W) yourself.
        Outside the masks the background is the image, so that an object that is not moved gives the image back bit for bit.
        """
        x = _unit(images.images)
        if not isinstance(masks, Tensor) or masks.shape != (len(x), 1, *x.shape[2:]):
            got = f"shape {tuple(masks.shape)}" if isinstance(masks, Tensor) else type(masks).__name__
            raise InputError("masks", got, f"one mask an image, {(len(x), 1, *x.shape[2:])}")
        alpha = masks.float()
        behind = filled(x, alpha) if background is None else _unit(background)
        about = {"name": images.name, "split": images.split, "kind": images.kind, "origin": images.origin}
        return cls(x, alpha, behind, images.labels, images.classes, **about)  # type: ignore[arg-type]

    def take(self, index: Sequence[int] | Tensor | slice, split: Split | None = None) -> CutoutSet:
        """A part of the set, by position or mask."""
        split = self.split if split is None else split
        refuse_relabelling(self.split, split)
        try:
            part = index if isinstance(index, slice) else torch.as_tensor(index)
            fields = {key: getattr(self, key)[part] for key in ("colours", "alpha", "labels")}
            behind = self.backgrounds if len(self.backgrounds) == 1 else self.backgrounds[part]
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError("index", index, f"positions from 0 to {len(self) - 1}, or a mask ({len(self)},)") from error
        return replace(self, **fields, backgrounds=behind, split=split)

    @property
    def images(self) -> ImageSet:
        """The pictures put together, rounded to 8 bits."""
        parts = [eight_bits(self[index][0].image) for index in torch.split(torch.arange(len(self)), 512)]
        return ImageSet(torch.cat(parts), self.labels, self.classes, self.name, self.split, self.kind, dict(self.origin))

    @property
    def sha256(self) -> str:
        """Hash of objects, masks, backgrounds and labels."""
        parts = {"colours": self.colours, "alpha": self.alpha, "backgrounds": self.backgrounds, "label": self.labels}
        return sha256_tensors(parts)

    def describe(self) -> dict[str, Any]:
        """The entry of this set in a result."""
        about = {"name": self.name, "kind": self.kind, "split": self.split, "n": len(self), "sha256": self.sha256}
        return {**about, **self.origin}


def eight_bits(x: Tensor) -> Tensor:
    """Floats in [0, 1] -> uint8, rounded to the nearest of 256 levels."""
    return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


def filled(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, C, H, W) with its object (mask (B, 1, H, W), 1 where it is) painted over from around: push-pull.

    Averages of the known pixels are taken at half, a quarter ... of the resolution until nothing is unknown, and come back
    down into the holes, smoothly. A picture without any known pixel becomes grey. Known pixels (mask 0) are kept bit for bit.
    Use a learned inpainting model where the hole should not be smooth.
    """
    known = (1 - mask).expand_as(x)
    levels = [(x * known, known)]
    while min(levels[-1][0].shape[2:]) > 1 or max(levels[-1][0].shape[2:]) > 1:
        colour, weight = (F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in levels[-1])
        # what is known at all is known fully at the next level: far holes take from near ones, not from the whole picture
        full = weight.clamp(max=0.25) * 4
        levels.append((colour * torch.where(weight > 0, full / weight.clamp_min(1e-12), 0), full))
    colour, weight = levels[-1]
    below = torch.where(weight > 0, colour / weight.clamp_min(1e-12), 0.5)
    for colour, weight in reversed(levels[:-1]):
        below = F.interpolate(below, size=colour.shape[2:], mode="bilinear", align_corners=False)
        below = colour + (1 - weight) * below
    return torch.where(mask == 0, x, below.clamp(0, 1))


def largest_object(masks: Tensor) -> Tensor:
    """Masks (B, 1, H, W) cut to the box of their largest connected part (8 neighbours, alpha > 0), as the paper does."""
    kept = torch.zeros_like(masks)
    for i, mask in enumerate(masks[:, 0]):
        labels, n = ndimage.label((mask > 0).numpy(), structure=np.ones((3, 3)))
        if n:
            largest = 1 + int(np.argmax(ndimage.sum_labels(labels > 0, labels, range(1, n + 1))))
            box = ndimage.find_objects(labels)[largest - 1]
            kept[i, 0][box] = mask[box]
    return kept


def read_cutouts(path: Path | str, background: Tensor, *, size: int | None = None, split: Split = "") -> CutoutSet:
    """A folder of class folders of images with alpha (RGBA PNG or WebP), files in sorted order, before `background` (see `on`).

    size: every image is resized to size x size; without it all must have one size. Raises InputError for an image
    without alpha, MissingError for a folder that is not there.
    """
    root, files, labels, classes = _listed(path)
    pictures = [_opened(file, size, alpha=True) for file in files]
    cutouts = torch.stack(_same_size(pictures, files))
    return CutoutSet.on(cutouts, background, labels, classes, name=root.name, split=split)


def read_masked(
    images: Path | str, masks: Path | str, *, size: int | None = None, largest: bool = True, split: Split = ""
) -> CutoutSet:
    """Two folders of class folders: images, and masks of the same names (any suffix).

    A mask is 0 where there is no object; from 128 on, or, if none of its values is above 1, at 1, there is one. largest:
    keep only what lies in the box of the largest connected part (as the paper does). size: images (antialiased) and masks
    (nearest) are resized to size x size. What an object hides is painted over by `filled`.
    """
    root, files, labels, classes = _listed(images)
    pictures = torch.stack(_same_size([_opened(file, size, alpha=False) for file in files], files))
    folder = Path(masks)
    if not folder.is_dir():
        raise MissingError(f"masks: there is no folder {folder}")
    found = torch.stack([_mask(folder, file, size, (pictures.shape[2], pictures.shape[3])) for file in files])
    alpha = largest_object(found) if largest else found
    return CutoutSet.of(ImageSet(pictures, labels, tuple(classes), root.name, split), alpha)


def _listed(path: Path | str) -> tuple[Path, list[Path], Tensor, list[str]]:
    if not isinstance(path, str | Path):
        raise InputError("path", type(path).__name__, "a folder of class folders")
    root = Path(path)
    if not root.is_dir():
        raise MissingError(f"data: there is no folder {root}")
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        mine = sorted(p for p in (root / name).iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        files += mine
        labels += [label] * len(mine)
    if not files:
        raise InputError("path", str(root), "a folder with one sub-folder of images a class")
    return root, files, torch.tensor(labels), classes


def _opened(file: Path, size: int | None, *, alpha: bool) -> Tensor:
    """(4 or 3, H, W) uint8. Resized with the colours multiplied by alpha, so that invisible colours do not bleed in."""
    image = _image(file)
    if alpha and not image.has_transparency_data:
        raise InputError("data", f"{file.parent.name}/{file.name} without alpha", "a cut-out with an alpha channel")
    image = image.convert("RGBA" if alpha else "RGB")
    if size is not None:
        check_integer("size", size, high=4096)
        if alpha:
            image = image.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")
        else:
            image = image.resize((size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def _mask(folder: Path, image: Path, size: int | None, shape: tuple[int, int]) -> Tensor:
    """(1, H, W) float32 of 0 and 1."""
    places = [folder / image.parent.name / f"{image.stem}{suffix}" for suffix in SUFFIXES]
    place = next((one for one in places if one.is_file()), None)
    if place is None:
        raise MissingError(f"masks: there is no mask {image.parent.name}/{image.stem}.png in {folder}")
    grey = _image(place)
    grey = grey if grey.mode in ("L", "P", "1", "I;16") else grey.convert("RGB")
    values = np.asarray(grey.resize((size, size), Image.Resampling.NEAREST) if size is not None else grey)
    values = values.max(2) if values.ndim == 3 else values
    if values.shape != shape:
        raise InputError("masks", f"{place.name} of {values.shape}", f"the size of its image, {shape}")
    inside = values.astype(np.int64) >= (1 if int(values.max()) <= 1 else HALF)
    if not inside.any():
        raise InputError("masks", f"an empty mask {image.parent.name}/{place.name}", "an object in every mask")
    return torch.from_numpy(inside).float()[None]


def _image(file: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(file.read_bytes())) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InputError("data", f"{file.name} of {opened.width} x {opened.height}", f"at most {MAX_PIXELS:,} pixels")
            return ImageOps.exif_transpose(opened)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
        raise InputError(
            "data", f"{file.parent.name}/{file.name}", f"an image that Pillow can read ({reason_of(error)})"
        ) from error


def _same_size(pictures: list[Tensor], files: list[Path]) -> list[Tensor]:
    for picture, file in zip(pictures, files, strict=True):
        if picture.shape != pictures[0].shape:
            got = f"{file.name} of {tuple(picture.shape[1:])}"
            raise InputError("data", got, f"one size, {tuple(pictures[0].shape[1:])}, or size=N")
    return pictures


def _unit(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x
