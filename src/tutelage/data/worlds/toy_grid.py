"""The n-dimensional toy world of Portelas et al. (2019, arXiv 1910.07224): cubes of tasks that unlock one another.

The unit box is cut into `n` cubes a dimension. A visit to a cube raises the learner's competence there by 1, up to 100, if
the cube is unlocked: it is the cube at the origin, or a predecessor (a cube one step back in some dimensions, and the same
in the others) has a competence of at least 75. The return of a visit is the competence after it, over 100. A cube counts as
mastered above 75. Further dimensions that do nothing may be added.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tutelage.core.checks import check_integer
from tutelage.data.worlds.task_space import TaskSpace

FULL, UNLOCKS = 100, 75


class ToyGrid:
    """World and learner in one: calling it with a task is one episode.

    n: cubes a dimension. d: dimensions that matter. irrelevant: dimensions that do nothing, after the others.
    competence: integers 0..100 of shape (n,) * d.
    """

    def __init__(self, n: int = 10, d: int = 2, irrelevant: int = 0) -> None:
        check_integer("n", n)
        check_integer("d", d, high=8)
        check_integer("irrelevant", irrelevant, low=0)
        self.n, self.d = n, d
        names = [*(f"dimension {i + 1}" for i in range(d)), *(f"irrelevant {i + 1}" for i in range(irrelevant))]
        self.task_space = TaskSpace([0.0] * (d + irrelevant), [1.0] * (d + irrelevant), names)
        self.competence: NDArray[np.int64] = np.zeros((n,) * d, dtype=np.int64)
        self._back = [step for step in product((0, 1), repeat=d) if any(step)]

    def __call__(self, task: ArrayLike) -> float:
        """One episode on `task`, (d + irrelevant,) in [0, 1] -> its return in [0, 1]."""
        cube = self.cube(task)
        if self.unlocked(cube):
            self.competence[cube] = min(FULL, int(self.competence[cube]) + 1)
        return float(self.competence[cube]) / FULL

    def cube(self, task: ArrayLike) -> tuple[int, ...]:
        """The index of the cube in which a task lies; 1.0 belongs to the last one."""
        where = self.task_space.check(task)[: self.d]
        return tuple(min(self.n - 1, int(one * self.n)) for one in where)

    def unlocked(self, cube: tuple[int, ...]) -> bool:
        if not any(cube):
            return True
        for step in self._back:
            before = tuple(i - s for i, s in zip(cube, step, strict=True))
            if min(before) >= 0 and self.competence[before] >= UNLOCKS:
                return True
        return False

    @property
    def mastered_share(self) -> float:
        """Share of the cubes with a competence above 75."""
        return float((self.competence > UNLOCKS).mean())

    def state_dict(self) -> dict[str, Any]:
        return {"competence": torch.from_numpy(self.competence.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.competence = state["competence"].numpy().reshape((self.n,) * self.d).copy()
