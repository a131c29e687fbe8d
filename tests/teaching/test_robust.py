"""TRADES, MART, GAIRAT and weighted adversarial training: their equations by hand, and what they reduce to."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.teaching.fit import Context, fit
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy
from tutelage.teaching.robust import GAIRAT, MART, TRADES, WeightedAdversarialTraining, boosted_cross_entropy
from tutelage.teaching.weights import ClassWeights, KLDROWeights
from tutelage.threats import PGD, Linf, kl_to_reference


class Shift:
    """An attack that adds a constant and remembers what it was given."""

    def __init__(self, by: float = 0.0) -> None:
        self.by = by
        self.references: list[Tensor | None] = []

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        self.references.append(reference)
        return x + self.by


class Swap(nn.Module):
    """Logits `clean` where the input is 0, `attacked` elsewhere."""

    def __init__(self, clean: list[float], attacked: list[float]) -> None:
        super().__init__()
        self.clean, self.attacked = (nn.Parameter(torch.tensor(one)) for one in (clean, attacked))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] == 0, self.clean, self.attacked)


def log(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def context(step: int = 0, total: int = 10) -> Context:
    return Context(step, total, 1.0, torch.Generator().manual_seed(5))


def net(seed: int = 0, *, norm: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    first: list[nn.Module] = [nn.BatchNorm1d(4)] if norm else []
    return nn.Sequential(*first, nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch() -> tuple[Tensor, Tensor]:
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)) / 2
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def same_gradients(model: nn.Module, a: Tensor, b: Tensor) -> None:
    for one, other in zip(gradient(model, a), gradient(model, b), strict=True):
        torch.testing.assert_close(one, other)


# TRADES


def test_trades_by_hand() -> None:
    # p = (1/2, 1/2) on x, q = (1/4, 3/4) on x': CE = ln 2, KL(p || q) = ln 2 - ln(3)/2 ... = 0.5 ln(4/3)
    model, x, y = Swap(log(0.5, 0.5), log(0.25, 0.75)), torch.zeros(2, 4), torch.tensor([0, 1])
    total, logged = TRADES(Shift(0.3), beta=6.0)(model, (x, y), context())
    moved = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert moved == pytest.approx(0.5 * math.log(4 / 3))
    assert float(total.detach()) == pytest.approx(math.log(2) + 6 * moved, abs=1e-6)
    assert float(logged["loss_robust"]) == pytest.approx(moved, abs=1e-6)


def test_trades_with_beta_0_is_cross_entropy() -> None:
    model = net()
    ours, _ = TRADES(PGD(Linf(0.1), steps=2, objective=kl_to_reference), beta=0)(model, batch(), context())
    plain, _ = CrossEntropy()(model, batch(), context())
    torch.testing.assert_close(ours, plain)
    same_gradients(model, ours, plain)


def test_trades_with_an_attack_that_moves_nothing_is_cross_entropy() -> None:
    model = net()
    ours, _ = TRADES(Shift(0.0), beta=6)(model, batch(), context())
    plain, _ = CrossEntropy()(model, batch(), context())
    same_gradients(model, ours, plain)


def test_trades_has_gradients_through_both_sides_of_the_kl_and_none_through_the_attack() -> None:
    model, (x, y) = net(), batch()

    def moving(x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        assert reference is not None
        assert not reference.requires_grad
        return x + 0.3

    ours, _ = TRADES(moving, beta=2.0)(model, (x, y), context())
    p, q = model(x).softmax(1), model(x + 0.3).softmax(1)
    expected = F.cross_entropy(model(x), y) + 2 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(ours, expected)
    same_gradients(model, ours, expected)


def test_trades_attack_climbs_the_kl_to_the_models_own_prediction_in_eval_mode() -> None:
    model, (x, y) = net(norm=True).train(), batch()
    spy = Shift(0.0)
    TRADES(spy)(model, (x, y), context())
    assert spy.references[0] is not None
    assert int(model[0].num_batches_tracked) == 2  # clean and attacked; the reference left no trace
    fresh = net(norm=True).eval()
    torch.testing.assert_close(spy.references[0], fresh(x).detach())
    attack = PGD(Linf(0.2), steps=5, objective=kl_to_reference, start="gaussian")
    _, still = TRADES(Shift(0.0))(net(), (x, y), context())
    _, moved = TRADES(attack)(net(), (x, y), context())
    assert float(moved["loss_robust"]) > float(still["loss_robust"]) + 1e-4


# MART


def test_mart_by_hand() -> None:
    # x: p = (1/2, 1/4, 1/4), y = 0. x': q = (0.2, 0.7, 0.1)
    # BCE = -ln 0.2 - ln(1 - 0.7); KL(p || q) = .5 ln 2.5 + .25 ln(.25/.7) + .25 ln 2.5; its weight 1 - 1/2
    model, x, y = Swap(log(0.5, 0.25, 0.25), log(0.2, 0.7, 0.1)), torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    total, logged = MART(Shift(1.0), beta=5.0)(model, (x, y), context())
    boosted = -math.log(0.2) - math.log(0.3)
    moved = 0.75 * math.log(2.5) + 0.25 * math.log(0.25 / 0.7)
    assert float(logged["loss_boosted"]) == pytest.approx(boosted, abs=1e-6)
    assert float(logged["loss_robust"]) == pytest.approx(0.5 * moved, abs=1e-6)
    assert float(total.detach()) == pytest.approx(boosted + 5 * 0.5 * moved, abs=1e-5)


def test_mart_counts_a_misclassified_sample_more() -> None:
    # the same KL, but y has 1/2 in one case and 1/4 in the other: weights 1/2 and 3/4
    model, x = Swap(log(0.5, 0.25, 0.25), log(0.2, 0.7, 0.1)), torch.zeros(1, 4)
    logged = [MART(Shift(1.0))(model, (x, torch.tensor([label])), context())[1]["loss_robust"] for label in (0, 1)]
    assert float(logged[1]) / float(logged[0]) == pytest.approx(1.5, rel=1e-6)


def test_mart_with_beta_0_is_the_boosted_cross_entropy_and_for_two_classes_twice_the_cross_entropy() -> None:
    model, (x, y) = net(), batch()
    ours, _ = MART(Shift(0.2), beta=0)(model, (x, y), context())
    torch.testing.assert_close(ours, boosted_cross_entropy(model(x + 0.2), y).mean())
    z, label = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1, 1])
    torch.testing.assert_close(boosted_cross_entropy(z, label), 2 * F.cross_entropy(z, label, reduction="none"))


def test_boosted_cross_entropy_is_finite_where_a_rival_has_all_the_probability() -> None:
    z = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    loss = boosted_cross_entropy(z, torch.tensor([0]))
    loss.sum().backward()
    # -log p_0 = 200, 1 - p_1 = 2 exp(-200)
    assert float(loss.detach()) == pytest.approx(400 - math.log(2), rel=1e-6)
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())


def test_the_gradient_of_mart_includes_that_of_its_weight() -> None:
    model, (x, y) = net(), batch()
    ours, _ = MART(Shift(0.3), beta=3.0)(model, (x, y), context())
    p, q = model(x).softmax(1), model(x + 0.3).softmax(1)
    own = torch.arange(6), y
    rival = q.masked_fill(F.one_hot(y, 3).bool(), 0).amax(1)
    boosted = -q[own].log() - (1 - rival).log()
    expected = (boosted + 3 * (p * (p / q).log()).sum(1) * (1 - p[own])).mean()
    same_gradients(model, ours, expected)


# weights


@pytest.mark.parametrize("kind", [TRADES, MART, WeightedAdversarialTraining])
def test_weights_of_1_change_nothing_and_others_do(kind: type) -> None:
    model = net()
    plain, _ = kind(Shift(0.2))(model, batch(), context())
    equal, _ = kind(Shift(0.2), weights=KLDROWeights(r=1e8))(model, batch(), context())
    sharp, _ = kind(Shift(0.2), weights=KLDROWeights(r=0.1))(model, batch(), context())
    same_gradients(model, plain, equal)
    assert float(sharp.detach()) > float(plain.detach())


def test_weighted_adversarial_training_without_weights_is_adversarial_training() -> None:
    model, attack = net(), PGD(Linf(0.1), steps=3)
    ours, _ = WeightedAdversarialTraining(attack)(model, batch(), context())
    theirs, _ = AdversarialTraining(attack)(model, batch(), context())
    assert torch.equal(ours, theirs)


def test_class_weights_by_hand_in_training() -> None:
    # three classes of 1, 1 and 4 samples, power 1: 6 / (3 n_c) = 2, 2, 1/2
    model, (x, y) = net(), batch()
    loss, _ = WeightedAdversarialTraining(Shift(0.1), weights=ClassWeights([1, 1, 4]))(model, (x, y), context())
    each = F.cross_entropy(model(x + 0.1), y, reduction="none")
    torch.testing.assert_close(loss, (torch.tensor([2.0, 2.0, 0.5])[y] * each).mean())


def test_the_state_of_the_weights_is_the_objectives() -> None:
    first = TRADES(Shift(0.1), weights=KLDROWeights(0.5))
    first(net(), batch(), context())
    second = TRADES(Shift(0.1), weights=KLDROWeights(0.5))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert first.state_dict()["weights"]["log_u"] is not None
    plain = TRADES(Shift(0.1))
    plain.load_state_dict(plain.state_dict())


# GAIRAT


def test_gairat_counts_the_points_at_which_a_sample_is_right() -> None:
    """Logits (x, 0): class 0 is right while x > 0. Steps of 0.1 down from 0.25 and 0.05: right at 3 points and at 1."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.scale * (x - 0.5), torch.zeros_like(x)], 1)

    x, y = torch.tensor([[0.75], [0.55]]), torch.tensor([0, 0])
    attack = PGD(Linf(0.5), steps=4, step_size=0.1, start="clean")
    model = Line()
    loss, logged = GAIRAT(attack, shift=0.0, burn_in=0)(model, (x, y), context())
    assert float(logged["kappa"]) == pytest.approx((3 + 1) / 2)
    raw = torch.tensor([(1 + math.tanh(5 * (1 - 2 * k / 4))) / 2 for k in (3, 1)])
    each = F.cross_entropy(model(x - 0.4), y, reduction="none")
    torch.testing.assert_close(loss, (raw / raw.mean() * each).mean())


