"""The split of a classifier into features and head, found by running it, or named by the user."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.guard import evaluating
from tutelage.models.taps.hooks import INPUT, check_hookable, named, resolve, taps


@dataclass(frozen=True)
class FeatureHead:
    """A classifier in two parts with head(features(x)) == model(x), up to float error.

    features: runs the model as it is (mode, gradients) and returns what goes into the head, (B, dim), or (B, T, dim) and
        (B, dim, H, W) where the head works on every token or pixel. head: the model's own module, not a copy; reshapes
        are added where needed. name: of the head in the model. dim: features a sample, token or pixel.
    """

    features: Callable[[Any], Tensor]
    head: nn.Module
    name: str
    dim: int


def find_head(model: nn.Module, x: Any, *, output: str | int | None = None) -> str:
    """The name of the module that makes the logits as a linear map of one tensor, found by running `model` on `x`.

    The module's output must be the model's own, up to flatten; that it is linear (plus a bias) is tested by running it.
    Of nested ones the innermost is taken. x: a batch (a tuple or a dict is unpacked into arguments), a small one, as the
    outputs of all modules are held for a moment. output: key, index or attribute of the logits where the model returns
    more than a tensor. The model is run in evaluation mode, without gradients, and handed back as it was. Raises
    InputError where there is no such module: a functional head, a sum of two, a softmax after it.
    """
    return _locate(model, x, None, output).name


def split_head(model: nn.Module, x: Any, *, name: str | None = None, output: str | int | None = None) -> FeatureHead:
    """Split `model` into features and head, and check on the batch `x` that both together are the model.

    name: the head, where it is known, or where it is not linear; otherwise as in `find_head`. A head that is called
    several times is split at the last call that makes the logits. Raises InputError as `find_head` does, and for a model
    that does not repeat itself.
    """
    found = _locate(model, x, name, output)
    tap = found.name + INPUT
    shape = found.features.shape
    # (B, dim, 1, 1) of a 1x1 convolution is (B, dim) to everybody else
    squeeze = len(shape) > 2 and max(shape[1:]) == shape[1:].numel()

    def features(batch: Any) -> Tensor:
        # a clone, as the head may work in place
        with taps(model, [tap], calls="all", copy=True) as seen:
            _call(model, batch)
        called = seen[tap]
        if len(called) <= found.call:
            raise InputError(
                "x", f"a batch for which {found.name!r} is called {len(called)} times", f"{found.call + 1} or more"
            )
        inputs: Tensor = called[found.call]
        return inputs.flatten(1) if squeeze else inputs

    parts: list[nn.Module] = [nn.Unflatten(1, shape[1:])] if squeeze else []
    parts.append(found.module)
    if found.made.shape != found.logits.shape:
        parts.append(nn.Flatten(1))
        if found.logits.dim() > 2:
            parts.append(nn.Unflatten(1, found.logits.shape[1:]))
    head = found.module
    if len(parts) > 1:
        head = nn.Sequential(*parts)
        head.training = found.module.training
    dim = max(shape[1:]) if squeeze or len(shape) == 2 else int(getattr(found.module, "in_channels", shape[-1]))
    with evaluating(model), torch.no_grad():
        logits, again = _pick(_call(model, x), output), head(features(x))
    if not _same(again, logits):
        gap = float((_plain(again) - _plain(logits)).abs().max())
        raise InputError(
            "model", f"head(features(x)) that differs from model(x) by {gap:.3g}", "a model that repeats itself on one batch"
        )
    return FeatureHead(features, head, found.name, dim)


@dataclass(frozen=True)
class _Found:
    name: str
    module: nn.Module
    call: int  # which call of the module made the logits
    features: Tensor
    made: Tensor
    logits: Tensor


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    number: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


def _locate(model: nn.Module, x: Any, name: str | None, output: str | int | None) -> _Found:
    known = named(model)
    if name is not None:
        module, _ = resolve(known, name, inputs=False)
        watched = {name: module}
    else:
        check_hookable(known, "")
        # a shared module once; a scripted part takes hooks, but does not run them
        watched = {key: m for key, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
    done: list[_Call] = []
    numbers: Counter[nn.Module] = Counter()

    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            done.append(_Call(name, module, numbers[module], args, kwargs, output))
            numbers[module] += 1

        return record

    with evaluating(model), torch.no_grad():
        with ExitStack() as hooks:
            for key, module in watched.items():
                hooks.callback(module.register_forward_hook(hook(key), with_kwargs=True).remove)
            logits = _pick(_call(model, x), output)
        makers = [call for call in done if _of_one_tensor(call) and _same(call.output, logits)]
        handed_on = [call for call in makers if _handed_on(call.output, logits)]
        head = inside = None
        if name is not None:
            head = next((call for call in reversed(makers) if _repeats(call)), None)
        else:  # hooks of inner modules run first; whole nets are not tried where an inner module is the head
            head = next((call for call in handed_on if _linear(call) and _repeats(call)), None)
            if head is None:
                inside = next((call for call in handed_on if call.name and _repeats(call)), None)
    if head is not None:
        return _Found(head.name, head.module, head.number, head.args[0], head.output, logits)
    if name is not None:
        got = name if done else f"{name}, which the model does not call"
        raise InputError("name", got, "a module of one tensor whose output is the model's output, up to flatten")
    got = "a model whose outputs are not those of a linear module (a functional head, a sum of several)"
    if inside is not None:
        got = f"a model whose outputs come from {inside.name!r} ({type(inside.module).__name__}), not a linear map"
    raise InputError("model", got, "a linear last module; name the head, or wrap the model so that it ends in one")


def _of_one_tensor(call: _Call) -> bool:
    if len(call.args) != 1 or call.kwargs or not isinstance(call.args[0], Tensor):
        return False
    return call.args[0].is_floating_point() and call.args[0].dim() > 1


def _handed_on(made: Tensor, logits: Tensor) -> bool:
    """`logits` is the very tensor, a view of it or a cast. Equal values alone may be chance: a branch that adds zeros."""
    return made.data_ptr() == logits.data_ptr() or made.dtype != logits.dtype


def _repeats(call: _Call) -> bool:
    """Nothing changed the output in place afterwards."""
    return _same(call.module(call.args[0].clone()), call.output)


def _linear(call: _Call) -> bool:
    """f(a) + f(b) = f(a + b) + f(0) for random a and b, and a matrix among the parameters: no Identity, no norm."""
    module, h = call.module, call.args[0]
    if not any(parameter.dim() > 1 for parameter in module.parameters()):
        return False
    generator = torch.Generator().manual_seed(0)
    scale = float(h.abs().max()) or 1.0
    a, b = (torch.randn(h.shape, generator=generator).to(h) * scale for _ in range(2))
    try:
        at_a, at_b, at_sum, at_zero = (_plain(module(point)) for point in (a, b, a + b, torch.zeros_like(h)))
    except Exception:  # a whole net may refuse such inputs; then it is no linear map either
        return False
    size = max(float(value.abs().max()) for value in (at_a, at_b, at_sum, at_zero))
    tolerance = math.sqrt(torch.finfo(h.dtype).eps) * size
    return float((at_a + at_b - at_sum - at_zero).abs().max()) <= tolerance


def _same(made: object, logits: Tensor) -> bool:
    """Equal up to flatten and float error."""
    if not isinstance(made, Tensor) or made.dim() == 0 or made.shape[0] != logits.shape[0] or made.numel() != logits.numel():
        return False
    a, b = _plain(made.reshape(logits.shape)), _plain(logits)
    precision = max(torch.finfo(t.dtype).eps if t.is_floating_point() else 0.0 for t in (made, logits))
    return bool(((a - b).abs() <= 100 * precision * max(float(b.abs().max()), 1e-30)).all())


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # some accelerators have no float64


def _call(model: nn.Module, x: Any) -> Any:
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


def _pick(outputs: Any, output: str | int | None) -> Tensor:
    picked = outputs
    if output is not None:
        try:
            picked = outputs[output]
        except (KeyError, IndexError, TypeError):
            picked = getattr(outputs, str(output), None)
    if isinstance(picked, Tensor) and picked.dim() > 1 and picked.is_floating_point():
        return picked
    if output is None and isinstance(picked, Tensor):
        raise InputError("model", f"outputs of shape {tuple(picked.shape)}, {picked.dtype}", "logits (B, classes)")
    kind = type(outputs).__name__
    inside = f"{kind} with the keys {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else kind
    raise InputError("output", f"{output!r} of a model that returns a {inside}", "the key or index of the logits (B, classes)")
