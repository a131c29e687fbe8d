"""Batches of several modalities: named inputs, which of them each sample has, and how long they are.

One form for all methods that fuse senses. A modality is a tensor (B, ...) or, for text as people write it, a tuple of B
strings. What a sample does not have is marked in `present`; what stands in the tensor at that place is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tutelage.core.errors import InputError

Values = Tensor | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MultiModalBatch:
    """B samples of M modalities.

    inputs: name -> (B, ...) or B strings; the order of the names is the order of the modalities everywhere. A name may be
    missing altogether. present: (B, M) bool, columns in the order of `inputs`; None: every sample has all of them.
    lengths: name -> (B,) int64, how many steps along the first axis after B are real; the rest is padding.
    """

    inputs: Mapping[str, Values]
    present: Tensor | None = None
    lengths: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_modalities(self.inputs, self.present, self.lengths)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    def tensor(self, name: str) -> Tensor:
        """The input of one modality, which must be a tensor."""
        value = self.inputs.get(name)
        if not isinstance(value, Tensor):
            got = "no such modality" if value is None else "strings"
            raise InputError(name, got, f"a tensor (B, ...) under one of the names {', '.join(self.inputs)}")
        return value

    def has(self, name: str) -> Tensor:
        """(B,) bool: which samples have this modality."""
        if name not in self.inputs:
            return torch.zeros(len(self), dtype=torch.bool)
        if self.present is None:
            return torch.ones(len(self), dtype=torch.bool)
        return self.present[:, self.modalities.index(name)]

    def take(self, index: Sequence[int] | Tensor | slice) -> MultiModalBatch:
        """Some of the samples, by position or mask."""
        part = index if isinstance(index, slice) else torch.as_tensor(index)
        return MultiModalBatch(
            {name: picked(value, part) for name, value in self.inputs.items()},
            None if self.present is None else self.present[part],
            {name: value[part] for name, value in self.lengths.items()},
        )

    def only(self, names: Sequence[str]) -> MultiModalBatch:
        """The same samples without the other modalities; the rest of the batch does not exist for a model."""
        unknown = [name for name in names if name not in self.inputs]
        if unknown or not names:
            raise InputError("names", list(names), f"some of {', '.join(self.inputs)}")
        kept = [name for name in self.inputs if name in names]
        columns = [self.modalities.index(name) for name in kept]
        return MultiModalBatch(
            {name: self.inputs[name] for name in kept},
            None if self.present is None else self.present[:, columns],
            {name: value for name, value in self.lengths.items() if name in kept},
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultiModalBatch:
        """The same on another device; also what Accelerate calls."""

        def moved(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

        return MultiModalBatch(
            {name: moved(value) for name, value in self.inputs.items()},
            moved(self.present),
            {name: moved(value) for name, value in self.lengths.items()},
        )


def as_batch(x: object) -> MultiModalBatch:
    """A MultiModalBatch of whatever gives named inputs: one itself, or a mapping of name -> (B, ...)."""
    if isinstance(x, MultiModalBatch):
        return x
    if isinstance(x, Mapping):
        return MultiModalBatch(dict(x))
    raise InputError("inputs", type(x).__name__, 'a MultiModalBatch or a dict such as {"audio": (B, ...), "image": (B, ...)}')


def labelled(batch: object) -> tuple[MultiModalBatch, Tensor]:
    """The (inputs, y) of what a loader gives."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"batches of {len(batch)} parts" if isinstance(batch, tuple | list) else f"batches of type {type(batch).__name__}"
        raise InputError("loader", got, "batches (inputs, y) of named modalities and labels")
    x, y = as_batch(batch[0]), batch[1]
    if not isinstance(y, Tensor) or y.shape != (len(x),) or y.is_floating_point() or y.dtype == torch.bool:
        got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise InputError("y", got, f"integer labels of shape ({len(x)},)")
    return x, y


def check_modalities(inputs: Mapping[str, Values], present: Tensor | None, lengths: Mapping[str, Tensor]) -> None:
    """InputError unless all modalities have as many samples, and presences and lengths fit them."""
    if not isinstance(inputs, Mapping) or not inputs or not all(isinstance(name, str) and name for name in inputs):
        got = list(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError("inputs", got, 'one tensor a modality under its name, such as {"audio": ..., "image": ...}')
    sizes: dict[str, int] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            if value.dim() < 2:
                raise InputError(name, f"shape {tuple(value.shape)}", "a tensor (B, ...) with at least two sides")
        elif not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
            raise InputError(name, type(value).__name__, "a tensor (B, ...) or a tuple of strings")
        sizes[name] = len(value)
    n = next(iter(sizes.values()))
    if len(set(sizes.values())) > 1:
        raise InputError("inputs", ", ".join(f"{size} of {name}" for name, size in sizes.items()), "as many of each modality")
    if n == 0:
        raise InputError("inputs", "no samples", "at least one")
    if present is not None:
        good = isinstance(present, Tensor) and present.dtype == torch.bool and present.shape == (n, len(inputs))
        if not good:
            form = f"{present.dtype} of shape {tuple(present.shape)}" if isinstance(present, Tensor) else "no tensor"
            raise InputError("present", form, f"bool of shape ({n}, {len(inputs)}), a column for each of {', '.join(inputs)}")
    for name, value in lengths.items():
        if name not in inputs or not isinstance(inputs[name], Tensor):
            raise InputError("lengths", name, f"lengths of tensors among {', '.join(inputs)}")
        most = inputs[name].shape[1]  # type: ignore[union-attr]
        if not isinstance(value, Tensor) or value.shape != (n,) or value.is_floating_point():
            raise InputError("lengths", f"{name}: shape {tuple(getattr(value, 'shape', ()))}", f"integers of shape ({n},)")
        if int(value.min()) < 0 or int(value.max()) > most:
            raise InputError("lengths", f"{name}: {int(value.min())} to {int(value.max())}", f"lengths from 0 to {most}")


def picked(value: Values, index: Tensor | slice) -> Values:
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(index, slice):
        return value[index]
    places = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
    return tuple(value[int(place)] for place in places)
