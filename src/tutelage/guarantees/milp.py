"""Exact answers for small ReLU nets: the net as a mixed-integer linear program.

    Tjeng, Xiao, Tedrake: Evaluating Robustness of Neural Networks with Mixed Integer Programming, arXiv 1711.07356.

A ReLU z = max(h, 0) whose input may be on both sides of 0, l < h < u, gets a binary a that says on which it is:

    z >= 0,     z >= h,     z <= u a,     z <= h - l (1 - a)                                                 (1)

All others are linear, and so is the rest of the net. l and u come from CROWN, in float64. "Exact" is up to the tolerance of the
solver, about 1e-6 of the numbers in (1), and it is the net of real numbers that is answered for, not its float32 copy.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.guarantees.bounds import Box, check_box, check_rows, data_box, margin_rows
from tutelage.guarantees.layers import Activation, Affine, Sum, layers_of
from tutelage.guarantees.linear_bounds import crown_boxes, layer_size, lower_bound
from tutelage.guarantees.solvers import Program, Solution, Solver, Vector, solve
from tutelage.models.checks import check_inputs, check_labels
from tutelage.models.guard import evaluating

LARGEST = 10**8  # entries of one layer's matrix
TOLERANCE = 1e-6  # what a solver may be wrong by, relative to 1 + |bound|


@dataclass(frozen=True)
class Expression:
    """The n values of a layer as matrix (n, variables) times the variables plus constant (n,)."""

    matrix: Any
    constant: Vector


class ReLUProgram:
    """The program of `net` over one box of inputs, ready for any linear objective of the outputs.

    lower, upper: (1, ...), the box. `n_binary` counts the ReLUs that are open in it. Raises InputError for a net that is not
    made of affine layers, sums and ReLUs, or too large for one matrix a layer.
    """

    def __init__(self, net: nn.Module, lower: Tensor, upper: Tensor, *, refine: bool = True) -> None:
        check_box(lower, upper)
        if len(lower) != 1:
            raise InputError("lower", f"{len(lower)} samples", "a batch of one")
        with evaluating(net, verify=False):
            own = copy.deepcopy(net).double()
        lower, upper = lower.double(), upper.double()
        self.graph = layers_of(own, lower)
        for layer in self.graph.layers[1:]:
            if not isinstance(layer, Affine | Sum) and not (isinstance(layer, Activation) and layer.kind == "relu"):
                raise InputError("net", f"{layer.name} ({type(layer).__name__})", "affine layers, sums and ReLUs")
        self._check_size()
        with torch.no_grad():
            self.boxes = crown_boxes(self.graph, Box.between(lower, upper, True), refine=refine)
            self._encode(lower.flatten().cpu().numpy(), upper.flatten().cpu().numpy())

    def _check_size(self) -> None:
        for layer in self.graph.layers[1:]:
            if isinstance(layer, Affine):
                size = math.prod(layer.shape) * math.prod(self.graph.layers[layer.inputs[0]].shape)
                if size > LARGEST:
                    raise InputError("net", f"{layer.name} with a matrix of {size:.2g} entries", f"at most {LARGEST:.0e}")

    def _encode(self, lower: Vector, upper: Vector) -> None:
        open_ends = {i: self.boxes[self.graph.layers[i].inputs[0]].ends(True) for i in self.graph.relus}
        ends = {i: (low.flatten().cpu().numpy(), high.flatten().cpu().numpy()) for i, (low, high) in open_ends.items()}
        self.n_binary = sum(int(((low < 0) & (high > 0)).sum()) for low, high in ends.values())
        n_input = len(lower)
        self.n = n_input + 2 * self.n_binary
        start = sparse.csr_array((np.ones(n_input), (np.arange(n_input), np.arange(n_input))), shape=(n_input, self.n))
        known = [Expression(start, np.zeros(n_input))]
        self.lower, self.upper = np.zeros(self.n), np.ones(self.n)
        self.lower[:n_input], self.upper[:n_input] = lower, upper
        self.integer = np.zeros(self.n, dtype=bool)
        self.rows: list[Any] = []
        self.high: list[Vector] = []  # rows v <= high
        used = n_input
        for i, layer in enumerate(self.graph.layers[1:], 1):
            source = known[layer.inputs[0]]
            if isinstance(layer, Affine):
                known.append(self._affine(layer, source))
            elif isinstance(layer, Sum):
                second = known[layer.inputs[1]]
                matrix = source.matrix + layer.sign * second.matrix
                known.append(Expression(matrix, source.constant + layer.sign * second.constant))
            else:
                expression, used = self._relu(source, ends[i][0], ends[i][1], used)
                known.append(expression)
        self.output = known[-1]

    def _affine(self, layer: Affine, source: Expression) -> Expression:
        parameters = layer.parameters(None)
        n, shape = len(source.constant), self.graph.layers[layer.inputs[0]].shape
        one = self.boxes[0].center
        eye = torch.eye(n, dtype=one.dtype, device=one.device).reshape(n, *shape)
        matrix = sparse.csr_array(layer.apply(eye, parameters[0], None).flatten(1).T.cpu().numpy())
        shift = layer.apply(torch.zeros_like(eye[:1]), *parameters).flatten().cpu().numpy()
        return Expression(matrix @ source.matrix, matrix @ source.constant + shift)

    def _relu(self, source: Expression, low: Vector, high: Vector, used: int) -> tuple[Expression, int]:
        """The values after a ReLU; its open neurons take the next variables: z, then a."""
        is_open = np.flatnonzero((low < 0) & (high > 0))
        z = used + np.arange(len(is_open))
        a = z + len(is_open)
        everyone = np.arange(len(low))
        active = _entries(everyone, everyone, low >= 0, (len(low), len(low)))
        matrix = active @ source.matrix + _entries(is_open, z, 1.0, (len(low), self.n))
        self.upper[z], self.integer[a] = high[is_open], True
        k = np.arange(len(is_open))
        shape = (len(is_open), self.n)
        plus = _entries(k, z, 1.0, shape)
        h, constant = source.matrix[is_open], source.constant[is_open]
        self.rows += [
            h - plus,  # h - z <= 0
            plus + _entries(k, a, -high[is_open], shape),  # z - u a <= 0
            plus - h + _entries(k, a, -low[is_open], shape),  # z - h - l a <= -l
        ]
        self.high += [-constant, np.zeros(len(k)), constant - low[is_open]]
        return Expression(matrix.tocsr(), np.where(low >= 0, source.constant, 0.0)), used + 2 * len(is_open)

    def minimum(
        self, row: Tensor, solver: Solver = "highs", *, time_limit: float | None = None, node_limit: int | None = None
    ) -> Solution:
        """The least value of row (K,) times the outputs; `Solution.point[:inputs]` is where it is taken."""
        weights = row.double().cpu().numpy()
        cost, offset = weights @ self.output.matrix, float(weights @ self.output.constant)
        matrix = sparse.vstack(self.rows, format="csr") if self.rows else sparse.csr_array((0, self.n))
        high = np.concatenate(self.high) if self.high else np.zeros(0)
        program = Program(cost, matrix, np.full(len(high), -np.inf), high, self.lower, self.upper, self.integer)
        found = solve(program, solver, time_limit=time_limit, node_limit=node_limit)
        return Solution(found.status, found.value + offset, found.bound + offset, found.point)

    def input_of(self, solution: Solution) -> Tensor:
        """The input (1, ...) of a solution, inside the box, in float64."""
        assert solution.point is not None
        shape = self.graph.layers[0].shape
        point = torch.from_numpy(solution.point[: layer_size(self.graph, 0)]).reshape(1, *shape)
        box = self.boxes[0]
        return torch.minimum(torch.maximum(point.to(box.center), box.lower), box.upper)


def _entries(rows: Any, columns: Any, values: Any, shape: tuple[int, int]) -> Any:
    return sparse.csr_array((np.broadcast_to(values, len(rows)).astype(float), (rows, columns)), shape=shape)


def exact_bounds(
    net: nn.Module,
    lower: Tensor,
    upper: Tensor,
    rows: Tensor | None = None,
    *,
    solver: Solver = "highs",
    time_limit: float | None = None,
    node_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The exact range of the outputs (B, K) of a small ReLU net, or of rows (M, K) or (B, M, K) of them, over boxes (B, ...).

    Where a limit (for one of the 2 B M programs) comes first, the proved bound is returned: always sound. (lb, ub), float64.
    """
    check_box(lower, upper)
    rows = check_rows(rows, layers_of(net, lower), len(lower))
    lbs: list[list[float]] = []
    ubs: list[list[float]] = []
    for i in range(len(lower)):
        program = ReLUProgram(net, lower[i : i + 1], upper[i : i + 1])
        wanted = torch.eye(len(program.output.constant)) if rows is None else rows if rows.dim() == 2 else rows[i]
        for sign, into in ((1, lbs), (-1, ubs)):
            found = [program.minimum(sign * row, solver, time_limit=time_limit, node_limit=node_limit) for row in wanted]
            into.append([sign * one.bound for one in found])
    return torch.tensor(lbs, dtype=torch.float64), torch.tensor(ubs, dtype=torch.float64)


