"""Absolute learning progress (Portelas et al. 2019, arXiv 1910.07224, section 4): how much a return differs from the one
on the nearest task seen before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree

from tutelage.core.checks import check_integer
from tutelage.data.worlds.task_space import Floats


class LearningProgress:
    """All (task, return, alp) seen so far, and the exact nearest neighbour among them.

    dims: d. least: alp is 0 until so many tasks are stored. buffer: the newest tasks, up to so many, are searched one by
    one; the others lie in a k-d tree that is rebuilt when the buffer is full. The same answer for any buffer.
    """

    def __init__(self, dims: int, *, least: int = 6, buffer: int = 500) -> None:
        check_integer("dims", dims)
        check_integer("least", least)
        check_integer("buffer", buffer)
        self.dims, self.least, self.buffer = dims, least, buffer
        self._rows: Floats = np.empty((1024, dims + 2))
        self._n = 0
        self._tree: KDTree | None = None
        self._newest: dict[bytes, int] = {}  # the last visit of each task, for tasks that come back exactly

    def __len__(self) -> int:
        return self._n

    @property
    def tasks(self) -> Floats:
        """(n, d), in order of time."""
        return self._rows[: self._n, : self.dims]

    @property
    def returns(self) -> Floats:
        """(n,)"""
        return self._rows[: self._n, self.dims]

    @property
    def alps(self) -> Floats:
        """(n,)"""
        return self._rows[: self._n, self.dims + 1]

    def nearest(self, task: Floats) -> int:
        """The index of the nearest task (Euclidean); of several visits of the very same task the last one."""
        same = self._newest.get((task + 0.0).tobytes())
        if same is not None:
            return same
        split = self._split
        found, distance = -1, math.inf
        if self._tree is not None:
            far, where = self._tree.query(task)
            found, distance = int(where), float(far)
        if split < self._n:
            squares = ((self.tasks[split:] - task) ** 2).sum(1)
            i = int(squares.argmin())
            if float(squares[i]) ** 0.5 <= distance:
                found = split + i
        return self._newest.get((self.tasks[found] + 0.0).tobytes(), found)

    def add(self, task: Floats, ret: float) -> float:
        """Store an episode and return its alp, |ret - ret of the nearest earlier task|."""
        alp = abs(ret - float(self.returns[self.nearest(task)])) if self._n >= self.least else 0.0
        if self._n == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._n] = (*task, ret, alp)
        self._newest[(task + 0.0).tobytes()] = self._n  # + 0.0: -0.0 is 0.0
        self._n += 1
        if self._n % self.buffer == 0:
            self._tree = KDTree(self.tasks)
        return alp

    @property
    def _split(self) -> int:
        """How many tasks lie in the tree."""
        return self._n - self._n % self.buffer

    def state_dict(self) -> dict[str, Any]:
        return {"rows": torch.from_numpy(self._rows[: self._n].copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = state["rows"].numpy()
        self._n = len(rows)
        self._rows = np.empty((max(1024, self._n), self.dims + 2))
        self._rows[: self._n] = rows
        self._newest = {(task + 0.0).tobytes(): i for i, task in enumerate(self.tasks)}
        self._tree = KDTree(self.tasks[: self._split]) if self._split else None
