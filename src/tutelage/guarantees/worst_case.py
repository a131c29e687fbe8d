"""The exact worst case of a first-stage decision of a two-stage robust problem, by cuts, and the optimum by enumeration.

For fixed x, with every second-stage decision y that has been found so far,

    max z  s.t.  xi in U,   z <= (p + P xi)'x + (q + Q xi)'y   for each y                                    (1)

is a linear program above the worst case. The second stage at its xi is below it, and gives the next y. They meet after
finitely many cuts. Where the constraints depend on xi too, y counts only where it is feasible, and (1) has a binary for each
uncertain row:

    z <= (p + P xi)'x + (q + Q xi)'y + M sum_r b_r,      b_r = 1 only if xi violates row r by more than eps     (2)

The worst value is between `value`, reached by a scenario, and `upper`, proved. Under uncertain constraints the proof is for
rows that may be exceeded by eps, 1e-6 of 1 + |h|, since a row that is only just broken has no largest scenario.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.data.worlds.two_stage.problem import Polytope, Recourse, TwoStageProblem, Vector, check_first_stage, check_problem
from tutelage.guarantees.programs import Columns, ProgramBuilder, WarmProgram

SLACK = 1e-6  # by which a scenario must break a row of (2) to take y away, relative to 1 + |h|
LARGEST = 16  # items that can be enumerated


@dataclass(frozen=True)
class WorstCase:
    """value: the total cost of x in its worst scenario, as found (a lower bound); upper: proved, nothing is worse.

    xi: that scenario (k,). y: the best answer to it (m,). cuts: rounds of cuts. exact: upper - value is within
    the tolerance.
    """

    value: float
    upper: float
    xi: Vector
    y: Vector
    cuts: int
    exact: bool


def exact_worst_case(
    problem: TwoStageProblem, x: Vector, *, tolerance: float = 1e-6, max_cuts: int = 1000, start: Vector | None = None
) -> WorstCase:
    """The worst case of x over all of U, with proof.

    tolerance: relative to 1 + |value|. start: scenarios (S, k) whose answers are the first cuts. Raises InputError for an x
    outside X, and where a scenario leaves no feasible second stage.
    """
    check_problem(problem)
    x = check_first_stage(problem, x)
    check_positive("tolerance", tolerance, "a finite number > 0")
    check_integer("max_cuts", max_cuts)
    first = float(problem.first_stage_cost @ x)
    outer = _Linear(problem, x) if problem.recourse.certain else _Binary(problem, x)
    best, best_xi, best_y, upper = -np.inf, problem.uncertainty.nominal, np.zeros(problem.recourse.m), np.inf
    tried = np.asarray(start, dtype=float) if start is not None and len(start) else problem.uncertainty.nominal[None]
    rounds, exact = 0, False
    while rounds < max_cuts and not exact:
        rounds += 1
        values, decisions = problem.second_stage(np.broadcast_to(x, (len(tried), len(x))), tried)
        new = False
        for value, y, xi in zip(values, decisions, tried, strict=True):
            new = outer.cut(y) or new
            if value > best:
                best, best_xi, best_y = float(value), xi, y
        exact = upper - best <= tolerance * (1 + abs(best + first))
        if exact or not new:
            break
        bound, xi = outer.highest()
        upper = min(upper, bound)
        exact = upper - best <= tolerance * (1 + abs(best + first))
        tried = xi[None]
    return WorstCase(best + first, max(upper, best) + first, best_xi, best_y, rounds, exact)


class _Linear:
    """(1), kept warm."""

    def __init__(self, problem: TwoStageProblem, x: Vector) -> None:
        builder = ProgramBuilder()
        self.xi, self.z = _start(builder, problem.uncertainty)
        self.recourse, self.x = problem.recourse, x
        self.model = WarmProgram(builder.program())
        self.columns = np.concatenate([self.z, self.xi])

    def cut(self, y: Vector) -> bool:
        level, slope = _line(self.recourse, self.x, y)
        self.model.add(self.columns, np.concatenate([[1.0], -slope]), high=level)
        return True

    def highest(self) -> tuple[float, Vector]:
        return _highest(self.model.minimise(), self.xi)


class _Binary:
    """(2), built anew for each answer."""

    def __init__(self, problem: TwoStageProblem, x: Vector) -> None:
        self.problem, self.x = problem, x
        self.found: list[Vector] = []

    def cut(self, y: Vector) -> bool:
        if any((y == other).all() for other in self.found):  # a scenario on the edge of a row: nothing new to learn
            return False
        self.found.append(y)
        return True

    def highest(self) -> tuple[float, Vector]:
        recourse, uncertainty = self.problem.recourse, self.problem.uncertainty
        builder = ProgramBuilder()
        xi, z = _start(builder, uncertainty)
        lines = [_line(recourse, self.x, y) for y in self.found]
        top = max(level + _support(uncertainty, slope)[1] for level, slope in lines)
        for y, (level, slope) in zip(self.found, lines, strict=True):
            rows = _uncertain_rows(recourse, self.x, y)
            binary = builder.variables(len(rows), 0, 1, integer=True)
            reach = top - (level + _support(uncertainty, slope)[0])
            columns = np.concatenate([z, xi, binary])
            builder.rows(columns, np.concatenate([[1.0], -slope, np.full(len(rows), -reach)]), high=level)
            for b, (base, move, high) in zip(binary, rows, strict=True):
                need = high + SLACK * (1 + abs(high)) - base  # b = 1 asks for move . xi >= need
                low = _support(uncertainty, move)[0]
                builder.rows(np.append(xi, b), np.append(move, low - need), low=low)
        return _highest(builder.solve(precise=True), xi, bounded=True)


def _start(builder: ProgramBuilder, uncertainty: Polytope) -> tuple[Columns, Columns]:
    xi = builder.variables(uncertainty.n, uncertainty.lower, uncertainty.upper)
    z = builder.variables(1)
    if len(uncertainty.high):
        builder.rows(xi, uncertainty.matrix, high=uncertainty.high)
    builder.cost(z, -1.0)
    return xi, z


def _highest(found, xi: Columns, *, bounded: bool = False) -> tuple[float, Vector]:  # type: ignore[no-untyped-def]
    if found.point is None:
        raise InputError("problem", "a worst case without a bound", "a second stage that is feasible in every scenario")
    return -(found.bound if bounded else found.value), found.point[xi]


def _line(recourse: Recourse, x: Vector, y: Vector) -> tuple[float, Vector]:
    """The cost of (x, y) as level + slope . xi."""
    return float(recourse.cost_x @ x + recourse.cost_y @ y), recourse.cost_x_xi.T @ x + recourse.cost_y_xi.T @ y


def _support(uncertainty: Polytope, slope: Vector) -> tuple[float, float]:
    """The range of slope . xi over the bounds of xi."""
    ends = np.stack([slope * uncertainty.lower, slope * uncertainty.upper])
    return float(ends.min(0).sum()), float(ends.max(0).sum())


def _uncertain_rows(recourse: Recourse, x: Vector, y: Vector) -> list[tuple[float, Vector, float]]:
    """(base, move, high) of each row base + move . xi <= high that xi moves."""
    base = recourse.x_rows @ x + recourse.y_rows @ y
    move = np.zeros((len(recourse.high), recourse.cost_x_xi.shape[1]))
    if recourse.x_rows_xi is not None:
        move = move + (recourse.x_rows_xi @ x).T
    if recourse.y_rows_xi is not None:
        move = move + (recourse.y_rows_xi @ y).T
    return [(float(base[r]), move[r], float(recourse.high[r])) for r in np.flatnonzero(np.abs(move).sum(1) > 0)]


@dataclass(frozen=True)
class Enumerated:
    """x: the best first stage (n,). worst: its worst case. certified: how many x needed an exact one; of `total` in X."""

    x: Vector
    worst: WorstCase
    certified: int
    total: int


def enumerate_optimum(problem: TwoStageProblem, *, seed: int = 0, n_scenarios: int = 64, tolerance: float = 1e-6) -> Enumerated:
    """The exact optimum by looking at every x in X (at most 16 items).

    A scenario gives a lower bound of each x; an x whose bound is not below the best exact value needs no cuts. Scenarios that
    were the worst of an x are kept for the others.
    """
    check_problem(problem)
    check_integer("n_scenarios", n_scenarios)
    n = problem.n_items
    if n > LARGEST:
        raise InputError("problem", f"{n} items", f"at most {LARGEST}: 2^n first stages are enumerated")
    everyone = np.array(list(product((0.0, 1.0), repeat=n)))
    rows, high = problem.first_stage_rows
    everyone = everyone[(everyone @ rows.T <= high + 1e-6 * (1 + np.abs(high))).all(1)]
    if not len(everyone):
        raise InputError("problem", "no feasible first stage", "rows that some x of 0 and 1 satisfies")
    rng = np.random.default_rng(seed)
    first = everyone @ problem.first_stage_cost
    scenarios = [problem.uncertainty.nominal, *(problem.sample_xi(rng) for _ in range(n_scenarios - 1))]
    bounds = np.full(len(everyone), -np.inf)
    alive = np.arange(len(everyone))
    best, best_x, certified = None, everyone[0], 0
    worst_of: list[Vector] = []

    def look(xi: Vector) -> None:
        values = problem.second_stage_values(everyone[alive], np.broadcast_to(xi, (len(alive), len(xi))))
        bounds[alive] = np.maximum(bounds[alive], first[alive] + values)

    for xi in scenarios[:8]:
        look(xi)
    waiting = scenarios[8:]
    while len(alive):
        at = alive[bounds[alive].argmin()]
        found = exact_worst_case(problem, everyone[at], tolerance=tolerance, start=np.array(worst_of[-4:]))
        certified += 1
        bounds[at] = np.inf
        if best is None or found.value < best.value:
            best, best_x = found, everyone[at]
        cutoff = best.value - tolerance * (1 + abs(best.value))
        alive = alive[bounds[alive] < cutoff]
        if len(alive):
            worst_of.append(found.xi)
            look(found.xi)
            if waiting:
                look(waiting.pop())
            alive = alive[bounds[alive] < cutoff]
    assert best is not None
    return Enumerated(best_x, best, certified, len(everyone))
