"""The settings of the claim, for all its arms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from tutelage.claims.claim import ClaimConfig


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["mnist-10k", "mnist", "fashion-mnist", "fashion-mnist-subset", "cifar10", "cifar10-jpeg", "digits"] = (
        "mnist-10k"
    )
    pairs: str = Field("1/7 3/8", description="class pairs, majority/minority, by name or number")
    fraction: float = Field(0.75, gt=0, description="eps over the largest half mean difference (Linf) or its length (L2)")
    small_fraction: float = Field(0.5, gt=0, description="a second eps, to see growth")
    n_majority: int = Field(0, ge=0, description="images of the majority before holding out; 0 for as many as there are")
    n_test: int = Field(1000, ge=1, description="test images a class, at most")
    validation_share: float = Field(0.2, gt=0, lt=1)
    net: str = Field("", description="of the -mlp arms: package.module:function; a net of one hidden layer if empty")
    hidden: int = Field(200, ge=1)
    attack_steps: int = Field(10, ge=1, description="PGD steps of the -mlp arms")
    epochs: int = Field(40, ge=1)
    batch_size: int = Field(64, ge=1)
    rates: tuple[float, ...] = Field((0.05, 0.01, 0.002, 0.0005), description="learning rates to choose from")
    optimizer: Literal["sgd", "adam"] = "adam"
    n_gaussian: int = Field(1000, ge=10, description="samples of the majority, before holding out")
    d_gaussian: int = Field(20, ge=1)
    gaussian_fractions: tuple[float, ...] = Field((0.25, 0.5, 0.75), description="eps over the largest half mean difference")
    n_cauchy: int = Field(2000, ge=10)

    @field_validator("rates", "gaussian_fractions", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """`--set rates=0.1,0.01`."""
        return tuple(float(word) for word in value.split(",")) if isinstance(value, str) else value
