"""The two balancers of MTARD: the card's invariants, and values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import InputError
from tutelage.teaching.balance import EntropyBalancer, LossBalancer
from tutelage.teaching.divergences import entropy

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)
losses = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=5)
NAMES = ("clean", "robust")


def pair(clean: float, robust: float) -> dict[str, float]:
    return {"clean": clean, "robust": robust}


# Normalization Loss Balance


def test_weights_by_hand() -> None:
    # r = 1/2 and 3/4, sum 5/4, targets 0.4 and 0.6: w_clean = 0.5 - 0.025 (0.5 - 0.4) = 0.4975
    balancer = LossBalancer(NAMES, rate=0.025)
    balancer.update(pair(2, 4))
    assert balancer.update(pair(1, 3)) == pytest.approx(pair(0.4975, 0.5025), abs=1e-12)
    # the same losses again: w_clean = 0.4975 - 0.025 (0.4975 - 0.4) = 0.4950625
    assert balancer.update(pair(1, 3)) == pytest.approx(pair(0.4950625, 0.5049375), abs=1e-12)


def test_the_exponent_b_by_hand() -> None:
    # b = 2: r^b = 1/4 and 9/16, sum 13/16, targets 4/13 and 9/13; rate 1 goes there at once
    balancer = LossBalancer(NAMES, rate=1, b=2)
    balancer.update(pair(2, 4))
    assert balancer.update(pair(1, 3)) == pytest.approx(pair(4 / 13, 9 / 13), abs=1e-12)


def test_the_scale_multiplies_the_rate_of_this_batch_only() -> None:
    # rate 0.5 at scale 0.1: w_clean = 0.5 - 0.05 (0.5 - 0.4) = 0.495; then at scale 1: 0.495 - 0.5 (0.095) = 0.4475
    balancer = LossBalancer(NAMES, rate=0.5)
    balancer.update(pair(2, 4))
    assert balancer.update(pair(1, 3), scale=0.1)["clean"] == pytest.approx(0.495, abs=1e-12)
    assert balancer.update(pair(1, 3))["clean"] == pytest.approx(0.4475, abs=1e-12)


def test_invariant_1_rate_zero_keeps_one_half_for_ever() -> None:
    balancer = LossBalancer(NAMES, rate=0)
    for step in range(50):
        assert balancer.update(pair(1 + step, 7 / (1 + step))) == pair(0.5, 0.5)


@light
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_invariant_1_rate_one_sets_the_target_at_once(a0: float, b0: float, a: float, b: float) -> None:
    balancer = LossBalancer(NAMES, rate=1)
    balancer.update(pair(a0, b0))
    assert balancer.update(pair(a, b))["clean"] == pytest.approx((a / a0) / (a / a0 + b / b0), rel=1e-9)


@light
@given(st.lists(losses.filter(lambda v: len(v) == 3), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 3))
def test_invariant_2_weights_sum_to_one_and_are_never_negative(batches: list[list[float]], rate: float, scale: float) -> None:
    balancer = LossBalancer("abc", rate=rate)
    for values in batches:
        weights = balancer.update(dict(zip("abc", values, strict=True)), scale=scale)
        assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
        assert min(weights.values()) >= 0


@light
@given(losses, st.floats(0, 1))
def test_invariant_3_the_first_batch_moves_nothing(values: list[float], rate: float) -> None:
    names = "abcde"[: len(values)]
    weights = LossBalancer(names, rate=rate).update(dict(zip(names, values, strict=True)))
    assert weights == pytest.approx(dict.fromkeys(names, 1 / len(names)), abs=1e-12)


def test_unequal_start_weights_move_towards_equal_ones_in_the_first_batch() -> None:
    # r = 1 for both, so the target is 1/2: w_clean = 0.1 - 0.025 (0.1 - 0.5) = 0.11
    balancer = LossBalancer(NAMES, rate=0.025, weights=pair(0.1, 0.9))
    assert balancer.update(pair(3, 5)) == pytest.approx(pair(0.11, 0.89), abs=1e-12)


def test_a_weight_is_cut_at_zero_and_the_rest_renormalised() -> None:
    # targets 0.1 and 0.9, step 3: 0.5 - 3 (0.4) = -0.7 -> 0, and 0.5 + 3 (0.4) = 1.7 -> 1.7/1.7
    balancer = LossBalancer(NAMES, rate=1)
    balancer.update(pair(1, 1))
    assert balancer.update(pair(1, 9), scale=3) == pair(0.0, 1.0)


def test_three_losses_by_hand() -> None:
    # r = 1, 1/2, 1/4, sum 7/4, targets 4/7, 2/7, 1/7: w_a = 1/3 - 0.3 (1/3 - 4/7) = 1/3 + 0.3 * 5/21
    balancer = LossBalancer("abc", rate=0.3)
    balancer.update({"a": 1, "b": 2, "c": 4})
    weights = balancer.update({"a": 1, "b": 1, "c": 1})
    assert weights == pytest.approx({"a": 1 / 3 + 1.5 / 21, "b": 1 / 3 - 0.3 / 21, "c": 1 / 3 - 1.2 / 21}, abs=1e-12)


def test_losses_that_all_reached_zero_leave_the_weights() -> None:
    balancer = LossBalancer(NAMES, rate=0.5)
    balancer.update(pair(1, 1))
    before = balancer.update(pair(1, 3))
    assert balancer.update(pair(0, 0)) == before


def test_loss_balancer_state_goes_on_where_it_was_and_keeps_the_initial_losses() -> None:
    stream = [pair(2, 4), pair(1, 3), pair(1.5, 1), pair(0.2, 0.9)]
    whole = LossBalancer(NAMES, rate=0.25)
    expected = [whole.update(values) for values in stream]
    first = LossBalancer(NAMES, rate=0.25)
    for values in stream[:2]:
        first.update(values)
    second = LossBalancer(NAMES, rate=0.25)
    second.load_state_dict(first.state_dict())
    assert [second.update(values) for values in stream[2:]] == expected[2:]
    assert second.initial == pair(2, 4)


def test_what_a_balancer_returns_and_is_given_is_not_shared() -> None:
    start = pair(0.5, 0.5)
    balancer = LossBalancer(NAMES, rate=0, weights=start)
    start["clean"] = 9.0
    balancer.update(pair(1, 1))["clean"] = 9.0
    balancer.state_dict()["weights"]["clean"] = 9.0
    assert balancer.update(pair(1, 1)) == pair(0.5, 0.5)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ((), {}),
        (("a", "a"), {}),
        (("a", "b"), {"rate": -0.1}),
        (("a", "b"), {"rate": 1.1}),
        (("a", "b"), {"rate": math.nan}),
        (("a", "b"), {"weights": {"a": 1.0}}),
        (("a", "b"), {"weights": {"a": 0.6, "b": 0.6}}),
        (("a", "b"), {"weights": {"a": 1.5, "b": -0.5}}),
        (("a", "b"), {"weights": {"a": math.nan, "b": 0.5}}),
        (("a", "b"), {"b": math.nan}),
        (("a", "b"), {"b": -1.0}),
    ],
)
def test_loss_balancer_refuses_bad_settings(names: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LossBalancer(names, **options)


@pytest.mark.parametrize("bad", [{"clean": 1.0}, pair(1, -1e-3), pair(1, math.nan), pair(math.inf, 1), pair(0, 1)])
def test_loss_balancer_refuses_bad_losses_and_keeps_its_state(bad: dict[str, float]) -> None:
    balancer = LossBalancer(NAMES, rate=1)
    with pytest.raises(InputError):
        balancer.update(bad)
    assert balancer.state_dict() == {"weights": pair(0.5, 0.5), "initial": None}


# Entropy-Based Balance


def test_temperatures_by_hand() -> None:
    # the clean teacher is sharper: 1 + 0.02; the robust one would go to 0.98 and is held at 1
    balancer = EntropyBalancer(NAMES, rate=0.02)
    assert balancer.update(pair(0.5, 1.0)) == pytest.approx(pair(1.02, 1.0), abs=1e-12)
    # now the robust one is sharper: clean back to 1, robust to 1.02
    assert balancer.update(pair(0.9, 0.8)) == pytest.approx(pair(1.0, 1.02), abs=1e-12)
    # scale 0.1: clean 1 + 0.002, robust 1.02 - 0.002
    assert balancer.update(pair(0.1, 0.2), scale=0.1) == pytest.approx(pair(1.002, 1.018), abs=1e-12)


def test_temperatures_stay_in_their_bounds() -> None:
    balancer = EntropyBalancer(NAMES, rate=4)
    seen = [balancer.update(pair(0.1, 0.9)) for _ in range(4)]
    assert [t["clean"] for t in seen] == [5, 9, 10, 10]
    assert [t["robust"] for t in seen] == [1, 1, 1, 1]


def test_temperatures_start_inside_narrow_bounds() -> None:
    assert EntropyBalancer(NAMES, bounds=(2.0, 3.0)).temperatures == pair(2, 2)
    assert EntropyBalancer(NAMES, bounds=(0.5, 0.8)).temperatures == pair(0.8, 0.8)


@light
@given(st.floats(0, 3), st.integers(2, 5))
def test_invariant_4_equal_entropies_change_nothing(value: float, count: int) -> None:
    balancer = EntropyBalancer("abcde"[:count], rate=0.1)
    balancer.load_state_dict({"temperatures": dict.fromkeys("abcde"[:count], 2.5)})
    assert set(balancer.update(dict.fromkeys("abcde"[:count], value)).values()) == {2.5}


def test_a_saturated_teacher_with_entropy_zero_is_softened() -> None:
    assert EntropyBalancer(NAMES, rate=0.5).update(pair(0.0, 0.3)) == pair(1.5, 1.0)


def test_invariant_5_a_constant_pair_of_teachers_meets_and_stays_within_one_step() -> None:
    rng = torch.Generator().manual_seed(3)
    clean, robust = 6 * torch.randn(40, 10, generator=rng), 2 * torch.randn(40, 10, generator=rng)
    balancer = EntropyBalancer(NAMES, rate=0.05)

    def measured() -> dict[str, float]:
        t = balancer.temperatures
        return pair(float(entropy(clean, temperature=t["clean"])), float(entropy(robust, temperature=t["robust"])))

    before = measured()
    assert before["clean"] < before["robust"]
    steps_to_meet = 0
    while before["clean"] < before["robust"]:
        old = dict(balancer.temperatures)
        new = balancer.update(before)
        assert new["clean"] == pytest.approx(old["clean"] + 0.05, abs=1e-9)
        assert new["robust"] == 1
        before = measured()
        steps_to_meet += 1
    assert 20 < steps_to_meet < 150
    for _ in range(60):
        now = dict(before)
        balancer.update(now)
        before = measured()
        one_step = abs(before["clean"] - now["clean"]) + abs(before["robust"] - now["robust"])
        assert abs(now["clean"] - now["robust"]) <= one_step + 1e-6


def test_three_teachers_by_hand() -> None:
    # each against the mean of the others: 1.0 vs 0.4 (soft), 0.6 vs 0.6 (even), 0.2 vs 0.8 (sharp)
    balancer = EntropyBalancer("abc", rate=0.1)
    balancer.load_state_dict({"temperatures": {"a": 2.0, "b": 2.0, "c": 2.0}})
    new = balancer.update({"a": 1.0, "b": 0.6, "c": 0.2})
    assert new == pytest.approx({"a": 1.9, "b": 2.0, "c": 2.1}, abs=1e-12)


@light
@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)), min_size=1, max_size=20))
def test_two_teachers_follow_the_rule_of_the_paper(stream: list[tuple[float, float]]) -> None:
    balancer = EntropyBalancer(NAMES, rate=0.3)
    tau_n = tau_a = 1.0
    for h_n, h_a in stream:
        if 0 < abs(h_n - h_a) < 1e-9:
            continue
        tau_a = min(10, max(1, tau_a - 0.3 * math.copysign(1, h_a / h_n - 1) * (h_a != h_n)))
        tau_n = min(10, max(1, tau_n - 0.3 * math.copysign(1, h_n / h_a - 1) * (h_a != h_n)))
        assert balancer.update(pair(h_n, h_a)) == pytest.approx(pair(tau_n, tau_a), abs=1e-9)


def test_entropy_balancer_state_goes_on_where_it_was() -> None:
    first = EntropyBalancer(NAMES, rate=0.3)
    first.update(pair(0.1, 0.2))
    second = EntropyBalancer(NAMES, rate=0.3)
    second.load_state_dict(first.state_dict())
    assert second.update(pair(0.1, 0.2)) == first.update(pair(0.1, 0.2)) == pytest.approx(pair(1.6, 1.0))


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("a",), {}),
        (("a", "a"), {}),
        (NAMES, {"rate": -0.1}),
        (NAMES, {"rate": math.nan}),
        (NAMES, {"rate": math.inf}),
        (NAMES, {"bounds": (0.0, 1.0)}),
        (NAMES, {"bounds": (2.0, 1.0)}),
        (NAMES, {"bounds": (math.nan, 1.0)}),
    ],
)
def test_entropy_balancer_refuses_bad_settings(names: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        EntropyBalancer(names, **options)


@pytest.mark.parametrize("bad", [{"clean": 1.0}, {"clean": 1.0, "x": 1.0}, pair(math.nan, 1), pair(1, math.inf)])
def test_entropy_balancer_refuses_bad_entropies_and_keeps_its_state(bad: dict[str, float]) -> None:
    balancer = EntropyBalancer(NAMES, rate=1)
    with pytest.raises(InputError):
        balancer.update(bad)
    assert balancer.temperatures == pair(1, 1)
