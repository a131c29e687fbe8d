"""Real physics: the arms rl-..., students of Stable-Baselines3 on CartPole in wind, a weak pendulum or stump tracks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.claims.claim import Cell
from tutelage.claims.tutor.alp_gmm.config import UNSEEN, Config
from tutelage.claims.tutor.alp_gmm.teachers import kept, teacher
from tutelage.core.cache import Cache
from tutelage.core.rng import derive, numpy_generator
from tutelage.data.worlds.task_space import Floats

PPO_SAVES = 20_000  # steps between checkpoints


def on_physics(cell: Cell) -> dict[str, float]:
    config: Config = cell.config
    student = taught(config, cell.arm, cell.unit, cell.cache)
    tasks, judge = unseen_tasks(config)
    found = student.evaluate(tasks, seed=derive(0, UNSEEN, "starts"))
    measured = {"success": 100 * float(found.success.mean()), "test_return": float(found.returns.mean())}
    if judge is not None:
        measured["unlearnable_share"] = 100 * student.history.share(lambda task: not judge(task))
    return {**measured, "episodes": float(len(student.history))}


def taught(config: Config, arm: str, unit: int, cache: Cache) -> Any:
    """The SB3Student of an arm, taught; kept in the cache with its teacher and history, for the pictures too."""
    from tutelage.teaching.curricula.students import SB3Student

    seed = derive(unit, "alp-gmm", "rl")
    space = rl_world(config)().task_space
    returns = (-150.0, 350.0) if config.rl_world == "stump-track" else None
    sampler = teacher(
        arm, space, seed, fit_rate=config.rl_fit_rate, random_ratio=config.random_ratio, returns=returns
    )  # fmt: skip
    student = SB3Student(config.rl_student, rl_world(config), sampler, seed=seed, **_student(config))

    key = kept(config, arm, unit, torch.get_num_threads())

    def build(folder: Path) -> None:
        running = cache.folder("curricula-running", key)  # a cell that is killed goes on from here
        student.learn(config.rl_steps, checkpoint=running)
        student.save(folder)
        shutil.rmtree(running, ignore_errors=True)

    student.load(cache.get("curricula", key, build))
    return student


def rl_world(config: Config, **options: Any) -> Callable[[], Any]:
    """What makes an environment of the RL arms."""
    if config.rl_world == "stump-track":
        from tutelage.data.worlds.stump_track import StumpTrack

        return lambda: StumpTrack(config.rl_episode, **options)
    from tutelage.data.worlds.control import WeakPendulum, WindyCartPole

    world = WindyCartPole if config.rl_world == "windy-cartpole" else WeakPendulum
    return lambda: world(config.rl_episode, **options)


def _student(config: Config) -> dict[str, Any]:
    if config.rl_student == "SAC":  # the paper's
        return {
            "n_envs": 1, "learning_rate": 1e-3, "ent_coef": 0.005, "batch_size": 1000, "buffer_size": 2_000_000,
            "train_freq": 10, "gradient_steps": 10, "gamma": 0.99, "tau": 0.005, "learning_starts": 10_000,
            "policy_kwargs": {"net_arch": [400, 300]}, "save_every": 200_000,
        }  # fmt: skip
    return {
        "n_envs": 8, "n_steps": config.rl_rollout, "batch_size": min(256, 8 * config.rl_rollout), "n_epochs": 10,
        "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.9, "save_every": PPO_SAVES,
    }  # fmt: skip


def unseen_tasks(config: Config) -> tuple[Floats, Callable[[Floats], bool] | None]:
    """(tasks (n, d), what says whether a task is learnable, where anyone knows)."""
    world = rl_world(config)()
    judge = getattr(world, "learnable", None)
    rng = numpy_generator(0, UNSEEN, "rl")
    tasks: list[Floats] = []
    while len(tasks) < config.rl_tasks:
        task = world.task_space.uniform(rng)
        if judge is None or judge(task):
            tasks.append(task)
    return np.array(tasks), judge
