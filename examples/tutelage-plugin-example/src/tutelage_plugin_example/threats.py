"""Two threats: one that changes images by itself, one that attacks within a budget."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.threats import PGD
from tutelage.threats.budgets import Budget
from tutelage.threats.engine import Attack


def raster(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Every second row of pixels becomes black, from the first or the second on as the generator says.

    x: (B, C, H, W) in [0, 1]; the result has the same shape and range.
    """
    first = int(torch.randint(2, (1,), generator=generator))
    changed = x.clone()
    changed[..., first::2, :] = 0
    return changed


def corner(budget: Budget) -> Attack:
    """Two steps as long as the budget, from corner to corner of it. For `--threats corner:linf@8/255`."""
    return PGD(budget, steps=2, relative_step=1.0, start="clean")
