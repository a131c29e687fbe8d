"""New pictures from cut-outs: an object of a drawn size, place and direction before a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.cutouts import CutoutSet, eight_bits
from tutelage.data.emoji import SUBJECTS, emoji
from tutelage.data.images import Split
from tutelage.data.photographs import photo_crops
from tutelage.threats.attributes.geometry import centred, cropped, pasted, to_rate, turned


@dataclass(frozen=True)
class Placing:
    """How objects are drawn into their frames. rate: shares of the frame, uniform between the two (in the logarithm if
    `log_rate`); angle: degrees to either side; shift: of the middle, in shares of the frame's side, to either side; None: any
    place where the object fits.
    """

    rate: tuple[float, float] = (0.25, 0.45)
    angle: float = 10.0
    shift: float | None = 0.1
    log_rate: bool = False

    def __post_init__(self) -> None:
        for bound in self.rate:
            check_number("rate", bound, "shares of the frame above 0 and below 1", low=1e-6, high=1 - 1e-6)
        if self.rate[0] > self.rate[1]:
            raise InputError("rate", self.rate, "the smaller share first")
        check_number("angle", self.angle, "degrees from 0 to 180", low=0, high=180)
        if self.shift is not None:
            check_number("shift", self.shift, "a share of the side from 0 to 0.5", low=0, high=0.5)


def placed(
    cutouts: Tensor,
    backgrounds: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    placing: Placing,
    *,
    seed: int,
    **about: Any,
) -> CutoutSet:
    """Cut-outs (N, 4, h, w) with straight alpha, drawn into the frames of backgrounds (N, 3, H, W); both uint8 or in [0, 1].

    Objects are turned, then resized to their rate (as near as the frame allows), then placed; draws come from `seed`, one
    generator a picture. The result holds uint8.
    """
    if cutouts.dim() != 4 or cutouts.shape[1] != 4 or not len(cutouts):
        raise InputError("cutouts", f"shape {tuple(cutouts.shape)}", "images with alpha (N, 4, H, W)")
    if backgrounds.dim() != 4 or backgrounds.shape[:2] != (len(cutouts), 3):
        raise InputError("backgrounds", f"shape {tuple(backgrounds.shape)}", f"({len(cutouts)}, 3, H, W)")
    height, width = backgrounds.shape[2:]
    source = generator(seed, "placing")
    draws = torch.rand(len(cutouts), 4, generator=source, dtype=torch.float64).tolist()
    low, high = placing.rate
    colours, alphas = [], []
    for cutout, (a, b, u, v) in zip(cutouts, draws, strict=True):
        whole = cutout.float() / 255 if cutout.dtype == torch.uint8 else cutout
        layer = torch.cat([whole[:3] * whole[3:], whole[3:]])
        rate = low * (high / low) ** a if placing.log_rate else low + (high - low) * a
        crop = turned(cropped(layer)[0], placing.angle * (2 * b - 1)) if placing.angle else cropped(layer)[0]
        crop, _ = to_rate(cropped(crop)[0], rate, height, width)
        if placing.shift is None:
            top, left = int(u * (height - crop.shape[1] + 1)), int(v * (width - crop.shape[2] + 1))
            new = pasted(crop, top, left, height, width)
        else:
            y, x = (n / 2 + n * placing.shift * (2 * w - 1) for n, w in ((height, u), (width, v)))
            new = centred(crop, y, x, height, width)
        colours.append(eight_bits(torch.where(new[3:] > 0, new[:3] / new[3:].clamp_min(1e-6), 0)))
        alphas.append(eight_bits(new[3:]))
    behind = backgrounds if backgrounds.dtype == torch.uint8 else eight_bits(backgrounds)
    return CutoutSet(torch.stack(colours), torch.stack(alphas), behind, labels, classes, **about)


def emoji_pictures(
    n: int,
    photographs: Sequence[Tensor] | Tensor,
    *,
    split: Split,
    size: int = 48,
    styles: str | Sequence[str] = ("noto", "noto-v1", "fluent-flat"),
    groups: str | Sequence[str] = SUBJECTS,
    placing: Placing | None = None,
    seed: int = 0,
) -> CutoutSet:
    """n bundled emoji of a split, each before a crop of a photograph (3, H, W): size x size pixels, labelled by group.

    Every drawing is used before one is used again. Photographs of the splits should be different ones, too.
    """
    check_integer("n", n)
    drawings = emoji(styles=styles, split=split, groups=groups)
    rounds = -(-n // len(drawings))
    source = generator(seed, "drawings")
    order = torch.cat([torch.randperm(len(drawings), generator=source) for _ in range(rounds)])[:n]
    part = drawings.take(order)
    labels, classes = part.labels()
    behind = photo_crops(photographs, n, size, seed=seed)
    name = "emoji on photographs"
    return placed(part.images, behind, labels, classes, placing or Placing(), seed=seed, name=name, split=split)
