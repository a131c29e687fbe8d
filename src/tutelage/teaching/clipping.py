"""An optimiser that clips the gradient before each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from tutelage.core.checks import check_positive


class ClippedAdamW(AdamW):
    """AdamW that first scales the gradient of all its parameters to a 2-norm of at most `max_norm`.

    `fit` steps the optimiser it is given; so the clipping lies here. Its own `grad_norm` is logged before the clipping.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3, *, max_norm: float = 1.0, **kwargs: Any) -> None:
        check_positive("max_norm", max_norm, "a norm above 0")
        super().__init__(params, lr=lr, **kwargs)
        self.max_norm = float(max_norm)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on the clipped gradient; `closure` is called first, as torch does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.to_dense()
        torch.nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], self.max_norm)
        super().step()
        return loss
