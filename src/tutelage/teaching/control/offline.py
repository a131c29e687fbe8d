"""What offline learners share: data sets side by side, normalisation, one optimiser, exact checkpoints; behaviour cloning.

Several data sets of one shape (one set under several corruptions, say) are learned by one learner, each with networks of its
own in one batched ensemble. All start from the same weights and see the same rows in the same order, so a set's networks
become what they would become alone, up to float error, in a fraction of the time.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import CheckpointError, InputError, NotFinite
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.data.offline.transitions import OfflineDataset
from tutelage.models.ensembles import EnsembleMLP
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint
from tutelage.teaching.control.policies import Policy, member

PolicyKind = Literal["deterministic", "gaussian"]
LOG_STD = (-5.0, 2.0)
STD_FLOOR = 1e-3  # added to each standard deviation of the observations
LOG_EVERY = 500


@dataclass(frozen=True)
class OfflineConfig:
    """hidden: width of both hidden layers. lr: of Adam; the actor's falls to 0 by a cosine. batch_size: rows an update.
    normalise: observations are normalised by mean and deviation of all observations and next observations of the data
    (corrupted as they are). policy: "deterministic" (squared error) or "gaussian" (likelihood). Raises InputError."""

    hidden: int = 256
    lr: float = 3e-4
    batch_size: int = 256
    normalise: bool = True
    policy: PolicyKind = "deterministic"

    def __post_init__(self) -> None:
        check_integer("hidden", self.hidden)
        check_integer("batch_size", self.batch_size)
        check_positive("lr", self.lr, "a number above 0")
        if not isinstance(self.normalise, bool):
            raise InputError("normalise", self.normalise, "True or False")
        check_choice("policy", self.policy, get_args(PolicyKind))


class OfflineLearner:
    """Base of offline learners over R data sets of one shape.

    data: one OfflineDataset or R of them. seed: of weights and batches. A subclass makes its nets in `build`, and gives the
    sum of its losses in `loss`; each net's gradient must come from its own set only.

    fit(steps) trains up to so many updates in all; `policies` are the R policies, `policy` is the only one. state_dict /
    load_state_dict hold everything that matters: a learner that is loaded goes on to the same weights, bit for bit.
    """

    nets: dict[str, nn.Module]

    def __init__(
        self, data: OfflineDataset | Sequence[OfflineDataset], config: OfflineConfig | None = None, *, seed: int = 0
    ) -> None:
        self.sets = _checked(data)
        self.config: Any = config if config is not None else self.default_config()
        self.seed, self.step, self.total = seed, 0, 0
        self.runs, first = len(self.sets), self.sets[0]
        self.obs_dim, self.act_dim = first.obs_dim, first.act_dim
        self.mean, self.std = _moments(self.sets, self.config.normalise)
        self.low, self.high = first.action_low, first.action_high
        self.rows = torch.stack([self._packed(i, one) for i, one in enumerate(self.sets)])
        self.generator = generator(seed, "offline", "batches")
        self.nets = self.build(generator(seed, "offline", "init"))
        self.optimizer = torch.optim.Adam(
            [
                {"params": [p for p in net.parameters() if p.requires_grad], "lr": self.config.lr, "name": name}
                for name, net in self.nets.items()
                if any(p.requires_grad for p in net.parameters())
            ],
            fused=True,
        )
        self.history: list[dict[str, Any]] = []

    # what a subclass gives

    def default_config(self) -> OfflineConfig:
        return OfflineConfig()

    def build(self, g: torch.Generator) -> dict[str, nn.Module]:
        """name -> net, "actor" among them; drawn from `g`."""
        return {"actor": self.build_actor(g)}

    @abstractmethod
    def loss(self, s: Tensor, a: Tensor, r: Tensor, after: Tensor, d: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Batch s, after (R, B, d), a (R, B, m) in [-1, 1] where not corrupted, r, d (R, B) -> the scalar to minimise (a sum
        over the runs), and values (R,) to log."""

    def after_step(self) -> None:
        """After each update."""

    # what they share

    def build_actor(self, g: torch.Generator) -> nn.Module:
        width = self.config.hidden
        actor = EnsembleMLP((self.obs_dim, width, width, self.act_dim), generator=g, copies=self.runs)
        if self.config.policy == "gaussian":
            actor.register_parameter("log_std", nn.Parameter(torch.zeros(self.runs, 1, self.act_dim)))
        return actor

    def imitation(self, s: Tensor, a: Tensor) -> Tensor:
        """(R, B): ||pi(s) - a||^2, summed over the dimensions of the action; or -log pi(a|s) of the Gaussian."""
        actor: Any = self.nets["actor"]
        squared: Tensor = (actor(s).tanh() - a).square()
        if self.config.policy == "deterministic":
            return squared.sum(-1)
        log_std: Tensor = actor.log_std.clamp(*LOG_STD)
        return (0.5 * squared * (-2 * log_std).exp() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def fit(
        self, steps: int, *, checkpoint: str | Path | None = None, every: int = 5000, progress: Progress = QUIET
    ) -> list[dict[str, Any]]:
        """Train until `steps` updates are done; -> the history, a row each 500 updates with lists of R numbers.

        checkpoint: a folder; written each `every` updates, and gone on from if there is one. The actor's cosine ends at
        `steps`, so a run that is gone on with must name the same.

        Raises InputError, NotFinite when a loss is no number, CheckpointError for the checkpoint of another run.
        """
        check_integer("steps", steps)
        check_integer("every", every)
        folder = Path(checkpoint) if checkpoint is not None else None
        if folder is not None and self.step == 0 and (found := load_checkpoint(folder)) is not None:
            self.load_state_dict(found[1])
        if self.total not in (0, steps):
            raise InputError("steps", steps, f"{self.total}, for which the schedule of this learner was made")
        self.total = steps
        with progress.task(f"{type(self).__name__}, {self.runs} runs", steps) as task:
            task.advance(self.step)
            while self.step < steps:
                log = self._update()
                self.step += 1
                if self.step % LOG_EVERY == 0 or self.step == steps:
                    self._note(log)
                    task.advance(self.step - LOG_EVERY * ((self.step - 1) // LOG_EVERY))
                if folder is not None and (self.step % every == 0 or self.step == steps):
                    save_checkpoint(folder, self.step, self.state_dict())
        return self.history

    def _update(self) -> dict[str, Tensor]:
        n, d, m = self.rows.shape[1], self.obs_dim, self.act_dim
        index = torch.randint(n, (self.config.batch_size,), generator=self.generator)
        batch = self.rows.index_select(1, index)
        s, a, after, rest = torch.split(batch, [d, m, d, 2], 2)
        for group in self.optimizer.param_groups:
            if group["name"] == "actor":
                group["lr"] = self.config.lr * (1 + math.cos(math.pi * self.step / self.total)) / 2
        total, log = self.loss(s, a, rest[..., 0], after, rest[..., 1])
        if not math.isfinite(float(total.detach())):
            raise NotFinite(self.step, next((name for name, value in log.items() if not value.isfinite().all()), "the loss"))
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.after_step()
        return log

    def _note(self, log: Mapping[str, Tensor]) -> None:
        self.history.append({"step": self.step, **{name: value.detach().tolist() for name, value in log.items()}})

    def _packed(self, run: int, data: OfflineDataset) -> Tensor:
        """(n, d + m + d + 2): normalised s, scaled a, normalised s', reward, terminal; one gather gives a batch."""
        s, after = ((x - self.mean[run]) / self.std[run] for x in (data.observations, data.next_observations))
        scaled = (data.actions - (self.low + self.high) / 2) / ((self.high - self.low) / 2)
        return torch.cat((s, scaled, after, data.rewards[:, None], data.terminals[:, None].float()), 1)

    @property
    def policies(self) -> list[Policy]:
        """One policy a data set, frozen copies."""
        actor = self.nets["actor"]
        assert isinstance(actor, EnsembleMLP)
        mean, std = self.mean[:, 0], self.std[:, 0]
        return [Policy(member(actor, i), mean[i].clone(), std[i].clone(), self.low, self.high) for i in range(self.runs)]

    @property
    def policy(self) -> Policy:
        if self.runs != 1:
            raise InputError("policy", f"a learner of {self.runs} data sets", "one; `policies` has all")
        return self.policies[0]

    def state_dict(self) -> dict[str, Any]:
        return {
            "key": self._key(),
            "step": self.step,
            "total": self.total,
            "nets": {name: dict(net.state_dict()) for name, net in self.nets.items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError if the state is of another learner, config, seed or data."""
        if different := [key for key, value in self._key().items() if state["key"].get(key) != value]:
            raise CheckpointError(f"the state is of another run: {', '.join(different)} differ")
        self.step, self.total = state["step"], state["total"]
        for name, net in self.nets.items():
            net.load_state_dict(state["nets"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.history = [dict(row) for row in state["history"]]

    def _key(self) -> dict[str, Any]:
        data = [one.sha256 for one in self.sets]
        return {"learner": type(self).__name__, "config": asdict(self.config), "seed": self.seed, "data": data}


class BehaviourCloning(OfflineLearner):
    """Imitate every logged action alike: minimise mean ||pi(s) - a||^2. The control that no rewards reach."""

    def loss(self, s: Tensor, a: Tensor, r: Tensor, after: Tensor, d: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        each = self.imitation(s, a).mean(1)
        return each.sum(), {"policy_loss": each}


# config -> a learner on data: what a comparison of several takes
MakeLearner = Callable[..., OfflineLearner]


def cloning(config: OfflineConfig) -> MakeLearner:
    """Behaviour cloning with this config, for `MakeLearner`."""
    return partial(BehaviourCloning, config=config)


def _checked(data: OfflineDataset | Sequence[OfflineDataset]) -> list[OfflineDataset]:
    sets = [data] if isinstance(data, OfflineDataset) else list(data) if isinstance(data, Sequence) else []
    if not sets or not all(isinstance(one, OfflineDataset) for one in sets):
        raise InputError("data", type(data).__name__, "an OfflineDataset, or several of them")
    first = sets[0]
    for one in sets[1:]:
        if one.observations.shape != first.observations.shape or one.actions.shape != first.actions.shape:
            got = f"{len(one)} rows of {one.obs_dim} and {one.act_dim} numbers"
            raise InputError("data", got, f"sets of one shape, {len(first)} rows of {first.obs_dim} and {first.act_dim}")
        if not (torch.equal(one.action_low, first.action_low) and torch.equal(one.action_high, first.action_high)):
            raise InputError("data", "sets with other bounds of the actions", "sets of one environment")
    return sets


def _moments(sets: Sequence[OfflineDataset], normalise: bool) -> tuple[Tensor, Tensor]:
    """(mean, std + 1e-3) of s and s' together, (R, 1, d) each; 0 and 1 without normalisation."""
    if not normalise:
        shape = (len(sets), 1, sets[0].obs_dim)
        return torch.zeros(shape), torch.ones(shape)
    both = [torch.cat((one.observations, one.next_observations)) for one in sets]
    mean = torch.stack([x.mean(0, keepdim=True) for x in both])
    return mean, torch.stack([x.std(0, correction=0, keepdim=True) for x in both]) + STD_FLOOR
