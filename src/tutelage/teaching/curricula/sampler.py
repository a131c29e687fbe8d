"""What every task sampler is: `sample()` proposes a task, `update(task, ret)` tells what return the learner had on it.

A sampler never sees the learner. Everything it knows can be saved and loaded, its generators too.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.data.worlds.task_space import Floats, TaskSpace

OnNaN = Literal["raise", "skip"]


@runtime_checkable
class TaskSampler(Protocol):
    """The contract of a curriculum. Tasks are (d,) in the units of `space`; one `update` a finished episode, in any order."""

    space: TaskSpace

    def sample(self) -> Floats: ...

    def update(self, task: ArrayLike, ret: float) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def check_pair(argument: str, value: object, wanted: str) -> None:
    """Two finite numbers, the lower one first."""
    numbers = list(value) if isinstance(value, tuple | list) else []
    if len(numbers) != 2 or not all(isinstance(one, Real) and math.isfinite(one) for one in numbers):
        raise InputError(argument, value, wanted)
    if numbers[0] >= numbers[1]:
        raise InputError(argument, value, wanted)


class Uniform:
    """Uniform random tasks: the trivial teacher, and the base of the others.

    returns: the range of an episode's return; it is mapped linearly to [0, 1] and clipped there (the paper maps
    (-150, 350)). None takes returns as they are. on_nan: "raise" an InputError for a return that is not finite, or
    "skip" the episode and count it in `skipped`. rng: a generator; two of its numbers seed the sampler's own two.
    Raises InputError for a wrong space, range or generator.
    """

    def __init__(
        self,
        space: TaskSpace,
        *,
        rng: np.random.Generator,
        returns: tuple[float, float] | None = None,
        on_nan: OnNaN = "raise",
    ) -> None:
        if not isinstance(space, TaskSpace):
            raise InputError("space", type(space).__name__, "a TaskSpace: TaskSpace(low, high)")
        if not isinstance(rng, np.random.Generator):
            raise InputError("rng", type(rng).__name__, "a numpy.random.Generator: numpy.random.default_rng(seed)")
        if returns is not None:
            check_pair("returns", returns, "the lowest and the highest return of an episode, low < high")
        check_choice("on_nan", on_nan, ("raise", "skip"))
        self.space, self.returns, self.on_nan = space, returns, on_nan
        self.episodes = self.skipped = 0
        # uniform tasks come from a stream of their own: a teacher that only explores is this one, number by number
        self.uniform_rng, self.rng = (np.random.default_rng(int(seed)) for seed in rng.integers(2**63, size=2))

    def sample(self) -> Floats:
        """The next task, (d,)."""
        return self.space.uniform(self.uniform_rng)

    def update(self, task: ArrayLike, ret: float) -> None:
        """Tell the return of one episode on `task`. Raises InputError for a task outside the space or a NaN return."""
        where = self.space.to_unit(self.space.check(task))
        number: object = ret
        if isinstance(number, bool) or not isinstance(number, Real):
            raise InputError("ret", number, "the return of the episode, a number")
        if not math.isfinite(ret):
            if self.on_nan == "raise":
                raise InputError("ret", ret, 'a finite return (on_nan="skip" leaves such episodes out and counts them)')
            self.skipped += 1
            return
        self.episodes += 1
        self._learn(where, self.scaled(float(ret)))

    def scaled(self, ret: float) -> float:
        """A return as the teacher sees it."""
        if self.returns is None:
            return ret
        low, high = self.returns
        return min(1.0, max(0.0, (ret - low) / (high - low)))

    def _learn(self, where: Floats, ret: float) -> None:
        """where: the task in [0, 1]^d. ret: its return, mapped to [0, 1]."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "kind": type(self).__name__,
            "low": list(self.space.low),
            "high": list(self.space.high),
            "episodes": self.episodes,
            "skipped": self.skipped,
            "uniform_rng": self.uniform_rng.bit_generator.state,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError for the state of another kind of sampler or of another space."""
        if state.get("kind") != type(self).__name__:
            raise InputError("state", f"that of a {state.get('kind')}", f"the state of a {type(self).__name__}")
        if (tuple(state["low"]), tuple(state["high"])) != (self.space.low, self.space.high):
            raise InputError("state", f"the box {state['low']} to {state['high']}", "the state of a sampler of the same space")
        self.episodes, self.skipped = int(state["episodes"]), int(state["skipped"])
        self.uniform_rng.bit_generator.state = state["uniform_rng"]
        self.rng.bit_generator.state = state["rng"]
