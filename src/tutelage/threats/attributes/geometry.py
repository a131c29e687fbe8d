"""Changing the size, the place and the direction of a cut-out. A layer is (C + 1, H, W): colours times alpha, then alpha.

Colours are multiplied by alpha before anything is resampled, so that edges keep the colour of the object.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.015  # of an object's rate, as the released editor has it
ROUNDS = 50
MOST_CUT = 0.1  # of an object that the frame may cut away; above, the edit has failed


def box_of(layer: Tensor) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what can be seen of a layer."""
    seen = layer[-1] > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def cropped(layer: Tensor) -> tuple[Tensor, int, int]:
    """(what can be seen of a layer, its top, its left)."""
    top, left, height, width = box_of(layer)
    return layer[:, top : top + height, left : left + width], top, left


def pasted(crop: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A crop at a place of an empty frame; what is outside is cut away."""
    out = crop.new_zeros(crop.shape[0], height, width)
    t, b = max(0, top), min(height, top + crop.shape[1])
    u, v = max(0, left), min(width, left + crop.shape[2])
    if b > t and v > u:
        out[:, t:b, u:v] = crop[:, t - top : b - top, u - left : v - left]
    return out


def centred(crop: Tensor, y: float, x: float, height: int, width: int) -> Tensor:
    """A crop with its middle at (y, x), moved into the frame as far as it fits."""
    top, left = math.floor(y - crop.shape[1] / 2 + 0.5), math.floor(x - crop.shape[2] / 2 + 0.5)
    if crop.shape[1] <= height:
        top = min(max(top, 0), height - crop.shape[1])
    if crop.shape[2] <= width:
        left = min(max(left, 0), width - crop.shape[2])
    return pasted(crop, top, left, height, width)


def middle(layer: Tensor) -> tuple[float, float]:
    """The middle of a layer's box, in pixels from the upper left corner."""
    top, left, height, width = box_of(layer)
    return top + height / 2, left + width / 2


def scaled(crop: Tensor, factor: float, height: int, width: int) -> Tensor:
    """A crop resized by a factor, antialiased; never larger than the frame, never without a pixel."""
    size = [max(1, min(frame, round(factor * n))) for n, frame in zip(crop.shape[1:], (height, width), strict=True)]
    if size == list(crop.shape[1:]):
        return crop
    return F.interpolate(crop[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def to_rate(crop: Tensor, rate: float | None, height: int, width: int) -> tuple[Tensor, bool]:
    """A crop resized until it covers `rate` of the frame within TOLERANCE; None: until its box fills the frame.

    k <- k sqrt(rate / r), always from the given crop. Whoever wants more than the frame can hold gets the full size and False.
    """
    largest = min(height / crop.shape[1], width / crop.shape[2])
    if rate is None:
        return scaled(crop, largest, height, width), True
    factor, best = 1.0, crop
    for _ in range(ROUNDS):
        r = float(best[-1].sum()) / (height * width)
        if abs(r - rate) <= TOLERANCE:
            return best, True
        wanted = min(largest, factor * math.sqrt(rate / r)) if r > 0 else 0.0
        if wanted in (factor, 0.0):
            break
        factor = wanted
        best = scaled(crop, factor, height, width)
    return best, False


def resized(layer: Tensor, rate: float | None) -> tuple[Tensor, bool]:
    """A layer whose object covers `rate` of the frame (None: as large as the frame holds it), about the same middle."""
    height, width = layer.shape[1:]
    crop, _, _ = cropped(layer)
    new, ok = to_rate(crop, rate, height, width)
    return (layer, ok) if new is crop else (centred(new, *middle(layer), height, width), ok)


def moved(layer: Tensor, u: float, v: float) -> tuple[Tensor, bool]:
    """A layer whose box begins at floor(u (H - h + 1)), floor(v (W - w + 1)) for u, v in [0, 1): uniform if they are.

    Every pixel of the object is kept. False where the box fills the frame, so that there is no other place.
    """
    height, width = layer.shape[1:]
    crop, _, _ = cropped(layer)
    free = height - crop.shape[1], width - crop.shape[2]
    return pasted(crop, int(u * (free[0] + 1)), int(v * (free[1] + 1)), height, width), max(free) > 0


def turned(crop: Tensor, degrees: float) -> Tensor:
    """A crop turned counter-clockwise about its middle, on as large a canvas as that needs; exact for quarter turns."""
    quarters = degrees / 90
    if quarters == round(quarters):
        return torch.rot90(crop, round(quarters) % 4, (1, 2))
    _, h, w = crop.shape
    room = math.ceil((math.hypot(h, w) - min(h, w)) / 2) + 1
    H, W = h + 2 * room, w + 2 * room
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y = torch.arange(H, device=crop.device)[:, None] - (H - 1) / 2
    x = torch.arange(W, device=crop.device)[None] - (W - 1) / 2
    at = torch.stack([2 * (cos * x - sin * y) / W, 2 * (sin * x + cos * y) / H], -1)
    return F.grid_sample(F.pad(crop, [room] * 4)[None], at[None].to(crop), padding_mode="zeros", align_corners=False)[0]


def rotated(layer: Tensor, degrees: float, *, back: bool = False) -> tuple[Tensor, bool]:
    """A layer whose object is turned about its middle, and moved into the frame where it fits. back: turned there and back.

    False if the frame cuts away more than a tenth of it.
    """
    if degrees % 360 == 0:
        return layer, True
    crop, _, _ = cropped(layer)
    new = turned(crop, degrees)
    new = turned(new, -degrees) if back else new
    new = cropped(new)[0]
    out = centred(new, *middle(layer), *layer.shape[1:])
    return out, float(out[-1].sum()) >= (1 - MOST_CUT) * float(new[-1].sum())
