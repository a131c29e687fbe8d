"""Training one classifier as the paper does: the learning rate and the epoch of least validation loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError, NotFinite
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.methods.understand.accuracy_disparity.measure import Samples, arrays, labels_of, part
from tutelage.teaching.fit import fit
from tutelage.teaching.objectives import AdversarialTraining, Attack, CrossEntropy
from tutelage.threats.budgets import Budget
from tutelage.threats.engine import PGD
from tutelage.threats.objectives import margin

PAPER_RATES = (0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0002, 0.0001)
Selection = Literal["own", "clean"]


def linear_attack(budget: Budget, bounds: tuple[float, float] | None = (0.0, 1.0)) -> PGD:
    """The exact attack on a linear classifier, one step: -eps sign(w) in Linf, -eps w / |w| in L2, towards the other class.

    It climbs the difference of the two logits, w = w_1 - w_0. Their cross-entropy has the same direction, but its gradient
    rounds to 0 where the model is sure. bounds: the range of valid inputs, None for none; in Linf it stays exact.
    """
    return PGD(budget, steps=1, relative_step=1.0, start="clean", objective=margin, bounds=bounds)


def train_on_pair(
    build: Callable[[], nn.Module],
    data: Samples,
    *,
    attack: Attack | None = None,
    rates: Sequence[float] = PAPER_RATES,
    epochs: int = 500,
    batch_size: int = 64,
    optimizer: Literal["sgd", "adam"] = "adam",
    validation_share: float = 0.2,
    select: Selection = "own",
    seed: int = 0,
    progress: Progress = QUIET,
) -> nn.Module:
    """A classifier of two-class data, trained on cross-entropy at the attacked inputs (clean ones without `attack`).

    build: makes a fresh net; it is called with the global generators seeded. A share of `data` of each class is held out.
    Of every learning rate and every epoch, the weights of least validation loss are kept (the paper stops after 50
    epochs without a better one; here all `epochs` are run). select: that loss is the one of training ("own"), or the one
    on clean data in robust training too ("clean", as in the released code). Raises InputError, NotFinite.
    """
    check_callable("build", build, "a function without arguments that makes a net")
    if attack is not None:
        check_callable("attack", attack, "an attack such as linear_attack(Linf(0.1))")
    if not isinstance(rates, list | tuple) or not rates:
        raise InputError("rates", rates, "a list of learning rates")
    for rate in rates:
        check_positive("rates", rate, "learning rates above 0")
    check_integer("epochs", epochs)
    check_integer("batch_size", batch_size)
    check_choice("optimizer", optimizer, ("sgd", "adam"))
    check_choice("select", select, get_args(Selection))
    check_number("validation_share", validation_share, "a share above 0 and below 1", low=1e-6, high=1 - 1e-6)
    with training_only():
        refuse_test_data(data)
    train, (x_val, y_val) = _held_out(data, validation_share, seed)
    objective = CrossEntropy() if attack is None else AdversarialTraining(attack)

    def validate(model: nn.Module) -> dict[str, float]:
        x = x_val
        if attack is not None and select == "own":
            x = attack(x_val, y_val, model=model, generator=generator(seed, "validation"))
        with torch.no_grad():
            return {"minus_loss": -float(F.cross_entropy(model(x), y_val))}

    best: tuple[float, nn.Module] | None = None
    failure: NotFinite | None = None
    for rate in rates:
        with seeded(seed, "init"):
            net = build()
        loader = _loader(train, batch_size, generator(seed, "order"))
        try:
            result = fit(
                net, objective, loader, epochs=epochs, optimizer=_optimizer(optimizer, net, rate), validate=validate,
                select="minus_loss", seed=derive(seed, "fit"), progress=progress, name=f"learning rate {rate:g}",
            )  # fmt: skip
        except NotFinite as error:  # this rate is too high; another one may do
            failure = error
            continue
        if result.best is not None and (best is None or result.best["minus_loss"] > best[0]):
            best = result.best["minus_loss"], net
    if best is None:
        raise failure or InputError("data", "a validation loss that is never a number", "finite inputs")
    return best[1]


def _held_out(data: Samples, share: float, seed: int) -> tuple[Samples, tuple[Tensor, Tensor]]:
    """(the rest, validation data with the same shares of both classes); at least one sample of each class on both sides."""
    labels = labels_of(data)
    rng = generator(seed, "held out")
    held = torch.zeros(len(labels), dtype=torch.bool)
    for c in (0, 1):
        mine = (labels == c).nonzero().squeeze(1)
        if len(mine) < 2:
            raise InputError("data", f"{len(mine)} sample of class {c}", "two of each class, one to train and one to validate")
        size = min(len(mine) - 1, max(1, round(share * len(mine))))
        held[mine[torch.randperm(len(mine), generator=rng)[:size]]] = True
    return part(data, (~held).nonzero().squeeze(1)), arrays(part(data, held.nonzero().squeeze(1)))


def _loader(data: Samples, batch_size: int, order: torch.Generator) -> DataLoader[Any]:
    """Shuffled batches, each sliced at once."""
    whole = TensorDataset(*arrays(data))
    batches = BatchSampler(RandomSampler(whole, generator=order), batch_size, drop_last=False)
    return DataLoader(whole, sampler=batches, batch_size=None, generator=torch.Generator())


def _optimizer(name: str, net: nn.Module, rate: float) -> Optimizer:
    return SGD(net.parameters(), lr=rate) if name == "sgd" else Adam(net.parameters(), lr=rate)
