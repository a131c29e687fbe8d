"""Grokking against its card: the spectrum by hand, the analytic net, the invariants, training, and the refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.claims.understand.grokking import Config, net_of
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, NotFinite
from tutelage.core.progress import Progress
from tutelage.core.rng import generator
from tutelage.data.worlds.modular import modular_table
from tutelage.methods.understand import grokking as gk
from tutelage.methods.understand.grokking import diagram as diagram_module
from tutelage.models import modular
from tutelage.threats.dataset.labels import corrupt_labels


def small_net(p: int = 7, width: int = 12, seed: int = 0, **options: Any) -> gk.QuadraticMLP:
    return gk.QuadraticMLP(p, width, generator=generator(seed, "net"), **options)


@pytest.fixture(scope="module")
def coexisting() -> tuple[gk.ModularData, gk.QuadraticMLP, gk.History]:
    """A net mod 23 that knows the rule and the wrong labels."""
    data = gk.modular_dataset(23, 0.8, 0.2)
    net = small_net(23, 128)
    history = gk.train_grok(data, net, gk.GrokConfig(steps=300, weight_decay=5, log_every=100))
    return data, net, history


# ----------------------------------------------------------------------------------------------------------- the spectrum


def test_ipr_by_hand() -> None:
    # rfft of (1, 1, 0, 0) is (2, 1 - i, 0): z^2 = (4, 2, 0), so (16 + 4) / 6^2; without the constant part one number is left
    x = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert gk.ipr(x).item() == pytest.approx(20 / 36)
    assert gk.ipr(x, exclude_dc=True).item() == pytest.approx(1.0)
    assert gk.ipr(x, one_sided=False).item() == pytest.approx((16 + 4 + 4) / 64)
    assert gk.ipr(x, r=3).item() == pytest.approx((64 + 8) / 6**3)


@pytest.mark.parametrize("p", [7, 12, 53])
def test_invariant_1_ipr_of_a_cosine_and_of_a_spike(p: int) -> None:
    turns = 2 * math.pi * torch.arange(p, dtype=torch.float64) / p
    for frequency in range(1, (p - 1) // 2 + 1):
        for phase in (0.0, 0.4, 2.0):
            cosine = 3e-5 * torch.cos(frequency * turns + phase)
            assert gk.ipr(cosine).item() == pytest.approx(1.0)
            assert gk.ipr(cosine, one_sided=False).item() == pytest.approx(0.5)
    spike = F.one_hot(torch.tensor(2), p).double()
    assert gk.ipr(spike).item() == pytest.approx(1 / (p // 2 + 1))
    assert gk.ipr(spike, one_sided=False).item() == pytest.approx(1 / p)
    x = torch.randn(5, p, generator=generator(p), dtype=torch.float64)
    assert torch.allclose(gk.ipr(x), gk.ipr(1e-30 * x))
    assert torch.allclose(gk.ipr(x), gk.ipr(x.roll(3, dims=1)))
    assert torch.allclose(gk.ipr(x), gk.ipr(x.T, dim=0))


def test_a_constant_looks_periodic_unless_its_constant_part_is_left_out() -> None:
    constant = torch.full((9,), 0.3)
    assert gk.ipr(constant).item() == pytest.approx(1.0)
    assert gk.ipr(constant, exclude_dc=True).item() == 0
    assert gk.ipr(torch.zeros(9)).item() == 0


def test_invariant_2_the_analytic_net_adds_without_training() -> None:
    net = gk.analytic_mlp(23, 600, generator=generator(0))
    data = gk.modular_dataset(23, 0.5, 0.0)
    assert gk.accuracies(net, data).test >= 0.95
    assert torch.allclose(gk.neuron_ipr(net), torch.ones(600, dtype=torch.float64), atol=1e-6)
    drawn = small_net(23, 600)
    assert gk.accuracies(drawn, data).test < 0.2
    assert gk.neuron_ipr(drawn).max() < 0.6


def test_neuron_ipr_is_the_mean_over_the_three_weights() -> None:
    net = small_net(7, 3)
    turns = 2 * math.pi * torch.arange(7) / 7
    with torch.no_grad():
        net.u[:, 0], net.v[:, 0], net.w[:, 0] = torch.cos(turns), torch.sin(2 * turns), F.one_hot(torch.tensor(4), 7).float()
    assert gk.neuron_ipr(net)[0].item() == pytest.approx((1 + 1 + 1 / 4) / 3)


# ----------------------------------------------------------------------------------------------------------- data


def test_invariant_8_only_training_labels_are_corrupted_and_as_many_as_said() -> None:
    data = gk.modular_dataset(13, 0.6, 0.35, seed=3)
    n_train = math.floor(0.6 * 169)
    assert (int(data.is_train.sum()), int(data.is_corrupted.sum())) == (n_train, math.floor(0.35 * n_train))
    assert not (data.is_corrupted & ~data.is_train).any()
    changed = data.y != data.y_true
    assert not (changed & ~data.is_corrupted).any()
    assert 0 < int(changed.sum()) <= int(data.is_corrupted.sum())
    assert torch.equal(data.y_true, (data.x[:, 0] + data.x[:, 1]) % 13)
    x, y = data.train
    assert torch.equal(x, data.x[data.is_train])
    assert torch.equal(y, data.y[data.is_train])


def test_the_split_does_not_depend_on_the_noise_and_the_seed_does_what_it_says() -> None:
    clean, noisy, other = (gk.modular_dataset(11, 0.5, xi, seed=seed) for xi, seed in ((0, 1), (0.4, 1), (0.4, 2)))
    assert torch.equal(clean.is_train, noisy.is_train)
    assert not torch.equal(noisy.is_train, other.is_train)
    assert torch.equal(noisy.y, gk.modular_dataset(11, 0.5, 0.4, seed=1).y)


def test_invariant_5_without_noise_all_training_rows_are_clean() -> None:
    data = gk.modular_dataset(7, 0.5, 0.0)
    found = gk.accuracies(small_net(), data)
    assert found.clean == found.train
    assert math.isnan(found.corrupted)
    assert math.isnan(found.memorised)
    assert not data.is_corrupted.any()


def test_products_and_their_zero_divisors() -> None:
    assert modular_table(5, "multiply")[1][5 * 3 + 4].item() == 12 % 5
    assert gk.modular_dataset(5, 0.5, 0, "multiply").warnings == ()
    assert "not prime" in gk.modular_dataset(6, 0.5, 0, "multiply").warnings[0]


def test_kinds_of_label_noise() -> None:
    y = torch.arange(10).repeat(100)
    for noise in ("other", "next"):
        found = corrupt_labels(y, 0.29, 10, generator(0), noise=noise)
        assert torch.equal(found.mask, found.wrong)
        assert int(found.mask.sum()) == 290
    assert torch.equal(found.labels[found.mask], (y[found.mask] + 1) % 10)
    uniform = corrupt_labels(y, 1.0, 10, generator(0))
    assert int(uniform.mask.sum()) == 1000
    assert 50 < int((~uniform.wrong).sum()) < 150  # one in ten keeps its label
    assert torch.equal(y, torch.arange(10).repeat(100))
    assert torch.equal(corrupt_labels(y, 0.0, 10, generator(0)).labels, y)


# ----------------------------------------------------------------------------------------------------------- nets


def one_hot_pairs(x: Tensor, p: int) -> Tensor:
    return torch.cat([F.one_hot(x[:, 0], p), F.one_hot(x[:, 1], p)], dim=1)


class OneHotNet(nn.Module):
    """What a user may have: one-hot inputs, two linear layers."""

    def __init__(self, like: gk.QuadraticMLP) -> None:
        super().__init__()
        self.p = like.p
        self.body = nn.Sequential(
            nn.Linear(2 * like.p, like.width, bias=False), nn.Identity(), nn.Linear(like.width, like.p, bias=False)
        )
        with torch.no_grad():
            self.body[0].weight.copy_(torch.cat([like.u, like.v]).T)
            self.body[2].weight.copy_(like.w)

    def forward(self, x: Tensor) -> Tensor:
        return self.body[2](self.body[0](one_hot_pairs(x, self.p).to(self.body[0].weight)) ** 2)


ONE_HOT = gk.Neurons((("body.0.weight", 0),), (("body.2.weight", 1),))


def test_gathering_rows_is_the_one_hot_product_and_a_users_net_is_examined_like_ours() -> None:
    net, data = small_net(), gk.modular_dataset(7, 0.6, 0.3)
    theirs = OneHotNet(net)
    assert torch.allclose(net(data.x), theirs(data.x), atol=1e-6)
    scores = gk.neuron_ipr(theirs, neurons=ONE_HOT)
    # a row of 2 p is cut into two vectors of p
    assert torch.allclose(scores, gk.neuron_ipr(net), atol=1e-6)
    pruned = gk.prune_by(theirs, scores, 0.5, neurons=ONE_HOT)
    assert torch.allclose(pruned(data.x), gk.prune_by(net, scores, 0.5)(data.x), atol=1e-6)
    history = gk.train_grok(data, theirs, gk.GrokConfig(steps=2, log_every=1), neurons=ONE_HOT)
    ours = gk.train_grok(data, net, gk.GrokConfig(steps=2, log_every=1))
    assert history.last["train_loss"] == pytest.approx(ours.last["train_loss"], rel=1e-4)
    assert history.last["mean_ipr"] == pytest.approx(ours.last["mean_ipr"], rel=1e-3)


@pytest.mark.parametrize("block", [1, 2**17])
def test_loss_and_gradients_in_one_pass_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(modular, "_BLOCK", block)  # 1: blocks of 64 rows, the last one shorter
    net = small_net(11, 6).double()
    x, y = gk.modular_dataset(11, 0.7, 0.3).train
    assert len(x) % 64
    fast = net.mean_squared_error(x, y)
    assert fast is not None
    (3 * fast).backward()
    gradients = [weights.grad for weights in (net.u, net.v, net.w)]
    net.zero_grad()
    plain = F.mse_loss(net(x), F.one_hot(y, 11).double())
    (3 * plain).backward()
    assert fast.item() == pytest.approx(plain.item(), rel=1e-12)
    for mine, weights in zip(gradients, (net.u, net.v, net.w), strict=True):
        assert mine is not None
        assert torch.allclose(mine, weights.grad, rtol=1e-10, atol=1e-14)


def test_where_the_fast_way_is_not_the_function_it_is_not_taken() -> None:
    x, y = gk.modular_dataset(7, 0.7, 0.3).train
    dropping = small_net(dropout=0.5)
    assert dropping.mean_squared_error(x, y) is None
    assert dropping.eval().mean_squared_error(x, y) is not None
    assert small_net(norm="batch").mean_squared_error(x, y) is None
    assert gk.PairMLP(7, 4, activation="relu").mean_squared_error(x, y) is None


def test_initial_weights_have_the_papers_spread() -> None:
    net = small_net(97, 500)
    for weights in (net.u, net.v, net.w):
        assert float(weights.detach().std()) == pytest.approx((16 * 500) ** (-1 / 3), rel=0.02)


def test_batch_norm_comes_after_the_square_and_dropout_before() -> None:
    net, x = small_net(norm="batch"), torch.tensor([[1, 2], [3, 3]])
    assert net.norm is not None
    square = (net.u[x[:, 0]] + net.v[x[:, 1]]) ** 2
    assert torch.allclose(net(x), F.batch_norm(square, None, None, training=True) @ net.w.T, atol=1e-5)
    dropping = small_net(dropout=0.5, width=400)
    torch.manual_seed(0)
    hidden = dropping(x) - dropping.eval()(x)
    assert hidden.abs().max() > 0
    # kept pre-activations are doubled before the square: a mean of 2 z^2 where dropout after it would have z^2
    ones = small_net(dropout=0.5, width=4000)
    with torch.no_grad():
        ones.u.fill_(1.0), ones.v.fill_(0.0), ones.w.fill_(1 / 4000)
        assert float(ones(x).mean()) == pytest.approx(2.0, rel=0.1)


def test_the_transformer_is_one_block_over_two_tokens() -> None:
    net = gk.PairTransformer(5, 8, 2, 3, generator=generator(0)).double()
    x = modular_table(5)[0]
    h = net.token[x] + net.position  # (B, 2, 8)
    q, k, v = ((h @ weights.T).view(-1, 2, 2, 4).transpose(1, 2) for weights in (net.query, net.key, net.value))
    mixed = (torch.softmax(q @ k.transpose(2, 3) / 4, dim=-1) @ v).transpose(1, 2).reshape(-1, 2, 8)
    h = h + mixed @ net.mix.T
    h = h + (h @ net.up.T).relu() @ net.down.T
    assert torch.allclose(net(x), (h @ net.output.T)[:, -1] / 8, atol=1e-12)
    assert gk.neuron_ipr(net).shape == (8,)


# ----------------------------------------------------------------------------------------------------------- pruning


def test_invariant_3_pruning_nothing_and_everything() -> None:
    net, x = small_net(), modular_table(7)[0]
    scores = gk.neuron_ipr(net)
    assert torch.equal(gk.prune_by(net, scores, 0.0)(x), net(x))
    assert torch.equal(gk.prune_by(net, scores, 1.0)(x), torch.zeros(49, 7))


def test_invariant_4_either_side_of_a_neuron_is_enough() -> None:
    net, x = small_net(), modular_table(7)[0]
    drop = torch.arange(12) % 3 == 0
    inputs, outputs = (gk.without_neurons(net, torch.zeros(12, dtype=torch.bool)) for _ in range(2))
    with torch.no_grad():
        inputs.u[:, drop] = inputs.v[:, drop] = 0
        outputs.w[:, drop] = 0
    assert torch.allclose(inputs(x), outputs(x), atol=1e-7)
    assert torch.equal(gk.without_neurons(net, drop)(x), outputs(x))
    assert not torch.equal(outputs(x), net(x))


def test_orders_of_pruning_by_hand() -> None:
    net, scores = small_net(width=4), torch.tensor([0.5, 0.1, 0.5, 0.9])

    def dropped(order: Any, fraction: float, seed: int = 0) -> list[int]:
        pruned = gk.prune_by(net, scores, fraction, order, seed=seed)
        return [k for k in range(4) if not pruned.w[:, k].any()]

    assert dropped("low", 0.5) == [0, 1]  # of equal scores the first goes first
    assert dropped("high", 0.5) == [0, 3]
    assert dropped("low", 0.75) == [0, 1, 2]
    assert dropped("low", 0.6) == [0, 1]  # round(2.4)
    orders = {tuple(dropped("random", 0.5, seed)) for seed in range(20)}
    assert len(orders) > 3
    assert net.w.all()


def test_a_curve_averages_random_orders_and_keeps_them() -> None:
    net, data = small_net(), gk.modular_dataset(7, 0.6, 0.3)
    scores = gk.neuron_ipr(net)
    curve = gk.pruning_curve(net, data, orders=["random"], fractions=[0.25, 0.5], draws=3, seed=5)
    tests = [gk.accuracies(gk.prune_by(net, scores, 0.5, "random", seed=5 + i), data).test for i in range(3)]
    assert curve.at("random", 0.5).test == pytest.approx(sum(tests) / 3)
    assert [row.fraction for row in curve.of("random")] == [0.25, 0.5]
    with pytest.raises(InputError, match=r"fraction: got 0\.3"):
        curve.at("random", 0.3)


def test_the_rule_sits_in_periodic_neurons(coexisting: tuple[gk.ModularData, gk.QuadraticMLP, gk.History]) -> None:
    data, net, history = coexisting
    assert history.phase == "coexistence"
    assert history.last["corrupted"] > 0.9
    curve = gk.pruning_curve(net, data, fractions=[0.6], draws=5)
    apart = {order: curve.at(order, 0.6).test - curve.at(order, 0.6).corrupted for order in ("low", "high", "random")}
    assert apart["low"] > 0.2 > 0 > apart["random"] > apart["high"]
    better = gk.accuracies(gk.repair(net, data), data)
    assert better.corrupted == curve.at("low", 0.6).corrupted
    assert better.restored > 0.3 > history.last["restored"]


# ----------------------------------------------------------------------------------------------------------- training


def test_invariant_6_phases_on_their_boundaries() -> None:
    assert gk.classify_phase(0.90, 0.90, 0.35) == "coexistence"
    assert gk.classify_phase(0.8999, 0.90, 0.35) == "partial inversion"
    assert gk.classify_phase(0.75, 1.0, 0.3) == "partial inversion"
    assert gk.classify_phase(0.69, 1.0, 0.35) == "full inversion"
    assert gk.classify_phase(0.90, 0.8999, 0.35) == "memorisation"
    assert gk.classify_phase(0.5, 0.5, 0.35) == "confusion"
    assert {gk.classify_phase(a, b, 0.3) for a in (0.1, 0.72, 0.8, 1.0) for b in (0.1, 1.0)} == set(gk.PHASES)


def test_invariant_7_the_same_seed_gives_the_same_history() -> None:
    def run(seed: int, **options: Any) -> list[dict[str, float]]:
        data = gk.modular_dataset(7, 0.6, 0.3)
        return gk.train_grok(data, small_net(dropout=0.2), gk.GrokConfig(steps=6, log_every=3, **options), seed=seed).rows

    assert run(0) == run(0)
    assert run(0) != run(1)  # dropout
    assert run(0, batch_size=8) == run(0, batch_size=8)


def test_weight_decay_is_decoupled_one_step_by_hand() -> None:
    data, net = gk.modular_dataset(7, 0.6, 0.3), small_net()
    before = net.w.detach().clone()
    x, y = data.train
    (gradient,) = torch.autograd.grad(F.mse_loss(net(x), F.one_hot(y, 7).float()), net.w)
    gk.train_grok(data, net, gk.GrokConfig(steps=1, weight_decay=7.0, lr=0.02, log_every=1))
    # the first step of Adam is g / (|g| + eps)
    wanted = before * (1 - 0.02 * 7.0) - 0.02 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(net.w, wanted, atol=1e-5)


def test_weight_decay_makes_the_net_ignore_wrong_labels() -> None:
    data, net = gk.modular_dataset(31, 0.8, 0.2), small_net(31, 200)
    history = gk.train_grok(data, net, gk.GrokConfig(steps=250, weight_decay=10, log_every=250))
    assert history.phase == "full inversion"
    assert history.last["train"] == pytest.approx(0.8, abs=0.03)
    assert history.last["test"] > 0.97
    assert history.last["restored"] > 0.9
    assert history.last["mean_ipr"] > history.rows[0]["mean_ipr"] + 0.3


def test_the_history_has_a_row_before_and_one_after_every_log_period() -> None:
    data, net = gk.modular_dataset(7, 0.6, 0.3), small_net()
    before = gk.accuracies(net, data).as_dict()
    history = gk.train_grok(data, net, gk.GrokConfig(steps=5, log_every=2))
    assert [row["step"] for row in history.rows] == [0, 2, 4, 5]
    assert {key: history.rows[0][key] for key in before} == before
    squares = sum(float((weights.detach() ** 2).sum()) for weights in net.parameters())
    assert history.last["weight_norm"] == pytest.approx(math.sqrt(squares))
    assert not net.training


class _Stops(Progress):
    """A progress that ends the run in its middle, as a killed process would."""

    def task(self, description: str, total: float) -> Any:
        from contextlib import nullcontext

        class Task:
            left = 8

            def advance(self, amount: float = 1, note: str = "") -> None:
                Task.left -= int(amount)
                if Task.left < 0:
                    raise RuntimeError("killed")

        return nullcontext(Task())


@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, batch_size: int | None) -> None:
    data = gk.modular_dataset(7, 0.6, 0.3)
    config = gk.GrokConfig(steps=12, weight_decay=1.0, batch_size=batch_size, log_every=3)

    def run(net: gk.QuadraticMLP, **options: Any) -> gk.History:
        return gk.train_grok(data, net, config, **options)

    whole, killed, again = (small_net(dropout=0.3) for _ in range(3))
    history = run(whole)
    with pytest.raises(RuntimeError, match="killed"):
        run(killed, checkpoint=tmp_path / "run", progress=_Stops())
    resumed = run(again, checkpoint=tmp_path / "run")
    assert resumed.rows == history.rows
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert not torch.equal(whole.w, killed.w)


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(NotFinite):
        gk.train_grok(gk.modular_dataset(7, 0.6, 0.3), small_net(), gk.GrokConfig(steps=20, lr=1e30))


def test_other_nets_and_losses_learn() -> None:
    data = gk.modular_dataset(7, 0.7, 0.0)
    relu = gk.PairMLP(7, 32, activation="relu", generator=generator(0))
    transformer = gk.PairTransformer(7, 16, 2, generator=generator(0))
    for net, loss in ((relu, "mse"), (relu, "cross-entropy"), (transformer, "cross-entropy")):
        history = gk.train_grok(data, net, gk.GrokConfig(steps=60, log_every=60, loss=loss))
        assert history.last["train_loss"] < history.rows[0]["train_loss"] or loss == "cross-entropy"
        assert history.last["train"] > 0.9


# ----------------------------------------------------------------------------------------------------------- reports


def test_an_examination_and_its_page(coexisting: tuple[gk.ModularData, gk.QuadraticMLP, gk.History], tmp_path: Path) -> None:
    data, net, history = coexisting
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = gk.examine(net, data, history=history, fractions=[0.0, 0.5, 1.0], draws=1)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert found.phase == "coexistence"
    assert (found.gain, found.warnings) == (None, [])
    assert found.curve.at("low", 0.0) == found.accuracies
    text = found.to_report(tmp_path / "page.html").read_text()
    for words in ("Phase: coexistence", "lowest IPR first", "random order", "weights of the neuron of highest IPR", "mod 23"):
        assert words in text


def test_the_scale_of_a_norm_layer_is_set_against_ipr(tmp_path: Path) -> None:
    data, net = gk.modular_dataset(7, 0.6, 0.0), small_net(norm="batch")
    assert net.norm is not None
    scores = gk.neuron_ipr(net)
    with torch.no_grad():
        net.norm.weight.copy_(-scores)  # the sign does not matter
    found = gk.examine(net, data, fractions=[0.0], draws=1)
    assert found.gain_correlation == pytest.approx(1.0)
    assert "no label was corrupted" in found.warnings[0]
    assert "rank correlation +1.00" in found.to_report(tmp_path / "page.html").read_text()
    assert gk.rank_correlation(torch.ones(3), torch.arange(3.0)) == 0


def test_a_phase_diagram_is_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "xis": [0.0, 0.4], "alphas": [0.5, 0.8], "weight_decays": [0.0, 5.0], "config": gk.GrokConfig(steps=3),
        "cache": Cache(tmp_path / "cache"), "seeds": 2,
    }  # fmt: skip
    first = gk.phase_diagram(5, 8, **options)
    assert len(first.cells) == 16
    assert {cell.phase for cell in first.cells} <= set(gk.PHASES)
    data = gk.modular_dataset(5, 0.8, 0.4, seed=1)
    net = gk.QuadraticMLP(5, 8, generator=generator(1, "quadratic net"))
    last = gk.train_grok(data, net, gk.GrokConfig(steps=3, weight_decay=5.0, log_every=3), seed=1).last
    cell = next(c for c in first.cells if (c.alpha, c.xi, c.weight_decay, c.seed) == (0.8, 0.4, 5.0, 1))
    assert (cell.train, cell.test, cell.corrupted) == (last["train"], last["test"], last["corrupted"])
    mean = sum(c.test for c in first.cells if (c.alpha, c.xi, c.weight_decay) == (0.8, 0.4, 5.0)) / 2
    assert first.phase(alpha=0.8, xi=0.4, weight_decay=5.0) == gk.classify_phase(0.0, mean, 0.4)
    with pytest.raises(InputError, match="values of this diagram"):
        first.phase(alpha=0.7)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a net was trained again")

    monkeypatch.setattr(diagram_module, "train_grok", never)
    again = gk.phase_diagram(5, 8, **options)
    assert repr(again.cells) == repr(first.cells)  # NaN where nothing was corrupted
    text = again.to_report(tmp_path / "diagram.html").read_text()
    for words in ("corrupted, xi", "weight decay 5", "full inversion", "share of pairs trained on"):
        assert words in text


# ----------------------------------------------------------------------------------------------------------- claim, refusals


def test_arms_that_prune_share_one_net() -> None:
    config = Config()
    main = net_of("no-pruning", config)
    assert all(net_of(f"{name}-pruning", config) == main for name in ("low-ipr", "random", "high-ipr", "small-weights"))
    assert net_of("large-low-ipr", config) == net_of("large-random", config) == net_of("large-no-pruning", config)
    assert (main.config.weight_decay, net_of("weight-decay", config).config.weight_decay) == (0, 10)
    assert net_of("large-weight-decay", config).config.weight_decay == 15
    transformers = [net_of(arm, config) for arm in ("transformer", "transformer-weight-decay")]
    assert [one.kind for one in transformers] == ["transformer"] * 2
    assert transformers[0].config.weight_decay < transformers[1].config.weight_decay


SMALL = gk.modular_dataset(5, 0.6, 0.2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gk.modular_dataset(2, 0.5, 0.1), "p: got 2"),
        (lambda: gk.modular_dataset(5, 1.0, 0.1), "alpha: got 1.0"),
        (lambda: gk.modular_dataset(5, 0.01, 0.1), "alpha: got 0.01"),
        (lambda: gk.modular_dataset(5, 0.5, 1.5), "xi: got 1.5"),
        (lambda: gk.modular_dataset(5, 0.5, float("nan")), "xi: got nan"),
        (lambda: gk.modular_dataset(5, 0.5, 0.1, "divide"), "operation: got divide"),  # type: ignore[arg-type]
        (lambda: gk.QuadraticMLP(5, 0), "width: got 0"),
        (lambda: gk.QuadraticMLP(5, 4, 1.0), "dropout: got 1.0"),
        (lambda: gk.QuadraticMLP(5, 4, norm="layer"), "norm: got layer"),  # type: ignore[arg-type]
        (lambda: gk.PairTransformer(5, 10, 4), "heads: got 4"),
        (lambda: small_net()(torch.zeros(3, 2)), "x: got torch.float32"),
        (lambda: small_net()(torch.tensor([[0, 7]])), "x: got tokens from 0 to 7"),
        (lambda: gk.ipr(torch.arange(4)), "weight: got dtype torch.int64"),
        (lambda: gk.ipr(torch.full((4,), float("nan"))), "weight: got NaN"),
        (lambda: gk.ipr(torch.ones(4), r=1), "r: got 1"),
        (lambda: gk.ipr(torch.ones(4), dim=2), "dim: got 2"),
        (lambda: gk.neuron_ipr(nn.Linear(3, 3)), "neurons: got Linear without neurons"),
        (lambda: gk.neuron_ipr(small_net(), 5), "p: got 5, wanted a divisor of 7"),
        (lambda: gk.neuron_ipr(small_net(), neurons=gk.Neurons((("a", 0),), ())), "neurons: got a, wanted a parameter"),
        (lambda: gk.neuron_ipr(small_net(), neurons=gk.Neurons((("u", 0),), (("w", 1),))), "neurons: got [7, 12] neurons"),
        (lambda: gk.without_neurons(small_net(), torch.ones(3)), "drop: got torch.float32"),
        (lambda: gk.prune_by(small_net(), torch.ones(3), 0.5), "scores: got shape (3,)"),
        (lambda: gk.prune_by(small_net(), torch.ones(12), 1.5), "fraction: got 1.5"),
        (lambda: gk.prune_by(small_net(), torch.ones(12), 0.5, "up"), "order: got up"),  # type: ignore[arg-type]
        (lambda: gk.prune_by(small_net(), torch.full((12,), float("inf")), 0.5), "scores: got NaN or infinity"),
        (lambda: gk.classify_phase(90, 0.9, 0.1), "train_acc: got 90"),
        (lambda: gk.accuracies(nn.Flatten(), SMALL), "model: got outputs of shape (25, 2)"),
        (lambda: gk.accuracies(small_net(), None), "data: got NoneType"),  # type: ignore[arg-type]
        (lambda: gk.GrokConfig(steps=0), "steps: got 0"),
        (lambda: gk.GrokConfig(weight_decay=100.0), "weight_decay: got 100.0, wanted below 1 / lr = 100"),
        (lambda: gk.GrokConfig(loss="hinge"), "loss: got hinge"),  # type: ignore[arg-type]
        (lambda: gk.train_grok(SMALL, gk.QuadraticMLP(5, 4), gk.GrokConfig(batch_size=99)), "batch_size: got 99"),
        (lambda: gk.train_grok(SMALL, gk.QuadraticMLP(5, 4), {"steps": 3}), "config: got dict"),  # type: ignore[arg-type]
        (lambda: gk.phase_diagram(5, 4, xis=[]), "xis: got []"),
        (lambda: gk.phase_diagram(5, 4, xis=[0.1], weight_decays=[-1.0]), "weight_decays: got -1.0"),
        (lambda: corrupt_labels(torch.tensor([3]), 0.5, 3, generator(0)), "labels: got 3 to 3"),
        (lambda: corrupt_labels(torch.ones(3), 0.5, 3, generator(0)), "labels: got torch.float32"),
    ],
)  # fmt: skip
def test_what_is_refused(call: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)
