"""Lipschitz bounds are bounds, and exact where a net is linear."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.guarantees.lipschitz import GELU_SLOPE, lipschitz_bound, row_bounds


def slopes(net: nn.Module, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The largest spectral norm of the Jacobian over x, and the largest norm of each of its rows."""
    jacobians = torch.stack(
        [torch.autograd.functional.jacobian(net, one[None]).flatten(1).reshape(-1, one.numel()) for one in x]
    )
    return float(torch.linalg.matrix_norm(jacobians, 2).max()), torch.linalg.vector_norm(jacobians, dim=2).amax(0)


def test_a_linear_net_by_hand():
    """diag(3, 1) then (1, 1): rows have norms 3 and 1, and the sum of both outputs has sqrt(10)."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    net[0].weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    net[1].weight.data = torch.tensor([[1.0, 1.0]])
    x = torch.zeros(1, 2)
    assert lipschitz_bound(net[0], x) == pytest.approx(3.0, rel=1e-6)
    assert row_bounds(net[0], x).tolist() == pytest.approx([3.0, 1.0], rel=1e-6)
    assert lipschitz_bound(net, x) == pytest.approx(10**0.5, rel=1e-6)


def test_neighbouring_linear_layers_are_one_map():
    """W then its inverse is the identity: 1, where the product of the norms would be the condition number."""
    w = torch.tensor([[4.0, 1.0], [0.0, 0.5]])
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[0].weight.data, net[1].weight.data = w, torch.linalg.inv(w)
    assert lipschitz_bound(net, torch.zeros(1, 2)) == pytest.approx(1.0, abs=1e-6)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(x + torch.tanh(self.a(x)))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), (5,)),
        (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)), (5,)),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                               nn.Linear(27, 4)), (1, 6, 6)),
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, stride=1), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()),
         (2, 7, 7)),
        (Residual, (4,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("largest", [4096, 2])
def test_no_jacobian_is_larger(make, shape, largest):
    torch.manual_seed(0)
    net = make().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 2.0)
    x = torch.randn(40, *shape, dtype=torch.float64)
    whole, rows = slopes(net, x)
    bound, by_row = lipschitz_bound(net, x[:1], largest=largest), row_bounds(net, x[:1], largest=largest)
    assert bound >= whole * (1 - 1e-6)
    assert bool((by_row >= rows * (1 - 1e-6)).all())
    assert float(by_row.max()) <= bound * (1 + 1e-9)
    if largest == 4096:
        assert bound < 40 * whole, "a bound that says nothing"


def test_overlapping_pools_count_each_window():
    """Windows of 2 with stride 1: an inner input is in two of them, so sqrt(2)."""
    net = nn.Sequential(nn.MaxPool2d((1, 2), stride=1))
    assert lipschitz_bound(net, torch.zeros(1, 1, 1, 3)) == pytest.approx(2**0.5)
    assert lipschitz_bound(nn.Sequential(nn.MaxPool2d(2)), torch.zeros(1, 1, 4, 4)) == pytest.approx(1.0)


def test_the_slope_of_gelu_is_an_upper_bound():
    x = torch.linspace(-5, 5, 200001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(nn.functional.gelu(x).sum(), x)
    assert float(slope.max()) <= GELU_SLOPE <= float(slope.max()) * 1.001


def test_nets_without_a_rule_are_named():
    with pytest.raises(InputError, match="Softmax"):
        lipschitz_bound(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), torch.zeros(1, 2))
    with pytest.raises(InputError, match="largest"):
        lipschitz_bound(nn.Linear(2, 2), torch.zeros(1, 2), largest=0)
