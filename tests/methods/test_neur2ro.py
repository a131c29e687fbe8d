"""Neur2RO: the network inside the programs, CCG with a perfect oracle, baselines, limit cases."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.claims.claim import load_claim
from tutelage.claims.decide.neur2ro_pictures import pictures
from tutelage.claims.runner import run_claim
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, MissingError
from tutelage.data.worlds.two_stage import CapitalBudgetInstance, KnapsackInstance, Polytope, Recourse, TwoStageProblem
from tutelage.guarantees import programs
from tutelage.guarantees.embedding import Affine, affine
from tutelage.guarantees.programs import Columns, ProgramBuilder
from tutelage.guarantees.worst_case import enumerate_optimum, exact_worst_case
from tutelage.methods.decide.neur2ro import (
    MLCCG,
    CCGConfig,
    NetPredictor,
    Samples,
    SearchConfig,
    TrainingConfig,
    ValueNet,
    adaptable_plan,
    nominal_plan,
    plain_ccg,
    random_plans,
    robust_plan,
    sample_values,
    train_value_net,
)
from tutelage.methods.decide.neur2ro.pictures import plan_figure

SMALL = {"embed": (4, 3), "post": (5, 2), "value": (3,)}


def knapsack(n: int = 5, seed: int = 0, beta: float = 0.2) -> KnapsackInstance:
    return KnapsackInstance.random(n, "WC", 0.5, 40, beta, seed=seed)


def net_for(problem: TwoStageProblem, seed: int = 0, **more: bool) -> ValueNet:
    """An untrained net whose features have the problem's own scale."""
    features = problem.item_features()
    net = ValueNet(features.shape[1], problem.item_uncertainty.shape[1], **SMALL, family=problem.name, seed=seed, **more)  # type: ignore[arg-type]
    net.features_range = torch.from_numpy(np.maximum(features.max(0), 1.0))
    net.labels = torch.tensor([[float(problem.n_items), 0.0, 1.0]], dtype=torch.float64)
    return net


def everyone(n: int) -> np.ndarray:
    return np.array(list(product((0.0, 1.0), repeat=n)))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("agg", ["mean", "sum"])
def test_the_net_ignores_order_and_padding(joint: bool, agg: str) -> None:
    net = ValueNet(3, 1, **SMALL, joint=joint, agg=agg, seed=1)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    x, u, features = torch.rand(4, 6, generator=g), torch.rand(4, 6, 1, generator=g), torch.rand(4, 6, 3, generator=g)
    order = torch.randperm(6, generator=g)
    whole = net(x, u, features)
    torch.testing.assert_close(net(x[:, order], u[:, order], features[:, order]), whole)
    pad = [torch.cat([part, torch.zeros(4, 3, *part.shape[2:])], 1) for part in (x, u, features)]
    torch.testing.assert_close(net(*pad, torch.full((4,), 6)), whole)
    assert (net(*pad) - whole).abs().max() > 1e-6 or agg == "sum"  # a mean over padded items would be another number
    assert float(whole.detach().std()) > 0


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kind", ["knapsack", "capital"])
def test_the_main_program_has_the_values_of_the_net(kind: str, joint: bool) -> None:
    problem = knapsack(4) if kind == "knapsack" else CapitalBudgetInstance.random(4, 2, seed=1)
    net = net_for(problem, seed=2, joint=joint)
    predictor = NetPredictor(problem, net)
    rng = np.random.default_rng(0)
    scenarios = np.array([problem.sample_xi(rng) for _ in range(3)])
    for x in everyone(4)[::5]:
        expected = net.predict(problem, np.repeat(x[None], 3, 0), scenarios)
        np.testing.assert_allclose(predictor.values(x, scenarios), expected, atol=1e-5)
        builder = ProgramBuilder()
        columns = builder.variables(4, 0, 1, integer=True)
        out = predictor.embed(builder, columns, scenarios)
        builder.rows(columns, np.eye(4), x, x)
        builder.cost(out.columns, out.matrix.sum(0))
        found = builder.solve(precise=True)
        assert found.point is not None
        np.testing.assert_allclose(out.values(found.point), expected, atol=1e-5)
        assert ((out.lower <= expected + 1e-6) & (expected <= out.upper + 1e-6)).all()


