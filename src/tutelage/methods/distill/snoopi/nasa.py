"""Negative prompts in cross-attention: NASA (7) and NAG (8), as processors of `models.diffusion.attention`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.models.diffusion.attention import TwoPrompts, processors, side_by_side
from tutelage.models.diffusion.denoiser import Condition

HIGHEST_ALPHA = 10.0


@dataclass(frozen=True)
class NASA:
    """(7) Z = Z+ - alpha Z-: no weights, no further call of the network. alpha from 0 to 10, one number or (B,)."""

    alpha: float | Tensor = 0.3

    def __post_init__(self) -> None:
        wanted = f"a strength from 0 to {HIGHEST_ALPHA:g}"
        for value in self.alpha.tolist() if isinstance(self.alpha, Tensor) else [self.alpha]:
            check_number("alpha", value, wanted, low=0, high=HIGHEST_ALPHA)

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        alpha = self.alpha.to(positive).reshape(-1, 1, 1) if isinstance(self.alpha, Tensor) else self.alpha
        left: Tensor = positive - alpha * negative
        return left


@dataclass(frozen=True)
class NAG:
    """(8) Normalized attention guidance (Chen et al., arXiv 2505.21179), with Z+, Z- of each token in norm p:

        Zt = Z+ + phi (Z+ - Z-),   R = |Zt| / |Z+|,   Zt <- Zt min(R, tau) / R,   Z = a Zt + (1 - a) Z+

    The paper takes p = 1; its released processor for Flux p = 2, and calls phi + 1 its scale.
    """

    phi: float = 4.0
    tau: float = 2.5
    a: float = 0.25
    norm_p: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        check_number("phi", self.phi, "a number from 0 to 100", low=0, high=100)
        check_number("tau", self.tau, "a ratio of at least 1", low=1)
        check_number("a", self.a, "a share from 0 to 1", low=0, high=1)
        if self.norm_p not in (1, 2):
            raise InputError("norm_p", self.norm_p, "1 or 2")

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        further = positive + self.phi * (positive - negative)
        length = further.norm(p=self.norm_p, dim=2, keepdim=True)
        ratio = length / positive.norm(p=self.norm_p, dim=2, keepdim=True).clamp_min(1e-12)
        held = further * (ratio.clamp(max=self.tau) / ratio.clamp_min(1e-12))
        mixed: Tensor = positive + self.a * (held - positive)
        return mixed


@contextmanager
def negative_attention(net: nn.Module, positive: Condition, negative: Condition, combine: NASA | NAG) -> Iterator[Condition]:
    """Cross-attention of `net` combines both prompts while the block runs; gives the Condition to call it with.

    Raises InputError if `net` has no cross-attention that could, and if no layer of it was passed: then the negative prompt
    would have changed nothing.
    """
    processor = TwoPrompts(positive.features.shape[1], combine)
    with processors(net, processor):
        yield side_by_side(positive, negative)
    if not processor.calls:
        raise InputError("net", "no call of its cross-attention", "a network that looks at its prompt in this call")
