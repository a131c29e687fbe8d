"""Modular arithmetic: every pair of residues, and its exact answer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer

Operation = Literal["add", "multiply"]
MOST = 1021  # a table of all pairs has MOST**2 rows


def modular_table(p: int, operation: Operation = "add") -> tuple[Tensor, Tensor]:
    """(pairs (p * p, 2), answers (p * p,)), int64: every (m, n) in {0 .. p - 1}^2 in order, and m + n or m n mod p.

    p: the modulus, 3 to 1021. Raises InputError.
    """
    check_integer("p", p, low=3, high=MOST)
    check_choice("operation", operation, ("add", "multiply"))
    residues = torch.arange(p)
    pairs = torch.cartesian_prod(residues, residues)
    m, n = pairs.unbind(1)
    return pairs, (m + n if operation == "add" else m * n) % p


def is_prime(p: int) -> bool:
    """Whether p has no divisor but 1 and itself: only then has multiplication mod p no zero divisors."""
    return p > 1 and all(p % d for d in range(2, int(p**0.5) + 1))
