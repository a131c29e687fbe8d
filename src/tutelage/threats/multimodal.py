"""Attacks on several modalities at once: joint and per-modality budgets, PGD and FGM.

A sample of several modalities is laid out as one vector, so that the attack engine and its budgets are used as they are:

    Joint(L2(0.5))                                   one ball for all modalities together
    Joint(L2(0.5), over=("audio",))                  the same ball, but only in the audio
    PerModality({"audio": L2(0.3), "image": Linf(8 / 255)})   a ball of its own for each; the others stay as they are

Modalities that a sample does not have, and steps beyond its length, are never moved. Inputs have no common range, so there is
none by default: `clip` gives one for each modality that has it, such as {"image": (0.0, 1.0)}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.modalities import MultiModalBatch, Values, as_batch
from tutelage.core.rng import Noise
from tutelage.core.rng import generator as make_generator
from tutelage.threats.budgets import BUDGETS, Budget
from tutelage.threats.engine import PGD, Attack, Start
from tutelage.threats.objectives import Objective, cross_entropy

Clip = Mapping[str, tuple[float, float]]
Inputs = MultiModalBatch | Mapping[str, Values]


@dataclass(frozen=True)
class Joint:
    """One budget around all modalities in `over` (None: all), laid side by side as one vector. Units: of the inputs."""

    budget: Budget
    over: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            raise InputError("budget", self.budget, "a Budget such as L2(0.5)")
        over: object = self.over
        if over is not None and (not isinstance(over, tuple) or not over):
            raise InputError("over", over, 'a tuple of modalities such as ("audio",), or None for all')

    def __str__(self) -> str:
        return f"{self.budget} over {' + '.join(self.over) if self.over else 'all modalities'}"


@dataclass(frozen=True)
class PerModality:
    """A budget for each modality named; the others do not move."""

    budgets: Mapping[str, Budget]

    def __post_init__(self) -> None:
        if not isinstance(self.budgets, Mapping) or not self.budgets:
            raise InputError("budgets", self.budgets, 'a budget a modality, such as {"audio": L2(0.3)}')
        for name, budget in self.budgets.items():
            if not isinstance(budget, Budget) or isinstance(budget.eps, Tensor):
                raise InputError("budgets", f"{name}: {budget}", "a Budget with one number as eps, such as L2(0.3)")

    def __str__(self) -> str:
        return ", ".join(f"{name} {budget}" for name, budget in self.budgets.items())


Threat = Joint | PerModality


@dataclass(frozen=True)
class ProductBudget(Budget):
    """A product of budgets over parts of a vector (B, D); what no part covers does not move.

    parts: (first, end, budget). eps is a factor on the eps of all of them; `size` is the largest of size / eps over the
    parts, so that 1 is the edge, and infinite where something moved that may not.
    """

    norm: ClassVar[str] = "product"
    parts: tuple[tuple[int, int, Budget], ...] = ()

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        out = x.clone()
        for a, b, inner in self.parts:
            out[:, a:b] = inner.scaled(self.eps).project(x[:, a:b], x_adv[:, a:b])  # type: ignore[arg-type]
        return out

    def sample(self, x: Tensor, noise: Noise) -> Tensor:
        out = torch.zeros_like(x)
        for a, b, inner in self.parts:
            out[:, a:b] = inner.scaled(self.eps).sample(x[:, a:b], noise)  # type: ignore[arg-type]
        return out

    def size(self, x: Tensor, x_adv: Tensor) -> Tensor:
        rest = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        found = x.new_zeros(len(x))
        for a, b, inner in self.parts:
            rest[a:b] = False
            found = torch.maximum(found, inner.size(x[:, a:b], x_adv[:, a:b]) / max(float(inner.eps), 1e-30))
        moved = (x_adv[:, rest] != x[:, rest]).any(1)
        return torch.where(moved, torch.inf, found)

    def steepest(self, grad: Tensor) -> Tensor:
        out = torch.zeros_like(grad)
        for a, b, inner in self.parts:
            out[:, a:b] = float(inner.eps) * inner.steepest(grad[:, a:b])
        return out


@dataclass(frozen=True)
class Layout:
    """Where the parts of a batch stand in one vector a sample: modalities that move, those that do not, presences, lengths.

    Presences and lengths travel as numbers in the vector, because the engine drops samples from a batch as it goes.
    """

    order: tuple[str, ...]  # the modalities, in the order of the batch
    moved: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    has_presence: bool
    timed: tuple[str, ...]

    @classmethod
    def of(cls, batch: MultiModalBatch, moved: Sequence[str]) -> Layout:
        shapes = {name: tuple(batch.tensor(name).shape[1:]) for name in batch.modalities}
        for name in moved:
            if not batch.tensor(name).is_floating_point():
                raise InputError(name, f"dtype {batch.tensor(name).dtype}", "floating point, as it is to be attacked")
        kept = tuple(name for name in batch.modalities if name in moved)
        return cls(batch.modalities, kept, shapes, batch.present is not None, tuple(batch.lengths))

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        found, at = {}, 0
        for name in (*self.moved, *(one for one in self.order if one not in self.moved)):
            found[name] = (at, at + math.prod(self.shapes[name]))
            at = found[name][1]
        return found

    @property
    def free(self) -> int:
        """Coordinates that move; they stand first."""
        return sum(math.prod(self.shapes[name]) for name in self.moved)

    @property
    def bare(self) -> bool:
        """Whether there is nothing in the vector but what moves."""
        return len(self.moved) == len(self.order) and not self.has_presence and not self.timed

    def join(self, batch: MultiModalBatch) -> Tensor:
        """(B, D)."""
        places = self.places
        like = batch.tensor(self.moved[0])
        parts = [batch.tensor(name).flatten(1).to(like) for name in places]
        if batch.present is not None:
            parts.append(batch.present.to(like))
        parts += [batch.lengths[name][:, None].to(like) for name in self.timed]
        return torch.cat(parts, 1)

    def split(self, vector: Tensor) -> MultiModalBatch:
        """The batch of vectors (B, D); only what moves lets gradients through."""
        inputs: dict[str, Values] = {}
        places = self.places
        for name in self.order:
            a, b = places[name]
            part = vector[:, a:b].reshape(-1, *self.shapes[name])
            inputs[name] = part if name in self.moved else part.detach()
        at = max(end for _, end in places.values())
        present = None
        if self.has_presence:
            present = vector[:, at : at + len(self.order)].detach() > 0.5
            at += len(self.order)
        lengths = {name: vector[:, at + i].detach().round().long() for i, name in enumerate(self.timed)}
        return MultiModalBatch(inputs, present, lengths)

    def movable(self, vector: Tensor) -> Tensor | None:
        """(B, free) bool: what exists; None if all does."""
        if not self.has_presence and not set(self.timed) & set(self.moved):
            return None
        batch, parts = self.split(vector), []
        for name in self.moved:
            size = math.prod(self.shapes[name])
            exists = batch.has(name).to(vector.device)[:, None].expand(-1, size)
            if name in self.timed:
                steps = torch.arange(self.shapes[name][0], device=vector.device) < batch.lengths[name][:, None]
                exists = exists & steps.repeat_interleave(size // self.shapes[name][0], 1)
            parts.append(exists)
        return torch.cat(parts, 1)


class VectorModel(nn.Module):
    """A multi-modal model as the engine sees it: (B, D) -> logits."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, vector: Tensor) -> Tensor:
        logits: Tensor = self.model(self.layout.split(vector))
        return logits


