"""Statistics against SciPy, against arithmetic done by hand and against what must hold for every input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core import stats
from tutelage.core.errors import InputError
from tutelage.core.stats import resampling

Z2 = 1.959963984540054**2

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)
levels = st.floats(0.01, 0.9999)
counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
unit_values = st.lists(st.integers(-(10**6), 10**6).map(lambda i: i / 1000), min_size=2, max_size=30)
tables = st.tuples(*[st.integers(0, 40)] * 4).filter(any)


def paired(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two boolean arrays with the given 2x2 table."""
    cells = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], cells), np.repeat([True, False, True, False], cells)


# Student's t


def test_paired_t_by_hand() -> None:
    # Differences 2, 3, 4: mean 3, s = 1, error 1/sqrt(3); t(2; 0.975) = 4.302653, half width 2.484138.
    # With 2 degrees of freedom the two-sided p is 1 - t/sqrt(t² + 2), here t = 3 sqrt(3).
    result = stats.paired_t([3.0, 5.0, 7.0], [1.0, 2.0, 3.0])
    assert result.difference == 3.0
    assert result.n == 3
    assert (result.interval.lo, result.interval.hi) == pytest.approx((0.515862, 5.484138), abs=1e-6)
    assert result.p_value == pytest.approx(1 - 3 * math.sqrt(3) / math.sqrt(29))
    assert (result.interval.level, result.interval.method) == (0.95, "paired-t")


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_paired_t_agrees_with_scipy(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 1.0, n), rng.normal(0.0, 2.0, n)
    ours, theirs = stats.paired_t(a, b, level), scipy.stats.ttest_rel(a, b)
    expected = theirs.confidence_interval(level)
    assert (ours.interval.lo, ours.interval.hi) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
def test_paired_t_of_equal_differences_has_zero_width(shift: float, p_value: float) -> None:
    result = stats.paired_t([shift] * 7, [0.0] * 7)
    assert (result.interval.lo, result.difference, result.interval.hi) == (shift, shift, shift)
    assert result.p_value == p_value


def test_mean_t_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=12)
    mean, interval = stats.mean_t(values, 0.9)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert mean == pytest.approx(values.mean())
    assert (interval.lo, interval.hi) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert (interval.level, interval.method) == (0.9, "student-t")


@light
@given(unit_values, levels)
def test_t_interval_contains_the_mean_and_grows_with_the_level(values: list[float], level: float) -> None:
    mean, interval = stats.mean_t(values, level)
    _, wider = stats.mean_t(values, (1 + level) / 2)
    assert wider.lo <= interval.lo <= mean <= interval.hi <= wider.hi
    assert (interval.lo < interval.hi) == (len(set(values)) > 1)


# One proportion


def test_wilson_by_hand() -> None:
    # No success: p = 0, so the interval is 0 to z²/(n + z²) = 3.841459 / 13.841459.
    none = stats.wilson(0, 10)
    assert none.lo == 0.0
    assert none.hi == pytest.approx(0.277533, abs=1e-6)
    # Half of them: 1/2 ± z / (2 sqrt(n + z²)) = 0.5 ± 1.959964 / 7.440822.
    half = stats.wilson(5, 10)
    assert (half.lo, half.hi) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert (half.level, half.method) == (0.95, "wilson")


def test_clopper_pearson_by_hand() -> None:
    # No success in n: (1 - hi)^n = 0.025. All of n: lo^n = 0.025.
    none, every = stats.clopper_pearson(0, 10), stats.clopper_pearson(10, 10)
    assert (none.lo, every.hi) == (0.0, 1.0)
    assert (none.hi, every.lo) == pytest.approx((1 - 0.025**0.1, 0.025**0.1))
    assert stats.clopper_pearson(1, 1, 0.9).lo == pytest.approx(0.05)
    assert (none.level, none.method) == (0.95, "clopper-pearson")


