"""Checks of what goes into a classifier and what comes out of it, made before any compute is spent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, TutelageError
from tutelage.models.guard import evaluating

BLACK_BOX = "black-box attacks, such as Square(budget) or Decision(budget), or corruptions"


def check_inputs(x: Tensor, bounds: tuple[float, float] | None = (0.0, 1.0), name: str = "x") -> None:
    """Floating point, at least one sample, finite, inside `bounds`."""
    if not isinstance(x, Tensor):
        raise InputError(name, type(x).__name__, "a torch.Tensor (B, ...)")
    if x.dim() < 2 or x.numel() == 0:
        raise InputError(name, f"shape {tuple(x.shape)}", "a batch (B, ...) of at least one sample")
    if not x.is_floating_point():
        raise InputError(name, f"dtype {x.dtype}", "floating point (divide uint8 images by 255)")
    low, high = map(float, torch.aminmax(x))
    if not (low > -torch.inf and high < torch.inf):  # also false for NaN
        raise InputError(name, "NaN or infinity", "finite numbers")
    if bounds is not None and (low < bounds[0] or high > bounds[1]):
        hint = "; divide 0-255 images by 255" if high > 2 else "; put normalisation inside the model"
        raise InputError(name, f"values from {low:.4g} to {high:.4g}", f"values in [{bounds[0]:g}, {bounds[1]:g}]{hint}")


def check_labels(y: Tensor, n: int, classes: int | None = None, name: str = "y") -> None:
    """Integer class labels (n,), from 0 to classes - 1."""
    highest = highest_label(y, n, name)
    if classes is not None:
        check_highest(highest, classes, name)


def highest_label(y: Tensor, n: int, name: str = "y") -> int:
    """The highest of integer class labels (n,) from 0, -1 for no labels; InputError if they are anything else.

    Reading values off a device is what such a check costs, so all of it is done in one pass.
    """
    if not isinstance(y, Tensor):
        raise InputError(name, type(y).__name__, f"a torch.Tensor of integer labels ({n},)")
    if y.shape != (n,):
        raise InputError(name, f"shape {tuple(y.shape)}", f"shape ({n},), one label a sample")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(name, f"dtype {y.dtype}", "integer class labels")
    if not n:
        return -1
    low, high = map(int, torch.aminmax(y))
    if low < 0:
        raise InputError(name, f"label {low}", "labels from 0")
    return high


def check_highest(highest: int, classes: int, name: str = "y") -> None:
    """InputError if the highest label does not fit a model of so many classes."""
    if highest >= classes:
        raise InputError(name, f"label {highest}", f"labels from 0 to {classes - 1}, as the model has {classes} outputs")


def check_module(model: object, name: str = "model") -> None:
    """InputError, with the wrapper that helps, if a model is no nn.Module."""
    if not isinstance(model, nn.Module):
        raise InputError(name, type(model).__name__, f"an nn.Module that returns logits{wrapper_for(model)}")


def wrapper_for(value: object) -> str:
    """What makes a module of something that only answers, to be put behind what was wanted; nothing if it does not answer."""
    if hasattr(value, "predict") or hasattr(value, "predict_proba"):
        return "; wrap it: tutelage.models.from_sklearn(...)"
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return "; wrap it: tutelage.models.Endpoint(...)"
    return "; wrap it: tutelage.models.from_function(...)" if callable(value) and not isinstance(value, type) else ""


def is_differentiable(model: nn.Module) -> bool:
    """Whether gradients can be asked for: no module in it says `differentiable = False`."""
    return all(getattr(module, "differentiable", True) for module in model.modules())


def check_differentiable(model: nn.Module, what: str) -> None:
    """InputError if `what`, which needs gradients, is asked of a model that has none."""
    if not is_differentiable(model):
        raise InputError("model", f"{type(model).__name__}, which gives no gradients, for {what}", BLACK_BOX)


def run_model(model: nn.Module, x: Tensor, name: str = "model") -> Tensor:
    """The model's logits on x (B, ...), checked. Whatever the model raises becomes one sentence that says what to do."""
    try:
        outputs = model(x)
    except TutelageError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise InputError("batch_size", f"{len(x)} samples, for which memory is short", "a smaller one") from error
    except (Exception, SystemExit) as error:  # the user's own code may raise anything; its reason belongs into the one sentence
        what = f"inputs of shape {tuple(x.shape)} and type {str(x.dtype).removeprefix('torch.')}"
        wanted = _remedy(model, x) or f"logits (B, classes){_other_images(x, error)}"
        raise InputError(name, f"{type(error).__name__} on {what}: {error}", wanted) from error
    return check_logits(outputs, len(x), name)


