"""Settings of the claim."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tutelage.claims.claim import ClaimConfig
from tutelage.data.coloured_digits import Source

Backbone = Literal["unet-eps", "dit-eps", "unet-v"]
BACKBONES: tuple[Backbone, ...] = ("dit-eps", "unet-eps", "unet-v")


class Config(ClaimConfig):
    """What `--set` may change."""

    source: Source = "mnist-10k"
    backbones: tuple[Backbone, ...] = Field(BACKBONES, min_length=1, description="the first one has the arms of one backbone")
    size: int = Field(8, ge=4, description="pixels of a side")
    copies: int = Field(8, ge=1, description="colourings of each training digit")
    unet_widths: tuple[int, int] = (24, 48)
    dit_width: int = Field(64, ge=8)
    dit_layers: int = Field(3, ge=1)
    dit_patch: int = Field(2, ge=1, description="pixels of a side of a token")
    text_dim: int = Field(32, ge=4)
    unet_steps: int = Field(4000, ge=1, description="of the teachers")
    unet_lr: float = Field(3e-3, gt=0)
    dit_steps: int = Field(4500, ge=1)
    dit_lr: float = Field(4e-3, gt=0)
    teacher_batch: int = Field(64, ge=1)
    teacher_ema: float = Field(0.995, gt=0, lt=1)
    word_probability: float = Field(0.15, ge=0, lt=1, description="of a word dropped while a teacher is trained")
    references: int = Field(96, ge=0, description="pictures with the same words that a teacher's target is a mean of")
    judge_epochs: int = Field(3, ge=1)
    steps: int = Field(350, ge=1, description="of a student")
    batch_size: int = Field(32, ge=1)
    lr: float = Field(3e-4, gt=0)
    lr_lora: float = Field(1e-3, gt=0)
    ema: float = Field(0.98, gt=0, lt=1)
    k_min: float = Field(0.5, ge=0)
    k_max: float = Field(4.0, ge=0)
    ablation_scale: float = Field(4.5, ge=0, description="of the teacher whose scale is not drawn")
    evaluate_every: int = Field(50, ge=1, description="steps between two points of a curve")
    n_curve: int = Field(1000, ge=10, description="pictures of a point of the curve; real ones are validation digits")
    n_test: int = Field(5000, ge=10, description="pictures of a distance; real ones are test digits")
    ddim_steps: int = Field(20, ge=1, description="of the arm teacher-many-steps")
    ddim_scale: float = Field(3.0, ge=0)
    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7)
    each: int = Field(50, ge=1, description="pictures of each pair of the removal test")
    allowed_loss: float = Field(3.0, ge=0, description="points of digit accuracy that a strength may cost on validation pairs")
