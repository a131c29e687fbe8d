"""How hard a training is at a moment: a level from 0 to 1 that grows on a schedule or with what the learner can do."""

from __future__ import annotations

from typing import Any, Literal, get_args

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError

Kind = Literal["linear", "sqrt", "self_paced", "fixed"]


class Curriculum:
    """`level(progress, metric) -> float`, the level at a share `progress` of the training.

    "linear": progress / until, "sqrt": its root, both at 1 from `until` on. "fixed": 1 from the beginning. "self_paced": starts
    at 0; with each metric (an accuracy on what the learner is trained on, never on test data) a moving average is updated, and
    the level rises by `step` where it is above `up`, falls where it is below `down`, and stays in between.
    """

    def __init__(
        self, kind: Kind = "sqrt", *, until: float = 0.7, step: float = 0.01, up: float = 0.75, down: float = 0.4,
        momentum: float = 0.9,
    ) -> None:  # fmt: skip
        check_choice("kind", kind, get_args(Kind))
        check_positive("until", until, "a share of the training above 0")
        check_number("until", until, "a share of the training, at most 1", high=1.0)
        for name, value in (("step", step), ("up", up), ("down", down), ("momentum", momentum)):
            check_number(name, value, "a number from 0 to 1", low=0, high=1)
        if down > up:
            raise InputError("down", down, f"at most up, {up}")
        self.kind, self.until, self.step, self.up, self.down, self.momentum = kind, until, step, up, down, momentum
        self._level, self._average = 0.0, None if kind == "self_paced" else 0.0

    def level(self, progress: float, metric: float | None = None) -> float:
        """progress: share of the training done, in [0, 1]. metric: in [0, 1], or None where nothing was measured yet."""
        check_number("progress", progress, "a share from 0 to 1", low=0, high=1)
        if self.kind == "fixed":
            return 1.0
        if self.kind != "self_paced":
            share = min(1.0, progress / self.until)
            return share if self.kind == "linear" else share**0.5
        if metric is not None:
            check_number("metric", metric, "an accuracy from 0 to 1", low=0, high=1)
            before = metric if self._average is None else self._average
            self._average = self.momentum * before + (1 - self.momentum) * metric
            if self._average > self.up:
                self._level = min(1.0, self._level + self.step)
            elif self._average < self.down:
                self._level = max(0.0, self._level - self.step)
        return self._level

    def state_dict(self) -> dict[str, Any]:
        return {"level": self._level, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._level, self._average = float(state["level"]), state["average"]
