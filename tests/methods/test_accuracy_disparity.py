"""Accuracy disparity against its card: the worked example, the invariants, the audit by hand, and the refusals."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import cauchy, levy_stable
from torch import Tensor, nn

from tutelage.claims.claim import Cell, load_claim
from tutelage.claims.understand.accuracy_disparity import cell
from tutelage.claims.understand.accuracy_disparity.generated import best_threshold
from tutelage.claims.understand.accuracy_disparity.tasks import class_pairs, tasks
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, NotFinite, SplitError
from tutelage.core.rng import generator
from tutelage.data import ImageSet, fashion_mnist_subset
from tutelage.methods.understand import accuracy_disparity as ad
from tutelage.methods.understand.accuracy_disparity.measure import arrays
from tutelage.methods.understand.accuracy_disparity.report import disparity_figure
from tutelage.methods.understand.accuracy_disparity.tradeoff import _stationary
from tutelage.threats import L2, Linf

MU = np.array([1.0, 0.5])
SKEWED = np.array([[1.0, 0.6], [0.6, 2.0]])


def risk(w: np.ndarray, b: float, ratio: float, eps: float, norm: str, cov: np.ndarray, mu: np.ndarray = MU) -> float:
    """(1) for the classifier sign(w . x + b), written out."""
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    spread = math.sqrt(w @ cov @ w)
    minority = ndtr(-(w @ mu + b - eps * dual) / spread)
    majority = ndtr((-(w @ mu) + b + eps * dual) / spread)
    return float((minority + ratio * majority) / (1 + ratio))


# ------------------------------------------------------------------------------------------------------ the worked example


def test_the_worked_example() -> None:
    standard = ad.gaussian_tradeoff(MU, ratio=3)
    assert (standard.acc_minority, standard.acc_majority) == pytest.approx((0.734578, 0.946230), abs=1e-6)
    assert standard.disparity == pytest.approx(0.211652, abs=1e-6)
    linf = ad.gaussian_tradeoff(MU, ratio=3, eps=0.25, norm="linf")
    assert linf.w == pytest.approx(np.array([0.75, 0.25]) / math.sqrt(0.625))
    assert (linf.robust_distance, linf.distance, linf.tau) == pytest.approx((0.790569, 1.106797, 0.694823), abs=1e-6)
    assert (linf.acc_minority, linf.acc_majority, linf.disparity) == pytest.approx((0.659821, 0.964197, 0.304377), abs=1e-6)
    l2 = ad.gaussian_tradeoff(MU, ratio=3, eps=0.25, norm="l2")
    assert (l2.robust_distance, l2.tau) == pytest.approx((0.868034, 0.632816), abs=1e-6)
    assert (l2.acc_minority, l2.acc_majority, l2.disparity) == pytest.approx((0.686239, 0.960014, 0.273775), abs=1e-6)


def test_the_decomposition_of_the_worked_example() -> None:
    split = ad.decompose(lambda ratio, eps: ad.gaussian_tradeoff(MU, ratio=ratio, eps=eps), 3, 0.25)
    assert split.inherent == pytest.approx(float(ndtr(1.118034) - ndtr(1.106797)), abs=1e-6)  # both classes lose at R = 1
    assert split.added_disparity == pytest.approx(0.304377 - 0.211652, abs=2e-6)
    lost = (3 * 0.946230 + 0.734578) / 4 - (3 * 0.964197 + 0.659821) / 4
    assert split.accuracy_loss == pytest.approx(lost, abs=2e-6)
    l2 = ad.decompose(lambda ratio, eps: ad.gaussian_tradeoff(MU, ratio=ratio, eps=eps, norm="l2"), 3, 0.25)
    assert l2.inherent == 0
    assert l2.added_disparity == pytest.approx(0.273775 - 0.211652, abs=2e-6)


# --------------------------------------------------------------------------------------------------- the card's invariants


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("cov", [None, SKEWED])
def test_invariant_1_no_gap_without_imbalance(norm: Any, eps: float, cov: np.ndarray | None) -> None:
    found = ad.gaussian_tradeoff(MU, 0.7, 1, eps, norm, cov)
    assert (found.tau, found.disparity, found.constant) == (0.0, 0.0, False)


def test_invariant_2_no_attack_is_standard_training_in_every_norm() -> None:
    linf, l2 = (ad.gaussian_tradeoff(MU, 0.7, 4, 0.0, norm) for norm in ("linf", "l2"))
    assert linf.w == pytest.approx(MU / np.linalg.norm(MU))
    assert (linf.tau, linf.disparity) == pytest.approx((l2.tau, l2.disparity))
    assert linf.distance == linf.robust_distance == pytest.approx(np.linalg.norm(MU))
    assert linf.accuracy == pytest.approx(linf.robust_acc)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0])
def test_invariant_3_l2_takes_nothing_from_balanced_classes(eps: float) -> None:
    found = ad.gaussian_tradeoff(MU, 1.0, 1, eps, "l2")
    assert found.robust_distance == pytest.approx(np.linalg.norm(MU) - eps)
    assert found.acc_minority == pytest.approx(float(ndtr(np.linalg.norm(MU))))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_invariant_4_the_gap_grows_with_ratio_and_eps(norm: Any) -> None:
    mu = np.array([0.9, -0.8, 0.5, 0.1])
    gaps = np.array([[ad.gaussian_tradeoff(mu, 1, r, e, norm).disparity for e in (0, 0.2, 0.4, 0.6)] for r in (1.5, 3, 9, 30)])
    assert (np.diff(gaps, axis=0) > 0).all()
    assert (np.diff(gaps, axis=1) > 0).all()
    added = gaps[:, 1:] - gaps[:, :1]
    assert (np.diff(added[:3, 0]) > 0).all()  # what robustness adds grows with the ratio, while accuracies are not yet 0


def test_invariant_5_equal_means_make_linf_an_l2_of_sqrt_d_eps() -> None:
    mu = np.array([0.5, -0.5, 0.5, -0.5])
    linf, l2 = ad.gaussian_tradeoff(mu, 1, 5, 0.2, "linf"), ad.gaussian_tradeoff(mu, 1, 5, 0.4, "l2")
    assert linf.w == pytest.approx(l2.w)
    assert (linf.tau, linf.disparity, linf.robust_acc) == pytest.approx((l2.tau, l2.disparity, l2.robust_acc))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("cov", [np.eye(2), SKEWED])
def test_invariant_6_no_other_classifier_has_a_smaller_robust_risk(norm: Any, cov: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for ratio, eps in ((1, 0.2), (3, 0.25), (10, 0.1), (40, 0.4)):
        best = ad.gaussian_tradeoff(MU, 1.0, ratio, eps, norm, None if cov[0, 1] == 0 else cov)
        least = 1 - best.robust_acc
        assert least == pytest.approx(risk(best.w, -best.tau, ratio, eps, norm, cov), abs=1e-12)
        far = [
            risk(w, b, ratio, eps, norm, cov) for w, b in zip(rng.normal(size=(500, 2)), 3 * rng.normal(size=500), strict=True)
        ]
        near = [
            risk(best.w + 0.05 * rng.normal(size=2), -best.tau + 0.05 * rng.normal(), ratio, eps, norm, cov) for _ in range(500)
        ]
        assert min(*far, *near) >= least - 1e-12
        assert min(near) < least + 1e-3  # the neighbours are close: it is a minimum, not a number out of reach


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_identity_as_covariance_changes_nothing(norm: Any) -> None:
    closed, solved = (ad.gaussian_tradeoff(MU, 0.8, 5, 0.3, norm, cov) for cov in (None, np.eye(2)))
    assert solved.w == pytest.approx(closed.w, abs=1e-9)
    assert (solved.tau, solved.disparity) == pytest.approx((closed.tau, closed.disparity), abs=1e-9)


def test_the_direction_under_a_covariance_is_the_one_towards_the_nearest_mean() -> None:
    # dual of (4): the attack may move the mean to any m of the ball; w = C^-1 m for the m of least m' C^-1 m
    eps = 0.2
    found = ad.gaussian_tradeoff(MU, 1.0, 1, eps, "linf", SKEWED)
    shifts = [MU - np.array(d) for d in product(np.linspace(-eps, eps, 81), repeat=2)]
    nearest = min(shifts, key=lambda m: m @ np.linalg.solve(SKEWED, m))
    w = np.linalg.solve(SKEWED, nearest)
    assert found.w == pytest.approx(w / np.linalg.norm(w), abs=0.02)
    assert found.robust_distance / math.sqrt(found.w @ SKEWED @ found.w) == pytest.approx(
        math.sqrt(nearest @ np.linalg.solve(SKEWED, nearest)), abs=1e-3
    )


@pytest.mark.parametrize(("distance", "scale", "ratio", "eps"), [(2.0, 1.0, 3, 0.5), (4.0, 1.0, 10, 0.0), (4.0, 2.0, 5, 1.0)])
def test_invariant_7_the_cauchy_threshold_satisfies_the_density_ratio(
    distance: float, scale: float, ratio: float, eps: float
) -> None:
    found = ad.stable_tradeoff(distance, scale, 1.0, ratio, eps)
    d = distance - eps
    assert cauchy.pdf(found.tau - d, scale=scale) / cauchy.pdf(found.tau + d, scale=scale) == pytest.approx(ratio)
    taus = np.linspace(-20, 200, 4001)
    risks = (cauchy.cdf((taus - d) / scale) + ratio * cauchy.sf((taus + d) / scale)) / (1 + ratio)
    assert 1 - found.robust_acc <= risks.min() + 1e-12
    assert found.acc_minority == pytest.approx(float(cauchy.sf((found.tau - distance) / scale)))


def test_invariant_7_above_the_largest_ratio_the_majority_is_named() -> None:
    largest = (math.sqrt(2**2 + 1) + 2) ** 2  # ((sqrt(D^2 + g^2) + D) / g)^2 = 17.9
    found = ad.stable_tradeoff(2.0, 1.0, 1.0, largest + 0.01)
    assert (found.constant, found.acc_minority, found.acc_majority, found.disparity) == (True, 0.0, 1.0, 1.0)
    # the card's example: at R = 10 there is a stationary threshold, of error 0.1125, and the constant one is better
    tau = (2 * 11 - math.sqrt(4 * 10 * 4 - 81)) / 9
    error = (cauchy.cdf(tau - 2) + 10 * cauchy.sf(tau + 2)) / 11
    assert error == pytest.approx(0.1125, abs=5e-5)
    assert ad.stable_tradeoff(2.0, 1.0, 1.0, 10).robust_acc == pytest.approx(1 - 0.0909, abs=5e-5)
    assert ad.stable_tradeoff(2.0, 1.0, 1.0, 10).constant


def test_heavy_tails_robustness_first_narrows_the_gap_then_collapses_and_then_cannot_widen_it() -> None:
    def added(ratio: float) -> float:
        return ad.decompose(lambda r, e: ad.stable_tradeoff(4.0, 1.0, 1.0, r, e), ratio, 2.0).added_disparity

    assert added(1) == 0
    assert added(5) == pytest.approx(-0.032, abs=1e-3)
    assert added(10) == pytest.approx(0.884, abs=1e-3)
    assert added(30) == 0


@pytest.mark.parametrize(("alpha", "ratio"), [(1.5, 5), (0.8, 2), (1.9, 20)])
def test_other_stable_laws_by_their_density_ratio(alpha: float, ratio: float) -> None:
    found = ad.stable_tradeoff(4.0, 1.0, alpha, ratio, 1.0)
    law = levy_stable(alpha, 0.0)
    assert not found.constant
    assert law.pdf(found.tau - 3) / law.pdf(found.tau + 3) == pytest.approx(ratio, rel=1e-4)
    taus = np.linspace(0, 30, 61)
    risks = (law.cdf(taus - 3) + ratio * (1 - law.cdf(taus + 3))) / (1 + ratio)
    assert 1 - found.robust_acc <= min(risks.min(), 1 / (1 + ratio)) + 1e-6


def test_the_numeric_threshold_is_the_closed_one_for_cauchy_and_none_above_the_largest_ratio() -> None:
    for ratio in (1.0, 1.01, 3.0, 17.0):
        closed = ad.stable_tradeoff(2.0, 1.0, 1.0, min(ratio, 3.0)).tau if ratio <= 3 else None
        numeric = _stationary(lambda u: float(cauchy.pdf(u)), 2.0, 1.0, ratio)
        assert numeric is not None
        assert closed is None or numeric == pytest.approx(closed, abs=1e-9)
        assert cauchy.pdf(numeric - 2) / cauchy.pdf(numeric + 2) == pytest.approx(ratio)
    assert _stationary(lambda u: float(cauchy.pdf(u)), 2.0, 1.0, 18.0) is None


def test_stability_index_two_is_the_gaussian() -> None:
    stable, gaussian = ad.stable_tradeoff(2.0, 0.5, 2.0, 7, 0.5), ad.gaussian_tradeoff([2.0], math.sqrt(0.5), 7, 0.5)
    assert (stable.tau, stable.disparity) == (gaussian.tau, gaussian.disparity)


def test_invariant_8_a_million_draws_agree() -> None:
    rng = np.random.default_rng(1)
    law = ad.gaussian_tradeoff(MU, 0.9, 4, 0.2, "linf", SKEWED)
    noise = 0.9 * rng.standard_normal((10**6, 2)) @ np.linalg.cholesky(SKEWED).T
    assert np.mean((noise + MU) @ law.w > law.tau) == pytest.approx(law.acc_minority, abs=0.002)
    assert np.mean((noise - MU) @ law.w < law.tau) == pytest.approx(law.acc_majority, abs=0.002)
    heavy, u = ad.stable_tradeoff(3.0, 1.0, 1.0, 4, 1.0), rng.standard_cauchy(10**6)
    assert np.mean(u + 3 > heavy.tau) == pytest.approx(heavy.acc_minority, abs=0.002)
    assert np.mean(u + 3 - 1 > heavy.tau) == pytest.approx(heavy.robust_acc_minority, abs=0.002)
    assert np.mean(u - 3 < heavy.tau) == pytest.approx(heavy.acc_majority, abs=0.002)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.0), ("linf", 2.0), ("l2", math.sqrt(1.25)), ("l2", 9.0)])
def test_an_attack_that_swallows_the_means_leaves_the_majority(norm: Any, eps: float) -> None:
    for cov in (None, SKEWED):
        found = ad.gaussian_tradeoff(MU, 1.0, 4, eps, norm, cov)
        assert (found.constant, found.disparity, found.tau) == (True, 1.0, math.inf)
        assert (found.accuracy, found.robust_acc, found.balanced_accuracy) == pytest.approx((0.8, 0.8, 0.5))
        assert not np.isnan(found.w).any()
    assert ad.stable_tradeoff(1.0, 1.0, 1.5, 4, 1.0).constant


# ------------------------------------------------------------------------------------------------------------ measuring


def two_classes(majority: int, minority: int) -> tuple[Tensor, Tensor]:
    """x is the position, one feature; the classes alternate where they can."""
    y = torch.tensor([0] * majority + [1] * minority)
    return torch.arange(len(y))[:, None].float(), y


@pytest.mark.parametrize(("ratio", "counts"), [(1, [30, 30]), (2, [30, 15]), (10, [30, 3]), (4, [30, 8])])
def test_imbalance_takes_from_the_minority_only(ratio: float, counts: list[int]) -> None:
    data = two_classes(50, 30)
    x, y = ad.make_imbalanced(data, ratio, generator(0))
    assert y.bincount().tolist() == counts
    assert x.squeeze(1).long().unique().numel() == len(x)  # without replacement
    assert torch.equal(data[1][x.squeeze(1).long()], y)  # labels stay with their samples
    assert torch.equal(x, x.sort(0).values)
    again, other = (ad.make_imbalanced(data, ratio, generator(seed))[0] for seed in (0, 1))
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_imbalance_of_images_and_of_another_minority() -> None:
    pair = ad.class_pair(fashion_mnist_subset("train"), "sneaker", "ankle boot")
    part = ad.make_imbalanced(pair, 5, generator(0), n_majority=100)
    assert isinstance(part, ImageSet)
    assert part.labels.bincount().tolist() == [100, 20]
    assert part.split == "train"
    swapped = ad.make_imbalanced(pair, 5, generator(0), n_majority=100, minority=0)
    assert isinstance(swapped, ImageSet)
    assert swapped.labels.bincount().tolist() == [20, 100]


def test_a_pair_is_relabelled_majority_first() -> None:
    whole = fashion_mnist_subset("test")
    pair = ad.class_pair(whole, 9, "t-shirt/top")
    assert pair.classes == ("ankle boot", "t-shirt/top")
    mask = (whole.labels == 9) | (whole.labels == 0)
    assert torch.equal(pair.labels, (whole.labels[mask] == 0).long())
    assert torch.equal(pair.images, whole.images[mask])
    assert pair.split == "test"


def test_class_accuracies_by_hand() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert ad.per_class_accuracy(predicted, labels).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert ad.per_class_accuracy(torch.tensor([1, 1]), torch.tensor([0, 1])).tolist() == [0.0, 1.0]
    with pytest.raises(InputError, match="class 1"):
        ad.per_class_accuracy(torch.tensor([0, 0]), torch.tensor([0, 0]))
    x, y = torch.tensor([[0.0], [2.0], [5.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    assert ad.half_mean_difference((x, y)).tolist() == [3.0]
    assert ad.class_accuracies(Threshold(6.0), (x, y)) == (1.0, 0.5)


class Threshold(nn.Module):
    """Class 1 above tau."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.tensor(tau))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.tau - x, x - self.tau], 1)


