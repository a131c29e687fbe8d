"""Randomized smoothing: radii from given counts by hand, abstention, and a classifier whose smoothed form is known."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, QueryBudgetExceeded
from tutelage.core.stats import clopper_pearson
from tutelage.guarantees.noise import GaussianNoise, PassBudget
from tutelage.guarantees.smoothing import (
    ABSTAIN,
    SmoothedModel,
    certificates,
    certify,
    lower_limit,
    predict,
    predictions,
)


class Halfspace(nn.Module):
    """Class 1 where the mean of the first pixel exceeds 1/2: smoothed, its radius is exactly |x - 1/2|."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)


def test_radii_of_given_counts_by_hand() -> None:
    selection = torch.tensor([[90, 10], [5, 95], [80, 20]])
    votes = torch.tensor([[1000, 0], [10, 990], [520, 480]])
    found = certificates(selection, votes, sigma=0.5, alpha=0.001)
    # all of n: the lower limit is alpha^(1/n) = 0.001^0.001 = 0.993116; Phi^-1(0.993116) = 2.4633
    assert float(found.p_lower[0]) == pytest.approx(0.001**0.001, rel=1e-12)
    assert float(found.radius[0]) == pytest.approx(0.5 * 2.4633, abs=1e-4)
    # 990 of 1000: the limit p solves P(Binomial(1000, p) >= 990) = 0.001
    p = float(found.p_lower[1])
    assert scipy.stats.binom.sf(989, 1000, p) == pytest.approx(0.001, rel=1e-6)
    assert float(found.radius[1]) == pytest.approx(0.5 * scipy.stats.norm.ppf(p), rel=1e-9)
    # 520 of 1000: the limit is below 1/2
    assert found.classes.tolist() == [0, 1, ABSTAIN]
    assert float(found.radius[2]) == 0.0
    assert float(found.p_lower[2]) < 0.5
    assert "sound" in found.guarantee
    assert "1000 noise draws" in found.guarantee


def test_the_class_is_the_one_selected_not_the_one_that_wins_later() -> None:
    found = certificates(torch.tensor([[3, 2]]), torch.tensor([[100, 900]]), sigma=1.0)
    assert found.classes.tolist() == [ABSTAIN]


def test_the_lower_limit_is_that_of_the_two_sided_interval_at_twice_alpha() -> None:
    for k, n in ((0, 10), (1, 10), (7, 10), (10, 10), (9990, 10_000)):
        assert float(lower_limit(k, n, 0.001)) == pytest.approx(clopper_pearson(k, n, level=0.998).lo, rel=1e-9, abs=1e-15)
    assert lower_limit([0, 10], [10, 10], 0.05).tolist() == [0.0, pytest.approx(0.05**0.1)]


def test_a_halfspace_is_certified_up_to_its_distance_and_never_further() -> None:
    x = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.75, 1.0])[:, None].repeat(1, 4)
    found = certify(Halfspace(), x, GaussianNoise(0.25, seed=1), draws=20_000, batch_size=5000)
    distance = (x[:, 0] - 0.5).abs().double()
    assert found.classes.tolist() == [0, 0, 0, ABSTAIN, 1, 1]
    assert bool((found.radius <= distance).all())
    sure = [1, 2, 4]  # within reach of 20,000 draws: the others are cut off at sigma Phi^-1(alpha^(1/n)) = 0.84
    assert (found.radius[sure] / distance[sure]).min() > 0.9
    y = torch.tensor([0, 0, 0, 0, 0, 1])
    assert found.accuracy(y, [0.0, 0.25, 10.0]) == [pytest.approx(4 / 6), pytest.approx(3 / 6), 0.0]


def test_certificates_hold_as_often_as_they_say() -> None:
    """At alpha 1/4 a limit above the true probability (0.8413) comes in at most a quarter of 2000 certificates."""
    p = float(scipy.stats.norm.cdf(1.0))
    x = torch.full((2000, 1), 0.75)
    found = certify(Halfspace(), x, GaussianNoise(0.25), draws=50, selection_draws=20, alpha=0.25)
    wrong = int((found.p_lower > p).sum())
    assert wrong <= scipy.stats.binom.ppf(1 - 1e-6, 2000, 0.25)
    assert wrong > 0


