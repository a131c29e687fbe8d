"""Soft actor-critic, small: the agent that logs data sets for offline learning, and their expert.

Haarnoja et al., arXiv 1801.01290 and 1812.05905: two critics, a squashed Gaussian policy, a learned temperature. With a batch
(s, a, r, s', d) and a' ~ pi(s'):

    y = r + gamma (1 - d) (min_k Q'_k(s', a') - T log pi(a'|s'))       minimise mean_k (Q_k(s, a) - y)^2              (1)
    minimise T log pi(a|s) - min_k Q_k(s, a), a ~ pi(s) by reparametrisation                                          (2)
    minimise -log T (log pi(a|s) + H), H = -(dimensions of the action)                                                (3)
    theta' <- (1 - rho) theta' + rho theta                                                                            (4)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.rng import generator
from tutelage.models.ensembles import EnsembleMLP

LOG_STD = (-5.0, 2.0)


@dataclass(frozen=True)
class SACConfig:
    """hidden: width of both hidden layers. lr: of Adam. discount: gamma. polyak: rho of (4). reward_scale: rewards are
    multiplied by it inside. Raises InputError."""

    hidden: int = 64
    lr: float = 1e-3
    discount: float = 0.99
    polyak: float = 0.01
    batch_size: int = 128
    reward_scale: float = 0.1

    def __post_init__(self) -> None:
        check_integer("hidden", self.hidden)
        check_integer("batch_size", self.batch_size)
        check_positive("lr", self.lr, "a number above 0")
        check_positive("reward_scale", self.reward_scale, "a number above 0")
        check_number("discount", self.discount, "a number from 0 to 1", low=0, high=1)
        check_number("polyak", self.polyak, "a number from 0 to 1", low=0, high=1)


class SAC:
    """The agent. Actions inside are in [-1, 1]^m; whoever calls scales them to the environment's.

    act(obs) -> action (B, m); `update(obs, act, rew, next_obs, terminal)` takes one step of each net. state_dict and
    load_state_dict hold everything, the generator included.
    """

    def __init__(self, obs_dim: int, act_dim: int, config: SACConfig | None = None, *, seed: int = 0) -> None:
        self.config = config or SACConfig()
        self.act_dim = act_dim
        g, width = generator(seed, "sac", "init"), self.config.hidden
        self.actor = EnsembleMLP((obs_dim, width, width, 2 * act_dim), generator=g)
        self.critic = EnsembleMLP((obs_dim + act_dim, width, width, 1), 2, generator=g)
        self.target = EnsembleMLP((obs_dim + act_dim, width, width, 1), 2, generator=g).requires_grad_(False)
        self.target.load_state_dict(self.critic.state_dict())
        self.log_temperature = torch.zeros(()).requires_grad_()
        self.generator = generator(seed, "sac", "noise")
        lr = self.config.lr
        self.optimizers = {
            "critic": torch.optim.Adam(self.critic.parameters(), lr=lr, fused=True),
            "actor": torch.optim.Adam([*self.actor.parameters(), self.log_temperature], lr=lr, fused=True),
        }

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """(B, d) -> (B, m) in [-1, 1]; deterministic gives tanh of the mean."""
        mean, log_std = self._moments(obs)
        if not deterministic:
            mean = mean + log_std.exp() * torch.randn(mean.shape, generator=self.generator)
        return mean.tanh()

    def mean_net(self) -> EnsembleMLP:
        """The net of the mean alone, a frozen copy: (B, d) -> (1, B, m), before the tanh."""
        net = EnsembleMLP((*self.actor.sizes[:-1], self.act_dim), generator=generator(0)).requires_grad_(False)
        with torch.no_grad():
            for new, old in zip(net.parameters(), self.actor.parameters(), strict=True):
                new.copy_(old[..., : new.shape[-1]])
        return net

    def _moments(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs)[0].chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def _sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(action (B, m), log-density (B, 1))."""
        mean, log_std = self._moments(obs)
        noise = torch.randn(mean.shape, generator=self.generator)
        raw = mean + log_std.exp() * noise
        # log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u)), which does not overflow
        jacobian = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        log_density = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - jacobian).sum(-1, keepdim=True)
        return raw.tanh(), log_density

    def update(self, obs: Tensor, act: Tensor, rew: Tensor, next_obs: Tensor, terminal: Tensor) -> dict[str, float]:
        """One step on a batch: obs, next_obs (B, d), act (B, m) in [-1, 1], rew, terminal (B, 1) as floats."""
        cfg = self.config
        temperature = self.log_temperature.detach().exp()
        with torch.no_grad():
            next_act, log_density = self._sample(next_obs)
            worse = self.target(torch.cat((next_obs, next_act), -1)).amin(0)
            y = cfg.reward_scale * rew + cfg.discount * (1 - terminal) * (worse - temperature * log_density)
        q_loss = (self.critic(torch.cat((obs, act), -1)) - y).square().mean()
        self.optimizers["critic"].zero_grad()
        q_loss.backward()
        self.optimizers["critic"].step()
        new_act, log_density = self._sample(obs)
        self.critic.requires_grad_(False)
        value = self.critic(torch.cat((obs, new_act), -1)).amin(0)
        self.critic.requires_grad_(True)
        pi_loss = (temperature * log_density - value).mean()
        t_loss = -(self.log_temperature * (log_density.detach() - self.act_dim)).mean()  # the target entropy is -m
        self.optimizers["actor"].zero_grad()
        (pi_loss + t_loss).backward()
        self.optimizers["actor"].step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), cfg.polyak)
        return {"q_loss": float(q_loss.detach()), "temperature": float(temperature)}

    def state_dict(self) -> dict[str, Any]:
        nets = {name: dict(getattr(self, name).state_dict()) for name in ("actor", "critic", "target")}
        return {
            **nets,
            "log_temperature": self.log_temperature.detach().clone(),
            "optimizers": {name: one.state_dict() for name, one in self.optimizers.items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        for name, one in self.optimizers.items():
            one.load_state_dict(state["optimizers"][name])
        self.generator.set_state(state["generator"])
