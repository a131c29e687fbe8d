"""The smallest change in Linf by labels alone: rays from x along sign vectors d (RayS; Chen & Gu 2020, arXiv 2006.12792).

The radius of a direction d is

    g(d) = min {r : x + r d is misclassified},    d in {-1, 1}^D,                                                   (1)

and blocks of d are flipped one after the other: all of it, halves, quarters and so on. A flip is worth a bisection only if it
breaks the sample at the best radius so far, which takes one query. Our additions: the blocks of images are squares, in all
channels at once; a bisection begins near the best radius, with strides that double; and when every block has been tried,
the next round takes blocks of random coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from tutelage.core.rng import uniform
from tutelage.threats.asked import Asked

# chosen on held-out training images of Fashion-MNIST
EXACT = 3e-3  # a radius is known to this share of itself
STRIDE = 0.05  # the first stride of a bisection, in radii


def search_rays(asked: Asked, queries: int, *, first: bool) -> None:
    """One query a sample and round: of a new direction, at the best radius, or of the bisection of its own radius."""
    n, size = len(asked.x), asked.x[0].numel()
    rank = _places(asked.x.shape[1:]).to(asked.x.device).expand(n, -1)
    sign = torch.ones_like(asked.x).flatten(1)
    if not first:  # another start: sixteen blocks of random signs
        sign = torch.where(uniform((n, 16), asked.noise) < 0.5, -1.0, 1.0).to(sign).gather(1, rank * 16 // size)
    rays = _Rays.start(sign, rank, asked.reach)
    for _ in range(queries):
        radius = rays.propose()
        broken = asked.ask(asked.in_range(asked.x + (radius[:, None] * rays.tried).reshape(asked.x.shape)))
        for row in rays.learn(radius, broken).tolist():
            rays.rank[row] = torch.rand(size, generator=asked.noise[row]).argsort().to(rank)
        left = asked.retire()
        if left is not None:
            if not len(left):
                return
            rays = rays.take(left)


@dataclass
class _Rays:
    """The search of each sample along rays. First dimension of all: the samples that are still in it."""

    sign: Tensor  # the best direction (B, D)
    radius: Tensor  # its radius
    tried: Tensor  # the direction that is asked about
    rank: Tensor  # (B, D): where each coordinate is in the order that blocks are cut from
    level: Tensor  # blocks are 2^-level of the coordinates; -1: none, the first direction itself
    block: Tensor
    inside: Tensor  # bool: a bisection is under way ...
    low: Tensor
    high: Tensor
    stride: Tensor

    @classmethod
    def start(cls, sign: Tensor, rank: Tensor, far: Tensor) -> Self:
        none = torch.zeros_like(far, dtype=torch.long)
        return cls(sign, far, sign, rank.clone(), none - 1, none, none > 0, 0 * far, far, far)

    def take(self, left: Tensor) -> Self:
        return type(self)(*(getattr(self, f.name).index_select(0, left) for f in fields(self)))

    def _blocks(self) -> Tensor:
        """How many blocks there are at each sample's level: 1, 2, 4, ..., D."""
        return (2 ** self.level.clamp_min(0)).clamp_max(self.sign.shape[1])

    def propose(self) -> Tensor:
        """Sets `tried` -> (B,) the radius to ask about."""
        block = self.rank * self._blocks()[:, None] // self.sign.shape[1]
        flip = (block == self.block[:, None]) & (self.level >= 0)[:, None]
        self.tried = torch.where(self.inside[:, None], self.tried, torch.where(flip, -self.sign, self.sign))
        middle = torch.where(self.low > 0, (self.low + self.high) / 2, self.high - self.stride.minimum(self.high / 2))
        return torch.where(self.inside, middle, self.radius)

    def learn(self, radius: Tensor, broken: Tensor) -> Tensor:
        """Take in the answers at `radius` along `tried` -> the rows that have tried every block of every size."""
        better = ~self.inside & broken  # its own radius is worth a bisection
        self.high = torch.where(broken, radius, self.high)
        self.low = torch.where(better, 0.0, torch.where(self.inside & ~broken, radius, self.low))
        self.stride = torch.where(better, STRIDE * radius, 2 * self.stride)
        narrow = self.inside & (self.high - self.low <= EXACT * self.high)
        self.sign = torch.where(narrow[:, None], self.tried, self.sign)
        self.radius = torch.where(narrow, self.high, self.radius)
        onward = narrow | ~(self.inside | broken)
        self.inside = (self.inside | better) & ~narrow
        last = onward & ((self.block + 1 >= self._blocks()) | (self.level < 0))
        self.block = torch.where(last, 0, self.block + onward)
        self.level = self.level + last
        over = self.level > math.ceil(math.log2(self.sign.shape[1]))
        self.level = torch.where(over, 0, self.level)
        return over.nonzero().squeeze(1)


def _places(shape: torch.Size) -> Tensor:
    """(D,) where each coordinate of an input is in the order that blocks are cut from; squares of images are together in it."""
    size = math.prod(shape)
    if len(shape) != 3:
        return torch.arange(size)
    _, height, width = shape
    bits = max(1, math.ceil(math.log2(max(height, width))))
    down, across = torch.arange(height) * 2**bits // height, torch.arange(width) * 2**bits // width
    key = torch.zeros(height, width, dtype=torch.long)
    for bit in reversed(range(bits)):  # the halves, their halves, ...: along a curve that fills squares (Morton's)
        key = 4 * key + 2 * (down >> bit & 1)[:, None] + (across >> bit & 1)
    order = key.expand(shape).flatten().argsort(stable=True)
    return torch.empty_like(order).scatter(0, order, torch.arange(size))
