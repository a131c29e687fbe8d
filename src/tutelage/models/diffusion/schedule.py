"""Noise schedules, and what a network may predict: the noise, the clean picture, or their mixture v.

    x_t = a_t x_0 + s_t eps,    a_t = sqrt(abar_t),    s_t = sqrt(1 - abar_t)                             (Ho 2020)
    v_t = a_t eps - s_t x_0                                                                    (Salimans & Ho 2022)

Pictures live in [-1, 1] here, as diffusion models have them; `to_model` and `to_image` go between that and [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError

Prediction = Literal["eps", "v", "x0"]
PREDICTIONS = ("eps", "v", "x0")
Shape = Literal["linear", "scaled-linear", "cosine"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alphas_bar: (T,) abar_0 .. abar_{T-1}, falling, above 0 or at it at the end, at most 1."""

    alphas_bar: Tensor

    def __post_init__(self) -> None:
        bar = self.alphas_bar
        if not isinstance(bar, Tensor) or bar.dim() != 1 or len(bar) < 2 or not bar.is_floating_point():
            raise InputError("alphas_bar", getattr(bar, "shape", type(bar).__name__), "a tensor of at least 2 levels")
        wrong = not bool(torch.isfinite(bar).all()) or float(bar.min()) < 0 or float(bar.max()) > 1
        if wrong or not bool((bar.diff() < 0).all()):
            raise InputError("alphas_bar", "numbers that do not fall from at most 1 to at least 0", "a falling sequence")
        object.__setattr__(self, "alphas_bar", bar.double().cpu())

    @property
    def steps(self) -> int:
        """T, the number of levels."""
        return len(self.alphas_bar)

    @property
    def last_a(self) -> float:
        """a at the last level: how much of the picture is left in the noise."""
        return float(self.alphas_bar[-1].sqrt())

    def a(self, t: Tensor, like: Tensor) -> Tensor:
        """a_t of levels t (B,), shaped to multiply `like` (B, ...)."""
        return self._shaped(self.alphas_bar.sqrt(), t, like)

    def s(self, t: Tensor, like: Tensor) -> Tensor:
        """s_t of levels t (B,), shaped to multiply `like` (B, ...)."""
        return self._shaped((1 - self.alphas_bar).sqrt(), t, like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean pictures (B, ...), noise of the same shape and levels (B,)."""
        return self.a(t, x0) * x0 + self.s(t, x0) * noise

    def x0_eps(self, prediction: Prediction, output: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) that a network's output at x_t means. Where a_t or s_t is 0, one of them is not finite."""
        a, s = self.a(t, x), self.s(t, x)
        if prediction == "eps":
            return (x - s * output) / a, output
        if prediction == "v":
            return a * x - s * output, a * output + s * x
        return output, (x - a * output) / s

    def target(self, prediction: Prediction, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a network of that kind should say at x_t."""
        if prediction == "eps":
            return noise
        if prediction == "v":
            return self.a(t, x0) * noise - self.s(t, x0) * x0
        return x0

    def from_eps(self, prediction: Prediction, eps: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The output of that kind which means `eps` at x_t: the other way round of `x0_eps`."""
        a, s = self.a(t, x), self.s(t, x)
        if prediction == "eps":
            return eps
        return (eps - s * x) / a if prediction == "v" else (x - s * eps) / a

    def check_level(self, t: Tensor) -> None:
        """Levels (B,) from 0 to T - 1."""
        if t.is_floating_point() or bool(((t < 0) | (t >= self.steps)).any()):
            raise InputError("t", f"{t.dtype}, {t.min()} to {t.max()}", f"integers from 0 to {self.steps - 1}")

    def _shaped(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        found = values[t.cpu()].to(like)
        return found.reshape(-1, *[1] * (like.dim() - 1))


def noise_schedule(shape: Shape = "scaled-linear", steps: int = 1000) -> NoiseSchedule:
    """The schedules of the literature with `steps` levels.

    linear: beta from 0.1 / T to 20 / T (Ho et al. 2020), a_T = 0.006. scaled-linear: sqrt(beta) even (Stable Diffusion),
    a_T = 0.068. cosine: Nichol & Dhariwal 2021, with beta at most 0.999.
    """
    check_choice("shape", shape, ("linear", "scaled-linear", "cosine"))
    check_integer("steps", steps, low=25)  # fewer, and the last betas of the linear ones would pass 0.8
    if shape == "linear":
        betas = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    elif shape == "scaled-linear":
        betas = torch.linspace((0.85 / steps) ** 0.5, (12 / steps) ** 0.5, steps, dtype=torch.float64) ** 2
    else:
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return NoiseSchedule((1 - betas).cumprod(0))


def zero_terminal(schedule: NoiseSchedule) -> NoiseSchedule:
    """`schedule` stretched so that nothing of the picture is left at the last level (Lin et al. 2023); for v and x0 models."""
    a = schedule.alphas_bar.sqrt()
    stretched = (a - a[-1]) * a[0] / (a[0] - a[-1])
    return NoiseSchedule(stretched**2)


def to_model(images: Tensor) -> Tensor:
    """Pictures in [0, 1] -> [-1, 1]."""
    return 2 * images - 1


def to_image(x: Tensor) -> Tensor:
    """What a model made -> pictures in [0, 1], what is outside cut off."""
    return ((x + 1) / 2).clamp(0, 1)
