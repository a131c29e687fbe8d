"""Training a conditional diffusion model: the denoising loss, with prompts and words dropped, through `fit`.

The picture that was noised is one draw of many that could lie behind x_t: at high levels the loss is mostly the noise of this
draw, and small networks learn slowly what little each word says. `References` puts the mean of the training pictures that fit
x_t and the words in its place (Xu, Tong, Jaakkola 2023, "Stable Target Field for Reduced Variance Score Estimation in Diffusion
Models", arXiv 2302.00670): the same minimum, up to the finite number of references, with less noise in the gradient.
"""

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
from tutelage.models.diffusion.schedule import NoiseSchedule, to_model
from tutelage.teaching.clipping import ClippedAdamW
from tutelage.teaching.fit import Context, FitResult, Validate, fit
from tutelage.teaching.schedules import Schedule, constant

LEAST = 0.2  # that an error is divided by: it counts at most 25 times
LEAST_S = 1e-4  # of a level without noise, which some schedules have


class References:
    """Training pictures x0 (N, ...) in the model's range and the ids (N, L) of their prompts; `count` of them for a target."""

    def __init__(self, x0: Tensor, ids: Tensor, count: int) -> None:
        self.x0, self.ids, self.count = x0, ids, count
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def rows(self, words: tuple[int, ...]) -> Tensor:
        """The pictures whose prompts have these words in these places; 0 leaves a place open."""
        if words not in self._rows:
            wanted = torch.tensor(words)
            self._rows[words] = ((self.ids == wanted) | (wanted == 0)).all(1).nonzero().squeeze(1)
        return self._rows[words]

    def draw(self, x0: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 1 + count, ...): each picture itself, and `count` with the words that were kept of its prompt, (B, L)."""
        found = []
        for words in kept.tolist():
            fitting = self.rows(tuple(words))
            if not len(fitting):
                raise InputError("references", f"no picture with the ids {words}", "the pictures that are trained on")
            found.append(fitting[torch.randint(len(fitting), (self.count,), generator=generator)])
        return torch.cat([x0[:, None], self.x0[torch.stack(found)].to(x0)], 1)


def posterior_mean(schedule: NoiseSchedule, x: Tensor, t: Tensor, candidates: Tensor) -> Tensor:
    """E[x_0 | x_t] (B, ...), x_0 one of `candidates` (B, R, ...), all as likely: weights exp(-|x_t - a x_0|^2 / 2 s^2)."""
    flat, seen = candidates.flatten(2), x.flatten(1)
    a, s = schedule.a(t, seen), schedule.s(t, seen).clamp_min(LEAST_S)
    fit_ = (a * torch.bmm(flat, seen[:, :, None]).squeeze(2) - a**2 * flat.square().sum(2) / 2) / s**2
    return torch.bmm(fit_.softmax(1)[:, None], flat).reshape(x.shape)


@dataclass(frozen=True)
class DenoisingLoss:
    """The mean squared error of what a PromptDenoiser says at x_t, t ~ U{0 .. T-1} (Ho 2020); batches (x in [0, 1], ids).

    The levels of a batch are spread: one from each of B equal parts (Kingma et al. 2021, arXiv 2107.00630).
    null_probability: of a prompt dropped whole, so that guidance has something to stand against. word_probability: of each
    word dropped by itself, so that prompts that leave something open are known too. weighting: "own", the error of what the
    network says; "v", that error as one of v, whatever it says (of eps it is divided by a_t), but divided by no less than 0.2:
    then high levels, where a picture's content is decided, count as much as low ones. references: pictures whose mean, given
    x_t, is the target in place of the one picture that was noised.
    """

    null_probability: float = 0.1
    word_probability: float = 0.0
    weighting: Literal["own", "v"] = "own"
    references: References | None = None

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, ("own", "v"))
        check_number("null_probability", self.null_probability, "a probability", low=0, high=1)
        check_number("word_probability", self.word_probability, "a probability", low=0, high=1)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        images, ids = batch
        denoiser = cast(PromptDenoiser, model)
        schedule, n = denoiser.schedule, len(images)
        x0 = to_model(images)
        part = (torch.arange(n) + torch.rand(n, generator=ctx.generator)) / n
        t = (part * schedule.steps).long().clamp(max=schedule.steps - 1).to(x0.device)
        noise = normal(x0.shape, ctx.generator).to(x0)
        drop = torch.rand(n, 1, generator=ctx.generator) < self.null_probability
        drop = drop | (torch.rand(ids.shape, generator=ctx.generator) < self.word_probability)
        kept = dropped(ids, drop.to(ids.device))
        x = schedule.add_noise(x0, noise, t)
        said = model(x, t, kept)
        if self.references is not None:
            x0 = posterior_mean(schedule, x, t, self.references.draw(x0, kept, ctx.generator))
            noise = (x - schedule.a(t, x) * x0) / schedule.s(t, x).clamp_min(LEAST_S)
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
    references: int = 0,
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

    null_probability, word_probability, weighting: see `DenoisingLoss`. references: how many further pictures with the same
    words a target is a mean of (see this module's head; some 100), 0: none. Resumable with `checkpoint`, as `fit` says. It
    comes back in eval mode with the averaged weights.
    Raises InputError before anything is computed: lengths that differ, prompts the encoder cannot take.
    """
    if not isinstance(denoiser, PromptDenoiser):
        raise InputError("denoiser", type(denoiser).__name__, "a PromptDenoiser: a text encoder and a network")
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise InputError("images", getattr(images, "shape", type(images).__name__), "images (N, C, H, W) in [0, 1] or uint8")
    if len(prompts) != len(images):
        raise InputError("prompts", f"{len(prompts)} prompts", f"{len(images)}, one for each image")
    check_integer("batch_size", batch_size, high=len(images))
    check_integer("references", references, low=0)
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
        DenoisingLoss(
            null_probability, word_probability, weighting, References(to_model(pixels), ids, references) if references else None
        ),
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
