"""What Neur2RO is compared with: nominal, static, K-adaptable and random plans, and plain exact CCG. All get the same
certificate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.two_stage import TwoStageProblem, check_problem
from tutelage.data.worlds.two_stage.problem import Vector
from tutelage.guarantees.programs import Columns, ProgramBuilder
from tutelage.guarantees.solvers import Solver
from tutelage.guarantees.worst_case import WorstCase, exact_worst_case
from tutelage.methods.decide.neur2ro.master import Master


@dataclass(frozen=True)
class Baseline:
    """x: (n,). worst: its exact worst case. bound: a proved lower bound of the best worst case, or -inf. seconds: in all.

    path: (seconds, exact worst-case cost) of every plan on the way, for plain CCG. optimal: bound meets the worst case.
    promised: the worst-case cost that an adaptable plan promises; the exact one is not above it.
    """

    x: Vector
    worst: WorstCase
    bound: float = -np.inf
    seconds: float = 0.0
    path: tuple[tuple[float, float], ...] = ()
    optimal: bool = False
    promised: float = np.inf

    @property
    def value(self) -> float:
        return self.worst.value


def nominal_plan(problem: TwoStageProblem, *, solver: Solver = "highs") -> Baseline:
    """The best plan for the nominal scenario (xi = 0 where that is in U)."""
    start = time.monotonic()
    check_problem(problem)
    master = Master.of(problem)
    master.follow(master.second_stage(), problem.uncertainty.nominal)
    x = master.decision(master.builder.solve(solver))
    return Baseline(x, exact_worst_case(problem, x), seconds=time.monotonic() - start)


def random_plans(problem: TwoStageProblem, n: int = 50, *, seed: int = 0) -> Baseline:
    """The best of n random first stages, by their exact worst cases: what a certificate alone is worth."""
    start = time.monotonic()
    check_problem(problem)
    check_integer("n", n)
    rng = numpy_generator(seed, "random plans")
    plans = {x.tobytes(): x for x in (problem.sample_x(rng) for _ in range(n))}
    found = [(exact_worst_case(problem, x), x) for x in plans.values()]
    worst, x = min(found, key=lambda one: one[0].value)
    return Baseline(x, worst, seconds=time.monotonic() - start)


def adaptable_plan(
    problem: TwoStageProblem, k: int = 1, *, solver: Solver = "highs", node_limit: int | None = None, gap: float = 1e-4
) -> Baseline:
    """K-adaptability (Hanasusanto, Kuhn, Wiesemann 2015): x and k second stages are fixed now, the best of them is taken later.

    k = 1 is the static worst case. With certain constraints this is exact: max over xi of min over k is a linear program in xi,
    its dual has weights lambda of the k answers, and lambda y is linearised. Uncertain rows must hold in every scenario for
    each of the k answers (a restriction; the full problem lets an answer fail where another is taken).
    """
    start = time.monotonic()
    check_problem(problem)
    check_integer("k", k)
    recourse = problem.recourse
    master = Master.of(problem)
    builder, x = master.builder, master.x
    answers = [master.second_stage() for _ in range(k)]
    for y in answers:
        master.certain(y)
        _robust_rows(master, y)
    weights = builder.variables(k, 0, 1)
    builder.rows(weights, np.ones(k), 1, 1)
    mixed = []
    for i, y in enumerate(answers):
        v = builder.variables(recourse.m, 0, 1)  # lambda_i y
        eye, one = np.eye(recourse.m), np.ones((recourse.m, 1))
        both = np.concatenate([v, y])
        builder.rows(both, np.concatenate([eye, -eye], 1), high=0)
        builder.rows(np.append(v, weights[i]), np.concatenate([eye, -one], 1), high=0)
        builder.rows(np.append(both, weights[i]), np.concatenate([eye, -eye, -one], 1), low=-1)
        mixed.append(v)
        if i:  # the answers could change places
            builder.rows(weights[[i - 1, i]], [1.0, -1.0], low=0)
    columns = np.concatenate([x, *mixed])
    moves = np.concatenate([recourse.cost_x_xi, *[recourse.cost_y_xi] * k]).T
    # z >= (p'x + sum lambda q'y) + max over U of (P'x + Q' sum lambda y).xi
    support, weight = _support(problem, builder, columns, moves)
    cost = np.concatenate([recourse.cost_x, *[recourse.cost_y] * k])
    builder.rows(np.concatenate([master.z, columns, support]), np.concatenate([[1.0], -cost, -weight]), low=0.0)
    found = builder.solve(solver, node_limit=node_limit, gap=gap)
    plan = master.decision(found)
    return Baseline(plan, exact_worst_case(problem, plan), seconds=time.monotonic() - start, promised=found.value)


def _support(problem: TwoStageProblem, builder: ProgramBuilder, columns: Columns, moves: Vector) -> tuple[Columns, Vector]:
    """Dual variables and weights whose product bounds max over U of (moves v[columns]).xi from above, tightly at the optimum.

    max {g.xi: A xi <= b, l <= xi <= u} = min {b.mu + u.alpha - l.beta: A'mu + alpha - beta = g; mu, alpha, beta >= 0}.
    """
    uncertainty = problem.uncertainty
    k, r = uncertainty.n, len(uncertainty.high)
    dual = builder.variables(r + 2 * k, 0)
    eye = np.eye(k)
    matrix = np.concatenate([uncertainty.matrix.T, eye, -eye, -moves], 1)
    builder.rows(np.concatenate([dual, columns]), matrix, 0, 0)
    return dual, np.concatenate([uncertainty.high, uncertainty.upper, -uncertainty.lower])


def _robust_rows(master: Master, y: Columns) -> None:
    """The rows that xi moves, in every scenario."""
    recourse = master.problem.recourse
    if recourse.certain:
        return
    columns = np.concatenate([master.x, y])
    k, r = master.problem.uncertainty.n, len(recourse.high)
    none_x, none_y = np.zeros((k, r, recourse.n)), np.zeros((k, r, recourse.m))
    x_moves = none_x if recourse.x_rows_xi is None else recourse.x_rows_xi
    y_moves = none_y if recourse.y_rows_xi is None else recourse.y_rows_xi
    moves = np.concatenate([x_moves, y_moves], 2)
    base = np.concatenate([recourse.x_rows, recourse.y_rows], 1)
    for row in np.flatnonzero(np.abs(moves).sum((0, 2)) > 0):
        dual, weight = _support(master.problem, master.builder, columns, moves[:, row])
        master.builder.rows(np.concatenate([columns, dual]), np.concatenate([base[row], weight]), high=recourse.high[row])


def plain_ccg(
    problem: TwoStageProblem,
    *,
    solver: Solver = "highs",
    tolerance: float = 1e-4,
    time_limit: float = 600.0,
    target: float | None = None,
    max_scenarios: int = 1000,
) -> Baseline:
    """Exact column-and-constraint generation: a copy of the second stage for every scenario, an exact adversary.

    Its main problem is a lower bound, each of its plans has an exact worst case; they meet at the optimum. target: stop as soon
    as a plan is at least as good. Where a limit comes first, the best plan so far is returned with the bound.
    """
    start = time.monotonic()
    check_problem(problem)
    check_positive("time_limit", time_limit, "seconds > 0")
    check_number("tolerance", tolerance, "a finite number >= 0", low=0)
    if target is not None:
        check_number("target", target, "a finite number")
    scenarios = [problem.uncertainty.nominal]
    best: WorstCase | None = None
    best_x, bound, optimal = np.zeros(problem.n_items), -np.inf, False
    path: list[tuple[float, float]] = []
    while len(scenarios) <= max_scenarios:
        left = time_limit - (time.monotonic() - start)
        if left <= 0 and best is not None:
            break
        master = Master.of(problem)
        for xi in scenarios:
            master.follow(master.second_stage(), xi)
        found = master.builder.solve(solver, gap=tolerance / 10, time_limit=max(left, 0.1))
        if found.point is None and best is not None and found.status == "limit":
            break
        x = master.decision(found)
        bound = max(bound, found.bound)
        worst = exact_worst_case(problem, x, start=np.array(scenarios[-20:]))
        path.append((time.monotonic() - start, worst.value))
        if best is None or worst.value < best.value:
            best, best_x = worst, x
        optimal = best.value - bound <= tolerance * (1 + abs(best.value))
        if optimal or (target is not None and best.value <= target + 1e-6 * (1 + abs(target))):
            break
        if any(np.abs(worst.xi - other).max() <= 1e-9 for other in scenarios):
            break  # within the solver's tolerance: nothing new
        scenarios.append(worst.xi)
    if best is None:
        raise InputError("max_scenarios", max_scenarios, "at least 1")
    return Baseline(best_x, best, bound, time.monotonic() - start, tuple(path), optimal)
