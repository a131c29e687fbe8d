"""Means and tied covariance of features by class, in one pass over data that do not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.models.checks import check_labels


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Counts (K,) int64, means (K, d) and tied covariance (d, d), float64 on the CPU, in units of the features.

    `unseen` are classes without a sample: their count is 0 and their mean NaN.
    """

    counts: Tensor
    means: Tensor
    covariance: Tensor
    unseen: tuple[int, ...] = ()


class ClassStatistics:
    """Streaming class statistics: `update` with batches, `merge` those of other workers, then `result`.

    >>> statistics = ClassStatistics(classes=10, dim=64)
    >>> for x, y in loader:
    ...     statistics.update(split.features(x), y)
    >>> moments = statistics.result()

    Means and within-class scatter are kept in float64 and joined by the pairwise update of Chan, Golub & LeVeque (1983),
    so that a large offset of the features costs no digits. The order and the size of batches matter only up to rounding.
    """

    def __init__(self, classes: int, dim: int) -> None:
        for argument, value in (("classes", classes), ("dim", dim)):
            if not isinstance(value, int) or value < 1:
                raise InputError(argument, value, "a positive integer")
        self.classes, self.dim = classes, dim
        self._counts = torch.zeros(classes, dtype=torch.int64)
        self._means = torch.zeros(classes, dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (B, dim) floating point and finite, on any device; labels (B,) integers from 0.

        Gradients are not followed. Raises InputError, before anything is added.
        """
        if not isinstance(features, Tensor) or features.dim() != 2 or features.shape[1] != self.dim:
            got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise InputError("features", got, f"a tensor of shape (B, {self.dim})")
        if not features.is_floating_point():
            raise InputError("features", f"dtype {features.dtype}", "floating point")
        check_labels(labels, features.shape[0], name="labels")
        if len(labels) and int(labels.max()) >= self.classes:
            raise InputError("labels", f"label {int(labels.max())}", f"labels from 0 to {self.classes - 1}")
        # on the CPU, as some accelerators have no float64
        x, y = features.detach().cpu().double(), labels.detach().cpu().long()
        if not bool(torch.isfinite(x).all()):
            raise InputError("features", "NaN or infinity", "finite numbers")
        counts = torch.bincount(y, minlength=self.classes)
        means = torch.zeros_like(self._means).index_add_(0, y, x) / counts.clamp(min=1)[:, None]
        centred = x - means[y]
        # what rounding of the means leaves is taken out once more
        correction = torch.zeros_like(means).index_add_(0, y, centred) / counts.clamp(min=1)[:, None]
        means += correction
        centred -= correction[y]
        self._join(counts, means, centred.T @ centred)

    def merge(self, other: ClassStatistics) -> None:
        """Add what `other` has seen, as if its batches had come here. Raises InputError for other classes or dimensions."""
        if not isinstance(other, ClassStatistics) or (other.classes, other.dim) != (self.classes, self.dim):
            got = f"{other.classes} x {other.dim}" if isinstance(other, ClassStatistics) else type(other).__name__
            raise InputError("other", got, f"ClassStatistics of {self.classes} classes x {self.dim} features")
        self._join(other._counts, other._means, other._scatter)

    def _join(self, counts: Tensor, means: Tensor, scatter: Tensor) -> None:
        total = self._counts + counts
        share = counts.double() / total.clamp(min=1)
        gap = means - self._means
        weight = (self._counts.double() * share)[:, None]  # n m / (n + m): zero where one side has not seen the class
        self._scatter += scatter + (gap * weight).T @ gap
        self._means += gap * share[:, None]
        self._counts = total

    def result(self, *, unbiased: bool = False, allow_unseen: bool = False) -> ClassMoments:
        """The moments so far. Covariance: within-class scatter over all classes, divided by the number of samples n.

        That is the tied maximum-likelihood estimate, as in Lee et al. (2018, arXiv 1807.03888, equation 1);
        unbiased: divided by n minus the number of classes seen. allow_unseen: give classes without a sample the mean NaN
        and list them in `unseen`; otherwise they raise InputError, as do no samples, or too few to be unbiased.
        """
        unseen = tuple(torch.nonzero(self._counts == 0).flatten().tolist())
        n = int(self._counts.sum())
        if n == 0:
            raise InputError("features", "no samples", "at least one update before the result")
        if unseen and not allow_unseen:
            listed = ", ".join(map(str, unseen[:10])) + (", …" if len(unseen) > 10 else "")
            raise InputError("labels", f"no sample of class {listed}", "samples of every class, or allow_unseen=True")
        degrees = n - (self.classes - len(unseen)) if unbiased else n
        if degrees < 1:
            raise InputError("unbiased", f"{n} samples of as many classes", "more samples than classes")
        means = self._means.clone()
        means[list(unseen)] = torch.nan
        covariance = self._scatter / degrees
        return ClassMoments(self._counts.clone(), means, (covariance + covariance.T) / 2, unseen)

    def state_dict(self) -> dict[str, Any]:
        """Tensors `counts`, `means`, `scatter`, for a checkpoint."""
        return {"counts": self._counts.clone(), "means": self._means.clone(), "scatter": self._scatter.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises InputError where names or shapes do not fit."""
        own = self.state_dict()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                got = f"shape {tuple(state[name].shape)}" if name in state else "nothing"
                raise InputError(f"state[{name!r}]", got, f"shape {tuple(tensor.shape)}")
        self._counts, self._means, self._scatter = (state[name].clone().to(own[name]) for name in own)
