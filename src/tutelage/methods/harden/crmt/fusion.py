"""The head with orthogonal class rows: equations (1) and (2) of `crmt`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_positive
from tutelage.core.errors import InputError
from tutelage.models.fusion import AdditiveHead, check_dims

Ortho = Literal["full", "row"]
FLOOR = 1e-8  # of an eigenvalue, relative to the largest: rows that depend on each other have no orthonormal version


class OrthogonalFusion(AdditiveHead):
    """h_k = sum_m a_k^m W~_k^m . phi^m + b_k with orthonormal rows W~^m, and integration weights a >= 0.

    dims: d_m of each modality. ortho: "full" makes all rows of a modality orthonormal, as the paper says; "row" only centres
    and scales each row, as the released code does. a_init: every a at the start. forward: M features (B, d_m) -> FusionOut,
    whose scores are the uni-modal z^m (B, K), before a.

    Raises InputError in full mode where K >= d_m: centred rows live in d_m - 1 dimensions.
    """

    def __init__(self, dims: Sequence[int], n_classes: int, *, ortho: Ortho = "full", a_init: float = 0.1) -> None:
        super().__init__()
        check_dims(dims, n_classes)
        check_choice("ortho", ortho, get_args(Ortho))
        check_positive("a_init", a_init, "a number > 0, such as 0.1")
        for d in dims:
            if ortho == "full" and n_classes >= d:
                wanted = f"features of more than {n_classes} dimensions, as many orthonormal centred rows need; or ortho='row'"
                raise InputError("dims", f"{d} for {n_classes} classes", wanted)
            if d < 2:
                raise InputError("dims", d, "at least 2: a centred row of one number is zero")
        self.dims, self.n_classes, self.ortho = tuple(dims), n_classes, ortho
        self.raw = nn.ParameterList([nn.Parameter(torch.randn(n_classes, d) / d**0.5) for d in dims])
        self.a = nn.Parameter(torch.full((len(self.dims), n_classes), float(a_init)))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def rows(self) -> list[Tensor]:
        return [orthogonal_rows(w, self.ortho) for w in self.raw]

    @property
    def integration(self) -> Tensor:
        return self.a

    @torch.no_grad()
    def project(self) -> None:
        """Put a negative a back to 0: with a >= 0 the score of a class never speaks against it."""
        self.a.clamp_(min=0)


def orthogonal_rows(w: Tensor, ortho: Ortho = "full") -> Tensor:
    """(2): W~ of W (K, d). Each row is centred (its mean over the d inputs is taken off), then

    "full": W~ = (Z Z^T)^(-1/2) Z, so W~ W~^T = I; "row": each row of unit length.
    """
    z = w - w.mean(1, keepdim=True)
    if ortho == "row":
        lengths: Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(1e-12)
        return z / lengths
    root: Tensor = InverseSqrt.apply(z @ z.T)  # type: ignore[no-untyped-call]
    return root @ z


class InverseSqrt(torch.autograd.Function):
    """S^(-1/2) of a symmetric positive S (K, K).

    The gradient that autograd finds through eigenvectors divides by differences of eigenvalues and explodes where two are
    equal, as here they nearly are. The map itself is smooth there: with R = S^(-1/2) and Q = S^(1/2), dR = -R dQ R, and dQ
    solves dS = dQ Q + Q dQ, which in the eigenbasis divides by sums of square roots only.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh((s + s.T) / 2)
        roots = values.clamp_min(FLOOR * float(values[-1].detach()) + 1e-30).sqrt()
        ctx.save_for_backward(roots, vectors)
        found: Tensor = (vectors / roots) @ vectors.T
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        g = vectors.T @ ((grads[0] + grads[0].T) / 2) @ vectors
        g = -g / (roots[:, None] * roots) / (roots[:, None] + roots)
        found: Tensor = vectors @ g @ vectors.T
        return found
