"""Linear bound propagation (CROWN): bounds of the outputs by one linear function of the input, found from the output back.

    Zhang et al.: Efficient Neural Network Robustness Certification with General Activation Functions, arXiv 1811.00866.

Between the ends of its input each activation lies between two lines, a_l z + b_l <= f(z) <= a_u z + b_u; for a ReLU with
l < 0 < u

    a_u = u / (u - l),   b_u = -l a_u;        a_l = 1 if u > -l else 0,   b_l = 0.                           (1)

Rows A z of a layer are bounded from below by taking the lower line where A > 0 and the upper one where A < 0, then A <- A W
through the affine layers down to the input, where the minimum over the box is A c - |A| r. Lines of sigmoid, tanh and GELU
have the slope of the chord; their offsets are the extremes of f - a z on a grid, moved apart by h^2 / 8 max|f''|.

The ends of the activations' inputs come from IBP, or, with refine=True, from the same bounds applied to every one of them,
first layer first. They are cut with those of IBP, so CROWN is never looser. With outward=True all roundings are bounded as in
`bounds`: an affine step adds gamma_n |A| (|W| |z| + |b|), where |z| is the largest value in the layer's box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.guarantees.bounds import (
    FUNCTIONS,
    GELU_ARGMIN,
    GELU_MIN,
    Box,
    check_box,
    check_rows,
    output_box,
    rounding,
    step,
)
from tutelage.guarantees.layers import Activation, Affine, Input, Kind, LayerGraph, MaxPool, Sum, layers_of

GRID = 32  # pieces of an activation's interval
CURVATURE = {"sigmoid": 0.0963, "tanh": 0.7699, "gelu": 0.7979}  # max |f''|, rounded up
ROWS = 2**24  # numbers in the rows of one piece of work, over the widest layer


def crown_bounds(
    net: nn.Module | LayerGraph,
    lower: Tensor,
    upper: Tensor,
    rows: Tensor | None = None,
    *,
    refine: bool = True,
    outward: bool = True,
    chunk: int = ROWS,
) -> tuple[Tensor, Tensor]:
    """Bounds of the outputs (B, K) of `net`, or of rows of them, for all inputs from `lower` to `upper`, (B, ...).

    rows: C (M, K) or (B, M, K), as in `ibp_bounds`. refine=False takes the ends of all activations from IBP: one pass back
    (CROWN-IBP), where refine=True makes one for every neuron that may be on both sides of 0. chunk: numbers held at once.
    Returns (lb, ub), (B, M) or (B, K), differentiable. Never looser than `ibp_bounds`. Raises InputError as it does.
    """
    check_box(lower, upper)
    check_integer("chunk", chunk)
    graph = layers_of(net, lower)
    rows = check_rows(rows, graph, len(lower))
    if len(graph.layers[-1].shape) != 1:
        raise InputError("net", f"outputs of shape (B, *{graph.layers[-1].shape})", "outputs (B, K)")
    boxes = crown_boxes(graph, Box.between(lower, upper, outward), refine=refine, outward=outward, chunk=chunk)
    wanted = torch.eye(graph.layers[-1].shape[0]).to(lower) if rows is None else rows
    own_lower, own_upper = output_box(graph, boxes, rows, outward=outward).ends(outward)
    if wanted.dim() == 2:
        wanted = wanted.expand(len(lower), -1, -1)
    last = len(graph.layers) - 1
    lb = torch.maximum(own_lower, lower_bound(graph, boxes, last, wanted, outward=outward))
    ub = torch.minimum(own_upper, -lower_bound(graph, boxes, last, -wanted, outward=outward))
    return lb, torch.maximum(lb, ub)


def crown_boxes(graph: LayerGraph, box: Box, *, refine: bool = True, outward: bool = True, chunk: int = ROWS) -> list[Box]:
    """The box of every layer. With `refine`, the input of each activation is bounded by CROWN where IBP leaves it open."""
    boxes = [box]
    watched = {graph.layers[i].inputs[0] for i in graph.activations} if refine else set()
    for i, layer in enumerate(graph.layers[1:], 1):
        boxes.append(step(layer, boxes, outward=outward))
        if i in watched and any(j < i for j in graph.activations):  # up to the first activation IBP is as good
            boxes[i] = _refined(graph, boxes, i, outward, chunk)
    return boxes


def _refined(graph: LayerGraph, boxes: Sequence[Box], place: int, outward: bool, chunk: int) -> Box:
    """The box of one layer, its open neurons (of any sample) bounded by CROWN and cut with what was known."""
    lower, upper = (end.flatten(1) for end in boxes[place].ends(outward))
    shape = graph.layers[place].shape
    users = [graph.layers[i] for i in graph.activations if graph.layers[i].inputs[0] == place]
    only_relu = all(isinstance(one, Activation) and one.kind == "relu" for one in users)
    open_ = ((lower < 0) & (upper > 0)).any(0) if only_relu else torch.ones_like(lower[0], dtype=torch.bool)
    neurons = open_.nonzero().squeeze(1)
    widest = max(layer_size(graph, i) for i in range(place + 1))
    size = max(1, chunk // (len(lower) * widest))
    for start in range(0, len(neurons), size):
        part = neurons[start : start + size]
        rows = torch.zeros(len(part), lower.shape[1]).to(lower)
        rows[torch.arange(len(part)), part] = 1
        wanted = rows.reshape(1, len(part), *shape).expand(len(lower), *[-1] * (len(shape) + 1))
        lb, ub = (sign * lower_bound(graph, boxes, place, sign * wanted, outward=outward) for sign in (1, -1))
        lower = lower.index_copy(1, part, torch.maximum(lower[:, part], lb))
        upper = upper.index_copy(1, part, torch.minimum(upper[:, part], ub))
    upper = torch.maximum(lower, upper)
    return Box.between(lower.reshape(-1, *shape), upper.reshape(-1, *shape), outward)


def layer_size(graph: LayerGraph, place: int) -> int:
    return int(torch.Size(graph.layers[place].shape).numel())


def lower_bound(graph: LayerGraph, boxes: Sequence[Box], place: int, rows: Tensor, *, outward: bool = True) -> Tensor:
    """A lower bound (B, M) of rows (B, M, *shape) times the values of the layer at `place`, over the whole input box."""
    total = torch.zeros(rows.shape[:2], dtype=torch.float64, device=rows.device)
    slack = torch.zeros_like(total)
    unit = rounding(1, rows)
    waiting: dict[int, Tensor] = {place: rows}

    def add(i: int, a: Tensor) -> None:
        waiting[i] = waiting[i] + a if i in waiting else a

    for i in range(place, -1, -1):
        if i not in waiting:
            continue
        a, layer = waiting.pop(i), graph.layers[i]
        if isinstance(layer, Input):
            total = total + _dot(a, boxes[0].center) - _dot(a.abs(), boxes[0].radius)
            if outward:
                slack = slack + 4 * unit * _dot(a.abs(), boxes[0].size)
        elif isinstance(layer, Affine):
            weight, bias = layer.parameters(None)
            source = boxes[layer.inputs[0]]
            back = layer.transpose(a.flatten(0, 1), weight)
            add(layer.inputs[0], back.reshape(*a.shape[:2], *back.shape[1:]))
            if bias is not None:
                total = total + _dot(a, layer.apply(torch.zeros_like(source.center[:1]), weight, bias))
            if outward and layer.terms:
                mass = layer.apply(source.size, *layer.sizes())
                slack = slack + 3 * rounding(layer.terms + 4, a) * _dot(a.abs(), mass)
        elif isinstance(layer, Sum):
            add(layer.inputs[0], a)
            add(layer.inputs[1], layer.sign * a)
            if outward:
                slack = slack + 4 * unit * _dot(a.abs(), boxes[layer.inputs[0]].size + boxes[layer.inputs[1]].size)
        elif isinstance(layer, Activation):
            box = boxes[layer.inputs[0]]
            (a_l, b_l), (a_u, b_u) = lines(layer.kind, *box.ends(outward))
            positive, negative = a.clamp(min=0), a.clamp(max=0)
            add(layer.inputs[0], positive * a_l.unsqueeze(1) + negative * a_u.unsqueeze(1))
            total = total + _dot(positive, b_l) + _dot(negative, b_u)
            if outward:
                size = (a_l.abs() + a_u.abs()) * box.size + b_l.abs() + b_u.abs() + boxes[i].size
                slack = slack + 16 * unit * _dot(a.abs(), size)
        else:
            assert isinstance(layer, MaxPool)
            box = boxes[layer.inputs[0]]
            back, constant = _through_max(layer, a, box, outward)
            add(layer.inputs[0], back)
            total = total + constant
            if outward:
                slack = slack + 16 * unit * _dot(a.abs(), boxes[i].size)
    if outward:
        total = total - slack - 4 * unit * total.abs()
    return total.to(rows.dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """a (B, M, ...) times b (B or 1, ...), summed over all but B and M in float64: (B, M)."""
    return (a * b.unsqueeze(1)).flatten(2).sum(2, dtype=torch.float64)


Line = tuple[Tensor, Tensor]  # slope, offset


def lines(kind: Kind, lower: Tensor, upper: Tensor) -> tuple[Line, Line]:
    """The lower and the upper line of an activation between the ends of its input, elementwise."""
    if kind == "relu":
        is_open = (lower < 0) & (upper > 0)
        active = (lower >= 0).to(lower)
        slope = torch.where(is_open, upper / torch.where(is_open, upper - lower, 1.0), active)
        offset = torch.where(is_open, -lower * slope, 0.0)
        below = torch.where(is_open, (upper > -lower).to(lower), active)
        return (below, torch.zeros_like(below)), (slope, offset)
    f = FUNCTIONS[kind]
    width = upper - lower
    ends = f(lower), f(upper)
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    if kind == "gelu":
        low = torch.where((lower <= GELU_ARGMIN) & (upper >= GELU_ARGMIN), GELU_MIN, low)
    # of a very short interval the chord is noise: one a little longer does as well, as any slope is sound
    middle, half = (lower + upper) / 2, (width / 2).clamp(min=5e-4)
    slope = (f(middle + half) - f(middle - half)) / (2 * half)
    least = most = ends[0] - slope * lower
    for k in range(1, GRID + 1):
        z = lower + width * (k / GRID)
        gap = f(z) - slope * z
        least, most = torch.minimum(least, gap), torch.maximum(most, gap)
    eps = float(torch.finfo(lower.dtype).eps)
    between = CURVATURE[kind] / 8 * (width / GRID) ** 2
    reach = torch.maximum(lower.abs(), upper.abs())
    between = between + 16 * eps * (1 + reach + slope.abs() * reach)
    least, most = least - between, most + between
    # of a very long one the grid is coarse: its own range bounds f, too
    flat = most - least > high - low
    slack = 16 * eps * (1 + reach)
    slope = torch.where(flat, 0.0, slope)
    return (slope, torch.where(flat, low - slack, least)), (slope, torch.where(flat, high + slack, most))


def _through_max(layer: MaxPool, a: Tensor, box: Box, outward: bool) -> tuple[Tensor, Tensor]:
    """Rows through a max pool: below, the input with the highest lower end; above, it too where no other can exceed it."""
    lower, upper = (layer.windows(end) for end in box.ends(outward))  # (B, C, windows, inputs of one)
    best, chosen = lower.max(3, keepdim=True)
    others = upper.scatter(3, chosen, -torch.inf).amax(3)
    alone = others <= best.squeeze(3)
    positive, negative = a.flatten(3).clamp(min=0), a.flatten(3).clamp(max=0)
    through = positive + negative * alone.unsqueeze(1)
    index = layer.positions(box.center).expand_as(lower).gather(3, chosen).squeeze(3)
    back = torch.zeros(*a.shape[:2], *box.center.flatten(2).shape[1:]).to(a)
    back = back.scatter_add(3, index.unsqueeze(1).expand_as(through), through)
    return back.reshape(*a.shape[:2], *box.center.shape[1:]), _dot(negative, torch.where(alone, 0.0, upper.amax(3)))
