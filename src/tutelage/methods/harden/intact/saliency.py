"""How much each point of a cloud matters to a model: the gradient of the loss, plain or along the radius; (3) of INTACT."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.data.points.checks import check_cloud
from tutelage.models.guard import evaluating
from tutelage.threats.points.corruptions import PointCorruption

Kind = Literal["grad", "radial"]
NOISE = PointCorruption("jitter", highest=0.02)


class Saliency(NamedTuple):
    """p (B, N): rows sum to 1, 0 where the mask is False. logits (B, K). flat (B,): all scores were 0 and p is uniform."""

    p: Tensor
    logits: Tensor
    flat: Tensor


def saliency_map(
    model: Any,
    points: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    kind: Kind = "grad",
    alpha: float = 1.0,
    temperature: float | None = None,
    n_aug: int = 0,
    noise: PointCorruption = NOISE,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> Saliency:
    """The saliency of clouds (B, N, 3) with labels (B,) under a model called as model(points, mask), with the logits it cost.

    kind "grad": |d loss / d x_j|. "radial" (Zheng et al., arXiv 1812.01687): -(d loss / d r_j) r_j^(1 + alpha) about the median
    centre, what dropping the point would do; points whose loss would help the model count 0. temperature: a softmax of the
    scores, divided by their mean, over it; None: scores over their sum. n_aug: mean over so many copies corrupted by `noise`
    (severity 1, drawn by `generator`; a point that a copy lost counts 0 there) beside the clean one. create_graph: keep p
    differentiable with respect to the model's parameters.
    """
    points, mask = check_cloud(points, mask)
    check_choice("kind", kind, get_args(Kind))
    check_integer("n_aug", n_aug, low=0)
    check_number("alpha", alpha, "a finite exponent")
    if temperature is not None:
        check_positive("temperature", temperature, "a temperature above 0, or None")
    p, logits, flat = _one(model, points, labels, mask, kind, alpha, temperature, create_graph)
    if n_aug:
        g = generator or torch.Generator().manual_seed(0)
        for _ in range(n_aug):
            copy, left = noise(points, 1.0, g, mask=mask)
            p = p + _one(model, copy, labels, left, kind, alpha, temperature, create_graph)[0]
        p = p / p.sum(1, keepdim=True)
    return Saliency(p, logits, flat)


def point_saliency(
    model: nn.Module,
    points: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    kind: Kind = "grad",
    n_aug: int = 0,
    create_graph: bool = False,
    **options: Any,
) -> Tensor:
    """(B, N, 3) -> (B, N), rows sum to 1: `saliency_map` of a model in eval mode, which is left as it was.

    Warns where all scores of a cloud are 0 (a saturated model): its saliency is then uniform. With create_graph the model is
    used in the mode and with the parameter flags that it has.
    """
    if create_graph:
        found = saliency_map(model, points, labels, mask, kind=kind, n_aug=n_aug, create_graph=True, **options)
    else:
        with evaluating(model):
            found = saliency_map(model, points, labels, mask, kind=kind, n_aug=n_aug, **options)
    if bool(found.flat.any()):
        warnings.warn(
            f"the gradient is 0 at every point of {int(found.flat.sum())} of {len(points)} clouds: their saliency is uniform",
            stacklevel=2,
        )
    return found.p


def _one(
    model: Any,
    points: Tensor,
    labels: Tensor,
    mask: Tensor,
    kind: Kind,
    alpha: float,
    temperature: float | None,
    create_graph: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        x = points.detach().requires_grad_()
        logits = model(x, mask)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    if kind == "grad":
        # the root has no derivative at 0; where nothing is differentiated it is exact
        score = (gradient.square().sum(2) + 1e-24).sqrt() if create_graph else gradient.norm(dim=2)
    else:
        offset = points - median_centre(points, mask)
        r = offset.norm(dim=2)
        score = (-(gradient * offset).sum(2) / r.clamp(min=1e-12) * r ** (1 + alpha)).clamp(min=0)
    score = score * mask
    total = score.sum(1, keepdim=True)
    flat = (total <= 1e-12 * points.shape[1]).squeeze(1) if create_graph else (total == 0).squeeze(1)
    uniform = mask / mask.sum(1, keepdim=True)
    if temperature is None:
        p = score / total.clamp(min=torch.finfo(score.dtype).tiny)
    else:
        mean = (total / mask.sum(1, keepdim=True)).clamp(min=torch.finfo(score.dtype).tiny)
        p = torch.softmax((score / mean / temperature).masked_fill(~mask, -torch.inf), 1)
    return torch.where(flat[:, None], uniform, p), logits, flat


def median_centre(points: Tensor, mask: Tensor) -> Tensor:
    """(B, 1, 3): the median of each coordinate over the real points."""
    return points.masked_fill(~mask[..., None], torch.nan).nanmedian(1, keepdim=True).values
