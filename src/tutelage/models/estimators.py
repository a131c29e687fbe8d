"""Classifiers and pipelines of scikit-learn, or whatever has their methods, as models without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from tutelage.core.checks import check_callable, check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.models.black_box import Function, Gives

Method = Literal["predict_proba", "decision_function", "predict"]


def from_sklearn(
    estimator: Any,
    *,
    method: Method | None = None,
    classes: int | Sequence[object] | np.ndarray | None = None,
    prepare: Callable[[np.ndarray], Any] | None = None,
) -> Function:
    """A fitted classifier or pipeline of scikit-learn as a model. It has no gradients: black-box attacks only.

    method: what is asked of it; the first it has of predict_proba, decision_function and predict.
    classes: a class that was fitted on numbers from 0 is that class of the data (one that it never saw gets probability 0);
        their number, if it is not the highest plus one. A class that was fitted on other labels, such as names, has its place
        in the estimator's sorted `classes_`, as in a folder of class folders; give the names in another order here.
    prepare: makes of a batch (B, C, H, W) of float32 in [0, 1] what the estimator was fitted on. By default each image
        is laid flat, (B, C * H * W); an estimator fitted on bytes wants `lambda a: a.reshape(len(a), -1) * 255`.
    A support vector machine predicts by vote; where its scores say otherwise, the two classes change places in them.
    Raises InputError if the estimator is not fitted, is no classifier, or wants another number of features.

    Example::

        model = from_sklearn(make_pipeline(StandardScaler(), SVC()).fit(X, y))
    """
    known = [name for name in get_args(Method) if hasattr(estimator, name)]
    if method is not None:
        check_choice("method", method, get_args(Method))
        if method not in known:
            raise InputError("method", method, f"one that the {type(estimator).__name__} has: {', '.join(known) or 'none'}")
    if isinstance(estimator, type) or not known:
        name = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise InputError("estimator", name, "a fitted classifier with predict_proba, decision_function or predict")
    found = getattr(estimator, "classes_", None)
    if not isinstance(found, np.ndarray) or found.ndim != 1:
        raise InputError(
            "estimator", f"a {type(estimator).__name__} without one list of classes_", "a classifier that is fitted: call fit"
        )
    if prepare is not None:
        check_callable("prepare", prepare, "a function of a batch (B, C, H, W)")
    how: Method = method or known[0]
    if how == "decision_function" and _has(estimator, "decision_function_shape", "ovo"):
        raise InputError("estimator", 'decision_function_shape="ovo", a score a pair of classes', '"ovr", or method="predict"')
    columns, count = _columns(found, classes)
    ask = _Asked(estimator, how, found, columns, count, prepare)
    gives: Gives = "logits" if how == "decision_function" else "probabilities" if how == "predict_proba" else "labels"
    return Function(ask, gives=gives, classes=count)


class _Asked:
    """Calls a method of an estimator on images, and puts the classes of its answer where those of the data are."""

    def __init__(
        self,
        estimator: Any,
        method: Method,
        fitted: np.ndarray,
        columns: list[int],
        count: int,
        prepare: Callable[[np.ndarray], Any] | None,
    ) -> None:
        self.estimator, self.method, self.fitted, self.columns, self.count = estimator, method, fitted, columns, count
        self.prepare = prepare
        # a support vector machine predicts by a vote that its scores need not follow
        self.votes = method != "predict" and _has(estimator, "break_ties", False)
        self.__qualname__ = f"{type(estimator).__name__}.{method}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        inputs = self.prepare(images) if self.prepare else images.reshape(len(images), -1)
        wanted = getattr(self.estimator, "n_features_in_", None)
        if self.prepare is None and wanted is not None and inputs.shape[1] != wanted:
            what = f"images of {' x '.join(map(str, images.shape[1:]))} = {inputs.shape[1]} numbers"
            raise InputError("model", what, f"the {wanted} features that the estimator was fitted on, or a function `prepare`")
        if self.method == "predict":
            return self._labels(inputs, len(images))
        answer = np.asarray(getattr(self.estimator, self.method)(inputs))
        if self.method == "decision_function" and answer.shape == (len(images),):
            answer = np.stack([-answer / 2, answer / 2], 1)
        if answer.shape != (len(images), len(self.columns)):
            raise InputError("model", f"{self.method} of shape {answer.shape}", f"shape ({len(images)}, {len(self.columns)})")
        # a class that was never seen: probability 0, or a score below all others
        lowest = 0.0 if self.method == "predict_proba" else answer.min(1, keepdims=True) - 1
        placed = np.broadcast_to(lowest, (len(images), self.count)).astype(np.float64)
        placed[:, self.columns] = answer
        return _agreed(placed, self._labels(inputs, len(images))) if self.votes else placed

    def identity(self) -> str:
        """A hash over all that was fitted."""
        import joblib  # type: ignore[import-untyped]  # scikit-learn stands on it, and has loaded it

        try:
            return str(joblib.hash(self.estimator))
        except Exception:  # what holds a lambda cannot be hashed; libraries that only look like scikit-learn may raise anything
            return ""

    def _labels(self, inputs: Any, n: int) -> np.ndarray:
        answer = np.asarray(self.estimator.predict(inputs))
        if answer.shape != (n,) or not np.isin(answer, self.fitted).all():
            raise InputError("model", f"predictions of shape {answer.shape}", "one of classes_ a sample")
        return np.asarray(self.columns)[np.searchsorted(self.fitted, answer)]


def _columns(fitted: np.ndarray, classes: int | Sequence[object] | np.ndarray | None) -> tuple[list[int], int]:
    """Where each fitted class is among those of the data, and how many these are."""
    own = fitted.tolist()
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    if isinstance(classes, str | bool) or not isinstance(classes, int | Sequence | None):
        raise InputError("classes", classes, "a number of classes, or their names in the order of the data's labels")
    if isinstance(classes, Sequence):
        names = list(classes)
        if missing := [name for name in own if name not in names]:
            raise InputError("classes", f"no {missing[0]!r}", f"all that the estimator was fitted on: {own}")
        columns, count = [names.index(name) for name in own], len(names)
    elif fitted.dtype.kind in "iuf" and all(label >= 0 and label == int(label) for label in own):
        columns, count = [int(label) for label in own], int(max(own)) + 1
    else:
        columns, count = list(range(len(own))), len(own)
    if isinstance(classes, int):
        check_integer("classes", classes, low=count)
        count = classes
    if count < 2:
        raise InputError("estimator", f"classes_ {own}", "at least two classes")
    return columns, count


def _has(estimator: Any, setting: str, value: object) -> bool:
    """Whether the estimator, or one inside a pipeline or a search, has this setting."""
    try:
        settings = estimator.get_params()
    except (AttributeError, TypeError):  # only looks like scikit-learn
        return False
    return any(key.split("__")[-1] == setting and found == value for key, found in settings.items())


def _agreed(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores (B, classes) in which the class that was predicted is the highest: it changes places with the one that is."""
    rows, highest = np.arange(len(scores)), scores.argmax(1)
    scores[rows, highest], scores[rows, labels] = scores[rows, labels], scores[rows, highest]
    return scores
