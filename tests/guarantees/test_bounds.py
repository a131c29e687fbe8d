"""Layers and interval bounds: values by hand, soundness under many samples and under attack, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import TwoPaths, attacked_margins, mixed, mlp
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator, seeded
from tutelage.guarantees.bounds import Box, data_box, ibp_bounds, margin_box, margin_rows, output_box, propagate
from tutelage.guarantees.layers import Activation, Affine, Sum, layers_of
from tutelage.models import SmallCNN, resnet

ACTS = [nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.GELU()]
each_act = pytest.mark.parametrize("act", ACTS, ids=lambda a: type(a).__name__)


def two_layers() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 1.0]]))
        net[0].bias.copy_(torch.tensor([0.0, -1.0]))
        net[2].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 2.0]]))
        net[2].bias.copy_(torch.tensor([0.5, 0.0]))
    return net


def corners_and_inside(lower: Tensor, upper: Tensor, n: int, seed: int = 0) -> Tensor:
    """(B, n, ...): half of them corners of the box, half uniform in it."""
    g = generator(seed, "points")
    share = torch.rand((len(lower), n, *lower.shape[1:]), generator=g)
    share[:, : n // 2] = share[:, : n // 2].round()
    points = lower.unsqueeze(1).lerp(upper.unsqueeze(1), share)
    return torch.minimum(torch.maximum(points, lower.unsqueeze(1)), upper.unsqueeze(1))


def test_values_by_hand():
    # x in [0, 1] x [0, 2]: W x + b in [-2, 1] x [-1, 3]; after ReLU [0, 1] x [0, 3]
    lower, upper = torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])
    lb, ub = ibp_bounds(two_layers(), lower, upper, outward=False)
    torch.testing.assert_close(lb, torch.tensor([[0.5, -1.0]]))
    torch.testing.assert_close(ub, torch.tensor([[4.5, 6.0]]))
    # z_0 - z_1 = 2 h_0 - h_1 + 0.5 in [-2.5, 2.5]; without elision it would be [0.5 - 6, 4.5 + 1]
    lb, ub = ibp_bounds(two_layers(), lower, upper, torch.tensor([[1.0, -1.0]]), outward=False)
    assert lb.item() == pytest.approx(-2.5)
    assert ub.item() == pytest.approx(2.5)


def test_a_batch_norm_of_negative_scale_by_hand():
    net = nn.Sequential(nn.BatchNorm1d(1, eps=0.0)).eval()
    with torch.no_grad():
        net[0].weight.fill_(-3.0)
        net[0].bias.fill_(1.0)
        net[0].running_mean.fill_(0.5)
        net[0].running_var.fill_(4.0)
    lb, ub = ibp_bounds(net, torch.tensor([[0.0]]), torch.tensor([[1.0]]), outward=False)  # -1.5 (x - 0.5) + 1
    assert lb.item() == pytest.approx(0.25)
    assert ub.item() == pytest.approx(1.75)


def test_gelu_knows_its_dip():
    lb, ub = ibp_bounds(nn.Sequential(nn.GELU()), torch.tensor([[-3.0, -3.0, 0.5]]), torch.tensor([[0.0, -2.0, 1.0]]))
    assert lb[0, 0].item() == pytest.approx(-0.16997, abs=1e-4)
    assert ub[0, 0].item() == pytest.approx(0.0, abs=1e-5)
    assert lb[0, 1].item() == pytest.approx(float(nn.functional.gelu(torch.tensor(-2.0))), abs=1e-5)
    assert ub[0, 2].item() == pytest.approx(float(nn.functional.gelu(torch.tensor(1.0))), abs=1e-5)


@each_act
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
def test_sound_on_a_net_of_everything(act: nn.Module, eps: float):
    net, x = mixed(act), torch.rand(3, 1, 13, 13, generator=generator(1))
    lower, upper = data_box(x, eps)
    lb, ub = ibp_bounds(net, lower, upper)
    points = corners_and_inside(lower, upper, 1000)
    with torch.no_grad():
        z = net(points.flatten(0, 1)).reshape(3, 1000, -1)
    assert bool((lb <= ub).all())
    assert bool((z.amin(1) >= lb).all())
    assert bool((z.amax(1) <= ub).all())
    if eps == 0.0:  # rounding alone
        assert float((ub - lb).detach().max()) < 1e-3


def test_sound_on_two_functional_paths():
    with seeded(3):
        net = TwoPaths().eval()
    x = torch.rand(2, 1, 6, 6, generator=generator(2))
    lower, upper = data_box(x, 0.1)
    graph = layers_of(net, x)
    assert sum(isinstance(layer, Sum) for layer in graph.layers) == 3
    lb, ub = ibp_bounds(graph, lower, upper)
    with torch.no_grad():
        z = net(corners_and_inside(lower, upper, 2000).flatten(0, 1)).reshape(2, 2000, -1)
    assert bool(((z >= lb.unsqueeze(1)) & (z <= ub.unsqueeze(1))).all())


def test_a_million_points_in_float32_stay_inside():
    net = mlp(6, 24, 24, 3)
    x = torch.rand(10, 6, generator=generator(0))
    lower, upper = data_box(x, 0.05)
    lb, ub = ibp_bounds(net, lower, upper)
    with torch.no_grad():
        z = net(corners_and_inside(lower, upper, 100_000).flatten(0, 1)).reshape(10, 100_000, 3)
    assert bool((z.amin(1) >= lb).all())
    assert bool((z.amax(1) <= ub).all())


def test_a_point_as_a_box_needs_the_outward_care():
    # the same sums in another order differ in the last places: without care the bounds of a point exclude it
    net = mlp(200, 300, 300, 2).requires_grad_(False)
    x = torch.rand(50, 200, generator=generator(5))
    shuffled = torch.randperm(300, generator=generator(6))
    with torch.no_grad():
        h = net[1](net[0](x))[:, shuffled]
        z = net[4](net[3](nn.functional.linear(h, net[2].weight[:, shuffled], net[2].bias)))
    bare, careful = ibp_bounds(net, x, x, outward=False), ibp_bounds(net, x, x)
    assert not bool(((z >= bare[0]) & (z <= bare[1])).all())
    assert bool(((z >= careful[0]) & (z <= careful[1])).all())


def test_pgd_does_not_leave_the_bounds():
    with seeded(0):
        net = SmallCNN(4, size=8, classes=3).eval()
    x, y = torch.rand(20, 1, 8, 8, generator=generator(0)), torch.arange(20) % 3
    lb, _ = ibp_bounds(net, *data_box(x, 0.02), margin_rows(y, 3))
    assert bool((attacked_margins(net, x, y, 0.02) >= lb.amin(1)).all())


def test_a_larger_box_has_larger_bounds_and_a_point_has_its_value():
    net, x = mixed(nn.ReLU()), torch.rand(2, 1, 13, 13, generator=generator(1))
    last = None
    for eps in (0.0, 0.01, 0.05, 0.2):
        lb, ub = ibp_bounds(net, *data_box(x, eps), outward=False)
        if last is None:
            torch.testing.assert_close(lb, net(x))
            torch.testing.assert_close(ub, net(x))
        else:
            assert bool((lb <= last[0] + 1e-5).all())
            assert bool((ub >= last[1] - 1e-5).all())
        last = lb, ub


def test_rows_are_a_composed_last_layer():
    net, y = mlp(4, 9, 3), torch.tensor([2, 0])
    lower, upper = data_box(torch.rand(2, 4, generator=generator(0)), 0.1)
    lb, ub = ibp_bounds(net, lower, upper, margin_rows(y, 3))
    for i in range(2):
        C = margin_rows(y[i : i + 1], 3)[0]
        composed = nn.Sequential(*net[:-1], nn.Linear(9, 2))
        with torch.no_grad():
            composed[-1].weight.copy_(C @ net[-1].weight)
            composed[-1].bias.copy_(C @ net[-1].bias)
        want = ibp_bounds(composed, lower[i : i + 1], upper[i : i + 1])
        torch.testing.assert_close(lb[i : i + 1], want[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ub[i : i + 1], want[1], atol=1e-5, rtol=1e-4)


def test_a_batch_norm_is_folded_where_nothing_else_sees_its_input():
    net = mixed(nn.ReLU())
    graph = layers_of(net, torch.rand(2, 1, 13, 13))
    assert [layer.name for layer in graph.layers if layer.name in ("first", "norm")] == ["first"]
    assert graph.batch_norms == (net.norm,)

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x)
            return h + self.norm(h)

    assert [layer.name for layer in layers_of(Seen().eval(), torch.rand(2, 3)).layers] == ["input", "fc", "norm", "add"]


@pytest.mark.parametrize("pairs", [0, 32])
@pytest.mark.parametrize("outward", [False, True])
def test_margins_are_rows_of_the_outputs(monkeypatch: pytest.MonkeyPatch, pairs: int, outward: bool):
    monkeypatch.setattr("tutelage.guarantees.bounds.PAIRS", pairs)
    net, y = mlp(4, 9, 5), torch.tensor([2, 0, 4])
    lower, upper = data_box(torch.rand(3, 4, generator=generator(0)), 0.1)
    graph = layers_of(net, lower)
    boxes = propagate(graph, Box.between(lower, upper, outward), outward=outward)
    found = margin_box(graph, boxes, y, outward=outward).ends(outward)
    want = ibp_bounds(net, lower, upper, margin_rows(y, 5), outward=outward)
    torch.testing.assert_close(found[0], want[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], want[1], atol=1e-5, rtol=1e-4)


def test_margin_rows_by_hand():
    assert margin_rows(torch.tensor([1]), 3).tolist() == [[[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]]


def test_bounds_have_gradients_and_follow_the_weights():
    net, x = mlp(3, 8, 2), torch.rand(4, 3, generator=generator(0))
    graph = layers_of(net, x)
    before, _ = ibp_bounds(graph, *data_box(x, 0.1))
    before.sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())
    with torch.no_grad():
        net[2].bias += 1
    after, _ = ibp_bounds(graph, *data_box(x, 0.1))
    torch.testing.assert_close(after, before + 1, atol=1e-4, rtol=1e-4)


def test_batch_statistics_stand_in_for_running_ones():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.rand(16, 3, generator=generator(0))
    h = net[0](x)
    statistics = {net[1]: (h.mean(0), h.var(0, unbiased=False))}
    graph = layers_of(net, x)
    boxes = propagate(graph, Box(x, torch.zeros_like(x)), outward=False, statistics=statistics)
    torch.testing.assert_close(output_box(graph, boxes, None).center, net.train()(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("outward", [False, True])
@pytest.mark.parametrize(
    ("make", "size"),
    [(lambda: SmallCNN(4), 28), (lambda: resnet(8, width=4, channels=1), 16), (TwoPaths, 6), (lambda: mixed(nn.ReLU()), 13)],
    ids=["cnn", "resnet", "paths", "mixed"],
)
def test_memory_that_is_used_again_changes_nothing(make: Callable[[], nn.Module], size: int, outward: bool):
    """keep=False gives the same last box and margins, bit for bit, and leaves the given box as it was."""
    with seeded(0):
        net = make().eval()
        x = torch.rand(5, 1, size, size)
    graph, box = layers_of(net, x), Box.between(*data_box(x, 0.1), outward)
    before = box.center.clone(), box.radius.clone()
    y = torch.arange(5) % graph.layers[-1].shape[0]
    with torch.no_grad():
        kept = propagate(graph, box, outward=outward)
        lean = propagate(graph, box, outward=outward, keep=False)
        for one, other in [(kept[-1], lean[-1]), (margin_box(graph, b, y, outward=outward) for b in (kept, lean))]:
            assert torch.equal(one.center, other.center)
            assert torch.equal(one.radius, other.radius)
    assert torch.equal(box.center, before[0])
    assert torch.equal(box.radius, before[1])
    assert sum(b.center.numel() > 0 for b in lean) <= 2


def test_gradients_do_not_need_kept_boxes():
    x = torch.rand(3, 1, 28, 28, generator=generator(0, "x"))
    found = []
    for keep in (True, False):
        with seeded(0):
            net = SmallCNN(4).eval()
        graph = layers_of(net, x)
        propagate(graph, Box.between(*data_box(x, 0.1), False), outward=False, keep=keep)[-1].lower.sum().backward()
        found.append([p.grad for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_net_comes_back_as_it_was():
    net = mixed(nn.ReLU()).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ibp_bounds(net, torch.zeros(2, 1, 13, 13), torch.ones(2, 1, 13, 13))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_layers_of_the_nets_of_the_house():
    for net, shape in ((SmallCNN(4), (1, 28, 28)), (resnet(20, channels=3), (3, 32, 32))):
        graph = layers_of(net.eval(), torch.rand(2, *shape))
        assert any(isinstance(layer, Affine) and layer.is_matrix for layer in graph.layers)
        assert graph.relus == [i for i, layer in enumerate(graph.layers) if isinstance(layer, Activation)]
    assert len(graph.relus) == 19


class Unfit(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.fc, self.odd = what, nn.Linear(4, 4), nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.what == "module":
            return self.odd(h)
        if self.what == "product":
            return h * x
        if self.what == "batch":
            return h - h.mean(0, keepdim=True)
        if self.what == "flow":
            return h if x.sum() > 0 else -h
        return torch.sort(h)[0]


@pytest.mark.parametrize(
    ("what", "match"),
    [("module", "odd"), ("product", "mul"), ("batch", "mean"), ("flow", "torch.fx"), ("function", "sort")],
)
def test_what_has_no_bounds_is_named(what: str, match: str):
    with pytest.raises(InputError, match=match):
        ibp_bounds(Unfit(what), torch.zeros(2, 4), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "reflect"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), "running statistics"),
        (nn.Sequential(nn.GELU(approximate="tanh")), "tanh approximation"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode"),
    ],
)
def test_variants_without_a_rule_are_named(net: nn.Module, match: str):
    with pytest.raises(InputError, match=match):
        ibp_bounds(net, torch.zeros(2, 1, 5, 5), torch.ones(2, 1, 5, 5))


def test_bad_boxes_are_refused():
    net, zero = mlp(3, 4, 2), torch.zeros(2, 3)
    for lower, upper, name in (
        (zero + 1, zero, "lower"),
        (zero, zero * torch.nan, "lower"),
        (zero, zero[:1], "upper"),
        (zero.long(), zero, "lower"),
        (zero, zero.double(), "upper"),
    ):
        with pytest.raises(InputError, match=name):
            ibp_bounds(net, lower, upper)
    with pytest.raises(InputError, match="rows"):
        ibp_bounds(net, zero, zero, torch.ones(1, 3))
    with pytest.raises(InputError, match="x: "):
        ibp_bounds(layers_of(net, zero), torch.zeros(2, 4), torch.ones(2, 4))
