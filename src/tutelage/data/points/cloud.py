"""`PointSet`: labelled point clouds in memory, with a mask, a name, a split and a hash; and what is done to clouds first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import sha256_tensors
from tutelage.core.rng import numpy_generator
from tutelage.data.guard import refuse_relabelling, refuse_test_data
from tutelage.data.points.checks import check_cloud

Split = Literal["train", "validation", "test", ""]


@dataclass(frozen=True, eq=False)
class PointSet(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """M labelled clouds in memory.

    points: (M, N, 3) float32, in metres or, after `normalised`, in the unit sphere. labels: (M,) int64 from 0. mask: (M, N)
    bool, True where a point is real; None: all are. groups: (M,) int64, which clouds are of one shape or one scene, so that
    splits keep them together. Indexing by a list gives (points, mask, labels), a batch; a set marked "test" cannot be read
    while something is being fitted. Raises InputError for what `check_cloud` refuses and for labels that do not fit.
    """

    points: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mask: Tensor | None = None
    groups: Tensor | None = None
    name: str = "point clouds"
    split: Split = ""
    kind: Literal["file", "generated", "environment"] = "file"
    origin: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        classes: object = self.classes
        if isinstance(classes, str) or not all(isinstance(name, str) for name in self.classes):
            raise InputError("classes", self.classes, "a tuple of class names")
        check_choice("split", self.split, get_args(Split))
        check_cloud(self.points, self.mask)
        n = len(self.points)
        for name, value in (("labels", self.labels), ("groups", self.groups)):
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (n,):
                got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise InputError(name, got, f"integers of shape ({n},), as int64")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            got = f"labels from {int(self.labels.min())} to {int(self.labels.max())}"
            raise InputError("labels", got, f"labels from 0 to {len(self.classes) - 1}, one for each class name")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By a list, a slice or a mask; a single number gives a batch of one."""
        refuse_test_data(self)
        part = slice(index, index + 1 or None) if isinstance(index, int) else index
        points = self.points[part]
        mask = torch.ones(points.shape[:2], dtype=torch.bool) if self.mask is None else self.mask[part]
        return points, mask, self.labels[part]

    @cached_property
    def sha256(self) -> str:
        """Hash of points, masks and labels."""
        tensors = {"points": self.points.contiguous(), "labels": self.labels}
        return sha256_tensors(tensors if self.mask is None else {**tensors, "mask": self.mask.to(torch.uint8)})

    def take(self, index: Sequence[int] | Tensor | slice, split: Split | None = None) -> PointSet:
        """A part of the set, by position or mask."""
        split = self.split if split is None else split
        refuse_relabelling(self.split, split)
        part = index if isinstance(index, slice) else torch.as_tensor(index)
        return replace(
            self,
            points=self.points[part],
            labels=self.labels[part],
            mask=None if self.mask is None else self.mask[part],
            groups=None if self.groups is None else self.groups[part],
            split=split,
        )

    def split_off(self, share: float, *, seed: int = 0, split: Split = "validation") -> tuple[PointSet, PointSet]:
        """(the rest, about `share` of each class), both in their old order; what is of one group stays together."""
        refuse_relabelling(self.split, split)
        if not 0 < share < 1:
            raise InputError("share", share, "a number between 0 and 1")
        groups = torch.arange(len(self)) if self.groups is None else self.groups
        chosen = torch.zeros(len(self), dtype=torch.bool)
        rng = numpy_generator(seed, "split", self.name)
        for c in range(len(self.classes)):
            # a group is of the class of its first cloud
            own = torch.tensor([g for g in sorted(set(groups.tolist())) if int(self.labels[groups == g][0]) == c])
            if len(own) > 1:
                n = min(len(own) - 1, max(1, round(share * len(own))))
                chosen |= torch.isin(groups, own[torch.from_numpy(rng.permutation(len(own))[:n].copy())])
        if not bool(chosen.any()):
            raise InputError("share", share, "a share that takes at least one group; the classes are too small")
        return self.take(~chosen), self.take(chosen, split)

    def loader(self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False) -> DataLoader[Any]:
        """Batches (points, mask, labels); shuffled by `generator`, or in order without one."""
        check_integer("batch_size", batch_size)
        order: Sampler[int] = SequentialSampler(self) if generator is None else RandomSampler(self, generator=generator)
        batches = BatchSampler(order, batch_size, drop_last)
        return DataLoader(self, sampler=batches, batch_size=None, generator=torch.Generator())

    def describe(self) -> dict[str, Any]:
        """The entry of this set in a result."""
        found = {"name": self.name, "kind": self.kind, "split": self.split, "n": len(self), "sha256": self.sha256}
        return {**found, **self.origin}


def normalised(points: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, N, 3) -> the same clouds, centred on the mean of their real points, the farthest of these at distance 1.

    Padding goes to the centre. Do this before a corruption: an outlier would shrink the object.
    """
    points, mask = check_cloud(points, mask)
    weight = mask[..., None].to(points.dtype)
    centred = (points - (points * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)) * weight
    farthest = centred.norm(dim=2).amax(1).clamp(min=torch.finfo(points.dtype).tiny)
    found: Tensor = centred / farthest[:, None, None]
    return found


def random_turn(points: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each cloud (B, N, 3) about the vertical (z) axis by an angle of its own, uniform in the whole circle."""
    angle = torch.rand(len(points), generator=generator).to(points.device, points.dtype) * (2 * torch.pi)
    return turned(points, angle)


def turned(points: Tensor, angle: Tensor) -> Tensor:
    """Clouds (B, N, 3) turned about the z axis by angles (B,) in radians."""
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = points.unbind(2)
    return torch.stack((c * x - s * y, s * x + c * y, z), 2)


def thinned(points: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n points of each cloud (B, N, 3), drawn without replacement, other ones of each: (B, n, 3). InputError if n > N."""
    check_integer("n", n, low=1, high=points.shape[1])
    order = torch.rand(points.shape[:2], generator=generator).argsort(1)[:, :n].to(points.device)
    return points.gather(1, order[..., None].expand(-1, -1, 3))


def padded(clouds: Sequence[Tensor], n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clouds (n_i, 3) of any size as one batch: (points (B, n, 3), mask (B, n)); larger ones are thinned, smaller ones padded.

    Padding is zeros that the mask marks as not real. Raises InputError for no clouds and for an empty one.
    """
    if not clouds:
        raise InputError("clouds", "no clouds", "at least one")
    points, mask = torch.zeros(len(clouds), n, 3), torch.zeros(len(clouds), n, dtype=torch.bool)
    for i, cloud in enumerate(clouds):
        if len(cloud) == 0:
            raise InputError("clouds", f"cloud {i}, which is empty", "at least one point a cloud")
        kept = cloud if len(cloud) <= n else cloud[torch.randperm(len(cloud), generator=generator)[:n].sort().values]
        points[i, : len(kept)], mask[i, : len(kept)] = kept, True
    return points, mask
