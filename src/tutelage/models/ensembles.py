"""Many small networks of one shape, evaluated together by batched matrix products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError


class EnsembleMLP(nn.Module):
    """`members` multilayer perceptrons with ReLU, each with weights of its own.

    sizes: inputs, hidden widths, outputs; (4, 64, 64, 1) has two hidden layers. members: how many are drawn. generator: what
    the weights are drawn from, uniform in +-1/sqrt(inputs of the layer). hidden_bias: the bias that hidden layers start with;
    None draws it too. last: the last layer is drawn from +-last; None draws it as the others. copies: the drawn members are
    held so many times over, one group after the other, equal at the start; so M = copies x members.

    One product a layer serves all members, so that M small networks cost little more than one as long as calls cost
    more than arithmetic does.

    >>> q = EnsembleMLP((4, 64, 64, 1), members=5, generator=generator(0))
    >>> q(x)                                 # (B, 4) or (5, B, 4) -> (5, B, 1)

    Raises InputError for sizes that are no positive integers.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        members: int = 1,
        *,
        generator: torch.Generator,
        hidden_bias: float | None = None,
        last: float | None = None,
        copies: int = 1,
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise InputError("sizes", tuple(sizes), "at least the numbers of inputs and outputs, such as (4, 64, 1)")
        for size in sizes:
            check_integer("sizes", size)
        check_integer("members", members)
        check_integer("copies", copies)
        self.sizes, self.members = tuple(int(size) for size in sizes), int(copies * members)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            at_end = i == len(sizes) - 2
            bound = last if at_end and last is not None else 1 / math.sqrt(inputs)
            weight, bias = (_uniform((members, rows, outputs), bound, generator) for rows in (inputs, 1))
            if hidden_bias is not None and not at_end:
                bias.fill_(hidden_bias)
            self.weights.append(nn.Parameter(weight.repeat(copies, 1, 1)))
            self.biases.append(nn.Parameter(bias.repeat(copies, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs), the same for all, or (M, B, inputs) -> (M, B, outputs)."""
        return _forward(x, list(self.weights), list(self.biases))

    def part(self, members: slice, x: Tensor) -> Tensor:
        """What some members say: (B, inputs) or (their number, B, inputs) -> (their number, B, outputs)."""
        return _forward(x, [weight[members] for weight in self.weights], [bias[members] for bias in self.biases])


def _forward(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    x = x.expand(len(weights[0]), *x.shape) if x.ndim == 2 else x
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = F.relu(torch.baddbmm(bias, x, weight), inplace=True)
    return torch.baddbmm(biases[-1], x, weights[-1])


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
