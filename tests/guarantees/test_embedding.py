"""Nets inside programs: the same numbers as torch, bounds that hold, a maximum that nothing exceeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError, MissingError
from tutelage.guarantees import programs
from tutelage.guarantees.embedding import Affine, affine, constants, embed_relu, forward64, stacked, total, variables
from tutelage.guarantees.programs import ProgramBuilder, WarmProgram


def net_of(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.ReLU()] * bool(i) + [nn.Linear(widths[i], widths[i + 1])]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("tighten", [False, True])
@pytest.mark.parametrize("widths", [(3, 8, 1), (2, 6, 5, 2)])
def test_a_program_has_the_values_of_the_net(tighten: bool, widths: tuple[int, ...]) -> None:
    net, rng = net_of(*widths), np.random.default_rng(1)
    points = rng.uniform(-1, 1, (50, widths[0]))
    with torch.no_grad():
        expected = net(torch.from_numpy(points).float()).numpy()
    np.testing.assert_allclose(forward64(net, points), expected, atol=1e-5)
    for point, wanted in zip(points[:: 10 if tighten else 2], expected[:: 10 if tighten else 2], strict=True):
        builder = ProgramBuilder()
        inputs = builder.variables(len(point), -1, 1)
        out = embed_relu(builder, net, variables(builder, inputs), tighten=tighten)
        builder.rows(inputs, np.eye(len(point)), point, point)
        builder.cost(out.columns, out.matrix.sum(0))
        found = builder.solve(precise=True)
        assert found.point is not None
        np.testing.assert_allclose(out.values(found.point), wanted, atol=1e-5)


@pytest.mark.parametrize("tighten", [False, True])
def test_the_maximum_is_reached_and_not_exceeded(tighten: bool) -> None:
    net, rng = net_of(4, 10, 6, 1, seed=3), np.random.default_rng(0)
    builder = ProgramBuilder()
    inputs = builder.variables(4, 0, 1)
    builder.rows(inputs, np.ones(4), high=1.5)
    out = embed_relu(builder, net, variables(builder, inputs), tighten=tighten)
    builder.cost(out.columns, -out.matrix[0])
    found = builder.solve()
    assert found.status == "optimal"
    assert found.point is not None
    best = float(out.values(found.point)[0])
    assert best == pytest.approx(float(forward64(net, found.point[inputs][None])[0, 0]), abs=1e-5)
    points = rng.uniform(size=(4000, 4))
    points = points[points.sum(1) <= 1.5]
    assert forward64(net, points).max() <= best + 1e-6
    assert out.lower[0] <= forward64(net, points).min()
    assert out.upper[0] >= best - 1e-9


def test_bounds_hold_at_every_neuron_and_programs_are_tighter() -> None:
    net, rng = net_of(5, 12, 8, 1, seed=1), np.random.default_rng(2)
    points = rng.dirichlet(np.ones(6), 500)[:, :5] * 1.0  # sum <= 1
    widths = {}
    for tighten in (False, True):
        builder = ProgramBuilder()
        inputs = builder.variables(5, 0, 1)
        builder.rows(inputs, np.ones(5), high=1.0)
        for depth in (1, 3, 5):  # the net up to each of its linear layers
            part = embed_relu(builder, net[:depth], variables(builder, inputs), tighten=tighten)
            values = forward64(net[:depth], points)
            assert (values >= part.lower - 1e-9).all()
            assert (values <= part.upper + 1e-9).all()
        widths[tighten] = float((part.upper - part.lower).sum())
    assert widths[True] < widths[False]


def test_expressions_add_up() -> None:
    builder = ProgramBuilder()
    a, b = builder.variables(2, 0, 1), builder.variables(1, -1, 3)
    one = affine(builder, a, np.array([[1.0, -2.0]]), np.array([0.5]))
    two = affine(builder, b, np.array([[3.0]]), np.array([1.0]))
    both = stacked([one, two, constants(np.array([7.0]))])
    point = np.array([1.0, 0.5, 2.0])
    np.testing.assert_allclose(both.values(point), [0.5, 7.0, 7.0])
    np.testing.assert_allclose([one.lower[0], one.upper[0]], [-1.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(total(builder, [one, two], 0.5).values(point), [3.75])


def test_a_warm_program_takes_rows_and_costs() -> None:
    builder = ProgramBuilder()
    v = builder.variables(2, 0, 1)
    builder.cost(v, -1.0)
    warm = WarmProgram(builder.program())
    assert warm.minimise().value == pytest.approx(-2)
    warm.add(v, np.array([1.0, 2.0]), high=1.5)  # max v1 + v2: (1, 0.25)
    assert warm.minimise().value == pytest.approx(-1.25)
    assert warm.minimise(np.array([0.0, -1.0])).value == pytest.approx(-0.75)
    warm.add(v, np.ones(2), low=3.0)
    assert warm.minimise().status == "infeasible"


def test_programs_by_hand_and_their_limits() -> None:
    builder = ProgramBuilder()
    v = builder.variables(3, 0, 1, integer=True)
    builder.rows(v, [2.0, 3.0, 4.0], high=6.0)
    builder.cost(v, [-3.0, -4.0, -5.0])
    found = builder.solve()  # items 1 and 3
    assert found.value == pytest.approx(-8)
    assert found.point is not None
    assert np.rint(found.point).tolist() == [1, 0, 1]
    assert found.bound <= found.value
    assert builder.solve(start=np.array([1.0, np.nan, 0.0])).value == pytest.approx(-8)
    builder.rows(v, np.ones(3), low=4.0)
    assert builder.solve().status == "infeasible"


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = ProgramBuilder()
    free = builder.variables(2)
    with pytest.raises(InputError, match="without bounds"):
        embed_relu(builder, net_of(2, 3, 1), variables(builder, free))
    inside: Affine = variables(builder, builder.variables(3, 0, 1))
    with pytest.raises(InputError, match="2, as the net takes"):
        embed_relu(builder, net_of(2, 3, 1), inside)
    with pytest.raises(InputError, match="Sequential"):
        embed_relu(builder, nn.Sequential(nn.Linear(3, 2), nn.Tanh()), inside)
    with pytest.raises(InputError, match="gap"):
        builder.solve(gap=-1.0)

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(programs, "import_module", absent)
    with pytest.raises(MissingError, match="highspy"):
        builder.solve()
