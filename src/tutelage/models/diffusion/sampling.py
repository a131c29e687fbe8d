"""Samplers: diffusers' schedulers behind one function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import Noise, normal
from tutelage.models.diffusion.denoiser import Condition, Denoiser
from tutelage.models.diffusion.extras import extra
from tutelage.models.diffusion.guidance.classifier_free import ClassifierFree, Guidance
from tutelage.models.diffusion.schedule import NoiseSchedule, Prediction, to_image

Sampler = Literal["ddpm", "ddim", "dpm-solver"]
SAMPLERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpm-solver": "DPMSolverMultistepScheduler"}
_KINDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def scheduler(name: Sampler, schedule: NoiseSchedule, prediction: Prediction, *, clip: bool = True) -> Any:
    """diffusers' scheduler of that name on our schedule. clip: predicted clean pictures are kept in [-1, 1] (ddpm, ddim)."""
    check_choice("sampler", name, tuple(SAMPLERS))
    bar = schedule.alphas_bar
    betas = 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])
    kind = getattr(extra("diffusers", "sampling"), SAMPLERS[name])
    settings: dict[str, Any] = {
        "num_train_timesteps": schedule.steps,
        "trained_betas": betas.float().numpy(),
        "prediction_type": _KINDS[prediction],
        "timestep_spacing": "trailing",
    }
    if name != "dpm-solver":
        settings["clip_sample"] = clip
    if name == "ddim":
        settings["set_alpha_to_one"] = True
    return kind(**settings)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    prompts: Sequence[str] | Condition,
    shape: Sequence[int],
    *,
    noise: Noise,
    steps: int = 50,
    sampler: Sampler = "ddim",
    guidance: Guidance | None = None,
    clip: bool = True,
    decode: Callable[[Tensor], Tensor] = to_image,
) -> Tensor:
    """Pictures (B, *shape) for prompts, B of them, in [0, 1] with the default `decode`.

    shape: (C, H, W) of x. noise: where the start (and the noise of ddpm) is drawn from. guidance: default
    ClassifierFree(1), no guidance. decode: from x to pictures; of a latent model, its decoder.
    """
    check_integer("steps", steps, high=denoiser.schedule.steps)
    if len(shape) != 3:
        raise InputError("shape", tuple(shape), "(C, H, W)")
    condition = prompts if isinstance(prompts, Condition) else denoiser.encode(prompts)
    guidance = guidance or ClassifierFree(1.0)
    stepper = scheduler(sampler, denoiser.schedule, denoiser.prediction, clip=clip)
    with warnings.catch_warnings():  # of diffusers' own use of numpy
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        stepper.set_timesteps(steps)
    x = normal((len(condition), *shape), noise).to(condition.features.device)
    own = (
        torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=noise)))
        if isinstance(noise, torch.Generator)
        else None
    )
    for level in stepper.timesteps:
        t = torch.full((len(x),), int(level), device=x.device)
        out = guidance(denoiser, x, t, condition)
        arguments: dict[str, Any] = {"generator": own} if sampler != "ddim" and own is not None else {}
        if sampler == "ddim" and clip:  # of a clipped picture the noise is another one: with the old one x_t is at no level
            arguments["use_clipped_model_output"] = True
        x = stepper.step(out, level, x, return_dict=False, **arguments)[0]
    return decode(x)
