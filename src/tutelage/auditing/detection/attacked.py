"""Attacked images as what a detector is to refuse, by the protocol of Lee et al. (2018, arXiv 1807.03888, section 3.3).

Only images count that the classifier gets right when they are clean and when they carry noise as large as the attack, and
wrong when they are attacked. So no detector gains by refusing what the classifier gets wrong anyway, or whatever is noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.auditing.measure import attack_set, predict
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.data.images import ImageSet
from tutelage.threats.engine import Attack


@dataclass(frozen=True)
class AttackedTriples:
    """clean, noisy, attacked: (n, C, H, W) float32 each, the same n images; labels (n,); total: images that were tried."""

    clean: Tensor
    noisy: Tensor
    attacked: Tensor
    labels: Tensor
    total: int

    def __len__(self) -> int:
        return len(self.labels)


def attacked_triples(
    model: nn.Module, data: ImageSet, attack: Attack, *, seed: int = 0, batch_size: int = 256, progress: Progress = QUIET
) -> AttackedTriples:
    """Run `attack` on labelled images and keep the triples of the protocol.

    The noise of an Linf attack is a random corner of its budget, that of any other a random direction, scaled to the
    attack's own change in its norm; then both are cut to [0, 1]. May hold no triple at all. Raises what the attack raises.
    """
    if not isinstance(attack, Attack):
        raise InputError("attack", type(attack).__name__, "an attack such as FGSM(Linf(8/255))")
    right = (predict(model, data, batch_size=batch_size).argmax(1) == data.labels).nonzero().squeeze(1)
    if not len(right):
        raise InputError("model", "no image that it gets right", "a model that is trained")
    inside = data.take(right)
    measured = attack_set(model, inside, attack, seed=seed, batch_size=batch_size, progress=progress)
    x, labels = inside[slice(None)]
    noise = torch.randn(x.shape, generator=generator(seed, "noise"))
    if attack.budget.norm == "linf":
        noise = noise.sign()
    size = attack.budget.size(x, measured.x_adv) / attack.budget.size(torch.zeros_like(x), noise)
    noisy = (x + noise * size[:, None, None, None]).clamp(0, 1)
    still = predict(model, ImageSet(noisy, labels, data.classes), batch_size=batch_size).argmax(1) == labels
    kept = (still & measured.broken).nonzero().squeeze(1)
    return AttackedTriples(x[kept], noisy[kept], measured.x_adv[kept].float(), labels[kept], len(data))
