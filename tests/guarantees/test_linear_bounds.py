"""CROWN: lines by hand, never looser than IBP, never violated."""

from __future__ import annotations

import pytest
import torch
from nets import TwoPaths, attacked_margins, mixed, mlp
from test_bounds import ACTS, corners_and_inside
from torch import nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator, seeded
from tutelage.guarantees.bounds import FUNCTIONS, data_box, ibp_bounds, margin_rows
from tutelage.guarantees.layers import Kind
from tutelage.guarantees.linear_bounds import crown_bounds, lines
from tutelage.models import SmallCNN


def test_values_by_hand():
    # f(x) = relu(x) - relu(x - 0) with x in [-1, 2]: IBP says [-2, 2]; CROWN: lower lines of the first ReLU (slope 1, as
    # u > -l) against the upper line of the second, 2/3 x + 2/3: x - 2/3 x - 2/3 >= -1; above by symmetry 1
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    box = torch.tensor([[-1.0]]), torch.tensor([[2.0]])
    assert [end.item() for end in ibp_bounds(net, *box, outward=False)] == pytest.approx([-2, 2])
    assert [end.item() for end in crown_bounds(net, *box, outward=False)] == pytest.approx([-1, 1])


def test_lines_of_a_relu_by_hand():
    (a_l, b_l), (a_u, b_u) = lines("relu", torch.tensor([-1.0, -3.0, 1.0, -2.0]), torch.tensor([3.0, 1.0, 2.0, 0.0]))
    assert a_l.tolist() == [1, 0, 1, 0]
    assert b_l.tolist() == [0, 0, 0, 0]
    assert a_u.tolist() == [0.75, 0.25, 1, 0]
    assert b_u.tolist() == [0.75, 0.75, 0, 0]


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "tanh", "gelu"])
def test_lines_hold_on_short_long_and_shifted_intervals(kind: Kind):
    g = generator(0, kind)
    lower = 20 * torch.rand(400, generator=g, dtype=torch.float64) - 10
    width = 10 ** (6 * torch.rand(400, generator=g, dtype=torch.float64) - 4)  # 1e-4 to 100
    upper = lower + width
    (a_l, b_l), (a_u, b_u) = lines(kind, lower, upper)
    z = lower + width * torch.linspace(0, 1, 5001, dtype=torch.float64)[:, None]
    f = FUNCTIONS[kind](z)
    assert bool((a_l * z + b_l <= f + 1e-12).all())
    assert bool((a_u * z + b_u >= f - 1e-12).all())
    # and they are of use: never further apart than the interval is high, up to the rounding
    gap = (a_u * z + b_u - a_l * z - b_l).amax(0)
    assert bool((gap <= 2 * (f.amax(0) - f.amin(0)) + 1e-9).all())


@pytest.mark.parametrize("act", ACTS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("eps", [0.0, 0.03, 0.3])
def test_sound_and_inside_ibp(act: nn.Module, eps: float):
    net, x = mixed(act), torch.rand(3, 1, 13, 13, generator=generator(1))
    lower, upper = data_box(x, eps)
    with torch.no_grad():
        z = net(corners_and_inside(lower, upper, 1000).flatten(0, 1)).reshape(3, 1000, -1)
        ibp = ibp_bounds(net, lower, upper)
        for refine in (False, True):
            lb, ub = crown_bounds(net, lower, upper, refine=refine)
            assert bool((lb <= ub).all())
            assert bool((z.amin(1) >= lb).all())
            assert bool((z.amax(1) <= ub).all())
            # the folded last layer of IBP is a little other arithmetic
            assert bool((lb >= ibp[0] - 1e-4).all())
            assert bool((ub <= ibp[1] + 1e-4).all())
    if 0 < eps < 0.1:
        assert float((ub - lb).mean()) < 0.9 * float((ibp[1] - ibp[0]).mean())


def test_sound_on_two_functional_paths():
    with seeded(3):
        net = TwoPaths().eval()
    lower, upper = data_box(torch.rand(2, 1, 6, 6, generator=generator(2)), 0.1)
    with torch.no_grad():
        lb, ub = crown_bounds(net, lower, upper)
        z = net(corners_and_inside(lower, upper, 2000).flatten(0, 1)).reshape(2, 2000, -1)
    assert bool(((z >= lb.unsqueeze(1)) & (z <= ub.unsqueeze(1))).all())


def test_a_million_points_in_float32_stay_inside():
    net = mlp(6, 24, 24, 3)
    lower, upper = data_box(torch.rand(10, 6, generator=generator(0)), 0.05)
    with torch.no_grad():
        lb, ub = crown_bounds(net, lower, upper)
        z = net(corners_and_inside(lower, upper, 100_000).flatten(0, 1)).reshape(10, 100_000, 3)
    assert bool((z.amin(1) >= lb).all())
    assert bool((z.amax(1) <= ub).all())


def test_pgd_does_not_leave_the_bounds_and_comes_near_them():
    with seeded(0):
        net = SmallCNN(4, size=8, classes=3).eval()
    x, y = torch.rand(12, 1, 8, 8, generator=generator(0)), torch.arange(12) % 3
    box, rows, attacked = data_box(x, 0.01), margin_rows(y, 3), attacked_margins(net, x, y, 0.01)
    with torch.no_grad():
        loose, tight = ibp_bounds(net, *box, rows)[0].amin(1), crown_bounds(net, *box, rows)[0].amin(1)
    assert bool((attacked >= tight).all())
    assert float((attacked - tight).mean()) < 0.5 * float((attacked - loose).mean())


def test_exact_where_no_activation_is_open():
    net = mlp(4, 6, 6, 2)
    with torch.no_grad():
        net[0].bias += 10
        net[2].bias += 40
    lower, upper = data_box(torch.rand(3, 4, generator=generator(0)), 0.05)
    with torch.no_grad():
        lb, ub = crown_bounds(net, lower, upper, outward=False)
        W = net[4].weight @ net[2].weight @ net[0].weight  # one affine map
        torch.testing.assert_close((ub - lb) / 2, ((upper - lower) / 2) @ W.abs().T, atol=2e-5, rtol=1e-4)


def test_refinement_and_chunks():
    with seeded(1):
        net = SmallCNN(2, size=8, classes=3).eval()
    x, y = torch.rand(4, 1, 8, 8, generator=generator(0)), torch.tensor([0, 1, 2, 0])
    lower, upper = data_box(x, 0.05)
    rows = margin_rows(y, 3)
    with torch.no_grad():
        coarse, _ = crown_bounds(net, lower, upper, rows, refine=False)
        fine, _ = crown_bounds(net, lower, upper, rows)
        torch.testing.assert_close(crown_bounds(net, lower, upper, rows, chunk=1000)[0], fine, atol=1e-5, rtol=1e-4)
    assert float(fine.mean()) > float(coarse.mean())


def test_gradients():
    net = mlp(3, 8, 8, 2)
    lb, _ = crown_bounds(net, *data_box(torch.rand(4, 3, generator=generator(0)), 0.2))
    lb.sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


def test_bad_arguments_are_refused():
    net, zero = mlp(3, 4, 2), torch.zeros(2, 3)
    with pytest.raises(InputError, match="lower"):
        crown_bounds(net, zero + 1, zero)
    with pytest.raises(InputError, match="rows"):
        crown_bounds(net, zero, zero, torch.ones(3))
    with pytest.raises(InputError, match="chunk"):
        crown_bounds(net, zero, zero, chunk=0)
    with pytest.raises(InputError, match="outputs"):
        crown_bounds(nn.Sequential(nn.Conv2d(1, 1, 3)), torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
