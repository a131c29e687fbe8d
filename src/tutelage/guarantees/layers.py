"""The layers of a net as bound propagation sees them: affine maps, activations, max pools and sums, in order of computation.

`layers_of` traces any `nn.Module` with torch.fx, runs it once on a sample for the shapes, and gives every step a rule. Weights
are read when they are needed, so the layers of a net that trains stay true. What has no rule is named in an InputError.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from tutelage.core.errors import InputError
from tutelage.models.guard import evaluating

Shape = tuple[int, ...]
# mean and variance of every channel, for BatchNorms whose batch statistics stand in for the running ones
Statistics = Mapping[nn.Module, tuple[Tensor, Tensor]]
Kind = Literal["relu", "sigmoid", "tanh", "gelu"]

COVERED = (
    "Linear, Conv1d-3d, BatchNorm, average and max pools, ReLU, GELU, sigmoid, tanh, sums of two paths, "
    "arithmetic with constants, flatten and other reshapes, Dropout"
)


@dataclass(frozen=True)
class Layer:
    """One step. name: in the model. inputs: positions of the layers that feed it. shape: of its output, one sample."""

    name: str
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Input(Layer):
    """The input of the net; always the first layer."""


@dataclass(frozen=True)
class Affine(Layer):
    """z -> W z + b.

    apply(z, weight, bias): the map on (N, *in) with any weight and bias of its shapes, so that |W| and W alone are at hand.
    parameters(statistics): (weight, bias) as they are now. transpose(a, weight): a (N, *out) -> a W, (N, *in).
    terms: the most products in one sum, forward or backward: what rounding errors grow with. is_matrix: F.linear on a
    flat input, whose weight is the matrix W itself. by_channel: the first side of the weight is that of the output, so that a
    BatchNorm behind it can be folded into it. bias_size: of a bias that is a sum, the sum of the sizes of its terms.
    """

    apply: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    parameters: Callable[[Statistics | None], tuple[Tensor | None, Tensor | None]]
    transpose: Callable[[Tensor, Tensor | None], Tensor]
    terms: int
    is_matrix: bool = False
    by_channel: bool = False
    bias_size: Callable[[Statistics | None], Tensor] | None = None

    def sizes(self, statistics: Statistics | None = None) -> tuple[Tensor | None, Tensor | None]:
        """(|W|, |b|), where |b| counts the terms of a bias that is itself a sum: what rounding errors are relative to."""
        weight, bias = self.parameters(statistics)
        bias = self.bias_size(statistics) if self.bias_size else None if bias is None else bias.abs()
        return None if weight is None else weight.abs(), bias


@dataclass(frozen=True)
class Activation(Layer):
    """An elementwise function."""

    kind: Kind


@dataclass(frozen=True)
class MaxPool(Layer):
    """max over windows of (C, H, W).

    pool(z): the values. windows(z): (N, C, windows, inputs of one), -inf where a window is outside. positions(z): for one
    sample, the flat positions in (H, W) of the inputs in each window.
    """

    pool: Callable[[Tensor], Tensor]
    windows: Callable[[Tensor], Tensor]
    positions: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sum(Layer):
    """first + sign * second; both have the sum's shape."""

    sign: float


@dataclass(frozen=True)
class LayerGraph:
    """layers[0] is the input, layers[-1] the output; every layer comes after those that feed it."""

    layers: tuple[Layer, ...]
    batch_norms: tuple[nn.Module, ...] = ()

    @property
    def relus(self) -> list[int]:
        """Positions of the ReLUs."""
        return [i for i, layer in enumerate(self.layers) if isinstance(layer, Activation) and layer.kind == "relu"]

    @property
    def activations(self) -> list[int]:
        """Positions of everything that is not affine."""
        return [i for i, layer in enumerate(self.layers) if isinstance(layer, Activation | MaxPool)]


