"""A ReLU net as a part of a larger mixed-integer program, whose inputs are expressions of its variables.

A ReLU z = max(h, 0) whose input can be on both sides of 0, l < h < u, gets a binary a (Tjeng et al., arXiv 1711.07356):

    z >= 0,     z >= h,     z <= u a,     z <= h - l (1 - a)                                                 (1)

l and u come from the bounds of the variables (interval arithmetic on the affine expressions between two ReLUs), or, tighter,
from two linear programs a neuron over all rows that the program has by then. `guarantees.milp` answers for one whole net over a
box; this one is for nets inside another model: neural two-stage robust optimisation, control, planning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.guarantees.programs import Columns, ProgramBuilder, WarmProgram
from tutelage.guarantees.solvers import Vector

MARGIN = 1e-7  # bounds are widened by this share of 1 + |bound|: they come from a solver or from rounded sums


@dataclass(frozen=True)
class Affine:
    """e numbers as matrix (e, c) v[columns] + constant (e,), with bounds lower and upper (e,)."""

    columns: Columns
    matrix: Vector
    constant: Vector
    lower: Vector
    upper: Vector

    def apply(self, weight: Vector, bias: Vector | None = None, builder: ProgramBuilder | None = None) -> Affine:
        """weight (o, e) times the expressions plus bias (o,)."""
        shift = weight @ self.constant + (0.0 if bias is None else bias)
        low, high = _interval(weight, self.lower, self.upper, 0.0 if bias is None else bias)
        one = Affine(self.columns, weight @ self.matrix, shift, low, high)
        return one if builder is None else one.tighter(*_direct(builder, one))

    def tighter(self, lower: Vector, upper: Vector) -> Affine:
        low, high = np.maximum(self.lower, lower), np.minimum(self.upper, upper)
        return Affine(self.columns, self.matrix, self.constant, np.minimum(low, high), np.maximum(low, high))

    def values(self, point: Vector) -> Vector:
        """The numbers (e,) at a point of the program."""
        found: Vector = self.matrix @ point[self.columns] + self.constant
        return found


def variables(builder: ProgramBuilder, columns: Columns) -> Affine:
    """Variables as expressions."""
    low, high = builder.bounds(columns)
    return Affine(columns, np.eye(len(columns)), np.zeros(len(columns)), low, high)


def constants(values: Vector) -> Affine:
    values = np.asarray(values, dtype=float)
    return Affine(np.zeros(0, dtype=np.int64), np.zeros((len(values), 0)), values, values, values)


def affine(builder: ProgramBuilder, columns: Columns, matrix: Vector, constant: Vector) -> Affine:
    """matrix v[columns] + constant, with the bounds that those of the variables give."""
    wide = np.full(len(constant), np.inf)
    return Affine(columns, matrix, constant, -wide, wide).tighter(*_direct_bounds(builder, columns, matrix, constant))


def stacked(parts: list[Affine]) -> Affine:
    """Expressions one after the other; columns are merged."""
    columns = np.unique(np.concatenate([part.columns for part in parts]))
    matrix = np.zeros((sum(len(part.constant) for part in parts), len(columns)))
    row = 0
    for part in parts:
        np.add.at(
            matrix,
            (np.arange(row, row + len(part.constant))[:, None], np.searchsorted(columns, part.columns)[None]),
            part.matrix,
        )
        row += len(part.constant)
    return Affine(
        columns,
        matrix,
        np.concatenate([part.constant for part in parts]),
        np.concatenate([part.lower for part in parts]),
        np.concatenate([part.upper for part in parts]),
    )


def total(builder: ProgramBuilder, parts: list[Affine], scale: float = 1.0) -> Affine:
    """scale times the sum of expressions of the same length."""
    size = len(parts[0].constant)
    weight = scale * np.tile(np.eye(size), len(parts))
    return stacked(parts).apply(weight, None, builder)


def embed_relu(builder: ProgramBuilder, net: nn.Sequential, inputs: Affine, *, tighten: bool = False) -> Affine:
    """Add the rows of `net` (Linear and ReLU) to a program and return its outputs as expressions.

    inputs: (in_features,) expressions with finite bounds. tighten: bounds by linear programs; worth it where the program has
    rows that interval arithmetic does not see, such as a budget. Raises InputError for other layers or infinite bounds.
    """
    if not isinstance(net, nn.Sequential) or not all(isinstance(layer, nn.Linear | nn.ReLU) for layer in net):
        raise InputError("net", type(net).__name__, "an nn.Sequential of Linear and ReLU layers")
    if not (np.isfinite(inputs.lower).all() and np.isfinite(inputs.upper).all()):
        raise InputError("inputs", "expressions without bounds", "variables with finite bounds")
    now = inputs
    for layer in net:
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach().double().cpu().numpy()
            if weight.shape[1] != len(now.constant):
                raise InputError("inputs", f"{len(now.constant)} numbers", f"{weight.shape[1]}, as the net takes")
            bias = None if layer.bias is None else layer.bias.detach().double().cpu().numpy()
            now = now.apply(weight, bias, builder)
        else:
            now = _relu(builder, _by_programs(builder, now) if tighten else now)
    return now


def _relu(builder: ProgramBuilder, h: Affine) -> Affine:
    is_open = np.flatnonzero((h.lower < 0) & (h.upper > 0))
    n = len(is_open)
    matrix = np.where((h.lower >= 0)[:, None], h.matrix, 0.0)
    constant = np.where(h.lower >= 0, h.constant, 0.0)
    low, high = np.maximum(h.lower, 0), np.maximum(h.upper, 0)
    if not n:
        return Affine(h.columns, matrix, constant, low, high)
    z = builder.variables(n, 0.0, h.upper[is_open])
    a = builder.variables(n, 0.0, 1.0, integer=True)
    m, c, lower, upper = h.matrix[is_open], h.constant[is_open], h.lower[is_open], h.upper[is_open]
    eye = np.eye(n)
    builder.rows(np.concatenate([z, h.columns]), np.concatenate([eye, -m], 1), low=c)
    builder.rows(np.concatenate([z, a]), np.concatenate([eye, -np.diag(upper)], 1), high=0.0)
    builder.rows(np.concatenate([z, h.columns, a]), np.concatenate([eye, -m, -np.diag(lower)], 1), high=c - lower)
    wide = np.zeros((len(constant), n))
    wide[is_open, np.arange(n)] = 1.0
    return Affine(np.concatenate([h.columns, z]), np.concatenate([matrix, wide], 1), constant, low, high)


def _interval(weight: Vector, lower: Vector, upper: Vector, bias: Any) -> tuple[Vector, Vector]:
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    low = positive @ lower + negative @ upper + bias
    high = positive @ upper + negative @ lower + bias
    return low - MARGIN * (1 + np.abs(low)), high + MARGIN * (1 + np.abs(high))


def _direct(builder: ProgramBuilder, one: Affine) -> tuple[Vector, Vector]:
    return _direct_bounds(builder, one.columns, one.matrix, one.constant)


def _direct_bounds(builder: ProgramBuilder, columns: Columns, matrix: Vector, constant: Vector) -> tuple[Vector, Vector]:
    if not len(columns):
        return constant, constant
    low, high = builder.bounds(columns)
    return _interval(matrix, low, high, constant)


def _by_programs(builder: ProgramBuilder, h: Affine) -> Affine:
    """Bounds of the open ones by two linear programs each, over all rows there are."""
    is_open = np.flatnonzero((h.lower < 0) & (h.upper > 0))
    if not len(is_open):
        return h
    model = WarmProgram(builder.program())
    low, high = h.lower.copy(), h.upper.copy()
    for i in is_open:
        for sign in (1.0, -1.0):
            cost = np.zeros(builder.n)
            np.add.at(cost, h.columns, sign * h.matrix[i])
            found = model.minimise(cost)
            if found.status != "optimal":
                continue
            slack = MARGIN * (1 + abs(found.value))
            if sign > 0:
                low[i] = max(low[i], found.value + h.constant[i] - slack)
            else:
                high[i] = min(high[i], h.constant[i] - found.value + slack)
    return h.tighter(low, high)


def forward64(net: nn.Sequential, inputs: Vector) -> Vector:
    """The net in float64 on (B, in): what the program computes, for comparison."""
    now = torch.from_numpy(np.asarray(inputs, dtype=float))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                now = now @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
            else:
                now = now.clamp_min(0)
    found: Vector = now.numpy()
    return found
