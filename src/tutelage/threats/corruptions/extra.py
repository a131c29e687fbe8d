"""The four that the authors keep apart for validation: speckle noise, spatter, saturation (and Gaussian blur, in `blur`)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.threats.corruptions.common import Draws, filtered, gaussian, tint

WATER, MUD = (175, 238, 238), (63, 42, 20)  # red, green, blue
FARTHEST = 20  # pixels
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])  # lit from the upper left
BOX = np.full((3, 3), 1 / 9)


def speckle_noise(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """x + sigma x n, n standard normal: noise that grows with the light."""
    return draws.normal(*x.shape[1:]).mul_(sigma).add_(1).mul_(x)


def saturate(x: Tensor, draws: Draws, factor: float, more: float) -> Tensor:
    """The saturation of HSV becomes factor s + more, within [0, 1]; hue and value stay. Grey images do not change.

    A colour image's grey pixels have no hue; where `more` > 0 they turn red (hue 0), as in the published sets.
    """
    if x.shape[1] == 1:
        return x.clone()
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    saturation = (value - low) / value.clamp_min(tiny)
    wanted = (saturation * factor + more).clamp_(0, 1)
    # a colour lies below the value by v s f, f set by the hue: a new s stretches that distance
    coloured = value - (value - x) * (wanted / saturation.clamp_min(tiny))
    grey = value * (1 - wanted * torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device)[:, None, None])
    return torch.where(saturation > 0, coloured, grey)


def spatter(
    x: Tensor, draws: Draws, mean: float, std: float, sigma: float, threshold: float, strength: float, mud: float
) -> Tensor:
    """Drops are smoothed noise above a threshold: water that shines (mud = 0), or mud with edges smoothed by `mud` pixels.

    Water is as thick as a relief of the distance to the nearest edge of a drop; its brightest point adds `strength` times
    the colour. Edges are the outermost pixels of the drops, where the published code runs an edge detector.
    """
    h, w = x.shape[2:]
    liquid = gaussian(draws.normal(1, h, w) * std + mean, sigma)
    drops = liquid > threshold
    if mud:
        cover = gaussian(drops.to(x.dtype), mud)
        cover = torch.where(cover < 0.8, 0, cover)
        return x * (1 - cover) + tint(MUD, x) * cover
    liquid = torch.where(drops, liquid, 0).mul_(255).floor_().clamp_(0, 255)
    even = _equalised(_box(_distance(_rim(drops))).floor_())
    height = filtered(F.pad(even, [1] * 4, mode="reflect"), RELIEF).clamp_(0, 255)
    thick = liquid * _box(height)
    thick = thick / thick.amax((1, 2, 3), keepdim=True).clamp_min(1) * strength
    return x + thick * tint(WATER, x)


def _rim(drops: Tensor) -> Tensor:
    """The pixels of drops (B, 1, H, W), bool, beside a pixel that is none."""
    dry = F.pad((~drops).to(torch.uint8), [1] * 4).bool()
    return drops & (dry[:, :, :-2, 1:-1] | dry[:, :, 2:, 1:-1] | dry[:, :, 1:-1, :-2] | dry[:, :, 1:-1, 2:])


def _distance(rim: Tensor) -> Tensor:
    """Euclidean distance of each pixel to the nearest of `rim`, at most FARTHEST: along columns, then across them."""
    far = float(FARTHEST)
    column = torch.where(rim, 0.0, far)
    rows = column.unbind(2)
    for order in (range(1, len(rows)), range(len(rows) - 2, -1, -1)):
        for i in order:
            before = rows[i - 1] if order.step > 0 else rows[i + 1]
            torch.minimum(rows[i], before + 1, out=rows[i])
    squares = F.pad(column**2, [FARTHEST, FARTHEST], value=far**2)
    width = column.shape[3]
    nearest = squares[..., FARTHEST : FARTHEST + width].clone()
    for step in range(1, FARTHEST):
        for start in (FARTHEST - step, FARTHEST + step):
            torch.minimum(nearest, squares[..., start : start + width] + step**2, out=nearest)
    return nearest.sqrt_().clamp_max_(far)


def _equalised(levels: Tensor) -> Tensor:
    """Whole levels 0-255 (B, 1, H, W) spread so that the share of pixels up to each level is the level, 0 the lowest."""
    b = len(levels)
    index = levels.long().flatten(1)
    counts = torch.zeros(b, 256, dtype=torch.long, device=levels.device)
    counts.scatter_add_(1, index, torch.ones_like(index))
    below = counts.cumsum(1)
    lowest = below.gather(1, index.amin(1, keepdim=True))
    spread = (below - lowest).clamp_min(0) * 255.0 / (index.shape[1] - lowest).clamp_min(1)
    return spread.gather(1, index).round_().reshape(levels.shape)


def _box(x: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels, the image mirrored at its border."""
    return filtered(F.pad(x, [1] * 4, mode="reflect"), BOX)
