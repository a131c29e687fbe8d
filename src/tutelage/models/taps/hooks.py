"""Taps: see what named modules of any net return, or get, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError

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
    known = named(model)
    found = [(name, *resolve(known, name)) for name in wanted]
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


def named(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by name; a shared one has several names."""
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    return dict(model.named_modules(remove_duplicate=False))


def resolve(known: Mapping[str, nn.Module], name: str, *, inputs: bool = True) -> tuple[nn.Module, bool]:
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
    check_hookable(known, full)
    return known[full], bare != name


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPER):
        name = name.removeprefix(WRAPPER)
    return name


def check_hookable(known: Mapping[str, nn.Module], name: str) -> None:
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
