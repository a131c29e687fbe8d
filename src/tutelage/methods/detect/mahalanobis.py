"""Mahalanobis: how far are an input's features, layer by layer, from those of the nearest class?

For whoever has a trained classifier and its training data, and wants a score and a threshold that reject inputs unlike
them: from elsewhere, or attacked. Nothing is trained again; per-layer scores show where an input looks odd.

    Lee, Lee, Lee, Shin: A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
    arXiv 1807.03888 (2018), NeurIPS 2018.

f_l(x) are the features of layer l = 1..L (maps averaged over positions), in evaluation mode, y the true labels:

    m_lc = mean of f_l over class c,   S_l = 1/N sum_c sum_{y_i = c} (f_l(x_i) - m_lc)(f_l(x_i) - m_lc)^T               (1)
    M_l(x) = max_c -1/2 (f_l(x) - m_lc)^T S_l^-1 (f_l(x) - m_lc)                                                         (2)
    x' = x - eps sign(grad_x 1/2 (f_l(x) - m_lc)^T S_l^-1 (f_l(x) - m_lc)), c the nearest class of layer l              (3)
    s(x) = sum_l a_l M_l(x') + b, a and b by logistic regression on validation data, inside against outside             (4)
    one more class: its mean, and S <- C/(C+1) S + 1/(C+1) S_new, C classes before                                       (5)

Scores are higher inside. (2) has the 1/2 of a log density, which the paper leaves out: the order is the same. S gets
`shrinkage` of its mean variance on the diagonal; features that never vary within a class are left out, and `warnings` says
so. The step (3) is in the units of images in [0, 1]; its results are not cut back into that range, as in the paper (`clip`
does). Weights (4) need something to stand for the outside: real outliers (`fit_on_sets`), or attacked validation images
(`fit_on_attacks`), or nothing (`fit_standardised`: a_l = 1 / deviation of M_l, the plain sum of standardised scores).

Example::

    import tutelage
    from torch.optim import SGD
    from tutelage.auditing.detection import GuardedModel
    from tutelage.methods.detect.mahalanobis import Mahalanobis
    from tutelage.models import SmallCNN
    from tutelage.teaching import CrossEntropy

    train, validation = tutelage.fashion_mnist_subset("train").take(slice(0, 1000)).split_off(200)
    model = SmallCNN(4)  # your trained classifier
    tutelage.fit(model, CrossEntropy(), train.loader(50), epochs=1, optimizer=SGD(model.parameters(), lr=0.1))
    detector = Mahalanobis(model, ["features.3", "features.6", "features.9"]).fit(train.loader(200))
    detector.fit_standardised(detector.set_scores(validation))
    guard = GuardedModel.calibrate(detector, validation, tpr=0.95)
    label, accepted, score = guard.predict(validation.images[:8].float() / 255)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tutelage.auditing.detection.layered import LayeredDetector
from tutelage.auditing.measure import device_of
from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs, check_labels
from tutelage.models.gaussians import TiedGaussians, check_class_sizes
from tutelage.models.guard import evaluating
from tutelage.models.pooled import PooledLayers, penultimate
from tutelage.models.statistics import ClassStatistics
from tutelage.teaching.objectives import pair


class Mahalanobis(LayeredDetector):
    """Scores inputs of any classifier by (2) to (4); `fit` first.

    model: nn.Module, images (B, C, H, W) in `bounds` -> logits (B, K). layers: names of modules as in
    `model.named_modules()` ("name:input" for what goes in), such as the stem and every stage; what goes into the linear
    head if left out. shrinkage: share of the mean variance added to the diagonal of S, 0 to 1. eps: length of the step (3),
    in input units; 0 for none. clip: cut x' back into `bounds`. Without weights, s is the plain sum of M_l.
    """

    name = "mahalanobis"
    tuned = "eps"
    choices = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01)

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        shrinkage: float = 1e-6,
        eps: float = 0.0,
        clip: bool = False,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(model, layers, bounds=bounds)
        check_number("shrinkage", shrinkage, "a number from 0 to 1", low=0, high=1)
        self.shrinkage, self.clip, self.eps = float(shrinkage), bool(clip), 0.0
        self._tune(eps)
        self.gaussians: list[TiedGaussians] = []
        self.added = 0

    def _tune(self, value: float) -> None:
        check_number("eps", value, "a number >= 0, in input units", low=0)
        self.eps = float(value)

    # fitting (1)

    def fit(self, loader: DataLoader[Any], *, classes: int | None = None) -> Self:
        """Means and covariances of all layers in one pass over batches (x, y): training data without augmentation.

        y: true labels. classes: how many; as many as the model has outputs if left out. Memory: K d + d^2 a layer.
        Raises InputError for a class with fewer than 2 samples, a covariance that is singular without shrinkage, NaN in
        a layer (named); SplitError for test data.
        """
        if classes is not None:
            check_integer("classes", classes)
        if not isinstance(loader, DataLoader):
            raise InputError("loader", type(loader).__name__, "a DataLoader of batches (x, y), such as data.loader(256)")
        if isinstance(loader.dataset, ImageSet):  # its labels are at hand: told before any compute
            check_class_sizes(loader.dataset.labels, classes or len(loader.dataset.classes))
        statistics: list[ClassStatistics] = []
        with training_only(), evaluating(self.model), torch.no_grad():
            refuse_test_data(loader)
            for batch in loader:
                x, y = pair(batch)
                check_inputs(x, self.bounds)
                x = x.to(device_of(self.model))
                self.layers = self.layers or (penultimate(self.model, x),)
                logits, features = PooledLayers(self.model, self.layers)(x)
                classes = classes or logits.shape[1]
                check_labels(y, len(x), classes)
                if not statistics:
                    statistics = [ClassStatistics(classes, f.shape[1]) for f in features]
                for one, f in zip(statistics, features, strict=True):
                    one.update(f, y)
        if not statistics:
            raise InputError("loader", "no batches", "at least one")
        moments = [one.result(allow_unseen=True) for one in statistics]
        return self._take(
            [
                TiedGaussians.from_moments(m, shrinkage=self.shrinkage, name=layer)
                for m, layer in zip(moments, self.layers, strict=True)
            ]
        )

    def fit_features(self, features: Sequence[Tensor], labels: Tensor, *, classes: int | None = None) -> Self:
        """`fit` from features that are at hand: for each layer (N, d_l), labels (N,)."""
        names = self._named(features)
        return self._take(
            [
                TiedGaussians.fit(f, labels, classes=classes, shrinkage=self.shrinkage, name=name)
                for f, name in zip(features, names, strict=True)
            ]
        )

    def _take(self, gaussians: list[TiedGaussians]) -> Self:
        self.gaussians, self.added = gaussians, 0
        return self._ready(len(gaussians))

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the fit: features that are left out, covariances that only shrinkage makes invertible."""
        found = []
        for g in self.gaussians:
            if g.dropped:
                found.append(f"{g.name}: {g.dropped} of {g.dim} features never vary within a class; they are left out")
            if g.rank < len(g.kept):
                found.append(f"{g.name}: covariance of rank {g.rank} for {len(g.kept)} features, condition {g.condition:.2g}")
        return found

    # scores (2), (3)

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of each layer (B, d_l), float32 on the CPU, of inputs (B, ...)."""
        check_inputs(x, self.bounds)
        with evaluating(self.model), torch.no_grad():
            x = x.to(device_of(self.model))
            layers = self.layers or (penultimate(self.model, x),)
            return [f.cpu().float() for f in PooledLayers(self.model, layers)(x)[1]]

    def feature_scores(self, features: Sequence[Tensor]) -> Tensor:
        """M (B, L) float64 by (2), without step, of features (B, d_l) of each layer."""
        self._check_fitted()
        self._named(features)
        return torch.stack([-g.nearest(f)[0] / 2 for g, f in zip(self.gaussians, features, strict=True)], 1)

    def _layer_scores(self, x: Tensor) -> Tensor:
        """(2) and, with a step, (3), at most 0. A step costs a backward and a forward pass a layer."""
        if self.eps == 0:
            with torch.no_grad():
                return self.feature_scores(PooledLayers(self.model, self.layers)(x)[1])
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            _, features = PooledLayers(self.model, self.layers)(x)
        scores = []
        for layer, g, f in zip(self.layers, self.gaussians, features, strict=True):
            # the gradient of half the squared distance at the features is S^-1 (f - m_c): only that goes back through the net
            at = g.gradient(f, g.nearest(f)[1]).to(f)
            (grad,) = torch.autograd.grad(f, x, at, retain_graph=layer != self.layers[-1])
            moved = x.detach() - self.eps * grad.sign()  # (3)
            if self.clip and self.bounds is not None:
                moved = moved.clamp(*self.bounds)
            with torch.no_grad():
                scores.append(-g.nearest(PooledLayers(self.model, [layer])(moved)[1][0])[0] / 2)
        return torch.stack(scores, 1)

    # classes (5)

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest class of the last layer (B,) int64: discriminant analysis with equal priors, added classes included."""
        self._check_fitted()
        return self.gaussians[-1].nearest(self.features(x)[-1])[1]

    def labels(self, x: Tensor) -> Tensor:
        """The classifier's answers (B,), or the nearest classes once a class was added, which the classifier does not know."""
        return self.nearest(x) if self.added else super().labels(x)

    def add_class(self, features: Sequence[Tensor]) -> int:
        """One more class by (5) from features (n, d_l) of each layer, n >= 2 (`features(x)` gives them); returns its number.

        The network stays as it is, weights (4) too; a threshold should be set again.
        """
        self._check_fitted()
        self._named(features)
        sizes = {len(f) for f in features if isinstance(f, Tensor)}
        if len(sizes) != 1:
            raise InputError("features", f"{sorted(sizes)} samples", "as many of every layer")
        self.gaussians = [g.with_class(f) for g, f in zip(self.gaussians, features, strict=True)]
        self.added += 1
        return self.gaussians[-1].classes - 1

    # checks, and what is saved

    def _named(self, features: Sequence[Tensor]) -> list[str]:
        layers = len(self.gaussians) or len(self.layers)
        if not isinstance(features, Sequence) or len(features) == 0:
            raise InputError("features", type(features).__name__, "a list with a tensor (N, d) for each layer")
        if layers and len(features) != layers:
            raise InputError("features", f"a list of {len(features)}", f"a tensor for each of the {layers} layers")
        return list(self.layers) or [f"layer {i}" for i in range(len(features))]

    def constants(self) -> dict[str, Any]:
        return {
            "layers": list(self.layers), "shrinkage": self.shrinkage, "eps": self.eps, "clip": self.clip,
            "added": self.added, "names": [g.name for g in self.gaussians],
        }  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        found = {f"{i}.{key}": tensor for i, g in enumerate(self.gaussians) for key, tensor in g.tensors().items()}
        return {**found, "weights": self.weights, "bias": torch.tensor([self.bias], dtype=torch.float64)}

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        about = {key: constants[key] for key in ("shrinkage", "eps", "clip")}
        made = cls(model, constants["layers"] or None, **about)
        made.gaussians = [
            TiedGaussians.of(
                tensors[f"{i}.means"], tensors[f"{i}.covariance"], tensors[f"{i}.counts"], shrinkage=made.shrinkage, name=name
            )
            for i, name in enumerate(constants["names"])
        ]
        made.weights, made.bias, made.added = tensors["weights"], float(tensors["bias"]), constants["added"]
        return made
