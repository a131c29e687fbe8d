"""Two-stage problems: generators, files, and inner solvers that are exact."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tutelage.core.errors import InputError, MissingError
from tutelage.data.worlds.two_stage import CapitalBudgetInstance, KnapsackInstance, Polytope, TwoStageProblem, check_problem
from tutelage.data.worlds.two_stage.choices import by_states, by_weight
from tutelage.data.worlds.two_stage.knapsack import CORRELATIONS


def drawn(problem: TwoStageProblem, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.array([problem.sample_x(rng) for _ in range(n)]), np.array([problem.sample_xi(rng) for _ in range(n)])


def test_multiple_choice_by_hand() -> None:
    # two items: (weight 2, value 3 | weight 3, value 5) and (weight 2, value 4 | weight 5, value 6); capacity 5
    weights, values = np.array([[2, 3], [2, 5]]), np.array([[3.0, 5.0], [4.0, 6.0]])
    found, chosen = by_weight(weights, values[None], 5)
    assert (found[0], chosen[0].tolist()) == (9.0, [2, 1])
    value, options = by_states(weights.astype(float), values, 5.0)
    assert (value, options.tolist()) == (9.0, [2, 1])
    assert by_weight(weights, values[None], 5, decisions=False)[0][0] == 9.0
    assert by_weight(weights, values[None], 1)[0][0] == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_both_solvers_equal_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 6
    weights = np.stack([rng.integers(1, 12, n), rng.integers(6, 25, n)], 1)
    values = np.stack([rng.uniform(-2, 9, n), rng.uniform(0, 14, n)], 1)
    values[0] = -np.inf  # an item that may not be taken
    best = 0.0
    for options in product(range(3), repeat=n):
        taken = [(i, o - 1) for i, o in enumerate(options) if o]
        if sum(weights[t] for t in taken) <= 30:
            best = max(best, sum(values[t] for t in taken))
    found, chosen = by_weight(weights, values[None], 30)
    value, options = by_states(weights.astype(float), values, 30.0)
    assert found[0] == pytest.approx(best, abs=1e-9)
    assert value == pytest.approx(best, abs=1e-9)
    for one in (chosen[0], options):
        taken = [(i, o - 1) for i, o in enumerate(one) if o]
        assert sum(weights[t] for t in taken) <= 30
        assert sum(values[t] for t in taken) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("whole", [True, False])
def test_the_knapsack_solver_equals_the_program(correlation: str, whole: bool) -> None:
    problem = KnapsackInstance.random(7, correlation, 0.5, 40, 0.2, seed=3, whole=whole)  # type: ignore[arg-type]
    check_problem(problem)
    x, xi = drawn(problem, 4)
    values, y = problem.second_stage(x, xi)
    expected, _ = TwoStageProblem.second_stage(problem, x, xi)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(problem.second_stage_values(x, xi), values, rtol=1e-12)
    for one in zip(x, y, xi, values, strict=True):
        assert problem.recourse.feasible(*one[:3])
        assert problem.recourse.value(*one[:3]) == pytest.approx(one[3])


def test_the_generator_follows_its_table() -> None:
    problem = KnapsackInstance.random(40, "SC", 0.1, 80, 0.15, seed=1, whole=False)
    np.testing.assert_allclose(problem.profit, problem.weight + 100)
    np.testing.assert_allclose(problem.repair, problem.loss / 2 + problem.weight / 10)
    assert problem.capacity == pytest.approx(80 / 101 * problem.weight.sum())
    assert problem.gamma == pytest.approx(6)
    share = problem.loss / problem.profit
    assert (share >= 0.45).all()
    assert (share <= 0.55).all()
    assert ((problem.outsourcing / problem.profit >= 1.1) & (problem.outsourcing / problem.profit <= 1.5)).all()
    assert (KnapsackInstance.random(5, seed=1).weight == KnapsackInstance.random(5, seed=1).weight).all()
    assert (KnapsackInstance.random(5, seed=1).weight != KnapsackInstance.random(5, seed=2).weight).any()


def test_all_taken_and_room_for_all_repairs_all() -> None:
    base = KnapsackInstance.random(8, "UN", 0.5, 40, 0.2, seed=0)
    everything = float((base.weight + base.repair).sum())
    problem = KnapsackInstance(base.weight, base.profit, base.loss, base.outsourcing, base.repair, everything, base.gamma)
    _, xi = drawn(problem, 5)
    values = problem.second_stage_values(np.ones((5, 8)), xi)
    np.testing.assert_allclose(values, -problem.outsourcing.sum())


def test_samples_lie_in_their_sets() -> None:
    for problem in (KnapsackInstance.random(9, beta=0.2, seed=2), CapitalBudgetInstance.random(9, seed=2)):
        x, xi = drawn(problem, 50)
        assert all(problem.feasible(one) for one in x)
        assert all(problem.uncertainty.contains(one, 1e-9) for one in xi)
        assert len({tuple(one) for one in x}) > 20
    xi = drawn(KnapsackInstance.random(9, beta=0.2, seed=2), 200)[1]
    assert (xi.max(1) > 0.9).mean() > 0.1  # some put the budget on few items
    assert (xi.max(1) < 0.4).mean() > 0.1  # some spread it


def test_capital_budgeting_equals_the_program_and_is_never_infeasible() -> None:
    problem = CapitalBudgetInstance.random(8, seed=4)
    check_problem(problem)
    x, xi = drawn(problem, 5)
    values, y = problem.second_stage(x, xi)
    expected, _ = TwoStageProblem.second_stage(problem, x, xi)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    corners = np.array(list(product((-1.0, 1.0), repeat=4)))
    for one in x:  # X keeps what can be paid in the dearest corner
        cost = (1 + corners @ problem.phi.T / 2) * problem.cost
        assert (cost @ one <= problem.budget + 1e-6).all()
    assert all(problem.recourse.feasible(*one) for one in zip(x, y, xi, strict=True))


def test_capital_budgeting_by_hand() -> None:
    # one factor; costs 2 and 4, revenues 1 and 3, budget 5: at xi = 0, x = (1, 0) leaves 3, too little for the second
    problem = CapitalBudgetInstance(np.array([2.0, 4.0]), np.array([1.0, 3.0]), np.ones((2, 1)), np.ones((2, 1)), 5.0)
    at = np.array([[0.0], [-1.0]])
    values, y = problem.second_stage(np.array([[1.0, 0.0], [1.0, 0.0]]), at)
    # at xi = -1 costs and revenues are half: 1 + 2 <= 5, so both; -(0.5 + 0.8 * 1.5)
    np.testing.assert_allclose(values, [-1.0, -1.7])
    assert y.tolist() == [[0, 0], [0, 1]]
    assert not problem.feasible(np.array([0.0, 1.0]))  # 4 * 1.5 > 5


@pytest.mark.parametrize("kind", ["knapsack", "capital"])
def test_files_of_the_published_formats_come_back(kind: str, tmp_path: Path) -> None:
    if kind == "knapsack":
        one = KnapsackInstance.random(6, "ASC", 0.5, 40, 0.15, seed=2, whole=False)
        path = tmp_path / "RKP_ASC_n6_R1000_H100_h40_dev0.15_d0.5"
        one.save(path)
        again = KnapsackInstance.load(path)
        assert path.read_text().splitlines()[1].split()[1] == repr(float(one.profit[0]))
        assert (again.gamma, again.capacity) == (pytest.approx(one.gamma), one.capacity)
        for word in ("weight", "profit", "loss", "outsourcing", "repair"):
            assert (getattr(again, word) == getattr(one, word)).all()
        one.save(tmp_path / "plain")
        with pytest.raises(InputError, match="beta"):
            KnapsackInstance.load(tmp_path / "plain")
    else:
        budget = CapitalBudgetInstance.random(5, seed=2)
        path = tmp_path / "CB_n5_xi4_s1"
        budget.save(path, number=1)
        assert len(path.read_text().splitlines()) == 1 + 2 + 10
        copy = CapitalBudgetInstance.load(path)
        for word in ("cost", "revenue", "phi", "psi"):
            assert (getattr(copy, word) == getattr(budget, word)).all()
        assert copy.budget == budget.budget
    path.write_text("3 oranges\n")
    with pytest.raises(InputError, match="path"):
        (KnapsackInstance if kind == "knapsack" else CapitalBudgetInstance).load(path)
    with pytest.raises(MissingError, match="no instance"):
        (KnapsackInstance if kind == "knapsack" else CapitalBudgetInstance).load(tmp_path / "nothing")


def test_projections_are_the_nearest_points() -> None:
    rng = np.random.default_rng(0)
    budgeted = Polytope.budgeted(6, 1.5)
    inside = np.array([budgeted.project(rng.uniform(-1, 2, 6)) for _ in range(50)])
    assert all(budgeted.contains(one, 1e-9) for one in inside)
    for _ in range(20):
        point = rng.uniform(-1, 2, 6)
        nearest = budgeted.project(point)
        assert ((inside - nearest) @ (point - nearest) <= 1e-6).all()  # the obtuse angle of a projection
    np.testing.assert_allclose(Polytope.box(2).project(np.array([3.0, -0.5])), [1.0, -0.5])
    # by hand: (0.9, 0.9) on sum <= 1 goes to (0.5, 0.5)
    np.testing.assert_allclose(Polytope.budgeted(2, 1).project(np.array([0.9, 0.9])), [0.5, 0.5], atol=1e-9)


def test_bad_problems_are_named() -> None:
    with pytest.raises(InputError, match="without bounds"):
        Polytope(np.zeros(2), np.array([1.0, np.inf]))
    with pytest.raises(InputError, match="without a point"):
        Polytope(np.zeros(2), np.ones(2), -np.ones((1, 2)), np.array([-3.0]))
    with pytest.raises(InputError, match="lower bound above"):
        Polytope.box(2, 1.0, 0.0)
    with pytest.raises(InputError, match="correlation"):
        KnapsackInstance.random(5, "XX")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="gamma"):
        KnapsackInstance(*(np.ones(3),) * 5, capacity=1.0, gamma=4.0)
    with pytest.raises(InputError, match="weight"):
        KnapsackInstance(np.array([1.0, np.nan]), *(np.ones(2),) * 4, capacity=1.0, gamma=1.0)
    with pytest.raises(InputError, match="phi"):
        CapitalBudgetInstance(np.ones(2), np.ones(2), -np.ones((2, 1)), np.ones((2, 1)), 1.0)
    with pytest.raises(InputError, match="problem"):
        check_problem(3)  # type: ignore[arg-type]


class Stuck(KnapsackInstance):
    """A knapsack that has to make at least one item more than it took."""

    name = "stuck"

    @property
    def recourse(self):  # type: ignore[no-untyped-def,override]
        from dataclasses import replace

        base = KnapsackInstance.random(3, seed=0).recourse
        need = np.concatenate([-np.ones(3), np.zeros(3)])[None]
        return replace(
            base,
            x_rows=np.concatenate([base.x_rows, np.ones((1, 3))]),
            y_rows=np.concatenate([base.y_rows, need]),
            high=np.append(base.high, -1.0),
        )


def test_no_recourse_is_told() -> None:
    base = KnapsackInstance.random(3, seed=0)
    stuck = Stuck(base.weight, base.profit, base.loss, base.outsourcing, base.repair, base.capacity, base.gamma)
    with pytest.raises(InputError, match="no second stage can follow"):
        TwoStageProblem.second_stage(stuck, np.ones((1, 3)), np.zeros((1, 3)))
