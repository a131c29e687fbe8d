"""What the claim of RSCP+ can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tutelage.claims.claim import ClaimConfig


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["digits", "cifar10"] = "digits"
    n_train: int = Field(900, ge=2, description="of the digits; CIFAR-10 has its own training data")
    n_pool: int = Field(0, ge=0, description="images for hold-out, calibration and test; 0 for all that are left")
    n_holdout: int = Field(100, ge=1)
    holdouts: int = Field(5, ge=1, description="hold-out sets drawn one after the other")
    splits: int = Field(40, ge=1, description="calibration/test splits for each of them")
    eps: float = Field(0.25, gt=0, description="L2")
    sigma: float = Field(0.5, gt=0)
    alpha: float = Field(0.1, gt=0, lt=1)
    beta: float = Field(0.001, gt=0)
    draws: int = Field(256, ge=2)
    temperature: float = Field(1 / 400, gt=0, description="T of PTT; its bias is 1 - alpha")
    net: str = Field("mlp", description="mlp, resnet-110, a net of recipes.NETS, or package.module:function")
    weights: str = Field("", description="safetensors; trained here with noise if empty")
    epochs: int = Field(150, ge=1)
    lr: float = Field(0.2, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(64, ge=1)
    attack_steps: int = Field(20, ge=1)
    attack_draws: int = Field(32, ge=1)
    rct_epochs: int = Field(600, ge=1)
    rct_lr: float = Field(0.05, gt=0)
    rct_batch_size: int = Field(150, ge=2)
    rct_size_weight: float = Field(1.0, ge=0)
    rct_temperature: float = Field(0.1, gt=0)
    flaw_draws: int = Field(16, ge=2, description="of the generated arms")
    flaw_points: int = Field(1000, ge=20, description="calibration, and as many test points, of the generated arms")