def layers_of(net: nn.Module | LayerGraph, x: Tensor) -> LayerGraph:
    """The layers of `net` for inputs like x (B, ...); a LayerGraph is returned as it is, if its inputs are of that shape.

    The net is run once in evaluation mode and handed back as it was. BatchNorm is the fixed map of its running statistics
    and Dropout is the identity, as in evaluation mode. Constants of the forward function (mean, std) are read now.
    Raises InputError for a net that torch.fx cannot trace and for a module or function without a rule, by its name.
    """
    if isinstance(net, LayerGraph):
        if tuple(x.shape[1:]) != net.layers[0].shape:
            raise InputError("x", f"shape {tuple(x.shape)}", f"inputs (B, {', '.join(map(str, net.layers[0].shape))})")
        return net
    if not isinstance(net, nn.Module):
        raise InputError("net", type(net).__name__, "an nn.Module")
    if not isinstance(x, Tensor) or x.dim() < 2 or not len(x):
        raise InputError("x", f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__, "inputs (B, ...)")
    if type(net).__module__.startswith("torch.nn") and not list(
        net.children()
    ):  # a layer by itself, which would be traced into its functions
        net = nn.Sequential(net)
    with evaluating(net, verify=False), torch.no_grad():
        try:
            traced = fx.Tracer().trace(net)
        except Exception as error:  # the user's own forward may do anything
            raise InputError("net", f"{type(error).__name__}: {error}", "a net that torch.fx can trace") from error
        sample = torch.rand((2, *x.shape[1:]), generator=torch.Generator().manual_seed(0)).to(x)
        return _Reader(net, traced, sample).read()