# ------------------------------------------------------------------------------------------------------------- training


def linear(w: Tensor) -> nn.Linear:
    net = nn.Linear(len(w), 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.stack([-w / 2, w / 2]))
    return net


def attacked(net: nn.Module, x: Tensor, y: Tensor, budget: Any, bounds: Any = (0.0, 1.0)) -> Tensor:
    return ad.linear_attack(budget, bounds)(x, y, model=net, generator=generator(0))


def test_one_step_is_the_exact_attack_on_a_linear_classifier() -> None:
    w = torch.tensor([2.0, -1.0, 0.5])
    net, rng = linear(w), generator(3)
    x, y = torch.rand(40, 3, generator=rng), torch.randint(2, (40,), generator=rng)
    side = (2 * y - 1)[:, None]
    margin = side * ((attacked(net, x, y, Linf(0.3)) - x) @ w[:, None])
    corners = torch.tensor(list(product((-0.3, 0.3), repeat=3)))
    moved = (x[:, None] + corners).clamp(0, 1) - x[:, None]  # the range of pixels cuts the cube
    worst = (side[:, None] * (moved @ w)[..., None]).amin(1)
    torch.testing.assert_close(margin, worst)
    torch.testing.assert_close(attacked(net, x, y, L2(0.3), None) - x, -side * 0.3 * w / w.norm())


