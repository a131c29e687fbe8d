"""Nets of users that know no mask: padding is replaced by copies of real points, which max-pooling does not notice."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WithoutMask(nn.Module):
    """Calls `inner(points)` with every padded or dropped point replaced by a real one of the same cloud, in turn.

    channels_first: `inner` wants (B, 3, N). A net that averages over points sees the copies as weights; one that pools by
    maximum, or builds a graph without self-loops, is hardly moved.
    """

    def __init__(self, inner: nn.Module, *, channels_first: bool = False) -> None:
        super().__init__()
        self.inner, self.channels_first = inner, channels_first

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and not bool(mask.all()):
            points = points.gather(1, stand_ins(mask)[..., None].expand(-1, -1, 3))
        out: Tensor = self.inner(points.transpose(1, 2) if self.channels_first else points)
        return out


def stand_ins(mask: Tensor) -> Tensor:
    """(B, N) positions: real points stand for themselves, the others for the real points in turn."""
    n = mask.shape[1]
    place = torch.arange(n, device=mask.device).expand_as(mask)
    first = torch.where(mask, place, n + place).argsort(1)  # real points first, in order
    turn = (~mask).cumsum(1) - 1
    real = mask.sum(1, keepdim=True).clamp(min=1)
    return torch.where(mask, place, first.gather(1, turn.clamp(min=0) % real))
