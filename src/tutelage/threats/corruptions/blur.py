"""Blur: a lens out of focus, a moving camera, a zoom, glass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tutelage.threats.corruptions.common import LARGE, Draws, each, enlarged, filtered, gaussian, streaked


def gaussian_blur(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """A Gaussian filter of standard deviation `sigma` pixels."""
    return gaussian(x, sigma)


def defocus_blur(x: Tensor, draws: Draws, radius: float, softness: float, scale: float) -> Tensor:
    """A disk of `radius` pixels, its rim softened by a Gaussian of `softness` pixels, both enlarged by `scale`.

    The image is mirrored at its border.
    """
    kernel = disk(radius, softness, scale)
    return filtered(_mirrored(x, len(kernel) // 2), kernel)


@lru_cache(maxsize=64)
def disk(radius: float, softness: float, scale: float = 1.0) -> np.ndarray:
    """The kernel of a lens out of focus, (k, k) with k odd, sum 1.

    As published, a pixel is in or out by its middle: radius 0.3 is one pixel, radius 1 is five. Enlarged, the disk has that
    one's mean squared distance from the middle, times scale squared, and a pixel counts by the part of it that is covered.
    """
    at = np.arange(-int(radius), int(radius) + 1)
    far = at[:, None] ** 2 + at[None, :] ** 2
    kernel = (far <= radius**2).astype(float)
    if scale != 1:
        larger = scale * math.sqrt(2 * float((far * kernel).sum() / kernel.sum()))  # a disk's is half its squared radius
        kernel = _covered(larger)
    # the published rims reach one pixel, from radius 9 on two; wider ones as far as the widest of those, 0.6, in proportion
    softness *= scale
    reach = max(1 if radius <= 8 else 2, round(softness / 0.6))
    rim = np.exp(-0.5 * (np.arange(-reach, reach + 1) / softness) ** 2)
    kernel = np.pad(kernel, reach)
    for axis in (0, 1):
        kernel = np.apply_along_axis(np.convolve, axis, kernel, rim / rim.sum(), "same")
    while len(kernel) > 1 and kernel[0].max() < 1e-12:  # nothing reaches the outermost ring
        kernel = kernel[1:-1, 1:-1]
    return np.asarray(kernel / kernel.sum())


def _covered(radius: float, fine: int = 16) -> np.ndarray:
    """The part of each pixel that a disk around the middle one covers, on a grid of fine x fine points a pixel."""
    if radius == 0:
        return np.ones((1, 1))
    reach = math.ceil(radius)
    at = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = at[:, None] ** 2 + at[None, :] ** 2 <= radius**2
    return np.asarray(inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3)))


def _mirrored(x: Tensor, reach: int) -> Tensor:
    """x with `reach` pixels on each side, mirrored at the middle of the edge pixels; images may be smaller than `reach`."""
    rows, columns = (_mirror(n, reach).to(x.device) for n in x.shape[2:])
    return x.index_select(2, rows).index_select(3, columns)


def _mirror(n: int, reach: int) -> Tensor:
    period = max(1, 2 * n - 2)
    at = torch.arange(-reach, n + reach) % period
    return torch.minimum(at, period - at)


def motion_blur(x: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """Half a Gaussian along a line, at an angle drawn from -45 to 45 degrees."""
    return streaked(x, radius, sigma, draws.between(-45, 45))


def zoom_blur(x: Tensor, draws: Draws, highest: float, step: float) -> Tensor:
    """The mean of the image and of its enlargements by 1, 1 + step, ... below `highest`."""
    h, w = x.shape[2:]
    factors = tuple(np.arange(1, highest, step).tolist())
    out = torch.empty_like(x)
    # each enlargement is linear in rows and in columns: of small images, all are two products of matrices
    matrices = [_enlargements(n, factors).to(x) for n in (h, w)] if h * w <= LARGE else []
    for part, image in each(x):
        if matrices:
            down, across = matrices
            wide = torch.einsum("kpw,bchw->bckhp", across, image)
            out[part] = image + down.transpose(0, 1).flatten(1) @ wide.flatten(2, 3)
        else:
            out[part] = sum((_zoomed(image, factor) for factor in factors), image)
    return out.div_(len(factors) + 1)


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of images (B, C, H, W), enlarged by `factor` to their size."""
    h, w = x.shape[2:]
    ch, cw = math.ceil(h / factor), math.ceil(w / factor)
    top, left = (h - ch) // 2, (w - cw) // 2
    return enlarged(x[:, :, top : top + ch, left : left + cw], factor, h, w)


@lru_cache(maxsize=64)
def _enlargements(n: int, factors: tuple[float, ...]) -> Tensor:
    """`_zoomed` along one axis of n samples, as matrices (factors, n, n)."""
    lines = torch.eye(n, dtype=torch.float64)[:, None, :, None].expand(n, 1, n, n)  # image j: row j lit
    return torch.stack([_zoomed(lines, factor)[:, 0, :, 0].T for factor in factors])


def glass_blur(x: Tensor, draws: Draws, sigma: float, reach: float, rounds: float) -> Tensor:
    """Blurred, then each pixel replaced by one at most `reach` away, `rounds` times over the image, then blurred again.

    Pixels follow each other row by row from the lower right corner and see what was replaced before them. Those that cannot
    see each other are done at once: pixel s of row r in step r (2 reach + 1) + s.

    The released code means to swap two pixels, but for colour images both sides of its swap are views of one array, so that it
    copies; the published sets were made so. A swap would carry pixels far and be much stronger at 32 pixels.
    """
    reach = max(1, round(reach))
    b, c, h, w = x.shape
    n = h * w
    pixel = torch.arange(n, device=x.device).repeat(b)  # which pixel now lies where, one image after the other
    first = torch.arange(b, device=x.device)[:, None] * n
    moves = draws.coarse(int(rounds), 2, h, w).mul_(2 * reach).floor_().long()
    away = (moves[:, :, 0] * w + moves[:, :, 1]).reshape(b, -1, n) + torch.arange(n, device=x.device) + first[:, :, None]
    steps = [(first + here.to(x.device)).flatten() for here in _steps(h, w, reach)]
    for seen in away.unbind(1):
        sources = seen.flatten()
        for here in steps:
            pixel.index_copy_(0, here, pixel.index_select(0, sources.index_select(0, here)))
    order = pixel.reshape(b, 1, n).expand(b, c, n)
    return gaussian(gaussian(x, sigma).flatten(2).gather(2, order).reshape(x.shape), sigma)


def _steps(h: int, w: int, reach: int) -> Iterator[Tensor]:
    """The positions, in the flat image, that are replaced in each step."""
    rows, columns = max(0, h - 2 * reach), max(0, w - 2 * reach)
    for step in range((rows - 1) * (2 * reach + 1) + columns if rows and columns else 0):
        r = np.arange(max(0, -(-(step - columns + 1) // (2 * reach + 1))), min(rows - 1, step // (2 * reach + 1)) + 1)
        s = step - r * (2 * reach + 1)
        if len(r):
            yield torch.from_numpy((h - reach - r) * w + (w - reach - s))
