"""Worlds with a continuous space of tasks: the box, the toy grid, CartPole in wind, a weak pendulum, stump tracks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from tutelage.core.errors import InputError
from tutelage.data.worlds.control import WeakPendulum, WindyCartPole
from tutelage.data.worlds.stump_track import StumpTrack
from tutelage.data.worlds.task_space import TaskSpace
from tutelage.data.worlds.toy_grid import ToyGrid

# ------------------------------------------------------------------------------------------------------------------ space


def test_a_task_goes_to_the_unit_cube_and_back():
    space = TaskSpace((-1.0, 10.0), (1.0, 30.0))
    assert space.to_unit((0.0, 25.0)).tolist() == [0.5, 0.75]
    assert space.from_unit((0.5, 0.75)).tolist() == [0.0, 25.0]
    assert space.from_unit((-3.0, 1.5)).tolist() == [-1.0, 30.0], "clipped to the box"
    third = TaskSpace([0.1], [0.3])  # 0.1 + 1 * (0.3 - 0.1) is above 0.3 in floating point
    assert third.from_unit([1.0])[0] == 0.3


@pytest.mark.parametrize(
    ("low", "high", "argument"),
    [
        ((0.0, 1.0), (1.0, 1.0), "low"),
        ((2.0,), (1.0,), "low"),
        ((0.0,), (1.0, 2.0), "high"),
        ((math.nan,), (1.0,), "low"),
        ((0.0,), (math.inf,), "high"),
        ((), (), "low"),
        ("ab", (1.0,), "low"),
    ],
)
def test_a_box_that_is_none_is_refused(low, high, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        TaskSpace(low, high)


@pytest.mark.parametrize("task", [(0.5,), (0.5, 2.0), (0.5, math.nan), "x", (0.5, 0.5, 0.5)])
def test_a_task_outside_the_box_is_refused(task):
    with pytest.raises(InputError, match=r"^task"):
        TaskSpace((0.0, 0.0), (1.0, 1.0)).check(task)


# --------------------------------------------------------------------------------------------------------------- toy grid


def test_cubes_of_the_toy_grid_unlock_one_another_at_75():
    world = ToyGrid(n=10, d=2)
    origin, right, diagonal, far = (0.05, 0.05), (0.15, 0.05), (0.15, 0.15), (0.25, 0.05)
    assert world(right) == 0.0, "locked: nothing is learnt"
    assert [world(origin) for _ in range(74)][-1] == 0.74
    assert world(right) == 0.0
    assert world(origin) == 0.75
    assert world(right) == 0.01, "unlocked by the cube before it"
    assert world(diagonal) == 0.01, "a step back in both dimensions counts as well"
    assert world(far) == 0.0
    assert world.mastered_share == 0.0, "75 unlocks, but mastered is above 75"
    world(origin)
    assert world.mastered_share == 0.01
    for _ in range(200):
        last = world(origin)
    assert last == 1.0, "competence ends at 100"


def test_dimensions_that_do_nothing_do_nothing_and_1_belongs_to_the_last_cube():
    world = ToyGrid(n=4, d=1, irrelevant=2)
    assert world.task_space.dims == 3
    assert world.cube((1.0, 0.3, 0.9)) == (3,)
    assert world((0.1, 0.0, 1.0)) == 0.01
    assert world((0.1, 0.9, 0.2)) == 0.02


# ------------------------------------------------------------------------------------------------------- CartPole, Pendulum


def test_without_wind_the_windy_cartpole_is_gymnasiums():
    ours, theirs = WindyCartPole(), CartPoleEnv()
    ours.set_task((0.0, 0.5))
    a, b = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    for action in (1, 0, 0, 1, 1, 1):
        assert a[:4].tolist() == b.tolist()
        a, b = ours.step(action)[0], theirs.step(action)[0]
    assert a[4] == -1.0, "the wind is seen"


def test_wind_adds_to_the_push():
    ours, theirs = WindyCartPole(), CartPoleEnv()
    ours.set_task((10.0, 0.5))
    theirs.force_mag = 0.0  # pushing left against a wind of 10 N leaves nothing
    ours.reset(seed=0)
    theirs.reset(seed=0)
    np.testing.assert_allclose(ours.step(0)[0][:4], theirs.step(0)[0], atol=1e-7)
    speed = float(ours.state[1])
    ours.step(1)  # 20 N on about 1.1 kg for 0.02 s: a little more than 0.36 m/s, as the pole gives way
    assert 0.3 < float(ours.state[1]) - speed < 0.45


def test_half_of_the_windy_cartpole_cannot_be_learnt_and_is_not():
    world = WindyCartPole(steps=100)
    tasks = world.task_space.uniform(np.random.default_rng(0), 4000)
    assert abs(np.mean([world.learnable(task) for task in tasks]) - 0.5) < 0.03
    world.set_task((14.0, 0.5))
    world.reset(seed=0)
    over = False
    while not over:  # pushing against the wind all the time is the best that can be done
        _, _, fallen, late, info = world.step(0)
        over = fallen or late
    assert fallen
    assert info["is_success"] is False


def test_a_windy_cartpole_ends_after_its_steps_with_a_return_of_1():
    world = WindyCartPole(steps=5)
    world.set_task((0.0, 1.0))
    world.reset(seed=0)
    rows = [world.step(i % 2) for i in range(5)]
    assert sum(row[1] for row in rows) == pytest.approx(1.0)
    assert [row[3] for row in rows] == [False] * 4 + [True]
    assert rows[-1][4]["is_success"] is True


def test_the_weak_pendulum_follows_gymnasiums_equations():
    ours, theirs = WeakPendulum(), PendulumEnv()
    ours.set_task((1.2, 0.8))
    theirs.max_torque, theirs.l = 1.2, 0.8
    ours.reset(seed=0)
    theirs.reset(seed=0)
    theirs.state = ours.state.copy()
    assert abs(float(ours.state[0]) - math.pi) <= 0.1, "it hangs down"
    _, reward, _, _, _ = ours.step(np.array([0.5]))
    _, cost, _, _, _ = theirs.step(np.array([0.6]))
    np.testing.assert_allclose(ours.state, theirs.state)
    assert reward == pytest.approx((1 + float(cost) / 16.3) / 150)


def test_more_torque_never_makes_the_pendulum_harder_and_about_half_is_out_of_reach():
    world = WeakPendulum()
    for length in (0.75, 1.0, 1.25):
        can = [world.learnable((torque, length)) for torque in np.linspace(0, 1.5, 31)]
        assert can == sorted(can)
        assert not can[0]
        assert can[-1]
    tasks = world.task_space.uniform(np.random.default_rng(0), 400)
    assert 0.4 < np.mean([world.learnable(task) for task in tasks]) < 0.6


# ------------------------------------------------------------------------------------------------------------- stump track


def test_stumps_have_the_height_and_the_gap_of_the_task():
    world = StumpTrack()
    world.set_task((2.0, 3.0))
    world.reset(seed=0)
    stumps = world._stumps()
    gaps = np.diff([left for left, _ in stumps])
    np.testing.assert_allclose(gaps, 3.0 + 14 / 30)
    heights = world.stump_heights
    assert len(heights) == len(stumps) == 24
    assert abs(heights.mean() - 2.0) < 0.1
    assert 0.03 < heights.std() < 0.2
    world.set_task((0.0, 6.0))
    world.reset(seed=0)
    assert (world.stump_heights >= 0.05 - 1e-6).all(), "never below the least height"
    assert len(world.stump_heights) < len(heights), "wider gaps, fewer stumps"


def test_a_stump_track_is_an_episode_of_bipedal_walker_with_an_end():
    world = StumpTrack(steps=20)
    world.set_task((0.5, 6.0))
    state, _ = world.reset(seed=1)
    assert state.shape == world.observation_space.shape
    for i in range(20):
        _, _, ended, late, info = world.step(np.zeros(4))
        assert not ended
        assert late == (i == 19)
    assert info["is_success"] is False
    first = world.reset(seed=5)[0]
    heights = world.stump_heights
    np.testing.assert_array_equal(first, world.reset(seed=5)[0])
    np.testing.assert_array_equal(heights, world.stump_heights)


def test_the_parameters_of_worlds_are_checked():
    with pytest.raises(InputError, match=r"^task"):
        WindyCartPole().set_task((25.0, 0.5))
    with pytest.raises(InputError, match=r"^steps"):
        WeakPendulum(steps=1)
    with pytest.raises(InputError, match=r"^max_height"):
        StumpTrack(max_height=0.0)
    with pytest.raises(InputError, match=r"^n:"):
        ToyGrid(n=0)
