"""The conformal order statistic: exact ranks, coverage by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core import stats
from tutelage.core.errors import InputError

light = settings(max_examples=100, deadline=None, database=None, derandomize=True)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [
        (9, 0.1, 9),  # 10 * 0.9 = 9
        (9, 1 - 0.9, 9),  # 1 - 0.9 is 0.09999999999999998; 10 * (1 - that) = 9.0000000000000002 must not become 10
        (9, 0.7, 3),  # in floats 10 * (1 - 0.7) = 3.0000000000000004
        (2, 1 / 3, 2),  # 3 * 2/3
        (99, 0.05, 95),
        (100, 0.1, 91),  # 101 * 0.9 = 90.9
        (8, 0.1, 9),  # 9 * 0.9 = 8.1: one more than there are
        (18, 0.05, 19),  # 19 * 0.95 = 18.05
        (19, 0.05, 19),
        (1, 0.5, 1),
        (999_999, 0.001, 999_000),
        (10, 1e-12, 11),
        (10, 1 - 1e-12, 1),
        (9, Fraction(1, 10), 9),
        (9, np.float32(0.1), 9),
    ],
)
def test_rank_by_hand(n: int, alpha: float, rank: int) -> None:
    assert stats.conformal_rank(n, alpha) == rank


@light
@given(st.integers(1, 400), st.integers(1, 999))
def test_rank_is_exact_for_every_decimal_alpha(n: int, thousandths: int) -> None:
    exact = -(-(n + 1) * (1000 - thousandths) // 1000)  # ceiling, in whole numbers
    for alpha in (thousandths / 1000, 1 - (1 - thousandths / 1000), Fraction(thousandths, 1000)):
        assert stats.conformal_rank(n, alpha) == exact


def test_quantile_by_hand() -> None:
    scores = [5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0]
    assert stats.conformal_quantile(scores, 0.1) == 9.0
    assert stats.conformal_quantile(scores, 0.2) == 8.0  # 10 * 0.8 = 8
    assert stats.conformal_quantile(scores, 0.25) == 8.0  # 7.5 is rounded up
    assert stats.conformal_quantile(scores, 0.09) == math.inf  # 9.1: the tenth of nine
    assert stats.conformal_quantile([1.0, math.inf, -math.inf], 0.5) == 1.0
    assert stats.conformal_quantile([0.5], 0.4) == math.inf


@light
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 99), st.randoms())
def test_quantile_is_an_order_statistic(scores: list[float], percent: int, random) -> None:  # type: ignore[no-untyped-def]
    found = stats.conformal_quantile(scores, percent / 100)
    assert found == stats.conformal_quantile(random.sample(scores, len(scores)), percent / 100)
    # At least (n + 1)(1 - alpha) of the scores and infinity are at most the quantile, and fewer are below it.
    enough = (len(scores) + 1) * (100 - percent)
    assert 100 * sum(s <= found for s in [*scores, math.inf]) >= enough
    assert 100 * sum(s < found for s in [*scores, math.inf]) < enough
    if percent > 1:
        assert stats.conformal_quantile(scores, (percent - 1) / 100) >= found


def test_coverage_by_hand() -> None:
    # n = 1, alpha = 1/2: the coverage is Beta(1, 1), uniform. n = 2, alpha = 1/3: Beta(2, 1), distribution x².
    assert (stats.conformal_coverage(1, 0.5).lo, stats.conformal_coverage(1, 0.5).hi) == pytest.approx((0.025, 0.975))
    two = stats.conformal_coverage(2, 1 / 3, level=0.9)
    assert (two.lo, two.hi) == pytest.approx((math.sqrt(0.05), math.sqrt(0.95)))
    assert (two.level, two.method) == (0.9, "conformal-beta")
    few = stats.conformal_coverage(8, 0.1)
    assert (few.lo, few.hi) == (1.0, 1.0)


def test_simulated_coverage_is_what_is_promised() -> None:
    # Uniform scores: the coverage of a calibration set is its quantile. 5000 sets of 59; alpha = 0.1, rank 54 of 60.
    trials, n, alpha = 5000, 59, 0.1
    rng = np.random.default_rng(0)
    coverage = np.array([stats.conformal_quantile(row, alpha) for row in rng.random((trials, n))])
    law = scipy.stats.beta(54, 6)
    assert coverage.mean() == pytest.approx(0.9, abs=5 * law.std() / math.sqrt(trials))  # 54/60 exactly
    promised = stats.conformal_coverage(n, alpha, level=0.8)
    outside = int(((coverage < promised.lo) | (coverage > promised.hi)).sum())
    assert scipy.stats.binom.ppf(1e-6, trials, 0.2) <= outside <= scipy.stats.binom.isf(1e-6, trials, 0.2)


@light
@given(st.integers(20, 2000), st.integers(5, 50))
def test_coverage_narrows_with_n_around_one_minus_alpha(n: int, percent: int) -> None:
    interval, more = stats.conformal_coverage(n, percent / 100), stats.conformal_coverage(16 * n, percent / 100)
    assert 0.0 < interval.lo < interval.hi <= 1.0
    assert more.hi - more.lo < interval.hi - interval.lo
    k = stats.conformal_rank(n, percent / 100)
    assert interval.lo < k / (n + 1) < interval.hi


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("scores", lambda: stats.conformal_quantile([], 0.1)),
        ("scores", lambda: stats.conformal_quantile([0.1, math.nan], 0.1)),
        ("scores", lambda: stats.conformal_quantile([[0.1]], 0.1)),
        ("scores", lambda: stats.conformal_quantile(["a"], 0.1)),
        ("alpha", lambda: stats.conformal_quantile([0.1], 0.0)),
        ("alpha", lambda: stats.conformal_quantile([0.1], 1.0)),
        ("alpha", lambda: stats.conformal_quantile([0.1], -0.1)),
        ("alpha", lambda: stats.conformal_quantile([0.1], math.nan)),
        ("alpha", lambda: stats.conformal_rank(9, Fraction(3, 2))),
        ("alpha", lambda: stats.conformal_rank(9, "0.1")),  # type: ignore[arg-type]
        ("alpha", lambda: stats.conformal_rank(9, 1)),
        ("n", lambda: stats.conformal_coverage(0, 0.1)),
        ("n", lambda: stats.conformal_coverage(9.0, 0.1)),  # type: ignore[arg-type]
        ("level", lambda: stats.conformal_coverage(9, 0.1, level=0.0)),
    ],
)
def test_bad_input_is_refused_by_name(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
