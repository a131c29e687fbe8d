"""Schedules: factors worked out by hand."""

from __future__ import annotations

import math

import pytest

from tutelage.core.errors import InputError
from tutelage.teaching.schedules import constant, multistep, warmup_cosine


def test_constant_is_one() -> None:
    assert {constant(step, 10) for step in range(10)} == {1.0}


def test_warmup_cosine_by_hand() -> None:
    # 10 steps, 2 of warm-up: 1/2, 1; then 1/2 (1 + cos(pi k/8)) for k = 0..7
    schedule = warmup_cosine(0.2)
    assert [schedule(step, 10) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert schedule(6, 10) == pytest.approx(0.5)  # k = 4: cos(pi/2) = 0
    assert schedule(4, 10) == pytest.approx(0.5 + math.sqrt(2) / 4)  # k = 2: cos(pi/4)
    assert schedule(9, 10) == pytest.approx(0.0380602, abs=1e-7)  # k = 7: (1 - 0.9238795)/2
    assert schedule(10, 10) == pytest.approx(0, abs=1e-12)


def test_warmup_cosine_without_warm_up_starts_at_the_top() -> None:
    assert [warmup_cosine(0)(step, 4) for step in (0, 2)] == pytest.approx([1.0, 0.5])


def test_a_short_warm_up_is_at_least_one_step_and_a_whole_one_only_rises() -> None:
    assert warmup_cosine(0.01)(0, 10) == 1.0  # rise = 1 step: (0 + 1)/1
    assert [warmup_cosine(1.0)(step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_multistep_by_hand() -> None:
    schedule = multistep((0.75, 0.5))
    assert [schedule(step, 8) for step in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert multistep((0.5,), gamma=0.25)(4, 8) == 0.25


@pytest.mark.parametrize("per_epoch", [1, 3, 7, 391])
def test_the_milestones_of_the_paper_fall_on_whole_epochs(per_epoch: int) -> None:
    schedule, total = multistep((215 / 300, 260 / 300, 285 / 300)), 300 * per_epoch
    for epoch, before, after in ((215, 1.0, 0.1), (260, 0.1, 0.01), (285, 0.01, 0.001)):
        assert schedule(epoch * per_epoch - 1, total) == pytest.approx(before)
        assert schedule(epoch * per_epoch, total) == pytest.approx(after)


@pytest.mark.parametrize("warmup", [-0.1, 5, math.nan])
def test_a_warm_up_in_epochs_or_steps_is_refused(warmup: float) -> None:
    # a share of the run is wanted; 5 would silently train at a fifth of the learning rate at most
    with pytest.raises(InputError, match="warmup"):
        warmup_cosine(warmup)


@pytest.mark.parametrize("milestones", [(215, 260, 285), (-0.5,), (math.nan,)])
def test_milestones_in_epochs_are_refused(milestones: tuple[float, ...]) -> None:
    # shares are wanted; epochs would silently never come
    with pytest.raises(InputError, match="milestones"):
        multistep(milestones)
