"""Models that only answer: a function of arrays, or whatever can be asked like one. They have no gradients.

They say so (`differentiable = False`), and so does every module that holds one: a gradient attack is refused with a sentence
that names the attacks that work. Probabilities become log-probabilities: their softmax are the probabilities again, and the
difference of two of them, which a margin objective climbs, does not die out where the model is sure.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_choice, check_integer
from tutelage.core.errors import InputError, TutelageError
from tutelage.models.adapters import check_probabilities, log_probabilities, name_of
from tutelage.models.checks import check_differentiable

Gives = Literal["logits", "probabilities", "labels"]
Takes = Literal["numpy", "torch"]


def gives_labels_only(model: nn.Module) -> bool:
    """Whether the scores say no more than a label: attacks that climb them find no way up."""
    return any(isinstance(module, BlackBox) and module.gives == "labels" for module in model.modules())


class BlackBox(nn.Module, ABC):
    """Base of models that only answer. A gradient attack on one is refused with a sentence."""

    differentiable = False
    gives: Gives = "logits"

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            check_differentiable(self, "a gradient attack")
        with torch.no_grad():
            return self.answer(x.detach()).to(x.device)

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor:
        """Logits (B, classes), float32, of x (B, ...)."""

    def identity(self) -> str:
        """What stands for its weights in a fingerprint; the same in every process."""
        return repr(self)


class Function(BlackBox):
    """A function of arrays as a model; see `from_function`."""

    def __init__(
        self, f: Callable[[Any], Any], *, gives: Gives = "logits", classes: int | None = None, takes: Takes = "numpy"
    ) -> None:
        super().__init__()
        check_callable("f", f, "a function of a batch (B, ...)")
        check_choice("takes", takes, get_args(Takes))
        check_gives(gives, classes)
        self.f, self.gives, self.classes, self.takes = f, gives, classes, takes

    def answer(self, x: Tensor) -> Tensor:
        # a copy: what the function does to its input stays its own affair
        batch = x.clone() if self.takes == "torch" else np.array(x.cpu().numpy())
        try:
            answer = self.f(batch)
        except TutelageError:
            raise
        except Exception as error:  # the user's own code may raise anything
            name = getattr(self.f, "__name__", name_of(self.f))
            wanted = f"{self.gives} of a {self.takes} batch of shape {tuple(x.shape)}"
            raise InputError("model", f"{name} raising {type(error).__name__}: {error}", wanted) from error
        return to_logits(answer, len(x), self.gives, self.classes)

    def identity(self) -> str:
        own = getattr(self.f, "identity", None)
        if own is not None:
            return f"{self!r} {own()}"
        try:
            return f"{self!r} {inspect.getsource(self.f)}"
        except (TypeError, OSError):  # an object, a builtin, typed into an interpreter
            return repr(self)

    def extra_repr(self) -> str:
        return f"{name_of(self.f)}, gives={self.gives!r}, classes={self.classes}, takes={self.takes!r}"


def from_function(
    f: Callable[[Any], Any], *, gives: Gives = "logits", classes: int | None = None, takes: Takes = "numpy"
) -> Function:
    """A model of any function of a batch. It has no gradients: black-box attacks only.

    f: called with a batch (B, ...) of float32, a NumPy array or (takes="torch") a tensor on the model's device.
    gives: what f returns.
        "logits" (B, classes): scores of any scale, the largest wins. Of two classes, also one number a sample (B,): the
            logit of class 1.
        "probabilities" (B, classes): rows that sum to 1. Of two classes, also (B,): the probability of class 1.
        "labels" (B,): integers from 0; `classes` must be given. Attacks then see where the answer changes, no more.
    classes: how many there are; checked if given.
    Raises InputError, also later, when an answer is of another shape or range, or not finite.

    Example::

        model = from_function(lambda images: rule(images), gives="probabilities")
    """
    return Function(f, gives=gives, classes=classes, takes=takes)


def check_gives(gives: object, classes: object) -> None:
    check_choice("gives", gives, get_args(Gives))
    if classes is not None:
        check_integer("classes", classes, low=2)
    elif gives == "labels":
        raise InputError("classes", None, "the number of classes: labels do not tell it")


def to_logits(answer: object, n: int, gives: Gives, classes: int | None) -> Tensor:
    """What a function or a server said of n samples, as float32 logits (n, classes) on the CPU; otherwise InputError."""
    values = _array(answer)
    if values.is_complex() or values.dtype == torch.bool:
        raise InputError("model", f"{gives} of dtype {values.dtype}", f"{gives} that are numbers")
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise InputError("model", f"{gives} with NaN or infinity", f"finite {gives}")
    if gives == "labels":
        return _of_labels(values, n, classes or 0)
    if values.shape in ((n,), (n, 1)):
        one = values.reshape(n).double()
        values = torch.stack([1 - one, one], 1) if gives == "probabilities" else torch.stack([-one / 2, one / 2], 1)
    if values.dim() != 2 or len(values) != n:
        raise InputError("model", f"{gives} of shape {tuple(values.shape)}", f"{gives} of shape ({n}, classes)")
    if classes is not None and values.shape[1] != classes:
        raise InputError("model", f"{gives} of {values.shape[1]} classes", f"{classes} classes")
    if gives == "probabilities":
        check_probabilities(values)
        return log_probabilities(values)
    logits = values.float()
    if not bool(torch.isfinite(logits).all()):
        raise InputError("model", "logits that float32 cannot hold", "logits below 3e38")
    return logits


def _array(answer: object) -> Tensor:
    try:
        return answer.detach().cpu() if isinstance(answer, Tensor) else torch.as_tensor(np.asarray(answer))
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, texts, objects
        raise InputError("model", f"an answer of type {type(answer).__name__} ({error})", "an array of numbers") from error


def _of_labels(values: Tensor, n: int, classes: int) -> Tensor:
    if values.shape != (n,) or values.is_floating_point():
        raise InputError("model", f"labels of shape {tuple(values.shape)} and {values.dtype}", f"integers of shape ({n},)")
    labels = values.long()
    if wrong := [label for label in labels.tolist() if not 0 <= label < classes]:
        raise InputError("model", f"label {wrong[0]}", f"labels from 0 to {classes - 1}")
    return log_probabilities(nn.functional.one_hot(labels, classes))
