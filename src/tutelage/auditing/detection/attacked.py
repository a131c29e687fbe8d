"""Attacked images as what a detector is to refuse, by the protocol of Lee et al. (2018, arXiv 1807.03888, section 3.3).

Only images count that the classifier gets right when they are clean and when they carry noise as large as the attack, and
wrong when they are attacked. So no detector gains by refusing what the classifier gets wrong anyway, or whatever is noisy.
An attack is run to its end here. In an audit it may stop at the first point that is wrong; that point lies at the border
between two classes, where every classifier is unsure, and the maximum softmax probability would look like a detector of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tutelage.auditing.measure import attack_set, predict
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.data.images import ImageSet
from tutelage.threats.engine import Attack


@dataclass(frozen=True)
class AttackedPairs:
    """clean, attacked: (n, C, H, W) float32 each, the same n images; labels (n,); total: images that were tried."""

    clean: Tensor
    attacked: Tensor
    labels: Tensor
    total: int

    def __len__(self) -> int:
        return len(self.labels)


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


def attacked_pairs(
    model: nn.Module, data: ImageSet, attack: Attack, *, seed: int = 0, batch_size: int = 256, progress: Progress = QUIET
) -> AttackedPairs:
    """Run `attack` on labelled images; those that the model gets right when clean and wrong when attacked.

    The attack is run to its end, whatever its `retire` says: of all points of the search that are wrong, the one of highest
    objective is taken. May hold no pair at all. Raises what the attack raises.
    """
    if not isinstance(attack, Attack):
        raise InputError("attack", type(attack).__name__, "an attack such as FGSM(Linf(8/255))")
    right = (predict(model, data, batch_size=batch_size).argmax(1) == data.labels).nonzero().squeeze(1)
    if not len(right):
        raise InputError("model", "no image that it gets right", "a model that is trained")
    inside, whole = data.take(right), replace(attack, retire=False)
    measured = attack_set(model, inside, whole, seed=seed, batch_size=batch_size, progress=progress)
    x, labels = inside[slice(None)]
    kept = measured.broken.nonzero().squeeze(1)
    return AttackedPairs(x[kept], measured.x_adv[kept].float(), labels[kept], len(data))


def attacked_triples(
    model: nn.Module, data: ImageSet, attack: Attack, *, seed: int = 0, batch_size: int = 256, progress: Progress = QUIET
) -> AttackedTriples:
    """`attacked_pairs`, and the same images with noise, of those that the model still gets right with it.

    The noise is Gaussian, scaled for each image to the attack's own change in the norm of the attack's budget, then cut to
    [0, 1]. In Linf its largest entry is as large as the attack's, so a typical one is about a third of it. (The released code
    has a quarter to a half. A random corner of the budget would be as large in every pixel; few classifiers bear that.)
    """
    pairs = attacked_pairs(model, data, attack, seed=seed, batch_size=batch_size, progress=progress)
    if not len(pairs):
        return AttackedTriples(pairs.clean, pairs.clean, pairs.attacked, pairs.labels, pairs.total)
    x, labels = pairs.clean, pairs.labels
    noise = torch.randn(x.shape, generator=generator(seed, "noise"))
    size = attack.budget.size(x, pairs.attacked) / attack.budget.size(torch.zeros_like(x), noise)
    noisy = (x + noise * size[:, None, None, None]).clamp(0, 1)
    still = predict(model, ImageSet(noisy, labels, data.classes), batch_size=batch_size).argmax(1) == labels
    kept = still.nonzero().squeeze(1)
    return AttackedTriples(x[kept], noisy[kept], pairs.attacked[kept], labels[kept], pairs.total)
