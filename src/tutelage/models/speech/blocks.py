"""What acoustic models are made of: masks, positions, attention that shows its weights, the feed-forward transformer block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError


def valid(lengths: Tensor, size: int) -> Tensor:
    """(B, size) bool: True where a position lies before its row's length. lengths: (B,) int64."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def sinusoids(length: int, width: int, *, start: int = 0, device: torch.device | None = None) -> Tensor:
    """(length, width) sines and cosines of the positions start, start + 1, ... (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angle = torch.arange(start, start + length, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]


def check_block(width: int, heads: int, hidden: int, kernel: int, dropout: float) -> None:
    """Sizes of a block: heads divide the width, kernels are odd, dropout in [0, 1)."""
    for name, value in (("width", width), ("heads", heads), ("hidden", hidden), ("kernel", kernel)):
        check_integer(name, value)
    if width % heads or width % 2:
        raise InputError("width", width, f"an even number that the {heads} heads divide")
    if kernel % 2 == 0:
        raise InputError("kernel", kernel, "an odd number of frames")
    check_number("dropout", dropout, "a share in [0, 1)", low=0.0, high=1 - 1e-9)


class Attention(nn.Module):
    """Multi-head attention: queries (B, S, width), keys and values (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, T, width / heads) of a memory (B, T, width)."""
        key, value = self.memory(memory).chunk(2, dim=2)
        return self._split(key), self._split(value)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """(B, S, width). mask: bool, True where a query may look; broadcast to (B, heads, S, T)."""
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), *keys, attn_mask=mask)
        return self._joined(mixed)

    def shown(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `forward`, with the weights (B, heads, S, T); each row sums to 1."""
        query = self._split(self.query(x))
        scores = query @ keys[0].transpose(2, 3) / math.sqrt(query.shape[3])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        weights = scores.softmax(3)
        return self._joined(weights @ keys[1]), weights

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return out


class ConvolutionNet(nn.Module):
    """Two convolutions over time with a ReLU between: (B, S, width) -> (B, S, width).

    causal: a frame sees none after it. Then `step` computes one frame from those before it.
    """

    def __init__(self, width: int, hidden: int, kernel: int, *, causal: bool = False) -> None:
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.first = nn.Conv1d(width, hidden, kernel)
        self.second = nn.Conv1d(hidden, width, kernel)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (B, S, 1), 0 where there is padding, which must not leak into the frames beside it."""
        hidden = F.relu(self._over(self.first, x))
        return self._over(self.second, hidden if mask is None else hidden * mask)

    def _over(self, layer: nn.Conv1d, x: Tensor) -> Tensor:
        if self.kernel == 1:  # the same sums as one matrix product
            return F.linear(x, layer.weight[:, :, 0], layer.bias)
        around = (self.kernel - 1, 0) if self.causal else ((self.kernel - 1) // 2, (self.kernel - 1) // 2)
        out: Tensor = layer(F.pad(x.transpose(1, 2), around))
        return out.transpose(1, 2)

    def step(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The next frame (B, 1, width) after the last kernel - 1 inputs of both layers, and those inputs now."""
        if past is None:
            past = (
                x.new_zeros(len(x), self.kernel - 1, self.first.in_channels),
                x.new_zeros(len(x), self.kernel - 1, self.first.out_channels),
            )
        seen = torch.cat([past[0], x], dim=1)
        hidden = F.relu(self._last(self.first, seen))
        inner = torch.cat([past[1], hidden], dim=1)
        return self._last(self.second, inner), (seen[:, 1:], inner[:, 1:])

    def _last(self, layer: nn.Conv1d, seen: Tensor) -> Tensor:
        if self.kernel == 1:
            return F.linear(seen, layer.weight[:, :, 0], layer.bias)
        out: Tensor = layer(seen.transpose(1, 2))
        return out.transpose(1, 2)


class FFTBlock(nn.Module):
    """A feed-forward transformer block: self-attention, add and norm; two convolutions, add and norm; padding set to 0."""

    def __init__(self, width: int, heads: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        check_block(width, heads, hidden, kernel, dropout)
        self.attention = Attention(width, heads)
        self.net = ConvolutionNet(width, hidden, kernel)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, S, width); mask: (B, S) bool, False at padding, or None where there is none."""
        allowed = None if mask is None else mask[:, None, None, :]
        kept = None if mask is None else mask[:, :, None].to(x.dtype)
        x = self.norm_1(x + self.dropout(self.attention(x, self.attention.keys(x), allowed)))
        x = x if kept is None else x * kept
        x = self.norm_2(x + self.dropout(self.net(x, kept)))
        return x if kept is None else x * kept


class Stack(nn.Module):
    """Positions, then N feed-forward transformer blocks: (B, S, width) -> (B, S, width)."""

    def __init__(self, blocks: int, width: int, heads: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        check_integer("blocks", blocks)
        self.scale = nn.Parameter(torch.ones(()))  # of the positions, learnt as in Transformer TTS
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(FFTBlock(width, heads, hidden, kernel, dropout) for _ in range(blocks))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.dropout(x + self.scale * sinusoids(x.shape[1], x.shape[2], device=x.device))
        x = x if mask is None else x * mask[:, :, None]
        for block in self.blocks:
            x = block(x, mask)
        return x
