"""The residual blocks of a transformer, found by name, and additions to the residual stream that leaves them.

A pre-norm transformer is a stream h_0, h_1, … of hidden states (B, T, d): h_0 are the embeddings, and block l adds to the
stream what its attention and its MLP say. Here a *layer* is where one looks at the stream or adds to it:

- `"embedding"`: what leaves the input embedding;
- a number l from 0: what leaves block l (negative: from the last one, -1);
- the name of any module, as in `model.named_modules()`, with outputs (B, T, d).

Blocks are found by what the usual libraries call them (GPT-2's `h`, `layers` of Llama, Qwen, OPT and ViT, `blocks` of timm),
below wrappers such as peft's, never by their class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.guard import evaluating
from tutelage.models.taps.hooks import named, resolve

Layer = int | str
EMBEDDING = "embedding"
_LISTS = ("h", "layers", "layer", "blocks", "block", "resblocks")


@dataclass(frozen=True)
class Blocks:
    """Names of modules: the blocks in their order, the module that calls them, and the input embedding ("" if not found)."""

    names: tuple[str, ...]
    trunk: str
    embedding: str


def residual_blocks(model: nn.Module) -> Blocks:
    """The residual blocks of `model`: the outermost list of equal modules that has one of the usual names.

    InputError where there is none, or more than one (encoder and decoder, text and image tower): then name the modules.
    """
    known = named(model)
    lists = [
        name
        for name, module in known.items()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and name.rpartition(".")[2] in _LISTS
        and len(module)
        and len({type(child) for child in module}) == 1
        and any(True for _ in module.parameters())
    ]
    # a block may hold such a list itself (T5's `layer`, an MLP's)
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        found = "none" if not outer else f"{len(outer)}: {', '.join(outer)}"
        raise InputError("model", f"lists of residual blocks: {found}", "one, or layers given by the names of modules")
    names = tuple(f"{outer[0]}.{i}" for i in range(len(known[outer[0]])))  # type: ignore[arg-type]
    return Blocks(names, outer[0].rpartition(".")[0], _embedding(model, known))


def _embedding(model: nn.Module, known: Mapping[str, nn.Module]) -> str:
    get = getattr(model, "get_input_embeddings", None)
    try:
        wanted = get() if callable(get) else None
    except (NotImplementedError, AttributeError):
        wanted = None
    if wanted is None:
        words = [name for name, module in known.items() if isinstance(module, nn.Embedding)]
        return words[0] if len(words) == 1 else ""
    return next((name for name, module in known.items() if module is wanted), "")


def layer_name(model: nn.Module, layer: Layer) -> str:
    """The module whose output is meant by `layer`; InputError, with what there is, where there is no such layer."""
    if isinstance(layer, bool) or not isinstance(layer, int | str):
        raise InputError("layers", layer, "'embedding', the number of a block, or the name of a module")
    known = named(model)
    if isinstance(layer, str) and (layer != EMBEDDING or EMBEDDING in known):
        resolve(known, layer, inputs=False)
        return next((name for name in known if name == layer), layer)
    blocks = residual_blocks(model)
    if isinstance(layer, str):
        if not blocks.embedding:
            raise InputError("layers", layer, "the name of the module that embeds the input: it was not found")
        return blocks.embedding
    if not -len(blocks.names) <= layer < len(blocks.names):
        raise InputError("layers", layer, f"a block from 0 to {len(blocks.names) - 1}, or {EMBEDDING!r}")
    return blocks.names[layer]


@contextmanager
def perturbed(model: nn.Module, delta: Mapping[Layer, Tensor] | Any) -> Iterator[nn.Module]:
    """Inside the block, `delta[layer]` (B, T, d) is added to what leaves each layer; the hooks are removed in any case.

    delta: layer -> tensor, or an object with such a mapping in `.layers`. Position t of delta is position t of the text: with
        a cache of keys and values, tokens that follow later get nothing (the first T stay as they were perturbed), and a text
        that is shorter than T takes what it needs. Added in the precision of the stream; gradients reach delta.
    Raises InputError for a layer that is not there, and, when the model is called, for another batch size or width.
    """
    layers: Mapping[Layer, Tensor] = getattr(delta, "layers", delta)
    if not isinstance(layers, Mapping) or not all(isinstance(part, Tensor) and part.dim() == 3 for part in layers.values()):
        raise InputError("delta", type(layers).__name__, "a mapping of layers to tensors (B, T, d)")
    known = named(model)
    seen = _Position()

    def adder(layer: Layer, part: Tensor) -> Callable[..., Any]:
        return lambda module, args, output: _first(output, lambda stream: _added(stream, part, seen.start, layer))

    with ExitStack() as hooks:
        for trunk in _trunks(model, layers):
            hooks.callback(known[trunk].register_forward_pre_hook(seen.note, with_kwargs=True).remove)
        for layer, part in layers.items():
            module, _ = resolve(known, layer_name(model, layer), inputs=False)
            hooks.callback(module.register_forward_hook(adder(layer, part)).remove)
        yield model


class _Position:
    """How many tokens a cache holds already when the blocks are called: where in the text their input begins."""

    start = 0

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        caches = [value for value in (*args, *kwargs.values()) if hasattr(value, "get_seq_length")]
        self.start = int(caches[0].get_seq_length()) if caches else 0


def _trunks(model: nn.Module, layers: Mapping[Layer, Tensor]) -> tuple[str, ...]:
    try:
        return (residual_blocks(model).trunk,)
    except InputError:
        if any(isinstance(layer, int) for layer in layers):
            raise
        return ()  # modules given by name, in a model of another build


def _added(stream: Tensor, part: Tensor, start: int, layer: Layer) -> Tensor:
    length = min(stream.shape[1], part.shape[1] - start) if stream.dim() == 3 else -1
    if stream.dim() == 3 and length <= 0:
        return stream  # behind the perturbed positions
    if stream.dim() != 3 or stream.shape[0] != part.shape[0] or stream.shape[2] != part.shape[2]:
        raise InputError("delta", f"{tuple(part.shape)} at layer {layer!r}", f"the shape of the stream, {tuple(stream.shape)}")
    now = part[:, start : start + length].to(stream.device, stream.dtype)
    if length < stream.shape[1]:
        now = torch.cat([now, now.new_zeros(len(now), stream.shape[1] - length, now.shape[2])], dim=1)
    return stream + now


def _first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`output` with its tensor, or the first of a tuple, changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return type(output)([change(output[0]), *output[1:]])
    raise InputError("layers", f"a module that gives {type(output).__name__}", "one with outputs (B, T, d)")


def residual_states(model: nn.Module, layers: Sequence[Layer], run: Callable[[], Any]) -> dict[Layer, Tensor]:
    """The stream (B, T, d) that leaves each layer while `run()` calls the model once; detached."""
    known = named(model)
    found: dict[Layer, Tensor] = {}

    def keeper(layer: Layer) -> Callable[..., Any]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            value = output if isinstance(output, Tensor) else output[0] if isinstance(output, tuple | list) else None
            if not isinstance(value, Tensor) or value.dim() != 3:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(output).__name__
                raise InputError("layers", f"{layer!r}, which gives {got}", "a module with outputs (B, T, d)")
            found[layer] = value.detach()

        return keep

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            module, _ = resolve(known, layer_name(model, layer), inputs=False)
            hooks.callback(module.register_forward_hook(keeper(layer)).remove)
        run()
    if missing := [layer for layer in layers if layer not in found]:
        raise InputError("layers", missing[0], "a module that the model calls")
    return found


def residual_norms(
    model: nn.Module, layers: Sequence[Layer], run: Callable[[], Any], mask: Tensor | None = None
) -> dict[Layer, float]:
    """The mean Euclidean length of the stream's tokens at each layer: the unit in which a perturbation can be measured.

    run: calls the model once. mask: (B, T) booleans, the tokens that count; all without it.
    """
    with evaluating(model, verify=False):
        states = residual_states(model, layers, run)
    norms = {}
    for layer, state in states.items():
        lengths = torch.linalg.vector_norm(state.float(), dim=2)
        norms[layer] = float((lengths if mask is None else lengths[mask.to(lengths.device)]).mean())
    return norms
