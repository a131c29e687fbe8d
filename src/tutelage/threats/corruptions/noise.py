"""Noise: each value of an image is disturbed by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.threats.corruptions.common import Draws


def gaussian_noise(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """x + sigma n, n standard normal: a sensor in low light."""
    return draws.normal(*x.shape[1:]).mul_(sigma).add_(x)


def shot_noise(x: Tensor, draws: Draws, photons: float) -> Tensor:
    """Poisson(photons x) / photons: light comes in quanta, `photons` of them where x = 1."""
    return draws.poisson(x * photons).div_(photons)


def impulse_noise(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Salt and pepper: a share of all values, each colour by itself, becomes 0 or 1 with equal odds."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u >= share / 2).to(x), x)
