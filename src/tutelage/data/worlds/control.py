"""CartPole and Pendulum of Gymnasium with physical parameters as tasks; about half of each space cannot be learnt.

Both have `task_space`, `set_task(task)` (before `reset`), `learnable(task)`, returns in [0, 1], an end after `steps` steps, and
`is_success` in the info of the last step. They need the extra `rl`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.core.checks import check_integer
from tutelage.core.errors import MissingError
from tutelage.data.worlds.task_space import TaskSpace

try:
    from gymnasium import Env
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv
    from gymnasium.envs.classic_control.pendulum import PendulumEnv
    from gymnasium.spaces import Box
except ModuleNotFoundError as error:
    raise MissingError("this environment needs gymnasium: install tutelage[rl]") from error

Observation = NDArray[np.float32]


class WindyCartPole(CartPoleEnv):
    """CartPole in a constant wind: tasks are (wind on the cart in N, 0..20; half length of the pole in m, 0.25..1).

    The cart is pushed with 10 N to either side as ever, so in a wind of more than that it cannot move against it: that half
    of the space is out of reach for every policy. Observation (5,): cart position, cart velocity, pole angle, pole angular
    velocity, and wind / 10 - 1. Reward: 1 / steps a step. Success: the pole stands until the end.
    """

    def __init__(self, steps: int = 200, render_mode: str | None = None) -> None:
        check_integer("steps", steps)
        super().__init__(render_mode=render_mode)
        self.task_space = TaskSpace((0.0, 0.25), (20.0, 1.0), ("wind, N", "half length of the pole, m"))
        self.steps, self.push, self.wind, self.done_steps = steps, float(self.force_mag), 0.0, 0
        old: Any = self.observation_space
        high = np.append(old.high, np.float32(1.0)).astype(np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)

    def set_task(self, task: ArrayLike) -> None:
        wind, length = self.task_space.check(task)
        self.wind, self.length = float(wind), float(length)
        self.polemass_length = self.masspole * self.length

    def learnable(self, task: ArrayLike) -> bool:
        """Can the cart be pushed against the wind?"""
        return bool(self.task_space.check(task)[0] < self.push)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        self.done_steps = 0
        state, info = super().reset(seed=seed, options=options)
        return self._with_wind(state), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        # the wind is added to the push of either side, with Gymnasium's own equations of motion
        self.force_mag = self.push + self.wind if action == 1 else self.push - self.wind
        state, _, fallen, _, info = super().step(action)  # type: ignore[no-untyped-call]
        self.done_steps += 1
        ended = self.done_steps >= self.steps
        if fallen or ended:
            info["is_success"] = not fallen
        return self._with_wind(state), 1 / self.steps, bool(fallen), ended and not fallen, info

    def _with_wind(self, state: NDArray[Any]) -> Observation:
        return np.append(state, self.wind / 10 - 1).astype(np.float32)


class WeakPendulum(PendulumEnv):
    """Pendulum that hangs down at first: tasks are (largest torque in N m, 0..1.5; length in m, 0.75..1.25).

    Below some torque, which depends on the length, no policy gets it over the top in time. Observation (4,): cosine and
    sine of the angle (0 is up), angular velocity, largest torque. Actions in [-1, 1], times the largest torque. Reward:
    (1 - cost / 16.3) / steps with Gymnasium's cost. Success: within 0.5 rad of the top in the last fifth of the steps.
    """

    def __init__(self, steps: int = 150, render_mode: str | None = None) -> None:
        check_integer("steps", steps, low=5)
        super().__init__(render_mode=render_mode)
        self.task_space = TaskSpace((0.0, 0.75), (1.5, 1.25), ("largest torque, N m", "length, m"))
        self.steps, self.done_steps, self.up_steps = steps, 0, 0
        self.action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)
        high = np.array([1.0, 1.0, self.max_speed, self.task_space.high[0]], dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)

    def set_task(self, task: ArrayLike) -> None:
        torque, length = self.task_space.check(task)
        self.max_torque, self.l = float(torque), float(length)

    def learnable(self, task: ArrayLike) -> bool:
        """Can it be over the top in three quarters of the steps? Pushing with the motion adds energy fastest."""
        torque, length = self.task_space.check(task)
        angle, speed = math.pi - 0.1, 0.0
        for _ in range(3 * self.steps // 4):
            push = torque if speed >= 0 else -torque
            force = 1.5 * self.g / length * math.sin(angle) + 3 * push / (self.m * length**2)
            speed = min(self.max_speed, max(-self.max_speed, speed + force * self.dt))
            angle += speed * self.dt
            if abs(angle) >= 2 * math.pi or abs(angle) <= 0.1:
                return True
        return False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        Env.reset(self, seed=seed)
        self.done_steps = self.up_steps = 0
        self.last_u: float | None = None
        self.state = np.array([math.pi, 0.0]) + self.np_random.uniform(-0.1, 0.1, size=2)
        return self._observe(), {}

    def step(self, u: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        torque = np.clip(np.asarray(u, dtype=np.float64), -1.0, 1.0) * self.max_torque
        _, reward, _, _, info = super().step(torque)  # type: ignore[no-untyped-call]
        self.done_steps += 1
        angle = (float(self.state[0]) + math.pi) % (2 * math.pi) - math.pi
        last = self.steps - self.steps // 5
        self.up_steps += int(self.done_steps > last and abs(angle) < 0.5)
        ended = self.done_steps >= self.steps
        if ended:
            info["is_success"] = self.up_steps == self.steps - last
        return self._observe(), (1 + float(reward) / 16.3) / self.steps, False, ended, info

    def _observe(self) -> Observation:
        state = self._get_obs()  # type: ignore[no-untyped-call]
        return np.append(state, self.max_torque).astype(np.float32)