@dataclass
class MultiModalResult:
    """What an attack found, for B samples in their order.

    inputs: the attacked batch. success: (B,) bool. loss: (B,), the objective there. moved: name -> (B,), L2 size of the
    change in each modality. forward, backward: samples passed through the model. warnings: reasons to distrust the result.
    """

    inputs: MultiModalBatch
    success: Tensor
    loss: Tensor
    moved: dict[str, Tensor]
    forward: int
    backward: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MultiModalPGD:
    """Projected gradient ascent on several modalities.

    threat: where inputs may move. steps: of `relative_step` times eps (default 2.5 / steps), along the gradient of all
    moving modalities as one vector (Joint), or of each by itself (PerModality). restarts: independent starts, each on what is
    unbroken. start: "uniform" in the budget, "gaussian" or "clean". clip: the range of valid inputs of a modality.
    """

    threat: Threat
    steps: int = 50
    relative_step: float | None = None
    restarts: int = 1
    start: Start = "uniform"
    objective: Objective = cross_entropy
    clip: Clip = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Joint | PerModality):
            raise InputError("threat", type(self.threat).__name__, "Joint(budget) or PerModality({name: budget})")
        check_integer("steps", self.steps)
        check_integer("restarts", self.restarts)
        if self.relative_step is not None:
            check_positive("relative_step", self.relative_step, "a number > 0, in units of eps")
        for name, ends in self.clip.items():
            if not isinstance(ends, tuple | list) or len(ends) != 2 or not ends[0] < ends[1]:
                raise InputError("clip", f"{name}: {ends}", "(lowest, highest) valid input")

    @property
    def name(self) -> str:
        return f"PGD-{self.steps}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    def prepared(self, inputs: Inputs) -> tuple[Layout, Tensor, PGD]:
        """The layout, the vectors (B, D) and the attack on vectors; InputError where threat and inputs do not fit."""
        batch = as_batch(inputs)
        names = self.threat.over if isinstance(self.threat, Joint) else tuple(self.threat.budgets)
        for name in (*(names or ()), *self.clip):
            if name not in batch.inputs:
                raise InputError("threat", name, f"modalities among {', '.join(batch.modalities)}")
        layout = Layout.of(batch, names or batch.modalities)
        for name, (low, high) in self.clip.items():
            x = batch.tensor(name)
            inside = (x >= low) & (x <= high) | ~batch.has(name).to(x.device).reshape(-1, *[1] * (x.dim() - 1))
            if not bool(inside.all()):
                got = f"{name} from {float(x.min()):.4g} to {float(x.max()):.4g}"
                raise InputError("inputs", got, f"values in [{low:g}, {high:g}], as clip says")
        attack = PGD(
            self._budget(layout), steps=self.steps, relative_step=self.relative_step, start=self.start,
            restarts=self.restarts, objective=self.objective, bounds=None, project=self._constraint(layout),
        )  # fmt: skip
        return layout, layout.join(batch), attack

    def run(self, model: nn.Module, inputs: Inputs, y: Tensor, generator: torch.Generator) -> MultiModalResult:
        """Attack inputs with labels y (B,); the strongest point found counts. See `Attack.run` for what is checked."""
        layout, vectors, attack = self.prepared(inputs)
        found = attack.run(VectorModel(model, layout), vectors, y, generator)
        places = layout.places
        change = found.x_adv - vectors
        moved = {name: torch.linalg.vector_norm(change[:, slice(*places[name])], dim=1) for name in layout.moved}
        return MultiModalResult(
            layout.split(found.x_adv), found.success, found.loss, moved, found.forward, found.backward, found.warnings
        )

    def __call__(self, inputs: Inputs, y: Tensor, *, model: nn.Module, generator: Noise) -> MultiModalBatch:
        """The last iterate from one start: the inner loop of a training."""
        layout, vectors, attack = self.prepared(inputs)
        return layout.split(attack(vectors, y, model=VectorModel(model, layout), generator=generator))

    def _budget(self, layout: Layout) -> Budget:
        if isinstance(self.threat, PerModality):
            parts = [(*layout.places[name], self.threat.budgets[name]) for name in layout.moved]
            return ProductBudget(1.0, tuple(parts))
        budget = self.threat.budget
        if layout.bare:
            return budget  # nothing else in the vector: the attack is exactly the ordinary one
        if isinstance(budget.eps, Tensor):
            return ProductBudget(budget.eps, ((0, layout.free, replace(budget, eps=1.0)),))
        return ProductBudget(1.0, ((0, layout.free, budget),))

    def _constraint(self, layout: Layout):  # type: ignore[no-untyped-def]
        """(x, x_adv) -> x_adv inside the valid ranges and only where there is something to move; None if that is everywhere.

        It is applied before the budget, whose projection draws points straight towards x, or coordinates towards those of
        x: so nothing leaves the ranges again.
        """
        masked = layout.has_presence or bool(set(layout.timed) & set(layout.moved))
        clipped = {name: ends for name, ends in self.clip.items() if name in layout.moved}
        if not masked and not clipped:
            return None
        low, high = torch.full((layout.free,), -math.inf), torch.full((layout.free,), math.inf)
        for name, ends in clipped.items():
            a, b = layout.places[name]
            low[a:b], high[a:b] = ends

        def constrain(x: Tensor, x_adv: Tensor) -> Tensor:
            part = x_adv[:, : layout.free].clamp(low.to(x), high.to(x))
            free = layout.movable(x)
            if free is not None:
                part = torch.where(free, part, x[:, : layout.free])
            return torch.cat([part, x[:, layout.free :]], 1)

        return constrain