@pytest.mark.parametrize("joint", [False, True])
def test_the_adversary_finds_the_worst_prediction(joint: bool) -> None:
    problem = knapsack(4, seed=3, beta=0.4)
    net = net_for(problem, seed=5, joint=joint)
    x, rng = np.array([1.0, 0.0, 1.0, 1.0]), np.random.default_rng(1)
    found = {s: NetPredictor(problem, net, SearchConfig(s, gap=0.0)).worst(x, 60.0) for s in ("milp", "gradient", "sampling")}
    sampled = np.array([problem.sample_xi(rng) for _ in range(500)])
    highest = NetPredictor(problem, net).values(x, sampled).max()
    for xi, value in found.values():
        assert problem.uncertainty.contains(xi, 1e-9)
        assert value == pytest.approx(float(NetPredictor(problem, net).values(x, xi[None])[0]), abs=1e-9)
        assert value <= found["milp"][1] + 1e-7
    assert highest <= found["milp"][1] + 1e-7


class Oracle:
    """The exact second-stage value as a table: a perfect predictor."""

    def __init__(self, problem: TwoStageProblem) -> None:
        self.problem, self.x = problem, everyone(problem.n_items)

    def values(self, x: np.ndarray, scenarios: np.ndarray) -> np.ndarray:
        return self.problem.second_stage_values(np.broadcast_to(x, (len(scenarios), len(x))), scenarios)

    def embed(self, builder: ProgramBuilder, x: Columns, scenarios: np.ndarray) -> Affine:
        which = builder.variables(len(self.x), 0, 1, integer=True)
        builder.rows(which, np.ones(len(self.x)), 1, 1)
        builder.rows(np.concatenate([which, x]), np.concatenate([self.x.T, -np.eye(len(x))], 1), 0, 0)
        table = np.array([self.values(one, scenarios) for one in self.x]).T
        wide = affine(builder, which, table, np.zeros(len(scenarios)))
        return wide.tighter(table.min(1), table.max(1))

    def worst(self, x: np.ndarray, seconds: float) -> tuple[np.ndarray, float]:
        worst = exact_worst_case(self.problem, x)
        return worst.xi, worst.value - float(self.problem.first_stage_cost @ x)


@pytest.mark.parametrize("seed", [1, 4])
def test_with_a_perfect_oracle_it_is_exact(seed: int) -> None:
    problem = knapsack(5, seed=seed, beta=0.3)
    plan = robust_plan(problem, Oracle(problem), CCGConfig(gap=0.0, tolerance=1e-7))  # type: ignore[arg-type]
    best = enumerate_optimum(problem)
    assert plan.value == pytest.approx(best.worst.value, rel=1e-5)
    assert plan.worst.exact
    assert plan.stopped in ("converged", "repeated")
    assert len(plan.scenarios) >= 1


@pytest.mark.parametrize("search", ["milp", "gradient"])
def test_what_ccg_keeps(search: str) -> None:
    problem = knapsack(5, seed=7, beta=0.3)
    net = net_for(problem, seed=3)
    config = CCGConfig(search=search, max_scenarios=4, node_limit=500)  # type: ignore[arg-type]
    plan, again = robust_plan(problem, net, config), robust_plan(problem, net, config)
    assert (plan.x == again.x).all()
    assert [one.found for one in plan.history] == [one.found for one in again.history]
    assert len(plan.history) == len(plan.scenarios) + 1
    for i, xi in enumerate(plan.scenarios):
        assert problem.uncertainty.contains(xi)
        assert all(np.abs(xi - other).max() > 1e-6 for other in plan.scenarios[:i])
    assert (plan.history[0].x == nominal_plan(problem).x).all()
    assert (plan.x == plan.history[-1].x).all()
    best = robust_plan(problem, net, replace(config, keep="best"))
    assert best.value == pytest.approx(min(exact_worst_case(problem, one.x).value for one in plan.history))
    assert plan.value == pytest.approx(exact_worst_case(problem, plan.x).value)


