"""Weights of several scores of one sample: logistic regression with a cross-validated penalty, all fits at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.errors import InputError

STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # C: the penalty on the weights is |w|^2 / (2 C)
FOLDS = 5
LEAST = 10  # samples of each side


def logistic_weights(inside: Tensor, outside: Tensor) -> tuple[Tensor, float]:
    """(weights (L,) float64, bias) with log odds of inside = scores @ weights + bias, from scores (N, L) and (M, L).

    Scores are standardised, the strength C is the one of best log loss in 5-fold cross-validation (every fifth sample of
    each side; of equal ones the strongest penalty), then all samples fit the weights, which are given on the scale of the
    scores. Deterministic. Raises InputError for fewer than 10 samples on a side.
    """
    for argument, scores in (("inside", inside), ("outside", outside)):
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) < LEAST:
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(argument, got, f"scores (N, L) of at least {LEAST} samples")
    scores = torch.cat([inside, outside]).double()
    mean, deviation = scores.mean(0), scores.std(0).clamp_min(1e-12)
    x = F.pad((scores - mean) / deviation, (0, 1), value=1.0)  # the last column is the bias
    y = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).double()
    fold = torch.cat([torch.arange(len(inside)), torch.arange(len(outside))]) % FOLDS
    used = (fold != torch.arange(FOLDS)[:, None]).double().repeat(len(STRENGTHS), 1)
    strength = torch.tensor(STRENGTHS, dtype=torch.float64)
    found = ridge_logistic(x, y, used, 1 / strength.repeat_interleave(FOLDS))
    left_out = ((1 - used) * _log_loss(found @ x.T, y)).sum(1).reshape(len(STRENGTHS), FOLDS).sum(1)
    best = strength[int(left_out.argmin())]
    fitted = ridge_logistic(x, y, torch.ones(1, len(y), dtype=torch.float64), 1 / best[None])[0]
    weights = fitted[:-1] / deviation
    return weights, float(fitted[-1] - (weights * mean).sum())


def ridge_logistic(x: Tensor, y: Tensor, used: Tensor, penalty: Tensor) -> Tensor:
    """P penalised logistic regressions on parts of the same samples, by Newton's method with step halving: (P, d).

    x: (n, d) float64, its last column the bias, which is not penalised. y: (n,) 0 or 1. used: (P, n), 1 for the samples of a
    problem. penalty: (P,) > 0. Minimises sum_i used_i log(1 + exp(-(2 y_i - 1) b x_i)) + penalty / 2 |b without bias|^2.
    """
    ridge = penalty[:, None] * torch.cat([torch.ones(x.shape[1] - 1), torch.zeros(1)]).double()
    outer = (x[:, :, None] * x[:, None, :]).flatten(1)

    def loss(beta: Tensor) -> Tensor:
        return (used * _log_loss(beta @ x.T, y)).sum(1) + (ridge * beta.square()).sum(1) / 2

    beta = torch.zeros(len(used), x.shape[1], dtype=torch.float64)
    now = loss(beta)
    for _ in range(100):
        p = torch.sigmoid(beta @ x.T)
        gradient = (used * (p - y)) @ x + ridge * beta
        # a trace on the diagonal: where the sides are far apart, p (1 - p) vanishes and with it the curvature of the bias
        hessian = ((used * p * (1 - p)) @ outer).reshape(len(used), *[x.shape[1]] * 2) + torch.diag_embed(ridge + 1e-9)
        step = torch.linalg.solve(hessian, gradient)
        size = torch.ones(len(used), 1, dtype=torch.float64)
        for _ in range(40):
            worse = loss(beta - size * step) > now
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        moved = beta - size * step
        then = loss(moved)
        better, gain = then < now, (now - then) / now
        beta, now = torch.where(better[:, None], moved, beta), torch.where(better, then, now)
        if float(gain.max()) < 1e-10:  # Newton's error is quadratic: the next digits are rounding
            break
    return beta


def _log_loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.softplus(logits) - y * logits
