"""Pictures for the report of the claim: the task space over time, and frames of two students. Nothing is computed anew:
they are drawn from what the cells of unit 0 have left in the cache; where that is gone, there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tutelage.claims.claim import ClaimResult
from tutelage.claims.tutor.alp_gmm.config import Config
from tutelage.claims.tutor.alp_gmm.physics import rl_world, taught
from tutelage.claims.tutor.alp_gmm.teachers import kept
from tutelage.core.cache import Cache
from tutelage.data.worlds.task_space import Floats
from tutelage.data.worlds.toy_grid import ToyGrid
from tutelage.methods.tutor.alp_gmm.pictures import episode_frames, frame_strip, task_space_figure
from tutelage.teaching.checkpoint import load_checkpoint
from tutelage.teaching.curricula.run import History

SHOWN = {"windy-cartpole": (8.0, 0.5), "weak-pendulum": (1.2, 1.0), "stump-track": (0.5, 5.0)}


def pictures(result: ClaimResult, cache: Cache | None = None) -> list[tuple[Figure, str]]:
    """(figure, caption) for the page of `result`."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    threads = int(result.environment.get("threads", 1))
    found: list[tuple[Figure, str]] = []
    for arm, words in (("alp-gmm", "ALP-GMM"), ("random-teacher", "random tasks")):
        key = kept(config, arm, 0, threads)
        state = load_checkpoint(cache.folder("curricula", key)) if cache.folder("curricula", key).is_dir() else None
        if state is not None:
            history = History(ToyGrid(config.cubes).task_space)
            history.load_state_dict(state[1]["history"])
            found.append((task_space_figure(history), f"The toy grid under {words}, unit 0: each episode's task and return."))
    for arm, words in (("rl-alp-gmm", "ALP-GMM"), ("rl-random-teacher", "random tasks")):
        if cache.folder("curricula", kept(config, arm, 0, threads)).is_dir():
            found += _of_student(config, arm, words, threads, cache)
    return found


def _of_student(
    config: Config, arm: str, words: str, threads: int, cache: Cache
) -> list[tuple[Figure, str]]:  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        student = taught(config, arm, 0, cache)
    finally:
        torch.set_num_threads(before)
    judge: Callable[[Floats], bool] | None = getattr(rl_world(config)(), "learnable", None)
    grey = "" if judge is None else " Grey: tasks that cannot be learnt."
    name = config.rl_world.replace("-", " ")
    space = task_space_figure(student.history, learnable=judge)
    env, task = rl_world(config, render_mode="rgb_array")(), SHOWN[config.rl_world]
    frames, ret = episode_frames(env, student.predict, task)
    env.close()
    shown = ", ".join(f"{label} {value:g}" for label, value in zip(env.task_space.names, task, strict=True))
    return [
        (space, f"The tasks of the student on {name} under {words}, unit 0: each episode's task and return.{grey}"),
        (
            _shown(frame_strip(frames, width=150)),
            f"The student taught by {words} on {name} ({shown}): one episode, return {ret:.3g}.",
        ),
    ]


def _shown(strip: NDArray[Any]) -> Figure:
    figure = Figure(figsize=(10.0, 10.0 * strip.shape[0] / strip.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(strip, interpolation="nearest")
    axes.set_axis_off()
    return figure
