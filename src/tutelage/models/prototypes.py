"""Class prototypes: mean features of a classifier's classes, and the features of a pass without a second one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.checks import check_inputs, check_labels, check_logits
from tutelage.models.guard import evaluating
from tutelage.models.taps.heads import find_head
from tutelage.models.taps.hooks import named, resolve


class HeadTap:
    """Runs a model once and returns what goes into its head, too: x (B, ...) -> logits (B, K), features (B, D).

    head: the name of the head in `model.named_modules()`, as `models.find_head` gives it. Modes and gradients are the
    caller's. The hook stays on the model, so that a pass costs nothing more. Raises InputError for an unknown name.
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        module, _ = resolve(named(model), head, inputs=False)
        self.model, self.head = model, head
        self._seen: Any = None
        self._handle = module.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen = args[0] if args else None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._seen = None
        logits = self.model(x)
        seen, self._seen = self._seen, None
        if isinstance(seen, Tensor) and seen.dim() > 2 and seen.shape[1] == seen[0].numel():
            seen = seen.flatten(1)
        if not isinstance(seen, Tensor) or seen.dim() != 2 or len(seen) != len(x):
            got = f"inputs of shape {tuple(seen.shape)}" if isinstance(seen, Tensor) else "no tensor as its input"
            raise InputError("head", f"{self.head!r} with {got}", "a head that gets one vector a sample, (B, D)")
        return logits, seen

    def close(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()


def class_prototypes(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, head: str | None = None, limit: int = 100_000
) -> Tensor:
    """Mean features of each class (K, D), of what goes into the head of `model` in evaluation mode; float32.

    batches: (x, y) of inputs (B, ...) in [0, 1] and labels; about `limit` samples are read. head: its name, found by running
    the model if left out. Sums are kept in float64. Raises InputError for a class without a sample, with its number.
    """
    check_integer("limit", limit)
    sums, counts, n = torch.empty(0), torch.empty(0), 0
    tap: HeadTap | None = None
    try:
        with evaluating(model), torch.no_grad():
            for x, y in batches:
                check_inputs(x)
                x = x.to(next((p.device for p in model.parameters()), x.device))
                if tap is None:
                    tap = HeadTap(model, find_head(model, x[:4]) if head is None else head)
                logits, h = tap(x)
                classes = check_logits(logits, len(x)).shape[1]
                check_labels(y, len(x), classes)
                if not n:
                    sums = torch.zeros(classes, h.shape[1], dtype=torch.float64)
                    counts = torch.zeros(classes, dtype=torch.float64)
                sums.index_add_(0, y.cpu().long(), h.cpu().double())
                counts += torch.bincount(y.cpu().long(), minlength=classes)
                n += len(x)
                if n >= limit:
                    break
    finally:
        if tap is not None:
            tap.close()
    if not n:
        raise InputError("source", "no batches", "at least one sample of every class")
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise InputError("source", f"no sample of class {', '.join(map(str, absent))}", "samples of every class")
    return (sums / counts[:, None]).float()


def nearest_prototype(prototypes: Tensor, features: Tensor) -> Tensor:
    """The class (B,) whose prototype (K, D) has the highest cosine with each of the features (B, D)."""
    return (F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T).argmax(1)
