"""Sizes of the claim of robust-mlops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tutelage.claims.claim import ClaimConfig


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["digits", "mnist-10k"] = "mnist-10k"
    electricity: bool = Field(True, description="the arms electricity-... on the real stream; else on a generated one")
    n: int = Field(1500, ge=50, description="items of a trial, drawn from the test part")
    alpha: float = Field(0.05, gt=0, lt=0.5)
    delta: float = Field(0.01, ge=0, description="margin, and limit of the single comparison of means")
    drop: float = Field(0.05, gt=0, lt=1, description="planted fall of accuracy")
    psi_limit: float = Field(0.25, gt=0, description="the usual limit for action")
    models: int = Field(8, ge=2, description="nets that pairs are drawn from, each trained on its own half")
    hidden: int = Field(64, ge=2)
    epochs: int = Field(10, ge=1)
    lr: float = Field(0.002, gt=0)
    reference: int = Field(
        2000,
        ge=50,
        description="test items a unit takes as the labelled reference of its monitor; the stream draws from the others",
    )
    streams: int = Field(100, ge=1, description="units that also run the streams and the case of electricity")
    chunks: int = Field(40, ge=4)
    onset: int = Field(10, ge=1, description="chunk at which a stream changes")
    chunk: int = Field(500, ge=20)
    monitor_alpha: float = Field(0.01, gt=0, lt=0.5)
    days: int = Field(90, ge=20, description="days that a trial on electricity draws")
