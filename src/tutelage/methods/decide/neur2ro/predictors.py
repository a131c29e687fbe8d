"""What CCG asks of a model of the second-stage value, and how the set network answers: (5), (7) of the package's docstring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.two_stage import Polytope, TwoStageProblem
from tutelage.data.worlds.two_stage.problem import Vector
from tutelage.guarantees.embedding import Affine, affine, constants, embed_relu, forward64, stacked, total, variables
from tutelage.guarantees.programs import Columns, ProgramBuilder
from tutelage.guarantees.solvers import Solver
from tutelage.methods.decide.neur2ro.network import ValueNet

Search = Literal["milp", "gradient", "sampling"]


class Predictor(Protocol):
    """A model of the second-stage value of one problem, in any units: it only compares scenarios."""

    def values(self, x: Vector, scenarios: Vector) -> Vector:
        """Predictions (T,) for x (n,) and scenarios (T, k)."""

    def embed(self, builder: ProgramBuilder, x: Columns, scenarios: Vector) -> Affine:
        """The predictions (T,) as expressions of the binary columns x (n,)."""

    def worst(self, x: Vector, seconds: float) -> tuple[Vector, float]:
        """The scenario (k,) with the greatest prediction for x, and that prediction."""


@dataclass(frozen=True)
class SearchConfig:
    """How the worst scenario is sought: as a mixed-integer program, by projected gradient ascent, or among samples.

    gap, node_limit: of the program; what the gradient found is its first point. starts, steps, lr: of the gradient (Adam; the
    published rate of 0.001 belongs to plain steps). samples: of "sampling".
    """

    search: Search = "milp"
    gap: float = 1e-3
    node_limit: int | None = None
    starts: int = 5
    steps: int = 100
    lr: float = 0.05
    samples: int = 1000
    solver: Solver = "highs"


class NetPredictor:
    """A value network for one problem. All is computed in float64, as the programs do; predictions are scaled labels."""

    def __init__(self, problem: TwoStageProblem, net: ValueNet, config: SearchConfig | None = None, *, seed: int = 0) -> None:
        self.problem, self.net, self.config, self.seed = problem, net, config or SearchConfig(), seed
        self.features = net.scaled_features(problem)
        n = problem.n_items
        self.scale = net.pool_scale(n)
        off = forward64(net.embed_x, np.concatenate([np.zeros((n, 1)), self.features], 1))
        on = forward64(net.embed_x, np.concatenate([np.ones((n, 1)), self.features], 1))
        # x_j is 0 or 1, so that the embedding of an item is linear in it: no binaries are needed for it
        self.x_base, self.x_slope = self.scale * off.sum(0), self.scale * (on - off)
        self.asked = 0

    def values(self, x: Vector, scenarios: Vector) -> Vector:
        return self._outputs(self._first(x)[None], self._second(x, scenarios))

    def _first(self, x: Vector) -> Vector:
        first: Vector = forward64(self.net.post_x, (self.x_base + x @ self.x_slope)[None])[0]
        return first

    def _second(self, x: Vector, scenarios: Vector) -> Vector:
        """Embeddings (T, post) of scenarios; of x too if the net is joint."""
        return forward64(self.net.post_xi, self.scale * self._items(x, scenarios).sum(1))

    def _items(self, x: Vector, scenarios: Vector) -> Vector:
        """(T, n, embed): what each item adds."""
        u = np.einsum("nek,sk->sne", self.problem.item_uncertainty, scenarios)
        known = np.concatenate([x[:, None], self.features], 1) if self.net.joint else self.features
        parts = [known[:, :1], u, known[:, 1:]] if self.net.joint else [u, known]
        inputs = np.concatenate([np.broadcast_to(part, (len(u), len(x), part.shape[-1])) for part in parts], 2)
        return forward64(self.net.embed_xi, inputs.reshape(-1, inputs.shape[2])).reshape(*inputs.shape[:2], -1)

    def _outputs(self, first: Vector, second: Vector) -> Vector:
        both = np.concatenate([np.broadcast_to(first, (len(second), first.shape[1])), second], 1)
        return forward64(self.net.value, both)[:, 0]

    def embed(self, builder: ProgramBuilder, x: Columns, scenarios: Vector) -> Affine:
        pooled = affine(builder, x, self.x_slope.T, self.x_base)
        first = embed_relu(builder, self.net.post_x, pooled, tighten=True)
        n = len(x)
        if self.net.joint:  # linear in x_j too: the item has one embedding for 0 and one for 1
            off, on = self._items(np.zeros(n), scenarios), self._items(np.ones(n), scenarios)
            second = [
                embed_relu(builder, self.net.post_xi, affine(builder, x, self.scale * slope.T, self.scale * base), tighten=True)
                for base, slope in zip(off.sum(1), on - off, strict=True)
            ]
        else:
            second = [constants(one) for one in self._second(np.zeros(n), scenarios)]
        return stacked([embed_relu(builder, self.net.value, stacked([first, one]), tighten=True) for one in second])

    def worst(self, x: Vector, seconds: float) -> tuple[Vector, float]:
        self.asked += 1
        rng = numpy_generator(self.seed, "adversary", self.asked)
        if self.config.search == "sampling":
            sampled = np.array([self.problem.sample_xi(rng) for _ in range(self.config.samples)])
            predicted = self.values(x, sampled)
            return sampled[predicted.argmax()], float(predicted.max())
        xi, value = self._ascent(x, rng)
        if self.config.search == "gradient":
            return xi, value
        found = self._program(x, xi, seconds)
        predicted = self.values(x, found[None])[0]
        return (found, float(predicted)) if predicted > value else (xi, value)

    def _ascent(self, x: Vector, rng: np.random.Generator) -> tuple[Vector, float]:
        """Projected gradient ascent from random scenarios, all at once; the best point on the way."""
        uncertainty = self.problem.uncertainty
        now = np.array([self.problem.sample_xi(rng) for _ in range(self.config.starts)])
        first = torch.from_numpy(self._first(x))
        maps = torch.from_numpy(np.ascontiguousarray(self.problem.item_uncertainty))
        features, taken, n = torch.from_numpy(self.features), torch.from_numpy(x)[:, None], len(x)
        best, best_value = now[0], -math.inf
        moments = [np.zeros_like(now), np.zeros_like(now)]
        for step in range(self.config.steps + 1):
            xi = torch.from_numpy(now).requires_grad_()
            u = torch.einsum("nek,sk->sne", maps, xi)
            parts = [taken, u, features] if self.net.joint else [u, features]
            inputs = torch.cat([part.expand(len(u), n, part.shape[-1]) for part in parts], 2)
            second = _forward(self.net.post_xi, self.scale * _forward(self.net.embed_xi, inputs).sum(1))
            out = _forward(self.net.value, torch.cat([first.expand(len(second), -1), second], 1))[:, 0]
            reached = out.detach().numpy()
            at = int(reached.argmax())
            if reached[at] > best_value:
                best, best_value = now[at], float(reached[at])
            if step == self.config.steps:
                break
            (slope,) = torch.autograd.grad(out.sum(), xi)
            g = slope.numpy()
            moments = [0.9 * moments[0] + 0.1 * g, 0.999 * moments[1] + 0.001 * g * g]
            m, v = moments[0] / (1 - 0.9 ** (step + 1)), moments[1] / (1 - 0.999 ** (step + 1))
            now = np.array([uncertainty.project(one) for one in now + self.config.lr * m / (np.sqrt(v) + 1e-8)])
        return best, best_value

    def _program(self, x: Vector, start: Vector, seconds: float) -> Vector:
        """max over xi in U of the network (7). The incumbent when a limit comes first."""
        uncertainty, n = self.problem.uncertainty, self.problem.n_items
        builder = ProgramBuilder()
        columns = builder.variables(uncertainty.n, uncertainty.lower, uncertainty.upper)
        if len(uncertainty.high):
            builder.rows(columns, uncertainty.matrix, high=uncertainty.high)
        xi = variables(builder, columns)
        items = []
        for j in range(n):
            maps = self.problem.item_uncertainty[j]
            used = np.flatnonzero(np.abs(maps).sum(0) > 0)  # only its own numbers, so that the rows stay short
            own = affine(builder, xi.columns[used], maps[:, used], np.zeros(len(maps)))
            before = [constants(x[j : j + 1])] if self.net.joint else []
            items.append(embed_relu(builder, self.net.embed_xi, stacked([*before, own, constants(self.features[j])])))
        pooled = total(builder, items, self.scale)
        second = embed_relu(builder, self.net.post_xi, pooled, tighten=True)
        out = embed_relu(builder, self.net.value, stacked([constants(self._first(x)), second]), tighten=True)
        builder.cost(out.columns, -out.matrix[0])
        # HiGHS completes a part of a point by itself
        begin = np.full(builder.n, np.nan)
        begin[columns] = start
        config = self.config
        found = builder.solve(
            config.solver,
            gap=config.gap,
            time_limit=max(seconds, 1.0) if math.isfinite(seconds) else None,
            node_limit=config.node_limit,
            start=begin,
        )
        return start if found.point is None else inside(uncertainty, found.point[columns])


def inside(uncertainty: Polytope, xi: Vector) -> Vector:
    """xi without the solver's tolerance, if one row at most has to be minded."""
    return uncertainty.project(xi) if len(uncertainty.high) <= 1 else np.clip(xi, uncertainty.lower, uncertainty.upper)


def _forward(net: nn.Module, inputs: Any) -> Any:
    for layer in net.children():
        if isinstance(layer, nn.Linear):
            inputs = inputs @ layer.weight.detach().double().T + (0 if layer.bias is None else layer.bias.detach().double())
        else:
            inputs = inputs.clamp_min(0)
    return inputs
