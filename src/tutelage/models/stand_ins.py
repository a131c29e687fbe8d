"""A stand-in for a model while an attack searches. Nothing is judged by it: what is found is put before the model itself.

A faster one follows the model closely enough to climb its loss: BatchNorm folded, channels last, bfloat16 where the machine
has it. And a model that ends in a softmax, whose slopes die out in float32 where it is sure, has one that does not: the same
in float64, and the logarithm of what it returns.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from tutelage.models.checks import is_differentiable, look_like_probabilities

WORTH = 200_000  # parameters; below, a pass is so short that the half precision costs more than it saves
CHECKED = 8  # samples on which the stand-in must follow the model
FOLDED = 1e-3  # largest difference of logits by folding, relative to their size
ROUNDED = 0.05  # the same in bfloat16, whose numbers have 8 bits
SAME_WAY = 0.9  # least cosine between the two gradients, at the median of the samples


class StandIn(nn.Module, ABC):
    """A copy of a model in evaluation mode. Outputs are float32. same_scale: they are the model's own, up to rounding."""

    same_scale: ClassVar[bool] = True

    @property
    @abstractmethod
    def how(self) -> str:
        """The form of the copy, for reports."""


class Quick(StandIn):
    """dtype: of the convolutions and products."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, folded: bool) -> None:
        super().__init__()
        self.model, self.dtype, self.folded = model, dtype, folded

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.model(x)
        return logits.float()

    @property
    def how(self) -> str:
        return f"{'BatchNorm folded, ' if self.folded else ''}{str(self.dtype).removeprefix('torch.')}"


class WithoutSoftmax(StandIn):
    """A model in float64 that returns probabilities; outputs: their logarithms, which do not die out."""

    same_scale: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.model(x.double())
        return probabilities.clamp_min(torch.finfo(torch.float64).tiny).log().float()

    @property
    def how(self) -> str:
        return "logarithms of its probabilities, float64"


def stand_in(model: nn.Module, x: Tensor, logits: Tensor) -> StandIn | None:
    """A stand-in for `model`, which gives `logits` (B, classes) on x (B, ...); None where the model itself is as good.

    It must give the same logits and gradients on a few of the samples, up to rounding. Models that are random, that are in
    another precision than float32, that give no gradients or that cannot be copied have none.
    """
    if not is_differentiable(model) or x.dtype != torch.float32 or _whole(model) is None:
        return None
    if look_like_probabilities(logits):
        return _without_softmax(model, x[:CHECKED], logits[:CHECKED])
    if sum(p.numel() for p in model.parameters()) < WORTH:
        return None
    return _quick(model, x[:CHECKED], logits[:CHECKED].float())


def _without_softmax(model: nn.Module, x: Tensor, probabilities: Tensor) -> WithoutSoftmax | None:
    try:
        one = WithoutSoftmax(copy.deepcopy(model).double().eval().requires_grad_(False))
        with torch.no_grad():
            same = bool(((one(x).exp() - probabilities).abs() <= FOLDED).all())
    except Exception:  # a user's model may refuse to be copied, or to take float64, in any way
        return None
    return one if same and _gradient(one, x) is not None else None


def _quick(model: nn.Module, x: Tensor, logits: Tensor) -> Quick | None:
    try:
        twin = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception:  # a user's model may refuse to be copied in any way
        return None
    twin = twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    slope = _gradient(twin, x)
    found: Quick | None = None
    folded = _folded(twin)
    if folded is not None and _follows(one := Quick(folded, torch.float32, True), x, logits, slope, FOLDED):
        found, twin = one, folded
    if _has_bfloat16(x.device):
        one = Quick(twin, torch.bfloat16, found is not None)
        if _follows(one, x, logits, slope, ROUNDED):
            found = one
    return found


def _whole(model: nn.Module) -> nn.Module | None:
    """The model if all of it is float32, lies on one device, and is not wrapped, compiled or scripted."""
    tensors = [*model.parameters(), *model.buffers()]
    plain = (
        all(t.dtype == torch.float32 or not t.is_floating_point() for t in tensors) and len({t.device for t in tensors}) == 1
    )
    wrapped = (nn.parallel.DistributedDataParallel, nn.DataParallel, torch.jit.ScriptModule)
    special = isinstance(model, wrapped) or hasattr(model, "_orig_mod") or any(hasattr(t, "device_mesh") for t in tensors)
    return model if plain and not special else None


def _folded(model: nn.Module) -> nn.Module | None:
    """Each BatchNorm that follows a convolution taken into its weights; None if there is none, or no tracing the model."""
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return None
    from torch.fx.experimental.optimization import fuse

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded: nn.Module = fuse(model, no_trace=False)
        return folded.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
    except Exception:  # tracing runs a user's code with stand-ins for tensors, and meets whatever it does with them
        return None


def _follows(one: Quick, x: Tensor, logits: Tensor, slope: Tensor | None, tolerance: float) -> bool:
    try:
        with torch.no_grad():
            near = bool(((one(x) - logits).abs() <= tolerance * (1 + logits.abs().amax())).all())
        mine = _gradient(one, x) if near else None
    except (RuntimeError, TypeError, ValueError):
        return False
    if mine is None or slope is None:
        return False
    return bool(torch.nn.functional.cosine_similarity(mine.flatten(1), slope.flatten(1)).median() >= SAME_WAY)


def _gradient(model: nn.Module, x: Tensor) -> Tensor | None:
    """The gradient of a smooth number of the logits, (B, ...); None where there is none."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(x)
        total = outputs.float().logsumexp(1).sum() if isinstance(outputs, Tensor) else None
        if total is None or not total.requires_grad:
            return None
        (grad,) = torch.autograd.grad(total, x)
    return grad


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
