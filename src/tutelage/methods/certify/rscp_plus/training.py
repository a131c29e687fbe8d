"""Robust conformal training (RCT): the last layer learns through a differentiable RSCP to make small sets.

Equation (8) of the package, in full. A batch is cut in half, one half to calibrate and one to test. With p the softmax
averaged over N_tr noisy copies and c = Phi^-1(p) the conformity (high where a label fits):

    tau   = the max(floor(alpha (n + 1)), 1)-th smallest of c(x_i, y_i) over the n calibration points, - eps/sigma  (8a)
    A_ij  = sigmoid((c(x_i, j) - tau) / T): how much label j is in the set of test point i                         (8b)
    loss  = log(mean_i (1 - A_i,yi) + lambda mean_i max(sum_j A_ij - kappa, 0) + 1e-8)                              (8c)

The released code sorts by torchsort at strength 0.1. That is the exact sort, with its gradient, as long as neighbours are
less than 1/0.1 apart; conformities are cut to +-4.75, so they are, and a plain sort is the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import normal, seeded
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.guarantees.noise import device_of
from tutelage.models.checks import check_labels, check_logits
from tutelage.models.guard import evaluating
from tutelage.models.taps import split_head
from tutelage.teaching.fit import Context, FitResult, Objective, fit
from tutelage.teaching.objectives import pair
from tutelage.teaching.schedules import Schedule, multistep

Features = Callable[[Tensor], Tensor]

SMALLEST = 1e-6  # probabilities are cut to [SMALLEST, 1 - SMALLEST] before Phi^-1
PAPER_SCHEDULE = multistep((2 / 5, 3 / 5, 4 / 5))


@dataclass(frozen=True)
class RCTConfig:
    """The constants of (8); the defaults are the paper's for CIFAR-10 (for CIFAR-100: size_weight 0.01, temperature 1).

    draws: N_tr. size_weight: lambda. target_size: kappa, labels a set that cost nothing. temperature: T.
    """

    eps: float
    sigma: float
    alpha: float = 0.1
    draws: int = 8
    target_size: float = 1.0
    size_weight: float = 1.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_number("eps", self.eps, "an L2 attack size >= 0, in units of the inputs", low=0)
        check_positive("sigma", self.sigma, "a standard deviation > 0, in units of the inputs")
        check_number("alpha", self.alpha, "a miscoverage between 0 and 1", low=1e-9, high=1 - 1e-9)
        check_integer("draws", self.draws)
        check_number("target_size", self.target_size, "a number of labels >= 0", low=0)
        check_number("size_weight", self.size_weight, "a weight >= 0", low=0)
        check_positive("temperature", self.temperature, "a number > 0")


class RCTLoss:
    """The objective (8) for `fit`; batches are (x, y) with x in [0, 1], at least two samples.

    features: what comes before the trained part, run without gradients (None: the model that is trained takes x itself).
    """

    def __init__(self, config: RCTConfig, *, features: Features | None = None) -> None:
        if not isinstance(config, RCTConfig):
            raise InputError("config", type(config).__name__, "an RCTConfig")
        self.config, self.features = config, features

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = pair(batch)
        if len(x) < 2:
            raise InputError("loader", "a batch of one sample", "batches of at least two: one half calibrates the other")
        logits = noisy_logits(model, x, self.config.sigma, self.config.draws, ctx.generator, self.features)
        check_labels(y, len(x), logits.shape[2])
        loss, in_set, size = rct_loss(logits.softmax(2).mean(1), y.long(), self.config)
        return loss, {"in_set": in_set.detach(), "size": size.detach()}


def noisy_logits(
    model: nn.Module, x: Tensor, sigma: float, draws: int, noise: torch.Generator, features: Features | None = None
) -> Tensor:
    """Logits (B, draws, classes) of noisy copies of x; a gradient for the part after `features` only."""
    inputs = (x.unsqueeze(1) + sigma * normal((len(x), draws, *x.shape[1:]), noise).to(x)).flatten(0, 1)
    if features is not None:
        with torch.no_grad():
            inputs = features(inputs)
    logits = check_logits(model(inputs), len(inputs), finite=False)
    return logits.reshape(len(x), draws, logits.shape[1])


def rct_loss(p: Tensor, y: Tensor, config: RCTConfig) -> tuple[Tensor, Tensor, Tensor]:
    """(8) of mean probabilities p (B, classes), the first half calibrating: (loss, mean A_i,yi, mean sum_j A_ij)."""
    conformity = torch.special.ndtri(p.clamp(SMALLEST, 1 - SMALLEST))
    own = conformity.gather(1, y[:, None]).squeeze(1)
    n = len(p) // 2
    tau = own[:n].sort().values[max(math.floor(config.alpha * (n + 1)) - 1, 0)] - config.eps / config.sigma  # (8a)
    in_set = ((conformity[n:] - tau) / config.temperature).sigmoid()  # (8b)
    held, sizes = in_set.gather(1, y[n:, None]).squeeze(1), in_set.sum(1)
    classification = (1 - held).mean()
    size = config.size_weight * (sizes - config.target_size).clamp_min(0).mean()
    return (classification + size + 1e-8).log(), held.mean(), sizes.mean()  # (8c)


def fit_rct(
    model: nn.Module,
    loader: DataLoader[Any],
    config: RCTConfig,
    *,
    epochs: int = 150,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: Schedule = PAPER_SCHEDULE,
    head: str | None = None,
    reset: bool = True,
    seed: int = 0,
    progress: Progress = QUIET,
) -> FitResult:
    """Retrain the last layer of `model` in place by (8); all else, BatchNorm statistics included, stays as it is.

    loader: batches (x, y) of training data; the paper's have 500 (CIFAR-10) or 100 (CIFAR-100) samples. head: the name of
    the last layer; found by running the model if it ends in a linear map. reset: start from fresh weights, as the paper
    does. optimizer: of the head's parameters; default SGD, learning rate 0.05, Nesterov momentum 0.9, weight decay 5e-4.

    Raises InputError as `split_head` and `fit` do, and for a head that cannot be reset.
    """
    RCTLoss(config)  # raises InputError
    return retrain_head(
        model, loader, lambda features: RCTLoss(config, features=features), epochs=epochs, optimizer=optimizer,
        schedule=schedule, head=head, reset=reset, seed=seed, progress=progress, name="RCT",
    )  # fmt: skip


def retrain_head(
    model: nn.Module,
    loader: DataLoader[Any],
    objective: Callable[[Features], Objective],
    *,
    epochs: int,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: Schedule = PAPER_SCHEDULE,
    head: str | None = None,
    reset: bool = True,
    seed: int = 0,
    progress: Progress = QUIET,
    name: str = "last layer",
) -> FitResult:
    """`fit_rct` for any objective: `objective(features)` is what `fit` minimises over the head, the rest being frozen."""
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    if not hasattr(loader, "__iter__") or not hasattr(loader, "__len__") or len(loader) == 0:
        raise InputError("loader", type(loader).__name__, "a DataLoader with at least one batch")
    with training_only():
        refuse_test_data(loader)
        x, _ = pair(next(iter(loader)))
    split = split_head(model, x[:2].to(device_of(model, x)), name=head)
    if reset:
        layers = [m for m in split.head.modules() if callable(getattr(m, "reset_parameters", None))]
        if not layers:
            raise InputError("head", type(split.head).__name__, "a layer with reset_parameters, or reset=False")
        with seeded(seed, "last layer"):
            for layer in layers:
                layer.reset_parameters()  # type: ignore[operator]

    def features(inputs: Tensor) -> Tensor:
        model.to(inputs.device)  # `fit` moves what it trains; the body follows its head
        with evaluating(model, verify=False):  # BatchNorm and dropout as in use, whatever mode `fit` sets
            return split.features(inputs)

    make = optimizer or (lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4))
    modes = [(module, module.training) for module in model.modules()]
    try:
        return fit(
            split.head, objective(features), loader, epochs=epochs, optimizer=make(list(split.head.parameters())),
            schedule=schedule, seed=seed, progress=progress, name=name,
        )  # fmt: skip
    finally:
        for module, mode in modes:
            module.training = mode