class _Reader:
    """Walks over the traced graph with a sample of two inputs; constants are folded on the way."""

    def __init__(self, net: nn.Module, graph: fx.Graph, sample: Tensor) -> None:
        self.modules = dict(net.named_modules())
        self.net, self.graph, self.sample = net, graph, sample
        self.layers: list[Layer] = []
        self.values: dict[fx.Node, Any] = {}  # what each node is for the sample
        self.places: dict[fx.Node, int] = {}  # of the nodes that depend on the values of the input
        self.batch_norms: list[nn.Module] = []

    def read(self) -> LayerGraph:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self.values[node] = operator.attrgetter(node.target)(self.net)
            elif node.op == "output":
                return self._output(node)
            else:
                self._step(node)
        raise AssertionError("a traced graph ends with its output")

    def _placeholder(self, node: fx.Node) -> None:
        if not self.layers:
            self.values[node] = self.sample
            self._add(node, Input("input", (), tuple(self.sample.shape[1:])))
        elif node.args:  # a default value
            self.values[node] = node.args[0]
        else:
            raise InputError("net", f"a second input {node.target!r}", "a net of one input")

    def _output(self, node: fx.Node) -> LayerGraph:
        (result,) = node.args
        if not isinstance(result, fx.Node) or result not in self.places:
            raise InputError("net", f"an output of type {type(result).__name__}", "one tensor that depends on the input")
        last = self.places[result] + 1
        return LayerGraph(tuple(self.layers[:last]), tuple(self.batch_norms))

    def _step(self, node: fx.Node) -> None:
        sources = [one for one in node.all_input_nodes if one in self.places]
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        try:
            if module is not None:
                value = module(*args, **kwargs)
            elif node.op == "call_method":
                value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                assert callable(node.target)
                value = node.target(*args, **kwargs)
        except Exception as error:
            name = node.target if node.op != "call_function" else getattr(node.target, "__name__", node.target)
            raise InputError("net", f"{type(error).__name__} in {name!s}: {error}", "a net that takes inputs like x") from error
        self.values[node] = value
        if not sources or self._asks_for_shape(node):  # what does not depend on the numbers in the input
            return
        if not isinstance(value, Tensor):
            raise self._uncovered(node, f"a result of type {type(value).__name__}")
        if value.dim() < 1 or len(value) != 2:
            raise self._uncovered(node, "outputs that do not keep the batch in front")
        shapes = [self.layers[self.places[one]].shape for one in sources]
        out = tuple(value.shape[1:])
        if module is not None:
            self._module(node, module, shapes[0], out)
        else:
            self._function(node, args, kwargs, sources, out)

    @staticmethod
    def _asks_for_shape(node: fx.Node) -> bool:
        if node.op == "call_method":
            return node.target in ("size", "dim", "ndimension", "numel")
        return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")

    def _module(self, node: fx.Node, module: nn.Module, shape: Shape, out: Shape) -> None:
        name, place = str(node.target), (self.places[node.all_input_nodes[0]],)
        if type(module) in _ACTIVATIONS:
            if getattr(module, "approximate", "none") != "none":
                raise self._uncovered(node, "the tanh approximation of GELU")
            self._add(node, Activation(name, place, out, _ACTIVATIONS[type(module)]))
        elif type(module) is nn.Linear:
            self._add(node, _linear(name, place, shape, out, module))
        elif type(module) in _CONVOLUTIONS:
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise self._uncovered(node, f"padding {module.padding!r} in mode {module.padding_mode!r}")
            self._add(node, _convolution(name, place, shape, out, module))
        elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            if module.running_mean is None:
                raise self._uncovered(node, "a BatchNorm without running statistics")
            self.batch_norms.append(module)
            norm, before = _batch_norm(name, place, shape, out, module), self.layers[place[0]]
            if isinstance(before, Affine) and before.by_channel and len(node.all_input_nodes[0].users) == 1:
                self.layers[place[0]], self.places[node] = _folded(before, norm), place[0]
            else:
                self._add(node, norm)
        elif type(module) is nn.MaxPool2d:
            if module.ceil_mode or module.return_indices:
                raise self._uncovered(node, "a MaxPool2d with ceil_mode or return_indices")
            self._add(node, _max_pool(name, place, out, module))
        elif type(module) in _SAME_ORDER:
            self._add(node, _reshape(name, place, shape, out))
        elif type(module) in _WEIGHTLESS:
            terms = math.prod(shape[1:]) if type(module) in _POOLS else 1
            self._add(node, _weightless(name, place, shape, out, module, terms))
        else:
            raise self._uncovered(node, type(module).__name__)

    def _function(self, node: fx.Node, args: Any, kwargs: Any, sources: list[fx.Node], out: Shape) -> None:
        target = node.target if isinstance(node.target, str) else _NAMES.get(node.target, getattr(node.target, "__name__", "?"))
        target = str(target).removesuffix("_")
        places = tuple(self.places[one] for one in sources)
        name = node.name
        if target in _ELEMENTWISE:
            if kwargs.get("approximate", "none") != "none":
                raise self._uncovered(node, "the tanh approximation of GELU")
            self._add(node, Activation(name, places, out, _ELEMENTWISE[target]))
        elif target in ("add", "sub", "mul", "truediv", "div"):
            self._arithmetic(node, target, args, kwargs, places, out)
        elif target in _RESHAPES:
            self._add(node, _reshape(name, places, self.layers[places[0]].shape, out))
        elif target in ("permute", "transpose", "mean", "avg_pool2d", "adaptive_avg_pool2d", "pixel_unshuffle"):
            shape = self.layers[places[0]].shape
            rest, keywords, function = args[1:], kwargs, node.target

            def run(z: Tensor) -> Tensor:
                if isinstance(function, str):
                    return getattr(z, function)(*rest, **keywords)  # type: ignore[no-any-return]
                return function(z, *rest, **keywords)  # type: ignore[no-any-return]

            terms = {"mean": math.prod(shape), "avg_pool2d": math.prod(shape[1:]), "adaptive_avg_pool2d": math.prod(shape[1:])}
            self._add(node, _weightless(name, places, shape, out, run, terms.get(target, 1)))
        elif target in ("dropout", "contiguous", "clone"):
            self.places[node] = places[0]
        else:
            raise self._uncovered(node, target)

    def _arithmetic(self, node: fx.Node, op: str, args: Any, kwargs: Any, places: tuple[int, ...], out: Shape) -> None:
        """A sum or difference of two paths, or an affine map with a constant."""
        parts = node.args[:2]
        if kwargs or len(parts) != 2:
            raise self._uncovered(node, f"{op} with keywords")
        variable = [isinstance(one, fx.Node) and one in self.places for one in parts]
        if all(variable):
            two = [self.places[one] for one in parts if isinstance(one, fx.Node)]  # x + x has one source, twice
            if op not in ("add", "sub"):
                raise self._uncovered(node, f"{op} of two paths")
            if any(self.layers[place].shape != out for place in two):
                raise self._uncovered(node, f"{op} of two paths of different shapes")
            self._add(node, Sum(node.name, (two[0], two[1]), out, 1.0 if op == "add" else -1.0))
            return
        shape = self.layers[places[0]].shape
        constant = torch.as_tensor(args[1] if variable[0] else args[0]).to(self.sample)
        if shape != out or (constant.dim() > len(out) and constant.shape[: constant.dim() - len(out)].numel() != 1):
            raise self._uncovered(node, f"{op} with a constant that changes the shape")
        constant = constant.reshape(constant.shape[max(0, constant.dim() - len(out)) :])
        weight = bias = None
        if op == "mul":
            weight = constant
        elif op in ("truediv", "div"):
            if not variable[0]:
                raise self._uncovered(node, "a division by a path")
            weight = 1 / constant
        else:
            bias = constant if op == "add" or not variable[0] else -constant
            if op == "sub" and not variable[0]:
                weight = torch.full_like(constant, -1)
        self._add(node, _scale(node.name, places, shape, weight, bias))

    def _add(self, node: fx.Node, layer: Layer) -> None:
        if isinstance(layer, Affine):  # its rule for one sample must give what the net gives for two: nothing may mix samples
            (source,) = (one for one in node.all_input_nodes if one in self.places)
            own = layer.apply(self.values[source][:1], *layer.parameters(None))
            if own.shape != self.values[node][:1].shape or not torch.allclose(own, self.values[node][:1], rtol=1e-3, atol=1e-4):
                raise self._uncovered(node, "a map that depends on the whole batch")
        self.places[node] = len(self.layers)
        self.layers.append(layer)

    def _uncovered(self, node: fx.Node, what: str) -> InputError:
        name = node.target if node.op == "call_module" else node.name
        return InputError("net", f"{name} ({what}), which has no bounds", COVERED)


