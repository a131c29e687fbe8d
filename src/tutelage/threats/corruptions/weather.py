"""Weather: snow, frost, fog, brightness."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.threats.corruptions.common import Draws, enlarged, luminance, streaked

Source = Literal["photographs", "procedural"]


def snow(
    x: Tensor, draws: Draws, mean: float, std: float, zoom: float, threshold: float, radius: float, sigma: float, keep: float
) -> Tensor:
    """Flakes are enlarged noise above a threshold, blown down at an angle from -135 to -45 degrees and laid on twice, the
    second time turned by 180 degrees. The scene below is whitened: keep x + (1 - keep) max(x, 1.5 luminance + 0.5)."""
    h, w = x.shape[2:]
    zoom = max(1.0, zoom)
    noise = draws.normal(1, math.ceil(h / zoom), math.ceil(w / zoom)) * std + mean
    flakes = enlarged(noise, zoom, h, w)
    flakes = streaked(torch.where(flakes < threshold, 0, flakes).clamp_(0, 1), radius, sigma, draws.between(-135, -45))
    white = torch.maximum(x, luminance(x).mul(1.5).add_(0.5))
    return white.lerp_(x, keep).add_(flakes + flakes.flip(2, 3))


def frost(x: Tensor, draws: Draws, keep: float, strength: float, scale: float) -> Tensor:
    """keep x + strength t, t a random part of one of five textures that are enlarged by `scale`.

    The textures are the published photographs where `$TUTELAGE_DATA/frost-textures/frost.parquet` is at hand, otherwise
    procedural ones: see `frost_source`.
    """
    h, w = x.shape[2:]
    textures = _textures(str(_photographs() or ""), scale, max(h, w))
    out = torch.empty_like(x)
    for i, (which, top, left) in enumerate(draws.uniform(3).tolist()):
        texture = textures[int(which * len(textures))]
        y, z = int(top * (texture.shape[1] - h)), int(left * (texture.shape[2] - w))
        part = texture[:, y : y + h, z : z + w].to(x) / 255
        out[i] = x[i] * keep + strength * (part if x.shape[1] == 3 else luminance(part[None])[0])
    return out


def frost_source() -> Source:
    """Which textures `frost` lays on now. Results with different ones do not compare: name the source beside them."""
    return "photographs" if _photographs() else "procedural"


def _photographs() -> Path | None:
    root = os.environ.get("TUTELAGE_DATA")
    path = Path(root).expanduser() / "frost-textures" / "frost.parquet" if root else None
    return path if path is not None and path.is_file() else None


@lru_cache(maxsize=4)
def _textures(path: str, scale: float, least: int) -> tuple[Tensor, ...]:
    """Textures (3, h, w), uint8, enlarged by `scale`, or by more where their sides would not exceed `least`."""
    images = _read(path) if path else [_crystals(i) for i in range(5)]
    made = []
    for image in images:
        factor = max(scale, (least + 1) / min(image.size))
        size = (math.ceil(image.width * factor), math.ceil(image.height * factor))
        pixels = np.asarray(image if size == image.size else image.resize(size, Image.Resampling.BILINEAR))
        made.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous())
    return tuple(made)


def _read(path: str) -> list[Image.Image]:
    try:
        rows = pq.read_table(path, columns=["image"]).column("image").to_pylist()
        # the published sets were made with the first five of the six
        return [Image.open(BytesIO(row["bytes"])).convert("RGB") for row in rows[:5]]
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise InputError("TUTELAGE_DATA", f"{path}, which cannot be read ({error})", "the frost textures") from error


@lru_cache(maxsize=8)
def _crystals(number: int, size: int = 512) -> Image.Image:
    """A procedural frost texture: needles in a few directions, each grown where a slow field favours it, on a pale ground."""
    rng = numpy_generator(number, "frost crystals")
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :]

    def field(along: float, across: float, angle: float) -> np.ndarray:
        u, v = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle) - fx * math.sin(angle)
        smooth = np.exp(-2 * math.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
        found = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * smooth).real
        return np.asarray(found / found.std())

    needles = np.zeros((size, size))
    for angle in rng.uniform(0, math.pi, 6):
        favour = 1 / (1 + np.exp(-4 * (field(40, 40, 0) - 0.3)))
        needles = np.maximum(needles, favour * np.clip(field(16, 1.2, angle), 0, None))
    ground = field(60, 60, 0)
    level = 0.3 + 0.12 * ground + 0.28 * needles + 0.05 * field(1.5, 1.5, 0)
    shade = np.array([0.86, 0.94, 1.0])
    return Image.fromarray((np.clip(level[:, :, None] * shade, 0, 1) * 255).astype(np.uint8))


def fog(x: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """(x + amount p) m / (m + amount): p a plasma in [0, 1], m the highest value of the image."""
    h, w = x.shape[2:]
    side = 1 << max(1, (max(h, w) - 1).bit_length())
    heights = plasma(draws.coarse(side, side), decay)
    lowest, top = heights.flatten(1).amin(1), heights.flatten(1).amax(1)
    highest = x.amax((1, 2, 3))
    share = highest / (highest + amount)
    haze = heights[:, None, :h, :w] - _each(lowest)
    haze.mul_(_each(amount * share / (top - lowest).clamp_min(torch.finfo(x.dtype).tiny)))
    return torch.addcmul(haze, x, _each(share))


def _each(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]


def plasma(noise: Tensor, decay: float) -> Tensor:
    """Diamond-square heights of noise in [-1/2, 1/2), (B, n, n) with n a power of two; periodic, in some unit.

    Each new point is the mean of its four neighbours plus noise whose amplitude falls by decay^2 from level to level. First
    the middles of squares, then those of their edges. The unit of the result is the amplitude of the last level.
    """
    b, n = noise.shape[:2]
    numbers = noise.flatten(1)
    heights = torch.zeros_like(noise[:, :1, :1])
    while (m := heights.shape[1]) < n:
        # an m x m grid becomes a 2m x 2m one by three new points for each old one: numbers m^2 to 4 m^2
        waves = numbers[:, m * m : 4 * m * m].reshape(b, 3, m, m)
        finer = noise.new_empty(b, m, 2, m, 2)
        pairs = torch.view_as_complex(finer)  # two neighbours of a row, written in one go
        heights = heights * decay**2
        pair = heights + heights.roll(-1, 2)
        middle = torch.add(waves[:, 0], pair + pair.roll(-1, 1), alpha=0.25)
        right = torch.add(waves[:, 1], pair.add_(middle).add_(middle.roll(1, 1)), alpha=0.25)
        torch.complex(heights, right, out=pairs[:, :, 0])
        below = heights.roll(-1, 1).add_(heights).add_(middle).add_(middle.roll(1, 2))
        torch.complex(torch.add(waves[:, 2], below, alpha=0.25), middle, out=pairs[:, :, 1])
        heights = finer.reshape(b, 2 * m, 2 * m)
    return heights


def brightness(x: Tensor, draws: Draws, more: float) -> Tensor:
    """The value of HSV, the highest colour of a pixel, rises by `more`, to 1 at most; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp_max_(1)
    # hue and saturation stay where all colours grow by one factor; black has neither and becomes grey
    return torch.where(value > 0, x * (brighter / value.clamp_min(torch.finfo(x.dtype).tiny)), brighter)
