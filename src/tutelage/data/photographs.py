"""Photographs to put things before: crops of the two that come with scikit-learn, or of your own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import generator

SAMPLES = ("china", "flower")


def sample_photograph(name: Literal["china", "flower"]) -> Tensor:
    """A photograph that every installation has, (3, 427, 640) uint8: "china" (a temple and its park) or "flower".

    They come with scikit-learn, under CC BY 2.0.
    """
    check_choice("name", name, SAMPLES)
    return _sample(name).clone()


@cache
def _sample(name: str) -> Tensor:
    from sklearn.datasets import load_sample_image

    return torch.from_numpy(np.array(load_sample_image(f"{name}.jpg"))).permute(2, 0, 1).contiguous()


def photo_crops(photographs: Sequence[Tensor] | Tensor, n: int, size: int, *, seed: int) -> Tensor:
    """n square crops (n, 3, size, size) uint8 of photographs (3, H, W) uint8, drawn by `seed`.

    A crop's side is between a quarter and all of the shorter side of its photograph, at least `size` pixels where the
    photograph has them; it is resized, antialiased. Each photograph is used before one is used again.
    """
    check_integer("n", n)
    check_integer("size", size)
    for one in photographs:
        if not isinstance(one, Tensor) or one.dim() != 3 or one.shape[0] != 3 or one.dtype != torch.uint8:
            got = f"{one.dtype} of shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            raise InputError("photographs", got, "uint8 images (3, H, W)")
    if not len(photographs):
        raise InputError("photographs", "none", "at least one")
    source = generator(seed, "photographs")
    rounds = -(-n // len(photographs))
    order = torch.cat([torch.randperm(len(photographs), generator=source) for _ in range(rounds)])[:n].tolist()
    draws = torch.rand(n, 3, generator=source, dtype=torch.float64).tolist()
    crops = []
    for which, (a, u, v) in zip(order, draws, strict=True):
        photo = photographs[which]
        shorter = min(photo.shape[1:])
        side = max(min(size, shorter), round(shorter * (0.25 + 0.75 * a)))
        top, left = int(u * (photo.shape[1] - side + 1)), int(v * (photo.shape[2] - side + 1))
        crop = photo[None, :, top : top + side, left : left + side].float()
        if side != size:
            crop = F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        crops.append(crop.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(crops)