# fixed maps with entries >= 0, and those that keep all numbers in their order, in evaluation mode
_POOLS: tuple[type[nn.Module], ...] = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)
_WEIGHTLESS: tuple[type[nn.Module], ...] = (*_POOLS, nn.PixelUnshuffle, nn.PixelShuffle, nn.ZeroPad2d)
_SAME_ORDER: tuple[type[nn.Module], ...] = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
)
_ACTIVATIONS: dict[type[nn.Module], Kind] = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.GELU: "gelu"}
_ELEMENTWISE: dict[str, Kind] = {"relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "gelu": "gelu"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVOLUTION_INPUT = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}
_RESHAPES = ("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten")
_NAMES: dict[Any, str] = {F.relu: "relu", F.gelu: "gelu", F.dropout: "dropout", operator.truediv: "truediv"}


def _linear(name: str, place: tuple[int, ...], shape: Shape, out: Shape, module: nn.Linear) -> Affine:
    apply: Any = F.linear
    return Affine(
        name, place, out, apply,
        parameters=lambda _: (module.weight, module.bias),
        transpose=lambda a, w: a @ w,  # type: ignore[operator]
        terms=max(module.in_features, module.out_features),
        is_matrix=len(shape) == 1, by_channel=len(shape) == 1,
    )  # fmt: skip


def _convolution(name: str, place: tuple[int, ...], shape: Shape, out: Shape, module: Any) -> Affine:
    how = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation, "groups": module.groups}
    convolve: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(shape) - 1]
    back: Any = _CONVOLUTION_INPUT[len(shape) - 1]
    return Affine(
        name, place, out,
        apply=lambda z, w, b: convolve(z, w, b, **how),
        parameters=lambda _: (module.weight, module.bias),
        transpose=lambda a, w: back((len(a), *shape), w, a, **how),  # knows the output padding of odd sizes
        terms=max(module.in_channels, module.out_channels) // module.groups * math.prod(module.kernel_size),
        by_channel=True,
    )  # fmt: skip