def test_the_main_problem_pays_the_scenario_that_the_net_picks() -> None:
    problem = knapsack(4, seed=2, beta=0.5)
    net, rng = net_for(problem, seed=8), np.random.default_rng(3)
    scenarios = [problem.sample_xi(rng) for _ in range(3)]
    ccg = MLCCG(problem, net, config=CCGConfig(gap=0.0))
    predictor = NetPredictor(problem, net)
    chosen = ccg._main(scenarios, deadline=time.monotonic() + 1000)

    def cost(x: np.ndarray) -> float:
        picked = scenarios[int(predictor.values(x, np.array(scenarios)).argmax())]
        return float(problem.first_stage_cost @ x + problem.second_stage_values(x[None], picked[None])[0])

    assert cost(chosen) == pytest.approx(min(cost(x) for x in everyone(4)), rel=1e-5)
    nominal = min(
        float(problem.first_stage_cost @ x + problem.second_stage_values(x[None], np.zeros((1, 4)))[0]) for x in everyone(4)
    )
    first = ccg._main([], deadline=time.monotonic() + 1000)
    assert problem.first_stage_cost @ first + problem.second_stage_values(first[None], np.zeros((1, 4)))[0] == pytest.approx(
        nominal
    )


def test_without_uncertainty_it_is_the_nominal_plan() -> None:
    problem = knapsack(5, seed=3, beta=0.0)
    plan, nominal = robust_plan(problem, net_for(problem), CCGConfig(gap=0.0)), nominal_plan(problem)
    assert plan.value == pytest.approx(nominal.value)
    assert plan.value == pytest.approx(enumerate_optimum(problem).worst.value, rel=1e-5)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return sample_values([knapsack(4 + i % 2, seed=i) for i in range(10)], n_x=5, n_xi=4, seed=1)


def test_samples_are_exact_and_padded(samples: Samples) -> None:
    assert samples.x.shape == (200, 5)
    assert samples.u.shape == (200, 5, 1)
    problem = knapsack(4, seed=2)
    rows = samples.instance == 2
    assert (samples.x[rows, 4] == 0).all()
    assert (samples.features[2, 4] == 0).all()
    x, xi = samples.x[rows, :4].double().numpy(), samples.u[rows, :4, 0].double().numpy()
    np.testing.assert_allclose(samples.value[rows], problem.second_stage_values(x, xi), rtol=1e-4)
    with pytest.raises(InputError, match="problems"):
        sample_values([knapsack(4), CapitalBudgetInstance.random(4)])
    with pytest.raises(InputError, match="a list"):
        sample_values([])


def test_training_learns_resumes_and_comes_back_from_disk(samples: Samples, tmp_path: Path) -> None:
    config = TrainingConfig(**SMALL, epochs=25, batch=40, lr=0.01)  # type: ignore[arg-type]
    trained = train_value_net(samples, config, seed=1, checkpoint=tmp_path / "run")
    maes = [one["mae"] for one in trained.fit.epochs]
    assert trained.mae == pytest.approx(min(maes))
    assert trained.mae < 0.6 * maes[0]
    again = train_value_net(samples, config, seed=1, checkpoint=tmp_path / "run")  # it was finished: nothing is trained
    assert again.fit.resumed_from == trained.fit.steps
    trained.net.save(tmp_path / "net")
    loaded = ValueNet.load(tmp_path / "net")
    problem, rng = knapsack(5, seed=50), np.random.default_rng(0)
    x, xi = np.array([problem.sample_x(rng) for _ in range(8)]), np.array([problem.sample_xi(rng) for _ in range(8)])
    expected = trained.net.predict(problem, x, xi)
    for other in (again.net, loaded):
        assert (other.predict(problem, x, xi) == expected).all()
    low, width = loaded.label_range(5)
    assert low < 0 < width
    assert loaded.label_range(10) == pytest.approx((2 * low, 2 * width))  # beyond the trained sizes: in proportion
    with pytest.raises(MissingError, match="no value network"):
        ValueNet.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="at least two"):
        train_value_net(sample_values([problem], n_x=2, n_xi=2))
    bad = replace(samples, value=samples.value * float("nan"))
    with pytest.raises(InputError, match="not finite"):
        train_value_net(bad, config)


