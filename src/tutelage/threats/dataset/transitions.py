"""Corruption of logged transitions: observations, actions, rewards or dynamics, at random or against a critic.

The protocol of Yang et al., arXiv 2310.12955 (RIQL). Every row is chosen with probability `rate`, independently. With eps =
`scale`, std the standard deviation of each dimension over the whole field, and u ~ U(-eps, eps) for each number,

    random         x + u std of observations, actions, or next observations ("dynamics")                              (1)
                   r <- reward_range u                                                                                (2)
    adversarial    x + d std, d in [-eps, eps] minimises mean_k Q_k(s + d std, a), mean_k Q_k(s, a + d std), or, of the
                   dynamics, mean_k Q_k(s' + d std, pi(s' + d std))                                                   (3)
                   r <- -eps r                                                                                        (4)

(3) takes sign steps of 0.01 eps from a random d. Where the released code differs: its first d is multiplied by std twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.data.offline.transitions import OfflineDataset

Mode = Literal["random", "adversarial"]
FIELDS = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "dynamics": "next_observations",
}  # what is corrupted -> the array that changes
Critic = Callable[[Tensor, Tensor], Tensor]
_ROWS = 4096  # attacked at once


@dataclass(frozen=True)
class Corruption:
    """dataset: the corrupted copy. masks: field -> (n,) bool, the rows that were chosen."""

    dataset: OfflineDataset
    masks: dict[str, Tensor]

    @property
    def mask(self) -> Tensor:
        """(n,) bool: rows chosen in any field."""
        return torch.stack(list(self.masks.values())).any(0)


def corrupt(
    dataset: OfflineDataset,
    fields: str | Sequence[str],
    *,
    generator: torch.Generator,
    mode: Mode = "random",
    rate: float = 0.3,
    scale: float = 1.0,
    critic: Critic | None = None,
    policy: Callable[[Tensor], Tensor] | None = None,
    reward_range: float = 30.0,
    steps: int = 100,
) -> Corruption:
    """Corrupt a share of the rows of `dataset`; the set itself is left as it is.

    fields: one or several of "observations", "actions", "rewards", "dynamics"; several are corrupted one after the other,
    each in rows of its own draw. rate: of rows, 0 to 1. scale: eps, in standard deviations. generator: the same seed chooses
    the same rows, so that methods can be compared on one corrupted set. critic: for mode "adversarial", (observations (B, d),
    actions (B, m)) -> values (K, B) or (B,), of an agent that was trained on clean data. policy: for adversarial dynamics,
    (B, d) -> (B, m). reward_range: of (2); 30 is the paper's. steps: of (3).

    Raises InputError for unknown fields or modes, a rate outside [0, 1], and a critic or policy that is missing.
    """
    fields = [fields] if isinstance(fields, str) else list(fields)
    if not fields or len(set(fields)) < len(fields):
        raise InputError("fields", fields, f"some of {', '.join(FIELDS)}, each once")
    for name in fields:
        check_choice("fields", name, tuple(FIELDS))
    check_choice("mode", mode, ("random", "adversarial"))
    check_number("rate", rate, "a share from 0 to 1", low=0, high=1)
    check_positive("scale", scale, "a number above 0, in standard deviations")
    check_positive("reward_range", reward_range, "a number above 0")
    check_integer("steps", steps)
    if mode == "adversarial" and any(name != "rewards" for name in fields):
        check_callable("critic", critic, "values (K, B) of an agent trained on clean data, for observations and actions")
        if "dynamics" in fields:
            check_callable("policy", policy, "actions of an agent trained on clean data, for adversarial dynamics")
    masks = {}
    for name in fields:
        mask = masks[name] = torch.rand(len(dataset), generator=generator) < rate
        array = FIELDS[name]
        value = getattr(dataset, array)
        new = value.clone()
        if name == "rewards":
            drawn = (2 * torch.rand(value.shape, generator=generator) - 1) * scale * reward_range
            new[mask] = drawn[mask] if mode == "random" else -scale * value[mask]
        else:
            # the draw is as large as the field, so that it does not depend on which rows were chosen
            d = (2 * torch.rand(value.shape, generator=generator) - 1)[mask]
            std = value.std(0, correction=0)
            if mode == "adversarial" and len(d):
                d = _minimised(name, dataset.take(mask), d, std * scale, critic, policy, steps)
            new[mask] += d * scale * std
        dataset = replace(dataset, **{array: new})
    return Corruption(dataset, masks)


def _minimised(
    field: str,
    rows: OfflineDataset,
    d: Tensor,
    size: Tensor,
    critic: Critic | None,
    policy: Callable[[Tensor], Tensor] | None,
    steps: int,
) -> Tensor:
    """(3) in units of eps: d (rows, dimensions) in [-1, 1], after sign steps of 0.01."""
    assert critic is not None
    parts = []
    for i in range(0, len(d), _ROWS):
        part, at = d[i : i + _ROWS].clone(), slice(i, i + _ROWS)
        obs, act, after = rows.observations[at], rows.actions[at], rows.next_observations[at]
        for _ in range(steps):
            part.requires_grad_()
            if field == "observations":
                values = critic(obs + part * size, act)
            elif field == "actions":
                values = critic(obs, act + part * size)
            else:
                assert policy is not None
                moved = after + part * size
                values = critic(moved, policy(moved))
            # a row's gradient is its own: the sum of the means over critics
            (gradient,) = torch.autograd.grad(values.reshape(-1, len(part)).mean(0).sum(), part)
            part = (part.detach() - 0.01 * gradient.sign()).clamp(-1, 1)
        parts.append(part.detach())
    return torch.cat(parts)
