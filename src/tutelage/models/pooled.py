"""Features of several layers of any net at once, one vector a sample and layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.checks import run_model
from tutelage.models.guard import evaluating
from tutelage.models.taps import find_head, taps


class PooledLayers:
    """x (B, ...) -> logits (B, K) and, for each layer, features (B, d): what the layer returns, averaged over positions.

    layers: module names as for `taps` ("name:input" is what goes into a module). Maps (B, C, H, W) and (B, C, L) are
    averaged over everything behind the channels; put a module that reorders in front of layers with channels last.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
            raise InputError("layers", layers, 'names of modules, such as ["layer1", "layer2"]')
        if len(set(layers)) < len(layers):
            raise InputError("layers", list(layers), "each layer once")
        with taps(model, list(layers)):  # names that do not exist are told here
            pass
        self.model, self.layers = model, tuple(layers)

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Runs the model as it is: modes and gradients are the caller's. Raises InputError for outputs of other kinds."""
        with taps(self.model, self.layers, copy=True) as seen:
            logits = run_model(self.model, x)
        return logits, [pooled(seen[name], len(x), name) for name in self.layers]


def pooled(value: object, n: int, name: str) -> Tensor:
    """(n, d) as it is, (n, d, ...) averaged over its positions; InputError, with the layer's name, for anything else."""
    if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] != n or not value.is_floating_point():
        got = f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError("layers", f"{name!r} with outputs of {got}", "layers with floating-point outputs (B, d, ...)")
    if not bool(torch.isfinite(value).all()):
        raise InputError("layers", f"{name!r} with NaN or infinity in its outputs", "finite features")
    return value if value.dim() == 2 else value.flatten(2).mean(2)


def penultimate(model: nn.Module, x: Tensor) -> str:
    """The tap on what goes into the linear head of `model`, found by running it on a few of x (B, ...)."""
    with evaluating(model), torch.no_grad():
        return find_head(model, x[:4]) + ":input"
