"""Propagation tightness: how much of a box that IBP hands on is really reached. Equations: `ibp_tightness`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.guarantees.bounds import Box, data_box, ibp_bounds, margin_rows, propagate
from tutelage.guarantees.layers import Activation, Affine, Input, LayerGraph, Sum, layers_of
from tutelage.guarantees.linear_bounds import layer_size
from tutelage.guarantees.milp import exact_bounds
from tutelage.models.checks import check_inputs, check_labels
from tutelage.models.guard import evaluating

Mode = Literal["local", "linear", "true"]
MODES = ("local", "linear", "true")
Bounds = tuple[float, float] | None


def deep_linear_radii(weights: Sequence[Tensor], eps: Tensor | float) -> tuple[Tensor, Tensor]:
    """(1) and (2): the radii of the optimal and of the layer-wise (IBP) box of W_L ... W_1 x, both (out,), in float64.

    weights: W_1 first, each (out, in). eps: the input radius, one number or (in,), >= 0.
    """
    signed, absolute = _product(weights)
    radius = torch.as_tensor(eps, dtype=torch.float64).expand(signed.shape[1])
    if bool((radius < 0).any()) or not bool(torch.isfinite(radius).all()):
        raise InputError("eps", eps, "radii >= 0")
    return signed.abs() @ radius, absolute @ radius


def deep_linear_tightness(weights: Sequence[Tensor], eps: Tensor | float = 1.0) -> Tensor:
    """(3): tau of a deep linear net, (out,), in [0, 1]; NaN for an output whose box is a point."""
    optimal, layerwise = deep_linear_radii(weights, eps)
    return _ratio(optimal, layerwise)


def propagation_invariant(weights: Sequence[Tensor], tolerance: float = 0.0) -> Tensor:
    """(5): for which output and input of a deep linear net the box is exact, (out, in) bool.

    For two layers: whether all products w2_ij w1_jk have one sign over j. tolerance: relative to the sum of sizes.
    """
    signed, absolute = _product(weights)
    return absolute - signed.abs() <= max(tolerance, 1e-12) * absolute


def _product(weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    if not weights or any(not isinstance(w, Tensor) or w.dim() != 2 for w in weights):
        raise InputError(
            "weights", [getattr(w, "shape", type(w)) for w in weights], "matrices (out, in), the first layer first"
        )
    signed, absolute = weights[0].detach().double(), weights[0].detach().double().abs()
    for w in weights[1:]:
        if w.shape[1] != len(signed):
            raise InputError("weights", f"{tuple(w.shape)} after {len(signed)} outputs", f"(out, {len(signed)})")
        signed, absolute = w.detach().double() @ signed, w.detach().double().abs() @ absolute
    return signed, absolute


def tau_gaussian(d: int) -> float:
    """(4): the ratio of expected radii of two layers of independent centred Gaussian weights with d units between them.

    It depends neither on the number of inputs and outputs nor on the variances; about sqrt(pi / (2 d)) for large d.
    """
    check_integer("d", d)
    return math.sqrt(math.pi) / d * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))


def tightness(
    net: nn.Module | LayerGraph,
    x: Tensor,
    eps: float,
    y: Tensor | None = None,
    mode: Mode = "local",
    bounds: Bounds = (0.0, 1.0),
    *,
    batch_size: int = 64,
    node_limit: int | None = None,
) -> Tensor:
    """tau (B, M) of a ReLU net at inputs x (B, ...) for the Linf ball of radius eps > 0, cut to `bounds`, in float64.

    With labels y (B,) the M = K - 1 margins of y are looked at, else the M = K logits. mode: "local" is (6), the activation
    pattern of x; "linear" leaves the ReLUs out; "true" divides the exact range (MILP, small nets) by that of IBP. A box that is
    a point has no tau: NaN. Nothing is clamped, so that nets of 1e-17 are told apart from tight ones.
    Raises InputError for other activations and max pools, and for wrong inputs.
    """
    check_choice("mode", mode, MODES)
    check_number("eps", eps, "a radius > 0, in input units", low=math.ulp(0.0))
    check_integer("batch_size", batch_size)
    check_inputs(x, bounds)
    graph = layers_of(net, x)
    _check_relu_net(graph)
    classes = layer_size(graph, len(graph.layers) - 1)
    if y is not None:
        check_labels(y, len(x), classes)
    if mode == "true":
        if not isinstance(net, nn.Module):
            raise InputError("net", type(net).__name__, "the nn.Module itself for mode='true'")
        return _true(net, x, eps, y, bounds, node_limit)
    found = []
    with torch.no_grad():
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            rows = torch.eye(classes).to(x)[None].expand(len(x[part]), -1, -1)
            if y is not None:
                rows = margin_rows(y[part], classes).to(x)
            lower, upper = data_box(x[part], eps, bounds)
            gates = _pattern(graph, x[part]) if mode == "local" else {}
            found.append(_tau(graph, len(graph.layers) - 1, rows.double(), (upper - lower).double() / 2, gates))
    return torch.cat(found)


def mean_tightness(tau: Tensor) -> float:
    """The mean over samples and outputs that have a tau; NaN if none has one."""
    return float(tau[~tau.isnan()].mean())


def _tau(graph: LayerGraph, place: int, rows: Tensor, radius: Tensor, gates: dict[int, Tensor]) -> Tensor:
    """tau (B, M) of rows (B, M, *shape) of the layer at `place`: once back with W, once with |W|; ReLUs are gates."""
    signed, layer = rows, graph.layers[place]
    if isinstance(layer, Affine) and layer.is_matrix:  # rows are folded into a last linear layer before its |.|
        signed = _back(layer, rows, lambda w: w)
        place = layer.inputs[0]
    waiting = {place: (signed, signed.abs())}
    for i in range(place, 0, -1):
        if i not in waiting:
            continue
        (a, b), layer = waiting.pop(i), graph.layers[i]
        if isinstance(layer, Affine):
            into = [(layer.inputs[0], _back(layer, a, lambda w: w), _back(layer, b, torch.abs))]
        elif isinstance(layer, Sum):
            into = [(layer.inputs[0], a, b), (layer.inputs[1], layer.sign * a, b)]
        else:
            gate = gates[i].unsqueeze(1) if gates else 1.0
            into = [(layer.inputs[0], a * gate, b * gate)]
        for j, more_a, more_b in into:
            old = waiting.get(j, (0.0, 0.0))
            waiting[j] = (more_a + old[0], more_b + old[1])
    a, b = waiting[0]
    reach = radius.unsqueeze(1)
    return _ratio((a.abs() * reach).flatten(2).sum(2), (b * reach).flatten(2).sum(2))


def _back(layer: Affine, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    weight = layer.parameters(None)[0]
    back = layer.transpose(rows.flatten(0, 1), None if weight is None else change(weight.double()))
    return back.reshape(*rows.shape[:2], *back.shape[1:])


def _pattern(graph: LayerGraph, x: Tensor) -> dict[int, Tensor]:
    """ReLU -> 1 where its input at x is above 0: the pattern at x, not of the box."""
    boxes = propagate(graph, Box(x, torch.zeros_like(x)), outward=False)
    return {i: (boxes[graph.layers[i].inputs[0]].center > 0).double() for i in graph.relus}


def _ratio(optimal: Tensor, layerwise: Tensor) -> Tensor:
    return optimal / layerwise.where(layerwise > 0, torch.nan)  # not cut at 1: more than rounding above it is a fault to see


def _true(net: nn.Module, x: Tensor, eps: float, y: Tensor | None, bounds: Bounds, node_limit: int | None) -> Tensor:
    lower, upper = data_box(x.double(), eps, bounds)
    classes = layers_of(net, x).layers[-1].shape[0]
    rows = torch.eye(classes).expand(len(x), -1, -1) if y is None else margin_rows(y, classes)
    rows = rows.to(lower)
    exact = exact_bounds(net, lower.to(x), upper.to(x), rows.to(x), node_limit=node_limit)
    with evaluating(net), torch.no_grad():
        ibp = ibp_bounds(net, lower.to(x), upper.to(x), rows.to(x), outward=False)
    return _ratio(exact[1] - exact[0], (ibp[1] - ibp[0]).double().cpu())


def _check_relu_net(graph: LayerGraph) -> None:
    for layer in graph.layers:
        relu = isinstance(layer, Activation) and layer.kind == "relu"
        if not relu and not isinstance(layer, Input | Affine | Sum):
            raise InputError("net", f"{layer.name} ({type(layer).__name__})", "a ReLU net: affine layers, sums and ReLUs")
    if len(graph.layers[-1].shape) != 1:
        raise InputError("net", f"outputs of shape {graph.layers[-1].shape}", "outputs (B, K)")


def relu_states(net: nn.Module | LayerGraph, x: Tensor, eps: float, bounds: Bounds = (0.0, 1.0)) -> Tensor:
    """(B, 3): the shares of ReLUs that are dead (u < 0), active (l > 0) and unstable in the IBP box around each sample."""
    check_inputs(x, bounds)
    graph = layers_of(net, x)
    with torch.no_grad():
        states, sizes = _states(graph, x, eps, bounds)
    if not states:
        raise InputError("net", "no ReLU", "a net with ReLUs")
    weights = torch.tensor(sizes, dtype=torch.float64)
    return (torch.stack(states) * weights[:, None, None]).sum(0) / weights.sum()


def _states(graph: LayerGraph, x: Tensor, eps: float, bounds: Bounds) -> tuple[list[Tensor], list[int]]:
    """For each ReLU layer the shares (B, 3), and how many ReLUs it has."""
    boxes = propagate(graph, Box.between(*data_box(x, eps, bounds), outward=False), outward=False)
    states, sizes = [], []
    for i in graph.relus:
        box = boxes[graph.layers[i].inputs[0]]
        dead, active = (box.upper < 0).flatten(1).double().mean(1), (box.lower > 0).flatten(1).double().mean(1)
        states.append(torch.stack([dead, active, 1 - dead - active], 1).cpu())
        sizes.append(layer_size(graph, i))
    return states, sizes


@dataclass(frozen=True)
class LayerDiagnosis:
    """The inputs of one ReLU layer, or the outputs of the net (then the shares are NaN); means over samples and neurons."""

    name: str
    neurons: int
    dead: float
    active: float
    unstable: float
    radius: float  # of the IBP box
    tightness: float  # local


@dataclass(frozen=True)
class Diagnosis:
    """Where IBP gets loose in a net, layer by layer."""

    eps: float
    layers: tuple[LayerDiagnosis, ...]

    @property
    def loosest(self) -> str:
        """The layer at which tightness falls most, relative to the layer before: a narrower one would help most."""
        values = [1.0, *(layer.tightness for layer in self.layers)]
        drops = [later / before if before > 0 else 1.0 for before, later in pairwise(values)]
        return self.layers[drops.index(min(drops))].name

    def __str__(self) -> str:
        lines = [f"{'layer':<24} {'neurons':>7} {'dead':>6} {'active':>6} {'unstable':>8} {'radius':>10} {'tightness':>10}"]
        for one in self.layers:
            shares = [f"{share:.1%}" if share == share else "" for share in (one.dead, one.active, one.unstable)]
            lines.append(
                f"{one.name:<24} {one.neurons:>7} {shares[0]:>6} {shares[1]:>6} {shares[2]:>8} "
                f"{one.radius:>10.3g} {one.tightness:>10.3g}"
            )
        return "\n".join([*lines, f"largest loss of tightness: {self.loosest}"])


def diagnose(
    net: nn.Module | LayerGraph,
    x: Tensor,
    eps: float,
    bounds: Bounds = (0.0, 1.0),
    *,
    neurons: int = 32,
    seed: int = 0,
) -> Diagnosis:
    """ReLU states, radius and local tightness of every ReLU layer's inputs and of the outputs, at x (B, ...).

    neurons: of each layer, drawn by `seed`, that tightness is measured on.
    """
    check_number("eps", eps, "a radius > 0, in input units", low=math.ulp(0.0))
    check_integer("neurons", neurons)
    check_inputs(x, bounds)
    graph = layers_of(net, x)
    _check_relu_net(graph)
    found = []
    with torch.no_grad():
        lower, upper = data_box(x, eps, bounds)
        boxes = propagate(graph, Box.between(lower, upper, outward=False), outward=False)
        gates, states = _pattern(graph, x), _states(graph, x, eps, bounds)[0]
        nan = torch.full((len(x), 3), torch.nan)
        watched = [
            (graph.layers[i].inputs[0], state, graph.layers[i].name) for i, state in zip(graph.relus, states, strict=True)
        ]
        for place, state, name in [*watched, (len(graph.layers) - 1, nan, "output")]:
            size = layer_size(graph, place)
            chosen = torch.randperm(size, generator=generator(seed, "neurons", place))[:neurons]
            rows = torch.zeros(len(chosen), size, dtype=torch.float64)
            rows[torch.arange(len(chosen)), chosen] = 1
            rows = rows.reshape(1, len(chosen), *graph.layers[place].shape).expand(len(x), *[-1] * boxes[place].center.dim())
            tau = _tau(graph, place, rows.to(x.device), (upper - lower).double() / 2, gates)
            dead, active, unstable = state.mean(0).tolist()
            radius = float(boxes[place].radius.mean())
            found.append(LayerDiagnosis(name, size, dead, active, unstable, radius, mean_tightness(tau)))
    return Diagnosis(float(eps), tuple(found))
