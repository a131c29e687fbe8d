"""Training objectives that many methods stand on or are compared with."""

from __future__ import annotations

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.models.checks import check_inputs, check_labels
from tutelage.teaching.divergences import Reduction, kl
from tutelage.teaching.fit import Context
from tutelage.teaching.teachers import Teacher


class Attack(Protocol):
    """An inner maximisation: x' for inputs x and labels y, as `tutelage.threats.PGD` is one."""

    def __call__(
        self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None
    ) -> Tensor: ...


class CrossEntropy:
    """CE(S(x), y), with optional label smoothing: ordinary training on (x, y) batches."""

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = _smoothing(label_smoothing)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        return F.cross_entropy(model(x), y, label_smoothing=self.label_smoothing), {}


class AdversarialTraining:
    """PGD-AT (Madry et al. 2018): CE(S(x'), y) at the point x' that the attack finds for the student as it is."""

    def __init__(self, attack: Attack, *, label_smoothing: float = 0.0) -> None:
        self.attack, self.label_smoothing = attack, _smoothing(label_smoothing)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        x_adv = self.attack(x, y, model=model, generator=ctx.generator)
        return F.cross_entropy(model(x_adv), y, label_smoothing=self.label_smoothing), {}


class RobustDistillation:
    """RSLAD (Zi et al. 2021): a student of one robust teacher T, soft labels in both places.

        a KL(T(x) || S(x')) + (1 - a) KL(T(x) || S(x)),     x' maximises KL(T(x) || S(x'))

    The attack must have an objective that uses `reference` (the teacher's logits on x). a = 5/6 in the paper.
    """

    def __init__(
        self, teacher: Teacher, attack: Attack, *, adversarial: float = 5 / 6, reduction: Reduction = "batchmean"
    ) -> None:
        if not 0 <= adversarial <= 1:
            raise InputError("adversarial", adversarial, "a weight from 0 to 1")
        self.teacher, self.attack, self.adversarial, self.reduction = teacher, attack, adversarial, reduction

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        if ctx.step == 0:
            check_inputs(x)
            check_labels(y, len(x))
        reference = self.teacher.query(x).logits
        x_adv = self.attack(x, y, model=model, generator=ctx.generator, reference=reference)
        robust = kl(reference, model(x_adv), reduction=self.reduction)
        clean = kl(reference, model(x), reduction=self.reduction)
        total = self.adversarial * robust + (1 - self.adversarial) * clean
        return total, {"loss_robust": robust.detach(), "loss_clean": clean.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])


def _smoothing(value: float) -> float:
    if not 0 <= value < 1:
        raise InputError("label_smoothing", value, "a number in [0, 1)")
    return value
