"""Grey digits, coloured by us: each gets a colour and a dark or light background, and a prompt that says so ("7 red dark").

The digits are real (MNIST-10k, or the small ones of scikit-learn), the colours are drawn; results say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import Dataset

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.files import sha256_tensors
from tutelage.core.rng import generator
from tutelage.data.guard import refuse_test_data
from tutelage.data.images import ImageSet, Split
from tutelage.data.sets import DIGITS, digits, standard_set

COLOURS = {"red": (0.9, 0.15, 0.1), "green": (0.1, 0.65, 0.15), "blue": (0.15, 0.25, 0.95)}
BACKGROUNDS = {"dark": 0.05, "light": 0.95}
WORDS = (*DIGITS, *COLOURS, *BACKGROUNDS)
ATTRIBUTES = {"digit": DIGITS, "colour": tuple(COLOURS), "background": tuple(BACKGROUNDS)}
Source = Literal["mnist-10k", "sklearn-digits"]


@dataclass(frozen=True, eq=False)
class ColouredDigits(Dataset[tuple[Tensor, Tensor]]):
    """images (N, 3, H, H) uint8; attributes (N, 3) int64: digit, colour and background by their places in `ATTRIBUTES`.

    Indexing gives (images in [0, 1], attributes). `split` is guarded as that of an ImageSet.
    """

    images: Tensor
    attributes: Tensor
    name: str
    split: Split = ""
    origin: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> tuple[Tensor, Tensor]:
        refuse_test_data(self)
        return self.images[index].float().div(255), self.attributes[index]

    @property
    def prompts(self) -> list[str]:
        """The full prompt of every picture: digit, colour, background."""
        return [prompt_of(row) for row in self.attributes.tolist()]

    def describe(self) -> dict[str, object]:
        """The entry of this set in a result."""
        digest = sha256_tensors({"image": self.images, "attributes": self.attributes})
        about = {"name": self.name, "kind": "file", "split": self.split, "n": len(self), "sha256": digest}
        return about | self.origin | {"colours": "drawn by tutelage.data.coloured_digits, version 1"}


def prompt_of(row: list[int]) -> str:
    """[7, 0, 1] -> "7 red light"."""
    return " ".join(words[place] for words, place in zip(ATTRIBUTES.values(), row, strict=True))


def all_prompts() -> list[str]:
    """The 60 full prompts, digits outermost."""
    return [f"{digit} {colour} {ground}" for digit in DIGITS for colour in COLOURS for ground in BACKGROUNDS]


def coloured(grey: ImageSet, size: int, *, copies: int = 1, seed: int = 0) -> ColouredDigits:
    """Digits (N, 1, H, H), white on black, made smaller and coloured; each `copies` times in colours drawn by `seed`.

    Of 28 x 28 pictures the inner 24 x 24 are kept where `size` is less; smaller ones are means over areas.
    """
    check_integer("size", size)
    check_integer("copies", copies)
    ink = grey.images.float()
    ink = ink / 255 if grey.images.dtype == torch.uint8 else ink
    if ink.shape[-1] == 28 and size < 28:
        ink = ink[..., 2:26, 2:26]
    ink = adaptive_avg_pool2d(ink, size).repeat(copies, 1, 1, 1)
    n = len(ink)
    g = generator(seed, "coloured digits", grey.split)
    drawn = [torch.randint(len(words), (n,), generator=g) for words in (COLOURS, BACKGROUNDS)]
    colour = torch.tensor(list(COLOURS.values()))[drawn[0]][:, :, None, None]
    ground = torch.tensor(list(BACKGROUNDS.values()))[drawn[1]][:, None, None, None]
    images = (ink * colour + (1 - ink) * ground).mul(255).round().to(torch.uint8)
    attributes = torch.stack([grey.labels.repeat(copies), *drawn], 1)
    return ColouredDigits(images, attributes, f"coloured {grey.name}, {size} px", grey.split, dict(grey.origin))


def coloured_digits(
    split: Split, size: int = 12, *, source: Source = "mnist-10k", copies: int = 1, seed: int = 0
) -> ColouredDigits:
    """Coloured digits of one split: train (8,000 of MNIST-10k), validation (its other 2,000), test (MNIST's 10,000).

    source "sklearn-digits": 1,797 digits of 8 x 8, in fifths: three train, one validates, one tests. Raises MissingError
    if MNIST is not at hand.
    """
    check_choice("split", split, ("train", "validation", "test"))
    check_choice("source", source, ("mnist-10k", "sklearn-digits"))
    if source == "sklearn-digits":
        whole = digits()
        fold = torch.arange(len(whole)) % 5
        chosen = fold < 3 if split == "train" else fold == (3 if split == "validation" else 4)
        return coloured(whole.take(chosen.nonzero().squeeze(1), split), size, copies=copies, seed=seed)
    if split == "test":
        return coloured(standard_set("mnist-10k", "test"), size, copies=copies, seed=seed)
    train, validation = standard_set("mnist-10k", "train").split_off(2000)
    return coloured(train if split == "train" else validation, size, copies=copies, seed=seed)
