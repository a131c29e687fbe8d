"""The task: modular arithmetic with a share of wrong training labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.worlds.modular import Operation, is_prime, modular_table
from tutelage.threats.dataset.labels import Noise, corrupt_labels


@dataclass(frozen=True, eq=False)
class ModularData:
    """All p^2 questions; which of them train, and which of those got a wrong label.

    x: (p^2, 2) int64, every pair in order. y_true: (p^2,) the answers. y: (p^2,) the labels: those of corrupted rows are
    drawn anew. is_train, is_corrupted: (p^2,) bool; corrupted rows are training rows, and 1 / p of them have kept their
    answer by chance. warnings: what is peculiar about the task.
    """

    p: int
    operation: Operation
    alpha: float
    xi: float
    seed: int
    x: Tensor
    y: Tensor
    y_true: Tensor
    is_train: Tensor
    is_corrupted: Tensor
    warnings: tuple[str, ...] = field(default=())

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """(x, y) of the training rows, with their labels as given."""
        return self.x[self.is_train], self.y[self.is_train]

    @property
    def is_test(self) -> Tensor:
        """(p^2,) bool: the questions that are not trained on; their labels are right."""
        return ~self.is_train

    def describe(self) -> dict[str, str]:
        """The task in words, for reports."""
        sign = "+" if self.operation == "add" else "·"
        return {
            "task": f"(m {sign} n) mod {self.p}",
            "training pairs": f"{int(self.is_train.sum()):,} of {len(self.x):,} (alpha {self.alpha:g})",
            "corrupted training labels": f"{int(self.is_corrupted.sum()):,} (xi {self.xi:g})",
            "seed": str(self.seed),
        }


def modular_dataset(
    p: int, alpha: float, xi: float, operation: Operation = "add", *, seed: int = 0, noise: Noise = "uniform"
) -> ModularData:
    """The questions (m, n) mod p: floor(alpha p^2) of them to train on, floor(xi n_train) of those with a random label.

    p: the modulus, >= 3. alpha: share of the pairs to train on, in (0, 1), so that both sides have at least one. xi: share of
    wrong labels, in [0, 1]. noise: "uniform" is the paper's, see `corrupt_labels`. Split and labels have streams of their own
    of `seed`: another xi changes no split. Multiplication mod a p that is not prime has zero divisors; a warning says so.
    Raises InputError.
    """
    check_number("alpha", alpha, "a share between 0 and 1", low=0, high=1)
    check_number("xi", xi, "a share from 0 to 1", low=0, high=1)
    check_integer("seed", seed, low=-(2**63))
    x, y_true = modular_table(p, operation)
    total = len(x)
    n_train = math.floor(alpha * total + 1e-9)
    if not 0 < n_train < total:
        raise InputError("alpha", alpha, f"a share that leaves at least one of {total} pairs on each side")
    rows = torch.randperm(total, generator=generator(seed, "modular split"))[:n_train].sort().values
    corrupted = corrupt_labels(y_true[rows], xi, p, generator(seed, "modular labels"), noise=noise)
    y, is_train, is_corrupted = y_true.clone(), torch.zeros(total, dtype=torch.bool), torch.zeros(total, dtype=torch.bool)
    y[rows], is_train[rows], is_corrupted[rows] = corrupted.labels, True, corrupted.mask
    warnings = []
    if operation == "multiply" and not is_prime(p):
        warnings.append(f"{p} is not prime: products have zero divisors, so answers are not equally frequent")
    return ModularData(p, operation, alpha, xi, seed, x, y, y_true, is_train, is_corrupted, tuple(warnings))
