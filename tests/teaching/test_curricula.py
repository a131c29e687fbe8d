"""Learning progress, mixtures, the run of a curriculum, environments and students under one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.core.errors import CheckpointError, InputError, MissingError
from tutelage.data.worlds.control import WeakPendulum, WindyCartPole
from tutelage.data.worlds.stump_track import StumpTrack
from tutelage.data.worlds.task_space import TaskSpace
from tutelage.data.worlds.toy_grid import ToyGrid
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint
from tutelage.teaching.curricula.environments import TaughtEnv
from tutelage.teaching.curricula.mixture import Mixture, fit_mixture
from tutelage.teaching.curricula.progress import LearningProgress
from tutelage.teaching.curricula.run import History, run_curriculum
from tutelage.teaching.curricula.sampler import Uniform
from tutelage.teaching.curricula.students import SB3Student
from tutelage.teaching.curricula.supervised import SupervisedLearner

UNIT = TaskSpace([0.0], [1.0])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------------ learning progress


def test_progress_by_hand():
    found = LearningProgress(1)
    first = [found.add(np.array([x]), r) for x, r in ((0.0, 0.1), (0.2, 0.2), (0.4, 0.3), (0.6, 0.4), (0.8, 0.5), (1.0, 0.6))]
    assert first == [0.0] * 6, "nothing is compared before six are known"
    assert found.add(np.array([0.45]), 0.9) == pytest.approx(0.6), "0.4 is nearest, |0.9 - 0.3|"
    assert found.add(np.array([0.44]), 0.7) == pytest.approx(0.2), "now 0.45 is, |0.7 - 0.9|"
    assert found.add(np.array([0.2]), 0.0) == pytest.approx(0.2)
    assert found.add(np.array([0.2]), 1.0) == pytest.approx(1.0), "of the same task the last visit counts"


@pytest.mark.parametrize("n", [499, 500, 501, 1003])
def test_the_nearest_neighbour_is_that_of_brute_force(n: int):
    found, draws = LearningProgress(2, buffer=500), rng(n)
    points = draws.random((n, 2))
    for i, point in enumerate(points):
        found.add(point, float(i))
    for query in draws.random((40, 2)):
        assert found.nearest(query) == int(((points - query) ** 2).sum(1).argmin())
    assert found.nearest(points[n // 2]) == n // 2


def test_progress_does_not_depend_on_the_buffer_and_survives_a_checkpoint(tmp_path: Path):
    points, returns = rng().random((130, 3)), rng(1).random(130)
    small, large = LearningProgress(3, buffer=7), LearningProgress(3, buffer=1000)
    for point, ret in zip(points[:100], returns, strict=False):
        assert small.add(point, ret) == large.add(point, ret)
    save_checkpoint(tmp_path, 1, small.state_dict())
    again = LearningProgress(3, buffer=7)
    found = load_checkpoint(tmp_path)
    assert found is not None
    again.load_state_dict(found[1])
    for point, ret in zip(points[100:], returns[100:], strict=True):
        assert again.add(point, ret) == large.add(point, ret)
    np.testing.assert_array_equal(again.alps, large.alps)


def test_scaled_returns_scale_every_progress():
    points, returns = rng().random((60, 2)), rng(1).random(60)
    one, four = LearningProgress(2), LearningProgress(2)
    for point, ret in zip(points, returns, strict=True):
        assert four.add(point, 4 * ret) == pytest.approx(4 * one.add(point, ret))


# ---------------------------------------------------------------------------------------------------------------- mixture


def test_criteria_by_hand():
    """One Gaussian on ten points of mean 1 and variance 1: -2 log L = 10 (log 2 pi + 1), two parameters."""
    points = np.array([[0.0], [2.0]] * 5)
    minus_2_log_l = 10 * (math.log(2 * math.pi) + 1)
    wanted = {"aic": 4.0, "bic": 2 * math.log(10), "aicc": 4 + 12 / 7}
    for criterion, penalty in wanted.items():
        found = fit_mixture(points, [1], rng(), criterion=criterion)
        assert found.score == pytest.approx(minus_2_log_l + penalty, abs=1e-3)
    assert found.means[0, 0] == pytest.approx(1.0)


def test_two_clusters_are_found_and_the_criterion_chooses_their_number():
    points = np.concatenate([rng().normal(0, 0.05, (80, 2)), rng(1).normal(1, 0.05, (80, 2))])
    found = fit_mixture(points, range(1, 5), rng(), criterion="bic")
    assert found.k == 2
    assert sorted(found.means.mean(1).round(1)) == [0.0, 1.0]
    drawn = np.array([found.draw(int(found.means[1, 0] > found.means[0, 0]), rng(i)) for i in range(50)])
    assert abs(drawn.mean() - 1.0) < 0.05


def test_equal_points_do_no_harm():
    found = fit_mixture(np.full((30, 2), 0.3), range(2, 11), rng())
    assert found.k == 1
    np.testing.assert_allclose(found.draw(0, rng()), 0.3, atol=0.01)
    few = fit_mixture(np.array([[0.0], [1.0], [2.0]] * 9), range(2, 11), rng())
    assert few.k <= 3
    again = Mixture.of(few.state_dict())
    np.testing.assert_array_equal(again.draw(0, rng(3)), few.draw(0, rng(3)))


# ------------------------------------------------------------------------------------------------------- running and resuming


def test_a_sampler_refuses_what_it_cannot_use():
    sampler = Uniform(UNIT, rng=rng())
    for task, ret, argument in (
        ([2.0], 0.5, "task"),
        ([0.5], math.nan, "ret"),
        ([0.5], "good", "ret"),
        ([0.5, 0.5], 1.0, "task"),
    ):
        with pytest.raises(InputError, match=f"^{argument}"):
            sampler.update(task, ret)
    assert sampler.episodes == 0
    patient = Uniform(UNIT, rng=rng(), on_nan="skip")
    patient.update([0.5], math.nan)
    patient.update([0.5], 1.0)
    assert (patient.skipped, patient.episodes) == (1, 1)
    for options, argument in (
        ({"rng": 3}, "rng"),
        ({"rng": rng(), "returns": (1.0, 1.0)}, "returns"),
        ({"rng": rng(), "returns": 5}, "returns"),
        ({"rng": rng(), "on_nan": "no"}, "on_nan"),
    ):
        with pytest.raises(InputError, match=f"^{argument}"):
            Uniform(UNIT, **options)
    with pytest.raises(InputError, match=r"^space"):
        Uniform([0, 1], rng=rng())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^state"):
        Uniform(TaskSpace([0.0], [2.0]), rng=rng()).load_state_dict(sampler.state_dict())


def test_returns_are_mapped_and_clipped():
    sampler = Uniform(UNIT, rng=rng(), returns=(-150.0, 350.0))
    assert [sampler.scaled(r) for r in (-200.0, -150.0, 100.0, 350.0, 900.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]


class Stops(ToyGrid):
    """Stops the run in the middle, as a kill would, before the world changes."""

    def __init__(self, after: int) -> None:
        super().__init__(n=3, d=1)
        self.left = after

    def __call__(self, task):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(task)


def test_a_curriculum_that_was_killed_ends_as_one_that_was_not(tmp_path: Path):
    whole = ToyGrid(n=3, d=1)
    wanted = run_curriculum(Uniform(whole.task_space, rng=rng()), whole, 60)
    with pytest.raises(KeyboardInterrupt):
        run_curriculum(Uniform(whole.task_space, rng=rng()), Stops(37), 60, checkpoint=tmp_path, save_every=10)
    world = ToyGrid(n=3, d=1)
    found = run_curriculum(Uniform(world.task_space, rng=rng(99)), world, 60, checkpoint=tmp_path, save_every=10)
    np.testing.assert_array_equal(found.tasks, wanted.tasks)
    np.testing.assert_array_equal(found.returns, wanted.returns)
    assert world.competence.tolist() == whole.competence.tolist()
    with pytest.raises(CheckpointError, match="learner"):
        run_curriculum(Uniform(world.task_space, rng=rng()), lambda task: 0.0, 60, checkpoint=tmp_path)


def test_a_history_says_what_it_covers():
    history = History(TaskSpace((0.0, 0.0), (2.0, 1.0)))
    assert history.share(lambda task: True) == 0.0
    for task in ((0.1, 0.1), (0.15, 0.05), (1.9, 0.9), (2.0, 1.0)):
        history.add(task, 0.5)
    assert history.share(lambda task: task[0] < 1) == 0.5
    assert history.coverage(2) == 0.5
    assert history.coverage(10) == 0.03, "the last two lie in the same cell"


def test_a_supervised_learner_learns_and_resumes_exactly(tmp_path: Path):
    """Points of two classes, told apart by their sign; the task is how far they are moved apart."""

    def learner() -> SupervisedLearner:
        torch.manual_seed(0)
        net = nn.Linear(1, 2)
        y = torch.arange(40) % 2
        x = (2.0 * y - 1)[:, None]
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5)
        return SupervisedLearner(net, (x, y), (x, y), lambda x, task, g: x * float(task[0]), optimizer, batch_size=16)

    whole = learner()
    wanted = run_curriculum(Uniform(UNIT, rng=rng()), whole, 40)
    assert wanted.returns[-10:].mean() > 0.95
    run_curriculum(Uniform(UNIT, rng=rng()), learner(), 25, checkpoint=tmp_path, save_every=10)
    again = learner()
    found = run_curriculum(Uniform(UNIT, rng=rng(7)), again, 40, checkpoint=tmp_path, save_every=10)
    np.testing.assert_array_equal(found.returns, wanted.returns)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    with pytest.raises(InputError, match=r"^train"):
        SupervisedLearner(whole.model, (torch.zeros(3, 1), torch.zeros(2)), whole.validation, whole.change, whole.optimizer)


# ------------------------------------------------------------------------------------------------------------ RL students


class Recorder(Uniform):
    def __init__(self, space: TaskSpace) -> None:
        super().__init__(space, rng=rng())
        self.told: list[tuple[list[float], float]] = []

    def _learn(self, where, ret):
        self.told.append((self.space.from_unit(where).tolist(), ret))


def test_a_taught_environment_tells_finished_episodes_only():
    world = WindyCartPole(steps=4)
    sampler = Recorder(world.task_space)
    env = TaughtEnv(world, sampler)
    env.reset(seed=0)
    env.step(0)
    env.reset()  # the first episode was not finished: it counts for nothing
    task = env.task
    total, over = 0.0, False
    while not over:
        _, reward, ended, late, _ = env.step(0)
        total, over = total + reward, ended or late
    assert len(sampler.told) == len(env.history) == 1
    np.testing.assert_allclose(sampler.told[0][0], task)
    assert sampler.told[0][1] == pytest.approx(total)
    assert world.wind == task[0]
    with pytest.raises(InputError, match=r"^sampler"):
        TaughtEnv(WindyCartPole(), Uniform(UNIT, rng=rng()))


def test_a_nan_reward_is_named():
    class Broken(WindyCartPole):
        def step(self, action):
            state, _, *rest = super().step(action)
            return (state, math.nan, *rest)

    env = TaughtEnv(Broken(steps=3), Uniform(WindyCartPole().task_space, rng=rng()))
    env.reset(seed=0)
    env.step(0)
    env.step(1)
    with pytest.raises(InputError, match=r"^ret: got nan"):
        env.step(0)


def ppo(sampler: Uniform, make_env=lambda: WindyCartPole(steps=12)) -> SB3Student:
    return SB3Student(
        "PPO", make_env, sampler, n_envs=2, save_every=32, n_steps=16, batch_size=16, n_epochs=2, learning_rate=1e-2
    )


def same_weights(a: SB3Student, b: SB3Student) -> bool:
    first, second = (one.model.policy.state_dict() for one in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_student_killed_in_the_middle_of_an_episode_ends_as_one_that_was_not(tmp_path: Path):
    space = WindyCartPole().task_space
    whole = ppo(Uniform(space, rng=rng()))
    before = ppo(Uniform(space, rng=rng()))
    whole.learn(96)
    assert not same_weights(whole, before), "it learns"

    class Killed(WindyCartPole):
        left = 83

        def step(self, action):
            Killed.left -= 1
            if Killed.left == 0:
                raise KeyboardInterrupt
            return super().step(action)

    with pytest.raises(KeyboardInterrupt):
        ppo(Uniform(space, rng=rng()), lambda: Killed(steps=12)).learn(96, checkpoint=tmp_path)
    again = ppo(Uniform(space, rng=rng(5)))
    again.learn(96, checkpoint=tmp_path)
    assert again.model.num_timesteps == whole.model.num_timesteps == 96
    np.testing.assert_array_equal(again.history.tasks, whole.history.tasks)
    np.testing.assert_array_equal(again.history.returns, whole.history.returns)
    assert same_weights(again, whole)
    assert again.sampler.state_dict() == whole.sampler.state_dict()
    tasks = space.uniform(rng(1), 3)
    np.testing.assert_array_equal(again.evaluate(tasks).returns, whole.evaluate(tasks).returns)


def test_an_off_policy_student_saves_its_replay_buffer_too(tmp_path: Path):
    space = WeakPendulum().task_space

    def sac() -> SB3Student:
        return SB3Student(
            "SAC", lambda: WeakPendulum(steps=6), Uniform(space, rng=rng()), n_envs=1, save_every=20, learning_starts=10,
            batch_size=8, buffer_size=50, policy_kwargs={"net_arch": [8]},
        )  # fmt: skip

    whole, part, again = sac(), sac(), sac()
    whole.learn(40)
    part.learn(20)
    part.save(tmp_path)
    again.load(tmp_path)
    again.learn(40)
    assert same_weights(again, whole)
    np.testing.assert_array_equal(again.history.returns, whole.history.returns)
    with pytest.raises(MissingError, match="no saved student"):
        again.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"^state"):
        ppo(Uniform(WindyCartPole().task_space, rng=rng())).load_state_dict(again.state_dict())


def test_a_student_learns_on_stump_tracks():
    space = StumpTrack().task_space
    sampler = Uniform(space, rng=rng(), returns=(-150.0, 350.0))
    student = SB3Student("PPO", lambda: StumpTrack(steps=10), sampler, n_envs=2, n_steps=16, batch_size=16, n_epochs=1)
    history = student.learn(64)
    assert len(history) == 2 * (32 // 10), "episodes of ten steps: the last one of each environment is not finished"
    found = student.evaluate([(0.5, 3.0), (3.0, 1.0)])
    assert found.success.tolist() == [0.0, 0.0], "nobody passes a track in ten steps"
    assert np.isfinite(found.returns).all()


@pytest.mark.parametrize(
    ("algorithm", "options", "argument"),
    [
        ("GRPO", {}, "algorithm"),
        ("PPO", {"n_envs": 0}, "n_envs"),
        ("PPO", {"learning_rate": lambda left: left}, "learning_rate"),
    ],
)
def test_a_student_that_cannot_be_is_refused(algorithm, options, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        SB3Student(algorithm, WindyCartPole, Uniform(UNIT, rng=rng()), **options)
