"""The strong augmentation of test-time adaptation: what an image may look like and still mean the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import normal, uniform

Span = tuple[float, float]
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class StrongAugment:
    """Jitter, affine, blur, flip and noise, as in CoTTA (arXiv 2203.13591) and RMT: (x, generator) -> x'.

    x: (B, C, H, W) in [0, 1], C = 1 or 3; the result has the same shape and range. In this order: brightness, contrast,
    saturation, hue (in turns) and gamma in random order; rotation by up to `degrees`, shift by up to `shift` of a side,
    a scale, bilinear, the edge going on outside; a 5-tap Gaussian blur of standard deviation `blur` pixels; a mirrored image
    with probability 1/2 where `flip` is set (not for digits or letters); Gaussian noise of deviation `noise`.
    Grey images have no saturation and hue. Each image gets constants of its own; together=True draws one set for the whole
    batch, as the released code does. The order of the jitter is one for the batch.
    shift: 1/8 is the published 1/16 of an image that was padded to twice its side.
    """

    flip: bool = True
    brightness: Span = (0.6, 1.4)
    contrast: Span = (0.7, 1.3)
    saturation: Span = (0.5, 1.5)
    hue: Span = (-0.06, 0.06)
    gamma: Span = (0.7, 1.3)
    degrees: float = 15.0
    shift: float = 1 / 8
    scale: Span = (0.9, 1.1)
    blur: Span = (0.001, 0.5)
    noise: float = 0.005
    together: bool = False

    def __post_init__(self) -> None:
        for name, low in (("brightness", 0.0), ("contrast", 0.0), ("saturation", 0.0), ("hue", -0.5), ("gamma", 1e-3),
                          ("scale", 1e-2), ("blur", 1e-4)):  # fmt: skip
            span = getattr(self, name)
            if not isinstance(span, tuple | list) or len(span) != 2 or not low <= span[0] <= span[1] < float("inf"):
                raise InputError(name, span, f"a pair (low, high) of numbers from {low:g}")
        for name in ("degrees", "shift", "noise"):
            check_number(name, getattr(self, name), "a number >= 0", low=0)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise InputError("x", f"shape {tuple(x.shape)}", "images (B, C, H, W) with 1 or 3 channels, or an augment of yours")
        b = len(x)
        rows = uniform((1 if self.together else b, 11), generator).expand(b, 11)
        order = torch.randperm(5, generator=generator).tolist()
        noise = normal(x.shape, generator).to(x) if self.noise else None
        draws = [column[:, None, None, None].to(x) for column in rows.unbind(1)]

        def between(i: int, span: Span) -> Tensor:
            return span[0] + (span[1] - span[0]) * draws[i]

        jitter: list[Callable[[Tensor], Tensor]] = [
            lambda x: (x * between(0, self.brightness)).clamp_(0, 1),
            lambda x: _blend(x, _grey(x).mean((2, 3), keepdim=True), between(1, self.contrast)),
            lambda x: x if x.shape[1] == 1 else _blend(x, _grey(x), between(2, self.saturation)),
            lambda x: x if x.shape[1] == 1 else shift_hue(x, between(3, self.hue)),
            lambda x: x.clamp(1e-8, 1) ** between(4, self.gamma),
        ]
        x = x.clamp(0, 1)
        for i in order:
            x = jitter[i](x)
        angle = torch.deg2rad((2 * draws[5] - 1) * self.degrees)
        moves = [(2 * draws[i] - 1) * self.shift for i in (6, 7)]
        x = _affine(x, angle, between(8, self.scale), moves, margin=2)
        x = _blur(x, between(9, self.blur))
        if self.flip:
            x = torch.where(draws[10] < 0.5, x.flip(3), x)
        if noise is not None:
            x = x.add(noise, alpha=self.noise)
        return x.clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    red, green, blue = LUMINANCE
    return red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:]


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, x, factor).clamp_(0, 1)


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """RGB images (B, 3, H, W) with their hue turned by a part of a full turn, (B, 1, 1, 1); value and chroma stay."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    safe = chroma.clamp_min(1e-12)
    hue = torch.where(
        value == red, (green - blue) / safe, torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    hue = hue + 6 * turns
    parts = []
    for n in (5, 3, 1):
        k = (n + hue) % 6
        parts.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.cat(parts, 1)


def _affine(x: Tensor, angle: Tensor, scale: Tensor, moves: list[Tensor], margin: int) -> Tensor:
    """x(A^-1 p), bilinear, with `margin` more pixels on every side: (B, C, H, W) -> (B, C, H + 2 margin, W + 2 margin)."""
    h, w = x.shape[2:]
    # pixels from the middle; angle, scale and moves are (B, 1, 1, 1)
    rows = torch.arange(-margin, h + margin, device=x.device, dtype=x.dtype)[:, None] - (h - 1) / 2
    columns = torch.arange(-margin, w + margin, device=x.device, dtype=x.dtype)[None, :] - (w - 1) / 2
    down, right = rows - moves[0][:, 0] * h, columns - moves[1][:, 0] * w
    cos, sin = (angle.cos() / scale)[:, 0], (angle.sin() / scale)[:, 0]
    # grid_sample, without aligned corners, counts from -1 to 1 between the outer edges
    grid = torch.stack([(cos * right + sin * down) * (2 / w), (cos * down - sin * right) * (2 / h)], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Five taps along both axes, sigma (B, 1, 1, 1) in pixels; the two outer pixels of every side are used up."""
    steps = torch.arange(-2, 3, device=x.device, dtype=x.dtype)
    taps = torch.exp(-0.5 * (steps / sigma) ** 2)  # (B, 1, 1, 5)
    taps = taps / taps.sum(3, keepdim=True)
    for axis in (2, 3):
        n = x.shape[axis] - 4
        out = x.narrow(axis, 0, n) * taps[..., :1]
        for i in range(1, 5):
            out.addcmul_(x.narrow(axis, i, n), taps[..., i : i + 1])
        x = out
    return x
