"""IBP-tightness against its card: closed forms, invariants, training that reduces to what it should, refusals."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from tutelage.core.errors import InputError, NotFinite, SplitError
from tutelage.core.rng import generator, seeded
from tutelage.data.images import ImageSet
from tutelage.guarantees.bounds import Box, data_box, ibp_bounds, margin_rows, propagate
from tutelage.guarantees.layers import layers_of
from tutelage.methods.certify.ibp_tightness import (
    CertifiedConfig,
    CertifiedTraining,
    certified_loss,
    deep_linear_radii,
    deep_linear_tightness,
    diagnose,
    fast_regulariser,
    fit_certified,
    ibp_accuracy,
    ibp_init,
    mean_tightness,
    propagation_invariant,
    relu_states,
    smooth_ramp,
    tau_gaussian,
    tightness,
)
from tutelage.teaching.fit import Context


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    with seeded(seed, "mlp"):
        layers: list[nn.Module] = [nn.Flatten()]
        for i in range(len(widths) - 1):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
        return nn.Sequential(*layers[:-1]).eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(27, 4)
        nn.init.uniform_(self.norm.weight, -2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.a(x)))
        return self.head(torch.relu(h - self.b(h)).flatten(1))


def residual() -> Residual:
    with seeded(0, "residual"):
        return Residual().eval()


def context(step: int = 0, total: int = 10) -> Context:
    return Context(step, total, 1.0, generator(0, "context"))


def digits_like(n: int = 96, split: str = "train") -> ImageSet:
    """Random 6x6 images of three classes, told apart by a bright column."""
    g = generator(0, "images", split)
    labels = torch.arange(n) % 3
    images = 0.3 * torch.rand(n, 1, 6, 6, generator=g)
    images[torch.arange(n), 0, :, 2 * labels] += 0.6
    return ImageSet(images, labels, ("a", "b", "c"), split=split)  # type: ignore[arg-type]


# closed forms


def test_deep_linear_values_by_hand():
    # W2 W1 = [[1, 1, 1], [2, -1, 3]]... with W1 = [[1, 0, 2], [0, 1, -1]], W2 = [[1, 1], [2, -1]]
    W1, W2 = torch.tensor([[1.0, 0, 2], [0, 1, -1]]), torch.tensor([[1.0, 1], [2, -1]])
    optimal, layerwise = deep_linear_radii([W1, W2], torch.tensor([1.0, 1.0, 2.0]))
    assert optimal.tolist() == [1 + 1 + 2, 2 + 1 + 10]
    assert layerwise.tolist() == [1 + 1 + 6, 2 + 1 + 10]
    assert deep_linear_tightness([W1, W2], torch.tensor([1.0, 1.0, 2.0])).tolist() == [0.5, 1.0]
    # (5): output 0, input 2 mixes 1*2 with 1*(-1); all others have one sign
    assert propagation_invariant([W1, W2]).tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(("d", "want"), [(1, 1.0), (2, 0.7854), (8, 0.4295), (64, 0.1560), (256, 0.0783)])
def test_the_gamma_formula(d: int, want: float):
    assert tau_gaussian(d) == pytest.approx(want, rel=1e-3)
    assert tau_gaussian(d) <= math.sqrt(math.pi / (2 * d))


def test_the_gamma_formula_by_simulation_and_the_factor_of_relus():
    g, d = generator(0, "weights"), 64
    W1, W2 = torch.randn(d, 400, generator=g), 3 * torch.randn(50, d, generator=g)
    optimal, layerwise = deep_linear_radii([W1, W2], 1.0)
    assert float(optimal.mean() / layerwise.mean()) == pytest.approx(tau_gaussian(d), rel=0.02)
    net = nn.Sequential(nn.Linear(400, d, bias=False), nn.ReLU(), nn.Linear(d, 50, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(W1)
        net[2].weight.copy_(W2)
    x = torch.randn(100, 400, generator=g)
    local = mean_tightness(tightness(net, x, 0.01, bounds=None))
    linear = mean_tightness(tightness(net, x, 0.01, bounds=None, mode="linear"))
    assert linear == pytest.approx(tau_gaussian(d), rel=0.02)
    assert local / linear == pytest.approx(math.sqrt(2), rel=0.03)  # half of the units are off


def test_wider_and_deeper_are_looser_at_initialisation():
    x = torch.rand(16, 20, generator=generator(1))
    by_width = [mean_tightness(tightness(mlp(20, w, w, 5), x, 0.1)) for w in (10, 40, 160)]
    by_depth = [mean_tightness(tightness(mlp(20, *[40] * k, 5), x, 0.1)) for k in (1, 2, 3, 4)]
    assert by_width == sorted(by_width, reverse=True)
    assert by_depth == sorted(by_depth, reverse=True)


# the measure


def test_linear_mode_is_the_closed_form():
    net, x = mlp(5, 7, 6, 3), torch.rand(4, 5, generator=generator(0))
    weights = [net[i].weight for i in (1, 3, 5)]
    lower, upper = data_box(x, 0.4)  # some balls are cut by [0, 1]
    found = tightness(net, x, 0.4, mode="linear")
    for i in range(4):
        want = deep_linear_tightness(weights, ((upper - lower) / 2)[i])
        torch.testing.assert_close(found[i], want, atol=1e-6, rtol=1e-5)


def test_local_mode_by_hand():
    # x = (1, 0): h = (1, -1, 2), the second unit is off: W2 D W1 over the others
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1], [-1, 0], [2, -1]]))
        net[2].weight.copy_(torch.tensor([[1.0, 5, 1], [1, 5, -1]]))
    x = torch.tensor([[1.0, 0.0]])
    tau = tightness(net, x, 0.1, bounds=None)
    # output 0: signed (1+2, 1-1) = (3, 0), absolute (3, 2); output 1: signed (-1, 2), absolute (3, 2)
    torch.testing.assert_close(tau, torch.tensor([[3 / 5, 3 / 5]], dtype=torch.float64))
    # the margin folds the rows first: (0, 10, 2), so the second unit, which is off, and the third: one path, exact
    assert tightness(net, x, 0.1, torch.tensor([0]), bounds=None).tolist() == [[1.0]]
    # cut to [0, 1] the radii are (0.05, 0.05): equal again
    torch.testing.assert_close(tightness(net, x, 0.1), tau)


def test_local_tightness_of_a_residual_net_is_that_of_its_boxes():
    net, x = residual(), torch.rand(3, 1, 6, 6, generator=generator(0))
    tau = tightness(net, x, 1e-4, bounds=None)
    assert bool(((tau > 0) & (tau <= 1 + 1e-9)).all())
    # in a tiny ball no ReLU switches: IBP's radius is the denominator, |Jacobian| eps the numerator
    lb, ub = ibp_bounds(net.double(), *data_box(x.double(), 1e-6, None), outward=False)
    jacobian = torch.stack([torch.autograd.functional.jacobian(net, x[i : i + 1].double())[0] for i in range(3)])
    want = 1e-6 * jacobian.abs().flatten(2).sum(2) / ((ub - lb) / 2)
    torch.testing.assert_close(tau, want, atol=1e-4, rtol=1e-3)


def test_true_tightness_on_a_small_net():
    net, x = mlp(3, 6, 6, 2), torch.rand(3, 3, generator=generator(0))
    y = net(x).argmax(1)
    true, local = tightness(net, x, 0.1, y, mode="true"), tightness(net, x, 0.1, y)
    assert true.shape == local.shape == (3, 1)
    assert bool(((true > 0) & (true <= 1 + 1e-4)).all())
    tiny = tightness(net.double(), x.double(), 1e-5, y, mode="true")  # no ReLU switches: both are the same
    torch.testing.assert_close(tiny, tightness(net, x.double(), 1e-5, y), atol=1e-2, rtol=1e-2)


def test_exact_where_nothing_cancels():
    x = torch.rand(4, 5, generator=generator(0))
    one = mlp(5, 3)
    torch.testing.assert_close(tightness(one, x, 0.1), torch.ones(4, 3, dtype=torch.float64))
    positive = mlp(5, 8, 3)
    with torch.no_grad():
        for p in positive.parameters():
            p.abs_()
    torch.testing.assert_close(tightness(positive, x, 0.1), torch.ones(4, 3, dtype=torch.float64))
    assert bool(propagation_invariant([positive[1].weight, positive[3].weight]).all())


def test_scaling_flips_permutations_and_diagonals_leave_it():
    x = torch.rand(4, 5, generator=generator(0))
    weights = [torch.randn(7, 5, generator=generator(1)), torch.randn(3, 7, generator=generator(2))]
    want = deep_linear_tightness(weights)
    torch.testing.assert_close(deep_linear_tightness([5 * weights[0], weights[1]]), want)
    flip = torch.ones(7)
    flip[3] = -1
    torch.testing.assert_close(deep_linear_tightness([flip[:, None] * weights[0], weights[1] * flip]), want)
    order = torch.randperm(7, generator=generator(3))
    torch.testing.assert_close(deep_linear_tightness([weights[0], torch.eye(7)[order], weights[1][:, order]]), want)
    net = mlp(5, 7, 3)
    before = tightness(net, x, 0.1)
    with torch.no_grad():
        net[1].weight *= 4
        net[1].bias *= 4
    torch.testing.assert_close(tightness(net, x, 0.1), before)


def test_products_of_1e_minus_17_are_told_apart_and_points_have_no_tau():
    g = generator(0)
    deep = [torch.randn(256, 256, generator=g) for _ in range(13)]
    tau = deep_linear_tightness([w * 1e-4 for w in deep])  # the absolute product is below 1e-8, too
    assert 0 < float(tau.mean()) < 1e-8
    net = mlp(4, 5, 2)
    with torch.no_grad():
        net[1].bias.fill_(-100)  # every ReLU is off
    tau = tightness(net, torch.rand(2, 4, generator=g), 0.1)
    assert bool(tau.isnan().all())
    assert math.isnan(mean_tightness(tau))


def test_relu_states_by_hand_and_their_sum():
    net = nn.Sequential(nn.Linear(1, 4, bias=True), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([-2.0, -0.5, 0.5, -0.45]))
    # x in [0.4, 0.6]: [-1.6, -1.4] dead, [-0.1, 0.1] unstable, [0.9, 1.1] active, [-0.05, 0.15] unstable
    found = relu_states(net, torch.tensor([[0.5]]), 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64))
    many = relu_states(residual(), torch.rand(5, 1, 6, 6, generator=generator(0)), 0.05)
    torch.testing.assert_close(many.sum(1), torch.ones(5, dtype=torch.float64))


def test_a_diagnosis_names_the_layer_that_loosens():
    net = mlp(10, 8, 200, 8, 3)
    found = diagnose(net, torch.rand(6, 10, generator=generator(0)), 0.05)
    assert [one.name for one in found.layers] == ["2", "4", "6", "output"]
    assert [one.neurons for one in found.layers] == [8, 200, 8, 3]
    assert found.layers[0].tightness == pytest.approx(1.0)  # one linear layer is exact
    assert found.loosest == "6"  # behind the wide one
    assert "largest loss of tightness: 6" in str(found)
    for one in found.layers[:-1]:
        assert one.dead + one.active + one.unstable == pytest.approx(1)
    x = torch.rand(6, 10, generator=generator(0))
    assert found.layers[-1].tightness == pytest.approx(mean_tightness(tightness(net, x, 0.05)))


# training


def test_the_ramp_by_hand():
    ramp = smooth_ramp(0.2, 0.6)
    assert [ramp(step, 10) for step in (0, 2, 6, 9)] == [0, 0, 1, 1]
    scale = 1 / (0.25**4 + 4 * 0.25**3 * 0.75)
    assert ramp(3, 10) == pytest.approx(scale * 0.25**4)
    assert ramp(4, 10) == pytest.approx(scale * (0.25**4 + 4 * 0.25**3 * 0.25))
    values = [ramp(step, 1000) for step in range(1000)]
    assert values == sorted(values)
    assert [smooth_ramp(0, 0)(step, 10) for step in (0, 5)] == [1, 1]
    assert smooth_ramp(0, 1, middle=0.0)(3, 10) == pytest.approx(0.3)


def test_the_certified_loss_by_hand():
    # lb = (1, -1): log(1 + e^-1 + e^1)
    want = math.log(1 + math.exp(-1) + math.exp(1))
    assert certified_loss(torch.tensor([[1.0, -1.0]])).item() == pytest.approx(want)


def test_without_a_ball_it_is_cross_entropy():
    net, (x, y) = mlp(36, 8, 3), digits_like()[:16]
    objective = CertifiedTraining(0.1)  # eps is 0 at the first step
    loss, logged = objective(net, (x, y), context(0))
    torch.testing.assert_close(loss, F.cross_entropy(net(x), y), atol=1e-5, rtol=1e-5)
    assert logged["eps"] == 0


def test_sabr_with_a_whole_box_is_ibp_and_with_a_small_one_is_less():
    net, (x, y) = mlp(36, 8, 3), digits_like()[:16]
    losses = {}
    for method, small in (("ibp", 0.4), ("sabr", 1.0), ("sabr", 0.1), ("sabr", 0.999)):
        objective = CertifiedTraining(0.1, CertifiedConfig(method=method, small_box=small, ramp=(0, 0)))
        losses[method, small] = objective(net, (x, y), context(5))[0].item()
    assert losses["sabr", 1.0] == losses["ibp", 0.4]
    assert losses["sabr", 0.999] == pytest.approx(losses["ibp", 0.4], rel=1e-2)
    assert losses["sabr", 0.1] < losses["ibp", 0.4]


def test_the_small_box_stays_in_the_ball_and_in_the_data():
    objective = CertifiedTraining(0.2, CertifiedConfig(method="sabr", small_box=0.25, ramp=(0, 0)))
    objective.eps_now = 0.2
    x = torch.tensor([[0.5, 0.05]])
    box = objective.box(x, torch.tensor([[0.7, 0.0]]))  # centres move to at most 0.15 from x, then the data range cuts
    torch.testing.assert_close(box.upper, torch.tensor([[0.70, 0.05]]))
    torch.testing.assert_close(box.lower, torch.tensor([[0.60, 0.00]]))


def test_the_box_takes_the_statistics_of_the_clean_batch():
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    x, y = digits_like()[:16]
    objective = CertifiedTraining(0.05, CertifiedConfig(ramp=(0, 0), fast_reg=0))
    loss, _ = objective(net, (x, y), context(3))
    h = net[1](x.flatten(1))
    mean, variance = h.mean(0), h.var(0, unbiased=False)
    torch.testing.assert_close(net[2].running_mean, 0.1 * mean)  # moved once, by the clean batch
    fixed = nn.Sequential(nn.Flatten(), net[1], nn.BatchNorm1d(8), nn.ReLU(), net[4]).eval()
    with torch.no_grad():
        fixed[2].running_mean.copy_(mean)
        fixed[2].running_var.copy_(variance)
    lb, _ = ibp_bounds(fixed, *data_box(x, 0.05), margin_rows(y, 3), outward=False)
    torch.testing.assert_close(loss, certified_loss(lb), atol=1e-4, rtol=1e-4)


def test_the_regulariser_by_hand():
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[4.0], [4.0], [4.0]]))
        net[0].bias.copy_(torch.tensor([1.0, -4.0, -2.0]))
    # x = 0.5 +- 0.1: centres 3, -2, 0 and radii 0.4: active, inactive, unstable
    graph = layers_of(net, torch.tensor([[0.5]]))
    boxes = propagate(graph, Box(torch.tensor([[0.5]]), torch.tensor([[0.1]])), outward=False)
    tight = (0.5 - 0.25) / 0.5
    mean_balance = 0  # min(3/2, 2/3) = 2/3 > 0.5
    centre = 1 / 3
    ratio = (3 - centre) ** 2 / (-2 - centre) ** 2  # 1.306: its inverse 0.766 > 0.5
    assert ratio < 2
    assert fast_regulariser(graph, boxes).item() == pytest.approx(tight + mean_balance)
    assert fast_regulariser(graph, boxes, 0.8).item() == pytest.approx(
        (0.8 - 0.25) / 0.8 + (0.8 - 2 / 3) / 0.8 + (0.8 - 1 / ratio) / 0.8, rel=1e-4
    )
    net[0].bias.data.fill_(9.0)  # nothing is inactive: no balance, no NaN
    boxes = propagate(graph, Box(torch.tensor([[0.5]]), torch.tensor([[0.1]])), outward=False)
    assert fast_regulariser(graph, boxes).item() == pytest.approx(tight)


def test_the_initialisation_keeps_boxes_and_the_last_layer():
    net = mlp(400, 300, 300, 10)
    last = net[5].weight.clone()
    ibp_init(net, seed=1)
    torch.testing.assert_close(net[5].weight, last)
    assert float(net[1].weight.detach().std()) == pytest.approx(math.sqrt(2 * math.pi) / 400, rel=0.02)
    graph = layers_of(net, torch.zeros(1, 400))
    with torch.no_grad():
        boxes = propagate(graph, Box(torch.zeros(1, 400), torch.ones(1, 400)), outward=False)
    # mean |w| fan_in = 2: after a ReLU, which halves it, the box has its old size
    assert float(boxes[graph.layers[graph.relus[0]].inputs[0]].radius.mean()) == pytest.approx(2, rel=0.02)
    assert float(boxes[graph.relus[0]].radius.mean()) == pytest.approx(1, rel=0.05)
    with pytest.raises(InputError, match="1 linear"):
        ibp_init(nn.Sequential(nn.Linear(3, 2)))


@pytest.mark.parametrize("method", ["ibp", "sabr", "pgd"])
def test_the_history_of_each_method(method: str):
    net, data = mlp(36, 8, 3), digits_like()
    result = fit_certified(
        net, data.loader(32, generator=generator(0)), 0.08, epochs=4, optimizer=torch.optim.Adam(net.parameters(), lr=5e-3),
        config=CertifiedConfig(method=method, ramp=(0, 0.5), attack_steps=2),  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.history[0]["eps"] == 0
    assert [row["eps"] for row in result.history] == sorted(row["eps"] for row in result.history)
    assert result.history[-1]["eps"] == pytest.approx(0.08)
    assert ("certified" in result.history[-1]) == (method != "pgd")
    assert ("regulariser" in result.history[3]) == (method != "pgd")
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_training_by_ibp_is_tighter_and_certifies_more():
    data, test = digits_like(), digits_like(split="test")
    held, tau = {}, {}
    for eps in (0.2, 1e-6):
        net = mlp(36, 16, 3)
        fit_certified(net, data.loader(16, generator=generator(0)), eps, epochs=12, config=CertifiedConfig(ramp=(0, 0.5)),
                      initialise=eps > 0.1, optimizer=torch.optim.Adam(net.parameters(), lr=5e-3))  # fmt: skip
        x, y = test[:32]
        held[eps], tau[eps] = ibp_accuracy(net, test, 0.2), mean_tightness(tightness(net, x, 0.2, y))
    assert held[0.2] > held[1e-6] + 0.2
    assert tau[0.2] > tau[1e-6] + 0.1


def test_an_epoch_is_selected_only_at_the_final_radius():
    net, data = mlp(36, 8, 3), digits_like()
    result = fit_certified(
        net, data.loader(32, generator=generator(0)), 0.05, epochs=6, config=CertifiedConfig(ramp=(0, 0.6)),
        validation=digits_like(60, "validation"), optimizer=torch.optim.Adam(net.parameters(), lr=5e-3),
    )  # fmt: skip
    # 18 steps: eps has its value from 0.6 * 18 = 10.8 on, in the fourth epoch
    assert [math.isnan(row["selected"]) for row in result.epochs] == [True] * 3 + [False] * 3
    assert result.best is not None
    assert result.best["epoch"] >= 3


def test_the_gradient_is_clipped():
    net, data = mlp(36, 8, 3), digits_like(16)
    before = [p.detach().clone() for p in net.parameters()]
    fit_certified(net, data.loader(16), 0.05, epochs=1, initialise=False, config=CertifiedConfig(clip=1e-3),
                  optimizer=SGD(net.parameters(), lr=1.0))  # fmt: skip
    moved = math.sqrt(sum(float((p.detach() - b).square().sum()) for p, b in zip(net.parameters(), before, strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    data = digits_like()

    def train(net: nn.Module, steps_seen: list[int], stop: int | None) -> None:
        def watch(x: Tensor, g: torch.Generator) -> Tensor:
            steps_seen.append(1)
            return x * (torch.nan if len(steps_seen) == stop else 1)

        fit_certified(net, data.loader(16, generator=generator(0)), 0.05, epochs=3, augment=watch, checkpoint=tmp_path / "run",
                      config=CertifiedConfig(ramp=(0, 0.8)))  # fmt: skip

    whole = mlp(36, 8, 3)
    fit_certified(whole, data.loader(16, generator=generator(0)), 0.05, epochs=3, config=CertifiedConfig(ramp=(0, 0.8)),
                  augment=lambda x, g: x * 1)  # fmt: skip
    broken, again = mlp(36, 8, 3), mlp(36, 8, 3)
    with pytest.raises((NotFinite, InputError)):
        train(broken, [], 9)
    train(again, [], None)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


# refusals


def test_bad_arguments_are_refused():
    net, x = mlp(5, 4, 2), torch.rand(2, 5)
    with pytest.raises(InputError, match="mode"):
        tightness(net, x, 0.1, mode="exact")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="eps"):
        tightness(net, x, 0.0)
    with pytest.raises(InputError, match="values from"):
        tightness(net, 3 * x + 1, 0.1)
    with pytest.raises(InputError, match="y"):
        tightness(net, x, 0.1, torch.tensor([0, 2]))
    with pytest.raises(InputError, match="ReLU net"):
        tightness(nn.Sequential(nn.Linear(5, 2), nn.Tanh()), x, 0.1)
    with pytest.raises(InputError, match="no ReLU"):
        relu_states(nn.Linear(5, 2), x, 0.1)
    with pytest.raises(InputError, match="weights"):
        deep_linear_tightness([torch.ones(2, 3), torch.ones(2, 3)])
    with pytest.raises(InputError, match="weights"):
        deep_linear_tightness([])
    with pytest.raises(InputError, match="eps"):
        deep_linear_radii([torch.ones(2, 3)], -1.0)
    with pytest.raises(InputError, match="d:"):
        tau_gaussian(0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"method": "crown"}, "method"), ({"small_box": 0.0}, "small_box"), ({"cert_weight": 2}, "cert_weight"),
        ({"ramp": (0.5, 0.2)}, "start"), ({"attack_steps": 0}, "attack_steps"), ({"fast_reg": -1}, "fast_reg"),
        ({"clip": 0}, "clip"), ({"tolerance": 0}, "tolerance"),
    ],
)  # fmt: skip
def test_bad_constants_are_refused(change: dict[str, object], name: str):
    with pytest.raises(InputError, match=name):
        CertifiedConfig(**change)  # type: ignore[arg-type]


def test_training_refuses_before_it_computes():
    data, odd = digits_like(), nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Softplus(), nn.Linear(4, 3))
    with pytest.raises(InputError, match="Softplus"):
        fit_certified(odd, data.loader(16), 0.1, epochs=1)
    with pytest.raises(InputError, match="model"):
        fit_certified("net", data.loader(16), 0.1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="eps"):
        fit_certified(mlp(36, 4, 3), data.loader(16), 0.0)
    with pytest.raises(InputError, match="config"):
        fit_certified(mlp(36, 4, 3), data.loader(16), 0.1, config={"method": "ibp"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label"):
        fit_certified(mlp(36, 4, 2), data.loader(16), 0.1, epochs=1)
    with pytest.raises(SplitError):
        fit_certified(mlp(36, 4, 3), data.loader(16), 0.1, epochs=1, validation=digits_like(split="test"))
    with pytest.raises(InputError, match="validation"):
        fit_certified(mlp(36, 4, 3), data.loader(16), 0.1, epochs=1, validation="data")  # type: ignore[arg-type]
