"""Weights of the samples of a batch, by their losses or their classes, for any objective that has one loss a sample.

An objective computes losses (B,), asks `weights(losses, y, ctx)` for weights (B,) without a gradient, and minimises the
mean of weights * losses. In a training of several processes the weights are those of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.shares import current_share
from tutelage.models.checks import check_labels
from tutelage.teaching.fit import Context

Normalise = Literal["none", "minmax"]


class SampleWeights(Protocol):
    """losses (B,), labels y (B,) and the context of `fit` -> weights (B,), detached, of mean about 1."""

    def __call__(self, losses: Tensor, y: Tensor | None = None, ctx: Context | None = None) -> Tensor: ...


def weighted_mean(losses: Tensor, weights: SampleWeights | None, y: Tensor, ctx: Context) -> Tensor:
    """The mean of weights * losses over the batch; the plain mean without weights."""
    return losses.mean() if weights is None else (weights(losses, y, ctx) * losses).mean()


def dro_weights(losses: Tensor, r: float) -> Tensor:
    """The worst-case weights of N samples whose losses (N,) are all known: N softmax(losses / r), of mean 1.

    They maximise sum_i w_i l_i / N - r KL(w / N || uniform): see `KLDROWeights`. The largest belong to the samples that
    the model finds hardest, wrong labels among them.
    """
    _check_losses(losses)
    check_positive("r", r, "a number > 0, in units of the loss")
    return len(losses) * torch.softmax(losses.detach().double() / r, 0)


def dro_value(losses: Tensor, r: float) -> float:
    """F = r log mean exp(losses / r): from the mean loss (r -> infinity) to the largest one (r -> 0)."""
    _check_losses(losses)
    check_positive("r", r, "a number > 0, in units of the loss")
    return r * (float(torch.logsumexp(losses.detach().double() / r, 0)) - math.log(len(losses)))


class KLDROWeights:
    """Weights of distributionally robust optimisation near the uniform distribution (Sow et al., arXiv 2308.00311).

        max_w sum_i w_i l_i - r KL(w || uniform)   has   w_i = exp(l_i / r) / sum_j exp(l_j / r)            (1)

    and the value r log mean exp(l / r). A batch estimates that mean badly, so a running u is kept (SCGD):

        u <- (1 - eta) u + eta mean_B exp(l_i / r),      weight_i = exp(l_i / r) / u                         (2)

    r: strength, in units of the loss. Infinity: all weights 1; towards 0: only the largest loss counts. eta in (0, 1]:
    1 is softmax weights inside the batch, times B. With eta < 1 the mean of a batch's weights need not be 1.
    normalise="minmax" (the first author's later practice, eta must be 1) scales the losses of the batch to [-1, 1]
    first, so that r has no unit. cap: an upper bound of the weights, against outliers; none by default.

    >>> weights = KLDROWeights(r=1.0)
    >>> w = weights(torch.tensor([0.1, 0.1, 2.0]))       # (3,), detached
    """

    def __init__(self, r: float = 1.0, *, eta: float = 0.5, normalise: Normalise = "none", cap: float | None = None) -> None:
        check_positive("r", r, "a number > 0, in units of the loss")
        check_positive("eta", eta, "a rate above 0 and up to 1")
        check_number("eta", eta, "a rate above 0 and up to 1", high=1)
        check_choice("normalise", normalise, ("none", "minmax"))
        if normalise == "minmax" and eta != 1:
            raise InputError("eta", eta, "1 with normalise='minmax', which scales every batch anew")
        if cap is not None:
            check_number("cap", cap, "a number >= 1, or None", low=1)
        self.r, self.eta, self.normalise, self.cap = float(r), float(eta), normalise, cap
        self.log_u: float | None = None

    def __call__(self, losses: Tensor, y: Tensor | None = None, ctx: Context | None = None) -> Tensor:
        _check_losses(losses)
        every, own = _of_the_whole_batch(losses, ctx)
        scaled = (_to_unit_range(every) if self.normalise == "minmax" else every) / self.r
        batch = torch.logsumexp(scaled, 0) - math.log(len(scaled))
        if self.log_u is None or self.eta == 1:
            log_u = batch
        else:  # u and exp(l / r) overflow long before their logarithms do
            log_u = torch.logaddexp(batch.new_tensor(self.log_u + math.log1p(-self.eta)), batch + math.log(self.eta))
        self.log_u = float(log_u)
        weights = (scaled - log_u).exp()
        if self.cap is not None:
            weights = weights.clamp_max(self.cap)
        return weights[own].to(losses)

    @property
    def value(self) -> float:
        """r log u, the running estimate of what is minimised (of the normalised losses with minmax); NaN before a batch."""
        return math.nan if self.log_u is None else self.r * self.log_u

    def state_dict(self) -> dict[str, Any]:
        return {"log_u": self.log_u}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log_u = state["log_u"]


class ClassWeights:
    """Inverse-frequency weights: a sample of class c gets a weight proportional to n_c ** -power.

    counts: n_c, the number of training samples of each class, all above 0. power: 1 gives every class the same sum of
    weights, 0 every sample the same weight. The weights have mean 1 over the training set.
    """

    def __init__(self, counts: Sequence[int] | Tensor, power: float = 1.0) -> None:
        n = torch.as_tensor(counts, dtype=torch.float64)
        if n.dim() != 1 or len(n) < 2 or not bool((n > 0).all()):
            raise InputError("counts", counts, "one number above 0 for each of at least two classes")
        check_number("power", power, "a number >= 0", low=0)
        raw = n**-power
        self.of_class = raw * n.sum() / (n * raw).sum()

    def __call__(self, losses: Tensor, y: Tensor | None = None, ctx: Context | None = None) -> Tensor:
        if y is None:
            raise InputError("y", None, "labels (B,): the weights are those of the classes")
        check_labels(y, len(losses), len(self.of_class))
        return self.of_class.to(losses)[y.long()]


def geometry_weights(kappa: Tensor, steps: int, shift: float) -> Tensor:
    """GAIRAT's weights (Zhang et al., arXiv 2010.01736) before they are normalised to mean 1, in (0, 1).

        (1 + tanh(shift + 5 (1 - 2 kappa / steps))) / 2

    kappa: (B,) at how many of the attack's `steps` points the sample was still classified right. Few: near the boundary,
    a large weight.
    """
    # (1 + tanh a) / 2 = sigmoid(2 a), which does not round to 0
    return torch.sigmoid(2 * (shift + 5 * (1 - 2 * kappa.double() / steps)))


def _to_unit_range(losses: Tensor) -> Tensor:
    low, high = losses.min(), losses.max()
    return 2 * (losses - low) / (high - low) - 1 if bool(high > low) else torch.zeros_like(losses)


def _of_the_whole_batch(losses: Tensor, ctx: Context | None) -> tuple[Tensor, slice]:
    """The losses of all processes' rows in float64 on the CPU, in the order of the batch, and which of them are ours."""
    own, share = losses.detach().double().cpu(), current_share()
    if ctx is None or share is None or len(own) != share.rows:
        return own, slice(None)
    # every process fills in its rows; a mean over the batch counts them rows / whole times
    filled = torch.zeros(share.whole, dtype=torch.float64)
    filled[share.start : share.stop] = own * (share.whole / share.rows)
    every = ctx.batch_mean({str(row): value for row, value in enumerate(filled.tolist())})
    return torch.tensor(list(every.values()), dtype=torch.float64), slice(share.start, share.stop)


def _check_losses(losses: Tensor) -> None:
    if not isinstance(losses, Tensor) or losses.dim() != 1 or len(losses) == 0 or not losses.is_floating_point():
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError("losses", got, "one loss a sample, floating point of shape (B,)")
