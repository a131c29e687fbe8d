"""Pruning neurons in the order of a score: what is lost, and what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.methods.understand.grokking.data import ModularData
from tutelage.methods.understand.grokking.measure import Accuracies, accuracies
from tutelage.methods.understand.grokking.spectrum import neuron_ipr
from tutelage.models.neurons import Neurons, count_neurons, neurons_of, without_neurons

Order = Literal["low", "high", "random"]
ORDERS: tuple[Order, ...] = ("low", "high", "random")
FRACTIONS = tuple(round(0.05 * step, 2) for step in range(21))


def prune_by(
    model: nn.Module,
    scores: Tensor,
    fraction: float,
    order: Order = "low",
    *,
    neurons: Neurons | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` without round(fraction N) neurons: those of lowest or highest score first, or at random.

    scores: (N,), such as `neuron_ipr(model)`. Of equal scores the first neuron goes first. Incoming and outgoing weights are
    set to zero and nothing is trained again: fraction 0 is the model itself, fraction 1 gives a constant. seed: of "random".
    """
    places = neurons_of(model, neurons)
    n = count_neurons(model, places)
    check_number("fraction", fraction, "a share from 0 to 1", low=0, high=1)
    return without_neurons(model, _first(_ranked(scores, n, order, seed), round(fraction * n)), places)


@dataclass(frozen=True)
class PruningRow:
    """Accuracies after pruning `fraction` of the neurons in one order; of random orders, the mean over `draws`."""

    order: Order
    fraction: float
    accuracies: Accuracies
    draws: int = 1


@dataclass(frozen=True)
class PruningCurve:
    """Rows of every order and fraction. scored_by: what the neurons were ordered by."""

    rows: list[PruningRow]
    scored_by: str = "IPR"

    def at(self, order: Order, fraction: float) -> Accuracies:
        """The accuracies of one order and fraction; InputError if they were not measured."""
        for row in self.rows:
            if row.order == order and abs(row.fraction - fraction) < 1e-9:
                return row.accuracies
        raise InputError("fraction", f"{fraction} in order {order}", "one that was measured")

    def of(self, order: Order) -> list[PruningRow]:
        """The rows of one order, by fraction."""
        return sorted((row for row in self.rows if row.order == order), key=lambda row: row.fraction)


def pruning_curve(
    model: nn.Module,
    data: ModularData,
    *,
    scores: Tensor | None = None,
    orders: Sequence[Order] = ORDERS,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 5,
    seed: int = 0,
    neurons: Neurons | None = None,
    scored_by: str = "IPR",
) -> PruningCurve:
    """Accuracies of `model` on `data` as more and more neurons are pruned, lowest scores first, highest first, at random.

    scores: (N,); by default `neuron_ipr`. draws: random orders to average over; each keeps its order as the share grows.
    Raises InputError before anything is measured.
    """
    places = neurons_of(model, neurons)
    n = count_neurons(model, places)
    check_integer("draws", draws)
    for order in orders:
        check_choice("orders", order, ORDERS)
    for fraction in fractions:
        check_number("fractions", fraction, "shares from 0 to 1", low=0, high=1)
    scores = neuron_ipr(model, data.p, neurons=places) if scores is None else scores
    rows = []
    for order in orders:
        ranks = [_ranked(scores, n, order, seed + draw) for draw in range(draws if order == "random" else 1)]
        for fraction in fractions:
            drops = [_first(rank, round(fraction * n)) for rank in ranks]
            found = [accuracies(without_neurons(model, drop, places), data).as_dict() for drop in drops]
            mean = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
            rows.append(PruningRow(order, float(fraction), Accuracies(**mean), len(found)))
    return PruningCurve(rows, scored_by)


def _ranked(scores: Tensor, n: int, order: Order, seed: int) -> Tensor:
    """(n,) the neurons in the order in which they are pruned."""
    check_choice("order", order, ORDERS)
    if not isinstance(scores, Tensor) or scores.shape != (n,):
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError("scores", got, f"a tensor ({n},), one score a neuron")
    if not bool(torch.isfinite(scores).all()):
        raise InputError("scores", "NaN or infinity", "finite scores")
    if order == "random":
        return torch.randperm(n, generator=generator(seed, "random pruning"))
    return torch.sort(scores.detach().cpu(), stable=True, descending=order == "high").indices


def _first(ranked: Tensor, count: int) -> Tensor:
    drop = torch.zeros(len(ranked), dtype=torch.bool)
    drop[ranked[:count]] = True
    return drop