@pytest.mark.parametrize(("interval", "method"), [(stats.wilson, "wilson"), (stats.clopper_pearson, "exact")])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (1, 30), (7, 30), (812, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_proportions_agree_with_scipy(
    interval: Callable[..., stats.Interval], method: Any, successes: int, n: int, level: float
) -> None:
    ours = interval(successes, n, level)
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(level, method=method)
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


@light
@given(counts, levels)
def test_proportion_intervals_contain_the_estimate(count: tuple[int, int], level: float) -> None:
    successes, n = count
    for interval in (stats.wilson(successes, n, level), stats.clopper_pearson(successes, n, level)):
        assert 0.0 <= interval.lo <= successes / n <= interval.hi <= 1.0
        assert interval.lo < interval.hi


@light
@given(counts, levels)
def test_clopper_pearson_contains_the_centre_of_wilson(count: tuple[int, int], level: float) -> None:
    exact, score = stats.clopper_pearson(*count, level), stats.wilson(*count, level)
    assert exact.lo < (score.lo + score.hi) / 2 < exact.hi


@light
@given(counts, st.floats(0.5, 0.999))
def test_clopper_pearson_limits_invert_the_binomial_tails(count: tuple[int, int], level: float) -> None:
    successes, n = count
    interval = stats.clopper_pearson(successes, n, level)
    tail = (1 - level) / 2
    if successes > 0:
        assert scipy.stats.binom.sf(successes - 1, n, interval.lo) == pytest.approx(tail, rel=1e-6)
    if successes < n:
        assert scipy.stats.binom.cdf(successes, n, interval.hi) == pytest.approx(tail, rel=1e-6)


# Two models on the same items


def test_mcnemar_by_hand() -> None:
    # b = 1, c = 7: 2 P(X <= 1 | 8, 1/2) = 2 (1 + 8) / 256.
    result = stats.mcnemar(*paired(1, 1, 7, 12))
    assert (result.b, result.c) == (1, 7)
    assert result.p_value == pytest.approx(18 / 256)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (4, 4), (3, 4)])
def test_mcnemar_without_imbalance_is_certain_of_nothing(only_a: int, only_b: int) -> None:
    assert stats.mcnemar(*paired(5, only_a, only_b, 5)).p_value == pytest.approx(1.0)


@light
@given(tables)
def test_mcnemar_agrees_with_the_binomial_test(table: tuple[int, int, int, int]) -> None:
    result = stats.mcnemar(*paired(*table))
    _, b, c, _ = table
    assert (result.b, result.c) == (b, c)
    assert result.p_value == pytest.approx(scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-9)
    assert result.p_value <= 1.0


def test_newcombe_published_example() -> None:
    # Cavo et al. (2012), response before and after consolidation, as in Fagerland, Lydersen & Laake,
    # "Statistical Analysis of Contingency Tables", chapter 8: -0.0621, 95 % interval -0.1186 to -0.0046.
    interval = stats.newcombe_paired(*paired(59, 6, 16, 80))
    assert (round(interval.lo, 4), round(interval.hi, 4)) == (-0.1186, -0.0046)
    assert (interval.level, interval.method) == (0.95, "newcombe-paired")


def test_newcombe_by_hand_when_a_margin_is_empty() -> None:
    # A always right, B never, n = 5: phi = 0 and both distances are w = z²/(n + z²), so lo = 1 - w sqrt(2).
    interval = stats.newcombe_paired(*paired(0, 5, 0, 0))
    assert interval.lo == pytest.approx(1 - math.sqrt(2) * Z2 / (5 + Z2))
    assert interval.hi == 1.0


@pytest.mark.parametrize(
    ("table", "phi"),
    [
        ((5, 0, 0, 5), 0.8),  # 25 - 0 = 25, less n/2 = 5, over sqrt(5^4) = 25
        ((3, 2, 2, 3), 0.0),  # 9 - 4 = 5, less n/2
        ((2, 3, 3, 2), -0.2),  # 4 - 9 = -5 is negative: not corrected, over 25
        ((0, 5, 5, 0), -1.0),  # 0 - 25, over 25
    ],
)
def test_newcombe_by_hand_at_one_half(table: tuple[int, int, int, int], phi: float) -> None:
    # Both accuracies are 1/2 of n = 10, both distances z / (2 sqrt(n + z²)): half width distance * sqrt(2 - 2 phi).
    interval = stats.newcombe_paired(*paired(*table))
    half = math.sqrt(Z2 / (10 + Z2)) / 2 * math.sqrt(2 - 2 * phi)
    assert (interval.lo, interval.hi) == pytest.approx((-half, half))


