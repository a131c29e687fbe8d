"""What the families share: the noise of an image, filters as matrices, shifts along a line, grey levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.rng import derive, normal, uniform

LARGE = 64 * 64  # pixels: from there on one image at a time is faster on a processor
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, of red, green and blue


@dataclass(frozen=True)
class Draws:
    """The noise of some images: one CPU generator an image, so that nobody's noise depends on who else is in the batch."""

    generators: tuple[torch.Generator, ...]
    device: torch.device

    @classmethod
    def seeded(cls, seeds: Sequence[int], name: str, device: torch.device) -> Draws:
        """`name` keeps two corruptions of one image from sharing their noise; its severities do share it."""
        made = tuple(torch.Generator().manual_seed(derive(seed, "corruption", name)) for seed in seeds)
        return cls(made, device)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), (B, *shape)."""
        return uniform((len(self.generators), *shape), self.generators).to(self.device)

    def coarse(self, *shape: int) -> Tensor:
        """Numbers in [-1/2, 1/2) in steps of 2^-16, (B, *shape): four of each 64-bit draw, in less time than `uniform`."""
        n = math.prod(shape)
        words = torch.empty(len(self.generators), -(-n // 4), dtype=torch.int64)
        for row, generator in zip(words, self.generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        parts = words.view(torch.int16)[:, :n].to(self.device)
        return parts.float().mul_(2.0**-16).reshape(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (B, *shape)."""
        return normal((len(self.generators), *shape), self.generators).to(self.device)

    def between(self, low: float, high: float) -> list[float]:
        """One uniform number an image."""
        return (low + (high - low) * self.uniform(1).double().flatten()).tolist()

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson counts with the given rates (B, ...)."""
        rates = rate.cpu()
        counts = [torch.poisson(one, generator=g) for one, g in zip(rates, self.generators, strict=True)]
        return torch.stack(counts).to(self.device)

    def one(self, i: int) -> Draws:
        return Draws(self.generators[i : i + 1], self.device)


def luminance(x: Tensor) -> Tensor:
    """Grey levels (B, 1, H, W) of RGB or grey images."""
    if x.shape[1] == 1:
        return x
    red, green, blue = LUMINANCE
    return red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:3]


def tint(colour: tuple[float, float, float], x: Tensor) -> Tensor:
    """A colour of 0-255 as (C, 1, 1) in [0, 1]: its luminance where the images are grey."""
    levels = colour if x.shape[1] == 3 else (sum(w * c for w, c in zip(LUMINANCE, colour, strict=True)),)
    return torch.tensor(levels, dtype=x.dtype, device=x.device)[:, None, None] / 255


def each(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Parts of a batch for work that a library may do otherwise for another number of rows.

    On the CPU one image at a time, each in memory of its own: the same shape and alignment in any batch, so the same bits.
    It also stays in the processor's cache. On other devices the whole batch.
    """
    if x.device.type != "cpu":
        yield slice(0, len(x)), x
        return
    for i in range(len(x)):
        yield slice(i, i + 1), x[i : i + 1].clone(memory_format=torch.contiguous_format)


