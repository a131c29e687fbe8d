"""One Gaussian for each class with a covariance that all classes share: fitting, distances, their gradients.

    m_c = mean of the features of class c,   S = 1/N sum_c sum_{y_i = c} (f_i - m_c)(f_i - m_c)^T                 (1)
    d^2_c(f) = (f - m_c)^T (S + l I)^-1 (f - m_c),   l = shrinkage tr(S) / d                                      (2)

(1) is Lee et al. (2018, arXiv 1807.03888, equation 1), the fit of linear discriminant analysis. Everything is float64 on
the CPU. With the Cholesky factor L of S + l I, features are whitened once, z = L^-1 f, and all K distances of N samples
are one matrix product, instead of K quadratic forms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.models.checks import check_labels
from tutelage.models.statistics import ClassMoments, ClassStatistics

ROWS = 8192  # rows worked on at once: 64 MB a copy at 1024 features


@dataclass(frozen=True, eq=False)
class TiedGaussians:
    """means (K, d), covariance (d, d) before shrinkage, counts (K,); float64.

    kept: (d',) the features that vary within classes; the others are left out of every distance, as a unit that never
    fires in training would otherwise decide alone. factor: (d', d') lower Cholesky factor of (2), condition: its
    condition number. rank: of the covariance. name: of the layer, for messages.
    """

    means: Tensor
    covariance: Tensor
    counts: Tensor
    shrinkage: float
    kept: Tensor
    factor: Tensor
    whitened: Tensor
    rank: int
    condition: float
    name: str = "features"

    @classmethod
    def of(
        cls, means: Tensor, covariance: Tensor, counts: Tensor, *, shrinkage: float = 1e-6, name: str = "features"
    ) -> TiedGaussians:
        """From means and covariance. Raises InputError for a covariance that is singular without shrinkage."""
        check_number("shrinkage", shrinkage, "a number from 0 to 1", low=0, high=1)
        variance = covariance.diagonal()
        # below rounding of the means it is noise, not variance
        floor = (means.abs().amax(0) * torch.finfo(torch.float64).eps * 16) ** 2
        kept = (variance > floor).nonzero().squeeze(1)
        if not len(kept):
            raise InputError("features", f"{name!r} without variance inside any class", "features that vary")
        part = covariance[kept][:, kept]
        values = torch.linalg.eigvalsh(part)
        rank = int((values > values[-1] * len(kept) * torch.finfo(torch.float64).eps).sum())
        if shrinkage == 0 and rank < len(kept):
            got = f"0, with a covariance of rank {rank} for the {len(kept)} features of {name!r}"
            raise InputError("shrinkage", got, "a number above 0 such as 1e-6, or more samples")
        ridge = shrinkage * float(variance[kept].mean())
        factor = torch.linalg.cholesky(part + ridge * torch.eye(len(kept), dtype=torch.float64))
        low = max(float(values[0]), 0.0) + ridge
        whitened = _solve(factor, means[:, kept] - means[:, kept].mean(0))
        return cls(
            means, covariance, counts, float(shrinkage), kept, factor, whitened, rank, (float(values[-1]) + ridge) / low, name
        )

    @classmethod
    def fit(
        cls, features: Tensor, labels: Tensor, *, classes: int | None = None, shrinkage: float = 1e-6, name: str = "features"
    ) -> TiedGaussians:
        """From features (N, d) and integer labels (N,). classes: 1 + the largest label if left out.

        Raises InputError, before any compute: NaN, a class with fewer than 2 samples, without shrinkage fewer than d + K
        samples.
        """
        check_features(features, name=name)
        check_labels(labels, len(features), name="labels")
        classes = int(labels.max()) + 1 if classes is None else classes
        check_integer("classes", classes)
        check_class_sizes(labels, classes)
        n, d = features.shape
        if shrinkage == 0 and n < d + classes:
            got = f"0, with {n} samples of {classes} classes for the {d} features of {name!r}"
            raise InputError("shrinkage", got, "a number above 0 such as 1e-6, or at least d + K samples")
        statistics = ClassStatistics(classes, d)
        for start in range(0, n, ROWS):
            statistics.update(features[start : start + ROWS], labels[start : start + ROWS])
        return cls.from_moments(statistics.result(), shrinkage=shrinkage, name=name)

    @classmethod
    def from_moments(cls, moments: ClassMoments, *, shrinkage: float = 1e-6, name: str = "features") -> TiedGaussians:
        """From streamed statistics. Raises InputError for a class with fewer than 2 samples."""
        if few := [str(c) for c, n in enumerate(moments.counts.tolist()) if n < 2]:
            raise InputError(
                "labels", f"fewer than 2 samples of class {', '.join(few[:10])}", "2 samples or more of every class"
            )
        return cls.of(moments.means, moments.covariance, moments.counts, shrinkage=shrinkage, name=name)

    @property
    def classes(self) -> int:
        return len(self.means)

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def dropped(self) -> int:
        """How many features are left out as they never vary."""
        return self.dim - len(self.kept)

    def distances(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distances (2) of features (N, d) to every class, (N, K) float64 >= 0."""
        check_features(features, self.dim, self.name)
        parts = [self._distances(self._whiten(part)) for part in torch.split(features, ROWS)]
        return torch.cat(parts)

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(squared distance to the nearest class (N,) float64, that class (N,) int64) of features (N, d)."""
        check_features(features, self.dim, self.name)
        nearest, labels = [], []
        for part in torch.split(features, ROWS):
            z = self._whiten(part)
            label = self._distances(z).argmin(1)
            # the expanded square loses digits near a mean, where the distance is wanted most: worked out again, plainly
            nearest.append((z - self.whitened[label]).square().sum(1))
            labels.append(label)
        return torch.cat(nearest), torch.cat(labels)

    def gradient(self, features: Tensor, labels: Tensor) -> Tensor:
        """Gradient of half the squared distance to the class of `labels` (N,), with respect to features (N, d): float64."""
        z = self._whiten(features) - self.whitened[labels]
        inner = torch.linalg.solve_triangular(self.factor.T, z.T, upper=True).T
        return torch.zeros(len(z), self.dim, dtype=torch.float64).index_copy_(1, self.kept, inner)

    def with_class(self, features: Tensor) -> TiedGaussians:
        """One more class from its features (n, d), n >= 2: its mean, and S <- C/(C+1) S + 1/(C+1) S_new, C classes so far."""
        check_features(features, self.dim, self.name)
        if len(features) < 2:
            raise InputError("features", f"{len(features)} sample of {self.name!r}", "2 samples or more of the new class")
        x, c = features.detach().cpu().double(), self.classes
        mean = x.mean(0)
        scatter = (x - mean).T @ (x - mean) / len(x)
        return TiedGaussians.of(
            torch.cat([self.means, mean[None]]), (c * self.covariance + scatter) / (c + 1),
            torch.cat([self.counts, torch.tensor([len(x)])]), shrinkage=self.shrinkage, name=self.name,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What `of` needs to make it again."""
        return {"means": self.means, "covariance": self.covariance, "counts": self.counts}

    def _whiten(self, features: Tensor) -> Tensor:
        x = features.detach().cpu().double()
        if self.dropped:
            x = x[:, self.kept]
        return _solve(self.factor, x - self.means[:, self.kept].mean(0))

    def _distances(self, z: Tensor) -> Tensor:
        square = z.square().sum(1, keepdim=True) + self.whitened.square().sum(1)
        return torch.addmm(square, z, self.whitened.T, alpha=-2).clamp_min(0)


def _solve(factor: Tensor, rows: Tensor) -> Tensor:
    """L^-1 applied to each row."""
    solved: Tensor = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
    return solved


def check_features(features: object, dim: int | None = None, name: str = "features") -> None:
    """Finite floating-point features (N, d), N >= 1; otherwise an InputError with the layer's name."""
    columns = "d" if dim is None else dim
    if not isinstance(features, Tensor) or features.dim() != 2 or 0 in features.shape or dim not in (None, features.shape[1]):
        got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise InputError("features", f"{got} for {name!r}", f"a tensor (N, {columns})")
    if not features.is_floating_point():
        raise InputError("features", f"dtype {features.dtype} for {name!r}", "floating point")
    if not bool(torch.isfinite(features).all()):
        raise InputError("features", f"NaN or infinity in {name!r}", "finite numbers")


def check_class_sizes(labels: Tensor, classes: int) -> None:
    """At least 2 samples of each class, none of others; otherwise an InputError."""
    if int(labels.max()) >= classes:
        raise InputError("labels", f"label {int(labels.max())}", f"labels from 0 to {classes - 1}")
    counts = torch.bincount(labels.cpu().long(), minlength=classes)
    if len(few := (counts < 2).nonzero().flatten().tolist()):
        listed = ", ".join(map(str, few[:10])) + (", …" if len(few) > 10 else "")
        raise InputError("labels", f"fewer than 2 samples of class {listed}", "2 samples or more of every class")
