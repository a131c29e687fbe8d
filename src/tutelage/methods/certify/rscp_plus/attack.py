"""The attacks that RSCP+ sets are meant to withstand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.guarantees.noise import GaussianNoise, device_of
from tutelage.guarantees.smoothing import SmoothedModel
from tutelage.models.checks import check_inputs, check_labels
from tutelage.threats.budgets import L2
from tutelage.threats.engine import PGD
from tutelage.threats.objectives import AttackBatch, Objective, cross_entropy


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
    at: float | None = None,
    softness: float = 0.05,
    batch_size: int = 256,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """x' (B, ...) within L2 eps of x that raises the smoothed score of the true label y, by PGD over `draws` noise draws.

    The draws are its own, unknown to the sets. at None: it climbs the cross-entropy of the mean probabilities (SmoothAdv),
    for HPS the smoothed score itself. at: a score; it climbs the share of draws whose score 1 - p_y is above it, softened by
    a sigmoid of that width: what a transformation (PTT) with its step there counts. All steps are used: it does not stop at
    the first error. Raises InputError as `PGD.run` does.
    """
    check_integer("batch_size", batch_size)
    check_inputs(x, bounds)
    check_labels(y, len(x))
    check_positive("softness", softness, "a width > 0, in units of the score")
    smooth: SmoothedModel
    objective: Objective
    if at is None:
        smooth, objective = SmoothedModel(model, noise.fresh("attack"), shape=x.shape[1:], draws=draws), cross_entropy
    else:
        check_number("at", at, "a score from 0 to 1, or None", low=0, high=1)
        smooth, objective = _Draws(model, noise.fresh("attack"), shape=x.shape[1:], draws=draws), _Above(at, softness, draws)
    device = device_of(model, x)
    attack = PGD(L2(eps), steps=steps, bounds=bounds, retire=False, accept=_never, objective=objective)
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    smooth = smooth.to(device)
    found = [attack.run(smooth, part.to(device), labels.to(device), generator).x_adv for part, labels in parts]
    return torch.cat(found).to(x.device)


class _Draws(SmoothedModel):
    """The log probabilities of every draw, (B, draws * classes)."""

    def forward(self, x: Tensor) -> Tensor:
        log_p: Tensor = self.log_probabilities(x).flatten(1)
        return log_p


class _Above:
    """The softened share of draws in which 1 - p_y is above `at`."""

    def __init__(self, at: float, softness: float, draws: int) -> None:
        self.at, self.softness, self.draws = at, softness, draws

    def __call__(self, outputs: Tensor, batch: AttackBatch) -> Tensor:
        log_p = outputs.reshape(len(outputs), self.draws, -1)
        own = log_p.gather(2, batch.y[:, None, None].expand(-1, self.draws, 1)).squeeze(2).exp()
        return ((1 - own - self.at) / self.softness).sigmoid().mean(1)


def _never(outputs: Tensor, batch: AttackBatch) -> Tensor:
    return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)
