"""The exact answers: values by hand, inside CROWN, reached by points, solvers agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nets import Mixed, attacked_margins, mlp
from test_bounds import corners_and_inside, two_layers
from torch import Tensor, nn

from tutelage.core.errors import InputError, MissingError
from tutelage.core.rng import generator, seeded
from tutelage.guarantees.bounds import data_box, ibp_bounds, margin_rows
from tutelage.guarantees.linear_bounds import crown_bounds
from tutelage.guarantees.milp import ReLUProgram, decide, exact_bounds
from tutelage.guarantees.solvers import Program, solve, solvers


class Small(nn.Module):
    """A convolution, a BatchNorm, a residual sum and an average pool, all with ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1)
        self.pool, self.head = nn.AvgPool2d(3), nn.Linear(2, 3)
        nn.init.uniform_(self.norm.weight, -2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.a((x - 0.5) / 0.25)))
        return self.head(self.pool(torch.relu(h - self.b(h))).flatten(1))


def test_a_program_by_hand():
    # min -x - y, x + 2 y <= 4, x <= 2.5, y integer: y = 0 gives -2.5, y = 1 gives (2, 1), -3
    program = Program(
        np.array([-1.0, -1.0]), np.array([[1.0, 2.0]]), np.array([-np.inf]), np.array([4.0]),
        np.zeros(2), np.array([2.5, 9.0]), np.array([False, True]),
    )  # fmt: skip
    for solver in solvers():
        found = solve(program, solver)
        assert found.status == "optimal"
        assert found.value == pytest.approx(-3)
        assert found.bound == pytest.approx(-3)
        assert found.point == pytest.approx([2, 1])


def test_an_infeasible_program_and_a_missing_solver(monkeypatch: pytest.MonkeyPatch):
    program = Program(np.ones(1), np.ones((1, 1)), np.array([2.0]), np.array([3.0]), np.zeros(1), np.ones(1), np.array([False]))
    assert [solve(program, solver).status for solver in solvers()] == ["infeasible"] * len(solvers())
    monkeypatch.setitem(__import__("sys").modules, "pyscipopt", None)
    with pytest.raises(MissingError, match="pyscipopt"):
        solve(program, "scip")
    with pytest.raises(InputError, match="solver"):
        solve(program, "cplex")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="time_limit"):
        solve(program, time_limit=0)
    with pytest.raises(InputError, match="node_limit"):
        solve(program, node_limit=0)


def test_values_by_hand():
    # h = (relu(x_0 - x_1), relu(2 x_0 + x_1 - 1)), z_0 - z_1 = 2 h_0 - h_1 + 0.5 on [0, 1] x [0, 2]:
    # least at (1, 2): 0 - 3 + 0.5; largest at (0.5, 0): 1 - 0 + 0.5 (beyond, 2 x_0 - (2 x_0 - 1) stays 1)
    box = torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])
    for solver in solvers():
        lb, ub = exact_bounds(two_layers(), *box, torch.tensor([[1.0, -1.0]]), solver=solver)
        assert lb.item() == pytest.approx(-2.5)
        assert ub.item() == pytest.approx(1.5)


def nets() -> list[tuple[nn.Module, tuple[int, ...], float]]:
    with seeded(0):
        return [(mlp(3, 8, 8, 2), (3,), 0.2), (Small().eval(), (1, 6, 6), 0.05)]


@pytest.mark.parametrize(("net", "shape", "eps"), nets(), ids=["mlp", "conv"])
def test_points_in_exact_in_crown_in_ibp(net: nn.Module, shape: tuple[int, ...], eps: float):
    lower, upper = data_box(torch.rand(2, *shape, generator=generator(0)), eps)
    with torch.no_grad():
        ibp, crown = ibp_bounds(net, lower, upper), crown_bounds(net, lower, upper)
        z = net(corners_and_inside(lower, upper, 5000).flatten(0, 1)).reshape(2, 5000, -1)
    exact = exact_bounds(net, lower, upper)
    tolerance = 1e-5
    assert bool((ibp[0] <= crown[0] + tolerance).all())
    assert bool((crown[0] <= exact[0] + tolerance).all())
    assert bool((exact[0] <= z.amin(1) + tolerance).all())
    assert bool((z.amax(1) <= exact[1] + tolerance).all())
    assert bool((exact[1] <= crown[1] + tolerance).all())
    assert bool((crown[1] <= ibp[1] + tolerance).all())
    # and it is reached, not only bounded
    program = ReLUProgram(net, lower[:1], upper[:1])
    assert program.n_binary > 0
    found = program.minimum(torch.eye(z.shape[2])[0])
    with torch.no_grad():
        at = net(program.input_of(found).float())
    assert at[0, 0].item() == pytest.approx(found.value, abs=1e-4)
    assert found.value == pytest.approx(float(exact[0][0, 0]), abs=1e-6)


