"""Environments of gymnasium: making them, and playing episodes in them with a policy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.core.checks import check_callable, check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.rng import derive

# an id of gymnasium, or a function that makes an environment
Environment = str | Callable[[], Any]
Act = Callable[[Tensor], Tensor]


def make_environment(environment: Environment, **options: Any) -> Any:
    """A fresh gymnasium environment with observations (d,) and actions (m,) that are bounded boxes.

    Raises MissingError without gymnasium or what the environment needs, InputError for an unknown id and other spaces.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise MissingError('environments need gymnasium: pip install "tutelage[rl]"') from error
    made: Any
    if isinstance(environment, str):
        try:
            made = gymnasium.make(environment, disable_env_checker=True, **options)
        except gymnasium.error.DependencyNotInstalled as error:
            raise MissingError(f'{environment}: {error}; pip install "tutelage[rl]"') from error
        except gymnasium.error.Error as error:
            raise InputError("environment", environment, f"an id of gymnasium, such as 'Pendulum-v1' ({error})") from error
    else:
        check_callable("environment", environment, "an id of gymnasium, or a function that makes an environment")
        made = environment(**options)
    for name in ("observation_space", "action_space"):
        space = getattr(made, name, None)
        if not isinstance(space, gymnasium.spaces.Box) or space.shape is None or len(space.shape) != 1:
            raise InputError("environment", f"{name} {space}", "a box of one dimension; flatten other spaces first")
    if not (np.isfinite(made.action_space.low).all() and np.isfinite(made.action_space.high).all()):
        raise InputError("environment", f"action_space {made.action_space}", "bounded actions")
    return made


def action_bounds(environment: Any) -> tuple[Tensor, Tensor]:
    """(low, high), (m,) float32 each, of a made environment."""
    space = environment.action_space
    return torch.as_tensor(space.low, dtype=torch.float32), torch.as_tensor(space.high, dtype=torch.float32)


def start(environment: Any, seed: int, *names: object) -> Tensor:
    """Reset for the episode `names` of `seed`; -> observation (d,). An episode depends on its name alone."""
    observation, _ = environment.reset(seed=derive(seed, *names) % 2**31)
    return as_observation(observation)


def as_observation(value: npt.ArrayLike) -> Tensor:
    return torch.as_tensor(np.asarray(value, dtype=np.float32))


def checked_reward(reward: Any) -> float:
    """The reward as a number. Raises InputError for NaN and infinity."""
    value = float(reward)
    if not math.isfinite(value):
        raise InputError("environment", f"a reward of {value}", "finite rewards")
    return value


def evaluate(policy: Act, environment: Environment, *, episodes: int = 10, seed: int = 0) -> Tensor:
    """Returns (episodes,) float64 of `policy`, which maps observations (B, d) to actions (B, m) in the environment's units.

    The episodes run side by side, one call of the policy a step; each starts from a state that `seed` and its number give,
    so that two policies meet the same starts. Actions are cut to what the environment takes. Rewards are not discounted.

    Raises InputError for a reward or an action that is not finite, and for actions of another shape.
    """
    check_integer("episodes", episodes)
    check_callable("policy", policy, "a function from observations (B, d) to actions (B, m)")
    worlds = [make_environment(environment) for _ in range(episodes)]
    low, high = action_bounds(worlds[0])
    observations = torch.stack([start(world, seed, "episode", i) for i, world in enumerate(worlds)])
    returns, open_ones = torch.zeros(episodes, dtype=torch.float64), list(range(episodes))
    while open_ones:
        with torch.no_grad():
            actions = policy(observations[open_ones])
        if not isinstance(actions, Tensor) or actions.shape != (len(open_ones), len(low)):
            got = tuple(actions.shape) if isinstance(actions, Tensor) else type(actions).__name__
            raise InputError("policy", f"actions {got}", f"a tensor {(len(open_ones), len(low))}")
        if not bool(actions.isfinite().all()):
            raise InputError("policy", "actions that are not finite", "finite actions")
        taken = actions.clamp(low, high).numpy()
        still = []
        for i, action in zip(open_ones, taken, strict=True):
            observation, reward, terminated, truncated, _ = worlds[i].step(action)
            returns[i] += checked_reward(reward)
            observations[i] = as_observation(observation)
            if not (terminated or truncated):
                still.append(i)
        open_ones = still
    for world in worlds:
        world.close()
    return returns


def film(
    policy: Act, environment: Environment, *, frames: int = 8, every: int = 10, seed: int = 0
) -> list[npt.NDArray[np.uint8]]:
    """Pictures (H, W, 3) of one episode, one each `every` steps, at most `frames`; the episode is number 0 of `evaluate`."""
    check_integer("frames", frames)
    check_integer("every", every)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame opens a display even to draw into an array
    world = make_environment(environment, render_mode="rgb_array")
    low, high = action_bounds(world)
    observation, step = start(world, seed, "episode", 0), 0
    pictures: list[npt.NDArray[np.uint8]] = []
    while len(pictures) < frames:
        if step % every == 0:
            pictures.append(np.asarray(world.render(), dtype=np.uint8))
        with torch.no_grad():
            action = policy(observation[None])[0].clamp(low, high).numpy()
        after, _, terminated, truncated, _ = world.step(action)
        observation, step = as_observation(after), step + 1
        if terminated or truncated:
            break
    world.close()
    return pictures
