"""The search of a latent perturbation, and a random one; see the package for equations (1) and (2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.models.blocks import Layer, perturbed, residual_states
from tutelage.models.guard import evaluating
from tutelage.threats.budgets import L2, Budget, Linf

Norm = Literal["l2", "linf"]
Keep = Literal["last", "best"]


@dataclass(frozen=True)
class LatentBall:
    """What may be added: `eps` (one number, or one a layer) in the norm `norm`, for each token or for a row's tokens
    together.
    """

    eps: float | Mapping[Layer, float]
    norm: Norm = "l2"
    per_token: bool = True

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        for eps in self.eps.values() if isinstance(self.eps, Mapping) else [self.eps]:
            if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
                raise InputError("eps", eps, "a finite number >= 0, in units of the hidden states")

    def at(self, layer: Layer) -> float:
        """eps of one layer."""
        if not isinstance(self.eps, Mapping):
            return float(self.eps)
        if layer not in self.eps:
            raise InputError("eps", sorted(map(str, self.eps)), f"a number for layer {layer!r}")
        return float(self.eps[layer])

    def budget(self, layer: Layer) -> Budget:
        return (L2 if self.norm == "l2" else Linf)(self.at(layer))

    def project(self, layer: Layer, part: Tensor) -> Tensor:
        """The point of the ball that is nearest to part (B, T, d)."""
        flat = self._rows(part)
        return self.budget(layer).project(torch.zeros_like(flat), flat).reshape(part.shape)

    def sample(self, layer: Layer, part: Tensor, generator: torch.Generator) -> Tensor:
        """A perturbation drawn uniformly from the ball, of the shape of part (B, T, d)."""
        return self.budget(layer).sample(self._rows(part), generator).reshape(part.shape)

    def sizes(self, part: Tensor) -> Tensor:
        """The norms of part (B, T, d): (B, T), or (B,) where all tokens share a ball."""
        flat = self._rows(part)
        sizes = torch.linalg.vector_norm(flat, dim=1) if self.norm == "l2" else flat.abs().amax(1)
        return sizes.reshape(part.shape[:2]) if self.per_token else sizes

    def _rows(self, part: Tensor) -> Tensor:
        return part.reshape(-1, part.shape[2]) if self.per_token else part.flatten(1)


@dataclass(frozen=True)
class Delta:
    """A perturbation. layers: layer -> (B, T, d) float32. losses: the mean loss over the rows at each step, before the step.

    loss: (B,) of each row at the perturbation itself, where it was measured ("best"), else None.
    """

    layers: dict[Layer, Tensor]
    losses: list[float] = field(default_factory=list)
    loss: Tensor | None = None

    def take(self, rows: Tensor) -> Self:
        """The perturbation of some rows, indices that may repeat."""
        loss = None if self.loss is None else self.loss[rows.to(self.loss.device)]
        return type(self)({layer: part[rows.to(part.device)] for layer, part in self.layers.items()}, self.losses, loss)

    def repeated(self, copies: int) -> Self:
        """Rows b, B + b, … have the same perturbation: for several completions of the same prompts in one batch."""
        return type(self)({layer: part.repeat(copies, 1, 1) for layer, part in self.layers.items()}, self.losses)


def empty(model: nn.Module, layers: Sequence[Layer], mask: Tensor, run: Callable[[], Any], *, copies: int = 1) -> Delta:
    """Zeros (B, T, d) of the shapes that `run()`, one call of the model on `copies` times B rows, shows at the layers."""
    check_integer("copies", copies)
    if not layers or len(set(layers)) != len(layers):
        raise InputError("layers", tuple(layers), "one layer at least, each once")
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise InputError("mask", f"{mask.dtype} {tuple(mask.shape)}", "booleans (B, T)")
    found = {}
    for layer, state in residual_states(model, layers, run).items():
        rows, length, width = state.shape
        if (rows, length) != (copies * mask.shape[0], mask.shape[1]):
            raise InputError("mask", tuple(mask.shape), f"the tokens of layer {layer!r}, {(rows // copies, length)}")
        found[layer] = torch.zeros(len(mask), length, width, dtype=torch.float32, device=state.device)
    return Delta({layer: found[layer] for layer in layers})


def random_delta(
    model: nn.Module,
    layers: Sequence[Layer],
    ball: LatentBall,
    mask: Tensor,
    run: Callable[[], Any],
    *,
    generator: torch.Generator,
    copies: int = 1,
) -> Delta:
    """Drawn uniformly from the ball of each token: the control of any search. Arguments as in `search`; run: one call."""
    with evaluating(model, verify=False):
        zero = empty(model, layers, mask, run, copies=copies)
    return Delta({layer: _masked(ball.sample(layer, part, generator), mask) for layer, part in zero.layers.items()})


def search(
    model: nn.Module,
    layers: Sequence[Layer],
    ball: LatentBall,
    mask: Tensor,
    loss: Callable[[], Tensor],
    *,
    steps: int = 16,
    lr: float | Mapping[Layer, float] = 5e-2,
    start: Delta | None = None,
    keep: Keep = "last",
    copies: int = 1,
) -> Delta:
    """The perturbation of (1), by `steps` of (2) from zero, or from `start`.

    loss: calls the model once on the whole batch and gives the loss (B,) of each row, to be made small. mask: (B, T)
    booleans,
        the tokens that may be perturbed. lr: of AdamW, in units of the hidden states, one or one a layer: a coordinate
        moves by about lr a step, so lr * steps * sqrt(d) should reach eps. keep: "last", or for each row the "best" step
        (one more call), which is never worse than the start. copies: `loss` calls the model on that many times B rows, of
        which b, B + b, … share a perturbation.
    The model comes back as it was: modes, gradients, weights. Raises InputError.
    """
    check_integer("steps", steps, low=0)
    rates = {layer: lr[layer] if isinstance(lr, Mapping) else lr for layer in layers}
    for rate in rates.values():
        check_positive("lr", rate, "a number > 0, in units of the hidden states")
    check_choice("keep", keep, get_args(Keep))
    with evaluating(model):
        zero = empty(model, layers, mask, loss, copies=copies)
        parts = {layer: part.clone() for layer, part in zero.layers.items()}
        if start is not None:
            if start.layers.keys() != parts.keys() or any(start.layers[k].shape != parts[k].shape for k in parts):
                raise InputError("start", sorted(map(str, start.layers)), "a perturbation of the same layers and shapes")
            parts = {layer: _masked(ball.project(layer, start.layers[layer].to(part)), mask) for layer, part in parts.items()}
        parts = {layer: part.requires_grad_(True) for layer, part in parts.items()}
        groups = [{"params": [part], "lr": rates[layer]} for layer, part in parts.items()]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)

        def values_at() -> Tensor:
            with perturbed(model, {layer: part.repeat(copies, 1, 1) for layer, part in parts.items()}):
                return _checked(loss(), mask)

        best, kept, losses = None, {layer: part.detach().clone() for layer, part in parts.items()}, []
        free = any(ball.at(layer) > 0 for layer in layers)
        for _ in range(steps if free else 0):
            with torch.enable_grad():
                values = values_at()
                # of δ alone: nothing is added to the gradients of the weights
                gradients = torch.autograd.grad(values.sum(), list(parts.values()))
            losses.append(float(values.detach().mean()))
            if keep == "best":
                best = _better(values.detach(), best, parts, kept)
            for part, gradient in zip(parts.values(), gradients, strict=True):
                part.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
            optimizer.step()
            with torch.no_grad():
                for layer, part in parts.items():
                    part.copy_(_masked(ball.project(layer, part), mask))
        if keep == "best":
            with torch.no_grad():
                best = _better(values_at(), best, parts, kept)
            return Delta(kept, losses, best)
    return Delta({layer: part.detach() for layer, part in parts.items()}, losses)


def _better(values: Tensor, best: Tensor | None, parts: Mapping[Layer, Tensor], kept: dict[Layer, Tensor]) -> Tensor:
    """The lower loss of each row, with `kept` brought up to date."""
    if best is None:
        best = torch.full_like(values, torch.inf)
    rows = values < best
    for layer, part in parts.items():
        kept[layer][rows] = part.detach()[rows]
    return torch.where(rows, values, best)


def _masked(part: Tensor, mask: Tensor) -> Tensor:
    # where, not a product, so that what is outside is exactly 0
    return torch.where(mask.to(part.device)[..., None], part, 0.0)


def _checked(values: Tensor, mask: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != mask.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError("loss", got, f"one number a row, shape ({len(mask)},)")
    return values.float()
