"""How busy a picture is, and backgrounds made busier, smoother or adversarial while the object stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.rng import Noise
from tutelage.data.cutouts import Scene
from tutelage.models.checks import run_model
from tutelage.models.guard import evaluating

SCALE = 20.0  # the lambda at which a step has its full length: the paper's


def background_complexity(x: Tensor) -> Tensor:
    """C(u) = mean over channels and frequencies of |FFT2(u)|, not normalised: pictures (B, C, H, W) -> (B,).

    A picture of one colour c has C = |c|: only the mean frequency, H W c, of the H W frequencies. For random pictures C grows
    as sqrt(H W), so compare pictures of one size.
    """
    amplitude: Tensor = torch.fft.fft2(x).abs().flatten(1).mean(1)
    return amplitude


class BackgroundEditor(Protocol):
    """Draws the background of each of B scenes anew: (B, C, H, W) in [0, 1], whatever it put behind the object.

    complexity: lambda; above 0 the picture is to become busier, below 0 smoother, 0 is re-synthesis alone. model, y: if given,
    also raise the loss of this classifier. noise: one generator a scene.
    """

    def __call__(
        self, scene: Scene, complexity: float, *, noise: Noise, y: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class DirectBackground:
    """Gradient ascent of lambda C on the background's pixels: exact, fast, without a generative model.

        b <- clip(b + length (lambda / 20) g / rms(g)),   g = d C(x) / d b,   x the whole picture

    steps: how many; length: root mean square change of a step at lambda = +-20, pixels in [0, 1]. A step that does not bring
    C the way of lambda is taken back and halved, so that C ends on the right side, always. With lambda = 0 nothing changes.
    With a model, the gradient of its cross-entropy, of rms 1 as well, is added, and of all points on the way that of the
    highest loss is kept. The gradient of C is the picture with all its frequencies made equally strong: its edges.
    """

    steps: int = 10
    length: float = 0.005

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, low=0)
        check_positive("length", self.length, "a number > 0, in pixel units")

    def __call__(
        self, scene: Scene, complexity: float, *, noise: Noise, y: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        if model is not None and y is not None:
            with evaluating(model):
                return self._against(model, scene, complexity, y)
        return self._along(scene, complexity) if complexity else scene.background

    def _along(self, scene: Scene, complexity: float) -> Tensor:
        b, length = scene.background, torch.full((len(scene), 1, 1, 1), self.length * complexity / SCALE)
        length = length.to(b)
        value = background_complexity(scene.image)
        for _ in range(self.steps):
            g = _slope(scene, b)
            new = (b + length * g).clamp(0, 1)
            then = background_complexity(scene.with_background(new).image)
            better = ((then > value) if complexity > 0 else (then < value))[:, None, None, None]
            b = torch.where(better, new, b)
            value = torch.where(better.flatten(), then, value)
            length = torch.where(better, length, length / 2)
        return b

    def _against(self, model: nn.Module, scene: Scene, complexity: float, y: Tensor) -> Tensor:
        b = best = scene.background
        highest = torch.full((len(scene),), -torch.inf, device=b.device)
        for step in range(self.steps + 1):
            free = b.detach().requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(run_model(model, scene.with_background(free).image), y, reduction="none")
                (grad,) = torch.autograd.grad(loss.sum(), free)
            higher = loss.detach() > highest
            best = torch.where(higher[:, None, None, None], b, best)
            highest = torch.maximum(highest, loss.detach())
            if step < self.steps:
                b = (b + self.length * (_of_unit_rms(grad) + complexity / SCALE * _slope(scene, b))).clamp(0, 1)
        return best


def _slope(scene: Scene, background: Tensor) -> Tensor:
    """The gradient of C of the picture by its background, of root mean square 1 where the background is seen."""
    free = background.detach().requires_grad_()
    with torch.enable_grad():
        total = background_complexity(scene.with_background(free).image).sum()
        (grad,) = torch.autograd.grad(total, free)
    return _of_unit_rms(grad)


def _of_unit_rms(grad: Tensor) -> Tensor:
    """Each picture's gradient over its root mean square among what is not 0; where all is 0, 0."""
    flat = grad.flatten(1)
    n = (flat != 0).sum(1).clamp_min(1)
    rms = (flat.square().sum(1) / n).sqrt().clamp_min(1e-12)
    return grad / rms[:, None, None, None]
