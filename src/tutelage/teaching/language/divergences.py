"""Divergences between two language models at each token, chunked over time.

At a prefix h, with p = teacher(.|h) and q = student(.|h) over the vocabulary:

    (1)  forward KL   Σ_v p_v (log p_v - log q_v)
    (2)  reverse KL   Σ_v q_v (log q_v - log p_v)
    (3)  JSD(β)       β KL(p ‖ m) + (1 - β) KL(q ‖ m),  m = β p + (1 - β) q,  0 < β < 1

(3) is the generalised Jensen-Shannon divergence of Agarwal et al., On-Policy Distillation of Language Models, arXiv 2306.13649.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.teaching.language.sequences import CHUNK, recomputed

Divergence = Literal["forward", "reverse", "jsd"]


def token_divergences(
    teacher_logits: Tensor, student_logits: Tensor, *, kind: Divergence = "forward", beta: float = 0.5, chunk: int = CHUNK
) -> Tensor:
    """The divergence at each position, (B, T), float32, in nats, for logits (B, T, V) over one vocabulary. Gradients pass.

    Only `chunk` positions are in float32 at a time; they are recomputed on the way back. beta: of (3). Raises InputError.
    """
    check_choice("kind", kind, get_args(Divergence))
    check_integer("chunk", chunk)
    check_number("beta", beta, "a number in (0, 1)", low=1e-6, high=1 - 1e-6)
    if teacher_logits.dim() != 3 or teacher_logits.shape != student_logits.shape:
        got = f"{tuple(student_logits.shape)} for a teacher's {tuple(teacher_logits.shape)}"
        raise InputError("student_logits", got, "the same shape (B, T, V): one vocabulary, the same tokens")

    def one(t: Tensor, s: Tensor) -> Tensor:
        log_p, log_q = t.float().log_softmax(2), s.float().log_softmax(2)
        if kind == "forward":
            return _kl(log_p, log_q)
        if kind == "reverse":
            return _kl(log_q, log_p)
        log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
        return beta * _kl(log_p, log_m) + (1.0 - beta) * _kl(log_q, log_m)

    starts = range(0, teacher_logits.shape[1], chunk)
    parts = [recomputed(one, teacher_logits[:, at : at + chunk], student_logits[:, at : at + chunk]) for at in starts]
    return torch.cat(parts, dim=1) if parts else teacher_logits.new_zeros(len(teacher_logits), 0, dtype=torch.float32)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    # a token that cannot occur adds nothing, also where both logs are -inf
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(2)
