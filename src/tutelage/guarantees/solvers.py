"""Mixed-integer linear programs behind one function: HiGHS comes with SciPy, SCIP is taken if `pyscipopt` is installed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import MissingError

Solver = Literal["highs", "scip"]
SOLVERS = ("highs", "scip")
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Program:
    """min cost . v  over  lower <= v <= upper,  low <= matrix v <= high,  v integer where `integer`.

    matrix: (rows, n), dense or scipy.sparse. All others are vectors of n or of as many as there are rows.
    """

    cost: Vector
    matrix: Any
    low: Vector
    high: Vector
    lower: Vector
    upper: Vector
    integer: NDArray[np.bool_]


@dataclass(frozen=True)
class Solution:
    """value: of the best point found, inf without one. bound: proved, no point is below it (up to the solver's tolerance of
    about 1e-6). point: the best one. status: "optimal" if both meet, "limit" if a limit came first, "infeasible"."""

    status: Literal["optimal", "limit", "infeasible"]
    value: float
    bound: float
    point: Vector | None


def solvers() -> tuple[Solver, ...]:
    """The solvers that are installed."""
    return ("highs", "scip") if find_spec("pyscipopt") else ("highs",)


def solve(
    program: Program, solver: Solver = "highs", *, time_limit: float | None = None, node_limit: int | None = None
) -> Solution:
    """Solve `program`. time_limit: seconds; node_limit: of branch and bound, the same on every machine.

    Raises MissingError for a solver that is not installed.
    """
    check_choice("solver", solver, SOLVERS)
    if time_limit is not None:
        check_positive("time_limit", time_limit, "seconds > 0")
    if node_limit is not None:
        check_integer("node_limit", node_limit)
    if solver == "scip":
        return _scip(program, time_limit, node_limit)
    options: Any = {"mip_rel_gap": 0.0}
    if time_limit is not None:
        options["time_limit"] = time_limit
    if node_limit is not None:
        options["node_limit"] = node_limit
    constraints = [LinearConstraint(program.matrix, program.low, program.high)] if len(program.low) else []
    found: Any = milp(
        program.cost,
        integrality=program.integer.astype(int),
        bounds=Bounds(program.lower, program.upper),
        constraints=constraints,
        options=options,
    )
    if found.status == 2:
        return Solution("infeasible", math.inf, math.inf, None)
    value = math.inf if found.x is None else float(found.fun)
    bound = getattr(found, "mip_dual_bound", None)
    if bound is None or not program.integer.any():  # a linear program has no tree
        bound = value if found.status == 0 else -math.inf
    return Solution("optimal" if found.status == 0 else "limit", value, min(float(bound), value), found.x)


def _scip(program: Program, time_limit: float | None, node_limit: int | None) -> Solution:
    try:
        scip: Any = import_module("pyscipopt")
    except ImportError as error:
        raise MissingError("solver scip needs pyscipopt: pip install pyscipopt; highs needs nothing") from error
    from scipy.sparse import csr_array

    model = scip.Model()
    model.hideOutput()
    if time_limit is not None:
        model.setParam("limits/time", time_limit)
    if node_limit is not None:
        model.setParam("limits/totalnodes", node_limit)
    variables = [
        model.addVar(lb=float(lo), ub=float(hi), vtype="I" if whole else "C")
        for lo, hi, whole in zip(program.lower, program.upper, program.integer, strict=True)
    ]
    rows = csr_array(program.matrix)
    for i, (lo, hi) in enumerate(zip(program.low, program.high, strict=True)):
        part = slice(rows.indptr[i], rows.indptr[i + 1])
        terms = scip.quicksum(float(w) * variables[j] for j, w in zip(rows.indices[part], rows.data[part], strict=True))
        if math.isfinite(lo):
            model.addCons(terms >= float(lo))
        if math.isfinite(hi):
            model.addCons(terms <= float(hi))
    model.setObjective(scip.quicksum(float(c) * v for c, v in zip(program.cost, variables, strict=True) if c), "minimize")
    model.optimize()
    if model.getStatus() == "infeasible":
        return Solution("infeasible", math.inf, math.inf, None)
    point = np.array([model.getVal(v) for v in variables]) if model.getNSols() else None
    value = float(program.cost @ point) if point is not None else math.inf
    status: Literal["optimal", "limit"] = "optimal" if model.getStatus() == "optimal" else "limit"
    return Solution(status, value, min(float(model.getDualbound()), value), point)
