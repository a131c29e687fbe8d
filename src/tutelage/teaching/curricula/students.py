"""Students from Stable-Baselines3 under a curriculum: one wrapper for all its algorithms, with our own checkpoints.

The contract of a run that is stopped, at any moment, the middle of an episode too: statistics are per episode. At each
checkpoint the episodes that are under way are dropped, in a run that is never stopped as well, and the generators are
seeded anew; so a run that is resumed has the same finished episodes, returns and weights as one that went through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from tutelage.core.checks import check_callable, check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import check_folder
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, seeded
from tutelage.data.worlds.task_space import Floats
from tutelage.teaching.checkpoint import save_checkpoint
from tutelage.teaching.curricula.environments import TaughtEnv
from tutelage.teaching.curricula.run import History, resume
from tutelage.teaching.curricula.sampler import TaskSampler

try:
    import stable_baselines3
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.vec_env import DummyVecEnv
except ModuleNotFoundError as error:
    raise MissingError("this student needs stable-baselines3: install tutelage[rl]") from error

ALGORITHMS = ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")
BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True)
class Evaluation:
    """returns (n,): of the tasks. success (n,): 0 or 1, the environment's `is_success` at the end."""

    returns: Floats
    success: Floats


class SB3Student:
    """A student that learns on environments whose tasks `sampler` chooses.

    algorithm: PPO, A2C, DQN, SAC, TD3 or DDPG. make_env: makes one environment with tasks (see `TaskEnv`). n_envs: of
    them, stepped in turns. save_every: environment steps between checkpoints, rounded up to whole rollouts. options: of
    the algorithm's constructor, such as n_steps or learning_rate (a number; schedules would restart at each checkpoint).
    Runs on the CPU unless options has a device. Raises InputError for what cannot be used, before anything is made.
    """

    def __init__(
        self,
        algorithm: str,
        make_env: Callable[[], Any],
        sampler: TaskSampler,
        *,
        seed: int = 0,
        n_envs: int = 8,
        save_every: int = 20_000,
        policy: str = "MlpPolicy",
        **options: Any,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise InputError("algorithm", algorithm, f"one of {', '.join(ALGORITHMS)}")
        check_callable("make_env", make_env, "a function that makes an environment with tasks")
        check_integer("n_envs", n_envs)
        check_integer("save_every", save_every)
        if callable(options.get("learning_rate")):
            raise InputError("learning_rate", "a schedule", "a number: a schedule would start again at each checkpoint")
        self.algorithm, self.seed, self.save_every, self.sampler = algorithm, seed, save_every, sampler
        self.make_env, self.history, self.parts = make_env, History(sampler.space), 0
        self._envs = DummyVecEnv([lambda: TaughtEnv(make_env(), sampler, self.history)] * n_envs)
        kind = getattr(stable_baselines3, algorithm)
        with seeded(seed, "student"):
            self.model = kind(policy, self._envs, **{"device": "cpu", **options})

    def learn(self, steps: int, *, checkpoint: Path | str | None = None, progress: Progress = QUIET) -> History:
        """Learn until at least `steps` environment steps were made in all. checkpoint: a folder to save in and go on from."""
        check_integer("steps", steps)
        folder = None if checkpoint is None else Path(checkpoint)
        if folder is not None:
            check_folder(folder, "checkpoint")
            resume(folder, self._parts())
        with progress.task(f"{self.algorithm} student", steps) as task:
            task.advance(min(steps, self.model.num_timesteps))
            while self.model.num_timesteps < steps:
                before = self.model.num_timesteps
                self._learn_part(min(self.save_every, steps - before))
                if folder is not None:
                    state = {name: one.state_dict() for name, one in self._parts().items()}
                    save_checkpoint(folder, self.model.num_timesteps, state)
                task.advance(self.model.num_timesteps - before, f"{len(self.history)} episodes")
        return self.history

    def _parts(self) -> dict[str, Any]:
        return {"student": self, "sampler": self.sampler, "history": self.history}

    def _learn_part(self, steps: int) -> None:
        with seeded(self.seed, "part", self.parts):
            self._envs.seed(derive(self.seed, "environments", self.parts) % 2**31)
            self.model.action_space.seed(derive(self.seed, "actions", self.parts) % 2**31)
            self.model.set_env(self._envs, force_reset=True)  # episodes start anew
            self.model.learn(steps, reset_num_timesteps=False)
        self.parts += 1

    def predict(self, observations: ArrayLike) -> Any:
        """Actions for observations (..., o), without exploration."""
        return self.model.predict(np.asarray(observations), deterministic=True)[0]

    def evaluate(self, tasks: Sequence[ArrayLike] | Floats, *, seed: int = 0) -> Evaluation:
        """One episode without exploration on each of `tasks` (n, d), in fresh environments, stepped side by side.

        The i-th start is drawn with a seed derived from (seed, i): the same for every student. Nothing is learnt or told.
        """
        envs = [self.make_env() for _ in tasks]
        states = []
        for i, (env, task) in enumerate(zip(envs, tasks, strict=True)):
            env.unwrapped.set_task(task)
            states.append(env.reset(seed=derive(seed, "evaluation", i) % 2**31)[0])
        returns, success, going = np.zeros(len(envs)), np.zeros(len(envs)), list(range(len(envs)))
        while going:
            actions = self.predict(np.stack([states[i] for i in going]))
            left = []
            for i, action in zip(going, actions, strict=True):
                states[i], reward, ended, late, info = envs[i].step(action)
                returns[i] += float(reward)
                if ended or late:
                    success[i] = float(info.get("is_success", False))
                else:
                    left.append(i)
            going = left
        for env in envs:
            env.close()
        return Evaluation(returns, success)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning goes on from: weights, optimisers, step counts, the replay buffer if there is one."""
        model = self.model
        state: dict[str, Any] = {
            "algorithm": self.algorithm,
            "parameters": model.get_parameters(),
            "variables": {name: _variable(model, name).detach().clone() for name in model._get_torch_save_params()[1]},
            "parts": self.parts,
            "steps": model.num_timesteps,
            "updates": model._n_updates,
            "episodes": model._episode_num,
        }
        if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
            buffer = model.replay_buffer
            used = buffer.buffer_size if buffer.full else buffer.pos
            arrays = {name: torch.from_numpy(getattr(buffer, name)[:used].copy()) for name in BUFFER}
            state["buffer"] = {**arrays, "pos": buffer.pos, "full": buffer.full}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError for the state of another algorithm."""
        if state["algorithm"] != self.algorithm:
            raise InputError("state", f"that of {state['algorithm']}", f"the state of {self.algorithm}")
        model = self.model
        model.set_parameters(state["parameters"], exact_match=True, device="cpu")
        for name, value in state["variables"].items():
            _variable(model, name).data.copy_(value)
        self.parts, model.num_timesteps = int(state["parts"]), int(state["steps"])
        model._n_updates, model._episode_num = int(state["updates"]), int(state["episodes"])
        if "buffer" in state:
            buffer, kept = model.replay_buffer, state["buffer"]
            for name in BUFFER:
                getattr(buffer, name)[: len(kept[name])] = kept[name].numpy()
            buffer.pos, buffer.full = int(kept["pos"]), bool(kept["full"])

    def save(self, folder: Path | str) -> Path:
        """Write student, teacher and history, in our own format (no pickle)."""
        state = {name: one.state_dict() for name, one in self._parts().items()}
        return save_checkpoint(Path(folder), self.model.num_timesteps, state)

    def load(self, folder: Path | str) -> None:
        """Read what `save` wrote. Raises MissingError if there is nothing, CheckpointError if it is damaged or foreign."""
        if not any(Path(folder).glob("step-*.json")):
            raise MissingError(f"there is no saved student in {folder}")
        resume(Path(folder), self._parts())


def _variable(model: Any, name: str) -> torch.Tensor:
    found: torch.Tensor = model
    for part in name.split("."):
        found = getattr(found, part)
    return found
