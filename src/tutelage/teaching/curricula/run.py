"""Running a curriculum: sample a task, let the learner have an episode on it, tell its return; resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike

from tutelage.core.checks import check_callable, check_integer
from tutelage.core.errors import CheckpointError, InputError
from tutelage.core.files import check_folder
from tutelage.core.progress import QUIET, Progress
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint
from tutelage.teaching.curricula.sampler import TaskSampler

Learner = Callable[[Floats], float]  # one episode on a task (d,), learning included -> its return


@runtime_checkable
class HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class History:
    """The finished episodes of a curriculum, in order: tasks (n, d) in the units of the space, returns (n,) as they were."""

    def __init__(self, space: TaskSpace) -> None:
        self.space = space
        self._rows: list[tuple[float, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, task: ArrayLike, ret: float) -> None:
        self._rows.append((*map(float, np.asarray(task)), float(ret)))

    @property
    def tasks(self) -> Floats:
        return self._array()[:, :-1]

    @property
    def returns(self) -> Floats:
        return self._array()[:, -1]

    def _array(self) -> Floats:
        return np.array(self._rows, dtype=np.float64).reshape(-1, self.space.dims + 1)

    def share(self, inside: Callable[[Floats], bool]) -> float:
        """Share of the episodes whose task satisfies `inside`; 0 for an empty history."""
        return float(np.mean([inside(task) for task in self.tasks])) if self._rows else 0.0

    def coverage(self, cells: int = 10) -> float:
        """Share of the cells of a grid, `cells` a dimension over the first two, in which at least one task lay."""
        check_integer("cells", cells)
        where = np.minimum(cells - 1, (self.space.to_unit(self.tasks)[:, :2] * cells).astype(int))
        return float(len(np.unique(where, axis=0)) / cells ** where.shape[1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": torch.from_numpy(self._array())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = [tuple(row) for row in state["rows"].tolist()]


def run_curriculum(
    sampler: TaskSampler,
    learner: Learner,
    episodes: int,
    *,
    checkpoint: Path | str | None = None,
    save_every: int = 1000,
    progress: Progress = QUIET,
) -> History:
    """Teach `learner` for `episodes` episodes and return what happened.

    learner: called with a task (d,), has one episode on it, returns the return. checkpoint: a folder; every `save_every`
    episodes the sampler, the history and, if it has a state_dict, the learner are kept there, and the same call goes on
    from the last of them. A learner that is a function of its state then ends exactly as if it had never been stopped.
    Raises InputError for a learner or sampler that cannot be used, and what the sampler raises for a NaN return.
    """
    if not isinstance(sampler, TaskSampler):
        raise InputError("sampler", type(sampler).__name__, "a TaskSampler: sample(), update(task, ret), state_dict()")
    check_callable("learner", learner, "a function of a task that returns the episode's return")
    check_integer("episodes", episodes)
    check_integer("save_every", save_every)
    history = History(sampler.space)
    folder = None if checkpoint is None else Path(checkpoint)
    parts: dict[str, HasState] = {"sampler": sampler, "history": history}
    whole: object = learner
    if isinstance(whole, HasState):
        parts["learner"] = whole
    if folder is not None:
        check_folder(folder, "checkpoint")
        resume(folder, parts)
    with progress.task("curriculum", episodes) as task_progress:
        for done in range(len(history) + 1, episodes + 1):
            task = sampler.sample()
            ret = float(learner(task))
            sampler.update(task, ret)
            history.add(task, ret)
            if folder is not None and (done % save_every == 0 or done == episodes):
                save_checkpoint(folder, done, {name: one.state_dict() for name, one in parts.items()})
            task_progress.advance(1, f"return {ret:.3g}")
    return history


def resume(folder: Path, parts: dict[str, HasState]) -> int:
    """Load the newest checkpoint into `parts`, if there is one; its step, or 0. Raises CheckpointError for a foreign one."""
    found = load_checkpoint(folder)
    if found is None:
        return 0
    step, state = found
    if state.keys() != parts.keys():
        raise CheckpointError(f"the checkpoint in {folder} holds {', '.join(state)}, wanted {', '.join(parts)}")
    for name, one in parts.items():
        one.load_state_dict(state[name])
    return step
