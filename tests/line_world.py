"""An environment so small that all about it can be computed: a point on a line."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

ID = "TutelageLine-v0"


class Line(gymnasium.Env[Any, Any]):
    """x <- x + a, a in [-2, 2], reward -x^2 of the new x; it ends beyond 4, and by time after 10 steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, reward: float | None = None, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
        self.reward, self.render_mode = reward, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.steps = float(self.np_random.uniform(-1, 1)), 0
        return np.array([self.x], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x += float(action[0])
        self.steps += 1
        reward = -(self.x**2) if self.reward is None else self.reward
        return np.array([self.x], np.float32), reward, abs(self.x) > 4, self.steps >= 10, {}

    def render(self) -> Any:
        return np.full((4, 6, 3), int(10 * abs(self.x)) % 256, np.uint8)


def register() -> str:
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=Line)
    return ID
