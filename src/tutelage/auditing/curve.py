"""Accuracy over eps: one curve a norm, by gradients, each point on what the smaller budgets left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tutelage.auditing.measure import attack_set, predict
from tutelage.auditing.result import Curve, accuracy_row
from tutelage.auditing.state import State, file_name, key_of
from tutelage.core.progress import Progress
from tutelage.core.rng import generator
from tutelage.data.images import ImageSet
from tutelage.models.checks import is_differentiable
from tutelage.threats.budgets import Budget
from tutelage.threats.engine import PGD
from tutelage.threats.objectives import margin
from tutelage.threats.suite import Suite

CURVE_FACTORS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
CURVE_SAMPLES = 500


@dataclass
class Sweep:
    """A curve, and what each sample needed. breaks_at: position in the audited set -> smallest eps that broke it."""

    curve: Curve
    breaks_at: dict[int, float]


def swept_budgets(model: nn.Module, suites: Sequence[Suite]) -> dict[str, list[Budget]]:
    """The budgets of each norm, in the order of the threats: one curve a norm, through every eps that is audited in it.

    None for a model without gradients.
    """
    budgets: dict[str, list[Budget]] = {}
    for suite in suites if is_differentiable(model) else ():
        budgets.setdefault(suite.budget.norm, []).append(suite.budget)
    return budgets


def grid_of(budgets: Sequence[Budget]) -> list[float]:
    """Every eps of the curve through these budgets of one norm: multiples of the eps of each."""
    return sorted({round(float(budget.eps) * factor, 12) for budget in budgets for factor in CURVE_FACTORS})


def point_names(budgets: Sequence[Budget]) -> list[str]:
    """What the points of the curve through these budgets are called among the parts of an audit.

    A point is on what the smaller ones left: it is another where they are others.
    """
    grid = grid_of(budgets)
    key = key_of([type(budgets[0]).__qualname__, grid])
    return [file_name(f"curve-{budgets[0].norm}-{eps!r}-{key}") for eps in grid]


def sweep(
    model: nn.Module,
    images: ImageSet,
    budgets: Sequence[Budget],
    seed: int,
    batch_size: int,
    progress: Progress,
    parts: State,
) -> Sweep:
    """Accuracy over eps, from small to large; what a small budget broke is broken in every larger one.

    budgets: of one norm. At most CURVE_SAMPLES samples, drawn by `seed`.
    """
    norm, grid = budgets[0].norm, grid_of(budgets)
    positions = torch.arange(len(images))
    if len(images) > CURVE_SAMPLES:
        order = torch.randperm(len(images), generator=generator(seed, "curve"))
        positions = order[:CURVE_SAMPLES].sort().values
    part = images.take(positions)
    broken = predict(model, part, batch_size=batch_size).argmax(1) != part.labels
    breaks_at = torch.where(broken, 0.0, torch.inf)
    eps_grid, shares = [0.0], [accuracy_row("", "", ~broken)]
    with progress.task(f"curve over {norm} eps", len(grid)) as task:
        for eps, place in zip(grid, point_names(budgets), strict=True):
            budget = replace(budgets[0], eps=eps)
            attacks = Suite(budget, (("CE", PGD(budget)), ("margin", PGD(budget, objective=margin))))
            left = (~broken).nonzero().squeeze(1)
            if len(left):

                def point(left: Tensor = left, attacks: Suite = attacks) -> tuple[dict[str, Tensor], dict[str, object]]:
                    found = attack_set(model, part.take(left), attacks, seed=seed, batch_size=batch_size)
                    return {"left": left, "broken": found.broken}, {}

                found, _ = parts.part(place, point)
                hit = found["left"][found["broken"]]
                broken[hit] = True
                breaks_at[hit] = eps
            eps_grid.append(eps)
            shares.append(accuracy_row("", "", ~broken))
            task.advance()
    curve = Curve(norm, tuple(eps_grid), tuple(s.value for s in shares), tuple(s.ci95 for s in shares), len(part))
    return Sweep(curve, {int(p): float(b) for p, b in zip(positions, breaks_at, strict=True) if b < torch.inf})
