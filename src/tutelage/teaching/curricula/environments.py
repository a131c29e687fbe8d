"""A Gymnasium environment whose task a sampler chooses anew for each episode, for any RL library."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

from numpy.typing import ArrayLike

from tutelage.core.errors import InputError, MissingError
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.teaching.curricula.run import History
from tutelage.teaching.curricula.sampler import TaskSampler

try:
    import gymnasium
except ModuleNotFoundError as error:
    raise MissingError("curricula for RL need gymnasium: install tutelage[rl]") from error


@runtime_checkable
class TaskEnv(Protocol):
    """A Gymnasium environment with tasks: `set_task(task)` takes effect at the next `reset`."""

    task_space: TaskSpace

    def set_task(self, task: ArrayLike) -> None: ...


class TaughtEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """`env` under a curriculum: each reset takes a task from `sampler`, each end of an episode tells it the return.

    Several of these may share one sampler and one history. An episode that is reset before its end is not told: it counts
    for nothing. Raises InputError for an environment without tasks, or a sampler of another space.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], sampler: TaskSampler, history: History | None = None) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, TaskEnv):
            raise InputError("env", type(env.unwrapped).__name__, "an environment with task_space and set_task(task)")
        inner: Any = env.unwrapped
        space = inner.task_space
        if (space.low, space.high) != (sampler.space.low, sampler.space.high):
            raise InputError("sampler", f"one for {sampler.space}", f"one for the environment's space, {space}")
        self.sampler, self.history = sampler, history if history is not None else History(sampler.space)
        self._inner, self._task, self._ret = inner, sampler.space.from_unit([0.5] * sampler.space.dims), 0.0

    @property
    def task(self) -> Floats:
        """The task of the present episode, (d,)."""
        return self._task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._task, self._ret = self.sampler.sample(), 0.0
        self._inner.set_task(self._task)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        state, reward, ended, late, info = self.env.step(action)
        self._ret += float(reward)
        if ended or late:
            self.sampler.update(self._task, self._ret)
            if math.isfinite(self._ret):  # one that is not was skipped by the sampler too
                self.history.add(self._task, self._ret)
        return state, reward, ended, late, info
