"""The exact worst case of a first stage, and the optimum by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.optimize import linprog

from tutelage.core.errors import InputError
from tutelage.data.worlds.two_stage import CapitalBudgetInstance, KnapsackInstance
from tutelage.guarantees.worst_case import enumerate_optimum, exact_worst_case


def all_answers(problem: KnapsackInstance, x: np.ndarray) -> np.ndarray:
    """Every feasible (y, r) to x."""
    n = problem.n_items
    found = []
    for options in product(range(3), repeat=n):
        y, r = np.array(options) > 0, np.array(options) > 1
        if (y <= x).all() and problem.weight @ y + problem.repair @ r <= problem.capacity:
            found.append(np.concatenate([y, r]).astype(float))
    return np.array(found)


@pytest.mark.parametrize("correlation", ["UN", "SC"])
def test_it_is_the_program_over_all_answers(correlation: str) -> None:
    problem = KnapsackInstance.random(5, correlation, 0.5, 40, 0.2, seed=1)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for x in (np.ones(5), problem.sample_x(rng), problem.sample_x(rng)):
        answers = all_answers(problem, x)
        recourse = problem.recourse
        # max z: z - (Q'y).xi <= q.y for every y; xi in [0, 1], sum xi <= Gamma
        rows = np.concatenate([np.ones((len(answers), 1)), -(answers @ recourse.cost_y_xi)], 1)
        rows = np.concatenate([rows, np.concatenate([[0.0], np.ones(5)])[None]])
        high = np.append(answers @ recourse.cost_y, problem.gamma)
        lp = linprog([-1.0, *[0.0] * 5], rows, high, bounds=[(None, None), *[(0, 1)] * 5])
        worst = exact_worst_case(problem, x)
        assert worst.exact
        assert worst.value == pytest.approx(problem.first_stage_cost @ x - lp.fun, rel=1e-6)
        assert worst.upper >= worst.value
        scenarios = np.array([problem.sample_xi(rng) for _ in range(300)])
        values = problem.second_stage_values(np.broadcast_to(x, (300, 5)), scenarios)
        assert (problem.first_stage_cost @ x + values).max() <= worst.upper + 1e-6
        assert problem.uncertainty.contains(worst.xi)
        assert problem.recourse.feasible(x, worst.y, worst.xi)


def test_by_hand_where_no_vertex_is_the_worst() -> None:
    # two like items: weight 1, profit 15, loss 10, outsourcing 20, repair 1; room for both and one repair; one loss at most
    two = np.ones(2)
    problem = KnapsackInstance(two, 15 * two, 10 * two, 20 * two, two, 3.0, 1.0)
    worst = exact_worst_case(problem, two)
    # at (1, 0) the hit item is repaired: -40. At (1/2, 1/2) one half loss stays: -35. First stage: 2 (20 - 15)
    assert worst.value == pytest.approx(-25)
    np.testing.assert_allclose(worst.xi, [0.5, 0.5], atol=1e-6)
    corners = problem.second_stage_values(np.ones((2, 2)), np.eye(2))
    np.testing.assert_allclose(corners, -40)


def test_it_does_not_depend_on_what_it_starts_with() -> None:
    problem = KnapsackInstance.random(9, "WC", 0.5, 80, 0.2, seed=5)
    x, rng = np.ones(9), np.random.default_rng(0)
    plain = exact_worst_case(problem, x)
    started = exact_worst_case(problem, x, start=np.array([problem.sample_xi(rng) for _ in range(5)]))
    assert started.value == pytest.approx(plain.value, rel=1e-6)
    assert not exact_worst_case(problem, x, max_cuts=1).exact
    assert exact_worst_case(problem, x, max_cuts=1).upper >= plain.value


def test_uncertain_constraints_against_a_grid() -> None:
    problem = CapitalBudgetInstance.random(6, 2, seed=3)
    rng = np.random.default_rng(1)
    axis = np.linspace(-1, 1, 41)
    grid = np.array(list(product(axis, axis)))
    for _ in range(3):
        x = problem.sample_x(rng)
        worst = exact_worst_case(problem, x)
        values = problem.second_stage_values(np.broadcast_to(x, (len(grid), 6)), grid)
        assert worst.exact
        assert values.max() <= worst.upper + 1e-6
        assert worst.value <= worst.upper
        # the scenario that is named is really as bad as said
        assert problem.second_stage_values(x[None], worst.xi[None])[0] == pytest.approx(worst.value)
        assert values.max() >= worst.value - 0.25  # the grid is coarse, the worst case lies on the edge of a row


def test_enumeration_equals_a_plain_loop() -> None:
    problem = KnapsackInstance.random(6, "ASC", 1.0, 40, 0.2, seed=7)
    best = enumerate_optimum(problem)
    values = [exact_worst_case(problem, np.array(x)).value for x in product((0.0, 1.0), repeat=6)]
    assert best.worst.value == pytest.approx(min(values), rel=1e-6)
    assert best.total == 64
    assert best.certified < 64
    assert exact_worst_case(problem, best.x).value == pytest.approx(best.worst.value, rel=1e-6)


def test_without_uncertainty_the_worst_is_the_nominal() -> None:
    base = KnapsackInstance.random(6, "UN", 0.5, 40, 0.0, seed=2)
    x = np.ones(6)
    nominal = problem_value(base, x)
    assert exact_worst_case(base, x).value == pytest.approx(nominal)


def problem_value(problem: KnapsackInstance, x: np.ndarray) -> float:
    return float(problem.first_stage_cost @ x + problem.second_stage_values(x[None], np.zeros((1, len(x))))[0])


def test_bad_input_is_named() -> None:
    problem = KnapsackInstance.random(17, seed=0)
    with pytest.raises(InputError, match="at most 16"):
        enumerate_optimum(problem)
    with pytest.raises(InputError, match="0 and 1"):
        exact_worst_case(problem, np.full(17, 0.5))
    with pytest.raises(InputError, match="shape"):
        exact_worst_case(problem, np.ones(3))
    tight = CapitalBudgetInstance.random(4, seed=0)
    with pytest.raises(InputError, match="outside X"):
        exact_worst_case(tight, np.ones(4))
