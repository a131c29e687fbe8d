"""Margins, Lipschitz constants and the certified radius: equations (3) to (6) of `crmt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.modalities import MultiModalBatch
from tutelage.data.multimodal import MultiModalSet
from tutelage.guarantees.lipschitz import row_bounds
from tutelage.models.checks import check_labels
from tutelage.models.fusion import AdditiveHead, FusionModel
from tutelage.models.guard import evaluating

Method = Literal["empirical", "spectral"]
FLOOR = 1e-5  # inside the logarithm of (3), as released


def margin_regulariser(scores: Sequence[Tensor], y: Tensor, *, present: Tensor | None = None) -> Tensor:
    """(3): mean_i log( sum_m sum_{k != y} exp(z_k^m - z_y^m) + 1e-5 ), a scalar.

    scores: M tensors (B, K). y (B,). present (B, M) bool: what a sample does not have is left out of its sum.
    """
    z = _stacked(scores)
    check_labels(y, z.shape[0], z.shape[2])
    away = z - z.gather(2, y[:, None, None].expand(-1, z.shape[1], 1))
    away = away.scatter(2, y[:, None, None].expand(-1, z.shape[1], 1), -torch.inf)
    return _log_sum(away, present)


def mixed_margin_regulariser(scores: Sequence[Tensor], ya: Tensor, yb: Tensor, lam: Tensor | float) -> Tensor:
    """(3) for inputs lam x_a + (1 - lam) x_b: the sum is over the classes that are neither, and exp(-z_y) is
    exp(-(lam z_ya + (1 - lam) z_yb)). lam: a number or (B,)."""
    z = _stacked(scores)
    check_labels(ya, z.shape[0], z.shape[2], "ya")
    check_labels(yb, z.shape[0], z.shape[2], "yb")
    lam = torch.as_tensor(lam).to(z).reshape(-1, 1, 1)
    a, b = (y[:, None, None].expand(-1, z.shape[1], 1) for y in (ya, yb))
    away = z - (lam * z.gather(2, a) + (1 - lam) * z.gather(2, b))
    return _log_sum(away.scatter(2, a, -torch.inf).scatter(2, b, -torch.inf), None)


def _log_sum(away: Tensor, present: Tensor | None) -> Tensor:
    if present is not None:
        away = away.masked_fill(~present[:, :, None], -torch.inf)
    flat = away.flatten(1)
    floor = torch.full_like(flat[:, :1], FLOOR).log()
    return torch.cat([flat, floor], 1).logsumexp(1).mean()


def certified_radius(
    scores: Sequence[Tensor],
    a: Tensor,
    bias: Tensor,
    tau: Tensor,
    y: Tensor,
    *,
    modality: int | None = None,
    against: Literal["all", "runner-up"] = "all",
    signed: bool = False,
) -> Tensor:
    """(5): a lower bound (B,) of the L2 distance to the decision boundary, 0 where the sample is misclassified.

    scores: M tensors z^m (B, K). a, tau (M, K): integration weights and Lipschitz constants of z_k^m in x^m. bias (K,).
    modality: of an attack on this one alone; None: on all, in one L2 ball. against: the smallest over all other classes, or
    the one of the second highest logit (the highest, if that is not y), as in step 2. signed: negative margins are kept.

    It is a guarantee if tau is an upper bound ("spectral") and only an estimate if tau was measured ("empirical").
    """
    z = _stacked(scores)
    m, k = z.shape[1], z.shape[2]
    check_labels(y, len(z), k)
    for name, value in (("a", a), ("tau", tau)):
        if value.shape != (m, k):
            raise InputError(name, f"shape {tuple(value.shape)}", f"({m}, {k}): a row a modality, a column a class")
    if bool((tau.detach() < 0).any()):
        raise InputError("tau", float(tau.min()), "Lipschitz constants >= 0")
    if modality is not None:
        check_integer("modality", modality, low=0, high=m - 1)
    check_choice("against", against, ("all", "runner-up"))
    tau = tau.to(z)
    logits = (a * z).sum(1) + bias  # (B, K)
    gap = logits.gather(1, y[:, None]) - logits
    reach = a.abs() * tau  # (M, K): |a|, so that a negative weight does not shrink the bound
    both = reach[:, y].T[:, :, None] + reach  # (B, M, K)
    distance = both[:, modality] if modality is not None else torch.linalg.vector_norm(both, dim=1)
    own = torch.zeros_like(gap, dtype=torch.bool).scatter(1, y[:, None], True)
    # without any slope (a = 0) the logits cannot move: infinitely far on the right side, no distance on the wrong one
    ratio = torch.where(distance > 0, gap / distance.clamp_min(1e-30), torch.where(gap > 0, torch.inf, gap))
    if against == "runner-up":
        rival = logits.detach().masked_fill(own, -torch.inf).argmax(1)
        found = ratio.gather(1, rival[:, None]).squeeze(1)
    else:
        found = ratio.masked_fill(own, torch.inf).amin(1)
    return found if signed else found.clamp_min(0)


def modality_lipschitz(
    model: FusionModel,
    data: MultiModalSet,
    *,
    method: Method = "empirical",
    batch_size: int = 256,
    limit: int | None = None,
) -> Tensor:
    """tau (M, K): Lipschitz constants of each uni-modal score z_k^m (without a) with respect to x^m, in evaluation mode.

    method: "empirical", the largest gradient norm over `data` (its first `limit` samples): a *lower* estimate, cheap and close,
    no proof. "spectral", the product of the layers' exact spectral norms: an upper bound, loose.
    """
    check_choice("method", method, get_args(Method))
    check_model(model)
    if not isinstance(data, MultiModalSet):
        raise InputError("data", type(data).__name__, "a MultiModalSet")
    if limit is not None:
        check_integer("limit", limit)
    rows = [w.detach() for w in _head(model).rows()]
    found = []
    with evaluating(model):
        if method == "spectral":
            batch = data[:2][0]
            for name, w in zip(model.modalities, rows, strict=True):
                found.append(row_bounds(_scorer(model.encoders[name], w), batch.tensor(name)))
            return torch.stack(found).double()
        whole = len(data) if limit is None else min(limit, len(data))
        top = torch.zeros(len(rows), rows[0].shape[0], dtype=torch.float64)
        for start in range(0, whole, batch_size):
            batch = data[start : min(start + batch_size, whole)][0]
            for m, (name, w) in enumerate(zip(model.modalities, rows, strict=True)):
                has = batch.has(name)
                if bool(has.any()):
                    # every modality's gradients are taken by themselves, and of z: a comes in once, in (5)
                    top[m] = torch.maximum(top[m], _slopes(model.encoders[name], w, batch.tensor(name)[has]).double())
    return top


def _slopes(encoder: nn.Module, w: Tensor, x: Tensor) -> Tensor:
    """(K,): the largest ||d z_k / d x||_2 over the samples x (B, ...)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        z = encoder(x) @ w.T
        norms = []
        for k in range(w.shape[0]):
            (g,) = torch.autograd.grad(z[:, k].sum(), x, retain_graph=k + 1 < w.shape[0])
            norms.append(torch.linalg.vector_norm(g.flatten(1), dim=1).max())
    return torch.stack(norms)