def test_newcombe_by_hand_when_the_correction_exceeds_the_covariance() -> None:
    # 3*2 - 2*2 = 2 is positive but below n/2 = 4.5: phi = 0, the distances of 5/9 to its limits add in squares.
    interval, each = stats.newcombe_paired(*paired(3, 2, 2, 2)), stats.wilson(5, 9)
    half = math.hypot(5 / 9 - each.lo, each.hi - 5 / 9)
    assert (interval.lo, interval.hi) == pytest.approx((-half, half))


@light
@given(tables, levels)
def test_newcombe_contains_the_difference_and_is_antisymmetric(table: tuple[int, int, int, int], level: float) -> None:
    a, b = paired(*table)
    interval, swapped = stats.newcombe_paired(a, b, level), stats.newcombe_paired(b, a, level)
    assert -1.0 <= interval.lo <= (table[1] - table[2]) / sum(table) <= interval.hi <= 1.0
    assert (swapped.lo, swapped.hi) == pytest.approx((-interval.hi, -interval.lo), abs=1e-12)


# Many tests at once


def test_holm_by_hand() -> None:
    # Sorted 0.005*4, 0.01*3, 0.03*2, 0.04*1 = 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_array_equal(stats.holm([0.4, 0.9, 0.6]), [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(stats.holm([0.2]), [0.2])


@light
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    raw, adjusted = np.array(p_values), stats.holm(p_values)
    assert np.all(adjusted >= raw)
    assert np.all(adjusted <= np.minimum(1.0, raw * raw.size))
    assert np.all(np.diff(adjusted[np.argsort(raw)]) >= 0.0)


@light
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    rejected = 0
    for left, p in zip(range(len(p_values), 0, -1), sorted(p_values), strict=True):
        if p * left > alpha:
            break
        rejected += 1
    assert int((stats.holm(p_values) <= alpha).sum()) == rejected


# Bootstrap


@pytest.mark.parametrize("statistic", [np.mean, lambda x: float(np.std(x))])
def test_bootstrap_agrees_with_scipy(statistic: Callable[..., Any]) -> None:
    values = np.random.default_rng(1).exponential(size=25)
    ours = stats.bootstrap(values, statistic, rng=np.random.default_rng(2), n_resamples=300, level=0.9)
    theirs = scipy.stats.bootstrap(
        (values,), statistic, n_resamples=300, confidence_level=0.9, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high))
    assert (ours.level, ours.method) == (0.9, "bca")


def test_bootstrap_is_near_student_t_for_many_normal_units() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, size=400)
    ours, (_, expected) = stats.bootstrap(values, rng=np.random.default_rng(4)), stats.mean_t(values)
    assert (ours.lo, ours.hi) == pytest.approx((expected.lo, expected.hi), abs=0.03)


def test_bootstrap_depends_on_the_generator_alone() -> None:
    values = np.random.default_rng(5).normal(size=20)
    first, same, other = (stats.bootstrap(values, rng=np.random.default_rng(s), n_resamples=200) for s in (6, 6, 7))
    assert first == same
    assert first != other


def test_bootstrap_in_batches_is_the_same_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def mean(x: np.ndarray, axis: int) -> Any:
        sizes.append(x.size)
        return np.mean(x, axis=axis)

    values = np.random.default_rng(8).normal(size=50)
    whole = stats.bootstrap(values, mean, rng=np.random.default_rng(9), n_resamples=200)
    assert max(sizes) == 200 * 50
    sizes.clear()
    monkeypatch.setattr(resampling, "BOOTSTRAP_BATCH_VALUES", 7 * 50)
    assert stats.bootstrap(values, mean, rng=np.random.default_rng(9), n_resamples=200) == whole
    assert max(sizes) == 7 * 50


def test_bootstrap_says_percentile_where_bca_is_undefined() -> None:
    # Leaving out any one of 15 zeros and 10 ones keeps the median 0, so there is no acceleration to estimate.
    interval = stats.bootstrap([0.0] * 15 + [1.0] * 10, np.median, rng=np.random.default_rng(0), n_resamples=500)
    assert (interval.lo, interval.hi, interval.method) == (0.0, 1.0, "percentile")


