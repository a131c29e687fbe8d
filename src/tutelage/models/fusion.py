"""Late fusion: an encoder a modality, and a head that puts their features together. Modalities may be missing.

"Missing" means that the *normalised* input is zero: normalisation lives inside the encoder (`Standardised`), and `fill`
holds, in input units, what stands for an input that is not there: its mean. So a missing picture is a mean picture, not a
black one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.modalities import MultiModalBatch, Values, as_batch
from tutelage.models.guard import evaluating


@dataclass
class FusionOut:
    """logits: (B, K). scores: for each of M modalities z^m (B, K), its part of the logits before the integration weights."""

    logits: Tensor
    scores: list[Tensor]


class AdditiveHead(nn.Module):
    """A head whose logits are a weighted sum of one score a modality: h_k = sum_m a_k^m W_k^m . phi^m + b_k.

    Subclasses give `rows()`, M matrices W^m (K, d_m), `integration`, a (M, K), and `bias` (K,).
    """

    dims: tuple[int, ...]
    n_classes: int
    bias: nn.Parameter

    def rows(self) -> list[Tensor]:
        raise NotImplementedError

    @property
    def integration(self) -> Tensor:
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor]) -> FusionOut:
        """features: M tensors (B, d_m)."""
        scores = [phi @ w.T for phi, w in zip(features, self.rows(), strict=True)]
        return FusionOut(self.integrate(scores), scores)

    def integrate(self, scores: Sequence[Tensor]) -> Tensor:
        """Logits (B, K) from scores."""
        a = self.integration
        return torch.stack([a[m] * z for m, z in enumerate(scores)]).sum(0) + self.bias


class ConcatFusion(AdditiveHead):
    """The ordinary joint head, a linear layer on the concatenated features: a = 1, W^m as they come."""

    def __init__(self, dims: Sequence[int], n_classes: int) -> None:
        super().__init__()
        check_dims(dims, n_classes)
        self.dims, self.n_classes = tuple(dims), n_classes
        whole = nn.Linear(sum(dims), n_classes)  # its initialisation
        parts = torch.split(whole.weight.detach(), list(dims), dim=1)
        self.weights = nn.ParameterList([nn.Parameter(part.clone()) for part in parts])
        self.bias = nn.Parameter(whole.bias.detach().clone())

    def rows(self) -> list[Tensor]:
        return list(self.weights)

    @property
    def integration(self) -> Tensor:
        return torch.ones(len(self.dims), self.n_classes).to(self.bias)


class FusionModel(nn.Module):
    """Encoders by modality and a head: a MultiModalBatch, or a dict of tensors -> logits (B, K).

    encoders: name -> module, (B, ...) -> (B, d_m); the order is that of the head. head: M features -> FusionOut.
    fill: name -> what stands for a missing input, in input units: a number or a tensor of one sample's shape (default:
    the encoder's own `mean`, as `Standardised` has one, else 0).

    Samples or whole modalities may be missing; the model then sees `fill`. `encode` and `fuse` are the two halves, so that
    an evaluator of all subsets needs each encoder only once.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], head: nn.Module, *, fill: Mapping[str, float | Tensor] | None = None
    ) -> None:
        super().__init__()
        if not encoders or any("." in name or not name for name in encoders):
            raise InputError("encoders", list(encoders), "an encoder under the name of each modality (names without dots)")
        self.encoders, self.head = nn.ModuleDict(encoders), head
        dims = getattr(head, "dims", None)
        if dims is not None and len(dims) != len(encoders):
            raise InputError("head", f"{len(dims)} features", f"{len(encoders)}, one for each of {', '.join(encoders)}")
        for name in fill or {}:
            if name not in encoders:
                raise InputError("fill", name, f"one of {', '.join(encoders)}")
        for name, encoder in encoders.items():
            value = (fill or {}).get(name, getattr(encoder, "mean", 0.0))
            self.register_buffer(f"fill_{name}", torch.as_tensor(value, dtype=torch.float32).clone())

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    def forward(self, inputs: MultiModalBatch | Mapping[str, Values]) -> Tensor:
        return self.fused(inputs).logits

    def fused(self, inputs: MultiModalBatch | Mapping[str, Values]) -> FusionOut:
        """Logits and the scores of each modality."""
        batch = as_batch(inputs)
        features = self.encode(self.filled(batch))
        return cast(FusionOut, self.head(self._complete(features, len(batch))))

    def filled(self, batch: MultiModalBatch) -> MultiModalBatch:
        """The batch with `fill` where a sample lacks a modality; then nothing is marked as absent any more."""
        self._check(batch)
        if batch.present is None:
            return batch
        inputs: dict[str, Values] = dict(batch.inputs)
        for m, name in enumerate(batch.modalities):
            x = batch.tensor(name)
            has = batch.present[:, m].reshape(-1, *[1] * (x.dim() - 1))
            inputs[name] = torch.where(has, x, self.fill(name).to(x))
        return MultiModalBatch(inputs, None, batch.lengths)

    def fill(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, f"fill_{name}"))

    def encode(self, batch: MultiModalBatch) -> dict[str, Tensor]:
        """Features (B, d_m) of the modalities that the batch has; presences are left to `fuse`."""
        self._check(batch)
        found = {}
        for name in self.modalities:
            if name not in batch.inputs:
                continue
            found[name] = self.encoders[name](batch.tensor(name))
            if found[name].dim() != 2:
                raise InputError(name, f"features of shape {tuple(found[name].shape)}", "an encoder that gives (B, d)")
        return found

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Logits from features of `encode`. present: (B, M) bool, in the order of the model's modalities.

        What is absent gets the features of `fill`, as they are in evaluation mode.
        """
        n = len(next(iter(features.values())))
        whole = self._complete(features, n)
        if present is not None:
            if present.shape != (n, len(self.modalities)) or present.dtype != torch.bool:
                got = f"{present.dtype} of shape {tuple(present.shape)}"
                raise InputError("present", got, f"bool of shape ({n}, {len(self.modalities)})")
            for m, name in enumerate(self.modalities):
                if not bool(present[:, m].all()):
                    whole[m] = torch.where(present[:, m, None], whole[m], self.absent(name).to(whole[m]))
        return cast(FusionOut, self.head(whole)).logits

    def absent(self, name: str) -> Tensor:
        """(1, d_m): the features of a missing modality."""
        fill = self.fill(name)
        fill = fill.expand(self._shape_of(name, fill))
        encoder = self.encoders[name]
        with torch.no_grad(), evaluating(encoder, verify=False):
            return cast(Tensor, encoder(fill[None]))

    def remember_shapes(self, batch: MultiModalBatch | Mapping[str, Values]) -> None:
        """Note the shapes of one sample, which a number as `fill` needs when a modality is missing altogether."""
        for name, value in as_batch(batch).inputs.items():
            if isinstance(value, Tensor):
                self._shapes[name] = tuple(value.shape[1:])

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = self.__dict__.setdefault("_seen_shapes", {})
        return found

    def _shape_of(self, name: str, fill: Tensor) -> tuple[int, ...]:
        shape = self._shapes.get(name) or getattr(self.encoders[name], "shape", None) or (tuple(fill.shape) or None)
        if shape is None:
            wanted = "an encoder with a `shape`, a tensor as fill, or a batch with this modality before (remember_shapes)"
            raise InputError(name, "a missing modality of unknown shape", wanted)
        return tuple(shape)

    def _complete(self, features: Mapping[str, Tensor], n: int) -> list[Tensor]:
        like = next(iter(features.values()))
        return [features[name] if name in features else self.absent(name).to(like).expand(n, -1) for name in self.modalities]

    def _check(self, batch: MultiModalBatch) -> None:
        for name in batch.modalities:
            if name not in self.encoders:
                raise InputError("inputs", name, f"modalities among {', '.join(self.modalities)}")
        self.remember_shapes(batch)


class Standardised(nn.Module):
    """(x - mean) / std before an encoder. mean, std: numbers or tensors of one sample's shape. shape: of one sample."""

    def __init__(self, encoder: nn.Module, mean: float | Tensor, std: float | Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, tuple(shape)
        scale = torch.as_tensor(std, dtype=torch.float32).clone()
        if not bool((scale > 0).all()):
            raise InputError("std", float(scale.min()), "numbers above 0")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).clone())
        self.register_buffer("std", scale)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder((x - self.mean) / self.std)
        return found


class ConvEncoder(nn.Sequential):
    """Three strided convolutions and a linear layer: (B, C, H, W) -> (B, dim); H and W from 8."""

    def __init__(self, shape: Sequence[int], dim: int = 64, width: int = 16) -> None:
        c, h, w = shape
        if min(h, w) < 8:
            raise InputError("shape", tuple(shape), "(C, H, W) with H and W from 8")
        check_integer("width", width)
        layers: list[nn.Module] = []
        for out in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(c, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            c, h, w = out, (h + 1) // 2, (w + 1) // 2
        super().__init__(*layers, nn.Flatten(), nn.Linear(c * h * w, dim))


class MLPEncoder(nn.Sequential):
    """One hidden layer: (B, n) -> (B, dim)."""

    def __init__(self, n: int, dim: int = 16, hidden: int = 32) -> None:
        super().__init__(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, dim))


def check_dims(dims: Sequence[int], n_classes: int) -> None:
    if not dims:
        raise InputError("dims", list(dims), "the sizes of the features, one a modality")
    for dim in dims:
        check_integer("dims", dim)
    check_integer("n_classes", n_classes, low=2)
