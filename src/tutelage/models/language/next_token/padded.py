"""Rows of token ids of different lengths in one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tutelage.core.errors import InputError


class Padded:
    """Token ids (B, L) and a boolean mask (B, L) of which of them are there. What lies elsewhere may be any id.

    Prompts are padded on the left, answers on the right, so that the one joins the other without a gap.
    """

    def __init__(self, ids: Tensor, mask: Tensor | None = None) -> None:
        if ids.dim() != 2 or ids.is_floating_point():
            raise InputError("ids", f"{ids.dtype} {tuple(ids.shape)}", "integers (B, L)")
        self.ids = ids
        self.mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        if self.mask.shape != ids.shape or self.mask.dtype != torch.bool:
            raise InputError("mask", f"{self.mask.dtype} {tuple(self.mask.shape)}", f"booleans {tuple(ids.shape)}")

    @classmethod
    def left(cls, rows: Sequence[Sequence[int]], *, pad: int = 0) -> Padded:
        """Prompts: padding before each row."""
        width = max((len(row) for row in rows), default=0)
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.long).reshape(-1, width)
        return cls(ids, _there(rows, width).flip(1))

    @classmethod
    def right(cls, rows: Sequence[Sequence[int]], *, pad: int = 0) -> Padded:
        """Answers: padding after each row."""
        width = max((len(row) for row in rows), default=0)
        ids = torch.tensor([list(row) + [pad] * (width - len(row)) for row in rows], dtype=torch.long).reshape(-1, width)
        return cls(ids, _there(rows, width))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    @cached_property
    def whole(self) -> bool:
        """Whether nothing is padded."""
        return bool(self.mask.all())

    @property
    def lengths(self) -> Tensor:
        """(B,) numbers of tokens."""
        return self.mask.sum(1)

    def rows(self) -> list[list[int]]:
        """The ids of each row, without padding."""
        return [
            [i for i, there in zip(row, kept, strict=True) if there]
            for row, kept in zip(self.ids.tolist(), self.mask.tolist(), strict=True)
        ]

    def __getitem__(self, index: Tensor | slice) -> Padded:
        """Some rows, as wide as before."""
        return Padded(self.ids[index], self.mask[index])

    def parts(self, size: int) -> Iterator[Padded]:
        """All rows, at most `size` at a time."""
        return (self[at : at + size] for at in range(0, len(self), size))

    def to(self, device: torch.device | str) -> Padded:
        return Padded(self.ids.to(device), self.mask.to(device))

    def highest(self) -> int:
        """The largest id that is there; -1 where there is none."""
        return int(self.ids.where(self.mask, -1).max()) if self.ids.numel() else -1


def _there(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return torch.arange(width) < lengths[:, None]