def MultiModalFGM(threat: Threat, *, objective: Objective = cross_entropy, clip: Clip | None = None) -> MultiModalPGD:  # noqa: N802
    """The fast gradient method: one step of length eps along the gradient of all moving modalities together."""
    return MultiModalPGD(threat, steps=1, relative_step=1.0, start="clean", objective=objective, clip=clip or {})


def multimodal_pgd(
    model: nn.Module,
    inputs: Inputs,
    y: Tensor,
    *,
    eps: float | Mapping[str, float],
    norm: str = "l2",
    steps: int = 50,
    restarts: int = 1,
    joint: bool = True,
    start: Start = "uniform",
    relative_step: float | None = None,
    objective: Objective = cross_entropy,
    clip: Clip | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """PGD on named inputs, in one call: name -> attacked tensor.

    eps: one number for the joint ball (or, with joint=False, for the ball of every modality), or a number for each modality:
    then each has its own ball, and those not named do not move. norm: l2, linf or l1. eps 0 returns the inputs.
    """
    threat = threat_of(as_batch(inputs), eps, norm, joint)
    attack = MultiModalPGD(
        threat, steps, relative_step, restarts, start=start, objective=objective, clip=clip or {},
    )  # fmt: skip
    found = attack.run(model, inputs, y, make_generator(seed, "multimodal pgd"))
    return {name: found.inputs.tensor(name) for name in found.inputs.modalities}


def threat_of(batch: MultiModalBatch, eps: float | Mapping[str, float], norm: str = "l2", joint: bool = True) -> Threat:
    """The threat that `eps` and `norm` mean: Joint for one number, PerModality for several or joint=False."""
    check_choice("norm", norm, tuple(BUDGETS))
    kind = BUDGETS[norm]
    for value in eps.values() if isinstance(eps, Mapping) else [eps]:
        check_number("eps", value, "numbers >= 0, in units of the inputs", low=0)
    if isinstance(eps, Mapping):
        return PerModality({name: kind(value) for name, value in eps.items()})
    return Joint(kind(eps)) if joint else PerModality({name: kind(eps) for name in batch.modalities})


__all__ = [
    "Attack",
    "Joint",
    "Layout",
    "MultiModalFGM",
    "MultiModalPGD",
    "MultiModalResult",
    "PerModality",
    "ProductBudget",
    "VectorModel",
    "multimodal_pgd",
    "threat_of",
]
