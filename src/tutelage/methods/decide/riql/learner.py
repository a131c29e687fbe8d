"""RIQL and IQL: the updates (1) to (5) of the package's docstring, on several data sets at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.data.offline.transitions import OfflineDataset
from tutelage.models.ensembles import EnsembleMLP
from tutelage.teaching.control.offline import OfflineConfig, OfflineLearner

MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class RIQLConfig(OfflineConfig):
    """The method's own constants; the defaults are the paper's, where it has one for all data sets.

    critics: K. quantile: alpha of (1), 0 to 1; 0 is the minimum. sigma: of (3), beta = 1 / sigma^2; a small sigma means a
    wide quadratic zone. None: the squared loss, halved. expectile: tau of (2). temperature: the inverse temperature of (5),
    beta_adv; 0 is behaviour cloning. discount: gamma. polyak: rho of (4). target_clip: bounds of the targets (3); "auto"
    takes what the rewards of the data can sum up to, None does not clip. reward_scale: rewards are multiplied by it first.

    >>> RIQLConfig.iql()                     # plain IQL: two critics, their minimum, squared loss, no normalisation

    Raises InputError.
    """

    critics: int = 5
    quantile: float = 0.25
    sigma: float | None = 1.0
    expectile: float = 0.7
    temperature: float = 3.0
    discount: float = 0.99
    polyak: float = 0.005
    target_clip: tuple[float, float] | str | None = "auto"
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("critics", self.critics)
        check_number("quantile", self.quantile, "a number from 0 to 1", low=0, high=1)
        if self.critics == 1 and self.quantile > 0:
            warnings.warn("one critic has no quantile but itself; quantile does nothing", stacklevel=3)
        if self.sigma is not None:
            check_positive("sigma", self.sigma, "a number above 0, or None for the squared loss")
        check_number("expectile", self.expectile, "a number between 0 and 1", low=1e-6, high=1 - 1e-6)
        check_number("temperature", self.temperature, "a number from 0 on", low=0)
        check_number("discount", self.discount, "a number from 0 to 1", low=0, high=1)
        check_number("polyak", self.polyak, "a number from 0 to 1", low=0, high=1)
        check_positive("reward_scale", self.reward_scale, "a number above 0")
        if self.target_clip not in ("auto", None):
            if not isinstance(self.target_clip, tuple) or len(self.target_clip) != 2:
                raise InputError("target_clip", self.target_clip, "(low, high), 'auto' or None")
            for bound in self.target_clip:
                check_number("target_clip", bound, "finite bounds")
            if self.target_clip[0] >= self.target_clip[1]:
                raise InputError("target_clip", self.target_clip, "low below high")

    @classmethod
    def iql(cls, **changes: Any) -> RIQLConfig:
        """The baseline: all three parts switched off. `changes` set other fields; RIQL's parts can be put back one by one:
        normalise=True; sigma=1.0; critics=5 with quantile=0.25."""
        return cls(**({"critics": 2, "quantile": 0.0, "sigma": None, "normalise": False} | changes))


def quantile(values: Tensor, level: float) -> Tensor:
    """The quantile over dimension 1 of (R, K, B), linear between order statistics, as torch.quantile; level 0 is the
    minimum."""
    k = values.shape[1]
    position = level * (k - 1)
    below = min(int(position), k - 1)
    if position == below == 0:
        return values.amin(1)
    ordered = values.sort(1).values
    if below == k - 1:
        return ordered[:, -1]
    return torch.lerp(ordered[:, below], ordered[:, below + 1], position - below)


def huber(x: Tensor, sigma: float | None) -> Tensor:
    """H_beta(x) of (3), beta = 1 / sigma^2: x^2 / (2 beta) where |x| < beta, else |x| - beta / 2. Without sigma: x^2 / 2."""
    if sigma is None:
        return 0.5 * x.square()
    return F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none", beta=1 / sigma**2)


class RIQL(OfflineLearner):
    """Robust implicit Q-learning on R data sets of one shape; `RIQLConfig.iql()` makes it IQL.

    >>> learner = RIQL(dataset, RIQLConfig(quantile=0.25, sigma=1.0), seed=0)
    >>> learner.fit(20_000)
    >>> learner.policy(observations)         # (B, d) -> (B, m)
    """

    def default_config(self) -> RIQLConfig:
        return RIQLConfig()

    clip: Tensor | None  # (R, 2), bounds of the targets

    def build(self, g: torch.Generator) -> dict[str, nn.Module]:
        cfg: RIQLConfig = self.config
        width = cfg.hidden
        sizes = (self.obs_dim + self.act_dim, width, width, 1)
        drawn: dict[str, Any] = {"generator": g, "copies": self.runs}
        actor = self.build_actor(g)  # drawn first, as by every learner: all of them start from the same one
        critic = EnsembleMLP(sizes, cfg.critics, hidden_bias=0.1, last=0.003, **drawn)
        target = EnsembleMLP(sizes, cfg.critics, **drawn).requires_grad_(False)
        target.load_state_dict(critic.state_dict())
        value = EnsembleMLP((self.obs_dim, width, width, 1), **drawn)
        self.clip = torch.stack([_clip(cfg, one.rewards) for one in self.sets]) if cfg.target_clip is not None else None
        return {"actor": actor, "critic": critic, "value": value, "target": target}

    def loss(self, s: Tensor, a: Tensor, r: Tensor, after: Tensor, d: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cfg: RIQLConfig = self.config
        inputs = self._for_critics(torch.cat((s, a), -1))
        with torch.no_grad():
            q = quantile(self._critics("target", inputs), cfg.quantile)  # (1), (R, B)
            y = self.target_values(r, after, d)
        u = q - self.nets["value"](s)[..., 0]
        value_loss = ((cfg.expectile - (u.detach() < 0).float()).abs() * u.square()).mean(1)  # (2)
        critic_loss = huber(self._critics("critic", inputs) - y[:, None], cfg.sigma).mean((1, 2))  # (3)
        weight = (cfg.temperature * u.detach()).exp().clamp(max=MAX_WEIGHT)
        policy_loss = (weight * self.imitation(s, a)).mean(1)  # (5)
        total = (value_loss + critic_loss + policy_loss).sum()
        log = {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss, "q": q.mean(1)}
        return total, log

    def target_values(self, r: Tensor, after: Tensor, d: Tensor) -> Tensor:
        """y of (3), (R, B), from the value net as it is."""
        return self._clipped(self._bootstrapped(r, self.nets["value"](after)[..., 0], d), slice(None))

    def _bootstrapped(self, r: Tensor, value: Tensor, d: Tensor) -> Tensor:
        y: Tensor = self.config.reward_scale * r + self.config.discount * (1 - d) * value
        return y

    def _clipped(self, y: Tensor, runs: slice) -> Tensor:
        """y (R, B), or (B,) of one run."""
        return y if self.clip is None else y.clamp(self.clip[runs, :1], self.clip[runs, 1:]).view_as(y)

    @torch.no_grad()
    def after_step(self) -> None:
        """(4)."""
        torch._foreach_lerp_(list(self.nets["target"].parameters()), list(self.nets["critic"].parameters()), self.config.polyak)

    def _for_critics(self, inputs: Tensor) -> Tensor:
        """(R, B, d + m) -> (R K, B, d + m): each run's batch for each of its critics."""
        if self.runs == 1:
            return inputs[0]
        return inputs.repeat_interleave(self.config.critics, 0)

    def _critics(self, name: str, inputs: Tensor) -> Tensor:
        """-> (R, K, B)."""
        out: Tensor = self.nets[name](inputs)
        return out.view(self.runs, self.config.critics, -1)

    def values(self, observations: Tensor, actions: Tensor, run: int = 0) -> Tensor:
        """Q' of the critics, (K, B), for observations (B, d) and actions (B, m) in the environment's units, in units of
        reward_scale; differentiable: the critic that an adversarial corruption asks for."""
        check_integer("run", run, low=0, high=self.runs - 1)
        s = (observations - self.mean[run]) / self.std[run]
        a = (actions - (self.low + self.high) / 2) / ((self.high - self.low) / 2)
        net, k = self.nets["target"], self.config.critics
        assert isinstance(net, EnsembleMLP)
        return net.part(slice(run * k, (run + 1) * k), torch.cat((s, a), -1))[..., 0]

    @torch.no_grad()
    def targets_of(self, data: OfflineDataset, run: int = 0) -> Tensor:
        """y of (3), (n,), for transitions in the environment's units, from the nets of data set `run`."""
        check_integer("run", run, low=0, high=self.runs - 1)
        net = self.nets["value"]
        assert isinstance(net, EnsembleMLP)
        value = net.part(slice(run, run + 1), (data.next_observations - self.mean[run]) / self.std[run])[0, :, 0]
        return self._clipped(self._bootstrapped(data.rewards, value, data.terminals.float()), slice(run, run + 1))


def _clip(cfg: RIQLConfig, rewards: Tensor) -> Tensor:
    """(2,): bounds of the targets."""
    if isinstance(cfg.target_clip, tuple):
        return torch.tensor(cfg.target_clip)
    # a sum of discounted rewards lies between these; 0 is in it, since an episode may end at once
    horizon = 1 / max(1 - cfg.discount, 1e-6)
    low, high = float(rewards.min()), float(rewards.max())
    return cfg.reward_scale * horizon * torch.tensor((min(low, 0.0), max(high, 0.0)))