def test_the_attack_does_not_vanish_where_the_model_is_sure_and_does_not_move_without_a_gradient() -> None:
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    moved = attacked(linear(torch.tensor([1e4, 1e4])), x, y, Linf(0.1))
    torch.testing.assert_close(moved, torch.tensor([[0.4, 0.4]]))
    for budget in (Linf(0.1), L2(0.1)):
        assert torch.equal(attacked(linear(torch.zeros(2)), x, y, budget), x)


def gaussian_sample(n: int, ratio: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng, counts = np.random.default_rng(seed), (n, round(n / ratio))
    x = np.concatenate([rng.standard_normal((c, 2)) + s * MU for c, s in zip(counts, (-1, 1), strict=True)])
    return torch.from_numpy(x).float(), torch.arange(2).repeat_interleave(torch.tensor(counts))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_trained_classifier_is_where_the_formula_says(norm: Any) -> None:
    budget = Linf(0.4) if norm == "linf" else L2(0.4)
    model = ad.train_on_pair(
        lambda: nn.Linear(2, 2), gaussian_sample(6000, 3), attack=ad.linear_attack(budget, None), rates=(0.03,), epochs=4,
        batch_size=128,
    )  # fmt: skip
    law = ad.gaussian_tradeoff(MU, 1.0, 3, 0.4, norm)
    majority, minority = ad.class_accuracies(model, gaussian_sample(20000, 1, seed=1))
    assert (majority, minority) == pytest.approx((law.acc_majority, law.acc_minority), abs=0.025)
    standard = ad.gaussian_tradeoff(MU, 1.0, 3, 0.0, norm)
    assert abs(standard.acc_minority - law.acc_minority) > 0.06  # far from what standard training would give


def test_rate_and_epoch_have_the_least_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.methods.understand.accuracy_disparity import training

    results, fit = [], training.fit

    def spy(*args: Any, **kwargs: Any) -> Any:
        results.append((args[0], fit(*args, **kwargs)))
        return results[-1][1]

    monkeypatch.setattr(training, "fit", spy)
    data = gaussian_sample(100, 2)
    model = ad.train_on_pair(lambda: nn.Linear(2, 2), data, rates=(1e-4, 0.1, 1e-3), epochs=3)
    best = [max(epoch["minus_loss"] for epoch in result.epochs) for _, result in results]
    assert best[1] == max(best)
    assert model is results[1][0]


def test_own_and_clean_selection_look_at_other_losses() -> None:
    data, attack = gaussian_sample(100, 2), ad.linear_attack(Linf(0.6), None)
    own, clean = (
        ad.train_on_pair(lambda: nn.Linear(2, 2), data, attack=attack, rates=(0.5,), epochs=6, batch_size=16, select=select)
        for select in ("own", "clean")
    )
    assert not torch.equal(own.weight, clean.weight)


def test_a_rate_that_diverges_is_left_out_and_all_of_them_are_told() -> None:
    data = gaussian_sample(40, 1)
    data = (data[0] * 1e10, data[1])  # a large step overflows
    model = ad.train_on_pair(lambda: nn.Linear(2, 2), data, rates=(1e30, 1e-25), epochs=2, optimizer="sgd")
    assert torch.isfinite(model.weight).all()
    with pytest.raises(NotFinite):
        ad.train_on_pair(lambda: nn.Linear(2, 2), data, rates=(1e30,), epochs=2, optimizer="sgd")


def test_training_refuses_test_data_and_wrong_settings() -> None:
    test = ad.class_pair(fashion_mnist_subset("test"), 0, 1)
    with pytest.raises(SplitError):
        ad.train_on_pair(lambda: nn.Linear(784, 2), test)
    data = gaussian_sample(20, 1)
    for wrong, word in (
        ({"rates": ()}, "rates"), ({"rates": (0.0,)}, "rates"), ({"optimizer": "lbfgs"}, "optimizer"),
        ({"select": "test"}, "select"), ({"validation_share": 1.0}, "validation_share"), ({"attack": 3}, "attack"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            ad.train_on_pair(lambda: nn.Linear(2, 2), data, **wrong)
    with pytest.raises(InputError, match="class 1"):
        ad.train_on_pair(lambda: nn.Linear(2, 2), two_classes(5, 1))


# ------------------------------------------------------------------------------------------------------------- the audit


POSITIONS = torch.arange(20.0)[:, None]
HALVES = (POSITIONS, (torch.arange(20) >= 10).long())  # majority at 0..9, minority at 10..19


def shifting(data: tuple[Tensor, Tensor], eps: float, seed: int) -> nn.Module:
    """A 'training' whose threshold is 9.5 + eps (ratio - 1) + seed, with the ratio read off the data."""
    counts = data[1].bincount().tolist()
    return Threshold(9.5 + eps * (counts[0] / counts[1] - 1) + seed)


def test_the_audit_by_hand() -> None:
    found = ad.disparity_audit(shifting, (HALVES, HALVES), ratios=(1, 5), eps=(0.5,), seeds=2)
    # ratio 5, eps 0.5: the threshold is at 11.5 (seed 0): positions 10 and 11 of the minority are lost
    assert [row.disparity for row in found.rows if row.ratio == 5] == pytest.approx([0.0, 0.2, 0.1, 0.3])
    row = found.effect(5, 0.5)
    assert row.delta_disparity.value == pytest.approx(0.2)
    assert row.delta_disparity.ci95 == pytest.approx((0.2, 0.2))  # the same for both seeds: paired
    assert row.delta_accuracy.value == pytest.approx(0.2 / 6)  # the minority is one of six
    assert row.disparity_standard.value == pytest.approx(0.05)
    assert found.effect(1, 0.5).delta_disparity.value == 0
    (part,) = found.decomposition
    assert (part.eps, part.inherent.value, part.by_imbalance[5].value) == pytest.approx((0.5, 0.0, 0.2))
    assert part.by_imbalance[5].n == 2
    assert found.warnings == []


def test_the_sign_of_the_gap_is_kept_and_a_collapse_is_told() -> None:
    rows = [ad.ModelRow(ratio, eps, 0, 0.9, 0.95 if eps == 0 else 0.0) for ratio in (1, 2) for eps in (0.0, 1.0)]
    found = ad.summarise(rows)
    assert found.effect(2, 1.0).disparity_standard.value == pytest.approx(-0.05)
    assert found.effect(2, 1.0).delta_disparity.value == pytest.approx(0.95)
    assert found.effect(2, 1.0).delta_disparity.ci95 is None
    assert found.decomposition[0].inherent.value == pytest.approx(0.475)
    assert sum("always names the majority" in word for word in found.warnings) == 2
    assert any("one seed" in word for word in found.warnings)


def test_all_eps_of_a_seed_are_trained_on_the_same_draw() -> None:
    seen: dict[tuple[float, int], list[Tensor]] = {}

    def train(data: tuple[Tensor, Tensor], eps: float, seed: int) -> nn.Module:
        counts = data[1].bincount().tolist()
        seen.setdefault((counts[0] / counts[1], seed), []).append(data[0])
        return Threshold(9.5)

    ad.disparity_audit(train, (HALVES, HALVES), ratios=(1, 5), eps=(0.1, 0.2), seeds=[3, 4])
    assert {key: len(xs) for key, xs in seen.items()} == {(1, 3): 3, (1, 4): 3, (5, 3): 3, (5, 4): 3}
    assert all(torch.equal(x, xs[0]) for xs in seen.values() for x in xs)
    assert not torch.equal(seen[5, 3][0], seen[5, 4][0])


def test_models_that_were_trained_before() -> None:
    models = {(r, e, s): Threshold(9.5 + (e > 0) * (r - 1)) for r in (1.0, 3.0) for e in (0.0, 0.3) for s in (0, 1)}
    found = ad.disparity_audit(models, (HALVES, HALVES), ratios=(1, 3), eps=[0.3], seeds=2)
    assert found.effect(3, 0.3).delta_disparity.value == pytest.approx(0.2)
    del models[3.0, 0.3, 1]
    with pytest.raises(InputError, match="1 missing models"):
        ad.disparity_audit(models, (HALVES, HALVES), ratios=(1, 3), eps=[0.3], seeds=2)


def test_a_training_that_reads_the_test_data_is_stopped() -> None:
    train, test = (ad.class_pair(fashion_mnist_subset(split), 0, 1) for split in ("train", "test"))

    def peeking(data: ImageSet, eps: float, seed: int) -> nn.Module:
        test[[0]]
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 2))

    with pytest.raises(SplitError):
        ad.disparity_audit(peeking, (train, test), eps=[0.1], seeds=1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ratios": (2, 5)}, "1 among them"),
        ({"ratios": (1, 0.5)}, "ratios"),
        ({"ratios": (1, 1)}, "different"),
        ({"eps": ()}, "eps"),
        ({"eps": (0.0,)}, "eps"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": []}, "seeds"),
        ({"data": HALVES[0]}, "data"),
        ({"data": (HALVES, (POSITIONS, torch.zeros(20, dtype=torch.long)))}, "two classes"),
        ({"data": (HALVES, (POSITIONS, torch.arange(20) % 3))}, "two classes"),
        ({"ratios": (1, 100)}, "minority"),
        ({"n_majority": 11}, "majority"),
        ({"train": 3}, "train"),
    ],
)
def test_the_audit_refuses_before_the_first_training(change: dict[str, Any], word: str) -> None:
    calls = []

    def train(data: Any, eps: float, seed: int) -> nn.Module:
        calls.append(eps)
        return Threshold(9.5)

    arguments: dict[str, Any] = {"train": train, "data": (HALVES, HALVES), "eps": (0.1,), **change}
    with pytest.raises(InputError, match=word):
        ad.disparity_audit(arguments.pop("train"), arguments.pop("data"), **arguments)
    assert calls == []


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: ad.gaussian_tradeoff([[1.0]]), "mu"),
        (lambda: ad.gaussian_tradeoff([math.nan]), "mu"),
        (lambda: ad.gaussian_tradeoff(MU, 0.0), "sigma"),
        (lambda: ad.gaussian_tradeoff(MU, ratio=0.5), "ratio"),
        (lambda: ad.gaussian_tradeoff(MU, eps=-0.1), "eps"),
        (lambda: ad.gaussian_tradeoff(MU, norm="l1"), "norm"),
        (lambda: ad.gaussian_tradeoff(MU, cov=np.ones((2, 2))), "cov"),
        (lambda: ad.gaussian_tradeoff(MU, cov=np.eye(3)), "cov"),
        (lambda: ad.gaussian_tradeoff(MU, cov=[[1.0, 0.5], [0.0, 1.0]]), "cov"),
        (lambda: ad.stable_tradeoff(0.0), "distance"),
        (lambda: ad.stable_tradeoff(1.0, -1.0), "scale"),
        (lambda: ad.stable_tradeoff(1.0, 1.0, 2.5), "alpha"),
        (lambda: ad.make_imbalanced(HALVES, 0.5, generator(0)), "ratio"),
        (lambda: ad.make_imbalanced(HALVES, 2, generator(0), minority=2), "minority"),
        (lambda: ad.class_pair(fashion_mnist_subset("train"), "shoe", 1), "majority"),
        (lambda: ad.class_pair(fashion_mnist_subset("train"), 1, 1), "minority"),
        (lambda: ad.summarise([]), "rows"),
        (lambda: ad.summarise([ad.ModelRow(1, 0, 0, 1.0, 1.0)]), "rows"),
    ],
)
def test_bad_input_is_named(call: Any, argument: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument


# ------------------------------------------------------------------------------------------------ the report, the claim


def test_the_report_shows_decomposition_effects_and_models(tmp_path: Path) -> None:
    found = ad.disparity_audit(
        shifting, (HALVES, HALVES), ratios=(1, 5), eps=(0.5, 1.0), seeds=2, predicted=lambda ratio, eps: (ratio * eps, 0.0)
    )
    text = found.to_report(tmp_path / "page.html").read_text()
    assert "+20.0 [+20.0, +20.0]" in text  # Delta_AD at ratio 5, eps 0.5, worked out above
    assert "accuracy lost, balanced" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    panels = disparity_figure(found).axes
    dashed = [line for line in panels[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[50.0, 250.0], [100.0, 500.0]]


def test_the_threshold_of_a_sample_has_the_fewest_errors() -> None:
    assert best_threshold(np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0])) == 2.5
    assert best_threshold(np.array([0.0, 1.0, 2.0, 3.0, 9.0]), np.array([4.0, 5.0])) == 3.5
    assert best_threshold(np.array([1.0, 2.0, 3.0]), np.array([0.0])) == math.inf
    rng = np.random.default_rng(0)
    majority, minority = rng.standard_cauchy(200) - 4, rng.standard_cauchy(40) + 4
    tau = best_threshold(majority, minority)

    def errors(t: float) -> int:
        return int((minority <= t).sum() + (majority > t).sum())

    assert errors(tau) == min(errors(t) for t in [*majority, *minority, math.inf])


