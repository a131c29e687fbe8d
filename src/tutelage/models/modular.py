"""Small nets that answer questions about two tokens: the quadratic MLP of modular arithmetic, and a one-layer transformer.

    Doshi, Das, He, Gromov: To grok or not to grok, arXiv 2310.13061 (2023); Gromov, arXiv 2301.02679 (the analytic weights).

Inputs are pairs of tokens (B, 2), integers from 0 to p - 1; outputs are p logits. A one-hot product is a choice of rows, so
rows are gathered and nothing is multiplied by zeros.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.models.neurons import Neurons

Norm = Literal["batch"]
_BLOCK = 2**17  # activations held at once on a CPU: what fits the cache is not fetched twice


class PairMLP(nn.Module):
    """f(m, n) = W act(u_m + v_n): one hidden layer, no biases. Weights u, v (tokens) and w (outputs): (p, width) each.

    p: tokens and outputs, >= 3. width: N, the neurons. activation: "square" or "relu". dropout: in [0, 1), on the
    pre-activations. norm: "batch" for BatchNorm after the activation. All weights are N(0, (16 N)^(-2/3)) for "square";
    for "relu" N(0, 2 / fan_in): N(0, 1 / p) for u and v, N(0, 2 / N) for w.
    generator: of the initial weights; without one, torch's global generator. Raises InputError.
    """

    def __init__(
        self,
        p: int,
        width: int,
        *,
        activation: Literal["square", "relu"] = "square",
        dropout: float = 0.0,
        norm: Norm | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_integer("p", p, low=3)
        check_integer("width", width)
        check_choice("activation", activation, ("square", "relu"))
        check_number("dropout", dropout, "a share from 0 to below 1", low=0, high=1 - 1e-9)
        if norm is not None:
            check_choice("norm", norm, ("batch",))
        self.p, self.width, self.activation = p, width, activation
        spreads = [0.5 / (2 * width) ** (1 / 3)] * 3 if activation == "square" else [p**-0.5, p**-0.5, (2 / width) ** 0.5]
        u, v, w = (torch.randn(p, width, generator=generator) * spread for spread in spreads)
        self.u, self.v, self.w = nn.Parameter(u), nn.Parameter(v), nn.Parameter(w)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(width) if norm == "batch" else None

    @property
    def neurons(self) -> Neurons:
        return Neurons((("u", 1), ("v", 1)), (("w", 1),), "norm.weight" if self.norm is not None else "")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, p) of pairs (B, 2)."""
        left, right = pair_columns(x, self.p)
        z = self.dropout(F.embedding(left, self.u) + F.embedding(right, self.v))
        hidden: Tensor = z * z if self.activation == "square" else z.relu()
        if self.norm is not None:
            hidden = self.norm(hidden)
        return hidden @ self.w.T

    def mean_squared_error(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The mean over samples and outputs of (f(x) - onehot(y))^2, with its gradients in the same pass.

        Equal to `F.mse_loss(self(x), ...)` and its backward pass up to float error, and faster: the three matrix products are
        left, and little else. None where the plain way must be taken: with dropout, a norm, or another activation.
        """
        if self.activation != "square" or self.norm is not None or (self.dropout.p and self.training):
            return None
        left, right = pair_columns(x, self.p)
        loss: Tensor = _QuadraticError.apply(self.u, self.v, self.w, left, right, y)  # type: ignore[no-untyped-call]
        return loss


class QuadraticMLP(PairMLP):
    """`PairMLP` with phi(z) = z^2, the net that groks modular arithmetic and can be solved by hand (`analytic_mlp`)."""

    def __init__(
        self,
        p: int,
        width: int,
        dropout: float = 0.0,
        norm: Norm | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, width, dropout=dropout, norm=norm, generator=generator)


class _QuadraticError(torch.autograd.Function):
    """Loss and gradients of the quadratic net, block by block: what a block needs stays in the cache.

    With r = f - onehot(y), z = u_m + v_n and c = 2 / (B p): dw = c r' z^2, dz = 2 c z (r w), summed by token into du and dv.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, w: Tensor, left: Tensor, right: Tensor, y: Tensor) -> Tensor:
        (p, width), size = w.shape, len(left)
        rows = max(64, _BLOCK // width) if u.device.type == "cpu" else size
        du, dv, dw = torch.zeros_like(u), torch.zeros_like(v), torch.zeros_like(w)
        total = torch.zeros((), dtype=torch.float64 if u.device.type == "cpu" else u.dtype, device=u.device)
        target = torch.full((min(rows, size), 1), -1, dtype=u.dtype, device=u.device)
        for start in range(0, size, rows):
            m, n, label = (one[start : start + rows] for one in (left, right, y))
            z = u.index_select(0, m)
            z += v.index_select(0, n)
            hidden = z * z
            residual = hidden @ w.T
            residual.scatter_add_(1, label[:, None], target[: len(label)])
            total += residual.view(-1).dot(residual.view(-1))
            dw.addmm_(residual.T, hidden)
            torch.mm(residual, w, out=hidden)
            hidden *= z
            du.index_add_(0, m, hidden)
            dv.index_add_(0, n, hidden)
        scale = 2 / (size * p)
        ctx.save_for_backward(du.mul_(2 * scale), dv.mul_(2 * scale), dw.mul_(scale))
        return (total / (size * p)).to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * grads[0] for saved in ctx.saved_tensors), None, None, None


def analytic_mlp(p: int, width: int, *, generator: torch.Generator) -> QuadraticMLP:
    """The quadratic net that adds mod p without training: each neuron k has one frequency s_k and phases a_k, b_k,

        u_m = c cos(2 pi m s / p + a),  v_n = c cos(2 pi n s / p + b),  w_q = c cos(2 pi q s / p + a + b).

    The product of u_m, v_n and w_q leaves cos(2 pi (m + n - q) s / p), which adds up over the frequencies to a peak at
    q = m + n; all else has random phases and averages out. c = (2 / N)^(1/3). Frequencies 1 .. (p - 1) // 2 in turns.
    (The paper prints w with -a - b and -q: the cosine is even.)
    """
    net = QuadraticMLP(p, width, generator=generator)
    frequency = torch.arange(width) % ((p - 1) // 2) + 1
    a, b = 2 * math.pi * torch.rand(2, width, generator=generator)
    angle = 2 * math.pi * torch.arange(p)[:, None] * frequency / p
    with torch.no_grad():
        for weights, phase in ((net.u, a), (net.v, b), (net.w, a + b)):
            weights.copy_((2 / width) ** (1 / 3) * torch.cos(angle + phase))
    return net


class PairTransformer(nn.Module):
    """One encoder block over two tokens, read at the second: learned positions, ReLU, no LayerNorm, no biases.

    p: tokens and outputs. dim: of embeddings and of the block. heads: a divisor of dim. mlp: hidden units, in dims.
    Scaled as in the released code: attention by 1 / (dim / heads), logits by 1 / dim; embeddings N(0, 1), other weights
    N(0, 1 / fan_in). Its `neurons` are the embedding's dimensions: one column of token embedding and of output weights each.
    There are only p tokens and 2 places, so queries, keys and values are computed once for each token, not once a pair.
    """

    def __init__(
        self, p: int, dim: int = 128, heads: int = 4, mlp: int = 4, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        check_integer("p", p, low=3)
        for argument, value in (("dim", dim), ("heads", heads), ("mlp", mlp)):
            check_integer(argument, value)
        if dim % heads:
            raise InputError("heads", heads, f"a divisor of dim, {dim}")
        self.p, self.dim, self.heads = p, dim, heads

        def drawn(rows: int, columns: int, spread: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) * spread)

        self.token, self.position = drawn(p, dim, 1.0), drawn(2, dim, 1.0)
        self.query, self.key, self.value, self.mix = (drawn(dim, dim, dim**-0.5) for _ in range(4))
        self.up, self.down = drawn(mlp * dim, dim, dim**-0.5), drawn(dim, mlp * dim, (mlp * dim) ** -0.5)
        self.output = drawn(p, dim, dim**-0.5)

    @property
    def neurons(self) -> Neurons:
        return Neurons((("token", 1),), (("output", 1),))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, p) of pairs (B, 2)."""
        left, right = pair_columns(x, self.p)
        first, second = self.token + self.position[0], self.token + self.position[1]
        size = self.dim // self.heads

        def by_head(weights: Tensor, place: Tensor) -> Tensor:
            return (place @ weights.T).view(self.p, self.heads, size)

        query, keys = by_head(self.query, second), [by_head(self.key, place) for place in (first, second)]
        values = [place @ self.value.T for place in (first, second)]
        # softmax over two places is a sigmoid of the difference of their scores: (right token, left token, head)
        cross = torch.einsum("nhd,mhd->nmh", query, keys[0])
        own = (query * keys[1]).sum(-1)[:, None]
        share = torch.sigmoid((cross - own) / size)[right, left].repeat_interleave(size, dim=1)
        stay = F.embedding(right, values[1])
        seen = stay + share * (F.embedding(left, values[0]) - stay)
        hidden = F.embedding(right, second) + seen @ self.mix.T
        hidden = hidden + (hidden @ self.up.T).relu() @ self.down.T
        return hidden @ self.output.T / self.dim


def pair_columns(x: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """The two columns of pairs (B, 2) of integers from 0 to p - 1, checked; InputError for anything else."""
    if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != 2 or x.dtype not in (torch.int64, torch.int32):
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError("x", got, "pairs of tokens (B, 2), int64")
    if len(x):
        low, high = map(int, torch.aminmax(x))
        if low < 0 or high >= p:
            raise InputError("x", f"tokens from {low} to {high}", f"tokens from 0 to {p - 1}")
    left, right = x.unbind(1)
    return left, right
