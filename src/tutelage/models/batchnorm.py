"""BatchNorm policies: whose mean and variance a model normalises by when its inputs come from somewhere new.

A trained model normalises by the running statistics of its training data (mu_s, v_s). On inputs that drift, the statistics
of the batch at hand (mu_b, v_b) are often better, or a mixture of both:

    mu = N / (N + n) mu_s + n / (N + n) mu_b, v likewise, n samples in the batch                                       (1)

Schneider et al., Improving robustness against common corruptions by covariate shift adaptation, arXiv 2006.16971, with the
source statistics counting as N samples. N = 0 is "BN-1" (batch statistics only), N = infinity the model as it was.

>>> changed = BatchStatistics().apply(model)     # in place: give it a copy (`models.copying.copied`)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError


class BatchNormPolicy(Protocol):
    """Prepares a model in place, in evaluation mode, and returns how many BatchNorm layers it has."""

    def apply(self, model: nn.Module) -> int: ...


@dataclass(frozen=True)
class SourceStatistics:
    """The running statistics of the training data: what `model.eval()` means."""

    def apply(self, model: nn.Module) -> int:
        model.eval()
        return sum(1 for _ in _layers(model))


@dataclass(frozen=True)
class BatchStatistics:
    """The statistics of the batch at hand, in evaluation mode too. The running ones are dropped: nothing goes back to them."""

    def apply(self, model: nn.Module) -> int:
        model.eval()
        count = 0
        for _, _, layer in _layers(model):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            count += 1
        return count


@dataclass(frozen=True)
class MixedStatistics:
    """Equation (1). prior: N, how many samples the source statistics count for; finite and >= 0."""

    prior: float = 16.0

    def __post_init__(self) -> None:
        check_number("prior", self.prior, "a number of samples >= 0", low=0)

    def apply(self, model: nn.Module) -> int:
        model.eval()
        found = list(_layers(model))
        for parent, name, layer in found:
            if layer.running_mean is None or layer.running_var is None:
                raise InputError("model", f"a BatchNorm {name!r} without running statistics", "one that tracks them")
            if isinstance(layer, MixedBatchNorm):
                layer.prior = self.prior
            elif not name:
                raise InputError("model", "a BatchNorm layer alone", "a model that has it as a part")
            else:
                setattr(parent, name, MixedBatchNorm(layer, self.prior))
        return len(found)


class MixedBatchNorm(_BatchNorm):
    """A BatchNorm layer that normalises by equation (1), in either mode; the running statistics stay as they are."""

    def __init__(self, layer: _BatchNorm, prior: float) -> None:
        super().__init__(layer.num_features, eps=layer.eps, affine=False)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.affine, self.prior = layer.affine, prior
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        over = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x, over, correction=0)
        share = len(x) / (self.prior + len(x))
        mean = torch.lerp(self.running_mean, mean, share)
        scale = (torch.lerp(self.running_var, variance, share) + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = (1, -1, *([1] * (x.dim() - 2)))
        return x * scale.view(shape) + shift.view(shape)


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a pass normalises by the batch alone: then what is said of a sample depends on its neighbours."""
    return any(
        not isinstance(layer, MixedBatchNorm) and (layer.training or layer.running_mean is None)
        for _, _, layer in _layers(model)
    )


def check_batch(model: nn.Module, x: Tensor) -> None:
    """InputError for a batch of one where BatchNorm takes its statistics from the batch: they would be those of the sample."""
    if len(x) == 1 and uses_batch_statistics(model):
        raise InputError(
            "x",
            "a batch of one sample, for BatchNorm layers that use the statistics of the batch",
            "two samples or more, or RingBuffer(adapter, window=64), which takes them one by one",
        )


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, _BatchNorm]]:
    """(parent, name in it, layer) of every BatchNorm layer, a shared one at each of its places."""
    if isinstance(model, _BatchNorm):
        yield model, "", model
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                yield parent, name, child
