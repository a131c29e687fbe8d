"""Teachers that move the borders of what they sample: the hand-made Oracle of the paper, and ADR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.teaching.curricula.sampler import Uniform, check_pair


class Oracle(Uniform):
    """The hand-made curriculum of the paper: a window from easy to hard, moved on when the learner is good enough.

    step: (d,), in the units of the space; the window starts at the low bound of a dimension with a positive step, at the
    high bound of one with a negative step, and covers all of one with step 0. threshold: the window moves by one step when
    the mean return of the last `patience` episodes exceeds it; in the learner's own units, `returns` does not touch it.
    Its size is a sixth of the space in each dimension. It needs to know which tasks are easy; the others do not.
    """

    def __init__(
        self,
        space: TaskSpace,
        *,
        rng: np.random.Generator,
        step: Sequence[float],
        threshold: float = 230.0,
        patience: int = 50,
        size: float = 1 / 6,
        **options: Any,
    ) -> None:
        super().__init__(space, rng=rng, **options)
        steps = np.asarray(step, dtype=np.float64)
        if steps.shape != (space.dims,) or not np.isfinite(steps).all() or not steps.any():
            raise InputError("step", step, f"{space.dims} numbers, not all 0: how far the window moves in each parameter")
        check_number("threshold", threshold, "a finite return")
        check_integer("patience", patience)
        check_number("size", size, "a share of the space above 0, up to 1", low=1e-9, high=1)
        self.step, self.threshold, self.patience, self.size = steps, threshold, patience, size
        width = np.where(steps == 0, 1.0, size)
        self.low: Floats = np.where(steps < 0, 1 - width, 0.0)  # of the window, in [0, 1]^d
        self.width = width
        self.recent: list[float] = []

    def sample(self) -> Floats:
        """A uniform task of the window."""
        return self.space.from_unit(self.low + self.width * self.uniform_rng.random(self.space.dims))

    def scaled(self, ret: float) -> float:
        return ret

    def _learn(self, where: Floats, ret: float) -> None:
        self.recent.append(ret)
        if len(self.recent) < self.patience:
            return
        if sum(self.recent) / len(self.recent) > self.threshold:
            extent = np.array(self.space.high) - np.array(self.space.low)
            self.low = np.clip(self.low + self.step / extent, 0.0, 1 - self.width)
            self.recent = []
        else:
            self.recent.pop(0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "window": torch.from_numpy(self.low.copy()), "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.low, self.recent = state["window"].numpy().copy(), list(state["recent"])


class ADR(Uniform):
    """Automatic Domain Randomization (OpenAI et al. 2019, arXiv 1910.07113, algorithm 1): a box that grows from one task.

    start: the easy task (d,) it grows from. step: how far a border moves, as a share of the space. boundary_ratio: share of
    episodes with one parameter set to a border; the mean return of `patience` of them moves that border: out if above
    thresholds[1], in if below thresholds[0]. Thresholds are in the units of the return as the teacher sees it.
    """

    def __init__(
        self,
        space: TaskSpace,
        *,
        rng: np.random.Generator,
        start: Sequence[float],
        thresholds: tuple[float, float] = (0.25, 0.75),
        step: float = 0.05,
        boundary_ratio: float = 0.5,
        patience: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(space, rng=rng, **options)
        self.start = space.to_unit(space.check(start, "start"))
        check_pair("thresholds", thresholds, "two returns, the lower one first")
        check_number("step", step, "a share of the space above 0, up to 1", low=1e-9, high=1)
        check_number("boundary_ratio", boundary_ratio, "a share from 0 to 1", low=0, high=1)
        check_integer("patience", patience)
        self.thresholds, self.step, self.boundary_ratio, self.patience = thresholds, step, boundary_ratio, patience
        self.borders: Floats = np.stack([self.start, self.start])  # low and high, (2, d)
        self._buffers: dict[tuple[int, int], list[float]] = {}
        self._pending: dict[bytes, tuple[int, int]] = {}  # tasks at a border whose return is not known yet

    def sample(self) -> Floats:
        where = self.borders[0] + (self.borders[1] - self.borders[0]) * self.uniform_rng.random(self.space.dims)
        if self.rng.random() >= self.boundary_ratio:
            return self.space.from_unit(where)
        side, axis = int(self.rng.integers(2)), int(self.rng.integers(self.space.dims))
        where[axis] = self.borders[side, axis]
        task = self.space.from_unit(where)
        if len(self._pending) > 10_000:  # tasks that were never answered
            self._pending.pop(next(iter(self._pending)))
        self._pending[self.space.to_unit(task).tobytes()] = (side, axis)
        return task

    def _learn(self, where: Floats, ret: float) -> None:
        border = self._pending.pop(where.tobytes(), None)
        if border is None:
            return
        buffer = self._buffers.setdefault(border, [])
        buffer.append(ret)
        if len(buffer) < self.patience:
            return
        mean, (side, axis) = sum(buffer) / len(buffer), border
        out = -self.step if side == 0 else self.step
        move = out if mean >= self.thresholds[1] else -out if mean <= self.thresholds[0] else 0.0
        lowest, highest = (0.0, self.start[axis]) if side == 0 else (self.start[axis], 1.0)
        self.borders[side, axis] = min(highest, max(lowest, self.borders[side, axis] + move))
        self._buffers[border] = []

    def state_dict(self) -> dict[str, Any]:
        pending = [[list(np.frombuffer(task)), *border] for task, border in self._pending.items()]
        buffers = [[side, axis, list(values)] for (side, axis), values in self._buffers.items()]
        borders = torch.from_numpy(self.borders.copy())
        return {**super().state_dict(), "borders": borders, "buffers": buffers, "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.borders = state["borders"].numpy().copy()
        self._buffers = {(side, axis): list(values) for side, axis, values in state["buffers"]}
        self._pending = {np.array(task).tobytes(): (side, axis) for task, side, axis in state["pending"]}
