"""Backgrounds drawn anew by a diffusion model of the user, guided by complexity, the object blended in at every noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise, normal
from tutelage.data.cutouts import Scene
from tutelage.models.checks import run_model
from tutelage.models.guard import evaluating
from tutelage.threats.attributes.background import background_complexity


def linear_alphas_bar(steps: int = 1000) -> Tensor:
    """prod (1 - beta) of the linear schedule, beta from 0.1 / steps to 20 / steps (Ho et al. 2020): (steps,) float64."""
    return (1 - torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)).cumprod(0)


@dataclass(frozen=True)
class DiffusionBackground:
    """The paper's editor, with any denoiser of pictures in [-1, 1].

    denoiser(x_t (B, C, H, W), t (B,)) -> eps (B, C, H, W), or (B, 2 C, H, W) with learned variances, or an object with
    `.sample`; t counts the levels of `alphas_bar` (None: 1000, linear). steps S of `respaced` T: how much is redrawn; S = 0
    changes nothing. range_weight: keeps the predicted clean picture in [-1, 1]. attack_weight: of the surrogate's loss.

    From q_sample(x_bg, S - 1), for t = S - 1 ... 0, with m the alpha of the object:

        L = -lambda C((x0 + 1) / 2) + range_weight * mean (x0 - clip(x0))^2,  x0 the clean picture predicted from x_t
        x_{t-1} ~ N(mean - Sigma grad L, Sigma),    x_{t-1} <- (1 - m) x_{t-1} + m q_sample(x_obj, t)

    C is not normalised, so lambda belongs to a size: the paper's 20 to 256 x 256.
    """

    denoiser: Callable[[Tensor, Tensor], Any]
    steps: int = 25
    respaced: int = 100
    range_weight: float = 50.0
    attack_weight: float = 1.0
    alphas_bar: Tensor | None = None

    def __post_init__(self) -> None:
        check_callable("denoiser", self.denoiser, "a function of (x_t, t) that gives the predicted noise")
        levels = 1000 if self.alphas_bar is None else len(self.alphas_bar)
        check_integer("respaced", self.respaced, low=1, high=levels)
        check_integer("steps", self.steps, low=0, high=self.respaced)
        check_number("range_weight", self.range_weight, "a number >= 0", low=0)
        check_number("attack_weight", self.attack_weight, "a number >= 0", low=0)

    def __call__(
        self, scene: Scene, complexity: float, *, noise: Noise, y: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        if self.steps == 0:
            return scene.background
        if model is None or y is None:
            return self._sampled(scene, complexity, noise, None, None)
        with evaluating(model):
            return self._sampled(scene, complexity, noise, model, y)

    def _sampled(self, scene: Scene, complexity: float, noise: Noise, model: nn.Module | None, y: Tensor | None) -> Tensor:
        bar = linear_alphas_bar() if self.alphas_bar is None else self.alphas_bar.double()
        levels = torch.linspace(0, len(bar) - 1, self.respaced).round().long()
        ab = bar[levels].to(scene.background)  # (T,)
        before = torch.cat([ab.new_ones(1), ab[:-1]])
        beta = 1 - ab / before
        posterior = beta * (1 - before) / (1 - ab)
        lowest = torch.cat([posterior[1:2] if len(ab) > 1 else beta[:1], posterior[1:]])  # its logarithm, at t = 0 too
        colour = torch.where(scene.alpha > 0, scene.object / scene.alpha.clamp_min(1e-6), 0.5).clamp(0, 1)
        clean, thing, m = 2 * scene.background - 1, 2 * colour - 1, scene.alpha

        def noised(x: Tensor, t: int) -> Tensor:
            return ab[t].sqrt() * x + (1 - ab[t]).sqrt() * normal(x.shape, noise).to(x)

        x = noised(clean, self.steps - 1)
        for t in range(self.steps - 1, -1, -1):
            free = x.detach().requires_grad_()
            with torch.enable_grad():
                out = self.denoiser(free, levels[t].to(x.device).expand(len(x)))
                out = getattr(out, "sample", out)
                eps, variance = self._parts(out, x, beta[t], posterior[t], lowest[t])
                predicted = (free - (1 - ab[t]).sqrt() * eps) / ab[t].sqrt()
                outside = (predicted - predicted.clamp(-1, 1)).square().flatten(1).mean(1)
                goal = complexity * background_complexity((predicted + 1) / 2) - self.range_weight * outside
                if model is not None and y is not None:
                    seen = scene.with_background(((predicted + 1) / 2).clamp(0, 1)).image
                    goal = goal + self.attack_weight * F.cross_entropy(run_model(model, seen), y, reduction="none")
                (g,) = torch.autograd.grad(goal.sum(), free)
            predicted, variance = predicted.detach(), variance.detach()
            mean = beta[t] * before[t].sqrt() / (1 - ab[t]) * predicted
            mean = mean + (1 - before[t]) * (ab[t] / before[t]).sqrt() / (1 - ab[t]) * x
            x = mean + variance * g
            if t > 0:
                x = x + variance.sqrt() * normal(x.shape, noise).to(x)
                x = (1 - m) * x + m * noised(thing, t)
        return ((x + 1) / 2).clamp(0, 1)

    def _parts(self, out: Any, x: Tensor, beta: Tensor, posterior: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
        """(predicted noise, variance of the step): fixed, or between the two bounds as the network says (Nichol 2021)."""
        c = x.shape[1]
        if not isinstance(out, Tensor) or out.shape not in (x.shape, (len(x), 2 * c, *x.shape[2:])):
            got = f"a result of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise InputError("denoiser", got, f"noise of shape {tuple(x.shape)}, or with twice the channels")
        if out.shape == x.shape:
            return out, posterior.expand_as(x)
        eps, share = out[:, :c], (out[:, c:] + 1) / 2
        return eps, (share * beta.log() + (1 - share) * lowest.log()).exp()
