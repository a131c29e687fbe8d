"""Local intrinsic dimension of features: attacked inputs lie where training features spread in more directions.

    LID_l(x) = -( 1/k sum_{j=1..k} ln(r_j / r_k) )^-1,   M_l(x) = -LID_l(x)                                             (1)

with r_1 <= ... <= r_k the distances from f_l(x) to its k nearest of a fixed sample of training features (Ma et al. 2018, arXiv
1801.02613, equation 4, the maximum-likelihood estimate). There the sample is the minibatch; a fixed one makes the score of an
input independent of its batch. The layers are put together as in `layered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tutelage.auditing.detection.layered import LayeredDetector
from tutelage.auditing.measure import device_of
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.models.checks import check_inputs
from tutelage.models.guard import evaluating
from tutelage.models.pooled import PooledLayers, penultimate
from tutelage.teaching.objectives import pair


class LocalDimension(LayeredDetector):
    """Scores (1) of any classifier; `fit` first. k: neighbours. sample: training features that are kept, the first ones."""

    name = "lid"
    tuned = "k"
    choices = (10, 20, 50, 90)

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        k: int = 20,
        sample: int = 1000,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(model, layers, bounds=bounds)
        check_integer("k", k, low=2)
        check_integer("sample", sample, low=k + 1)
        self.k, self.sample = k, sample
        self._banks: list[Tensor] = []

    def fit(self, loader: DataLoader[Any]) -> Self:
        """Keep features of the first `sample` inputs of batches (x, y): shuffle, or give data that are in no order."""
        kept: list[list[Tensor]] = []
        n = 0
        with training_only(), evaluating(self.model), torch.no_grad():
            refuse_test_data(loader)
            for batch in loader:
                x, _ = pair(batch)
                check_inputs(x, self.bounds)
                x = x[: self.sample - n].to(device_of(self.model))
                self.layers = self.layers or (penultimate(self.model, x),)
                kept.append([f.cpu().double() for f in PooledLayers(self.model, self.layers)(x)[1]])
                n += len(x)
                if n == self.sample:
                    break
        if n <= self.k:
            raise InputError("loader", f"{n} samples", f"more than k = {self.k}")
        self._banks = [torch.cat(parts) for parts in zip(*kept, strict=True)]
        return self._ready(len(self._banks))

    def _tune(self, value: float) -> None:
        check_integer("k", value, low=2, high=len(self._banks[0]))
        self.k = int(value)

    def _layer_scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            _, features = PooledLayers(self.model, self.layers)(x)
        return torch.stack([self._estimate(f.cpu().double(), bank) for f, bank in zip(features, self._banks, strict=True)], 1)

    def _estimate(self, f: Tensor, bank: Tensor) -> Tensor:
        # no matrix product here: it would lose the small distances, whose logarithm counts most
        r = torch.cdist(f, bank, compute_mode="donot_use_mm_for_euclid_dist")
        r = r.topk(self.k, dim=1, largest=False, sorted=True).values.clamp_min(1e-12)
        mean = (r / r[:, -1:]).log().mean(1)
        return 1 / mean.clamp_max(-1e-12)

    def constants(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "k": self.k, "sample": self.sample}

    def tensors(self) -> dict[str, Tensor]:
        found = {f"bank {i}": bank for i, bank in enumerate(self._banks)}
        return {**found, "weights": self.weights, "bias": torch.tensor([self.bias], dtype=torch.float64)}

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        made = cls(model, constants["layers"] or None, k=constants["k"], sample=constants["sample"])
        made._banks = [tensors[f"bank {i}"] for i in range(len(tensors) - 2)]
        made.weights, made.bias = tensors["weights"], float(tensors["bias"])
        return made
