"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): e^k = (1 - k) e(null) + k e(prompt)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tutelage.core.checks import check_number
from tutelage.models.diffusion.denoiser import Condition, Denoiser, joined
from tutelage.models.diffusion.guidance.scales import HIGHEST


class Guidance(Protocol):
    """What a sampler calls at each step: the output of the denoiser's own kind at x (B, ...), t (B,)."""

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition) -> Tensor: ...


def cfg(cond: Tensor, uncond: Tensor, scale: Tensor | float) -> Tensor:
    """(1 - k) uncond + k cond, with one k or one a sample (B,); exact at k = 0, at k = 1 and where both are the same.

    It may be used on eps, v or x0: at one x_t they are affine in each other.
    """
    if isinstance(scale, Tensor):
        scale = scale.to(cond).reshape(-1, *[1] * (cond.dim() - 1))
    return torch.lerp(uncond, cond, scale)


@dataclass(frozen=True)
class ClassifierFree:
    """scale: k; 1 costs one call of the network, any other two. negative: a prompt in place of the null one."""

    scale: float = 3.0
    negative: str = ""

    def __post_init__(self) -> None:
        check_number("scale", self.scale, f"a scale from 0 to {HIGHEST:g} (1 is no guidance)", low=0, high=HIGHEST)

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if self.scale == 1:
            return denoiser.denoise(x, t, condition)
        against = denoiser.encode([self.negative]).expand(len(x))
        cond, uncond = denoiser.denoise(x.repeat(2, 1, 1, 1), t.repeat(2), joined(condition, against)).chunk(2)
        return cfg(cond, uncond, self.scale)
