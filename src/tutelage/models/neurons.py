"""The neurons of one hidden layer: where their weights lie in a model, and a copy of the model without some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.copying import copied

Place = tuple[str, int]  # (name of a parameter matrix, its axis that counts neurons)


@dataclass(frozen=True)
class Neurons:
    """Where the weights of a layer of N neurons lie.

    incoming, outgoing: (name, axis) of the matrices that lead into the neurons and out of them, as the model's
    `named_parameters` has them; `axis` is the one of length N. For `nn.Sequential(nn.Linear(d, N), act, nn.Linear(N, c))` they
    are (("0.weight", 0),) and (("2.weight", 1),). gain: the name of a vector (N,) that scales the neurons, such as the
    weight of a BatchNorm; "" if there is none.
    """

    incoming: tuple[Place, ...]
    outgoing: tuple[Place, ...]
    gain: str = ""


def neurons_of(model: nn.Module, neurons: Neurons | None = None) -> Neurons:
    """`neurons`, or what the model says itself (`model.neurons`), checked: the matrices exist and agree on N."""
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    found = getattr(model, "neurons", None) if neurons is None else neurons
    if not isinstance(found, Neurons):
        got = f"{type(model).__name__} without neurons of its own" if neurons is None else type(neurons).__name__
        raise InputError("neurons", got, 'Neurons(incoming=(("0.weight", 0),), outgoing=(("2.weight", 1),)), say')
    parameters = dict(model.named_parameters(remove_duplicate=False))
    sizes = set()
    for name, axis in (*found.incoming, *found.outgoing):
        if name not in parameters:
            raise InputError("neurons", name, f"a parameter of the model, such as {next(iter(parameters), 'weight')}")
        if parameters[name].dim() != 2 or axis not in (0, 1):
            shape = tuple(parameters[name].shape)
            raise InputError("neurons", f"axis {axis} of {name} {shape}", "axis 0 or 1 of a matrix")
        sizes.add(parameters[name].shape[axis])
    if found.gain and (found.gain not in parameters or parameters[found.gain].dim() != 1):
        raise InputError("neurons", found.gain, "a parameter vector of the model")
    if found.gain:
        sizes.add(len(parameters[found.gain]))
    if len(sizes) != 1:
        raise InputError("neurons", f"{sorted(sizes)} neurons", "matrices with one number of neurons")
    return found


def matrices(model: nn.Module, places: Sequence[Place]) -> list[Tensor]:
    """The weights at `places`, one row a neuron: (N, other side) each, views without gradients."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return [parameters[name].detach().movedim(axis, 0) for name, axis in places]


def count_neurons(model: nn.Module, neurons: Neurons) -> int:
    """N, the number of neurons."""
    return len(matrices(model, (*neurons.incoming, *neurons.outgoing))[0])


def without_neurons(model: nn.Module, drop: Tensor, neurons: Neurons | None = None) -> nn.Module:
    """A copy of `model` in which the neurons of `drop`, (N,) bool, have no weights, neither incoming nor outgoing."""
    places = neurons_of(model, neurons)
    n = count_neurons(model, places)
    if not isinstance(drop, Tensor) or drop.dtype != torch.bool or drop.shape != (n,):
        got = f"{drop.dtype} of shape {tuple(drop.shape)}" if isinstance(drop, Tensor) else type(drop).__name__
        raise InputError("drop", got, f"a bool tensor ({n},), one a neuron")
    found = copied(model)
    for weights in matrices(found, (*places.incoming, *places.outgoing)):
        weights[drop.to(weights.device)] = 0
    return found
