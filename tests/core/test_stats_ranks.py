"""Wilcoxon's signed ranks and Hodges-Lehmann: by hand, against SciPy, by enumeration, by simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core import stats
from tutelage.core.errors import InputError

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)
differences = st.lists(st.integers(-60, 60).map(lambda i: i / 4), min_size=1, max_size=14)


def test_wilcoxon_by_hand() -> None:
    # 1, 2, -3, 4, 5, 6: ranks 1 to 6, the positive ones sum to 18 of 21; the other side is 3.
    # Sums of at most 3 from {1..6}: {}, 1, 2, 3, 1+2 = 5 of 64 sign patterns; p = 2 * 5 / 64.
    result = stats.wilcoxon([1.0, 2.0, -3.0, 4.0, 5.0, 6.0])
    assert (result.statistic, result.p_value, result.n, result.zeros) == (18.0, 10 / 64, 6, 0)
    # n = 6 at 95 %: P(T = 0) = 1/64 <= 0.025 < P(T <= 1) = 2/64, so the limits are the extreme averages.
    assert result.interval == stats.Interval(-3.0, 6.0, 0.95, "hodges-lehmann")
    # At 90 %: 2/64 <= 0.05 > 3/64, still below; P(T <= 2) = 3/64 <= 0.05 < P(T <= 3) = 5/64, so the third of each end.
    # Averages from below: -3, -1 (with 1), -0.5 (with 2), ...; from above: 6, 5.5, 5 (itself), 5 (4 and 6).
    interval = stats.wilcoxon([1.0, 2.0, -3.0, 4.0, 5.0, 6.0], level=0.9).interval
    assert interval is not None
    assert (interval.lo, interval.hi) == (-0.5, 5.0)


def test_hodges_lehmann_by_hand() -> None:
    # Averages of 0, 1, 5: 0, 0.5, 1, 2.5, 3, 5; the median is (1 + 2.5) / 2.
    result = stats.wilcoxon([0.0, 1.0, 5.0])
    assert (result.estimate, result.zeros, result.interval) == (1.75, 1, None)
    # The zero is left out of the test: ranks 1 and 2, both positive, p = 2 * 1/4.
    assert (result.statistic, result.p_value) == (3.0, 0.5)


@pytest.mark.parametrize(("n", "reaches"), [(1, False), (5, False), (6, True)])
def test_few_units_cannot_reach_the_level(n: int, reaches: bool) -> None:
    # The widest interval misses with 2 / 2^n: 1/16 for 5, 1/32 for 6.
    assert (stats.wilcoxon(np.arange(1.0, n + 1)).interval is not None) == reaches
    assert stats.wilcoxon(np.arange(1.0, 6.0), level=1 - 1 / 16).interval is not None


def test_all_zeros_say_nothing() -> None:
    result = stats.wilcoxon([0.0] * 8)
    assert (result.estimate, result.p_value, result.zeros) == (0.0, 1.0, 8)
    assert result.interval == stats.Interval(0.0, 0.0, 0.95, "hodges-lehmann")


@pytest.mark.parametrize("n", [1, 2, 7, 25, 50])
def test_exact_p_agrees_with_scipy(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1.0, n)
    theirs = scipy.stats.wilcoxon(d, method="exact")
    ours = stats.wilcoxon(d)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert min(ours.statistic, n * (n + 1) / 2 - ours.statistic) == theirs.statistic


def test_normal_p_agrees_with_scipy_with_ties_and_zeros() -> None:
    d = np.random.default_rng(0).integers(-4, 7, 200).astype(float)
    theirs = scipy.stats.wilcoxon(d, zero_method="wilcox", correction=False, method="asymptotic")
    assert stats.wilcoxon(d).p_value == pytest.approx(theirs.pvalue, rel=1e-9)


@light
@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=9))
def test_exact_p_with_ties_is_that_of_all_sign_patterns(d: list[float]) -> None:
    sizes = np.abs([value for value in d if value])
    result = stats.wilcoxon(d)
    if not sizes.size:
        assert result.p_value == 1.0
        return
    ranks = scipy.stats.rankdata(sizes)
    sums = np.array([float(ranks @ np.array(signs)) for signs in itertools.product((0, 1), repeat=sizes.size)])
    expected = min(1.0, 2 * min((sums <= result.statistic).mean(), (sums >= result.statistic).mean()))
    assert result.p_value == pytest.approx(expected)


@light
@given(differences, st.randoms())
def test_wilcoxon_is_antisymmetric_and_knows_no_order(d: list[float], random) -> None:  # type: ignore[no-untyped-def]
    result, mirrored = stats.wilcoxon(d, 0.8), stats.wilcoxon([-value for value in d], 0.8)
    assert result == stats.wilcoxon(random.sample(d, len(d)), 0.8)
    assert mirrored.p_value == pytest.approx(result.p_value)
    assert mirrored.estimate == pytest.approx(-result.estimate)
    assert 0.0 < result.p_value <= 1.0
    if result.interval is None:
        assert mirrored.interval is None
        return
    assert mirrored.interval is not None
    assert (mirrored.interval.lo, mirrored.interval.hi) == pytest.approx((-result.interval.hi, -result.interval.lo))
    assert min(d) <= result.interval.lo <= result.estimate <= result.interval.hi <= max(d)


@light
@given(st.lists(st.integers(1, 10**6), min_size=6, max_size=25, unique=True), st.integers(0, 2**25))
def test_without_ties_the_interval_leaves_zero_out_exactly_where_the_test_rejects(sizes: list[int], signs: int) -> None:
    d = [size if signs >> i & 1 else -size for i, size in enumerate(sizes)]
    result = stats.wilcoxon(d)
    assert result.interval is not None
    excluded = result.interval.lo > 0 or result.interval.hi < 0
    assert excluded == (result.p_value <= 0.05)


@pytest.mark.parametrize("n", [12, 60])  # the exact law, and the normal one
def test_simulated_coverage(n: int) -> None:
    trials = 1500
    samples = np.random.default_rng(n).laplace(0.7, 1.0, (trials, n))
    intervals = [stats.wilcoxon(row).interval for row in samples]
    misses = sum(not (i.lo <= 0.7 <= i.hi) for i in intervals if i is not None)
    assert len(intervals) == trials
    assert misses <= scipy.stats.binom.isf(1e-6, trials, 0.05)
    assert misses >= scipy.stats.binom.ppf(1e-6, trials, 0.03)  # and it is not needlessly wide


def test_results_are_plain_numbers() -> None:
    for value in asdict(stats.wilcoxon(np.arange(-3, 9))).values():
        assert not isinstance(value, np.generic)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("differences", lambda: stats.wilcoxon([])),
        ("differences", lambda: stats.wilcoxon([1.0, math.nan])),
        ("differences", lambda: stats.wilcoxon(np.zeros(4001))),
        ("level", lambda: stats.wilcoxon([1.0], level=1.5)),
    ],
)
def test_bad_input_is_refused_by_name(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
