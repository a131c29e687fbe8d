"""How far two clouds of feature vectors are apart: Fréchet distance, kernel distance, precision and recall.

Which features is the caller's choice and part of the number: distances in two networks cannot be compared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of features (N, D) and (M, D) (Heusel et al. 2017, arXiv 1706.08500).

    Computed in float64; covariances with N - 1. Biased upwards for small N and M: compare only equal numbers, and take more
    than D of both. Raises InputError for other shapes, fewer than 2 rows, numbers that are not finite.
    """
    a, b = _checked(a, b, least=2)
    root = _root(torch.cov(a.T).reshape(a.shape[1], -1))
    inner = root @ torch.cov(b.T).reshape(b.shape[1], -1) @ root
    shared = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    traces = a.var(0).sum() + b.var(0).sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * shared
    return float(distance.clamp_min(0))  # of equal clouds it can round to just below 0


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401); may be below 0."""
    a, b = _checked(a, b, least=2)
    n, m, d = len(a), len(b), a.shape[1]

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / d + 1) ** 3

    aa, bb = k(a, a), k(b, b)
    own = (aa.sum() - aa.diagonal().sum()) / (n * (n - 1)) + (bb.sum() - bb.diagonal().sum()) / (m * (m - 1))
    return float(own - 2 * k(a, b).mean())


class PrecisionRecall(NamedTuple):
    """precision: share of made samples inside the real manifold; recall: share of real ones inside the made manifold."""

    precision: float
    recall: float


def precision_recall(real: Tensor, made: Tensor, k: int = 3) -> PrecisionRecall:
    """Manifolds of balls to the k-th neighbour (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""
    real, made = _checked(real, made, least=2)
    check_integer("k", k, high=min(len(real), len(made)) - 1)
    across = torch.cdist(made, real)

    def radii(x: Tensor) -> Tensor:
        return torch.cdist(x, x).kthvalue(k + 1, 1).values  # the first is the point itself

    inside_real = (across <= radii(real)[None]).any(1)
    inside_made = (across <= radii(made)[:, None]).any(0)
    return PrecisionRecall(float(inside_real.double().mean()), float(inside_made.double().mean()))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def _checked(a: Tensor, b: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    for name, one in (("a", a), ("b", b)):
        if not isinstance(one, Tensor) or one.dim() != 2 or len(one) < least:
            raise InputError(name, getattr(one, "shape", type(one).__name__), f"features (N, D), N >= {least}")
        if not bool(torch.isfinite(one).all()):
            raise InputError(name, "features with NaN or infinity", "finite numbers")
    if a.shape[1] != b.shape[1]:
        raise InputError("b", f"{b.shape[1]} features", f"{a.shape[1]}, as a has")
    return a.detach().double().cpu(), b.detach().double().cpu()
