"""What any adaptation has to beat: the source model, its BatchNorm statistics alone, and entropy minimisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage.core.errors import InputError
from tutelage.models.batchnorm import BatchNormPolicy, BatchStatistics, SourceStatistics
from tutelage.models.checks import run_model
from tutelage.teaching.divergences import entropy
from tutelage.teaching.test_time.adapter import Adapter, OptimizerLike, Prediction, answered, make_optimizer


class NormAdapter(Adapter):
    """No learning: only the BatchNorm policy. With `BatchStatistics()`, the default, this is "BN-1"."""

    name = "bn"

    def __init__(self, model: nn.Module, policy: BatchNormPolicy | None = None) -> None:
        self.policy = policy or BatchStatistics()
        super().__init__(model, self.policy)
        self._remember()

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "policy": repr(self.policy)}

    def _adapt(self, x: Tensor) -> Prediction:
        return self._answer(x)

    def _answer(self, x: Tensor) -> Prediction:
        return answered(run_model(self.model, x).detach())


class Source(NormAdapter):
    """The model as it is."""

    name = "source"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, SourceStatistics())


class Tent(Adapter):
    """TENT (Wang et al., arXiv 2006.10726): batch statistics, and the scale and shift of BatchNorm learn to lower

        L = mean_i H(softmax(f(x_i)))                                                                               (1)

    Where a model has no BatchNorm, the scales and shifts of its LayerNorm and GroupNorm layers learn instead.
    """

    name = "tent"

    def __init__(
        self, model: nn.Module, *, optimizer: OptimizerLike = "adam", lr: float = 1e-3, steps: int = 1, seed: int = 0
    ) -> None:
        super().__init__(model, BatchStatistics(), steps=steps, seed=seed)
        self.lr = lr
        kinds: tuple[type[nn.Module], ...] = (_BatchNorm,)
        if not any(isinstance(m, kinds) for m in self.model.modules()):
            kinds = (nn.LayerNorm, nn.GroupNorm)
        found = [p for m in self.model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)]
        if not found:
            raise InputError("model", "no BatchNorm, LayerNorm or GroupNorm with a scale and a shift", "a model with some")
        for parameter in found:
            parameter.requires_grad_()
        self.optimizer = make_optimizer(optimizer, list(dict.fromkeys(found)), lr)
        self._remember()

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "lr": self.lr}

    def _adapt(self, x: Tensor) -> Prediction:
        logits = run_model(self.model, x)
        loss = entropy(logits)
        return answered(logits, log={"grad_norm": self._learn(loss), "loss": float(loss.detach())})

    def _answer(self, x: Tensor) -> Prediction:
        return answered(run_model(self.model, x))
