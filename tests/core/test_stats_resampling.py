"""Cluster bootstrap, pass@k and the worst case over seeds; properties of bootstrap and verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core import stats
from tutelage.core.errors import InputError
from tutelage.core.stats import resampling

light = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Clusters


@pytest.mark.parametrize("kind", ["bca", "percentile"])
@pytest.mark.parametrize("statistic", [np.mean, lambda x: float(np.var(x))])
def test_clusters_of_one_value_are_the_ordinary_bootstrap(kind: str, statistic: Callable[..., float]) -> None:
    values = rng(1).exponential(size=25)
    ours = stats.cluster_bootstrap(
        values,
        np.arange(25),
        statistic,
        rng=rng(2),
        n_resamples=400,
        level=0.9,
        kind=kind,  # type: ignore[arg-type]
    )
    theirs = scipy.stats.bootstrap(
        (values,), statistic, n_resamples=400, confidence_level=0.9, rng=rng(2), vectorized=False,
        method="BCa" if kind == "bca" else "percentile",
    ).confidence_interval  # fmt: skip
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high))
    assert (ours.level, ours.method) == (0.9, f"cluster-{kind}")


def test_two_clusters_by_hand() -> None:
    # Values 0, 0, 0 and 4: the two clusters are drawn as AA (mean 0), AB and BA (mean 1), BB (mean 4), a quarter each.
    # The quantiles at 20 % and 80 % are 0 and 4; the mean of the drawn *values* is taken, not that of cluster means.
    interval = stats.cluster_bootstrap(
        [0.0, 4.0, 0.0, 0.0], ["a", "b", "a", "a"], rng=rng(), n_resamples=2000, level=0.6, kind="percentile", few=True
    )
    assert (interval.lo, interval.hi, interval.method) == (0.0, 4.0, "cluster-percentile")
    middle = stats.cluster_bootstrap(
        [0.0, 4.0, 0.0, 0.0], ["a", "b", "a", "a"], rng=rng(), n_resamples=2000, level=0.2, kind="percentile", few=True
    )
    assert (middle.lo, middle.hi) == (1.0, 1.0)


def test_the_fast_mean_is_the_mean() -> None:
    values, clusters = rng(3).normal(size=90), rng(4).integers(0, 25, 90)
    fast = stats.cluster_bootstrap(values, clusters, rng=rng(5), n_resamples=200)
    slow = stats.cluster_bootstrap(values, clusters, lambda x: x.mean(), rng=rng(5), n_resamples=200)
    assert (fast.lo, fast.hi, fast.method) == (pytest.approx(slow.lo), pytest.approx(slow.hi), slow.method)


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = rng(3).normal(size=90), np.repeat(np.arange(30), 3)
    whole = stats.cluster_bootstrap(values, clusters, rng=rng(5), n_resamples=101)
    monkeypatch.setattr(resampling, "BOOTSTRAP_BATCH_VALUES", 7 * 30)
    assert stats.cluster_bootstrap(values, clusters, rng=rng(5), n_resamples=101) == whole


def test_copies_inside_a_cluster_add_nothing() -> None:
    # Ten copies of every value, each in its value's cluster: no new information, the same interval.
    values = rng(6).normal(size=30)
    once = stats.cluster_bootstrap(values, np.arange(30), rng=rng(7), n_resamples=300)
    copied = stats.cluster_bootstrap(np.repeat(values, 10), np.repeat(np.arange(30), 10), rng=rng(7), n_resamples=300)
    assert (copied.lo, copied.hi) == pytest.approx((once.lo, once.hi))
    naive = stats.bootstrap(np.repeat(values, 10), rng=rng(7), n_resamples=300)
    assert naive.hi - naive.lo < 0.5 * (copied.hi - copied.lo)


@pytest.mark.parametrize("kind", ["bca", "percentile"])
def test_simulated_coverage_of_the_cluster_bootstrap(kind: str) -> None:
    # 40 clusters of 3 values that share most of their noise. Bootstrap intervals are approximate: 90 % +- 4 points
    # is allowed on top of the chance of 500 trials.
    trials, source = 500, rng(8)
    misses = 0
    for _ in range(trials):
        values = np.repeat(source.normal(size=40), 3) + 0.3 * source.normal(size=120)
        i = stats.cluster_bootstrap(
            values,
            np.repeat(np.arange(40), 3),
            rng=source,
            n_resamples=300,
            level=0.9,
            kind=kind,  # type: ignore[arg-type]
        )
        misses += not i.lo <= 0.0 <= i.hi
    assert scipy.stats.binom.ppf(1e-6, trials, 0.06) <= misses <= scipy.stats.binom.isf(1e-6, trials, 0.14)


@light
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-50, 50)), min_size=20, max_size=60).filter(
        lambda pairs: len({c for c, _ in pairs}) >= 2
    ),
    st.integers(0, 1000),
)
def test_labels_and_order_of_clusters_do_not_matter(pairs: list[tuple[int, int]], seed: int) -> None:
    clusters, values = [c for c, _ in pairs], [float(v) for _, v in pairs]
    first = stats.cluster_bootstrap(values, clusters, rng=rng(seed), n_resamples=60, few=True)
    named = stats.cluster_bootstrap(values, [f"document {c}" for c in clusters], rng=rng(seed), n_resamples=60, few=True)
    assert first == named
    order = rng(seed).permutation(len(pairs))
    moved = stats.cluster_bootstrap(np.array(values)[order], np.array(clusters)[order], rng=rng(seed), n_resamples=60, few=True)
    assert (moved.lo, moved.hi) == pytest.approx((first.lo, first.hi))
    assert min(values) - 1e-9 <= first.lo <= first.hi <= max(values) + 1e-9


def test_equal_values_have_zero_width() -> None:
    interval = stats.cluster_bootstrap([0.25] * 40, np.repeat(np.arange(20), 2), rng=rng(), n_resamples=50)
    assert (interval.lo, interval.hi, interval.method) == (0.25, 0.25, "cluster-percentile")


def test_fewer_than_twenty_clusters_only_when_asked() -> None:
    values, clusters = np.arange(38.0), np.repeat(np.arange(19), 2)
    with pytest.raises(InputError, match="clusters: got 19 clusters, wanted at least 20 independent clusters"):
        stats.cluster_bootstrap(values, clusters, rng=rng())
    assert stats.cluster_bootstrap(values, clusters, rng=rng(), n_resamples=50, few=True).lo > 0.0
    with pytest.raises(InputError, match="clusters: got 1 clusters, wanted at least 2"):
        stats.cluster_bootstrap([1.0, 2.0], [0, 0], rng=rng(), few=True)


# pass@k


def test_pass_at_k_by_hand() -> None:
    # 5 answers, 2 right, k = 2: all wrong with C(3,2)/C(5,2) = 3/10. One right: C(4,2)/C(5,2) = 6/10. k = n: any right one.
    np.testing.assert_allclose(stats.pass_at_k(5, [0, 1, 2, 4, 5], 2), [0.0, 0.4, 0.7, 1.0, 1.0])
    np.testing.assert_allclose(stats.pass_at_k([10, 4], [3, 1], 1), [0.3, 0.25])
    np.testing.assert_array_equal(stats.pass_at_k([3, 3], [0, 1], 3), [0.0, 1.0])
    assert stats.pass_at_k(5, 2, 2).shape == ()
    assert not np.signbit(stats.pass_at_k(5, 0, 2))


@light
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_exact(drawn: tuple[int, int, int]) -> None:
    n, c, k = drawn
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert float(stats.pass_at_k(n, c, k)) == pytest.approx(float(exact), rel=1e-11, abs=0.0)
    if k > 1:
        assert stats.pass_at_k(n, c, k - 1) <= stats.pass_at_k(n, c, k) * (1 + 1e-12)


def test_pass_at_k_keeps_small_shares() -> None:
    # One right answer of 10^12, ten tries: 10 / 10^12. Taking 1 minus a product would lose five digits.
    assert float(stats.pass_at_k(10**12, 1, 10)) == pytest.approx(1e-11, rel=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    # 10 answers, each right with 0.3: the mean estimate of pass@3 is 1 - 0.7³ = 0.657, summed over all counts.
    c = np.arange(11)
    weights = scipy.stats.binom.pmf(c, 10, 0.3)
    assert weights @ stats.pass_at_k(10, c, 3) == pytest.approx(0.657)


# The worst case over seeds


def test_worst_over_seeds_by_hand() -> None:
    # Right under both seeds: items 1 and 4 of 4. Seed 0 has 3/4, seed 1 has 2/4... the mean over all is 5/8.
    table = np.array([[True, True, False, True], [True, False, False, True]])
    result = stats.worst_over_seeds(table)
    assert (result.value, result.worst_seed_mean, result.worst_seed, result.mean) == (0.5, 0.5, 1, 0.625)
    assert (result.interval, result.n_seeds, result.n_items) == (stats.wilson(2, 4), 2, 4)
    crossed = stats.worst_over_seeds(np.array([[True, False], [False, True]]))
    assert (crossed.value, crossed.worst_seed_mean, crossed.worst_seed) == (0.0, 0.5, 0)


def test_worst_over_seeds_of_losses_by_hand() -> None:
    # The largest of each column: 3, 2, 4; mean 3, s = 1, as in the paired t by hand. Means of the seeds: 2 and 7/3.
    result = stats.worst_over_seeds([[3.0, 2.0, 1.0], [1.0, 2.0, 4.0]], better="lower")
    assert (result.value, result.worst_seed, result.mean) == (3.0, 1, pytest.approx(13 / 6))
    assert (result.interval.lo, result.interval.hi) == pytest.approx((0.515862, 5.484138), abs=1e-6)
    assert json.loads(json.dumps(asdict(result))) == asdict(result)


@light
@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 10**6))
def test_the_worst_case_is_the_worst(seeds: int, items: int, seed: int) -> None:
    table = rng(seed).normal(size=(seeds, items))
    result, mirrored = stats.worst_over_seeds(table), stats.worst_over_seeds(-table, better="lower")
    assert result.value <= result.worst_seed_mean <= result.mean + 1e-12
    assert (mirrored.value, mirrored.worst_seed) == (-result.value, result.worst_seed)
    fewer = table[: seeds - 1]
    if seeds > 2:
        assert stats.worst_over_seeds(fewer).value >= result.value - 1e-12


# Properties of the older ones


@light
@given(st.lists(st.integers(-1000, 1000).map(float), min_size=20, max_size=40), st.integers(0, 100))
def test_bootstrap_of_a_mean_stays_between_the_extremes(values: list[float], seed: int) -> None:
    interval = stats.bootstrap(values, rng=rng(seed), n_resamples=60)
    assert min(values) - 1e-9 <= interval.lo <= interval.hi <= max(values) + 1e-9


@light
@given(st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=2, max_size=20), st.integers(-50, 50))
def test_paired_t_is_antisymmetric_and_sees_differences_only(pairs: list[tuple[int, int]], shift: int) -> None:
    a, b = np.array(pairs, dtype=float).T
    result, swapped, moved = stats.paired_t(a, b), stats.paired_t(b, a), stats.paired_t(a + shift, b + shift)
    assert moved == result
    assert swapped.difference == -result.difference
    assert (swapped.interval.lo, swapped.interval.hi) == (-result.interval.hi, -result.interval.lo)
    assert swapped.p_value == result.p_value
    excluded = result.interval.lo > 0 or result.interval.hi < 0
    if abs(result.p_value - 0.05) > 1e-9:
        assert excluded == (result.p_value < 0.05)


@light
@given(
    st.lists(st.integers(-1000, 1000).map(lambda i: i / 8), min_size=2, max_size=12),
    st.integers(0, 100),
    st.sampled_from([0.125, 1.0, 16.0]),
)
def test_a_verdict_does_not_depend_on_units_and_turns_once_with_the_margin(
    differences: list[float], margin: int, scale: float
) -> None:
    def verdict(at: float, factor: float = 1.0) -> str:
        return stats.decide([d * factor for d in differences], margin=at * factor, kind="threshold").verdict

    assert verdict(margin) == verdict(margin, scale)
    order = ["holds", "undecided", "does not hold"]
    seen = [order.index(verdict(at)) for at in np.linspace(-200, 200, 21)]
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("values", lambda: stats.cluster_bootstrap([math.nan] * 20, range(20), rng=rng())),
        ("clusters", lambda: stats.cluster_bootstrap(np.arange(20.0), range(21), rng=rng())),
        ("clusters", lambda: stats.cluster_bootstrap(np.arange(20.0), [[c] for c in range(20)], rng=rng())),
        ("clusters", lambda: stats.cluster_bootstrap(np.arange(20.0), [math.nan, *range(19)], rng=rng())),
        (
            "clusters",
            lambda: stats.cluster_bootstrap(np.arange(20.0), np.array([None, *range(19)], dtype=object), rng=rng()),
        ),
        ("rng", lambda: stats.cluster_bootstrap(np.arange(20.0), range(20), rng=0)),  # type: ignore[arg-type]
        ("n_resamples", lambda: stats.cluster_bootstrap(np.arange(20.0), range(20), rng=rng(), n_resamples=0)),
        ("level", lambda: stats.cluster_bootstrap(np.arange(20.0), range(20), rng=rng(), level=0)),
        ("kind", lambda: stats.cluster_bootstrap(np.arange(20.0), range(20), rng=rng(), kind="t")),  # type: ignore[arg-type]
        ("statistic", lambda: stats.cluster_bootstrap(np.arange(20.0), range(20), lambda x: math.inf, rng=rng())),
        ("statistic", lambda: stats.cluster_bootstrap(np.arange(20.0), range(20), lambda x: x[:2], rng=rng())),
        ("c", lambda: stats.pass_at_k(5, 6, 1)),
        ("c", lambda: stats.pass_at_k(5, -1, 1)),
        ("c", lambda: stats.pass_at_k([5, 5], [1, 1, 1], 1)),
        ("c", lambda: stats.pass_at_k(5, 0.5, 1)),
        ("n", lambda: stats.pass_at_k([], [], 1)),
        ("n", lambda: stats.pass_at_k([True], 0, 1)),
        ("k", lambda: stats.pass_at_k([5, 3], 1, 4)),
        ("k", lambda: stats.pass_at_k(5, 1, 0)),
        ("k", lambda: stats.pass_at_k(5, 1, 1.0)),  # type: ignore[arg-type]
        ("values", lambda: stats.worst_over_seeds([0.5, 0.5])),
        ("values", lambda: stats.worst_over_seeds([[0.5, 0.5]])),
        ("values", lambda: stats.worst_over_seeds([[0.5], [0.5]])),
        ("better", lambda: stats.worst_over_seeds(np.eye(2), better="most")),  # type: ignore[arg-type]
        ("level", lambda: stats.worst_over_seeds(np.eye(2), level=2)),
    ],
)
def test_bad_input_is_refused_by_name(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
