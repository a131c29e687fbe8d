"""Mixed-integer programs that grow: variables and rows one block after another, and linear programs kept warm between cuts.

`guarantees.solvers` solves a finished `Program`. Here a program is built by parts (nets, second stages, cuts), and HiGHS is
called through its own interface, which keeps the basis when a row comes: a cut then costs a few simplex steps, not a new solve.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import MissingError
from tutelage.guarantees.solvers import SOLVERS, Program, Solution, Solver, Vector, solve

Columns = NDArray[np.int64]


def require_highs() -> Any:
    """The module highspy, or MissingError with what to install."""
    try:
        return import_module("highspy")
    except ImportError as error:
        raise MissingError("solver highs needs highspy: pip install 'tutelage[opt]'") from error


class ProgramBuilder:
    """min cost . v over rows and bounds, built by parts. Variables are known by their column numbers."""

    def __init__(self) -> None:
        self._lower: list[Vector] = []
        self._upper: list[Vector] = []
        self._integer: list[NDArray[np.bool_]] = []
        self._rows: list[tuple[Columns, Vector, Vector, Vector]] = []
        self._cost: list[tuple[Columns, Vector]] = []
        self.n = 0

    def variables(self, n: int, lower: Any = -math.inf, upper: Any = math.inf, *, integer: bool = False) -> Columns:
        """n new variables; lower and upper: numbers or (n,). -> their columns."""
        self._lower.append(np.broadcast_to(np.asarray(lower, dtype=float), (n,)).copy())
        self._upper.append(np.broadcast_to(np.asarray(upper, dtype=float), (n,)).copy())
        self._integer.append(np.full(n, integer))
        self.n += n
        return np.arange(self.n - n, self.n)

    def rows(self, columns: Columns, matrix: Any, low: Any = -math.inf, high: Any = math.inf) -> None:
        """low <= matrix v[columns] <= high, for a matrix (r, len(columns)) or one row of it."""
        matrix = np.atleast_2d(np.asarray(matrix, dtype=float))
        low = np.broadcast_to(np.asarray(low, dtype=float), (len(matrix),))
        high = np.broadcast_to(np.asarray(high, dtype=float), (len(matrix),))
        self._rows.append((np.asarray(columns), matrix, low, high))

    def cost(self, columns: Columns, weights: Any) -> None:
        """Add weights . v[columns] to what is minimised."""
        self._cost.append((np.asarray(columns), np.broadcast_to(np.asarray(weights, dtype=float), np.shape(columns))))

    def bounds(self, columns: Columns) -> tuple[Vector, Vector]:
        """(lower, upper) of variables."""
        return np.concatenate(self._lower)[columns], np.concatenate(self._upper)[columns]

    @property
    def n_integer(self) -> int:
        return int(sum(block.sum() for block in self._integer))

    def program(self) -> Program:
        cost = np.zeros(self.n)
        for columns, weights in self._cost:
            np.add.at(cost, columns, weights)
        blocks = []
        for columns, matrix, _, _ in self._rows:
            row, column = np.nonzero(matrix)
            entries = (matrix[row, column], (row, columns[column]))
            blocks.append(sparse.csr_array(entries, shape=(len(matrix), self.n)))
        return Program(
            cost,
            sparse.vstack(blocks, format="csr") if blocks else sparse.csr_array((0, self.n)),
            np.concatenate([low for _, _, low, _ in self._rows]) if blocks else np.zeros(0),
            np.concatenate([high for _, _, _, high in self._rows]) if blocks else np.zeros(0),
            np.concatenate(self._lower),
            np.concatenate(self._upper),
            np.concatenate(self._integer),
        )

    def solve(
        self,
        solver: Solver = "highs",
        *,
        gap: float = 0.0,
        time_limit: float | None = None,
        node_limit: int | None = None,
        start: Vector | None = None,
        precise: bool = False,
    ) -> Solution:
        """The best point. gap: relative, at which the search may stop. node_limit: the same on every machine, unlike seconds.

        start: a feasible point (n,) to begin with (NaN where unknown). precise: rows and integers to 1e-9 instead of 1e-6.
        SCIP ignores gap, start and precise. One thread, fixed seed.
        Raises MissingError for a solver that is not installed.
        """
        check_choice("solver", solver, SOLVERS)
        check_number("gap", gap, "a share >= 0", low=0)
        if time_limit is not None:
            check_positive("time_limit", time_limit, "seconds > 0")
        if node_limit is not None:
            check_integer("node_limit", node_limit, low=0)
        if solver == "scip":
            return solve(self.program(), solver, time_limit=time_limit, node_limit=node_limit)
        model = _Highs(self.program(), whole=True)
        model.option("mip_rel_gap", gap)
        model.option("mip_abs_gap", 1e-9)
        if precise:
            model.option("mip_feasibility_tolerance", 1e-9)
            model.option("primal_feasibility_tolerance", 1e-9)
        if time_limit is not None:
            model.option("time_limit", float(time_limit))
        if node_limit is not None:
            model.option("mip_max_nodes", int(node_limit))
        if start is not None:
            model.begin(start)
        return model.run()


class WarmProgram:
    """A linear program (integrality is dropped) that is solved again and again, with further rows or another cost."""

    def __init__(self, program: Program) -> None:
        self._model = _Highs(program, whole=False)

    def add(self, columns: Columns, weights: Vector, low: float = -math.inf, high: float = math.inf) -> None:
        """One row more."""
        self._model.add(columns, weights, low, high)

    def minimise(self, cost: Vector | None = None) -> Solution:
        """The best point, of the given cost (n,) or the last one."""
        if cost is not None:
            self._model.set_cost(cost)
        return self._model.run()


class _Highs:
    """highspy, with one thread and a fixed seed."""

    def __init__(self, program: Program, *, whole: bool) -> None:
        highspy = require_highs()
        self._module, self.n, self.whole = highspy, len(program.cost), whole and bool(program.integer.any())
        matrix = sparse.csr_array(program.matrix)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.n, len(program.low)
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = program.cost, program.lower, program.upper
        lp.row_lower_, lp.row_upper_ = program.low, program.high
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        if self.whole:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[int(one)] for one in program.integer]
        self._highs = highspy.Highs()
        for name, value in (("output_flag", False), ("threads", 1), ("parallel", "off"), ("random_seed", 0)):
            self.option(name, value)
        self._highs.passModel(lp)

    def option(self, name: str, value: Any) -> None:
        self._highs.setOptionValue(name, value)

    def add(self, columns: Columns, weights: Vector, low: float, high: float) -> None:
        self._highs.addRow(low, high, len(columns), np.asarray(columns, dtype=np.int32), np.asarray(weights, dtype=float))

    def set_cost(self, cost: Vector) -> None:
        self._highs.changeColsCost(self.n, np.arange(self.n, dtype=np.int32), np.asarray(cost, dtype=float))

    def begin(self, start: Vector) -> None:
        known = np.flatnonzero(np.isfinite(start))
        self._highs.setSolution(len(known), known.astype(np.int32), np.asarray(start, dtype=float)[known])

    def run(self) -> Solution:
        self._highs.run()
        status, kinds = self._highs.getModelStatus(), self._module.HighsModelStatus
        if status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):
            return Solution("infeasible", math.inf, math.inf, None)
        info = self._highs.getInfo()
        found = info.primal_solution_status == 2  # feasible
        point = np.array(self._highs.getSolution().col_value) if found else None
        value = float(info.objective_function_value) if found else math.inf
        optimal = status == kinds.kOptimal
        bound = float(info.mip_dual_bound) if self.whole else (value if optimal else -math.inf)
        return Solution("optimal" if optimal else "limit", value, min(bound, value), point)
