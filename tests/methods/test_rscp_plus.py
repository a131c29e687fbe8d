"""RSCP+: the invariants of the card, values by hand, coverage with and without an attack, and where RSCP fails."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.optim import SGD

from tutelage.claims.certify.rscp_plus.nets import parts
from tutelage.claims.claim import load_claim
from tutelage.core.errors import InputError, MissingError
from tutelage.core.stats import empirical_bernstein, hoeffding
from tutelage.data.sets import digits
from tutelage.guarantees.conformal import APS, HPS, RAPS, Score, evaluate
from tutelage.guarantees.noise import GaussianNoise, PassBudget
from tutelage.methods.certify.rscp_plus import (
    PTT,
    RCTConfig,
    RCTLoss,
    RobustConformal,
    SmoothedScore,
    attack_sets,
    bernstein_radius,
    fit_rct,
    hoeffding_radius,
    robust_sets,
)
from tutelage.methods.certify.rscp_plus.training import rct_loss
from tutelage.models.loading import fingerprint
from tutelage.teaching.fit import Context

PHI, INVERSE = scipy.stats.norm.cdf, scipy.stats.norm.ppf


class Step(nn.Module):
    """Two classes, told apart by the first pixel: class 1 above `at`, ever surer as `slope` rises."""

    def __init__(self, at: float = 0.5, slope: float = 1e6) -> None:
        super().__init__()
        self.at, self.slope = at, slope

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * (x.flatten(1)[:, 0] - self.at)
        return torch.stack([-z, z], 1) / 2


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes in four corners of [0, 1]^2, close enough to be mixed up."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=g)
    centres = torch.tensor([[0.3, 0.3], [0.3, 0.7], [0.7, 0.3], [0.7, 0.7]])
    return (centres[y] + 0.12 * torch.randn(n, 2, generator=g)).clamp(0, 1), y


class Nearest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        centres = torch.tensor([[0.3, 0.3], [0.3, 0.7], [0.7, 0.3], [0.7, 0.7]]).to(x)
        return -((x[:, None] - centres) ** 2).sum(2) / 0.06


def score(model: nn.Module | None = None, **settings: Any) -> SmoothedScore:
    settings = {"base": "hps", "draws": 64, **settings}
    return SmoothedScore(model or Nearest(), settings.pop("noise", GaussianNoise(0.25)), **settings)


# the bounds and the sets, by hand


def test_the_radii_are_those_of_the_general_bounds() -> None:
    g = np.random.default_rng(0)
    values = g.uniform(0.2, 0.4, 256)
    variance = torch.tensor(values.var(ddof=1))
    for beta in (0.001, 0.05):
        lower = hoeffding(values, level=1 - beta, side="lower").lo
        assert values.mean() - hoeffding_radius(256, beta) == pytest.approx(lower)
        lower = empirical_bernstein(values, level=1 - beta, side="lower").lo
        assert values.mean() - float(bernstein_radius(variance, 256, beta)) == pytest.approx(lower)
    assert hoeffding_radius(256, 0.001) == pytest.approx(math.sqrt(6.907755 / 512))  # ln 1000 = 6.9078; 0.11615


def test_above_a_known_threshold_every_label_is_kept() -> None:
    """HPS, N = 256, beta = 0.001, eps/sigma = 1/2, Hoeffding on both sides: with tau >= 0.6401 even a score of 1 stays.

    b = 0.11615; Phi^-1(1 - b) - 1/2 = 1.1943 - 0.5 = 0.6943 = Phi^-1(0.7563); 0.7563 - b = 0.6401.
    """
    mean, variance = torch.tensor([[1.0, 0.0, 0.5]]), torch.zeros(1, 3)

    def kept(tau: float) -> list[bool]:
        return robust_sets(mean, variance, tau, ratio=0.5, draws=256, beta=0.001, bound="hoeffding")[0].tolist()

    assert kept(0.6402) == [True, True, True]
    assert kept(0.6400) == [False, True, True]
    assert kept(0.0) == [False, True, False]


def test_sets_without_bounds_by_hand() -> None:
    mean = torch.tensor([[0.1, 0.5, 0.9, 0.0, 1.0]])

    def kept(tau: float, ratio: float) -> list[int]:
        found = robust_sets(mean, torch.zeros_like(mean), tau, ratio=ratio, draws=64, bound="none")
        return found[0].nonzero().flatten().tolist()

    assert kept(0.5, 0.0) == [0, 1, 3]
    assert kept(0.49, 0.0) == [0, 3]
    assert kept(0.5, 1.29) == [0, 1, 2, 3]  # Phi^-1(0.9) = 1.2816 < 1.29
    assert kept(0.5, 1.28) == [0, 1, 3]
    assert kept(0.0, 5.0) == [3]  # Phi^-1(0) is -infinity: no eps reaches it, but a score of 0 stays
    assert kept(1.0, 0.0) == kept(float("inf"), 0.0) == [0, 1, 2, 3, 4]


def test_bernstein_is_used_on_the_test_side_only() -> None:
    mean, tau = torch.full((1, 1), 0.8), 0.6
    without = robust_sets(mean, torch.zeros(1, 1), tau, ratio=0.0, draws=256, bound="bernstein")
    noisy = robust_sets(mean, torch.full((1, 1), 0.25), tau, ratio=0.0, draws=256, bound="bernstein")
    # right: 0.6 + 0.116 = 0.716; left: 0.8 - 7 ln(2000) / 3 / 255 = 0.730, or less 0.8 - 0.07 - 0.122
    assert (bool(without), bool(noisy)) == (False, True)


# invariants of the card


def test_without_eps_and_bounds_it_is_conformal_prediction_on_smoothed_scores() -> None:
    x, y = blobs(400, 0)
    robust = RobustConformal(score(), eps=0.0, alpha=0.1, bound="none").calibrate(x[:200], y[:200])
    means = robust.score.moments(x[:200], stream="calibration").mean.gather(1, y[:200, None]).squeeze(1)
    assert robust.threshold == float(means.sort().values[math.ceil(201 * 0.9) - 1])
    assert torch.equal(robust.predict(x[200:]), robust.score.moments(x[200:]).mean <= robust.threshold)
    assert "empirical" in robust.guarantee


def test_sets_grow_with_eps_and_shrink_with_draws_beta_and_alpha() -> None:
    x, y = blobs(600, 1)

    def sets(eps: float = 0.05, draws: int = 256, beta: float = 0.01, alpha: float = 0.1, bound: Any = "bernstein") -> Tensor:
        robust = RobustConformal(score(draws=draws), eps, alpha, beta=beta, bound=bound)
        return robust.calibrate(x[:300], y[:300]).predict(x[300:])

    base = sets()
    assert 1.0 < float(base.sum(1).double().mean()) < 4.0
    for larger in (sets(eps=0.1), sets(beta=0.001), sets(alpha=0.05)):
        assert bool((larger | ~base).all())
        assert int(larger.sum()) > int(base.sum())
    assert int(sets(draws=2048).sum()) < int(base.sum())
    assert int(sets(bound="none").sum()) < int(base.sum())


def test_the_identity_transformation_changes_nothing_and_a_monotone_one_keeps_vanilla_sets() -> None:
    x, y = blobs(400, 2)
    plain = score()
    holdout = plain.holdout(x[:100], y[:100])
    identity = plain.transformed(PTT.fit(holdout, parts=()))
    for bound in ("bernstein", "none"):
        a, b = (
            RobustConformal(s, 0.05, bound=bound).calibrate(x[100:250], y[100:250]).predict(x[250:])  # type: ignore[arg-type]
            for s in (plain, identity)
        )
        assert torch.equal(a, b)
    # one draw each, no mean: what a strictly rising transformation does to the scores it does to the threshold
    scores = plain.every(x, ids=range(400))[:, 0]
    rising = PTT.fit(holdout, temperature=0.5, parts=("sigmoid",))(scores)
    own = y[:, None]
    rank = math.ceil(151 * 0.9) - 1
    cuts = [s.gather(1, own).squeeze(1)[100:250].sort().values[rank] for s in (scores, rising)]
    assert torch.equal(scores[250:] <= cuts[0], rising[250:] <= cuts[1])


def test_ptt_by_hand() -> None:
    ptt = PTT.fit(torch.tensor([0.4, 0.1, 0.2, 0.2]), temperature=0.1, bias=0.5)
    s = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4, 1.0])
    q = np.array([0.0, 0.25, 0.75, 0.75, 1.0, 1.0])  # share of the hold-out at or below
    np.testing.assert_allclose(ptt(s), 1 / (1 + np.exp(-(q - 0.5) / 0.1)), rtol=1e-12)
    np.testing.assert_allclose(PTT(ptt.holdout, parts=("rank",))(s), q)
    np.testing.assert_allclose(PTT(ptt.holdout, 0.1, 0.5, ("sigmoid",))(s), 1 / (1 + np.exp(-(s.double().numpy() - 0.5) / 0.1)))
    assert float(PTT.fit(torch.tensor([0.5]))(torch.tensor([0.4]))) == pytest.approx(math.exp(-360), rel=1e-6)


def test_the_transformation_comes_before_the_mean() -> None:
    x, y = blobs(60, 3)
    plain = score()
    ptt = PTT.fit(plain.holdout(x[:30], y[:30]))
    every = plain.every(x[30:])
    moments = plain.transformed(ptt).moments(x[30:])
    torch.testing.assert_close(moments.mean, ptt(every).mean(1))
    torch.testing.assert_close(moments.variance, ptt(every).var(1))
    assert float((moments.mean - ptt(every.double().mean(1))).abs().max()) > 0.1


@pytest.mark.parametrize("transform", [False, True])
def test_constant_scores_keep_all_labels(transform: bool) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 5)

    x, y = torch.rand(200, 3), torch.arange(200) % 5
    s = score(Constant())
    if transform:
        s = s.transformed(PTT.fit(s.holdout(x[:50], y[:50])))
    sets = RobustConformal(s, eps=0.1).calibrate(x[50:150], y[50:150]).predict(x[150:])
    assert bool(sets.all())


@pytest.mark.parametrize("base", ["hps", "aps", RAPS(weight=0.5, k_reg=1)], ids=repr)
def test_the_batch_size_does_not_change_the_sets(base: Any) -> None:
    x, y = blobs(300, 4)
    found = []
    for batch_size in (50, 999):
        robust = RobustConformal(score(base=base, batch_size=batch_size), 0.05).calibrate(x[:200], y[:200])
        found.append((robust.predict(x[200:]), robust.threshold))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-9)


def test_every_score_lies_in_the_unit_interval() -> None:
    x, _ = blobs(50, 5)
    for base in (HPS(), APS(), APS(0.0), RAPS(weight=2.0, k_reg=0)):
        every = score(base=base, draws=16).every(x)
        assert every.shape == (50, 16, 4)
        assert 0 <= float(every.min()) < float(every.max()) <= 1
    # u of an example is the same in all its draws, and others have other ones
    aps, flat = score(Step(at=-9.0), base="aps", draws=8).every(x), score(Step(at=-9.0), base=APS(1.0), draws=8).every(x)
    assert float((aps - aps[:, :1]).abs().max()) < 1e-6
    assert float(flat[:, :, 1].abs().max()) == 0.0
    assert float(aps[:, 0, 1].std()) > 0.2


class Gap(Score):
    """A score of a user's own: half the gap between the largest probability and the label's, from 0 to 1/2."""

    name = "gap"

    def upper(self, classes: int) -> float:
        return 0.5

    def all(self, p: Tensor, u: Any = None) -> Tensor:
        return (p.amax(1, keepdim=True) - p) / 2

    def of(self, p: Tensor, y: Tensor, u: Any = None) -> Any:
        raise AssertionError("not needed here")

    within = of


def test_a_score_of_ones_own_goes_in() -> None:
    x, y = blobs(400, 11)
    s = score(base=Gap(), draws=256, noise=GaussianNoise(0.1))
    every, p = s.every(x[:5]), Nearest()(x[:5] + s.noise.fresh("test").draws((2,), 1)).softmax(1)
    torch.testing.assert_close(every[0, 0], (p.max(1, keepdim=True).values - p)[0])
    robust = RobustConformal(s, 0.02, 0.2, beta=0.01).calibrate(x[:200], y[:200])
    report = evaluate(robust.predict(x[200:]), y[200:])
    assert report.coverage > 0.8 - 3 * math.sqrt(0.16 / 200)
    assert report.mean_size < 4

    class Broken(Gap):
        def all(self, p: Tensor, u: Any = None) -> Tensor:
            return p * float("nan")

    with pytest.raises(InputError, match="base"):
        score(base=Broken()).moments(x[:5])
    with pytest.raises(InputError, match="score"):
        robust.save("nowhere")


# coverage


def splits(n: int, n_cal: int, repeats: int) -> list[tuple[Tensor, Tensor]]:
    order = [torch.randperm(n, generator=torch.Generator().manual_seed(r)) for r in range(repeats)]
    return [(o[:n_cal], o[n_cal:]) for o in order]


def test_coverage_over_200_splits_clean_and_attacked() -> None:
    """Vanilla sets lose their coverage under the attack; RSCP+ keeps it, with and without PTT, HPS and APS."""
    eps, alpha, repeats = 0.125, 0.1, 200
    x, y = blobs(900, 6)
    noise = GaussianNoise(0.25, seed=1)
    moved = attack_sets(Nearest(), x, y, noise, eps=eps, steps=8, draws=16, generator=torch.Generator().manual_seed(0))
    size = (moved - x).norm(dim=1)
    assert float(size.max()) <= eps * 1.0001
    assert float(size.median()) > 0.9 * eps
    rest = torch.arange(100, 900)
    own = y[rest, None]
    for base in ("hps", "aps"):
        plain = score(base=base, draws=256, noise=noise)
        ptt = PTT.fit(plain.holdout(x[:100], y[:100]))
        coverage: dict[tuple[str, str], list[float]] = {}
        for name, s in (("plain", plain), ("ptt", plain.transformed(ptt))):
            # of the true labels alone: nothing else decides coverage
            means, variances = zip(
                *[
                    (m.mean.gather(1, own), m.variance.gather(1, own))
                    for m in (s.moments(d[rest], ids=rest) for d in (x, moved))
                ],
                strict=True,
            )
            for bound, ratio, level in (("none", 0.0, alpha), ("bernstein", 0.5, alpha - 0.002)):
                for cal, test in splits(800, 400, repeats):
                    tau = float(means[0][cal, 0].sort().values[math.ceil(401 * (1 - level)) - 1])
                    for where, mean, variance in zip(("clean", "attacked"), means, variances, strict=True):
                        held = robust_sets(mean[test], variance[test], tau, ratio=ratio, draws=256, bound=bound)  # type: ignore[arg-type]
                        coverage.setdefault((f"{name} {bound}", where), []).append(float(held.double().mean()))
        found = {key: float(np.mean(values)) for key, values in coverage.items()}
        binomial = 3 * math.sqrt(0.09 / 800)  # of one sample of 800: the splits are not independent of each other
        for name in ("plain", "ptt"):
            assert found[f"{name} none", "clean"] == pytest.approx(0.9, abs=0.01)
            assert found[f"{name} bernstein", "clean"] >= 0.9 - binomial
            assert found[f"{name} bernstein", "attacked"] >= 0.9 - binomial
        assert found["plain none", "attacked"] < 0.9 - 2 * binomial


def test_each_attack_raises_what_it_aims_at() -> None:
    x, y = blobs(200, 12)
    noise = GaussianNoise(0.25)
    plain = score(draws=128, noise=noise)
    own = y[:, None]
    holdout = plain.holdout(x, y)
    step = float(holdout.double().quantile(0.9))
    share = plain.transformed(PTT.fit(holdout))
    found = {}
    for goal, at in (("mean", None), ("step", step)):
        moved = attack_sets(
            Nearest(), x, y, noise, eps=0.125, at=at, steps=10, draws=32, generator=torch.Generator().manual_seed(0)
        )
        assert float((moved - x).norm(dim=1).max()) <= 0.125 * 1.0001
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
        found[goal] = {
            "mean": float(plain.moments(moved).mean.gather(1, own).mean()),
            "step": float(share.moments(moved).mean.gather(1, own).mean()),
        }
    clean = float(plain.moments(x).mean.gather(1, own).mean()), float(share.moments(x).mean.gather(1, own).mean())
    assert found["mean"]["mean"] > clean[0] + 0.1
    assert found["step"]["step"] > clean[1] + 0.05
    assert found["mean"]["mean"] >= found["step"]["mean"] - 1e-3
    assert found["step"]["step"] >= found["mean"]["step"] - 1e-3


def test_coverage_on_exchangeable_data_over_200_repeats() -> None:
    """Fresh calibration and test points each time; the interface as a user calls it."""
    covered = tested = 0
    for repeat in range(200):
        x, y = blobs(120, 1000 + repeat)
        robust = RobustConformal(score(draws=32, noise=GaussianNoise(0.1, seed=repeat)), 0.02, 0.2, beta=0.01)
        robust.calibrate(x[:100], y[:100])
        report = evaluate(robust.predict(x[100:]), y[100:])
        covered, tested = covered + round(report.coverage * 20), tested + 20
    assert covered / tested >= 0.8 - 3 * math.sqrt(0.16 / tested)


def test_rscp_fails_where_its_sampling_error_matters_and_rscp_plus_does_not() -> None:
    """The flaw: with few draws tau is 0, Phi^-1(0) = -inf absorbs eps/sigma, and the promised coverage is lost.

    All x lie 3.09 sigma beside the boundary: S_RS = Phi(-3.09) = 0.001, and 16 draws give a mean of 0 to 98.4 % of them.
    Moved by 2 sigma it is Phi(-1.09) = 0.138, and only 0.862^16 = 9 % still have a mean of 0.
    """
    sigma, n = 0.1, 2000
    x = torch.full((n, 1), 0.5 + 3.09 * sigma)
    y = torch.ones(n, dtype=torch.long)
    s = score(Step(), draws=16, noise=GaussianNoise(sigma))
    eps = 2 * sigma
    moved = x - eps
    published = RobustConformal(s, eps, 0.1, bound="none").calibrate(x[:1000], y[:1000])
    assert published.threshold == 0.0
    assert evaluate(published.predict(x[1000:]), y[1000:]).coverage > 0.97
    attacked = evaluate(published.predict(moved[1000:]), y[1000:])
    expected = (1 - PHI(-1.09)) ** 16
    assert attacked.coverage == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 1000))
    assert "empirical" in published.guarantee
    for bound in ("hoeffding", "bernstein"):
        repaired = RobustConformal(s, eps, 0.1, bound=bound).calibrate(x[:1000], y[:1000])  # type: ignore[arg-type]
        assert evaluate(repaired.predict(moved[1000:]), y[1000:]).coverage >= 0.9
        assert "sound" in repaired.guarantee


def test_the_smoothed_score_is_lipschitz_behind_the_normal_quantile() -> None:
    """(1), on a boundary where S_RS is known: Phi^-1(S_RS) = (1/2 - x)/sigma; a slope of exactly 1/sigma."""
    x = torch.tensor([[0.4], [0.5], [0.6]])
    mean = score(Step(), draws=50_000, noise=GaussianNoise(0.25), batch_size=50_000).moments(x).mean[:, 1]
    np.testing.assert_allclose(INVERSE(mean), (0.5 - x[:, 0].numpy()) / 0.25, atol=0.03)


# robust conformal training


def test_rct_loss_by_hand() -> None:
    p = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    y = torch.tensor([0, 0, 0, 1])
    config = RCTConfig(eps=0.125, sigma=0.25, alpha=0.1, target_size=1.0, size_weight=2.0, temperature=0.5)
    loss, held, size = rct_loss(p, y, config)
    tau = INVERSE(0.6) - 0.5  # the smaller of two: max(floor(0.1 * 3) - 1, 0) = 0

    def a(q: float) -> float:
        return float(1 / (1 + np.exp(-(INVERSE(q) - tau) / 0.5)))

    sizes = [a(0.7) + a(0.3), a(0.2) + a(0.8)]
    expected = 1 - (a(0.7) + a(0.8)) / 2 + 2 * np.mean([max(s - 1, 0) for s in sizes])
    assert float(loss) == pytest.approx(math.log(expected + 1e-8), rel=1e-5)
    assert float(held) == pytest.approx((a(0.7) + a(0.8)) / 2, rel=1e-5)
    assert float(size) == pytest.approx(np.mean(sizes), rel=1e-5)


def test_rct_loss_falls_when_true_logits_of_test_points_rise() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(40, 5), torch.arange(40) % 5
    logits[torch.arange(20), y[:20]] += 3.0  # a calibration half that fits, so that the threshold is not trivial
    config = RCTConfig(eps=0.05, sigma=0.25)
    losses = []
    for rise in (0.0, 0.5, 1.0, 2.0):
        lifted = logits.clone()
        lifted[torch.arange(20, 40), y[20:]] += rise
        losses.append(float(rct_loss(lifted.softmax(1), y, config)[0]))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 0.1


def test_rct_takes_its_threshold_from_the_calibration_half_with_a_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(60, 3, generator=g), torch.arange(60) % 3
    logits.requires_grad_()
    rct_loss(logits.softmax(1), y, RCTConfig(eps=0.1, sigma=0.25, alpha=0.1))[0].backward()
    assert logits.grad is not None
    moved = logits.grad[:30].abs().sum(1).nonzero().flatten().tolist()
    own = logits.detach().softmax(1).gather(1, y[:, None])[:30, 0]
    assert moved == [int(own.argsort()[max(math.floor(0.1 * 31) - 1, 0)])]  # one order statistic, the third smallest
    assert bool((logits.grad[30:].abs().sum(1) > 0).all())


def loader(n: int = 200) -> Any:
    x, y = blobs(n, 7)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=100)


def test_fit_rct_trains_the_head_alone_and_makes_smaller_soft_sets() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(16, 4))
    before = copy.deepcopy(model)
    config = RCTConfig(eps=0.02, sigma=0.1, temperature=0.5)
    model[0].train()
    result = fit_rct(model, loader(), config, epochs=20, seed=1)
    assert fingerprint(model[0]) == fingerprint(before[0])
    assert fingerprint(model[1]) != fingerprint(before[1])
    assert model[0].training
    assert all(p.requires_grad for p in model.parameters())
    assert result.steps == 40
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < first["loss"] - 0.05
    assert set(first) >= {"in_set", "size"}
    again = copy.deepcopy(before)
    fit_rct(again, loader(), config, epochs=20, seed=1)
    assert fingerprint(again[1]) == fingerprint(model[1])


def test_rct_as_a_plain_objective() -> None:
    x, y = blobs(50, 8)
    net = nn.Linear(2, 4)
    context = Context(0, 1, 1.0, torch.Generator().manual_seed(0))
    loss, log = RCTLoss(RCTConfig(eps=0.1, sigma=0.2))(net, (x, y), context)
    loss.backward()
    assert net.weight.grad is not None
    assert 0 <= float(log["in_set"]) <= 1
    with pytest.raises(InputError, match="loader"):
        RCTLoss(RCTConfig(eps=0.1, sigma=0.2))(net, (x[:1], y[:1]), context)


# what a user meets


@pytest.mark.parametrize("base", ["hps", RAPS(weight=0.1, k_reg=1)], ids=repr)
def test_a_saved_predictor_predicts_the_same(base: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 4)
    x, y = blobs(300, 9)
    s = score(model, base=base)
    s = s.transformed(PTT.fit(s.holdout(x[:50], y[:50])))
    robust = RobustConformal(s, 0.05, 0.2, beta=0.01).calibrate(x[50:200], y[50:200])
    robust.save(tmp_path)
    again = RobustConformal.load(tmp_path, model)
    assert torch.equal(robust.predict(x[200:]), again.predict(x[200:]))
    assert again.guarantee == robust.guarantee
    with pytest.raises(InputError, match="model"):
        RobustConformal.load(tmp_path, nn.Linear(2, 4))
    with pytest.raises(MissingError):
        RobustConformal.load(tmp_path / "nowhere", model)


def test_the_pass_budget_counts_all_draws() -> None:
    x, y = blobs(100, 9)
    budget = PassBudget(10_000)
    robust = RobustConformal(score(draws=20, budget=budget), 0.05).calibrate(x[:60], y[:60])
    robust.predict(x[60:])
    assert budget.spent == 100 * 20


X, Y = blobs(60, 10)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("score", lambda: RobustConformal(Nearest(), 0.1)),  # type: ignore[arg-type]
        ("eps", lambda: RobustConformal(score(), -0.1)),
        ("alpha", lambda: RobustConformal(score(), 0.1, 1.0)),
        ("beta", lambda: RobustConformal(score(), 0.1, 0.1, beta=0.05)),
        ("bound", lambda: RobustConformal(score(), 0.1, bound="normal")),  # type: ignore[arg-type]
        ("score", lambda: score(base="lac")),
        ("draws", lambda: score(draws=1)),
        ("model", lambda: SmoothedScore("net", GaussianNoise(0.1))),  # type: ignore[arg-type]
        ("calibration", lambda: RobustConformal(score(), 0.1, 0.01).calibrate(X, Y)),
        ("y", lambda: RobustConformal(score(), 0.1).calibrate(X, Y + 4)),
        ("y", lambda: RobustConformal(score(), 0.1).calibrate(X, Y[1:])),
        ("x", lambda: RobustConformal(score(), 0.1).calibrate(X * 2, Y)),
        ("self", lambda: RobustConformal(score(), 0.1).predict(X)),
        ("holdout", lambda: PTT.fit(torch.tensor([1.5]))),
        ("holdout", lambda: PTT.fit(torch.tensor([]))),
        ("temperature", lambda: PTT.fit(torch.tensor([0.5]), temperature=0)),
        ("parts", lambda: PTT.fit(torch.tensor([0.5]), parts=("log",))),  # type: ignore[arg-type]
        ("y", lambda: score().holdout(X, Y[:3])),
        ("at", lambda: attack_sets(Nearest(), X, Y, GaussianNoise(1.0), eps=0.1, generator=torch.Generator(), at=1.5)),
        ("x", lambda: attack_sets(Nearest(), X * 3, Y, GaussianNoise(1.0), eps=0.1, generator=torch.Generator())),
        ("sigma", lambda: RCTConfig(eps=0.1, sigma=0.0)),
        ("temperature", lambda: RCTConfig(eps=0.1, sigma=0.1, temperature=-1)),
        ("config", lambda: RCTLoss(0.1)),  # type: ignore[arg-type]
        ("model", lambda: fit_rct(Nearest(), loader(), RCTConfig(eps=0.1, sigma=0.1))),
        ("loader", lambda: fit_rct(nn.Linear(2, 4), None, RCTConfig(eps=0.1, sigma=0.1))),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(argument: str, call: Any) -> None:
    with pytest.raises(InputError, match=f"^{argument}: "):
        call()


def test_too_few_calibration_points_are_refused_before_any_pass_or_give_all_labels() -> None:
    budget = PassBudget(0)
    with pytest.raises(InputError, match="at least 10 "):  # ceil(11 * 0.902) = 10
        RobustConformal(score(budget=budget), 0.1, 0.1).calibrate(X[:9], Y[:9])
    robust = RobustConformal(score(), 0.01, 0.1).calibrate(X[:9], Y[:9], allow_full_sets=True)
    assert bool(robust.predict(X[9:]).all())


def test_the_optimizer_of_rct_can_be_given() -> None:
    model = nn.Linear(2, 4)
    fit_rct(model, loader(), RCTConfig(eps=0.02, sigma=0.1), epochs=1, reset=False, optimizer=lambda ps: SGD(ps, lr=0.0))
    torch.manual_seed(0)
    again = copy.deepcopy(model)
    fit_rct(again, loader(), RCTConfig(eps=0.02, sigma=0.1), epochs=1, reset=False, optimizer=lambda ps: SGD(ps, lr=0.0))
    assert fingerprint(again) == fingerprint(model)


@pytest.mark.parametrize(("setting", "value"), [("beta", "0.06"), ("n_holdout", "5000"), ("n_train", "1797"), ("alpha", "1.5")])
def test_settings_of_the_claim_that_cannot_work_are_refused_before_it_runs(setting: str, value: str) -> None:
    claim = load_claim("rscp-plus")
    with pytest.raises(InputError, match=setting):
        claim.data(claim.config("claim", {setting: value}))


def test_the_units_of_the_claim_draw_their_own_data_and_share_none_between_training_and_pool() -> None:
    config = load_claim("rscp-plus").scales["claim"]
    train, pool = parts(config, 0)  # type: ignore[arg-type]
    assert (len(train), len(pool), train.split, pool.split) == (900, 897, "train", "test")
    whole = torch.cat([train.images, pool.images]).flatten(1)
    everything = digits().images.flatten(1)
    assert torch.equal(whole.sum(0), everything.sum(0))
    assert not torch.equal(parts(config, 1)[0].images, train.images)  # type: ignore[arg-type]