def separable(x: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """rows (h, H) and columns (w, W) applied to the two axes of images: (B, C, H, W) -> (B, C, h, w)."""
    left = torch.from_numpy(rows).to(x)
    right = torch.from_numpy(columns).to(x).T.contiguous()
    out = x.new_empty((*x.shape[:2], len(rows), len(columns)))
    for part, image in each(x):
        out[part] = left @ (image @ right)
    return out


def gaussian(x: Tensor, sigma: float, truncate: float = 4.0, border: str = "nearest") -> Tensor:
    """Images (B, C, H, W) through a Gaussian filter of standard deviation `sigma` pixels.

    Taps reach to `truncate` sigma and sum to 1. Outside lies the nearest sample, or with border="mirror" the image mirrored
    at its edge (the edge sample twice).
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    if 9 * radius > min(x.shape[2:]):  # many taps: a product of matrices takes less time
        return separable(x, *(gaussian_matrix(n, sigma, radius, border) for n in x.shape[2:]))
    taps = _taps(sigma, radius).tolist()
    for axis in (3, 2):
        n = x.shape[axis]
        wide = x.index_select(axis, torch.from_numpy(_outside(np.arange(-radius, n + radius), n, border)).to(x.device))
        x = wide.narrow(axis, 0, n) * taps[0]
        for i, tap in enumerate(taps[1:], start=1):
            x.add_(wide.narrow(axis, i, n), alpha=tap)
    return x


@lru_cache(maxsize=256)
def gaussian_matrix(n: int, sigma: float, radius: int, border: str) -> np.ndarray:
    """The filter of `gaussian` for n samples as an (n, n) matrix."""
    at = _outside(np.arange(n)[:, None] + np.arange(-radius, radius + 1), n, border)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], at), _taps(sigma, radius))
    return matrix


def _taps(sigma: float, radius: int) -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(taps / taps.sum())


def _outside(at: np.ndarray, n: int, border: str) -> np.ndarray:
    """Positions, some of them outside 0 ... n - 1, as the positions of the samples that stand there."""
    if border == "nearest":
        return np.asarray(at.clip(0, n - 1))
    at = at % (2 * n)
    return np.asarray(np.minimum(at, 2 * n - 1 - at))


def filtered(wide: Tensor, kernel: np.ndarray) -> Tensor:
    """Images correlated with an odd, square kernel, where it lies inside: (B, C, H + k - 1, W + k - 1) -> (B, C, H, W)."""
    k = len(kernel)
    h, w = wide.shape[2] - k + 1, wide.shape[3] - k + 1
    out = wide.new_zeros((*wide.shape[:2], h, w))
    if k <= 5:
        # sums of shifted images: no library chooses another way for another batch size
        for i, j in np.argwhere(kernel).tolist():
            out.add_(wide[:, :, i : i + h, j : j + w], alpha=float(kernel[i, j]))
        return out
    size = list(wide.shape[2:])
    turned = torch.from_numpy(kernel[::-1, ::-1].copy()).to(wide)
    spectrum = torch.fft.rfft2(turned, s=size)
    for part, image in each(wide):
        out[part] = torch.fft.irfft2(torch.fft.rfft2(image) * spectrum, s=size)[:, :, k - 1 :, k - 1 :]
    return out


def enlarged(crop: Tensor, factor: float, h: int, w: int) -> Tensor:
    """A crop (B, C, h / factor, w / factor), both rounded up, enlarged to (B, C, h, w), bilinear, corners on corners."""
    size = round(crop.shape[2] * factor), round(crop.shape[3] * factor)
    if size != tuple(crop.shape[2:]):
        crop = F.interpolate(crop, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return crop[:, :, top : top + h, left : left + w]


def streaked(x: Tensor, radius: float, sigma: float, degrees: Sequence[float]) -> Tensor:
    """Motion along a line at an angle of its own for each image: x(p) -> sum_i k_i x(p + i d), the edge going on outside.

    k is half a Gaussian: i = 0 ... 2 radius, standard deviation sigma, sum 1. Steps are rounded to whole pixels.
    """
    steps = np.arange(2 * round(radius) + 1)
    taps = np.exp(-0.5 * (steps / sigma) ** 2)
    taps /= taps.sum()
    b, c, h, w = x.shape
    turns = np.radians(np.asarray(degrees))[:, None]
    # the pixel that each step takes is the one behind: ceil(. - 1/2) rounds halves down; beyond the edge all are the same
    down = np.ceil(steps * np.sin(turns) - 0.5).astype(int).clip(-h, h)
    right = np.ceil(steps * np.cos(turns) - 0.5).astype(int).clip(-w, w)
    top, left = max(0, -down.min()), max(0, -right.min())
    room = [left, max(0, right.max()), top, max(0, down.max())]
    if x.device.type == "cpu" and h * w > LARGE:
        out = torch.zeros_like(x)
        for i in range(b):
            wide = F.pad(x[i : i + 1], room, mode="replicate")[0]
            for tap, dy, dx in zip(taps.tolist(), (down[i] + top).tolist(), (right[i] + left).tolist(), strict=True):
                out[i].add_(wide[:, dy : dy + h, dx : dx + w], alpha=tap)
        return out
    # small images, or a device that wants few large steps: one tap of all images at once
    wide = F.pad(x, room, mode="replicate")
    high, broad = wide.shape[2:]
    origin = torch.arange(b * c).reshape(b, c, 1, 1) * (high * broad)
    origin = origin + (torch.arange(h)[:, None] + top) * broad + torch.arange(w) + left
    origin, moves = origin.to(x.device), torch.from_numpy(down * broad + right).to(x.device)
    values, total = wide.flatten(), torch.zeros_like(x)
    for i, tap in enumerate(taps.tolist()):
        at = (origin + moves[:, i, None, None, None]).flatten()
        total.add_(values.index_select(0, at).reshape(x.shape), alpha=tap)
    return total
