"""Randomized smoothing: the class that wins under Gaussian noise, and the L2 radius in which it cannot be outvoted.

    Cohen, Rosenfeld, Kolter: Certified Adversarial Robustness via Randomized Smoothing, arXiv 1902.02918 (ICML 2019).

    g(x) = argmax_c P(f(x + d) = c), d ~ N(0, sigma^2 I)                                (1)
    g is constant within R = sigma/2 (Phi^-1(p_A) - Phi^-1(p_B)) of x                   (2) theorem 1
    certified with p_B <= 1 - p_A: R = sigma Phi^-1(lower limit of p_A), if above 1/2   (3)

The lower limit is the exact one of Clopper and Pearson, so (3) is *sound*: it is wrong with a probability of at most
`alpha` for each example. The class is chosen on other draws than those that certify it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.guarantees.noise import GaussianNoise, PassBudget, Votes, check_noise, monte_carlo
from tutelage.models.checks import check_labels

ABSTAIN = -1


@dataclass(frozen=True, eq=False)
class Certificates:
    """What is known of B examples, each with a probability of at least 1 - alpha of being right.

    classes: (B,) int64, ABSTAIN (-1) where nothing could be certified. radius: (B,) float64, L2 in units of the inputs, 0
    where abstained. p_lower: (B,) lower limit of the winner's probability. votes: (B, classes) of the certifying draws.
    """

    classes: Tensor
    radius: Tensor
    p_lower: Tensor
    votes: Tensor
    sigma: float
    alpha: float

    @property
    def guarantee(self) -> str:
        draws = int(self.votes[0].sum())
        return (
            f"sound: for each example, with probability >= {1 - self.alpha:g} over {draws} noise draws, the smoothed class "
            f"(sigma {self.sigma:g}) is the same at every point within its L2 radius"
        )

    def accuracy(self, y: Tensor, radii: Sequence[float] = (0.0,)) -> list[float]:
        """Certified accuracy: the share of examples with the right class and a radius of at least r, for each r. 0 to 1."""
        check_labels(y, len(self.classes), self.votes.shape[1])
        for radius in radii:
            check_number("radii", radius, "radii >= 0", low=0)
        right = self.classes == y.cpu()
        return [float((right & (self.radius >= radius)).double().mean()) for radius in radii]


def certify(
    model: nn.Module,
    x: Tensor,
    noise: GaussianNoise,
    *,
    draws: int = 100_000,
    selection_draws: int = 100,
    alpha: float = 0.001,
    ids: Sequence[int] | Tensor | None = None,
    batch_size: int = 1024,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    budget: PassBudget | None = None,
    progress: Progress = QUIET,
) -> Certificates:
    """CERTIFY of Cohen et al.: the smoothed class of each of x (B, ...) with its radius (3), or an abstention.

    selection_draws choose the class, `draws` others certify it. alpha: probability of a wrong certificate, per example.
    The other arguments, and what is raised, as in `monte_carlo`.
    """
    check_noise(noise)
    check_probability("alpha", alpha)
    check_integer("draws", draws)
    check_integer("selection_draws", selection_draws)
    if budget is not None and isinstance(budget, PassBudget) and isinstance(x, Tensor):  # both stages fit, or none is begun
        PassBudget(budget.limit, budget.spent).spend(len(x) * (draws + selection_draws))
    counts = []
    for stage, n in (("selection", selection_draws), ("certificate", draws)):
        votes = Votes()
        monte_carlo(
            model, x, noise.fresh(stage), draws=n, into=[votes], ids=ids, batch_size=batch_size, bounds=bounds,
            budget=budget, progress=progress, name=stage,
        )  # fmt: skip
        counts.append(votes.counts)
    return certificates(*counts, sigma=noise.sigma, alpha=alpha)


def certificates(selection: Tensor, votes: Tensor, *, sigma: float, alpha: float = 0.001) -> Certificates:
    """The certificates that given votes allow, by (3). Both (B, classes) integer counts, of independent draws."""
    for argument, counts in (("selection", selection), ("votes", votes)):
        if not isinstance(counts, Tensor) or counts.dim() != 2 or counts.is_floating_point() or not len(counts):
            raise InputError(argument, _form(counts), "a tensor of counts (B, classes)")
        if int(counts.min()) < 0 or int(counts.sum(1).min()) < 1:
            raise InputError(argument, f"{int(counts.min())} at the least", "counts >= 0, with a vote for each example")
    if selection.shape != votes.shape:
        raise InputError("votes", f"shape {tuple(votes.shape)}", f"{tuple(selection.shape)}, that of selection")
    check_probability("alpha", alpha)
    best = selection.argmax(1)
    k, n = votes.gather(1, best[:, None]).squeeze(1).numpy(), votes.sum(1).numpy()
    p_lower = lower_limit(k, n, alpha)
    sure = p_lower > 0.5
    radius = np.where(sure, sigma * ndtri(np.where(sure, p_lower, 0.5)), 0.0)
    classes = torch.where(torch.from_numpy(sure), best, ABSTAIN)
    return Certificates(classes, torch.from_numpy(radius), torch.from_numpy(p_lower), votes, float(sigma), float(alpha))


def predict(
    model: nn.Module,
    x: Tensor,
    noise: GaussianNoise,
    *,
    draws: int = 1000,
    alpha: float = 0.001,
    ids: Sequence[int] | Tensor | None = None,
    batch_size: int = 1024,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    budget: PassBudget | None = None,
    progress: Progress = QUIET,
) -> Tensor:
    """PREDICT of Cohen et al.: (B,) int64, the class (1), or ABSTAIN; it is not the class (1) with probability <= alpha."""
    check_probability("alpha", alpha)
    votes = Votes()
    monte_carlo(
        model, x, noise.fresh("prediction"), draws=draws, into=[votes], ids=ids, batch_size=batch_size, bounds=bounds,
        budget=budget, progress=progress, name="prediction",
    )  # fmt: skip
    return predictions(votes.counts, alpha=alpha)


def predictions(votes: Tensor, *, alpha: float = 0.001) -> Tensor:
    """The majority where the exact two-sided test of "first and second are equally likely" rejects at alpha, else ABSTAIN."""
    check_probability("alpha", alpha)
    top = votes.topk(2, dim=1).values.numpy()
    p_value = np.minimum(1.0, 2.0 * scipy.stats.binom.sf(top[:, 0] - 1, top.sum(1), 0.5))
    return torch.where(torch.from_numpy(p_value <= alpha), votes.argmax(1), ABSTAIN)


def lower_limit(successes: npt.ArrayLike, n: npt.ArrayLike, alpha: float) -> npt.NDArray[np.float64]:
    """One-sided lower limits of proportions at level 1 - alpha (Clopper & Pearson 1934), for arrays of counts.

    Beta(alpha; k, n - k + 1), and 0 at k = 0. With k = n it is alpha^(1/n).
    """
    k, total = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    limit = scipy.stats.beta.ppf(alpha, np.maximum(k, 1.0), total - k + 1.0)
    return np.where(k > 0, limit, 0.0)


class SmoothedModel(nn.Module):
    """log E softmax(f(x + d)) over `draws` fixed noise draws, the same for every input: a smoothed model to attack.

    Its cross-entropy is the objective of SmoothAdv (Salman et al. 2019, arXiv 1906.04584, equation (7)). It is
    deterministic and differentiable, so every attack runs on it. For certificates use `monte_carlo`, with fresh noise.
    """

    noise: Tensor

    def __init__(self, model: nn.Module, noise: GaussianNoise, *, shape: Sequence[int], draws: int = 32) -> None:
        """shape: that of one input, without the batch dimension."""
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
        check_noise(noise)
        check_integer("draws", draws)
        self.model = model
        self.register_buffer("noise", noise.fresh("smoothed model").draws(shape, draws), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...) -> log of the mean probabilities, (B, classes)."""
        return self.log_probabilities(x).logsumexp(1) - math.log(len(self.noise))

    def log_probabilities(self, x: Tensor) -> Tensor:
        """x (B, ...) -> those of every draw, (B, draws, classes)."""
        logits = self.model((x.unsqueeze(1) + self.noise.to(x)).flatten(0, 1))
        log_p: Tensor = logits.log_softmax(1).reshape(len(x), len(self.noise), logits.shape[1])
        return log_p


def check_probability(argument: str, value: object) -> None:
    wanted = "a probability between 0 and 1, such as 0.001"
    check_number(argument, value, wanted, low=math.ulp(0.0), high=1 - 2**-53)


def _form(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
