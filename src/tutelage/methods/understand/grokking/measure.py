"""Accuracy on each kind of question, and the phase that it shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.methods.understand.grokking.data import ModularData
from tutelage.models.guard import evaluating

Phase = Literal["coexistence", "partial inversion", "full inversion", "memorisation", "confusion"]
PHASES: tuple[Phase, ...] = ("coexistence", "partial inversion", "full inversion", "memorisation", "confusion")
_ROWS = 8192  # pairs answered at once


@dataclass(frozen=True)
class Accuracies:
    """Shares of right answers, in [0, 1]; NaN where there is no such question.

    train: training labels as given. test: the other questions. clean: training rows that were not corrupted. corrupted:
    corrupted rows, by their corrupted label (1 / p of them is the answer). memorised, restored: rows whose label is really
    wrong, by that label and by the answer. train_loss, test_loss: mean squared error over samples and outputs.
    """

    train: float
    test: float
    clean: float
    corrupted: float
    memorised: float
    restored: float
    train_loss: float
    test_loss: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def accuracies(model: nn.Module, data: ModularData) -> Accuracies:
    """What `model`, from pairs (B, 2) to p logits, answers to every question of `data`; in evaluation mode."""
    logits = answers(model, data)
    y, y_true = data.y, data.y_true
    found = logits.argmax(1)
    squares = ((logits - F.one_hot(y, data.p)) ** 2).mean(1)
    wrong = data.is_train & (y != y_true)

    def share(rows: Tensor, labels: Tensor) -> float:
        return float((found[rows] == labels[rows]).double().mean())

    return Accuracies(
        train=share(data.is_train, y),
        test=share(data.is_test, y_true),
        clean=share(data.is_train & ~data.is_corrupted, y),
        corrupted=share(data.is_corrupted, y),
        memorised=share(wrong, y),
        restored=share(wrong, y_true),
        train_loss=float(squares[data.is_train].mean()),
        test_loss=float(squares[data.is_test].mean()),
    )


def answers(model: nn.Module, data: ModularData) -> Tensor:
    """Logits (p^2, p) of all questions on the CPU; InputError if they have another shape or are not finite."""
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    if not isinstance(data, ModularData):
        raise InputError("data", type(data).__name__, "what modular_dataset gives")
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluating(model):
        parts = [model(x.to(place)).cpu() for x in torch.split(data.x, _ROWS)]
    for part, x in zip(parts, torch.split(data.x, _ROWS), strict=True):
        if part.shape != (len(x), data.p):
            raise InputError("model", f"outputs of shape {tuple(part.shape)}", f"logits ({len(x)}, {data.p})")
        if not bool(torch.isfinite(part).all()):
            raise InputError("model", "outputs with NaN or infinity", "finite logits")
    return torch.cat(parts)


def classify_phase(train_acc: float, test_acc: float, xi: float) -> Phase:
    """The phase of a net by its accuracies in [0, 1] and the share xi of corrupted labels (appendix of the paper).

    Test accuracy of 0.9 and more: coexistence if training accuracy is 0.9 too; else partial inversion, and full inversion
    where it is below 1.05 - xi: the wrong labels are not fitted. Test accuracy below 0.9: memorisation if the training
    accuracy is 0.9 and more, else confusion (with strong regularisation, forgetting).
    """
    for argument, value in (("train_acc", train_acc), ("test_acc", test_acc), ("xi", xi)):
        check_number(argument, value, "a share from 0 to 1", low=0, high=1)
    if test_acc < 0.9:
        return "memorisation" if train_acc >= 0.9 else "confusion"
    if train_acc >= 0.9:
        return "coexistence"
    return "partial inversion" if train_acc >= 1.05 - xi else "full inversion"
