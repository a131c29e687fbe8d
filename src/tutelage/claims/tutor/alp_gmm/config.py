"""The settings of the claim, for all its arms."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tutelage.claims.claim import ClaimConfig

UNSEEN = "test tasks"  # name of the stream that test tasks are drawn from, the same ones for every unit


class Config(ClaimConfig):
    """What `--set` may change."""

    cubes: int = Field(10, ge=2, description="of the toy grid, a dimension")
    irrelevant: int = Field(2, ge=1, description="dimensions that do nothing, in the arms that end so")
    episodes: int = Field(20_000, ge=1, description="on the toy grid")
    fit_rate: int = Field(250, ge=10, description="episodes between fits of a mixture")
    random_ratio: float = Field(0.2, ge=0, le=1)
    rl_world: Literal["windy-cartpole", "weak-pendulum", "stump-track"] = "windy-cartpole"
    rl_student: Literal["PPO", "SAC"] = "PPO"
    rl_steps: int = Field(100_000, ge=1, description="environment steps of a student")
    rl_episode: int = Field(200, ge=5, description="longest episode, steps")
    rl_rollout: int = Field(128, ge=2, description="PPO: steps of each of the 8 environments between updates")
    rl_fit_rate: int = Field(100, ge=10, description="as fit_rate; an RL student has fewer episodes")
    rl_tasks: int = Field(60, ge=1, description="fixed test tasks, all learnable where that is known")
    digits_episodes: int = Field(2000, ge=1)
    digits_fit_rate: int = Field(250, ge=10)
    digits_tasks: int = Field(60, ge=1, description="fixed test tasks, drawn uniformly")
