"""Consistency losses between a student and a teacher, and the contrastive loss between views of a sample."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError

Negatives = Literal["all", "other_class"]


def symmetric_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.5) -> Tensor:
    """-(1 - alpha) sum_c q_c log p_c - alpha sum_c p_c log q_c of each sample, in nats: logits (B, K) twice -> (B,).

    p = softmax(student), q = softmax(teacher); gradients flow through p, in both terms, and never through q.
    alpha: weight of the reverse term, 0 to 1; 0 is the cross-entropy with soft targets, 1/2 is symmetric in p and q.
    Symmetric cross-entropy of Wang et al. (arXiv 1908.06112), as RMT (arXiv 2211.13081) has it.
    """
    if student_logits.shape != teacher_logits.shape:
        raise InputError("teacher_logits", tuple(teacher_logits.shape), f"the student's shape {tuple(student_logits.shape)}")
    check_number("alpha", alpha, "a weight from 0 to 1", low=0, high=1)
    # never log(softmax): it is -inf where the softmax underflows
    log_p, log_q = student_logits.log_softmax(1), teacher_logits.detach().log_softmax(1)
    loss = torch.zeros_like(log_p[:, 0])
    if alpha < 1:
        loss = loss - (1 - alpha) * (log_q.exp() * log_p).sum(1)
    if alpha > 0:
        loss = loss - alpha * (log_p.exp() * log_q).sum(1)
    return loss


def nt_xent(views: Tensor, *, temperature: float = 0.1, negatives: Negatives = "all", groups: Tensor | None = None) -> Tensor:
    """Mean over all B V anchors of the contrastive loss between V views of B samples: views (B, V, d) -> scalar.

    With s the cosines over `temperature`, of anchor a = (i, v):

        l(a) = -1 / (V - 1) sum_{v' != v} log( exp s(a, (i, v')) / sum_{b != a} exp s(a, b) )

    Positives are the other views of the same sample; everything else in the batch is a negative. negatives="other_class"
    leaves those out that have the same group (B,), such as the class they were assigned to.
    NT-Xent of SimCLR (arXiv 2002.05709) with several positives (arXiv 2004.11362).
    """
    if views.dim() != 3 or views.shape[1] < 2 or len(views) == 0:
        raise InputError("views", f"shape {tuple(views.shape)}", "(B, V, d) with two views or more")
    check_positive("temperature", temperature, "a number > 0")
    check_choice("negatives", negatives, get_args(Negatives))
    b, v, _ = views.shape
    u = F.normalize(views, dim=2)
    flat = u.flatten(0, 1)
    scores = (flat @ flat.T) / temperature
    # over pairs of views of a sample, sum u . u' = |sum u|^2 - sum |u|^2
    positives = (u.sum(1).square().sum() - u.square().sum()) / (b * v * (v - 1) * temperature)
    left_out = torch.eye(b * v, dtype=torch.bool, device=views.device)
    if negatives == "other_class":
        if groups is None or groups.shape != (b,):
            raise InputError("groups", None if groups is None else tuple(groups.shape), f"the class of each sample, ({b},)")
        group = groups.repeat_interleave(v)
        sample = torch.arange(b, device=views.device).repeat_interleave(v)
        left_out |= (group[:, None] == group) & (sample[:, None] != sample)
    return scores.masked_fill(left_out, -torch.inf).logsumexp(1).mean() - positives