def test_the_adaptable_plans_against_enumeration() -> None:
    problem = knapsack(3, seed=5, beta=0.4)
    static = []
    for x in everyone(3):
        for options in product(range(3), repeat=3):
            y, r = np.array(options) > 0, np.array(options) > 1
            if (y <= x).all() and problem.weight @ y + problem.repair @ r <= problem.capacity:
                losses = np.sort(problem.loss * (y & ~r))[::-1]
                worst = losses[0] + 0.2 * losses[1]  # gamma = 1.2: one whole loss and a fifth of the next
                static.append(problem.first_stage_cost @ x - problem.outsourcing @ y + worst)
    one, two, three = (adaptable_plan(problem, k, gap=0.0) for k in (1, 2, 3))
    assert one.promised == pytest.approx(min(static), rel=1e-5)
    best = enumerate_optimum(problem).worst.value
    for plan, after in ((one, two), (two, three), (three, three)):
        assert after.promised <= plan.promised + 1e-3
        assert best - 1e-3 <= plan.value <= plan.promised + 1e-3


def test_plain_ccg_is_exact_and_its_bound_holds() -> None:
    problem = knapsack(6, seed=4, beta=0.3)
    best = enumerate_optimum(problem).worst.value
    plain = plain_ccg(problem)
    assert plain.optimal
    assert plain.value == pytest.approx(best, rel=1e-3)
    assert plain.bound <= best + 1e-3 * abs(best)
    assert [value for _, value in plain.path][-1] >= best - 1e-6 * abs(best)
    early = plain_ccg(problem, target=plain.path[0][1])
    assert len(early.path) == 1
    few = random_plans(problem, 3, seed=1)
    assert few.value >= best - 1e-6 * abs(best)
    assert random_plans(problem, 30, seed=1).value <= few.value


def test_capital_budgeting_plans_are_never_infeasible() -> None:
    problem = CapitalBudgetInstance.random(5, 2, seed=2)
    train = [CapitalBudgetInstance.random(5, 2, seed=10 + i) for i in range(4)]
    data = sample_values(train, n_x=4, n_xi=4)
    net = train_value_net(data, TrainingConfig(**SMALL, epochs=2)).net  # type: ignore[arg-type]
    plan = robust_plan(problem, net, CCGConfig(max_scenarios=3, node_limit=500))
    best = enumerate_optimum(problem).worst.value
    rng = np.random.default_rng(0)
    corners = [np.array(c) for c in product((-1.0, 1.0), repeat=2)]
    for one in (plan, nominal_plan(problem), adaptable_plan(problem), random_plans(problem, 3)):
        assert problem.feasible(one.x)
        assert one.value >= best - 1e-4
        for xi in (*corners, problem.sample_xi(rng)):
            values, y = problem.second_stage(one.x[None], xi[None])  # raises where nothing can be paid
            assert problem.recourse.feasible(one.x, y[0], xi)
            assert values[0] <= one.worst.upper + 1e-4
    assert plain_ccg(problem).value == pytest.approx(best, abs=1e-2)
    figure = plan_figure(problem, {"Neur2RO": plan})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not taken", "later", "now"]