def test_the_exact_margin_is_below_what_pgd_reaches_and_above_crown():
    net, x = mlp(3, 8, 8, 3), torch.rand(6, 3, generator=generator(3))
    y = net(x).argmax(1)
    box, rows, attacked = data_box(x, 0.1), margin_rows(y, 3), attacked_margins(net, x, y, 0.1)
    exact = exact_bounds(net, *box, rows)[0].amin(1)
    with torch.no_grad():
        crown = crown_bounds(net, *box, rows)[0].amin(1)
    assert bool((exact <= attacked + 1e-5).all())
    assert bool((crown <= exact + 1e-5).all())
    assert float((attacked - exact).min()) < 1e-3  # in three dimensions PGD finds the optimum of some sample


def test_a_limit_leaves_a_sound_bound():
    net = mlp(4, 20, 20, 2)
    lower, upper = data_box(torch.rand(1, 4, generator=generator(0)), 0.4, None)
    short = exact_bounds(net, lower, upper, node_limit=1)
    with torch.no_grad():
        crown = crown_bounds(net, lower, upper)
        z = net(corners_and_inside(lower, upper, 5000)[0])
    assert bool((short[0] <= z.amin(0) + 1e-5).all())
    assert bool((short[1] >= z.amax(0) - 1e-5).all())
    assert math.isfinite(float(short[0].sum()))
    assert float((short[1] - short[0]).sum()) <= float((crown[1] - crown[0]).sum()) + 1e-4


def test_decisions_on_both_sides_of_the_exact_radius():
    net = mlp(3, 10, 10, 3)
    with torch.no_grad():
        net[4].bias.copy_(
            -net[4].weight @ net[3](net[2](net[1](net[0](torch.full((1, 3), 0.5)))))[0]
        )  # all equal in the middle
    many = torch.rand(200, 3, generator=generator(4))
    with torch.no_grad():
        best = net(many).topk(2).values
        x = many[(best[:, 0] - best[:, 1] - 0.03).abs().argmin()].unsqueeze(0)  # not far from another class
        y = net(x).argmax(1)
    low, high = 0.0, 1.0
    for _ in range(8):  # bisect the radius that the margin's minimum decides
        middle = (low + high) / 2
        least = exact_bounds(net, *data_box(x, middle), margin_rows(y, 3))[0].min()
        low, high = (middle, high) if float(least) > 0 else (low, middle)
    assert 0.015 < low < 0.9
    inside, outside = decide(net, x, y, low - 0.01), decide(net, x, y, high + 0.01)
    assert inside.status == "certified"
    assert inside.witness is None
    assert outside.status == "broken"
    assert outside.witness is not None
    assert int(net(outside.witness).argmax(1)) != int(y)
    assert float((outside.witness - x).abs().max()) <= high + 0.01 + 1e-6
    assert decide(net, x, (y + 1) % 3, 0.0).status == "broken"  # misclassified from the start


def test_what_has_no_program_is_named(monkeypatch: pytest.MonkeyPatch):
    zero = torch.zeros(1, 1, 13, 13)
    with pytest.raises(InputError, match="MaxPool"):
        ReLUProgram(Mixed(nn.ReLU()).eval(), zero, zero)
    with pytest.raises(InputError, match="affine layers, sums and ReLUs"):
        ReLUProgram(mlp(3, 4, 2, act=nn.Tanh), torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(InputError, match="batch of one"):
        ReLUProgram(mlp(3, 4, 2), torch.zeros(2, 3), torch.ones(2, 3))
    monkeypatch.setattr("tutelage.guarantees.milp.LARGEST", 40)
    with pytest.raises(InputError, match="entries"):
        ReLUProgram(mlp(10, 5, 2), torch.zeros(1, 10), torch.ones(1, 10))
