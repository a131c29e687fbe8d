"""What an attack maximises: a callable on (outputs, batch) that returns one number a sample.

`outputs` is whatever the model returned, `batch` the part of the data still under attack. Anything of this form is an
objective; these are the ones for classifiers, whose outputs are logits (B, classes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tutelage.core.errors import InputError


@dataclass(frozen=True)
class AttackBatch:
    """The samples under attack: inputs x (B, ...), labels y (B,), and what some objectives need.

    target: (B,) the class wanted by a targeted attack. reference: (B, classes) logits of a teacher or of the clean model.
    reached: (B,) the highest margin at points that other attacks have found; see `Square.patience`.
    """

    x: Tensor
    y: Tensor
    target: Tensor | None = None
    reference: Tensor | None = None
    reached: Tensor | None = None

    def take(self, index: Tensor) -> AttackBatch:
        return AttackBatch(
            self.x.index_select(0, index),
            self.y[index],
            None if self.target is None else self.target[index],
            None if self.reference is None else self.reference[index],
            None if self.reached is None else self.reached[index],
        )


DLR_FLOOR = 1e-12  # equal logits have no gap

Objective = Callable[[Tensor, AttackBatch], Tensor]


def cross_entropy(logits: Tensor, batch: AttackBatch) -> Tensor:
    """CE(z, y); towards the target if there is one: -CE(z, target)."""
    if batch.target is not None:
        return -F.cross_entropy(logits, batch.target, reduction="none")
    return F.cross_entropy(logits, batch.y, reduction="none")


def margin(logits: Tensor, batch: AttackBatch) -> Tensor:
    """max_{j != y} z_j - z_y, above 0 where the sample is misclassified (Carlini & Wagner 2017).

    For a target t: z_t - max_{j != t} z_j.
    """
    label = batch.y if batch.target is None else batch.target
    own = logits.gather(1, label[:, None]).squeeze(1)
    others = logits.scatter(1, label[:, None], -float("inf")).amax(1)
    return others - own if batch.target is None else own - others


def dlr(logits: Tensor, batch: AttackBatch) -> Tensor:
    """The difference-of-logits ratio, the margin over a gap between the model's own largest logits (Croce & Hein 2020).

    -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)); towards a target t: -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), with
    z_(k) the k-th largest logit. Unlike cross-entropy it does not change when the logits are scaled. Needs 3 classes,
    4 with a target.
    """
    needed = 3 if batch.target is None else 4
    if logits.shape[1] < needed:
        raise InputError("objective", f"dlr with {logits.shape[1]} classes", f"at least {needed} classes, or the margin")
    top = logits.topk(needed, dim=1).values
    own = logits.gather(1, batch.y[:, None]).squeeze(1)
    if batch.target is None:
        return margin(logits, batch) / (top[:, 0] - top[:, 2] + DLR_FLOOR)
    wanted = logits.gather(1, batch.target[:, None]).squeeze(1)
    return (wanted - own) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + DLR_FLOOR)


def kl_to_reference(logits: Tensor, batch: AttackBatch) -> Tensor:
    """KL(softmax(reference) || softmax(z)): away from what a teacher, or the model itself, says of the clean input."""
    if batch.reference is None:
        raise InputError("reference", None, "reference logits (B, classes): run(..., reference=...)")
    return F.kl_div(logits.log_softmax(1), batch.reference.log_softmax(1), reduction="none", log_target=True).sum(1)


def misclassified(logits: Tensor, batch: AttackBatch) -> Tensor:
    """Success: the predicted class is not y; for a targeted attack, it is the target."""
    predicted = logits.argmax(1)
    return predicted != batch.y if batch.target is None else predicted == batch.target