@dataclass(frozen=True)
class Decision:
    """certified: no input of the box changes the class. broken: `witness` (1, ...) does. open: a limit came first."""

    status: Literal["certified", "broken", "open"]
    witness: Tensor | None = None


def decide(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    solver: Solver = "highs",
    time_limit: float | None = None,
    node_limit: int | None = None,
) -> Decision:
    """Whether a small ReLU net keeps class y (1,) for every input within Linf eps of x (1, ...), by one program a class.

    Limits are for each program. Broken means broken in fact: the witness was given to the net.
    """
    check_inputs(x, bounds)
    check_labels(y, len(x))
    lower, upper = data_box(x, eps, bounds)
    program = ReLUProgram(net, lower, upper)
    rows = margin_rows(y, len(program.output.constant)).to(program.boxes[0].center)
    with torch.no_grad():
        lowest = lower_bound(program.graph, program.boxes, len(program.graph.layers) - 1, rows)[0]
    undecided = False
    for j in lowest.argsort().tolist():  # the class nearest to winning first; what CROWN has settled needs no program
        if lowest[j] > 0:
            break
        row = rows[0, j]
        found = program.minimum(row, solver, time_limit=time_limit, node_limit=node_limit)
        if found.bound > TOLERANCE * (1 + abs(found.bound)):
            continue
        if found.point is not None:
            witness = program.input_of(found).to(x)
            witness = torch.minimum(torch.maximum(witness, lower), upper)
            with evaluating(net), torch.no_grad():
                if int(net(witness).argmax(1)) != int(y):
                    return Decision("broken", witness)
        undecided = True
    return Decision("open" if undecided else "certified")