def test_gairat_is_adversarial_training_during_its_burn_in_and_not_after() -> None:
    model, attack = net(), PGD(Linf(0.3), steps=4, step_size=0.1)
    plain, _ = AdversarialTraining(attack)(model, batch(), context(0))
    first, _ = GAIRAT(attack, burn_in=0.5)(model, batch(), context(0))
    assert torch.equal(first, plain)
    plain, _ = AdversarialTraining(attack)(model, batch(), context(5))
    later, _ = GAIRAT(attack, burn_in=0.5)(model, batch(), context(5))
    assert abs(float((later - plain).detach())) > 1e-3


def test_gairat_leaves_frozen_parts_and_gradients_of_the_model_as_they_are() -> None:
    model = net(norm=True).train()
    model[0].eval()
    loss, _ = GAIRAT(PGD(Linf(0.1), steps=2), burn_in=0)(model, batch(), context())
    assert [module.training for module in model] == [False, True, True, True]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(float(g.abs().sum()) > 0 for g in gradient(model, loss))


def test_gairat_refuses_an_attack_that_never_asks_the_model() -> None:
    with pytest.raises(InputError, match="attack: got one that never asks"):
        GAIRAT(Shift(0.1))(net(), batch(), context())


# all of them


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TRADES(Shift(), beta=-1), "beta"),
        (lambda: MART(Shift(), beta=math.nan), "beta"),
        (lambda: GAIRAT(Shift(), burn_in=2), "burn_in"),
        (lambda: GAIRAT(Shift(), shift=math.inf), "shift"),
        (lambda: TRADES("pgd"), "attack"),
        (lambda: MART(Shift(), weights=1.0), "weights"),
    ],
)
def test_wrong_arguments_are_refused(make, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got"):
        make()


@pytest.mark.parametrize("kind", [TRADES, MART, GAIRAT, WeightedAdversarialTraining])
def test_inputs_outside_0_to_1_and_wrong_labels_are_refused_before_the_attack(kind: type) -> None:
    attack, (x, y) = Shift(), batch()
    with pytest.raises(InputError, match="x: got values"):
        kind(attack)(net(), (x * 255, y), context())
    assert attack.references == []
    with pytest.raises(InputError, match="y: got label 3"):
        kind(PGD(Linf(0.1), steps=1))(net(), (x, y + 1), context())


@pytest.mark.parametrize("kind", [TRADES, MART, GAIRAT, WeightedAdversarialTraining])
def test_fit_trains_with_each(kind: type) -> None:
    y = torch.arange(24) % 3
    x = 0.2 * torch.rand(24, 4, generator=torch.Generator().manual_seed(2)) + 0.1
    x[torch.arange(24), y] += 0.6
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    attack = PGD(Linf(0.1), steps=2, objective=kl_to_reference) if kind is TRADES else PGD(Linf(0.1), steps=2)
    model = net()
    fit(model, kind(attack), loader, epochs=40, optimizer=torch.optim.SGD(model.parameters(), lr=0.3))
    found = PGD(Linf(0.1), steps=5).run(model, x, y, torch.Generator().manual_seed(0))
    assert int(found.success.sum()) <= 2
