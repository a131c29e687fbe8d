"""How periodic the weights of a neuron are: the inverse participation ratio of their spectrum, (4) and (5)."""

from __future__ import annotations

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.models.neurons import Neurons, matrices, neurons_of


def ipr(weight: Tensor, dim: int = -1, r: float = 2, *, one_sided: bool = True, exclude_dc: bool = False) -> Tensor:
    """Inverse participation ratio of the spectrum of real vectors: sum z^(2r) / (sum z^2)^r, z = |FFT(x)|, (4).

    weight: (..., p, ...) with the vectors along `dim`; the result lacks that dimension. 1 for a single frequency, 1 / K for a
    flat spectrum of K values; 0 for a vector of zeros (or, without the constant part, of equal numbers). r: > 1, 2 in the
    paper. one_sided: z = |rfft(x)|, K = floor(p / 2) + 1, as the released code has it; else the full transform with K = p,
    in which a cosine has 0.5, as it counts twice. exclude_dc: leave out the constant part, which makes equal weights look
    periodic. Raises InputError.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() == 0:
        got = f"dtype {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise InputError("weight", got, "a floating-point tensor of vectors")
    if not -weight.dim() <= dim < weight.dim():
        raise InputError("dim", dim, f"a dimension of shape {tuple(weight.shape)}")
    if weight.shape[dim] < 2:
        raise InputError("weight", f"vectors of length {weight.shape[dim]}", "at least 2 numbers along dim")
    check_number("r", r, "an exponent above 1", low=1 + 1e-9)
    x = weight.detach().double().movedim(dim, -1)
    if not bool(torch.isfinite(x).all()):
        raise InputError("weight", "NaN or infinity", "finite numbers")
    # the ratio knows no scale: the largest number is made 1, so that powers of tiny weights do not underflow
    x = x / x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    if exclude_dc:  # before the transform: what is left of a constant by rounding is no spectrum
        x = x - x.mean(-1, keepdim=True)
        x = x * (x.abs().amax(-1, keepdim=True) > 1e-12)
    z = (torch.fft.rfft(x) if one_sided else torch.fft.fft(x)).abs()
    z = z[..., 1:] if exclude_dc else z
    power = (z**2).sum(-1) ** r
    return torch.where(power > 0, (z ** (2 * r)).sum(-1) / power.clamp_min(torch.finfo(x.dtype).tiny), torch.zeros_like(power))


def neuron_ipr(model: nn.Module, p: int | None = None, *, neurons: Neurons | None = None, exclude_dc: bool = False) -> Tensor:
    """(N,): for each neuron the mean IPR of its weight vectors of length p, (5): over u, v and w for `QuadraticMLP`.

    p: the modulus; by default the model's own `p`. neurons: where the weights lie, by default the model's own `neurons`.
    A matrix whose rows are several times p long, such as an `nn.Linear(2 p, N)` of one-hot pairs, is cut into vectors of p.
    """
    places = neurons_of(model, neurons)
    p = getattr(model, "p", None) if p is None else p
    check_integer("p", p, low=3)
    assert p is not None
    found = []
    for (name, _), weights in zip(
        (*places.incoming, *places.outgoing), matrices(model, (*places.incoming, *places.outgoing)), strict=True
    ):
        if weights.shape[1] % p:
            raise InputError("p", p, f"a divisor of {weights.shape[1]}, the length of the weights of {name}")
        found.append(ipr(weights.reshape(len(weights), -1, p), exclude_dc=exclude_dc))
    return torch.cat(found, dim=1).mean(1).cpu()


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors; 0 where one of them is constant."""
    if len(torch.unique(a)) < 2 or len(torch.unique(b)) < 2:
        return 0.0
    return float(spearmanr(a.double().numpy(), b.double().numpy()).statistic)
