"""The mode guard: use a model in evaluation mode and hand it back exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, ModelChanged


@contextmanager
def evaluating(model: nn.Module, *, verify: bool = True) -> Iterator[nn.Module]:
    """Evaluation mode, no parameter gradients; modes and flags are put back, also after an exception.

    With `verify`, a buffer that changed inside the block (a BatchNorm that was switched to train mode, a counter) is
    put back and reported as `ModelChanged`. Every module keeps its own mode: a frozen BatchNorm in a model that trains
    is still frozen afterwards.
    """
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise InputError("model", "weights on the meta device, which holds no numbers", "a model whose weights are loaded")
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(name, buffer, buffer.clone()) for name, buffer in model.named_buffers()] if verify else []
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    model.eval()
    changed = []
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        now = dict(model.named_buffers()) if verify else {}
        with torch.no_grad():
            for name, buffer, before in buffers:
                if now.get(name) is not buffer or not _same(buffer, before):
                    changed.append(name)
                    buffer.copy_(before)
                    owner, _, last = name.rpartition(".")
                    setattr(model.get_submodule(owner), last, buffer)
    if changed:
        raise ModelChanged(
            f"model: buffer {changed[0]!r} changed while the model was only being evaluated (it was put back); "
            "a module that updates itself in eval mode cannot be audited or used as a teacher"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal everywhere, NaN where the other is NaN."""
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
