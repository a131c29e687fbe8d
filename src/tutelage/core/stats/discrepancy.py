"""Two samples of many columns at once: maximum mean discrepancy with a permutation test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import integer, matrix


@dataclass(frozen=True)
class Discrepancy:
    """mmd2: unbiased estimate (may be below 0). p_value: of "one distribution". bandwidth: of the kernel."""

    mmd2: float
    p_value: float
    bandwidth: float


def mmd(x: npt.ArrayLike, y: npt.ArrayLike, *, rng: np.random.Generator, permutations: int = 200) -> Discrepancy:
    """Unbiased MMD² with the kernel exp(-|a - b|² / 2h²), h the median distance (Gretton et al. 2012, JMLR 13, eq. 3).

    x (n, d), y (m, d), at least 2 rows each; p-value (1 + permutations at least as large) / (1 + permutations). Raises
    InputError.
    """
    first, second = matrix("x", x), matrix("y", y)
    if first.shape[1] != second.shape[1]:
        raise InputError("y", f"{second.shape[1]} columns", f"{first.shape[1]}, as x has")
    if min(len(first), len(second)) < 2:
        raise InputError("x", f"{len(first)} and {len(second)} rows", "at least 2 rows each")
    if integer("permutations", permutations) < 1:
        raise InputError("permutations", permutations, "at least 1")
    both = np.concatenate([first, second])
    squared = (both**2).sum(1)
    distances = np.maximum(0.0, squared[:, None] + squared[None] - 2 * both @ both.T)
    np.fill_diagonal(distances, 0.0)
    bandwidth = float(np.sqrt(np.median(distances[np.triu_indices(len(both), 1)]))) or 1.0
    kernel = np.exp(-distances / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 0.0)
    members = np.zeros((permutations + 1, len(both)))
    members[0, : len(first)] = 1
    for row in members[1:]:
        row[rng.permutation(len(both))[: len(first)]] = 1
    n, m = len(first), len(second)
    ahead = members @ kernel
    xx, xy = (ahead * members).sum(1), (ahead * (1 - members)).sum(1)
    yy = kernel.sum() - xx - 2 * xy
    found = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    p_value = (1 + int((found[1:] >= found[0] - 1e-12).sum())) / (permutations + 1)
    return Discrepancy(float(found[0]), p_value, bandwidth)