@contextmanager
def same_classes(model: nn.Module) -> Iterator[None]:
    """Inside, a model whose number of outputs changes from one call to the next raises InputError, where it does."""
    handle = model.register_forward_hook(_SameClasses())
    try:
        yield
    finally:
        handle.remove()


class _SameClasses:
    """A hook; a class, so that a model that carries it can be copied and sent to other processes."""

    classes = 0

    def __call__(self, model: nn.Module, inputs: object, outputs: object) -> None:
        if isinstance(outputs, Tensor) and outputs.dim() == 2:
            classes = outputs.shape[1]
            self.classes = self.classes or classes
            if classes != self.classes:
                raise InputError(
                    "model", f"{classes} outputs after {self.classes} before", "as many outputs, one a class, at each call"
                )


def check_first_batch(model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float] | None = (0.0, 1.0)) -> int:
    """InputError unless x is inside `bounds`, the model returns logits (no probabilities) and y fits them; else their classes.

    One pass of the model in evaluation mode, so that a wrong set of labels is told before the first attack, not inside it.
    """
    check_inputs(x, bounds)
    with torch.no_grad(), evaluating(model):
        logits = run_model(model, x)
    check_not_probabilities(logits)
    check_labels(y, len(x), logits.shape[1])
    return logits.shape[1]


def _remedy(model: nn.Module, x: Tensor) -> str:
    """What most likely makes a model fail on x: parameters of another type, or on another device."""
    for parameter in model.parameters():
        if parameter.device != x.device:
            return f"model and inputs on one device (they are on {parameter.device} and {x.device})"
        if parameter.is_floating_point() and parameter.dtype != x.dtype:
            kind = str(parameter.dtype).removeprefix("torch.")
            return f"a float32 model (model.float()), or tutelage.models.InDtype(model): {kind} inside, float32 logits"
    return ""


def _other_images(x: Tensor, error: BaseException) -> str:
    """On what images a model may not fail that fails on x by its shape, as far as torch's words tell."""
    if x.dim() != 4 or not isinstance(error, RuntimeError | ValueError):
        return ""
    if "channels" in str(error):
        return f" on images of as many channels as the model takes, not {x.shape[1]}: convert them, or let the model do it"
    if re.search(r"shape|size", str(error)):
        size = f"{x.shape[2]} x {x.shape[3]}"
        return (
            f" on images of the size and channels that the model takes, not {size}: --size N (size=N) resizes all but an .npz"
        )
    return ""


def check_logits(outputs: object, n: int, name: str = "model", *, finite: bool = True) -> Tensor:
    """What a classifier returned: finite logits (n, classes), returned as a tensor; otherwise a clear error."""
    if not isinstance(outputs, Tensor):
        raise InputError(
            name, f"outputs of type {type(outputs).__name__}", f"a tensor of logits (B, classes); {_pick(outputs)}"
        )
    if outputs.dim() != 2 or outputs.shape[0] != n:
        raise InputError(name, f"outputs of shape {tuple(outputs.shape)}", f"logits of shape ({n}, classes)")
    if outputs.shape[1] < 2:
        raise InputError(name, f"{outputs.shape[1]} output column", "at least two classes")
    if not outputs.is_floating_point():
        raise InputError(name, f"outputs of dtype {outputs.dtype}", "floating-point logits")
    if finite and not bool(torch.isfinite(outputs).all()):
        raise InputError(name, "logits with NaN or infinity", "finite logits")
    return outputs


def _pick(outputs: object) -> str:
    """How a wrapper picks the logits out of what a model returned."""
    if isinstance(outputs, Mapping):
        tensors = [key for key, value in outputs.items() if isinstance(value, Tensor)]
        key = "logits" if "logits" in outputs or not tensors else tensors[0]
        return f"wrap the model in tutelage.models.Logits(model, {key!r}), which returns outputs[{key!r}]"
    if isinstance(outputs, tuple | list):
        place = next((i for i, value in enumerate(outputs) if isinstance(value, Tensor) and value.dim() == 2), 0)
        return f"wrap the model in tutelage.models.Logits(model, {place}), which returns outputs[{place}]"
    if hasattr(outputs, "logits"):
        return "wrap the model in tutelage.models.Logits(model), which returns outputs.logits"
    return "wrap the model in a module that returns it"


def look_like_probabilities(outputs: Tensor) -> bool:
    """Every row lies in [0, 1] and sums to 1: a softmax that the model should leave to its user."""
    rows = outputs.detach().float()
    return bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)


def check_not_probabilities(outputs: Tensor, name: str = "model") -> None:
    if look_like_probabilities(outputs):
        raise InputError(
            name,
            "outputs that are probabilities (rows in [0, 1] that sum to 1)",
            "logits: leave out the softmax (or tutelage.models.LogProbabilities(model))",
        )
