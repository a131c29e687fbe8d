"""Hoeffding and empirical Bernstein: by hand, by simulation, and what must hold for every input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core import stats
from tutelage.core.errors import InputError

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)
levels = st.floats(0.01, 0.9999)
shares = st.lists(st.integers(0, 1000).map(lambda i: i / 1000), min_size=2, max_size=40)
BOUNDS = [stats.hoeffding, stats.empirical_bernstein]


def limits(interval: stats.Interval) -> tuple[float, float]:
    return interval.lo, interval.hi


def test_hoeffding_by_hand() -> None:
    # 8 values, mean 1/2, level 1 - 2/e: ln(2/d) = ln(e) = 1, so the radius is sqrt(1 / 16) = 1/4.
    level = 1 - 2 / math.e
    assert limits(stats.hoeffding([0.0, 1.0] * 4, level=level)) == pytest.approx((0.25, 0.75))
    # One-sided at level 1 - 1/e: ln(1/d) = 1, the same radius, the other limit is the end of the range.
    one = 1 - 1 / math.e
    lower, upper = (stats.hoeffding([0.0, 1.0] * 4, level=one, side=side) for side in ("lower", "upper"))  # type: ignore[arg-type]
    assert (*limits(lower), *limits(upper)) == pytest.approx((0.25, 1.0, 0.0, 0.75))
    assert (lower.method, upper.method, stats.hoeffding([0.5]).method) == ("hoeffding-lower", "hoeffding-upper", "hoeffding")
    # The range -2 to 6 is 8 wide: its radius is 8 times as large, 2, around the mean 1.
    wide = stats.hoeffding([1.0] * 8, lo=-2.0, hi=6.0, level=level)
    assert limits(wide) == pytest.approx((-1.0, 3.0))
    # 95 %: sqrt(ln 40 / 200) = sqrt(3.688879 / 200) = 0.135810
    assert limits(stats.hoeffding_mean(0.5, 100)) == pytest.approx((0.364190, 0.635810), abs=1e-6)


def test_empirical_bernstein_by_hand() -> None:
    # One-sided, 8 values, level 1 - 2/e: ln(2/d) = 1. V = 8 * 1/4 / 7 = 2/7.
    # Radius sqrt(2 * 2/7 / 8) + 7 / (3 * 7) = sqrt(1/14) + 1/3 = 0.267261 + 0.333333 = 0.600595, more than 1/2.
    values, level = np.array([0.0, 1.0] * 4), 1 - 2 / math.e
    assert stats.empirical_bernstein(values, level=level, side="lower").lo == 0.0
    # The same values where 0 to 10 was possible: sqrt(1/14) + 10/3.
    lower = stats.empirical_bernstein(values + 4.0, lo=0.0, hi=10.0, level=level, side="lower")
    assert limits(lower) == pytest.approx((4.5 - 3.600595, 10.0), abs=1e-6)
    # Two-sided: half of d for each side, so level 1 - 4/e² gives d = 4/e² and ln(4/d) = 2.
    # Equal values have V = 0: the radius is 7 * 2 / (3 * (n - 1)) = 14/3 / 28 = 1/6 for n = 29.
    both = stats.empirical_bernstein([0.5] * 29, level=1 - 4 / math.e**2)
    assert limits(both) == pytest.approx((1 / 3, 2 / 3))
    assert both.method == "empirical-bernstein"


def test_empirical_bernstein_is_shorter_where_the_spread_is_small() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = rng.uniform(0.49, 0.51, 5000), rng.integers(0, 2, 50).astype(float)
    for values, shorter in ((narrow, True), (wide, False)):
        bernstein, hoeffding = stats.empirical_bernstein(values), stats.hoeffding(values)
        assert (bernstein.hi - bernstein.lo < hoeffding.hi - hoeffding.lo) == shorter


def test_rows_are_the_single_intervals() -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (4, 60))
    for rows, one in ((stats.hoeffding_rows, stats.hoeffding), (stats.empirical_bernstein_rows, stats.empirical_bernstein)):
        for side in ("two-sided", "lower", "upper"):
            many = rows(values, lo=-1.0, hi=1.0, level=0.9, side=side)  # type: ignore[operator]
            assert len(many) == 4
            assert many.lo.shape == many.hi.shape == (4,)
            assert [many[i] for i in range(4)] == [one(row, lo=-1.0, hi=1.0, level=0.9, side=side) for row in values]  # type: ignore[operator]
    mean = stats.hoeffding_mean(float(values[0].mean()), 60, lo=-1.0, hi=1.0)
    assert limits(mean) == pytest.approx(limits(stats.hoeffding(values[0], lo=-1.0, hi=1.0)))


@pytest.mark.parametrize("rows", [stats.hoeffding_rows, stats.empirical_bernstein_rows])
@pytest.mark.parametrize(("side", "level"), [("two-sided", 0.8), ("lower", 0.8), ("upper", 0.8)])
def test_bounds_cover_the_mean_as_often_as_they_say(rows: Callable[..., stats.Intervals], side: str, level: float) -> None:
    # 4000 samples of 30 coin flips with p = 0.3, the worst kind of value in [0, 1]. If the bound missed with
    # probability 0.2 exactly, more misses than this would come once in a million seeds.
    trials, p = 4000, 0.3
    flips = (np.random.default_rng(2).random((trials, 30)) < p).astype(float)
    found = rows(flips, level=level, side=side)
    misses = int(((found.lo > p) | (found.hi < p)).sum())
    assert misses <= scipy.stats.binom.isf(1e-6, trials, 1 - level)


def test_the_one_sided_hoeffding_bound_is_not_needlessly_wide() -> None:
    # It does miss sometimes: with one fair flip and level 0.6, sqrt(ln(1/0.4)/2) = 0.677 < 1, so a 1 gives lo = 0.323 > 0.3,
    # and 30 % of the flips are 1.
    flips = (np.random.default_rng(3).random((4000, 1)) < 0.3).astype(float)
    misses = int((stats.hoeffding_rows(flips, level=0.6, side="lower").lo > 0.3).sum())
    assert scipy.stats.binom.ppf(1e-6, 4000, 0.3) <= misses <= scipy.stats.binom.isf(1e-6, 4000, 0.3)


@light
@given(shares, levels, st.sampled_from(["two-sided", "lower", "upper"]), st.sampled_from(BOUNDS), st.randoms())
def test_bounds_stay_in_the_range_around_the_mean_in_any_order(
    values: list[float], level: float, side: str, bound: Callable[..., stats.Interval], random: Any
) -> None:
    found = bound(values, level=level, side=side)
    assert 0.0 <= found.lo <= np.mean(values) + 1e-12
    assert np.mean(values) - 1e-12 <= found.hi <= 1.0
    wider = bound(values, level=(1 + level) / 2, side=side)
    assert wider.lo <= found.lo
    assert found.hi <= wider.hi
    shuffled = random.sample(values, len(values))
    assert limits(bound(shuffled, level=level, side=side)) == pytest.approx(limits(found), abs=1e-12)


@light
@given(shares, levels, st.sampled_from(BOUNDS))
def test_bounds_shrink_with_n(values: list[float], level: float, bound: Callable[..., stats.Interval]) -> None:
    once, thrice = bound(values, level=level), bound(values * 3, level=level)
    assert thrice.lo >= once.lo - 1e-12
    assert thrice.hi <= once.hi + 1e-12


@light
@given(shares, st.floats(-50, 50), st.floats(0.01, 100), st.sampled_from(BOUNDS))
def test_bounds_have_the_units_of_the_values(
    values: list[float], shift: float, scale: float, bound: Callable[..., stats.Interval]
) -> None:
    base = bound(values)
    moved = bound(np.clip(np.array(values) * scale + shift, shift, shift + scale), lo=shift, hi=shift + scale)
    assert limits(moved) == pytest.approx((base.lo * scale + shift, base.hi * scale + shift), abs=1e-9)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("values", lambda: stats.hoeffding([])),
        ("values", lambda: stats.hoeffding([0.5, 1.1])),
        ("values", lambda: stats.hoeffding([-0.1, 1.0])),
        ("values", lambda: stats.hoeffding([0.5, math.nan])),
        ("values", lambda: stats.hoeffding([[0.5]])),
        ("values", lambda: stats.hoeffding_rows([0.5, 0.5])),
        ("values", lambda: stats.hoeffding_rows([[0.5], [0.5, 0.5]])),
        ("values", lambda: stats.hoeffding_rows([[0.5, math.inf]])),
        ("values", lambda: stats.hoeffding([8e307] * 4, lo=0.0, hi=8e307)),
        ("values", lambda: stats.empirical_bernstein([0.5])),
        ("values", lambda: stats.empirical_bernstein_rows(np.zeros((3, 0)))),
        ("hi", lambda: stats.hoeffding([0.5], lo=1.0, hi=1.0)),
        ("hi", lambda: stats.hoeffding([0.5], lo=-1e308, hi=1e308)),
        ("lo", lambda: stats.hoeffding([0.5], lo=math.nan)),
        ("level", lambda: stats.hoeffding([0.5], level=1.0)),
        ("level", lambda: stats.empirical_bernstein([0.5, 0.5], level=95)),
        ("side", lambda: stats.hoeffding([0.5], side="left")),  # type: ignore[arg-type]
        ("side", lambda: stats.hoeffding_mean(0.5, 3, side="both")),  # type: ignore[arg-type]
        ("mean", lambda: stats.hoeffding_mean(1.5, 3)),
        ("mean", lambda: stats.hoeffding_mean(math.nan, 3)),
        ("n", lambda: stats.hoeffding_mean(0.5, 0)),
        ("n", lambda: stats.hoeffding_mean(0.5, 2.5)),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_by_name(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
