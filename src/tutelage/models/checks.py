"""Checks of what goes into a classifier and what comes out of it, made before any compute is spent."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.core.errors import InputError


def check_inputs(x: Tensor, bounds: tuple[float, float] | None = (0.0, 1.0), name: str = "x") -> None:
    """Floating point, at least one sample, finite, inside `bounds`."""
    if not isinstance(x, Tensor):
        raise InputError(name, type(x).__name__, "a torch.Tensor (B, ...)")
    if x.dim() < 2 or x.shape[0] == 0:
        raise InputError(name, f"shape {tuple(x.shape)}", "a batch (B, ...) of at least one sample")
    if not x.is_floating_point():
        raise InputError(name, f"dtype {x.dtype}", "floating point (divide uint8 images by 255)")
    low, high = float(x.min()), float(x.max())
    if not (low > -torch.inf and high < torch.inf):  # also false for NaN
        raise InputError(name, "NaN or infinity", "finite numbers")
    if bounds is not None and (low < bounds[0] or high > bounds[1]):
        hint = "; divide 0-255 images by 255" if high > 2 else "; put normalisation inside the model"
        raise InputError(name, f"values from {low:.4g} to {high:.4g}", f"values in [{bounds[0]:g}, {bounds[1]:g}]{hint}")


def check_labels(y: Tensor, n: int, classes: int | None = None, name: str = "y") -> None:
    """Integer class labels (n,), from 0 to classes - 1."""
    if not isinstance(y, Tensor):
        raise InputError(name, type(y).__name__, "a torch.Tensor of integer labels")
    if y.shape != (n,):
        raise InputError(name, f"shape {tuple(y.shape)}", f"shape ({n},), one label a sample")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(name, f"dtype {y.dtype}", "integer class labels")
    if n and int(y.min()) < 0:
        raise InputError(name, f"label {int(y.min())}", "labels from 0")
    if classes is not None and n and int(y.max()) >= classes:
        raise InputError(name, f"label {int(y.max())}", f"labels from 0 to {classes - 1}, as the model has {classes} outputs")


def check_logits(outputs: object, n: int, name: str = "model") -> Tensor:
    """What a classifier returned: finite logits (n, classes), returned as a tensor; otherwise a clear error."""
    if not isinstance(outputs, Tensor):
        raise InputError(
            name, f"outputs of type {type(outputs).__name__}", "a tensor of logits (B, classes); wrap the model to pick it"
        )
    if outputs.dim() != 2 or outputs.shape[0] != n:
        raise InputError(name, f"outputs of shape {tuple(outputs.shape)}", f"logits of shape ({n}, classes)")
    if outputs.shape[1] < 2:
        raise InputError(name, f"{outputs.shape[1]} output column", "at least two classes")
    if not bool(torch.isfinite(outputs).all()):
        raise InputError(name, "logits with NaN or infinity", "finite logits")
    return outputs


def look_like_probabilities(outputs: Tensor) -> bool:
    """Every row lies in [0, 1] and sums to 1: a softmax that the model should leave to its user."""
    rows = outputs.detach().float()
    return bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)


def check_not_probabilities(outputs: Tensor, name: str = "model") -> None:
    if look_like_probabilities(outputs):
        raise InputError(name, "outputs that are probabilities (rows in [0, 1] that sum to 1)", "logits: leave out the softmax")
