"""Interval bound propagation (IBP): what every layer of a net can give for a whole box of inputs, from one pass forward.

    Gowal et al.: On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models, arXiv 1810.12715.

A box is a centre c and a radius r >= 0 for every coordinate. An affine layer gives

    c' = W c + b,        r' = |W| r                                                                          (1)

and a monotone activation f gives the box of f(c - r) and f(c + r). For the differences of logits that decide a class, the
rows C are folded into the last layer first (|C W| r is smaller than |C| |W| r).

Bounds are sound for BatchNorm in evaluation mode only. With outward=True (the default) every radius grows by what rounding can
do in that layer, gamma_n = n u / (1 - n u) times |W| (|c| + r) + |b|, twice: once for the bounds and once for the net whose
outputs are bounded, in whatever order it adds. So the bounds hold for the numbers that the net computes in the same
precision, not only for the net of real numbers. Training does not need it: outward=False. Boxes of a deep net that was not
trained for them widen from layer to layer, and so does this margin: give such a net and its inputs in float64.
Sums in lower precision than the inputs' (TF32 on GPUs, autocast) or in a transformed domain (Winograd) are outside of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.guarantees.layers import Activation, Affine, Kind, Layer, LayerGraph, MaxPool, Statistics, Sum, layers_of

# GELU falls from 0 to its least value and rises from there; the value is rounded down
PAIRS = 32  # classes up to which all pairs of them are bounded at once
GELU_ARGMIN, GELU_MIN = -0.7517915, -0.1699713


@dataclass(frozen=True)
class Box:
    """All z with |z - center| <= radius, elementwise; (B, ...)."""

    center: Tensor
    radius: Tensor

    @property
    def lower(self) -> Tensor:
        return self.center - self.radius

    @property
    def upper(self) -> Tensor:
        return self.center + self.radius

    @property
    def size(self) -> Tensor:
        """The largest |z| in the box."""
        return self.center.abs() + self.radius

    def ends(self, outward: bool) -> tuple[Tensor, Tensor]:
        """(lower, upper); moved apart by the rounding of the two sums with `outward`."""
        if not outward:
            return self.lower, self.upper
        slack = 2 * _eps(self.center) * self.size
        return self.lower - slack, self.upper + slack

    @staticmethod
    def between(lower: Tensor, upper: Tensor, outward: bool) -> Box:
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        if outward:
            radius = radius + 2 * _eps(center) * (center.abs() + radius)
        return Box(center, radius)


def ibp_bounds(
    net: nn.Module | LayerGraph, lower: Tensor, upper: Tensor, rows: Tensor | None = None, *, outward: bool = True
) -> tuple[Tensor, Tensor]:
    """Bounds of the outputs of `net`, or of linear combinations of them, for all inputs from `lower` to `upper`, (B, ...).

    rows: C (M, K) or (B, M, K), for bounds of C z, z the outputs (B, K), such as `margin_rows(y, K)`. outward: see the head
    of this file. Returns (lb, ub), (B, M), or of the outputs' own shape without rows; both are differentiable.
    Raises InputError for lower > upper, wrong shapes, and a layer without a rule.
    """
    check_box(lower, upper)
    graph = layers_of(net, lower)
    rows = check_rows(rows, graph, len(lower))
    boxes = propagate(graph, Box.between(lower, upper, outward), outward=outward, keep=False)
    return output_box(graph, boxes, rows, outward=outward).ends(outward)


def propagate(
    graph: LayerGraph, box: Box, *, outward: bool = True, statistics: Statistics | None = None, keep: bool = True
) -> list[Box]:
    """The box of every layer, by its position in the graph. statistics: of BatchNorms, instead of the running ones.

    keep=False: an empty box stands for each that `output_box` and `margin_box` do not need. Its memory is used again, as in
    a forward pass, which makes a pass of a deep net faster.
    """
    boxes, users = [box], _users(graph)
    last = graph.layers[-1]
    needed = last.inputs if isinstance(last, Affine) else ()
    for i, layer in enumerate(graph.layers[1:], 1):
        spent = [place for place in layer.inputs if not keep and users[place][-1] == i and place not in needed]
        before = graph.layers[layer.inputs[0]]
        # the output of a convolution or a linear layer is nobody else's memory
        spare = (
            layer.inputs[0] in spent and len(users[layer.inputs[0]]) == 1 and isinstance(before, Affine) and before.by_channel
        )
        boxes.append(step(layer, boxes, outward=outward, statistics=statistics, spare=spare))
        for place in spent:
            nothing = box.center.new_empty(0)
            boxes[place] = Box(nothing, nothing)
    return boxes


def _users(graph: LayerGraph) -> dict[int, list[int]]:
    """The layers that each layer feeds, in order."""
    users: dict[int, list[int]] = {}
    for i, layer in enumerate(graph.layers):
        for place in layer.inputs:
            users.setdefault(place, []).append(i)
    return users


def step(
    layer: Layer, boxes: Sequence[Box], *, outward: bool, statistics: Statistics | None = None, spare: bool = False
) -> Box:
    """The box of one layer from those of the layers before it. spare: the box that feeds it may be overwritten."""
    if isinstance(layer, Affine):
        return _affine(layer, boxes[layer.inputs[0]], outward, statistics)
    if isinstance(layer, Sum):
        first, second = (boxes[i] for i in layer.inputs)
        center, radius = torch.add(first.center, second.center, alpha=layer.sign), first.radius + second.radius
        if outward:
            radius = radius * (1 + 4 * _eps(radius)) + 2 * _eps(radius) * (first.size + second.size)
        return Box(center, radius)
    if isinstance(layer, Activation) and layer.kind == "relu" and not outward:
        return _relu(boxes[layer.inputs[0]], spare)
    lower, upper = boxes[layer.inputs[0]].ends(outward)
    if isinstance(layer, MaxPool):
        return Box.between(layer.pool(lower), layer.pool(upper), outward)
    assert isinstance(layer, Activation)
    return Box.between(*_activation(layer.kind, lower, upper, outward), outward)


def _relu(box: Box, spare: bool) -> Box:
    """The box behind a ReLU, without outward rounding: passes over memory are what IBP costs beside its products."""
    lower = box.lower.relu_()  # in place, as nobody else has it
    if spare and not (box.center.requires_grad or box.radius.requires_grad):  # its memory is used again
        center = box.center.add_(box.radius).relu_().lerp_(lower, 0.5)
        return Box(center, torch.sub(center, lower, out=box.radius))
    center = box.upper.relu_().lerp(lower, 0.5)
    return Box(center, center - lower)


def _affine(layer: Affine, box: Box, outward: bool, statistics: Statistics | None) -> Box:
    weight, bias = layer.parameters(statistics)
    center = layer.apply(box.center, weight, bias)
    if not outward or not layer.terms:
        return Box(center, layer.apply(box.radius, None if weight is None else weight.abs(), None))
    size, bias_size = layer.sizes(statistics)
    # |W| (r + g (|c| + r)) + g |b| in one pass
    g = 2 * rounding(layer.terms + 2, center)
    return Box(center, layer.apply(box.radius + g * box.size, size, None if bias_size is None else g * bias_size))


def _activation(kind: Kind, lower: Tensor, upper: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
    if kind == "relu":
        return lower.relu(), upper.relu()
    f = FUNCTIONS[kind]
    low, high = f(lower), f(upper)
    if kind == "gelu":
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        low = torch.where((lower <= GELU_ARGMIN) & (upper >= GELU_ARGMIN), GELU_MIN, low)
    if outward:  # libraries' sigmoid, tanh and erf are right to a few units in the last place, and not quite monotone
        slack = 8 * _eps(low)
        low, high = low - slack * (1 + low.abs()), high + slack * (1 + high.abs())
    return low, high


FUNCTIONS: dict[Kind, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
}


def output_box(
    graph: LayerGraph,
    boxes: Sequence[Box],
    rows: Tensor | None,
    *,
    outward: bool = True,
    statistics: Statistics | None = None,
) -> Box:
    """The box of C z, (B, M), for rows C and outputs z; without rows of z itself. C is folded into a last linear layer."""
    if rows is None:
        return boxes[-1]
    layer, box = graph.layers[-1], boxes[-1]
    weight = bias_size = shift = None
    folded, terms = rows, rows.shape[-1] + 4
    if isinstance(layer, Affine) and layer.is_matrix:
        weight, bias = layer.parameters(statistics)
        assert weight is not None
        folded, box = rows @ weight, boxes[layer.inputs[0]]
        if bias is not None:
            shift, bias_size = rows @ bias, layer.sizes(statistics)[1]
        terms += layer.terms
    center, radius = _rows_times(folded, box.center), _rows_times(folded.abs(), box.radius)
    if outward:
        g = 2 * rounding(terms, center)
        mass = rows.abs() if weight is None else rows.abs() @ weight.abs()
        radius = radius + g * _rows_times(mass, box.size)
        if bias_size is not None:
            radius = radius + g * (rows.abs() @ bias_size)
    return Box(center if shift is None else center + shift, radius)


def _rows_times(rows: Tensor, z: Tensor) -> Tensor:
    """(M, n) or (B, M, n) times z (B, n): (B, M)."""
    return z @ rows.T if rows.dim() == 2 else (rows @ z.unsqueeze(-1)).squeeze(-1)


def margin_box(
    graph: LayerGraph, boxes: Sequence[Box], y: Tensor, *, outward: bool = True, statistics: Statistics | None = None
) -> Box:
    """The box of the margins z_y - z_j, (B, K - 1): `output_box` of `margin_rows`, cheaper where there are few classes."""
    classes = graph.layers[-1].shape[0]
    if classes > PAIRS:
        return output_box(graph, boxes, margin_rows(y, classes).to(boxes[-1].center), outward=outward, statistics=statistics)
    # all ordered pairs for all samples are one matrix product; each sample takes those of its label
    labels = torch.arange(classes, device=y.device)
    rows = margin_rows(labels, classes).to(boxes[-1].center).flatten(0, 1)
    every = output_box(graph, boxes, rows, outward=outward, statistics=statistics)
    place = (y[:, None] * (classes - 1) + labels[:-1]).long()
    return Box(every.center.gather(1, place), every.radius.gather(1, place))


def margin_rows(y: Tensor, classes: int) -> Tensor:
    """C (B, K - 1, K) whose rows e_y - e_j, j != y in order, turn logits into margins: all > 0 means that y wins."""
    others = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    others = others + (others >= y[:, None]).long()
    eye = torch.eye(classes, device=y.device)
    return eye[y][:, None] - eye[others]


def data_box(x: Tensor, eps: float | Tensor, bounds: tuple[float, float] | None = (0.0, 1.0)) -> tuple[Tensor, Tensor]:
    """(lower, upper): the Linf ball of radius eps (a number, or one a sample) around x, cut to the range of valid inputs."""
    if isinstance(eps, Tensor):
        eps = eps.to(x).reshape(-1, *[1] * (x.dim() - 1))
    lower, upper = x - eps, x + eps
    return (lower, upper) if bounds is None else (lower.clamp(min=bounds[0]), upper.clamp(max=bounds[1]))


def check_box(lower: Tensor, upper: Tensor) -> None:
    for name, end in (("lower", lower), ("upper", upper)):
        if not isinstance(end, Tensor) or end.dim() < 2 or not end.numel() or not end.is_floating_point():
            got = f"shape {tuple(end.shape)}, dtype {end.dtype}" if isinstance(end, Tensor) else type(end).__name__
            raise InputError(name, got, "floating-point inputs (B, ...)")
    if lower.shape != upper.shape or lower.dtype != upper.dtype:
        raise InputError("upper", f"{tuple(upper.shape)}, {upper.dtype}", f"as lower: {tuple(lower.shape)}, {lower.dtype}")
    if not bool((lower <= upper).all()) or not bool(torch.isfinite(upper - lower).all()):  # also false for NaN
        raise InputError("lower", "an end that is not finite or exceeds upper", "finite numbers, lower <= upper")


def check_rows(rows: Tensor | None, graph: LayerGraph, n: int) -> Tensor | None:
    """rows as (B, M, K) or (M, K), fit for the outputs of the net."""
    if rows is None:
        return None
    shape = graph.layers[-1].shape
    right = isinstance(rows, Tensor) and rows.dim() in (2, 3) and len(shape) == 1 and rows.shape[-1] == shape[0]
    if not right or (rows.dim() == 3 and len(rows) != n):
        got = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError("rows", got, f"(M, K) or ({n}, M, K) for outputs of shape (B, {', '.join(map(str, shape))})")
    return rows


def rounding(terms: int, like: Tensor) -> float:
    """gamma_n = n u / (1 - n u): the relative error of a sum of n products in the precision of `like`."""
    n = terms * _eps(like) / 2
    return n / (1 - n)


def _eps(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).eps)
