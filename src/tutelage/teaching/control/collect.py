"""Log data sets for offline learning: train our own SAC once, and keep what it saw.

As D4RL does for its sets (arXiv 2004.07219), with our own agent, steps and references: scores are comparable here, not with
D4RL.

    random    as many steps of uniform actions as `replay` has
    replay    everything the agent saw until a policy of it first reached half-way from random to expert (medium-replay)
    medium    as many steps of that half-way policy, exploration included

Random and expert are mean returns of whole episodes: of uniform actions, and of the best policy of the run without exploration.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import CheckpointError, InputError
from tutelage.core.files import check_folder, write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.data.offline.files import write_minari
from tutelage.data.offline.transitions import ARRAYS, OfflineDataset
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint
from tutelage.teaching.control.environments import (
    Act,
    action_bounds,
    as_observation,
    checked_reward,
    evaluate,
    make_environment,
    start,
)
from tutelage.teaching.control.policies import Policy
from tutelage.teaching.control.sac import SAC, SACConfig

QUALITIES = ("random", "replay", "medium")


@dataclass(frozen=True)
class CollectConfig:
    """environment: an id of gymnasium. steps: of the agent in all. random_steps: uniform actions before it acts by itself.
    update_every: environment steps for an update; more make it learn more slowly, so that the replay grows longer.
    snapshot_every: steps between two snapshots of the policy, of which the half-way one and the expert are chosen. episodes:
    of each measured return. Raises InputError."""

    environment: str = "Pendulum-v1"
    steps: int = 30_000
    random_steps: int = 1000
    update_every: int = 8
    snapshot_every: int = 1000
    episodes: int = 20
    seed: int = 0
    sac: SACConfig = field(default_factory=SACConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "random_steps", "update_every", "snapshot_every", "episodes"):
            check_integer(name, getattr(self, name))
        if self.steps < self.random_steps + self.snapshot_every:
            raise InputError("steps", self.steps, f"at least {self.random_steps + self.snapshot_every}, for one snapshot")


@dataclass(frozen=True)
class Collected:
    """sets: quality -> data. curve: (step, mean return) of each snapshot. expert: the best policy."""

    sets: dict[str, OfflineDataset]
    curve: list[tuple[int, float]]
    expert: Policy


def make_sets(config: CollectConfig, folder: str | Path, *, progress: Progress = QUIET) -> dict[str, Path]:
    """Log the three sets into `folder`, one HDF5 file in Minari's layout each, and the expert's policy; -> quality -> file.

    Files that are there are kept: a set is logged once. A run that was killed goes on from its last checkpoint in `folder`.
    Raises as `collect` does, and InputError for a folder that holds sets of other settings.
    """
    folder = Path(folder)
    check_folder(folder, "to")
    files = {quality: folder / f"{quality}.hdf5" for quality in QUALITIES}
    settings, note = asdict(config), folder / "settings.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != settings:
        raise InputError("to", str(folder), "an empty folder; this one holds sets of other settings")
    if all(file.is_file() for file in files.values()):
        return files
    write_json(note, settings)
    made = collect(config, checkpoint=folder / "checkpoint", progress=progress)
    made.expert.save(folder / "expert")
    write_json(folder / "curve.json", made.curve)
    for quality, data in made.sets.items():
        write_minari(data, files[quality])
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return files


def collect(config: CollectConfig, *, checkpoint: str | Path | None = None, progress: Progress = QUIET) -> Collected:
    """Train the agent and log the three sets.

    checkpoint: a folder, written at the end of the episode in which a snapshot falls due. A run that is killed starts the
    episode after its last checkpoint again; each episode starts from what its number says, so the sets come out the same.

    Raises MissingError without the environment, InputError for a reward that is NaN and for an agent that never beats random.
    """
    run = _Run(config)
    folder = Path(checkpoint) if checkpoint is not None else None
    if folder is not None and (found := load_checkpoint(folder)) is not None:
        run.load_state_dict(found[1])
    with progress.task(f"SAC in {config.environment}", config.steps) as task:
        task.advance(run.n)
        while run.n < config.steps:
            before = run.n
            run.episode()
            if run.n // config.snapshot_every > before // config.snapshot_every or run.n == config.steps:
                run.snapshot()
                if folder is not None:
                    save_checkpoint(folder, run.n, run.state_dict())
            task.advance(run.n - before, f"return {run.curve[-1][1]:.0f}" if run.curve else "")
    return run.collected()


class _Run:
    """The agent, its environment, and everything it saw."""

    def __init__(self, config: CollectConfig) -> None:
        self.config, self.world = config, make_environment(config.environment)
        self.low, self.high = action_bounds(self.world)
        self.obs_dim, self.act_dim = self.world.observation_space.shape[0], len(self.low)
        self.agent = SAC(self.obs_dim, self.act_dim, config.sac, seed=config.seed)
        self.generator = generator(config.seed, "collect")
        self.log = _empty(config.steps, self.obs_dim, self.act_dim)
        self.n, self.episodes = 0, 0
        self.curve: list[tuple[int, float]] = []
        self.actors: list[dict[str, Tensor]] = []

    def episode(self) -> None:
        """One episode, with its updates; cut where the steps end."""
        config, log = self.config, self.log
        observation = start(self.world, config.seed, "logged", self.episodes)
        ended = False
        while not ended and self.n < config.steps:
            action = self._explore(observation)
            observation, ended = _step(self.world, observation, self._scaled(action), log, self.n)
            self.n += 1
            if self.n >= config.random_steps and self.n % config.update_every == 0:
                index = torch.randint(self.n, (config.sac.batch_size,), generator=self.generator)
                rewards, terminals = log["rewards"][index, None], log["terminals"][index, None].float()
                acted = (log["actions"][index] - (self.low + self.high) / 2) / ((self.high - self.low) / 2)
                self.agent.update(
                    log["observations"][index], acted, rewards, log["next_observations"][index], terminals
                )  # fmt: skip
        self.episodes += 1

    def _explore(self, observation: Tensor) -> Tensor:
        """An action in [-1, 1]^m."""
        if self.n < self.config.random_steps:
            return 2 * torch.rand(self.act_dim, generator=self.generator) - 1
        return self.agent.act(observation[None])[0]

    def _scaled(self, action: Tensor) -> Tensor:
        return (self.low + self.high) / 2 + (self.high - self.low) / 2 * action

    def snapshot(self) -> None:
        self.actors.append({key: value.clone() for key, value in self.agent.actor.state_dict().items()})
        policy = self.policy(len(self.actors) - 1)
        returns = evaluate(policy, self.config.environment, episodes=self.config.episodes, seed=self.config.seed)
        self.curve.append((self.n, float(returns.mean())))

    def policy(self, snapshot: int) -> Policy:
        """Without exploration."""
        d, agent = self.obs_dim, SAC(self.obs_dim, self.act_dim, self.config.sac)
        agent.actor.load_state_dict(self.actors[snapshot])
        return Policy(agent.mean_net(), torch.zeros(d), torch.ones(d), self.low, self.high)

    def collected(self) -> Collected:
        config = self.config
        uniform = generator(config.seed, "uniform")

        def at_random(observations: Tensor) -> Tensor:
            return self._scaled(2 * torch.rand(len(observations), self.act_dim, generator=uniform) - 1)

        lowest = float(evaluate(at_random, config.environment, episodes=config.episodes, seed=config.seed + 1).mean())
        best = max(range(len(self.curve)), key=lambda i: self.curve[i][1])
        # measured again, on episodes that did not choose it
        expert = self.policy(best)
        highest = float(evaluate(expert, config.environment, episodes=config.episodes, seed=config.seed + 1).mean())
        if highest <= lowest:
            raise InputError("steps", config.steps, f"enough to beat random actions ({highest:.4g} <= {lowest:.4g})")
        half = next(i for i, (_, value) in enumerate(self.curve) if value >= min((lowest + highest) / 2, self.curve[best][1]))
        n = self.curve[half][0]
        medium = SAC(self.obs_dim, self.act_dim, config.sac, seed=config.seed + 1)
        medium.actor.load_state_dict(self.actors[half])
        logs = {
            "random": played(config.environment, at_random, n, config.seed + 2),
            "replay": {name: value[:n].clone() for name, value in self.log.items()},
            "medium": played(config.environment, lambda s: self._scaled(medium.act(s)), n, config.seed + 3),
        }
        origin = {
            "generator": f"SAC, {config.steps} steps, seed {config.seed}",
            "version": f"gymnasium {gymnasium_version()}, torch {torch.__version__}",
        }
        sets = {
            quality: OfflineDataset(
                **log, action_low=self.low, action_high=self.high, name=f"{config.environment}-{quality}",
                environment=config.environment, random_return=lowest, expert_return=highest, kind="environment", origin=origin,
            )
            for quality, log in logs.items()
        }  # fmt: skip
        return Collected(sets, self.curve, expert)

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "agent": self.agent.state_dict(),
            "generator": self.generator.get_state(),
            "log": {name: value[: self.n].clone() for name, value in self.log.items()},
            "n": self.n,
            "episodes": self.episodes,
            "curve": list(self.curve),
            "actors": list(self.actors),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["config"] != asdict(self.config):
            raise CheckpointError("the checkpoint is of a run with other settings")
        self.agent.load_state_dict(state["agent"])
        self.generator.set_state(state["generator"])
        self.n, self.episodes = state["n"], state["episodes"]
        for name, value in state["log"].items():
            self.log[name][: self.n] = value
        self.curve, self.actors = list(state["curve"]), list(state["actors"])


def played(environment: str, policy: Act, n: int, seed: int) -> dict[str, Any]:
    """n transitions of a policy, observations (1, d) -> actions (1, m) in the environment's units; the arrays by name."""
    world, at, episodes = make_environment(environment), 0, 0
    log = _empty(n, world.observation_space.shape[0], world.action_space.shape[0])
    while at < n:
        observation, ended = start(world, seed, "played", episodes), False
        while not ended and at < n:
            with torch.no_grad():
                action = policy(observation[None])[0]
            observation, ended = _step(world, observation, action, log, at)
            at += 1
        episodes += 1
    return log


def _step(world: Any, observation: Tensor, taken: Tensor, log: dict[str, Tensor], at: int) -> tuple[Tensor, bool]:
    """Take an action and log it at row `at`; -> the next observation, whether the episode is over."""
    after, reward, terminated, truncated, _ = world.step(taken.numpy())
    row = (observation, taken, checked_reward(reward), as_observation(after), bool(terminated), bool(truncated))
    for name, value in zip(ARRAYS, row, strict=True):
        log[name][at] = value  # type: ignore[assignment]
    return log["next_observations"][at].clone(), bool(terminated or truncated)


def _empty(n: int, d: int, m: int) -> dict[str, Tensor]:
    shapes = ((n, d), (n, m), (n,), (n, d), (n,), (n,))
    dtypes = (torch.float32,) * 4 + (torch.bool,) * 2
    return {name: torch.zeros(shape, dtype=dtype) for name, shape, dtype in zip(ARRAYS, shapes, dtypes, strict=True)}


def gymnasium_version() -> str:
    """The version of the environments' library."""
    import gymnasium

    return str(gymnasium.__version__)