def test_prediction_abstains_by_the_exact_test() -> None:
    # 9:1 -> p = 2 (10 + 1) / 1024 = 0.0215; 10:0 -> 2/1024
    votes = torch.tensor([[9, 1, 0], [0, 0, 10], [5, 5, 0]])
    assert predictions(votes, alpha=0.022).tolist() == [0, 2, ABSTAIN]
    assert predictions(votes, alpha=0.021).tolist() == [ABSTAIN, 2, ABSTAIN]
    x = torch.tensor([[0.1], [0.5], [0.9]])
    assert predict(Halfspace(), x, GaussianNoise(0.25), draws=1000).tolist() == [0, ABSTAIN, 1]


def test_batch_size_and_neighbours_change_nothing() -> None:
    x = torch.rand(7, 4)
    noise = GaussianNoise(0.3, seed=5)
    whole = certify(Halfspace(), x, noise, draws=200, batch_size=4096)
    small = certify(Halfspace(), x, noise, draws=200, batch_size=33)
    alone = certify(Halfspace(), x[4:5], noise, draws=200, ids=[4])
    assert torch.equal(whole.votes, small.votes)
    assert torch.equal(whole.votes[4:5], alone.votes)
    assert torch.equal(whole.radius, small.radius)


def test_a_budget_that_is_too_small_for_both_stages_spends_nothing() -> None:
    budget = PassBudget(1000)
    with pytest.raises(QueryBudgetExceeded):
        certify(Halfspace(), torch.rand(10, 2), GaussianNoise(0.25), draws=100, selection_draws=1, budget=budget)
    assert budget.spent == 0
    certify(Halfspace(), torch.rand(9, 2), GaussianNoise(0.25), draws=100, selection_draws=1, budget=budget)
    assert budget.spent == 909


def test_the_smoothed_model_is_the_log_of_the_mean_probability_and_has_a_gradient() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(4, 3), torch.rand(5, 4)
    noise = GaussianNoise(0.5)
    smooth = SmoothedModel(net, noise, shape=(4,), draws=8)
    expected = torch.stack([(net(x + d)).softmax(1) for d in noise.fresh("smoothed model").draws((4,), 8)]).mean(0).log()
    torch.testing.assert_close(smooth(x), expected)
    torch.testing.assert_close(smooth(x[2:3]), expected[2:3])  # the same noise whatever the batch
    x = x.requires_grad_()
    (grad,) = torch.autograd.grad(smooth(x)[:, 0].sum(), x)
    assert float(grad.abs().min()) > 0
    assert set(smooth.state_dict()) == {"model.weight", "model.bias"}


def test_a_smoothed_halfspace_has_the_probability_of_the_formula() -> None:
    smooth = SmoothedModel(nn.Sequential(Halfspace(), Sharp()), GaussianNoise(0.25), shape=(1,), draws=20_000)
    p = smooth(torch.tensor([[0.6]])).exp()[0, 1].item()
    assert p == pytest.approx(scipy.stats.norm.cdf(0.1 / 0.25), abs=4 * math.sqrt(0.25 / 20_000))


class Sharp(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * 1e4


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("alpha", lambda: certify(Halfspace(), torch.rand(2, 1), GaussianNoise(1.0), alpha=0)),
        ("alpha", lambda: predict(Halfspace(), torch.rand(2, 1), GaussianNoise(1.0), alpha=1)),
        ("selection_draws", lambda: certify(Halfspace(), torch.rand(2, 1), GaussianNoise(1.0), selection_draws=0)),
        ("noise", lambda: certify(Halfspace(), torch.rand(2, 1), 0.25)),
        ("votes", lambda: certificates(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 2, dtype=torch.long), sigma=1)),
        ("votes", lambda: certificates(torch.ones(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long), sigma=1)),
        ("selection", lambda: certificates(torch.rand(2, 3), torch.ones(2, 3, dtype=torch.long), sigma=1)),
        ("model", lambda: SmoothedModel("net", GaussianNoise(1.0), shape=(2,))),
    ],
)
def test_bad_input_is_named(argument: str, call: object) -> None:
    with pytest.raises(InputError, match=f"^{argument}: "):
        call()  # type: ignore[operator]
