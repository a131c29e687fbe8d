"""A Gaussian mixture of full covariances, its number of components chosen by an information criterion."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.data.worlds.task_space import Floats

Criterion = Literal["aic", "bic", "aicc"]


@dataclass(frozen=True)
class Mixture:
    """weights (K,), means (K, d), covariances (K, d, d); score: the criterion, lower is better."""

    weights: Floats
    means: Floats
    covariances: Floats
    score: float

    @property
    def k(self) -> int:
        return len(self.weights)

    def draw(self, component: int, rng: np.random.Generator) -> Floats:
        """One point (d,) of a component."""
        return rng.multivariate_normal(self.means[component], self.covariances[component], method="cholesky")

    def state_dict(self) -> dict[str, Any]:
        arrays = {"weights": self.weights, "means": self.means, "covariances": self.covariances}
        return {**{name: torch.from_numpy(one.copy()) for name, one in arrays.items()}, "score": self.score}

    @staticmethod
    def of(state: dict[str, Any]) -> Mixture:
        weights, means, covariances = (state[name].numpy().copy() for name in ("weights", "means", "covariances"))
        return Mixture(weights, means, covariances, float(state["score"]))


def check_mixture(ks: Sequence[int], criterion: str) -> None:
    """Raises InputError for numbers of components or a criterion that cannot be used."""
    if not ks:
        raise InputError("ks", ks, "at least one number of components, such as range(2, 11)")
    for k in ks:
        check_integer("ks", k)
    check_choice("criterion", criterion, get_args(Criterion))


def fit_mixture(
    points: Floats, ks: Sequence[int], rng: np.random.Generator, *, criterion: Criterion = "aic", reg_covar: float = 1e-6
) -> Mixture:
    """Fit one mixture for each K of `ks` by EM (k-means start, one initialisation) and keep the one of lowest criterion.

    points: (n, d). With -log L the negative log-likelihood and p = K (d (d + 1) / 2 + d + 1) - 1 free parameters:
    aic = 2p - 2 log L; bic = p log n - 2 log L; aicc = aic + 2p (p + 1) / (n - p - 1), for n > p + 1 only.
    A K above the number of distinct points is left out (the largest possible one is used if all are).
    reg_covar: added to each variance, so that constant coordinates do no harm.
    """
    n, d = points.shape
    distinct = len(np.unique(points, axis=0))
    possible = [k for k in ks if k <= distinct] or [distinct]
    best: Mixture | None = None
    for k in possible:
        p = k * (d * (d + 1) // 2 + d + 1) - 1
        if criterion == "aicc" and n <= p + 1 and best is not None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps of EM are what the paper's code does too
            model = GaussianMixture(k, reg_covar=reg_covar, random_state=int(rng.integers(2**31)))
            model.fit(points)
        nll2 = -2 * n * float(model.score(points))
        penalty = {"aic": 2.0 * p, "bic": p * float(np.log(n)), "aicc": 2.0 * p}[criterion]
        if criterion == "aicc":
            penalty += 2 * p * (p + 1) / (n - p - 1) if n > p + 1 else np.inf
        score = nll2 + penalty
        if best is None or score < best.score:
            best = Mixture(np.array(model.weights_), np.array(model.means_), np.array(model.covariances_), score)
    assert best is not None
    return best