class Depots(TwoStageProblem):
    """Depots at a cost; then demand xi, of a unit at each place at most, is served by an open depot or bought at 5."""

    name = "depots"
    first_stage_cost = np.array([1.0, 2.0])
    uncertainty = Polytope.budgeted(2, 1.0)
    item_uncertainty = np.eye(2)[:, None]
    recourse = Recourse(
        cost_x=np.zeros(2),
        cost_x_xi=np.zeros((2, 2)),
        cost_y=np.zeros(4),  # served, bought
        cost_y_xi=np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [0.0, 5.0]]),
        x_rows=np.array([[-1.0, 0.0], [0.0, -1.0], [0.0, 0.0], [0.0, 0.0]]),
        y_rows=np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [-1.0, 0, -1.0, 0], [0, -1.0, 0, -1.0]]),
        high=np.array([0.0, 0.0, -1.0, -1.0]),
    )

    def item_features(self) -> np.ndarray:
        return self.first_stage_cost[:, None]

    def sample_x(self, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 2, 2).astype(float)

    def sample_xi(self, rng: np.random.Generator) -> np.ndarray:
        return rng.dirichlet(np.ones(3))[:2]


def test_a_problem_of_the_users_own_by_hand() -> None:
    problem = Depots()
    data = sample_values([problem, Depots()], n_x=4, n_xi=4)
    net = train_value_net(data, TrainingConfig(**SMALL, epochs=2)).net  # type: ignore[arg-type]
    plan = robust_plan(problem, net)
    # no depot: 5 in the worst case; the first alone 1 + 5; the second alone 2 + 5; both 3
    assert [exact_worst_case(problem, x).value for x in everyone(2)] == pytest.approx([5, 7, 6, 3])
    assert enumerate_optimum(problem).x.tolist() == [1, 1]
    assert plan.worst.exact
    assert plain_ccg(problem).value == pytest.approx(3)


def test_bad_input_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = knapsack(4)
    with pytest.raises(InputError, match="trained for knapsack"):
        robust_plan(problem, net_for(CapitalBudgetInstance.random(4)))
    with pytest.raises(InputError, match="features"):
        robust_plan(problem, ValueNet(3, 1, **SMALL))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ValueNet"):
        robust_plan(problem, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="search"):
        CCGConfig(search="guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="embed"):
        ValueNet(3, embed=())
    with pytest.raises(InputError, match="problem"):
        robust_plan("knapsack", net_for(problem))  # type: ignore[arg-type]

    class Impossible(KnapsackInstance):
        @property
        def first_stage_rows(self) -> tuple[np.ndarray, np.ndarray]:
            return -np.ones((1, 4)), np.array([-5.0])

    none = Impossible(*(np.ones(4),) * 5, capacity=1.0, gamma=1.0)
    with pytest.raises(InputError, match="without a feasible decision"):
        robust_plan(none, net_for(problem))

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(programs, "import_module", absent)
    with pytest.raises(MissingError, match=r"tutelage\[opt\]"):
        robust_plan(problem, net_for(problem))


def test_the_claim_at_smoke_scale_and_its_picture(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    result = run_claim("neur2ro", scale="smoke", cache=cache)
    assert [row.error for row in result.rows if row.status == "failed"] == []
    errors = {arm: result.values(arm, "worst_case_relative_error") for arm in load_claim("neur2ro").arms}
    assert all(value >= -0.01 for values in errors.values() for value in values.values())  # nothing beats the optimum
    for unit, value in errors["neur2ro-best-iterate"].items():
        assert value <= errors["neur2ro"][unit] + 1e-9
        assert value <= errors["nominal"][unit] + 1e-6  # the first iterate is the nominal plan
    ((figure, caption),) = pictures(result, cache)
    assert "Unit 0" in caption
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == ["nominal", "static", "Neur2RO", "Neur2RO, joint"]