def _batch_norm(name: str, place: tuple[int, ...], shape: Shape, out: Shape, module: Any) -> Affine:
    wide = (-1, *[1] * (len(shape) - 1))

    def parameters(statistics: Statistics | None) -> tuple[Tensor, Tensor]:
        mean, variance = (statistics or {}).get(module, (module.running_mean, module.running_var))
        scale = (variance + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight
        shift = -mean * scale
        return scale, shift if module.bias is None else shift + module.bias

    def apply(z: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        assert w is not None
        return z * w.reshape(wide) if b is None else torch.addcmul(b.reshape(wide), z, w.reshape(wide))

    def bias_size(statistics: Statistics | None) -> Tensor:
        mean, _ = (statistics or {}).get(module, (module.running_mean, module.running_var))
        scale, _ = parameters(statistics)
        size: Tensor = (mean * scale).abs()
        return size if module.bias is None else size + module.bias.abs()

    # 6 roundings lead to scale and shift
    return Affine(
        name, place, out, apply, parameters,
        transpose=lambda a, w: a * w.reshape(wide),  # type: ignore[union-attr]
        terms=8, bias_size=bias_size,
    )  # fmt: skip


def _folded(first: Affine, norm: Affine) -> Affine:
    """A BatchNorm folded into the layer before it: one layer, and no pass over its outputs."""

    def both(statistics: Statistics | None) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        (weight, bias), (scale, shift) = first.parameters(statistics), norm.parameters(statistics)
        assert weight is not None
        assert scale is not None
        assert shift is not None
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias, scale, shift

    def parameters(statistics: Statistics | None) -> tuple[Tensor, Tensor]:
        weight, bias, scale, shift = both(statistics)
        return weight, shift if bias is None else torch.addcmul(shift, bias, scale)

    def bias_size(statistics: Statistics | None) -> Tensor:
        _, bias, scale, _ = both(statistics)
        size = norm.sizes(statistics)[1]
        assert size is not None
        return size if bias is None else size + (bias * scale).abs()

    return replace(first, parameters=parameters, terms=first.terms + norm.terms, bias_size=bias_size)


def _scale(name: str, place: tuple[int, ...], shape: Shape, weight: Tensor | None, bias: Tensor | None) -> Affine:
    def apply(z: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        z = z if w is None else z * w
        return z if b is None else z + b

    def cast(t: Tensor | None, like: Tensor | None) -> Tensor | None:
        return t if t is None or like is None else t.to(like)

    return Affine(
        name, place, shape, lambda z, w, b: apply(z, cast(w, z), cast(b, z)), lambda _: (weight, bias),
        lambda a, w: a if w is None else a * w.to(a), terms=2,
    )  # fmt: skip


def _reshape(name: str, place: tuple[int, ...], shape: Shape, out: Shape) -> Affine:
    return Affine(
        name, place, out,
        apply=lambda z, w, b: z.reshape(len(z), *out),
        parameters=lambda _: (None, None),
        transpose=lambda a, w: a.reshape(len(a), *shape),
        terms=0,
    )  # fmt: skip


def _weightless(
    name: str, place: tuple[int, ...], shape: Shape, out: Shape, run: Callable[[Tensor], Tensor], terms: int
) -> Affine:
    """A fixed linear map with entries >= 0; its transpose is its derivative."""

    def transpose(a: Tensor, w: Tensor | None) -> Tensor:
        with torch.enable_grad():
            z = a.new_zeros(len(a), *shape).requires_grad_()
            (back,) = torch.autograd.grad(run(z), z, a, create_graph=a.requires_grad)
        return back

    return Affine(name, place, out, lambda z, w, b: run(z), lambda _: (None, None), transpose, terms)


def _max_pool(name: str, place: tuple[int, ...], out: Shape, module: Any) -> MaxPool:
    sides = module.padding if isinstance(module.padding, tuple) else (module.padding, module.padding)
    pads = (sides[1], sides[1], sides[0], sides[0])

    def unfolded(z: Tensor, outside: float) -> Tensor:
        n, channels = z.shape[:2]
        padded = F.pad(z, pads, value=outside)
        columns = F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)
        return columns.reshape(n, channels, -1, columns.shape[-1]).transpose(2, 3)

    def positions(z: Tensor) -> Tensor:
        flat = torch.arange(z.shape[2] * z.shape[3], dtype=torch.float64, device=z.device)
        return unfolded(flat.reshape(1, 1, *z.shape[2:]), 0.0).long()  # what is outside is never the largest

    return MaxPool(
        name, place, out,
        pool=lambda z: F.max_pool2d(z, module.kernel_size, module.stride, module.padding, module.dilation),
        windows=lambda z: unfolded(z, -math.inf),
        positions=positions,
    )  # fmt: skip
