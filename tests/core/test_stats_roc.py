"""Intervals of AUROC, average precision and FPR at a TPR: by hand, at the ends, and that they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from tutelage.core.errors import InputError
from tutelage.core.stats import auroc_interval, average_precision_interval, fpr_interval


def test_the_auroc_interval_of_one_pair_by_hand() -> None:
    # n = m = 1: N = 0, so V(t) = t (1 - t), and this is Wilson's interval of 1 success in 1: from 1 / (1 + z^2) to 1
    z2 = scipy.stats.norm.isf(0.025) ** 2
    found = auroc_interval(1.0, 1, 1)
    assert found.lo == pytest.approx(1 / (1 + z2), abs=1e-9)
    assert found.hi == 1.0


def test_the_limits_solve_the_equation() -> None:
    found, n, m = auroc_interval(0.8, 30, 50), 30, 50
    for t in (found.lo, found.hi):
        pooled = (n + m) / 2 - 1
        v = t * (1 - t) * (1 + pooled * (1 - t) / (2 - t) + pooled * t / (1 + t)) / (n * m)
        assert abs(t - 0.8) == pytest.approx(scipy.stats.norm.isf(0.025) * math.sqrt(v), rel=1e-6)
    assert found.lo < 0.8 < found.hi


def test_it_is_mirrored_and_shrinks_with_samples_but_never_to_a_point() -> None:
    up, down = auroc_interval(0.9, 40, 70), auroc_interval(1 - 0.9, 40, 70)
    assert (down.lo, down.hi) == pytest.approx((1 - up.hi, 1 - up.lo), abs=1e-9)
    few, many = auroc_interval(1.0, 20, 20), auroc_interval(1.0, 2000, 2000)
    assert few.lo < many.lo < 1.0
    assert auroc_interval(0.0, 20, 20).hi == pytest.approx(1 - few.lo, abs=1e-9)


def test_average_precision_is_wilsons_interval_of_its_share() -> None:
    from tutelage.core.stats import wilson

    found, reference = average_precision_interval(0.75, 40), wilson(30, 40)
    assert (found.lo, found.hi) == pytest.approx((reference.lo, reference.hi))
    assert average_precision_interval(1.0, 40).lo < 1.0 == average_precision_interval(1.0, 40).hi


def test_fpr_by_hand() -> None:
    # tpr 1/2, n = 2, level 0.5: half = 0.25 for each side of each step. Binomial(2, 1/2) at 0.125: 0 -> no strict threshold,
    # so the lower limit is that of 0 of 4; at 1 - 0.125: 2, + 1 = 3 > 2 -> every negative may be above it
    found = fpr_interval([1.0, 2.0], [0.0, 0.5, 1.5, 3.0], 0.5, level=0.5)
    assert (found.lo, found.hi) == (0.0, 1.0)


def test_both_cover_at_least_at_their_level() -> None:
    rng = np.random.default_rng(0)
    true_auroc, true_fpr = scipy.stats.norm.cdf(2 / math.sqrt(2)), scipy.stats.norm.sf(2 + scipy.stats.norm.isf(0.9))
    covered = np.zeros(2)
    for _ in range(300):
        a, b = rng.normal(2, 1, 60), rng.normal(0, 1, 40)
        area = float((a[:, None] > b).mean())
        for i, (found, true) in enumerate([(auroc_interval(area, 60, 40), true_auroc), (fpr_interval(a, b, 0.9), true_fpr)]):
            covered[i] += found.lo <= true <= found.hi
    assert covered[0] >= 275  # 285 wanted; 275 is 2.6 standard deviations below
    assert covered[1] >= 285


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: auroc_interval(1.2, 5, 5), "auroc"),
        (lambda: auroc_interval(float("nan"), 5, 5), "auroc"),
        (lambda: auroc_interval(0.5, 0, 5), "n"),
        (lambda: auroc_interval(0.5, 5, 5, level=1), "level"),
        (lambda: average_precision_interval(0.5, 0), "n"),
        (lambda: fpr_interval([], [1.0], 0.9), "positives"),
        (lambda: fpr_interval([1.0], [float("nan")], 0.9), "negatives"),
        (lambda: fpr_interval([1.0], [1.0], 1.0), "tpr"),
    ],
)
def test_refusals(call, argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}"):
        call()
