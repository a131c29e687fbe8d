"""Training objectives that many methods stand on or are compared with."""

from __future__ import annotations

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_choice, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.models.checks import check_first_batch, check_highest, check_logits, highest_label
from tutelage.teaching.divergences import Reduction, kl
from tutelage.teaching.fit import Context
from tutelage.teaching.teachers import Teacher


class Attack(Protocol):
    """An inner maximisation: x' for inputs x and labels y, as `tutelage.threats.PGD` is one."""

    def __call__(
        self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None
    ) -> Tensor: ...


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """The (x, y) of a batch: inputs (B, ...) and one integer label a sample."""
    x, y, _ = _labelled(batch)
    return x, y


def _labelled(batch: Any) -> tuple[Tensor, Tensor, int]:
    """The (x, y) of a batch and its highest label: looked at once, for it is needed again when the classes are known."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"batches of {len(batch)} parts" if isinstance(batch, tuple | list) else f"batches of type {type(batch).__name__}"
        raise InputError("loader", got, "batches (x, y) of inputs and labels")
    x, y = batch
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise InputError("loader", f"inputs of type {type(x).__name__}", "batches (x, y) with inputs in a tensor (B, ...)")
    return x, y, highest_label(y, len(x))


def _cross_entropy(outputs: object, y: Tensor, highest: int, smoothing: float) -> Tensor:
    """CE of a model's outputs; wrong shapes and labels are told here, what is not finite by `fit`, with its step."""
    logits = check_logits(outputs, len(y), finite=False)
    check_highest(highest, logits.shape[1])
    return F.cross_entropy(logits, y.long(), label_smoothing=smoothing)


class CrossEntropy:
    """CE(S(x), y), with optional label smoothing: ordinary training on (x, y) batches."""

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = _smoothing(label_smoothing)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, highest = _labelled(batch)
        return _cross_entropy(model(x), y, highest, self.label_smoothing), {}


class AdversarialTraining:
    """PGD-AT (Madry et al. 2018): CE(S(x'), y) at the point x' that the attack finds for the student as it is."""

    def __init__(self, attack: Attack, *, label_smoothing: float = 0.0) -> None:
        check_callable("attack", attack, "an attack such as PGD(Linf(8/255), steps=10)")
        self.attack, self.label_smoothing = attack, _smoothing(label_smoothing)
        self._classes = 0

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, highest = _labelled(batch)
        if ctx.step == 0 or not self._classes:  # a resumed training does not begin at step 0
            self._classes = check_first_batch(model, x, y, bounds=None)  # what values x may have, the attack knows
        check_highest(highest, self._classes)
        x_adv = self.attack(x, y, model=model, generator=ctx.generator)
        return _cross_entropy(model(x_adv), y, highest, self.label_smoothing), {}


class RobustDistillation:
    """RSLAD (Zi et al. 2021): a student of one robust teacher T, soft labels in both places.

        a KL(T(x) || S(x')) + (1 - a) KL(T(x) || S(x)),     x' maximises KL(T(x) || S(x'))

    The attack must have an objective that uses `reference` (the teacher's logits on x). a = 5/6 in the paper.
    """

    def __init__(
        self, teacher: Teacher, attack: Attack, *, adversarial: float = 5 / 6, reduction: Reduction = "batchmean"
    ) -> None:
        if not isinstance(teacher, Teacher):
            raise InputError("teacher", type(teacher).__name__, "a Teacher: Teacher(model)")
        check_callable("attack", attack, "an attack such as PGD(Linf(8/255), steps=10, objective=kl_to_reference)")
        check_number("adversarial", adversarial, "a weight from 0 to 1", low=0, high=1)
        check_choice("reduction", reduction, ("batchmean", "mean"))
        self.teacher, self.attack, self.adversarial, self.reduction = teacher, attack, adversarial, reduction
        self._classes = 0

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, highest = _labelled(batch)
        if ctx.step == 0 or not self._classes:  # a resumed training does not begin at step 0
            self._classes = check_first_batch(model, x, y)
        check_highest(highest, self._classes)
        reference = self.teacher.query(x).logits
        if reference.shape[1] != self._classes:
            raise InputError("teacher", f"{reference.shape[1]} classes", f"{self._classes}, as many as the student has")
        x_adv = self.attack(x, y, model=model, generator=ctx.generator, reference=reference)
        robust_logits = check_logits(model(x_adv), len(x), finite=False)
        robust = kl(reference, robust_logits, reduction=self.reduction)
        clean = kl(reference, model(x), reduction=self.reduction)
        total = self.adversarial * robust + (1 - self.adversarial) * clean
        return total, {"loss_robust": robust.detach(), "loss_clean": clean.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])


def _smoothing(value: float) -> float:
    check_number("label_smoothing", value, "a number in [0, 1)", low=0)
    if value >= 1:
        raise InputError("label_smoothing", value, "a number in [0, 1)")
    return value
