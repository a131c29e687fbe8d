"""Detectors with one score a layer, and how the layers are put together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from tutelage.auditing.detection.attacked import attacked_pairs
from tutelage.auditing.detection.metrics import detection_metrics
from tutelage.auditing.detection.scores import Detector, batches
from tutelage.auditing.detection.weights import LEAST, logistic_weights
from tutelage.auditing.measure import device_of
from tutelage.core.errors import InputError
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs
from tutelage.models.guard import evaluating
from tutelage.models.pooled import PooledLayers
from tutelage.threats.engine import Attack


class LayeredDetector(Detector):
    """s(x) = sum_l a_l M_l(x) + b, with M_l the score of layer l; without weights a_l = 1, b = 0.

    layers: names of modules as in `model.named_modules()` ("name:input" for what goes in), such as the stem and every stage;
    what goes into the linear head if left out. A subclass writes `_layer_scores`, calls `_ready` when it is fitted, and names
    the constant that is chosen on validation data together with the weights.
    """

    tuned: ClassVar[str]
    choices: ClassVar[tuple[float, ...]]

    def __init__(
        self, model: nn.Module, layers: Sequence[str] | None, *, bounds: tuple[float, float] | None = (0.0, 1.0)
    ) -> None:
        super().__init__(model, bounds=bounds)
        if layers is not None:
            PooledLayers(model, layers)
        self.layers: tuple[str, ...] = tuple(layers or ())
        self.weights, self.bias = torch.empty(0, dtype=torch.float64), 0.0

    @abstractmethod
    def _layer_scores(self, x: Tensor) -> Tensor:
        """x (B, ...) on the model's device, checked -> (B, L) float64 on the CPU. The model is in evaluation mode."""

    def _ready(self, layers: int) -> Self:
        self.weights, self.bias = torch.ones(layers, dtype=torch.float64), 0.0
        return self

    def layer_scores(self, x: Tensor) -> Tensor:
        """M (B, L) float64 of inputs (B, ...), higher = more inside."""
        self._check_fitted()
        check_inputs(x, self.bounds)
        with evaluating(self.model):
            return self._layer_scores(x.to(device_of(self.model)))

    def set_scores(self, data: ImageSet, *, batch_size: int = 256) -> Tensor:
        """M (N, L) of a whole set, in its order."""
        return torch.cat([self.layer_scores(x) for x, _ in batches(data, batch_size)])

    def _score(self, x: Tensor) -> Tensor:
        self._check_fitted()
        return self.combine(self._layer_scores(x))

    def combine(self, scores: Tensor) -> Tensor:
        """s (B,) from M (B, L) by the weights that are set."""
        self._check_scores("scores", scores, 1)
        return scores.double() @ self.weights + self.bias

    def fit_ensemble(self, inside: Tensor, outside: Tensor) -> Self:
        """Weights by logistic regression from validation scores M: (N, L) of inside and (M, L) of outside samples.

        s is then the log odds of inside. The penalty is chosen by 5-fold cross-validation, on scores that are standardised
        first. Raises InputError for fewer than 10 samples on a side.
        """
        self._check_scores("inside", inside, LEAST)
        self._check_scores("outside", outside, LEAST)
        self.weights, self.bias = logistic_weights(inside, outside)
        return self

    def fit_standardised(self, inside: Tensor) -> Self:
        """Weights without any outside sample: s is the sum over layers of M, less its mean, over its deviation."""
        self._check_scores("inside", inside, 2)
        deviation = inside.double().std(0).clamp_min(1e-12)
        self.weights, self.bias = 1 / deviation, -float((inside.double().mean(0) / deviation).sum())
        return self

    def fit_on_sets(
        self, inside: ImageSet, outside: ImageSet, *, choices: Sequence[float] | None = None, batch_size: int = 256
    ) -> Self:
        """Weights, and the constant `tuned`, from validation sets of at least 20 samples.

        Of the choices the one of best TNR at TPR 95 % is taken, of equal ones that of the higher AUROC, then the smallest:
        every second sample fits the weights, the others judge. Then all samples fit the weights. To what `outside` holds
        the detector is fitted: do not call its results on the same kind of outliers "unseen". Test data raise SplitError.
        """
        self._check_fitted()
        values = sorted(self.choices if choices is None else choices)
        if not values:
            raise InputError("choices", choices, f"at least one value of {self.tuned}")
        for argument, data in (("inside", inside), ("outside", outside)):
            if isinstance(data, ImageSet) and len(data) < 2 * LEAST:
                raise InputError(argument, f"{len(data)} samples", f"at least {2 * LEAST}")
        before, scored = getattr(self, self.tuned), []
        try:
            with training_only():
                refuse_test_data(inside)
                refuse_test_data(outside)
                for value in values:
                    self._tune(value)
                    scored.append([self.set_scores(data, batch_size=batch_size) for data in (inside, outside)])
            best = max(range(len(values)), key=lambda i: (*_half_and_half(*scored[i]), -i)) if len(values) > 1 else 0
            self.fit_ensemble(*scored[best])
        except BaseException:
            self._tune(before)
            raise
        self._tune(values[best])
        return self

    def _tune(self, value: float) -> None:
        setattr(self, self.tuned, value)

    def fit_on_attacks(
        self,
        validation: ImageSet,
        attack: Attack,
        *,
        choices: Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int = 256,
    ) -> Self:
        """`fit_on_sets` without outliers: validation images that `attack` breaks stand for the outside, attacked.

        validation: labelled inside data that the model was not trained on; only images that the model gets right count.
        attack: FGSM in Lee et al.; it is run to its end. Raises InputError if it breaks fewer than 20.
        """
        self._check_fitted()
        with training_only():
            refuse_test_data(validation)
            found = attacked_pairs(self.model, validation, attack, seed=seed, batch_size=batch_size)
        if len(found) < 2 * LEAST:
            wanted = f"one that breaks at least {2 * LEAST}: a larger eps, or more images"
            raise InputError("attack", f"one that breaks {len(found)} of {found.total} images", wanted)
        inside, outside = (replace(validation, images=x, labels=found.labels) for x in (found.clean, found.attacked))
        return self.fit_on_sets(inside, outside, choices=choices, batch_size=batch_size)

    def _check_fitted(self) -> None:
        if not len(self.weights):
            raise InputError("detector", "one that was not fitted", "fit(loader) first")

    def _check_scores(self, argument: str, scores: object, least: int) -> None:
        self._check_fitted()
        layers = len(self.weights)
        if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] != layers:
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(argument, got, f"scores (N, {layers}), a column for each layer")
        if len(scores) < least or not bool(torch.isfinite(scores).all()):
            got = f"{len(scores)} samples" if len(scores) < least else "NaN or infinity"
            raise InputError(argument, got, f"finite scores of at least {least} samples")


def _half_and_half(inside: Tensor, outside: Tensor) -> tuple[float, float]:
    """(TNR at TPR 95 %, AUROC) on every second sample of weights fitted on the others."""
    weights, bias = logistic_weights(inside[::2], outside[::2])
    found = detection_metrics(inside[1::2] @ weights + bias, outside[1::2] @ weights + bias)
    return found.tnr, found.auroc
