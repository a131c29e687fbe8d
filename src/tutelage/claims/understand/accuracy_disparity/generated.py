"""Generated classes, Gaussian and Cauchy: what was trained has exact accuracies, and the calculator predicts them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import cauchy
from torch import nn

from tutelage.claims.claim import Cell
from tutelage.claims.understand.accuracy_disparity.config import Config
from tutelage.core.rng import derive, numpy_generator
from tutelage.methods.understand.accuracy_disparity.tradeoff import gaussian_tradeoff
from tutelage.methods.understand.accuracy_disparity.training import linear_attack, train_on_pair
from tutelage.threats.budgets import Linf

CAUCHY_DISTANCE, CAUCHY_EPS = 4.0, 2.0  # in units of the scale
GAUSSIAN_DISTANCE = 3.0  # |mu| / sigma


def gaussian(config: Config, ratio: float, cell: Cell) -> dict[str, float]:
    """Logistic classifiers of Gaussian classes against (3) and (5); the accuracies of what was trained are exact too."""
    steps = np.arange(1, config.d_gaussian + 1)
    mu = GAUSSIAN_DISTANCE * steps / np.linalg.norm(steps)
    rng = numpy_generator(cell.unit, "gaussian", ratio)
    counts = config.n_gaussian, round(config.n_gaussian / ratio)
    x = np.concatenate([rng.standard_normal((n, len(mu))) + sign * mu for n, sign in zip(counts, (-1, 1), strict=True)])
    sample = (torch.from_numpy(x).float(), torch.arange(2).repeat_interleave(torch.tensor(counts)))

    def trained(eps: float) -> tuple[float, float]:
        model = train_on_pair(
            lambda: nn.Linear(len(mu), 2), sample, attack=linear_attack(Linf(eps), None) if eps else None,
            rates=config.rates, epochs=config.epochs, batch_size=config.batch_size, optimizer=config.optimizer,
            validation_share=config.validation_share, select="own", seed=derive(cell.unit, "gaussian"),
            progress=cell.progress,
        )  # fmt: skip
        assert isinstance(model, nn.Linear)
        w = (model.weight[1] - model.weight[0]).detach().double().numpy()
        b = float((model.bias[1] - model.bias[0]).detach())
        length = float(np.linalg.norm(w))
        return 100 * float(ndtr((w @ mu - b) / length)), 100 * float(ndtr((w @ mu + b) / length))

    sizes = [0.0, *(f * float(mu.max()) for f in config.gaussian_fractions)]
    found = [trained(eps) for eps in sizes]
    laws = [gaussian_tradeoff(mu, 1.0, ratio, eps, "linf") for eps in sizes]
    wanted = [(100 * law.acc_majority, 100 * law.acc_minority) for law in laws]
    errors = [abs(a - b) for one, law in zip(found, wanted, strict=True) for a, b in zip(one, law, strict=True)]
    gaps, predicted = ([majority - minority for majority, minority in some] for some in (found, wanted))
    middle = 1 + len(config.gaussian_fractions) // 2
    return {
        "delta_accuracy_disparity": gaps[middle] - gaps[0],
        "disparity_standard": gaps[0],
        "disparity_robust": gaps[middle],
        "predicted_delta": predicted[middle] - predicted[0],
        "prediction_error": max(errors),
        "mean_prediction_error": sum(errors) / len(errors),
    }


def heavy_tailed(config: Config, ratio: float, unit: int) -> dict[str, float]:
    """Thresholds of least (robust) risk on a sample of Cauchy classes on a line; their accuracies are exact."""
    rng = numpy_generator(unit, "cauchy", ratio)
    majority = -CAUCHY_DISTANCE + rng.standard_cauchy(config.n_cauchy)
    minority = CAUCHY_DISTANCE + rng.standard_cauchy(round(config.n_cauchy / ratio))
    gaps = []
    for eps in (0.0, CAUCHY_EPS):
        tau = best_threshold(majority + eps, minority - eps)
        right = cauchy.cdf(tau + CAUCHY_DISTANCE), cauchy.sf(tau - CAUCHY_DISTANCE)
        gaps.append(100 * float(right[0] - right[1]))
    return {
        "delta_accuracy_disparity": gaps[1] - gaps[0],
        "disparity_standard": gaps[0],
        "disparity_robust": gaps[1],
    }


def best_threshold(majority: np.ndarray, minority: np.ndarray) -> float:
    """The tau of fewest errors among (minority <= tau) and (majority > tau); infinite if "always the majority" is as good."""
    points = np.sort(np.concatenate([majority, minority]))
    middles = np.concatenate([[-np.inf], (points[1:] + points[:-1]) / 2, [np.inf]])
    errors = np.searchsorted(np.sort(minority), middles, side="right") + len(majority)
    errors = errors - np.searchsorted(np.sort(majority), middles, side="right")
    best = np.flatnonzero(errors == errors.min())
    return float(middles[best[-1] if best[-1] == len(middles) - 1 else best[len(best) // 2]])