def test_bootstrap_of_equal_values_has_zero_width() -> None:
    interval = stats.bootstrap([0.25] * 20, rng=np.random.default_rng(0), n_resamples=100)
    assert (interval.lo, interval.hi) == (0.25, 0.25)


def test_bootstrap_refuses_fewer_than_twenty_units() -> None:
    with pytest.raises(InputError, match=r"values: got 19 units, wanted at least 20 independent units"):
        stats.bootstrap(np.arange(19.0), rng=np.random.default_rng(0))
    assert stats.bootstrap(np.arange(20.0), rng=np.random.default_rng(0), n_resamples=100).lo > 0.0


# Verdicts


@pytest.mark.parametrize(
    ("kind", "differences", "margin", "verdict"),
    [
        # 2, 3, 4 has the interval 0.515862 to 5.484138 (see the paired t by hand).
        ("superiority", [2.0, 3.0, 4.0], 0.51, "holds"),
        ("superiority", [2.0, 3.0, 4.0], 0.52, "undecided"),
        ("superiority", [2.0, 3.0, 4.0], 5.48, "undecided"),
        ("superiority", [2.0, 3.0, 4.0], 5.49, "does not hold"),
        ("superiority", [-2.0, -3.0, -4.0], 0.0, "does not hold"),
        ("noninferiority", [-2.0, -3.0, -4.0], -5.49, "holds"),
        ("noninferiority", [-2.0, -3.0, -4.0], -5.48, "undecided"),
        ("noninferiority", [-2.0, -3.0, -4.0], -0.52, "undecided"),
        ("noninferiority", [-2.0, -3.0, -4.0], -0.51, "does not hold"),
        ("threshold", [2.0, 3.0, 4.0], 0.51, "holds"),
        ("threshold", [2.0, 3.0, 4.0], 3.0, "undecided"),
        ("threshold", [2.0, 3.0, 4.0], 5.49, "does not hold"),
        # An error rate of 2, 3, 4 that has to stay below 5.49 or below 0.51: metric and margin times -1.
        ("threshold", [-2.0, -3.0, -4.0], -5.49, "holds"),
        ("threshold", [-2.0, -3.0, -4.0], -0.51, "does not hold"),
        # A zero-width interval on the margin is on neither side of it.
        ("superiority", [0.5, 0.5], 0.5, "undecided"),
        ("superiority", [0.5, 0.5], 0.4, "holds"),
        ("superiority", [0.5, 0.5], 0.6, "does not hold"),
    ],
)
def test_decide(kind: stats.Kind, differences: list[float], margin: float, verdict: stats.Verdict) -> None:
    assert stats.decide(differences, margin=margin, kind=kind).verdict == verdict


@pytest.mark.parametrize(("kind", "method"), [("superiority", "paired-t"), ("threshold", "student-t")])
def test_decision_carries_its_numbers(kind: stats.Kind, method: str) -> None:
    decision = stats.decide(np.array([2.0, 3.0, 4.0]), margin=1, kind=kind)
    assert (decision.difference, decision.n_units, decision.ci_method) == (3.0, 3, method)
    assert (decision.interval.lo, decision.interval.hi) == pytest.approx((0.515862, 5.484138), abs=1e-6)
    assert (decision.interval.level, decision.interval.method) == (0.95, method)


def test_results_are_plain_finite_json() -> None:
    a, b = paired(3, 2, 1, 4)
    results: list[Any] = [
        stats.decide(np.array([1.0, 1.0], dtype=np.float32), margin=0.0, kind="superiority"),
        stats.paired_t(np.arange(3), np.array([0, 0, 1])),
        stats.wilson(np.int64(1), np.int64(3), np.float64(0.9)),  # type: ignore[arg-type]
        stats.clopper_pearson(np.int64(1), np.int64(3)),  # type: ignore[arg-type]
        stats.mcnemar(a, b),
        stats.newcombe_paired(a, b, np.float64(0.9)),
        stats.bootstrap(np.arange(20), rng=np.random.default_rng(0), n_resamples=50),
    ]
    for result in results:
        assert json.loads(json.dumps(asdict(result), allow_nan=False)) == asdict(result)
        assert not any(isinstance(value, np.generic) for value in asdict(result).values())


