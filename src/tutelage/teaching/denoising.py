"""Training a conditional diffusion model: the denoising loss, with prompts and words dropped, through `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator, normal
from tutelage.models.diffusion.denoiser import PromptDenoiser
from tutelage.models.diffusion.schedule import to_model
from tutelage.teaching.clipping import ClippedAdamW
from tutelage.teaching.fit import Context, FitResult, Validate, fit
from tutelage.teaching.schedules import Schedule, constant

LEAST = 0.2  # that an error is divided by: it counts at most 25 times


@dataclass(frozen=True)
class DenoisingLoss:
    """The mean squared error of what a PromptDenoiser says at x_t, t ~ U{0 .. T-1} (Ho 2020); batches (x in [0, 1], ids).

    null_probability: of a prompt dropped whole, so that guidance has something to stand against. word_probability: of each
    word dropped by itself, so that prompts that leave something open are known too. weighting: "own", the error of what the
    network says; "v", that error as one of v, whatever it says (of eps it is divided by a_t), but divided by no less than 0.2:
    then high levels, where a picture's content is decided, count as much as low ones.
    """

    null_probability: float = 0.1
    word_probability: float = 0.0
    weighting: Literal["own", "v"] = "own"

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, ("own", "v"))
        check_number("null_probability", self.null_probability, "a probability", low=0, high=1)
        check_number("word_probability", self.word_probability, "a probability", low=0, high=1)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        images, ids = batch
        denoiser = cast(PromptDenoiser, model)
        schedule, n = denoiser.schedule, len(images)
        x0 = to_model(images)
        t = torch.randint(schedule.steps, (n,), generator=ctx.generator).to(x0.device)
        noise = normal(x0.shape, ctx.generator).to(x0)
        drop = torch.rand(n, 1, generator=ctx.generator) < self.null_probability
        drop = drop | (torch.rand(ids.shape, generator=ctx.generator) < self.word_probability)
        kept = dropped(ids, drop.to(ids.device))
        said = model(schedule.add_noise(x0, noise, t), t, kept)
        error = said - schedule.target(denoiser.prediction, x0, noise, t)
        if self.weighting == "v" and denoiser.prediction != "v":
            error = error / (schedule.a(t, x0) if denoiser.prediction == "eps" else schedule.s(t, x0)).clamp_min(LEAST)
        return error.square().mean(), {}


def dropped(ids: Tensor, where: Tensor) -> Tensor:
    """ids (B, L) with padding, 0, in place of the words marked in `where`; the start token in front stays."""
    where = where.clone()
    where[:, 0] = False
    return ids.masked_fill(where, 0)


def fit_denoiser(
    denoiser: PromptDenoiser,
    images: Tensor,
    prompts: Sequence[str],
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    schedule: Schedule = constant,
    null_probability: float = 0.1,
    word_probability: float = 0.0,
    weighting: Literal["own", "v"] = "own",
    ema: float | None = 0.995,
    max_norm: float = 1.0,
    validate: Validate | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
    name: str = "diffusion model",
) -> FitResult:
    """Train `denoiser` in place on images (N, C, H, W) in [0, 1], uint8 or float32, each with its prompt; AdamW.

    null_probability, word_probability, weighting: see `DenoisingLoss`. Resumable with `checkpoint`, as `fit` says. It comes
    back in eval mode with the averaged weights.
    Raises InputError before anything is computed: lengths that differ, prompts the encoder cannot take.
    """
    if not isinstance(denoiser, PromptDenoiser):
        raise InputError("denoiser", type(denoiser).__name__, "a PromptDenoiser: a text encoder and a network")
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise InputError("images", getattr(images, "shape", type(images).__name__), "images (N, C, H, W) in [0, 1] or uint8")
    if len(prompts) != len(images):
        raise InputError("prompts", f"{len(prompts)} prompts", f"{len(images)}, one for each image")
    check_integer("batch_size", batch_size, high=len(images))
    check_positive("lr", lr, "a rate above 0")
    ids = denoiser.tokenize(list(prompts)).cpu()
    pixels = images.float().div(255) if images.dtype == torch.uint8 else images.float()
    if float(pixels.min()) < 0 or float(pixels.max()) > 1:
        raise InputError("images", f"values from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}", "values in [0, 1]")
    data = TensorDataset(pixels, ids)
    order = RandomSampler(data, generator=generator(seed, "fit_denoiser"))
    batches = BatchSampler(order, batch_size, drop_last=True)  # whole batches are sliced at once
    loader = DataLoader(data, batch_size=None, sampler=batches, generator=torch.Generator())
    return fit(
        denoiser,
        DenoisingLoss(null_probability, word_probability, weighting),
        loader,
        steps=steps,
        optimizer=ClippedAdamW([p for p in denoiser.parameters() if p.requires_grad], lr, max_norm=max_norm, weight_decay=0.0),
        schedule=schedule,
        ema=ema,
        validate=validate,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
        progress=progress,
        name=name,
    )
