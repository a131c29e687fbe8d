"""`OfflineDataset`: logged transitions in memory, with what is needed to score a policy learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.core.files import sha256_tensors

ARRAYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """n transitions (s, a, r, s', d), in the order in which they were logged.

    observations, next_observations: (n, d) float32. actions: (n, m) float32 in the environment's own units. rewards: (n,)
    float32. terminals: (n,) bool, true where the episode truly ended, so that nothing follows s'. timeouts: (n,) bool, true
    where it was cut by a limit of time: s' still has a future. action_low, action_high: (m,), what the environment takes;
    logged actions may lie outside (corrupted ones do). random_return, expert_return: mean returns that normalised scores
    refer to.
    `kind` says where the set comes from, as results record it; `origin` tells more.

    Raises InputError for lengths that differ, numbers that are not finite, and flags that are no booleans.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor
    timeouts: Tensor
    action_low: Tensor
    action_high: Tensor
    name: str = "transitions"
    environment: str = ""
    random_return: float | None = None
    expert_return: float | None = None
    kind: Literal["file", "generated", "environment"] = "file"
    origin: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.observations)
        for name, ndim in zip(ARRAYS, (2, 2, 1, 2, 1, 1), strict=True):
            value = getattr(self, name)
            flags = name in ("terminals", "timeouts")
            if not isinstance(value, Tensor) or value.ndim != ndim or len(value) != n or n == 0:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(name, got, f"a tensor of {ndim} dimensions with a row for each of {n or 'some'} transitions")
            if value.dtype != (torch.bool if flags else torch.float32):
                raise InputError(name, f"dtype {value.dtype}", "torch.bool" if flags else "torch.float32")
            if not flags and not bool(value.isfinite().all()):
                row = int((~value.isfinite()).reshape(n, -1).any(1).nonzero()[0])
                raise InputError(name, f"NaN or infinity in row {row}", "finite numbers")
        if self.next_observations.shape != self.observations.shape:
            raise InputError("next_observations", tuple(self.next_observations.shape), str(tuple(self.observations.shape)))
        for name in ("action_low", "action_high"):
            bound = getattr(self, name)
            if not isinstance(bound, Tensor) or bound.shape != (self.act_dim,) or not bool(bound.isfinite().all()):
                got = tuple(bound.shape) if isinstance(bound, Tensor) else type(bound).__name__
                raise InputError(name, got, f"{self.act_dim} finite numbers, one for each dimension of the actions")
        if not bool((self.action_low < self.action_high).all()):
            raise InputError("action_low", self.action_low.tolist(), f"below action_high, {self.action_high.tolist()}")
        for name in ("random_return", "expert_return"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), "a finite number, or None")

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def obs_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def act_dim(self) -> int:
        return self.actions.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Hash of the transitions, whatever file they came from."""
        return sha256_tensors({name: getattr(self, name) for name in ARRAYS})

    @cached_property
    def ends(self) -> Tensor:
        """(n,) bool: the last transition of each episode; the last of all counts as one."""
        ends = self.terminals | self.timeouts
        ends[-1] = True
        return ends

    @cached_property
    def returns(self) -> Tensor:
        """(episodes,) float64: the sums of the logged rewards, episode by episode; a cut last episode included."""
        episode = torch.cat((torch.zeros(1, dtype=torch.int64), self.ends[:-1].long().cumsum(0)))
        return torch.zeros(int(episode[-1]) + 1, dtype=torch.float64).index_add_(0, episode, self.rewards.double())

    def normalised(self, returns: float) -> float:
        """100 (return - random) / (expert - random), in per cent of the references of this set.

        Raises InputError if the set names none, or the expert is not above random.
        """
        if self.random_return is None or self.expert_return is None or self.expert_return <= self.random_return:
            got = f"random_return {self.random_return}, expert_return {self.expert_return}"
            raise InputError("dataset", got, "both references, the expert above random")
        return 100 * (returns - self.random_return) / (self.expert_return - self.random_return)

    def take(self, index: slice | Sequence[int] | Tensor) -> OfflineDataset:
        """A part of the set, by position or mask."""
        part = index if isinstance(index, slice) else torch.as_tensor(index)
        try:
            arrays = {name: getattr(self, name)[part] for name in ARRAYS}
        except (IndexError, TypeError, RuntimeError) as error:
            raise InputError("index", index, f"positions from 0 to {len(self) - 1}, or a mask of {len(self)}") from error
        return replace(self, **arrays)

    def describe(self) -> dict[str, Any]:
        """The entry of this set in a result."""
        return {"name": self.name, "kind": self.kind, "split": "train", "n": len(self), "sha256": self.sha256, **self.origin}
