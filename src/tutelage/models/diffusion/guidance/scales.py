"""Guidance scales, one number a sample: always the same, or drawn anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError

HIGHEST = 100.0


class GuidanceScale(Protocol):
    """sample: (batch,) scales, from a CPU generator."""

    def sample(self, batch: int, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Fixed:
    """The same scale k for every sample; 0 <= k <= 100."""

    k: float

    def __post_init__(self) -> None:
        check_number("k", self.k, f"a scale from 0 to {HIGHEST:g} (1 is no guidance)", low=0, high=HIGHEST)

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.full((batch,), float(self.k))


@dataclass(frozen=True)
class Uniform:
    """k ~ U(k_min, k_max), for each sample its own, or one for the batch; 0 <= k_min <= k_max <= 100."""

    k_min: float = 0.5
    k_max: float = 4.0
    per: str = "sample"

    def __post_init__(self) -> None:
        for name in ("k_min", "k_max"):
            check_number(name, getattr(self, name), f"a scale from 0 to {HIGHEST:g} (1 is no guidance)", low=0, high=HIGHEST)
        if self.k_min > self.k_max:
            raise InputError("k_min", self.k_min, f"at most k_max, {self.k_max}")
        if self.per not in ("sample", "batch"):
            raise InputError("per", self.per, "sample or batch")

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(batch if self.per == "sample" else 1, generator=generator)
        return (self.k_min + (self.k_max - self.k_min) * drawn).expand(batch).clone()
