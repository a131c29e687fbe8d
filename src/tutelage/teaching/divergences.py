"""Divergences between predictions, with every temperature and reduction spelled out."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.errors import InputError

Reduction = Literal["none", "batchmean", "mean"]


def kl(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: Reduction = "batchmean",
) -> Tensor:
    """KL(p || q) in nats, p = softmax(teacher / T_t), q = softmax(student / T_s), for logits (B, C).

    reduction: "none" gives (B,), "batchmean" the mean over samples, "mean" the mean over samples AND classes (1/C of
    batchmean, as some published code has it). No T^2 factor is applied.
    """
    if teacher_logits.shape != student_logits.shape:
        raise InputError("student_logits", tuple(student_logits.shape), f"the teacher's shape {tuple(teacher_logits.shape)}")
    _positive("teacher_temperature", teacher_temperature)
    _positive("student_temperature", student_temperature)
    log_p = (teacher_logits / teacher_temperature).log_softmax(-1)
    log_q = (student_logits / student_temperature).log_softmax(-1)
    per_sample = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return _reduce(per_sample, teacher_logits.shape[-1], reduction)


def entropy(logits: Tensor, *, temperature: float = 1.0, reduction: Reduction = "batchmean") -> Tensor:
    """H(softmax(logits / T)) in nats, from 0 (certain) to ln C (uniform)."""
    _positive("temperature", temperature)
    log_p = (logits / temperature).log_softmax(-1)
    per_sample = -(log_p.exp() * log_p).sum(-1)
    return _reduce(per_sample, logits.shape[-1], reduction)


def _positive(name: str, temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise InputError(name, temperature, "a finite number above 0")


def _reduce(per_sample: Tensor, classes: int, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return per_sample
    if reduction == "batchmean":
        return torch.mean(per_sample)
    if reduction == "mean":
        return torch.mean(per_sample) / classes
    raise InputError("reduction", reduction, "none, batchmean or mean")
