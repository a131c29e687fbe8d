"""Statistics of gates and monitors: non-inferiority, distances of samples, and tests that may be looked at again and again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import InputError
from tutelage.core.stats.discrepancy import mmd
from tutelage.core.stats.distances import (
    bins_of,
    chi_squared,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    psi,
    wasserstein,
)
from tutelage.core.stats.noninferiority import items_needed, noninferiority, score_limits, score_z
from tutelage.core.stats.sequential import (
    Adwin,
    Ddm,
    EDetector,
    EProcess,
    PageHinkley,
    average_run_length,
    benjamini_hochberg,
    spending,
)


def test_the_score_is_mcnemars_at_no_difference_and_known_without_discordant_items():
    assert score_z(20, 12, 300, 0.0) == pytest.approx(8 / math.sqrt(32))
    z = float(scipy.stats.norm.isf(0.05))
    for n in (20, 1500):
        assert score_limits(0, 0, n) == pytest.approx((-(z * z) / (n + z * z), z * z / (n + z * z)))
    # b = 1, c = 0 of n = 1 at d = 0: q solves 2 q² - q = 0, so q = 1/2 and T = 1 / sqrt(1)
    assert score_z(1, 0, 1, 0.0) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_the_limits_are_where_the_score_is_z_and_turn_round_with_the_models(b: int, c: int, more: int):
    n = b + c + more + 1
    lower, upper = score_limits(b, c, n)
    assert -1 <= lower <= (b - c) / n <= upper <= 1
    z = float(scipy.stats.norm.isf(0.05))
    if lower > -1:
        assert score_z(b, c, n, lower) == pytest.approx(z, abs=1e-4)
    assert score_limits(c, b, n) == pytest.approx((-upper, -lower), abs=1e-6)
    wide, narrow = score_limits(b, c, n, 0.01), score_limits(b, c, n, 0.2)
    assert wide[0] <= lower <= narrow[0]


def test_the_one_sided_level_holds_for_few_discordant_items():
    rng = np.random.default_rng(0)
    z = float(scipy.stats.norm.isf(0.05))
    found = np.array([score_z(int(b), int(c), 400, -0.01) for b, c, _ in rng.multinomial(400, [0.02, 0.03, 0.95], 1500)])
    below, above = int((found > z).sum()), int((found < -z).sum())
    assert below / 1500 < 0.07  # 5 % nominal, the truth is -0.01
    assert above / 1500 < 0.07


def test_ways_of_judging_agree_and_say_the_same_status():
    rng = np.random.default_rng(0)
    old = rng.random(4000) < 0.9
    new = np.where(rng.random(4000) < 0.03, ~old, old)
    found = {
        method: noninferiority(new, old, delta=0.05, method=method, rng=rng)  # type: ignore[arg-type]
        for method in ("score", "bootstrap")
    }
    found["student-t"] = noninferiority(new.astype(float), old.astype(float), delta=0.05)
    assert found["student-t"].method == "student-t"
    for one in found.values():
        assert one.status == "pass"
        assert one.lower == pytest.approx(found["score"].lower, abs=0.002)
        assert one.p_inferior < 0.001 < one.p_fine
    assert (found["score"].gained or 0) - (found["score"].lost or 0) == round(4000 * found["score"].difference)
    assert noninferiority(new, old, delta=math.inf).status == "pass"
    swapped = noninferiority(old, new, delta=0.05)
    assert swapped.difference == -found["score"].difference


def test_items_that_come_in_days_have_wider_limits():
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(40), 25)
    bad = np.repeat(rng.random(40) < 0.15, 25)  # on bad days the new model fails on everything
    old, new = np.ones(1000, bool), ~bad
    by_day = noninferiority(new, old, delta=0.05, clusters=days, rng=rng)
    by_item = noninferiority(new, old, delta=0.05)
    assert by_day.method == "cluster-bootstrap"
    assert by_day.upper - by_day.lower > 3 * (by_item.upper - by_item.lower)


def test_items_needed_gives_the_power_that_it_says():
    n = items_needed(0.05, delta=0.02, power=0.9)
    assert n == math.ceil((1.6448536 + 1.2815516) ** 2 * 0.05 / 0.02**2)
    rng = np.random.default_rng(0)
    tables = rng.multinomial(n, [0.025, 0.025, 0.95], 400)
    passed = [score_limits(int(b), int(c), n)[0] >= -0.02 for b, c, _ in tables]
    assert 0.84 < np.mean(passed) < 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        {"delta": -0.1},
        {"alpha": 0.7},
        {"new": [True]},
        {"method": "bootstrap"},
        {"clusters": [1, 1, 2], "method": "score"},
        {"new": [0.1, 0.2, 0.3], "method": "score"},
    ],
)
def test_what_cannot_be_compared_is_refused(wrong: dict[str, object]):
    arguments: dict[str, object] = {"new": [True, False, True], "old": [True, True, True], "delta": 0.1, **wrong}
    if len(arguments["new"]) == 1:  # type: ignore[arg-type]
        arguments["old"] = [True]
    with pytest.raises(InputError):
        noninferiority(**arguments)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- distances


def test_distances_by_hand():
    p, q = [0.5, 0.5], [0.25, 0.75]
    assert psi(p, q) == pytest.approx(0.25 * math.log(3))  # (-.25) ln(.5) + .25 ln(1.5)
    assert hellinger(p, q) == pytest.approx(math.sqrt(1 - math.sqrt(0.125) - math.sqrt(0.375)))
    assert jensen_shannon([1, 0], [0, 1]) == hellinger([1, 0], [0, 1]) == 1.0
    assert psi([1, 0], [0, 1]) == pytest.approx(2 * 0.9999 * math.log(1e4))
    assert wasserstein([0.0, 2.0], [1.0, 3.0]) == 1.0
    assert kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6])[0] == 0.5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=3, max_size=6), st.lists(st.integers(0, 50), min_size=6, max_size=6))
def test_symmetric_ones_are_symmetric_and_bounded_and_nothing_differs_from_itself(a: list[int], b: list[int]):
    p = np.array(a) / sum(a)
    c = np.array(b[: len(a)], float) + (sum(b[: len(a)]) == 0)
    q = c / c.sum()
    for distance in (jensen_shannon, hellinger, psi):
        assert distance(p, q) == pytest.approx(distance(q, p))
        assert distance(p, p) == 0.0
    assert 0 <= jensen_shannon(p, q) <= 1


def test_ks_and_wasserstein_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, 0.3):
        x, y = rng.normal(size=900), np.round(rng.normal(shift, 1, 400), 1)  # with ties
        theirs = scipy.stats.ks_2samp(x, y, method="asymp")
        statistic, p = kolmogorov_smirnov(x, y)
        assert statistic == pytest.approx(theirs.statistic)
        assert p == pytest.approx(theirs.pvalue, abs=0.03)
        assert wasserstein(x, y) == pytest.approx(scipy.stats.wasserstein_distance(x, y) / x.std())
    assert kolmogorov_smirnov(x, x) == (0.0, 1.0)


def test_bins_keep_the_unknown_and_the_missing_apart():
    numbers = bins_of(np.arange(100.0))
    assert numbers.counts(np.arange(100.0)).tolist() == [10] * 10 + [0, 0]
    assert numbers.shares([-5.0, 500.0, math.nan, math.nan]).tolist() == [0.25] + [0] * 8 + [0.25, 0, 0.5]
    words = bins_of(np.array(["a", "b", "a"]))
    assert words.counts(np.array(["a", "new", None], dtype=object)).tolist() == [1, 0, 1, 1]
    assert len(bins_of(np.array([1.0] * 99 + [2.0])).counts([1.0])) == 4  # equal quantiles are one border
    assert chi_squared([50, 50, 0], [50, 50, 0]) == (0.0, 1.0)
    assert chi_squared([90, 10], [10, 90])[0] == pytest.approx(0.8)


def test_mmd_holds_its_level_and_sees_a_turned_correlation():
    rng = np.random.default_rng(0)
    p = [mmd(rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), rng=rng, permutations=99).p_value for _ in range(100)]
    assert np.mean(np.array(p) <= 0.1) < 0.2
    x = rng.normal(size=(100, 1))
    assert mmd(np.hstack([x, x]), np.hstack([x, -x]), rng=rng).p_value < 0.02
    # x = {0, 2}, y = {1, 3}: the squared distances are 4, 1, 9, 1, 1, 4 and their median is 2.5
    k = {d: math.exp(-(d**2) / (2 * 2.5)) for d in (1, 2, 3)}
    found = mmd([[0.0], [2.0]], [[1.0], [3.0]], rng=rng).mmd2
    assert found == pytest.approx(2 * k[2] - 2 * (3 * k[1] + k[3]) / 4)


# ------------------------------------------------------------------------------------------------------------- sequential


def test_an_e_process_rarely_cries_wolf_however_long_it_looks_and_finds_a_fall():
    rng = np.random.default_rng(0)
    false = sum(EProcess(0.9).update(rng.random(1000) < 0.9) >= 20 for _ in range(200))
    assert false / 200 <= 0.07  # 5 % at most, ever
    process = EProcess(0.9)
    assert process.update(np.ones(50)) == 1.0
    assert process.update(rng.random(1500) < 0.84) >= 20
    in_parts = EProcess(0.9)
    values = rng.random(600) < 0.87
    for part in np.split(values, 6):
        in_parts.update(part)
    whole = EProcess(0.9)
    whole.update(values)
    assert in_parts.value == pytest.approx(whole.value)
    # one wrong answer at mean 1/2: the mean over the bets of 1 + b / 2
    once = EProcess(0.5)
    assert once.update([0.0]) == pytest.approx(float(np.mean(1 + once.bets / 2)))


def test_spending_spends_alpha_and_no_more():
    total = sum(spending(0.05, look) for look in range(1, 20_000))
    assert 0.0499 < total < 0.05
    assert spending(0.05, 1) > spending(0.05, 2)
    assert (average_run_length(4, 1000), average_run_length(0, 80)) == (250.0, 80.0)


def test_an_e_detector_runs_long_without_a_change_and_stops_after_one():
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(60):
        detector, length = EDetector(0.05), 0
        while length < 400 and not detector.update(rng.random()):
            length += 1
        lengths.append(length)
    assert np.mean(lengths) >= 20  # at least 1/alpha
    detector = EDetector(0.05)
    assert [detector.update(0.001) for _ in range(2)] == [False, True]


def test_adwin_cuts_at_a_change_and_seldom_without_one():
    rng = np.random.default_rng(0)
    adwin = Adwin()
    cuts = [i for i in range(900) if adwin.update(float(rng.random() < (0.1 if i < 500 else 0.45)))]
    assert cuts
    assert 500 <= cuts[0] < 620
    assert abs(np.mean(adwin.window) - 0.45) < 0.1
    quiet = Adwin()
    assert not [i for i in range(900) if quiet.update(float(rng.random() < 0.3))]


def test_ddm_and_page_hinkley_find_more_errors_and_not_fewer():
    rng = np.random.default_rng(0)
    ddm, hinkley = Ddm(), PageHinkley(limit=25)
    quiet = (rng.random(600) < 0.1).astype(float)
    found = [(ddm.update(one), hinkley.update(one)) for one in quiet]
    assert "drift" not in {word for word, _ in found}
    assert not any(alarm for _, alarm in found)
    assert not any(hinkley.update(0.0) for _ in range(300))  # a model that gets better is no alarm
    found = [(ddm.update(one), hinkley.update(one)) for one in (rng.random(400) < 0.5).astype(float)]
    assert "drift" in {word for word, _ in found}
    assert any(alarm for _, alarm in found)


def test_benjamini_hochberg_by_hand():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert benjamini_hochberg([0.2]).tolist() == [0.2]
    with pytest.raises(InputError):
        benjamini_hochberg([1.2])
