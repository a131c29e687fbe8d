"""`ImageSet`: labelled images in memory, with a name, a split and a hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import sha256_tensors
from tutelage.core.rng import numpy_generator
from tutelage.data.checks import check_image_arrays
from tutelage.data.guard import refuse_relabelling, refuse_test_data

Split = Literal["train", "validation", "test", ""]


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images (N, C, H, W), uint8 or float32 in [0, 1]; labels (N,) int64 from 0; names of the classes.

    Indexing, by a number or a list, gives (images as float32 in [0, 1], labels). `split` is guarded: a set marked
    "test" cannot be read while something is being fitted. `kind` says where it comes from, as results record it.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "data"
    split: Split = ""
    kind: Literal["file", "generated", "environment"] = "file"
    origin: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        classes: object = self.classes
        if isinstance(classes, str) or not all(isinstance(name, str) for name in self.classes):
            raise InputError("classes", self.classes, "a tuple of class names")
        check_choice("split", self.split, get_args(Split))
        check_image_arrays(self.images, self.labels, len(self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        refuse_test_data(self)
        images = self.images[index]
        return images.float().div(255) if images.dtype == torch.uint8 else images, self.labels[index]

    @cached_property
    def sha256(self) -> str:
        """Hash of images and labels, whatever file they came from."""
        return sha256_tensors({"image": self.images, "label": self.labels})

    def take(self, index: Sequence[int] | Tensor | slice, split: Split | None = None) -> ImageSet:
        """A part of the set, by position."""
        split = self.split if split is None else split
        refuse_relabelling(self.split, split)
        try:
            part = index if isinstance(index, slice) else torch.as_tensor(index)
            images, labels = self.images[part], self.labels[part]
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                "index", index, f"positions from 0 to {len(self) - 1}, or a mask of shape ({len(self)},)"
            ) from error
        return replace(self, images=images, labels=labels, split=split)

    def split_off(self, n: int, *, seed: int = 0, split: Split = "validation") -> tuple[ImageSet, ImageSet]:
        """(the rest, n samples with the class shares of the whole), drawn by `seed`, both in their old order."""
        refuse_relabelling(self.split, split)
        if not isinstance(n, int) or isinstance(n, bool) or not 0 < n < len(self):
            raise InputError("n", n, f"between 1 and {len(self) - 1}, as an integer")
        rng = numpy_generator(seed, "split", self.name)
        order = rng.permutation(len(self))
        labels = self.labels.numpy()[order]
        # rank of each sample within its class, relative to the class size: the lowest ranks are a stratified draw
        rank = np.empty(len(self))
        for c in np.unique(labels):
            mine = np.flatnonzero(labels == c)
            rank[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        chosen = np.zeros(len(self), dtype=bool)
        chosen[order[np.argsort(rank, kind="stable")[:n]]] = True
        mask = torch.from_numpy(chosen)
        return self.take(mask.logical_not().nonzero().squeeze(1)), self.take(mask.nonzero().squeeze(1), split)

    def loader(self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False) -> DataLoader[Any]:
        """Batches (x, y); shuffled by `generator`, or in order without one. Whole batches are sliced at once."""
        check_integer("batch_size", batch_size)
        order: Sampler[int] = SequentialSampler(self) if generator is None else RandomSampler(self, generator=generator)
        batches = BatchSampler(order, batch_size, drop_last)
        # a loader draws a seed for its workers; without a generator of its own it would draw from the global one
        return DataLoader(self, sampler=batches, batch_size=None, generator=torch.Generator())

    def describe(self) -> dict[str, Any]:
        """The entry of this set in a result."""
        return {
            "name": self.name,
            "kind": self.kind,
            "split": self.split,
            "n": len(self),
            "sha256": self.sha256,
            **self.origin,
        }


Augment = Callable[[Tensor, torch.Generator], Tensor]


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (B, C, H, W) left to right with probability 1/2."""
    coin = torch.rand(len(x), generator=generator).to(x.device) < 0.5
    return torch.where(coin[:, None, None, None], x.flip(3), x)


def random_shift(pixels: int, fill: float = 0.0) -> Augment:
    """Move each image by up to `pixels` in both directions, `fill` moving in (a random crop of the padded image)."""
    check_integer("pixels", pixels, low=0)

    def shift(x: Tensor, generator: torch.Generator) -> Tensor:
        b, c, h, w = x.shape
        padded = torch.nn.functional.pad(x, [pixels] * 4, value=fill)
        top, left = torch.randint(0, 2 * pixels + 1, (2, b), generator=generator).to(x.device)
        rows = (top[:, None] + torch.arange(h, device=x.device))[:, None, :, None]
        columns = (left[:, None] + torch.arange(w, device=x.device))[:, None, None, :]
        return padded[
            torch.arange(b, device=x.device)[:, None, None, None],
            torch.arange(c, device=x.device)[None, :, None, None],
            rows,
            columns,
        ]

    return shift


def composed(*augments: Augment) -> Augment:
    """Augmentations one after the other."""

    def run(x: Tensor, generator: torch.Generator) -> Tensor:
        for augment in augments:
            x = augment(x, generator)
        return x

    return run