# What is refused


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("a", lambda: stats.paired_t([1.0], [0.0])),
        ("a", lambda: stats.paired_t([1.0, math.nan], [0.0, 1.0])),
        ("a", lambda: stats.paired_t([1e308, 1e308], [-1e308, -1e308])),
        ("b", lambda: stats.paired_t([1.0, 2.0], [0.0, math.inf])),
        ("b", lambda: stats.paired_t([1.0, 2.0], [0.0, 1.0, 2.0])),
        ("b", lambda: stats.paired_t([1.0, 2.0], [0.0])),
        ("values", lambda: stats.mean_t([1.0])),
        ("values", lambda: stats.mean_t([])),
        ("values", lambda: stats.mean_t([[1.0, 2.0], [3.0, 4.0]])),
        ("values", lambda: stats.mean_t([[1.0, 2.0], [3.0]])),
        ("values", lambda: stats.mean_t(["high", "low"])),
        ("values", lambda: stats.mean_t([1.7e308, -1.7e308])),
        ("successes", lambda: stats.wilson(-1, 3)),
        ("successes", lambda: stats.wilson(4, 3)),
        ("successes", lambda: stats.wilson(0.5, 3)),  # type: ignore[arg-type]
        ("successes", lambda: stats.clopper_pearson(4, 3)),
        ("n", lambda: stats.wilson(0, 0)),
        ("n", lambda: stats.clopper_pearson(0, 0)),
        ("n", lambda: stats.clopper_pearson(1, 3.0)),  # type: ignore[arg-type]
        ("a_correct", lambda: stats.mcnemar([0.2, 0.9], [True, False])),
        ("a_correct", lambda: stats.newcombe_paired([], [])),
        ("b_correct", lambda: stats.mcnemar([True, False], [True])),
        ("b_correct", lambda: stats.newcombe_paired([True, False], [1, 0])),
        ("p_values", lambda: stats.holm([0.1, 1.1])),
        ("p_values", lambda: stats.holm([-0.1, 0.1])),
        ("p_values", lambda: stats.holm([0.1, math.nan])),
        ("values", lambda: stats.bootstrap([0.0] * 19 + [math.nan], rng=np.random.default_rng(0))),
        ("rng", lambda: stats.bootstrap(np.arange(20), rng=0)),  # type: ignore[arg-type]
        ("n_resamples", lambda: stats.bootstrap(np.arange(20), rng=np.random.default_rng(0), n_resamples=0)),
        ("statistic", lambda: stats.bootstrap(np.arange(20), lambda x: math.nan, rng=np.random.default_rng(0))),
        ("statistic", lambda: stats.bootstrap(np.arange(20), lambda x: x[:2], rng=np.random.default_rng(0))),
        ("differences", lambda: stats.decide([0.3], margin=0.0, kind="superiority")),
        ("differences", lambda: stats.decide([0.3, math.inf], margin=0.0, kind="superiority")),
        ("margin", lambda: stats.decide([0.3, 0.4], margin=math.nan, kind="threshold")),
        ("margin", lambda: stats.decide([0.3, 0.4], margin=-0.1, kind="superiority")),
        ("margin", lambda: stats.decide([0.3, 0.4], margin=0.0, kind="noninferiority")),
        ("kind", lambda: stats.decide([0.3, 0.4], margin=0.0, kind="equivalence")),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_by_name(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument


def test_one_unit_gets_no_interval() -> None:
    with pytest.raises(InputError, match="differences: got 1 unit, wanted at least 2 independent units"):
        stats.decide([0.3], margin=0.0, kind="superiority")


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, math.nan, "0.95"])
@pytest.mark.parametrize(
    "call",
    [
        lambda level: stats.paired_t([1.0, 2.0], [0.0, 0.0], level),
        lambda level: stats.mean_t([1.0, 2.0], level),
        lambda level: stats.wilson(1, 2, level),
        lambda level: stats.clopper_pearson(1, 2, level),
        lambda level: stats.newcombe_paired([True, False], [True, True], level),
        lambda level: stats.bootstrap(np.arange(20), rng=np.random.default_rng(0), level=level),
    ],
)
def test_level_outside_zero_to_one_is_refused(call: Callable[[Any], object], level: Any) -> None:
    with pytest.raises(InputError, match="level: got"):
        call(level)
