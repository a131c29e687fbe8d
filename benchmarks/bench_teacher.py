"""What a teacher costs: sample and update of ALP-GMM after 100,000 episodes, against an episode of the student it teaches.

Ours: 250 calls of `sample` and `update`, so one fit of the nine mixtures is among them. Peer: episodes of a small PPO student
of Stable-Baselines3 on the pendulum of 150 steps, learning included; and, for the least that an episode can cost, the same
episodes with random actions and no learning. Both in seconds an episode.
"""

from __future__ import annotations

import numpy as np
from common import Outcome, race, report, settings

from tutelage.data.worlds.control import WeakPendulum
from tutelage.methods.tutor.alp_gmm import ALPGMM
from tutelage.teaching.curricula.sampler import Uniform
from tutelage.teaching.curricula.students import SB3Student

ENVS, STEPS = 8, 150


def taught(history: int) -> ALPGMM:
    """A teacher that knows so many episodes; only its window of 250 is fitted, so the others are told quickly."""
    world, rng = WeakPendulum(STEPS), np.random.default_rng(0)
    teacher = ALPGMM(world.task_space, rng=rng)
    for task, ret in zip(rng.random((history - 250, world.task_space.dims)), rng.random(history - 250), strict=True):
        teacher.progress.add(task, float(ret))
    teacher.episodes = history - 250
    for _ in range(250):
        teacher.update(teacher.sample(), float(rng.random()))
    return teacher


def random_episode(world: WeakPendulum, sampler: Uniform) -> None:
    world.set_task(sampler.sample())
    world.reset(seed=0)
    late = False
    while not late:
        late = world.step(world.action_space.sample())[3]


def main() -> None:
    how = settings(__doc__)
    history, calls, rollouts, plain = (1000, 250, 1, 4) if how.quick else (100_000, 250, 4, 40)
    teacher = taught(history)
    world, sampler = WeakPendulum(STEPS), Uniform(WeakPendulum(STEPS).task_space, rng=np.random.default_rng(1))
    student = SB3Student(
        "PPO", lambda: WeakPendulum(STEPS), sampler, n_envs=ENVS, n_steps=STEPS, batch_size=200, n_epochs=10,
        learning_rate=1e-3, gamma=0.98, save_every=ENVS * STEPS * rollouts,
    )  # fmt: skip

    def ours() -> None:
        for i in range(calls):
            teacher.update(teacher.sample(), (i % 100) / 100)

    sides = {
        "ours": ours,
        "student": lambda: student.learn(student.model.num_timesteps + ENVS * STEPS * rollouts),
        "plain": lambda: [random_episode(world, sampler) for _ in range(plain)],
    }
    rounds = race(sides, how.rounds)
    for side, name, peer, episodes, wanted in (
        ("student", "teacher, against a student's episode", "an episode of PPO on a pendulum", ENVS * rollouts, "< 0.05"),
        ("plain", "teacher, against an episode without a student", "an episode of random actions", plain, ""),
    ):
        pairs = [[one["ours"] / calls, one[side] / episodes] for one in rounds]
        notes = {"history": history, "steps of an episode": STEPS, "milliseconds of ours": 1000 * min(a for a, _ in pairs)}
        report(Outcome(name, "teacher", "ALP-GMM sample and update", peer, pairs, wanted, notes), how)


if __name__ == "__main__":
    main()
