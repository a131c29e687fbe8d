"""Attacks on models that tell a label and nothing else: the smallest change, found from answers of yes and no.

Of what the model returns only `accept` is looked at, which by default takes the argmax. Logits, probabilities and gradients
are never used, so a model that hides them is no safer. With

    phi(x') = 1 if x' is misclassified, else -1,                                                                    (1)

the search follows the norm: in Linf along rays of signs (`rays`: RayS, Chen & Gu 2020, arXiv 2006.12792), in L2 and L1 along
the border (`hops`: HopSkipJump, Chen et al. 2020, arXiv 1904.02144).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.threats.asked import Asked
from tutelage.threats.budgets import L1, L2, Linf
from tutelage.threats.engine import Attack, AttackResult
from tutelage.threats.hops import search_hops
from tutelage.threats.minimal import FAR, Distances
from tutelage.threats.objectives import AttackBatch, Objective, misclassified
from tutelage.threats.rays import search_rays

FEWEST_AT_ONCE = 64  # points that the model is given at a time, or as many as the batch has


def zero_one(logits: Tensor, batch: AttackBatch) -> Tensor:
    """1 where the sample is misclassified (a targeted one: where it is the target), else 0."""
    return misclassified(logits, batch).to(logits.dtype)


@dataclass(frozen=True)
class Decision(Attack):
    """The smallest change by labels alone, in Linf, L2 or L1. As an `Attack` it succeeds where that is within the budget.

    queries: forward passes a sample and restart, at most. reach: how far from x, in the budget's norm, a first broken point is
    looked for when `bounds` is None (default 16 eps); with bounds it is their whole range. The objective is `zero_one` and no
    other; a sample that holds comes back as it was, as labels do not tell how near it came. With retire=False the search
    goes on inside the budget, for a smaller change. The other fields are those of `Attack`.

    Raises InputError for a budget in another norm, or another objective.

    Example::

        import torch
        from torch import nn
        from tutelage.threats import L2, Decision

        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        x = torch.rand(8, 1, 8, 8)
        y = model(x).argmax(1)
        found = Decision(L2(0.5), queries=500).distances(model, x, y, torch.Generator().manual_seed(0))
        print(found.distance, found.accuracy(0.5))
    """

    needs_gradients: ClassVar[bool] = False

    queries: int = 2000
    reach: float | None = None
    objective: Objective = field(default=zero_one, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("queries", self.queries)
        if self.reach is not None:
            check_positive("reach", self.reach, "a number > 0, in input units")
        if not isinstance(self.budget, Linf | L2 | L1):
            raise InputError("budget", self.budget, "a budget in linf, l2 or l1")
        if self.objective is not zero_one:
            raise InputError("objective", self.objective, "none: this attack looks at labels only")

    @property
    def name(self) -> str:
        return f"Decision-{self.queries}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    @property
    def settings(self) -> dict[str, object]:
        search = "rays" if isinstance(self.budget, Linf) else "hops"
        return {**super().settings, "queries": self.queries, "search": search, "needs": "labels only"}

    def distances(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Distances:
        """How far x (B, ...) with labels y (B,) is from breaking, whatever the budget's eps; all queries are used."""
        largest = float(torch.as_tensor(self.budget.eps).max())
        reach = self.reach if self.reach is not None else 16 * largest or 1.0
        wide = replace(self, budget=type(self.budget)(FAR), reach=reach, retire=False)
        result = wide.run(model, x, y, generator)
        size = self.budget.size(x, result.x_adv)
        return Distances(torch.where(result.success, size, torch.inf), result.x_adv, result.forward, result.backward)

    @torch.no_grad()
    def _climb(
        self, model: nn.Module, batch: AttackBatch, active: Tensor, noise: Noise, found: AttackResult, *, first: bool
    ) -> None:
        sources = [noise] if isinstance(noise, torch.Generator) else list(noise)
        wrong = found.success & (found.x_adv == batch.x).flatten(1).all(1)  # nothing is nearer than x itself
        todo = (~wrong[active]).nonzero().squeeze(1)
        active = active[todo]
        if not len(active):
            return
        part, budget = batch.take(active), self.budget.take(active)
        if self.bounds is not None:
            reach = torch.maximum(part.x - self.bounds[0], self.bounds[1] - part.x).flatten(1).amax(1)
        else:
            reach = torch.as_tensor(16 * budget.eps if self.reach is None else self.reach).to(part.x).expand(len(active))
        sources = [sources[i] for i in todo.tolist()]
        at_once = max(FEWEST_AT_ONCE, len(batch.x))
        asked = Asked(self, model, part, budget, active, sources, found, at_once, reach)
        if isinstance(self.budget, Linf):
            search_rays(asked, self.queries, first=first)
        else:
            search_hops(asked, self.queries)
