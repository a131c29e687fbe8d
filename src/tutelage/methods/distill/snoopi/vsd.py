"""One step from noise to a picture, and the gradient that teaches it: (1) to (4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.models.diffusion.denoiser import Condition, Denoiser, joined, predicted_eps
from tutelage.models.diffusion.guidance.classifier_free import cfg

Weight = Literal["sigma2", "one"]
LEAST_A = 1e-3  # below, x0 = (z - s eps) / a is the rounding error of eps


def one_step(denoiser: Denoiser, z: Tensor, condition: Condition) -> Tensor:
    """(1) x0_hat (B, ...) of noise z ~ N(0, I) (B, ...): one call of the network at the schedule's last level."""
    t = torch.full((len(z),), denoiser.schedule.steps - 1, device=z.device)
    return denoiser.schedule.x0_eps(denoiser.prediction, denoiser.denoise(z, t, condition), z, t)[0]


def check_one_step(denoiser: Denoiser) -> None:
    """Whether (1) can be computed: a model of eps needs some of the picture left at the last level."""
    a = denoiser.schedule.last_a
    if denoiser.prediction == "eps" and a < LEAST_A:
        got = f"a schedule whose last a is {a:.2g}, with a model of eps"
        raise InputError("teacher", got, f"a last a of at least {LEAST_A:g}, or a model of v or x0")


def guided_eps(
    denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition, against: Condition, scale: Tensor | float
) -> Tensor:
    """(2) eps^k = (1 - k) eps(against) + k eps(condition); both in one call of twice the batch."""
    cond, uncond = predicted_eps(
        denoiser, torch.cat([x, x]), torch.cat([t, t]), joined(condition, against.expand(len(x)))
    ).chunk(2)  # fmt: skip
    return cfg(cond, uncond, scale)


@torch.no_grad()
def vsd_gradient(
    teacher: Denoiser,
    adapter: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    condition: Condition,
    null: Condition,
    scale: Tensor | float,
    *,
    adapter_scale: Tensor | float | None = None,
    negative: Condition | None = None,
    weight: Weight = "sigma2",
) -> Tensor:
    """(3) g = w(t) (eps_psi^k(x_t) - eps_phi^k(x_t)) of what the student made, (B, ...); a descent on x0 goes against it.

    teacher, adapter: psi and phi. x0: (B, ...), noise of the same shape, t (B,) levels. null: the null prompt, one row.
    scale: k, one number or (B,); adapter_scale: of phi, if it is another one. negative: stands in for the null prompt in the
    frozen teacher only (NASA-T). weight: s_t^2, or 1.
    """
    check_choice("weight", weight, ("sigma2", "one"))
    x = teacher.schedule.add_noise(x0, noise, t)
    wanted = guided_eps(teacher, x, t, condition, null if negative is None else negative, scale)
    own = guided_eps(adapter, x, t, condition, null, scale if adapter_scale is None else adapter_scale)
    w = teacher.schedule.s(t, x0) ** 2 if weight == "sigma2" else torch.ones_like(t, dtype=x0.dtype).reshape(-1, 1, 1, 1)
    return w * (wanted - own)


def vsd_loss(x0: Tensor, g: Tensor) -> Tensor:
    """(4) half the mean of (x0 - stopgrad(x0 - g))^2: its gradient to x0 is g / numel."""
    return 0.5 * (x0 - (x0 - g).detach()).square().mean()
