"""Upper bounds of Lipschitz constants in the Euclidean norm, layer by layer: sound for the real-valued network.

    Lip(f_L o ... o f_1) <= prod_i Lip(f_i)                                    (1)
    Lip(W z + b) = sigma_max(W);  Lip(relu) = Lip(tanh) = 1, Lip(sigmoid) = 1/4, Lip(gelu) < 1.13
    Lip(f + g) <= Lip(f) + Lip(g)

Neighbouring affine layers (convolution, BatchNorm in evaluation mode, flatten, linear) count as one map. Its largest singular
value is an eigenvalue of the exact Gram matrix in float64, not a power iteration, which would approach it from below. Where
that matrix would be too large, sigma_max(W)^2 <= ||W||_1 ||W||_inf stands in. What (1) gives is true and loose: each layer
may have its worst input elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.guarantees.layers import Activation, Affine, Input, Layer, LayerGraph, MaxPool, Sum, layers_of
from tutelage.models.guard import evaluating

GELU_SLOPE = 1.1290  # the largest derivative of x Phi(x), at x = sqrt(2): 1.12890...
SLOPES = {"relu": 1.0, "tanh": 1.0, "sigmoid": 0.25, "gelu": GELU_SLOPE}
ROUNDING = 1 + 1e-9  # of an eigenvalue in float64, relative; its error is below n 2^-52
LARGEST = 4096  # side of a Gram matrix that is formed


def lipschitz_bound(net: nn.Module | LayerGraph, x: Tensor, *, largest: int = LARGEST) -> float:
    """An upper bound of ||f(u) - f(v)||_2 / ||u - v||_2 over all inputs u, v of the shape of x (B, ...); net in eval mode.

    largest: side of the largest Gram matrix that is formed exactly. Raises InputError for nets that `layers_of` refuses.
    """
    found = _bounds(net, x, largest)
    return found[0]


def row_bounds(net: nn.Module | LayerGraph, x: Tensor, *, largest: int = LARGEST) -> Tensor:
    """The same for each output alone, (K,): |f_k(u) - f_k(v)| / ||u - v||_2. Outputs must be flat, (B, K)."""
    return _bounds(net, x, largest)[1]


def _bounds(net: nn.Module | LayerGraph, x: Tensor, largest: int) -> tuple[float, Tensor]:
    check_integer("largest", largest)
    if isinstance(net, LayerGraph):
        return _of_graph(layers_of(net, x), largest)
    with evaluating(net, verify=False), torch.no_grad():
        return _of_graph(layers_of(net, x), largest)


@torch.no_grad()
def _of_graph(graph: LayerGraph, largest: int) -> tuple[float, Tensor]:
    layers = graph.layers
    used = [0] * len(layers)
    for layer in layers:
        for place in layer.inputs:
            used[place] += 1
    last = len(layers) - 1
    whole: dict[int, float] = {}  # of the outputs of each layer

    def chain_to(i: int) -> tuple[int, list[Affine]]:
        """The affine layers that end at i and feed nothing else, and the layer before them."""
        chain: list[Affine] = []
        layer: Layer = layers[i]
        while isinstance(layer, Affine) and (not chain or used[i] == 1):
            chain.insert(0, layer)
            (i,) = layer.inputs
            layer = layers[i]
        return i, chain

    def bound(i: int) -> float:
        if i not in whole:
            layer = layers[i]
            if isinstance(layer, Input):
                whole[i] = 1.0
            elif isinstance(layer, Affine):
                before, chain = chain_to(i)
                whole[i] = bound(before) * _norm(chain, layers[before].shape, largest)
            elif isinstance(layer, Activation):
                whole[i] = bound(layer.inputs[0]) * SLOPES[layer.kind]
            elif isinstance(layer, MaxPool):
                whole[i] = bound(layer.inputs[0]) * _pool_norm(layer, layers[layer.inputs[0]].shape)
            elif isinstance(layer, Sum):
                whole[i] = bound(layer.inputs[0]) + bound(layer.inputs[1])
            else:
                raise InputError("net", f"a {type(layer).__name__} layer", "affine layers, activations, max pools and sums")
        return whole[i]

    total = bound(last)
    if len(layers[last].shape) != 1:
        return total, torch.full((math.prod(layers[last].shape),), total, dtype=torch.float64)
    if isinstance(layers[last], Affine):
        before, chain = chain_to(last)
        rows = _row_norms(chain, layers[before].shape, largest) * bound(before)
        return total, rows.clamp_max(total)
    return total, torch.full(tuple(layers[last].shape), total, dtype=torch.float64)


def _pushed(chain: list[Affine], z: Tensor, *, sizes: bool = False) -> Tensor:
    """z (N, *in) through the linear parts of the chain; sizes: with the absolute values of the weights."""
    for layer in chain:
        weight, _ = layer.sizes() if sizes else layer.parameters(None)
        z = layer.apply(z, None if weight is None else weight.double(), None)
    return z


def _matrix(chain: list[Affine], shape: tuple[int, ...]) -> Tensor:
    """(inputs, outputs): the transpose of the matrix of the chain, row by row."""
    n = math.prod(shape)
    rows = []
    for start in range(0, n, 512):
        basis = torch.zeros(min(512, n - start), n, dtype=torch.float64)
        basis[torch.arange(len(basis)), start + torch.arange(len(basis))] = 1.0
        rows.append(_pushed(chain, basis.reshape(-1, *shape)).flatten(1))
    return torch.cat(rows)


def _norm(chain: list[Affine], shape: tuple[int, ...], largest: int) -> float:
    sides = math.prod(shape), math.prod(chain[-1].shape)
    if min(sides) > largest or max(sides) > 4 * largest:
        if len(chain) > 1:  # one by one: |W1| |W2| would be looser still
            split, before = 1.0, shape
            for layer in chain:
                split *= _norm([layer], before, largest)
                before = layer.shape
            return split
        return _schur(chain[0], shape)
    matrix = _matrix(chain, shape)
    gram = matrix @ matrix.T if sides[0] <= sides[1] else matrix.T @ matrix
    top = float(torch.linalg.eigvalsh(gram)[-1])
    return math.sqrt(max(top, 0.0)) * ROUNDING


def _schur(layer: Affine, shape: tuple[int, ...]) -> float:
    """sqrt(||W||_1 ||W||_inf) of one layer, from |W| alone."""
    ones = torch.ones(1, *shape, dtype=torch.float64)
    rows = float(_pushed([layer], ones, sizes=True).max())
    weight, _ = layer.sizes()
    back = layer.transpose(torch.ones(1, *layer.shape, dtype=torch.float64), None if weight is None else weight.double())
    return math.sqrt(rows * float(back.max())) * ROUNDING


def _row_norms(chain: list[Affine], shape: tuple[int, ...], largest: int) -> Tensor:
    """(K,): the norm of each row of the chain's matrix."""
    if math.prod(shape) > 4 * largest:
        return torch.full((chain[-1].shape[0],), math.inf, dtype=torch.float64)
    found: Tensor = torch.linalg.vector_norm(_matrix(chain, shape), dim=0) * ROUNDING
    return found


def _pool_norm(layer: MaxPool, shape: tuple[int, ...]) -> float:
    """sqrt of the most windows that one input is in: max(u) - max(v) is at most the change of one input of the window."""
    sample = torch.zeros(1, *shape, dtype=torch.float64)
    counts = torch.zeros(math.prod(shape[1:]), dtype=torch.float64)
    inside = torch.isfinite(layer.windows(sample))[0, 0]
    places = layer.positions(sample).reshape(-1, *inside.shape)[0]
    counts.scatter_add_(0, places[inside], torch.ones_like(places[inside], dtype=torch.float64))
    return math.sqrt(float(counts.max()))
