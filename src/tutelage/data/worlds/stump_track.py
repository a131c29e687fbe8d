"""Stump tracks for Gymnasium's BipedalWalker, after Portelas et al. (2019, arXiv 1910.07224): flat ground with stumps.

Tasks are (mean height of a stump, 0..3; gap between stumps, 0..6). A stump is as wide as one step of the terrain (14/30 of a
length unit of the world); its height is drawn from N(mean, 0.1), at least 0.05, in the same steps; gaps are in length units.
The walker, its reward and its observation are Gymnasium's. It needs the extra `rl`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.data.worlds.task_space import TaskSpace

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SWIG's own; where warnings are errors they would crash the interpreter
        from gymnasium.envs.box2d.bipedal_walker import (
            TERRAIN_HEIGHT,
            TERRAIN_LENGTH,
            TERRAIN_STARTPAD,
            TERRAIN_STEP,
            BipedalWalker,
        )
except ImportError as error:
    raise MissingError("stump tracks need gymnasium and box2d: install tutelage[rl]") from error
except Exception as error:  # gymnasium has an error of its own for a Box2D that is not there
    if type(error).__name__ != "DependencyNotInstalled":
        raise
    raise MissingError("stump tracks need box2d: install tutelage[rl]") from error

MASTERED = 230.0  # a return above this counts as a mastered track
LEAST_GAP, LEAST_HEIGHT, SPREAD = 0.01, 0.05, 0.1
GREY, DARK, GREEN, LIGHT, EARTH = (255, 255, 255), (153, 153, 153), (76, 204, 76), (76, 255, 76), (102, 153, 76)


class StumpTrack(BipedalWalker):
    """BipedalWalker on a track of the current task. steps: the longest episode (2000 in the paper).

    `set_task` before `reset`; `is_success` in the info of the last step: the return is above 230. max_height: the upper end
    of the mean heights; the higher, the more of the space no walker can learn.
    """

    def __init__(self, steps: int = 2000, max_height: float = 3.0, render_mode: str | None = None) -> None:
        check_integer("steps", steps)
        super().__init__(render_mode=render_mode)
        if not max_height > 0:
            raise InputError("max_height", max_height, "a height above 0, in steps of the terrain")
        self.task_space = TaskSpace((0.0, 0.0), (max_height, 6.0), ("stump height", "gap between stumps"))
        self.steps, self.height, self.gap = steps, 0.0, 6.0
        self.done_steps, self.ret = 0, 0.0

    def set_task(self, task: ArrayLike) -> None:
        height, gap = self.task_space.check(task)
        self.height, self.gap = float(height), float(gap)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.done_steps, self.ret = -1, 0.0  # Gymnasium's reset takes one step itself
        state, info = super().reset(seed=seed, options=options)
        self.ret = 0.0
        return state, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        state, reward, ended, _, info = super().step(action)
        self.done_steps += 1
        self.ret += float(reward)
        late = self.done_steps >= self.steps and not ended
        if ended or late:
            info["is_success"] = self.ret > MASTERED
        return state, float(reward), bool(ended), late, info

    def _generate_terrain(self, hardcore: bool) -> None:
        """Called by Gymnasium's reset: ground first, so that stumps are drawn over it."""
        self.terrain, self.terrain_poly = [], []
        self.terrain_x = [i * TERRAIN_STEP for i in range(TERRAIN_LENGTH)]
        self.terrain_y = [TERRAIN_HEIGHT] * TERRAIN_LENGTH
        for left, height in self._stumps():
            body = self._stump(left, height)
            body.color1, body.color2 = GREY, DARK
            self.terrain.append(body)
        for i in range(TERRAIN_LENGTH - 1):
            line = [(self.terrain_x[j], self.terrain_y[j]) for j in (i, i + 1)]
            self.fd_edge.shape.vertices = line
            body = self.world.CreateStaticBody(fixtures=self.fd_edge)
            body.color1 = body.color2 = GREEN if i % 2 else LIGHT
            self.terrain.append(body)
            self.terrain_poly.append(([*line, (line[1][0], 0.0), (line[0][0], 0.0)], EARTH))
        self.terrain.reverse()

    def _stumps(self) -> list[tuple[float, float]]:
        """(left edge, height) of each stump, in length units of the world."""
        stumps, x = [], TERRAIN_STARTPAD * TERRAIN_STEP
        while x + TERRAIN_STEP < (TERRAIN_LENGTH - 1) * TERRAIN_STEP:
            height = max(LEAST_HEIGHT, float(self.np_random.normal(self.height, SPREAD)))
            stumps.append((x, height * TERRAIN_STEP))
            x += TERRAIN_STEP + max(LEAST_GAP, self.gap)
        return stumps

    def _stump(self, left: float, height: float) -> Any:
        right, top = left + TERRAIN_STEP, TERRAIN_HEIGHT + height
        self.fd_polygon.shape.vertices = [(left, TERRAIN_HEIGHT), (right, TERRAIN_HEIGHT), (right, top), (left, top)]
        return self.world.CreateStaticBody(fixtures=self.fd_polygon)

    @property
    def stump_heights(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Heights of the stumps of the present track, in steps of the terrain."""
        shapes = [body.fixtures[0].shape.vertices for body in reversed(self.terrain)]
        tops = [max(y for _, y in corners) for corners in shapes if len(corners) == 4]
        return (np.array(tops) - TERRAIN_HEIGHT) / TERRAIN_STEP
