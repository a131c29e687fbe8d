"""The scores of RSCP+: a base score, transformed (7), averaged over noisy copies (2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.guarantees.conformal import Score, get_score, id_array
from tutelage.guarantees.noise import GaussianNoise, Moments, PassBudget, check_noise, monte_carlo, uniforms
from tutelage.models.checks import check_inputs, check_labels

Part = Literal["rank", "sigmoid"]


@dataclass(frozen=True, eq=False)
class PTT:
    """The post-training transformation (7) of scores in [0, 1], to [0, 1], non-decreasing.

    holdout: the sorted scores of the hold-out set. temperature: T. bias: b, 1 - alpha in the paper. parts: both, or one of
    "rank" and "sigmoid" alone; () is the identity.
    """

    holdout: Tensor
    temperature: float = 1 / 400
    bias: float = 0.9
    parts: tuple[Part, ...] = ("rank", "sigmoid")
    _table: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature, "a number > 0, such as 1/400")
        check_number("bias", self.bias, "a number in [0, 1], such as 1 - alpha", low=0, high=1)
        if not isinstance(self.parts, tuple) or any(part not in get_args(Part) for part in self.parts):
            raise InputError("parts", self.parts, 'a tuple of "rank" and "sigmoid"')
        scores = _unit("holdout", self.holdout)
        if scores.dim() != 1 or not len(scores):
            raise InputError("holdout", f"shape {tuple(scores.shape)}", "scores (n_h,), at least one")
        object.__setattr__(self, "holdout", scores.sort().values)
        ranks = torch.arange(len(scores) + 1, dtype=torch.float64) / len(scores)
        object.__setattr__(self, "_table", self._sigmoid(ranks) if "sigmoid" in self.parts else ranks)

    @classmethod
    def fit(
        cls, holdout: Tensor, *, temperature: float = 1 / 400, bias: float = 0.9, parts: tuple[Part, ...] = ("rank", "sigmoid")
    ) -> PTT:
        """From hold-out scores (n_h,), one noise draw each, as `SmoothedScore.holdout` gives them."""
        return cls(holdout, temperature, bias, parts)

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores of any shape -> transformed, float64. Each score by itself, before any mean over draws."""
        if "rank" not in self.parts:
            return self._sigmoid(scores.double()) if self.parts else scores.double()
        # the number of hold-out scores <= s says it all: the rest is looked up
        count = torch.searchsorted(self.holdout.to(scores.device), scores.double().contiguous(), right=True)
        return self._table.to(scores.device)[count]

    def _sigmoid(self, q: Tensor) -> Tensor:
        return ((q - self.bias) / self.temperature).sigmoid()


@dataclass(frozen=True, eq=False)
class SmoothedScore:
    """The Monte-Carlo mean (2) of a score over noisy copies of each input, for every label.

    model: any nn.Module, inputs -> logits. noise: sigma and seed. base: a Score or its name; one that can exceed 1 (RAPS) is
    divided by its largest value. draws: N. transform: applied to every single score, before the mean.
    """

    model: nn.Module
    noise: GaussianNoise
    base: Score | str = "hps"
    draws: int = 256
    transform: PTT | None = None
    batch_size: int = 1024
    bounds: tuple[float, float] | None = (0.0, 1.0)
    budget: PassBudget | None = None
    progress: Progress = QUIET

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise InputError("model", type(self.model).__name__, "an nn.Module that returns logits")
        check_noise(self.noise)
        check_integer("draws", self.draws, low=2)
        check_integer("batch_size", self.batch_size)
        if self.transform is not None and not isinstance(self.transform, PTT):
            raise InputError("transform", type(self.transform).__name__, "a PTT, or None")
        object.__setattr__(self, "base", get_score(self.base))

    def transformed(self, transform: PTT | None) -> SmoothedScore:
        """The same score behind a transformation."""
        return replace(self, transform=transform)

    def moments(self, x: Tensor, *, ids: Sequence[int] | Tensor | None = None, stream: str = "test") -> Moments:
        """Mean and variance (B, classes) of the scores of x (B, ...) over N draws.

        ids, stream: what the noise is tied to. Clean and attacked copies of an input with the same id meet the same draws;
        that is sound as long as whoever attacked did not know them.
        """
        moments = Moments(of=self._scored(x, ids, stream))
        self._run(x, self.draws, moments, ids, stream)
        return moments

    def every(self, x: Tensor, *, ids: Sequence[int] | Tensor | None = None, stream: str = "test") -> Tensor:
        """All scores before the transformation, (B, N, classes) float32 on the CPU: to try several transformations."""
        parts: dict[int, list[Tensor]] = {}
        score = self.transformed(None)._scored(x, ids, stream)
        self._run(x, self.draws, lambda rows, z: parts.setdefault(rows.start, []).append(score(rows, z).cpu()), ids, stream)
        return torch.cat([torch.cat(parts[row], 1) for row in sorted(parts)])

    def holdout(self, x: Tensor, y: Tensor, *, ids: Sequence[int] | Tensor | None = None) -> Tensor:
        """Scores (n_h,) of hold-out points and their labels, one noise draw each, before any transformation: for `PTT.fit`."""
        found: list[Tensor] = []
        score = self.transformed(None)._scored(x, ids, "hold-out")

        def pick(rows: slice, logits: Tensor) -> None:
            check_labels(y, len(x), logits.shape[2])
            own = y[rows].long().to(logits.device)[:, None, None]
            found.append(score(rows, logits).gather(2, own).flatten().cpu())

        check_inputs(x, self.bounds)
        check_labels(y, len(x))
        self._run(x, 1, pick, ids, "hold-out")
        return torch.cat(found)

    def _run(self, x: Tensor, draws: int, reduction: Any, ids: Sequence[int] | Tensor | None, stream: str) -> None:
        monte_carlo(
            self.model, x, self.noise.fresh(stream), draws=draws, into=[reduction], ids=ids, batch_size=self.batch_size,
            bounds=self.bounds, budget=self.budget, progress=self.progress, name=f"smoothed scores, {stream}",
        )  # fmt: skip

    def _scored(self, x: Tensor, ids: Sequence[int] | Tensor | None, stream: str) -> Any:
        """(rows, logits (E, m, classes)) -> scores in [0, 1], transformed. The u of an example is the same in all its draws."""
        base = get_score(self.base)
        n = len(x) if isinstance(x, Tensor) and x.dim() else 0
        u = uniforms(self.noise.seed, f"score/{stream}", id_array(ids, n)) if base.randomized else None

        def score(rows: slice, logits: Tensor) -> Tensor:
            examples, m, classes = logits.shape
            own_u = None if u is None else np.repeat(u[rows], m)
            scores = base.all(logits.flatten(0, 1).softmax(1), own_u) / base.upper(classes)
            if not bool(torch.isfinite(scores).all()):
                raise InputError("base", f"NaN or infinity from {base.name}", "a score from 0 to its upper value")
            # sums of probabilities may round to just outside
            scores = scores.clamp_(0, 1).reshape(examples, m, classes)
            return scores if self.transform is None else self.transform(scores)

        return score


def _unit(argument: str, scores: object) -> Tensor:
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise InputError(argument, type(scores).__name__, "a tensor of scores in [0, 1]")
    values = scores.detach().cpu().double()
    if values.numel() and not (float(values.min()) >= 0 and float(values.max()) <= 1):
        raise InputError(argument, f"values from {float(values.min()):g} to {float(values.max()):g}", "scores in [0, 1]")
    return values
