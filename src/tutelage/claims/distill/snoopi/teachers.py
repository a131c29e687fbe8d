"""The three teachers and the judge of the claim, trained once for all units and kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from tutelage.claims.codehash import code_sha256
from tutelage.claims.distill.snoopi.config import Backbone, Config
from tutelage.core.cache import Cache
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator, seeded
from tutelage.data.coloured_digits import ATTRIBUTES, WORDS, ColouredDigits, coloured_digits
from tutelage.data.images import Split
from tutelage.models.diffusion.denoiser import PromptDenoiser
from tutelage.models.diffusion.nets import small_dit, small_unet
from tutelage.models.diffusion.schedule import noise_schedule
from tutelage.models.diffusion.text import WordEncoder
from tutelage.models.loading import load_weights, save_weights
from tutelage.teaching.denoising import fit_denoiser
from tutelage.teaching.schedules import warmup_cosine

JUDGE_LR = 4e-3  # chosen with the judge's accuracy on validation digits, 97.5 %


def part(config: Config, split: Split) -> ColouredDigits:
    """Digits of one split; training digits in several colourings."""
    copies = config.copies if split == "train" else 1
    return coloured_digits(split, config.size, source=config.source, copies=copies)


def fresh(config: Config, backbone: Backbone) -> PromptDenoiser:
    """An untrained teacher. The schedule is Stable Diffusion's: it ends at a = 0.07, so that a model of eps can do one step."""
    with seeded(0, "snoopi", backbone):
        text = WordEncoder(WORDS, length=4, dim=config.text_dim)
        net: nn.Module
        if backbone == "dit-eps":
            net = small_dit(
                config.size, text_dim=config.text_dim, width=config.dit_width, layers=config.dit_layers, patch=config.dit_patch
            )
        else:
            net = small_unet(config.size, text_dim=config.text_dim, widths=config.unet_widths)
        return PromptDenoiser(text, net, noise_schedule("scaled-linear"), "v" if backbone == "unet-v" else "eps").eval()


def key(config: Config, what: str, fields: Sequence[str]) -> dict[str, Any]:
    """What a net depends on. Of the code only what trains it, so that a change of the claim's sentences trains nothing anew."""
    return {
        "what": what, **{name: getattr(config, name) for name in ("source", "size", "copies", *fields)},
        "torch": torch.__version__, "threads": torch.get_num_threads(),
        "code": code_sha256("tutelage.claims.distill.snoopi.teachers"),
    }  # fmt: skip


def teacher(config: Config, backbone: Backbone, cache: Cache, progress: Progress = QUIET) -> PromptDenoiser:
    """The trained teacher of a backbone; made once."""
    if backbone == "dit-eps":
        own: tuple[str, ...] = ("dit_width", "dit_layers", "dit_patch", "dit_steps", "dit_lr")
        steps, lr = config.dit_steps, config.dit_lr
    else:
        own, steps, lr = ("unet_widths", "unet_steps", "unet_lr"), config.unet_steps, config.unet_lr
    fields = (*own, "text_dim", "teacher_batch", "teacher_ema", "word_probability", "references")

    def build(folder: Path) -> None:
        data, model = part(config, "train"), fresh(config, backbone)
        fit_denoiser(
            model, data.images, data.prompts, steps=steps, batch_size=config.teacher_batch, lr=lr,
            schedule=warmup_cosine(0.02), word_probability=config.word_probability, weighting="v", references=config.references,
            ema=config.teacher_ema, progress=progress, name=f"teacher {backbone}",
        )  # fmt: skip
        save_weights(model, folder / "teacher.safetensors")

    model = fresh(config, backbone)
    load_weights(model, cache.get("diffusion-teachers", key(config, backbone, fields), build) / "teacher.safetensors")
    return model.eval()


def _block(wide_in: int, wide_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False), nn.BatchNorm2d(wide_out), nn.ReLU()


class Judge(nn.Module):
    """A small CNN that names digit, colour and background; `features` (B, 64) are what the Frechet distance is taken in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(3, 32), *_block(32, 32), nn.MaxPool2d(2), *_block(32, 64), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(16 * 64, 64), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Linear(64, len(words)) for words in ATTRIBUTES.values())

    def features(self, x: Tensor) -> Tensor:
        """(B, 64)."""
        found: Tensor = self.body(x)
        return found

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of digit (B, 10), colour (B, 3), background (B, 2)."""
        seen = self.features(x)
        return [head(seen) for head in self.heads]


def judge(config: Config, cache: Cache) -> Judge:
    """The judge, trained on the real training digits; no teacher and no student ever sees it."""

    def empty() -> Judge:
        with seeded(0, "snoopi judge"):
            return Judge()

    def build(folder: Path) -> None:
        data, net = part(config, "train"), empty()
        optimizer = AdamW(net.parameters(), JUDGE_LR, weight_decay=0.05)
        size = min(128, len(data))
        per_epoch = len(data) // size
        for step in range(config.judge_epochs * per_epoch):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                order = torch.randperm(len(data), generator=generator(0, "judge", epoch))
            falling = 1 - step / (config.judge_epochs * per_epoch)
            optimizer.param_groups[0]["lr"] = JUDGE_LR * min(falling, (step + 1) / 50)
            images, attributes = data[order[place * size : (place + 1) * size]]
            loss = torch.stack([cross_entropy(out, attributes[:, i]) for i, out in enumerate(net(images))]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        save_weights(net, folder / "judge.safetensors")

    net = empty()
    load_weights(net, cache.get("diffusion-judges", key(config, "judge", ("judge_epochs",)), build) / "judge.safetensors")
    return net.eval()