def _scorer(encoder: nn.Module, w: Tensor) -> nn.Module:
    last = nn.Linear(w.shape[1], w.shape[0], bias=False).to(w)
    last.weight.data.copy_(w)
    return nn.Sequential(encoder, last.requires_grad_(False)).eval()


@dataclass(frozen=True)
class Scored:
    """Uni-modal scores of N samples, with labels. scores: M tensors (N, K). present (N, M) bool or None."""

    scores: list[Tensor]
    labels: Tensor
    present: Tensor | None = None


def score_all(model: FusionModel, data: MultiModalSet, *, batch_size: int = 256) -> Scored:
    """z^m of every sample, in evaluation mode; a missing modality is seen as its `fill`."""
    check_model(model)
    parts: list[list[Tensor]] = []
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(data), batch_size):
            batch: MultiModalBatch = data[start : start + batch_size][0]
            parts.append(model.fused(batch).scores)
    return Scored([torch.cat(one) for one in zip(*parts, strict=True)], data.labels, data.present)


def modality_margins(scores: Sequence[Tensor], a: Tensor, y: Tensor) -> Tensor:
    """(4): the margin of each modality by itself, a_y z_y^m - max_{j != y} a_j z_j^m, (B, M); negative where it errs."""
    z = _stacked(scores) * a
    own = z.gather(2, y[:, None, None].expand(-1, z.shape[1], 1)).squeeze(2)
    others = z.scatter(2, y[:, None, None].expand(-1, z.shape[1], 1), -torch.inf).amax(2)
    return own - others


def preference(margins: Tensor) -> Tensor:
    """(M,): the share of each modality in the mean positive margins (B, M); 1/M each where no margin is positive."""
    mean = margins.clamp_min(0).mean(0)
    total = mean.sum()
    return mean / total if float(total) > 0 else torch.full_like(mean, 1 / len(mean))


def _stacked(scores: Sequence[Tensor]) -> Tensor:
    """(B, M, K)."""
    if not scores or any(not isinstance(z, Tensor) or z.dim() != 2 or z.shape != scores[0].shape for z in scores):
        raise InputError("scores", [tuple(getattr(z, "shape", ())) for z in scores], "M tensors (B, K), one a modality")
    if scores[0].shape[1] < 2:
        raise InputError("scores", f"{scores[0].shape[1]} class", "at least two classes")
    return torch.stack(list(scores), 1)


def check_model(model: object) -> None:
    """InputError unless the head of a FusionModel is a weighted sum of scores, as all of this needs."""
    if not isinstance(model, FusionModel) or not isinstance(model.head, AdditiveHead):
        got = type(model.head).__name__ + " as head" if isinstance(model, FusionModel) else type(model).__name__
        raise InputError("model", got, "a FusionModel with an additive head: OrthogonalFusion or ConcatFusion")


def _head(model: FusionModel) -> AdditiveHead:
    assert isinstance(model.head, AdditiveHead)
    return model.head
