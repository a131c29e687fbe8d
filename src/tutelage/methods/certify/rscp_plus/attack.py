"""The attack that RSCP+ sets are meant to withstand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.guarantees.noise import GaussianNoise
from tutelage.guarantees.smoothing import SmoothedModel
from tutelage.models.checks import check_inputs, check_labels
from tutelage.threats.budgets import L2
from tutelage.threats.engine import PGD
from tutelage.threats.objectives import AttackBatch


def attack_sets(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    noise: GaussianNoise,
    *,
    eps: float,
    steps: int = 20,
    draws: int = 32,
    generator: torch.Generator,
    batch_size: int = 256,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """x' (B, ...) within L2 eps of x that raises the smoothed score of the true label y: PGD on SmoothAdv's objective.

    It climbs the cross-entropy of the mean probabilities over `draws` draws of its own, unknown to the sets; for HPS that
    is the smoothed score (1) itself. All steps are used: it does not stop at the first error.
    """
    check_integer("batch_size", batch_size)
    check_inputs(x, bounds)
    check_labels(y, len(x))
    smooth = SmoothedModel(model, noise.fresh("attack"), shape=x.shape[1:], draws=draws).to(x.device)
    attack = PGD(L2(eps), steps=steps, bounds=bounds, retire=False, accept=_never)
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([attack.run(smooth, part, labels, generator).x_adv for part, labels in parts])


def _never(outputs: Tensor, batch: AttackBatch) -> Tensor:
    return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)
