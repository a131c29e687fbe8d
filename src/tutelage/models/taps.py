"""Look inside any `nn.Module`: taps on named modules, and the split into features and linear head.

Everything is found by forward hooks on a real run, or named by the user; no class of net is assumed.

>>> with taps(model, ["layer3", "fc:input"]) as seen:
...     logits = model(x)
>>> seen["layer3"], seen["fc:input"]
>>> split = split_head(model, x)             # split.head(split.features(x)) == model(x)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.guard import evaluating

INPUT = ":input"
WRAPPER = "module."  # DataParallel, DistributedDataParallel and their like put the net under this name


class Seen(Mapping[str, Any]):
    """What the taps saw: name -> output (or input), of the last call or, with calls="all", the list of all calls.

    Iterates over the names that were called. Reading a name that no call has reached, or a tensor that a later module
    has changed in place, raises InputError.
    """

    def __init__(self, names: Sequence[str], calls: Literal["last", "all"]) -> None:
        self._names, self._calls = tuple(names), calls
        self._records: dict[str, list[tuple[Any, list[tuple[Tensor, int]]]]] = {}

    def record(self, name: str, value: Any) -> None:
        # tensors made in inference mode count no versions
        versions = [(tensor, tensor._version) for tensor in _tensors(value) if not tensor.is_inference()]
        records = self._records.setdefault(name, [])
        if self._calls == "last":
            records.clear()
        records.append((value, versions))

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise InputError("name", name, "one of the taps: " + ", ".join(map(repr, self._names)))
        if name not in self._records:
            raise InputError("name", name, "a module that was called while the taps were on (its parent may bypass it)")
        values = []
        for value, versions in self._records[name]:
            if any(tensor._version != version for tensor, version in versions):
                raise InputError(
                    "name", f"{name}, changed in place after it was seen", "taps(..., copy=True), or a tap on the later module"
                )
            values.append(value)
        return values if self._calls == "all" else values[-1]

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:  # not reached yet: no error here
            return default
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self._names if name in self._records])

    def __len__(self) -> int:
        return len(self._records)


@contextmanager
def taps(
    model: nn.Module,
    names: str | Sequence[str],
    *,
    calls: Literal["last", "all"] = "last",
    copy: bool = False,
    detach: bool = False,
) -> Iterator[Seen]:
    """See what modules of `model` return, or get, while it runs inside the block.

    names: module names as in `model.named_modules()` ("" is the model itself; a leading "module." of DataParallel may be
        left out), or "name:input" for what goes in: the positional argument, a tuple of several, or a dict if all are
        keyword arguments. Outputs are kept as they are: tensors, tuples, dicts (clones of dicts are plain dicts).
    calls: "last" keeps the last call of a module, "all" a list of every call, in order; a shared module has several.
    copy: keep clones, for tensors that a later module changes in place (`ReLU(inplace=True)`); without it, reading such
        a tensor raises. detach: keep detached clones. Otherwise gradients flow: what is kept lies on the graph itself.

    What was seen can be read after the block. The hooks are removed in any case. Raises InputError for unknown names,
    ScriptModules, compiled modules, and replicas of DataParallel on several devices.
    """
    wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
    if not wanted:
        raise InputError("names", "no name", "at least one module name")
    if calls not in ("last", "all"):
        raise InputError("calls", calls, "'last' or 'all'")
    known = _named(model)
    found = [(name, *_resolve(known, name)) for name in wanted]
    seen = Seen(wanted, calls)

    def keep(name: str, value: Any) -> None:
        if detach:
            value = _mapped(value, lambda t: t.detach().clone())
        elif copy:
            value = _mapped(value, Tensor.clone)
        seen.record(name, value)

    def on_output(name: str) -> Callable[..., None]:
        return lambda module, args, output: keep(name, output)

    def on_input(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs: keep(name, args[0] if len(args) == 1 else args or dict(kwargs))

    with ExitStack() as hooks:
        for name, module, of_input in found:
            if of_input:
                handle = module.register_forward_pre_hook(on_input(name), with_kwargs=True)
            else:
                handle = module.register_forward_hook(on_output(name))
            hooks.callback(handle.remove)
        yield seen


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
    known = _named(model)
    if name is not None:
        module, _ = _resolve(known, name, inputs=False)
        watched = {name: module}
    else:
        _check_hookable(known, "")
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


def _named(model: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    return dict(model.named_modules(remove_duplicate=False))


def _resolve(known: Mapping[str, nn.Module], name: str, *, inputs: bool = True) -> tuple[nn.Module, bool]:
    """The module of a name, and whether its input is meant."""
    if not isinstance(name, str):
        raise InputError("name", name, "the name of a module, a string")
    bare = name.removesuffix(INPUT) if inputs and name not in known else name
    full = bare if bare in known else {_unwrapped(other): other for other in known}.get(bare, bare)
    if full not in known:
        names = [other for other in known if other]
        last = bare.rpartition(".")[2]
        near = get_close_matches(bare, names, n=4, cutoff=0.5) or [n for n in names if last and last in n][:4] or names[:4]
        raise InputError("name", bare, "the name of a module of the model; near: " + ", ".join(map(repr, near)))
    _check_hookable(known, full)
    return known[full], bare != name


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPER):
        name = name.removeprefix(WRAPPER)
    return name


def _check_hookable(known: Mapping[str, nn.Module], name: str) -> None:
    """Hooks are not run inside a ScriptModule or a compiled module, and run on every device's replica of DataParallel."""
    parts = name.split(".") if name else []
    for depth in range(len(parts) + 1):
        module = known[".".join(parts[:depth])]
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError("model", "a ScriptModule, which runs no hooks", "the eager module that it was made from")
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise InputError("model", "a compiled module, which may skip hooks", "the module before torch.compile")
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise InputError("model", "DataParallel over several devices", "the module inside it (model.module)")


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(value, note)
    return found


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` done to each tensor in nested tuples, lists and dicts; anything else is left alone."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        parts = [_mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_mapped(part, change) for part in value]
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    return value
