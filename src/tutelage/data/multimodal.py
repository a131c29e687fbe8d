"""Labelled sets of several modalities; their batches are `core.modalities.MultiModalBatch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import sha256_tensors, sha256_text
from tutelage.core.modalities import MultiModalBatch, Values, as_batch, check_modalities, labelled, picked
from tutelage.core.rng import numpy_generator
from tutelage.data.guard import refuse_relabelling, refuse_test_data
from tutelage.data.images import Split

__all__ = ["MultiModalBatch", "MultiModalSet", "as_batch", "labelled"]


@dataclass(frozen=True, eq=False)
class MultiModalSet(Dataset[tuple[MultiModalBatch, Tensor]]):
    """Labelled samples of several modalities in memory.

    inputs: name -> (N, ...) floats, or uint8 (divided by 255 when read), or N strings. labels (N,) int64 from 0.
    present, lengths: as in MultiModalBatch. groups: (N,) int64, what belongs together (speaker, patient, document), for
    splits that keep groups whole. Indexing by a list gives (MultiModalBatch, labels); a set marked "test" cannot be read
    while something is being fitted.

    Raises InputError for other shapes, for NaN, for a sample without any modality, and for a modality that no sample has.
    """

    inputs: Mapping[str, Values]
    labels: Tensor
    classes: tuple[str, ...]
    present: Tensor | None = None
    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    name: str = "data"
    split: Split = ""
    kind: Literal["file", "generated", "environment"] = "file"
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        classes: object = self.classes
        if isinstance(classes, str) or not all(isinstance(name, str) for name in self.classes):
            raise InputError("classes", self.classes, "a tuple of class names")
        check_choice("split", self.split, get_args(Split))
        check_modalities(self.inputs, self.present, self.lengths)
        n = len(next(iter(self.inputs.values())))
        if not isinstance(self.labels, Tensor) or self.labels.shape != (n,) or self.labels.dtype != torch.int64:
            got = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}" if isinstance(self.labels, Tensor) else "no tensor"
            raise InputError("labels", got, f"integers of shape ({n},), as int64")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            got = f"labels from {int(self.labels.min())} to {int(self.labels.max())}"
            raise InputError("labels", got, f"labels from 0 to {len(self.classes) - 1}, one for each class name")
        if self.groups is not None and (self.groups.shape != (n,) or self.groups.dtype != torch.int64):
            raise InputError("groups", f"shape {tuple(self.groups.shape)}", f"integers of shape ({n},), as int64")
        for name, value in self.inputs.items():
            has = self._has(name)
            if not bool(has.any()):
                raise InputError("present", f"no sample with {name}", f"at least one sample with {name}, or a set without it")
            if isinstance(value, Tensor) and value.is_floating_point():
                bad = ~torch.isfinite(value.flatten(1)).all(1) & has
                if bool(bad.any()):
                    raise InputError(name, f"NaN or infinity in sample {int(bad.nonzero()[0])}", "finite numbers")
        if self.present is not None and not bool(self.present.any(1).all()):
            row = int((~self.present.any(1)).nonzero()[0])
            raise InputError("present", f"sample {row} without any modality", "at least one modality a sample")

    def _has(self, name: str) -> Tensor:
        if self.present is None:
            return torch.ones(len(self), dtype=torch.bool)
        return self.present[:, self.modalities.index(name)]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> tuple[MultiModalBatch, Tensor]:
        """By a list, a slice or a mask; a single number gives a batch of one."""
        refuse_test_data(self)
        whole = slice(index, index + 1 or None) if isinstance(index, int) else index
        part = whole if isinstance(whole, slice) else torch.as_tensor(whole)
        inputs = {name: _as_float(picked(value, part)) for name, value in self.inputs.items()}
        present = None if self.present is None else self.present[part]
        return MultiModalBatch(inputs, present, {k: v[part] for k, v in self.lengths.items()}), self.labels[part]

    @cached_property
    def sha256(self) -> str:
        """Hash of all inputs, labels, presences and lengths."""
        tensors = {f"input {k}": v for k, v in self.inputs.items() if isinstance(v, Tensor)} | {"label": self.labels}
        tensors |= {} if self.present is None else {"present": self.present.to(torch.uint8)}
        tensors |= {f"length {k}": v for k, v in self.lengths.items()}
        strings = [f"{k}\0{text}\n" for k, v in self.inputs.items() if not isinstance(v, Tensor) for text in v]
        found = sha256_tensors(tensors)
        return sha256_text(found + "".join(strings)) if strings else found

    def take(self, index: Sequence[int] | Tensor | slice, split: Split | None = None) -> MultiModalSet:
        """A part of the set, by position or mask."""
        split = self.split if split is None else split
        refuse_relabelling(self.split, split)
        part = index if isinstance(index, slice) else torch.as_tensor(index)
        return replace(
            self,
            inputs={name: picked(value, part) for name, value in self.inputs.items()},
            labels=self.labels[part],
            present=None if self.present is None else self.present[part],
            lengths={name: value[part] for name, value in self.lengths.items()},
            groups=None if self.groups is None else self.groups[part],
            split=split,
        )

    def with_presence(self, present: Tensor | None) -> MultiModalSet:
        """The same samples with other modalities marked as present, (N, M) bool; what was absent stays absent."""
        if present is not None and self.present is not None:
            present = present & self.present
        return replace(self, present=self.present if present is None else present)

    def split_off(self, n: int, *, seed: int = 0, split: Split = "validation") -> tuple[MultiModalSet, MultiModalSet]:
        """(the rest, n samples drawn by `seed`), both in their old order."""
        refuse_relabelling(self.split, split)
        check_integer("n", n, low=1, high=len(self) - 1)
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[torch.from_numpy(numpy_generator(seed, "split", self.name).permutation(len(self))[:n].copy())] = True
        return self.take(~chosen), self.take(chosen, split)

    def loader(self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False) -> DataLoader[Any]:
        """Batches (MultiModalBatch, y); shuffled by `generator`, or in order without one. Whole batches are sliced at once."""
        check_integer("batch_size", batch_size)
        order: Sampler[int] = SequentialSampler(self) if generator is None else RandomSampler(self, generator=generator)
        return DataLoader(
            self, sampler=BatchSampler(order, batch_size, drop_last), batch_size=None, generator=torch.Generator()
        )

    def describe(self) -> dict[str, Any]:
        """The entry of this set in a result."""
        found = {"name": self.name, "kind": self.kind, "split": self.split, "n": len(self), "sha256": self.sha256}
        return {**found, "modalities": ", ".join(self.modalities), **self.origin}


def _as_float(value: Values) -> Values:
    return value.float().div(255) if isinstance(value, Tensor) and value.dtype == torch.uint8 else value