def test_the_control_stands_beside_the_same_standard_classifier(tmp_path: Path) -> None:
    config, cache = load_claim("accuracy-disparity").scales["smoke"], Cache(tmp_path)
    method, control = (cell(Cell(arm, 1, config, cache)) for arm in ("ratio-10", "ratio-10-standard-reseeded"))
    assert control["disparity_standard"] == method["disparity_standard"]
    assert control["attacked_standard"] == method["attacked_standard"]
    assert control["attacked_robust"] != method["attacked_robust"]


def test_train_and_test_parts_of_the_small_sets_have_nothing_in_common() -> None:
    config = load_claim("accuracy-disparity").scales["claim"]
    for arm in ("digits-ratio-1", "breast-cancer-ratio-1"):
        seen = []
        for unit in (0, 1):
            task = tasks(config, Cell(arm, unit, config, Cache(Path("unused"))))[0]
            (x, _), (x_test, y_test) = arrays(task.pool), arrays(task.test)
            assert len({tuple(row) for row in x.flatten(1).tolist()} & {tuple(row) for row in x_test.flatten(1).tolist()}) == 0
            assert y_test.bincount()[0] == y_test.bincount()[1]
            seen.append(x_test)
        assert seen[0].shape == seen[1].shape
        assert not torch.equal(*seen)


def test_pairs_are_read_majority_first_and_others_are_refused() -> None:
    assert class_pairs("1/7 pullover/shirt") == [(1, 7), ("pullover", "shirt")]
    for wrong in ("", "1", "1/2/3"):
        with pytest.raises(InputError, match="pairs"):
            class_pairs(wrong)


def test_settings_of_several_numbers_can_be_given_on_the_command_line() -> None:
    claim = load_claim("accuracy-disparity")
    assert claim.config("smoke", {"rates": "0.1,0.01"}).model_dump()["rates"] == (0.1, 0.01)
    with pytest.raises(InputError, match="rates"):
        claim.config("smoke", {"rates": "fast"})
