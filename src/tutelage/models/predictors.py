"""Any classifier as one function: values -> probabilities, in batches, counted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.models.guard import evaluating

Probabilities = npt.NDArray[np.float64]


class Predictor:
    """What a classifier says about texts (or other values): probabilities (n, C), float64, columns in the order of `labels`.

    model: one of
    - a callable of a list of values that returns probabilities (n, C), or n labels (then each gets probability 1);
    - a scikit-learn classifier or pipeline that takes the values (`predict_proba`, else `predict`);
    - a text-classification pipeline of transformers;
    - an `nn.Module` of stacked float32 arrays that returns logits, evaluated without gradients.
    labels: the classes; a scikit-learn model and a pipeline know theirs, and must have them all.
    calls and asked count how often the model was called and how many values it saw.

    Raises InputError for answers that are no probabilities.
    """

    def __init__(self, model: Any, labels: Sequence[Hashable], *, batch_size: int = 32, name: str = "model") -> None:
        if isinstance(labels, str) or not isinstance(labels, Sequence) or len(set(labels)) != len(labels) or len(labels) < 2:
            raise InputError("labels", labels, "a list of at least 2 different labels")
        check_integer("batch_size", batch_size)
        self.model, self.labels, self.batch_size, self.name = model, list(labels), batch_size, name
        self.calls = self.asked = 0
        self._place = {label: i for i, label in enumerate(self.labels)}
        self._ask = self._adapted(model)

    def __call__(self, values: Sequence[Any]) -> Probabilities:
        """(n, C) probabilities of n values, asked `batch_size` at a time."""
        parts = [self._batch(values[i : i + self.batch_size]) for i in range(0, len(values), self.batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)))

    def place(self, label: Hashable) -> int:
        """The column of a label."""
        if label not in self._place:
            raise InputError("label", label, f"one of {', '.join(map(str, self.labels))}")
        return self._place[label]

    def _batch(self, values: Sequence[Any]) -> Probabilities:
        self.calls += 1
        self.asked += len(values)
        answer = self._ask(list(values))
        found = answer if isinstance(answer, np.ndarray) else np.asarray(_plain(answer))
        if found.ndim == 1 and len(found) == len(values):
            given = [one.item() if isinstance(one, np.generic) else one for one in found]
            result = np.zeros((len(values), len(self.labels)))
            result[np.arange(len(values)), [self.place(one) for one in given]] = 1.0
            return result
        wanted = (len(values), len(self.labels))
        if found.shape != wanted:
            raise InputError(
                self.name, f"an answer of shape {found.shape}", f"probabilities of shape {wanted}, or {wanted[0]} labels"
            )
        result = found.astype(np.float64)
        sums = result.sum(1)
        if not np.isfinite(result).all() or result.min() < -1e-6 or np.abs(sums - 1).max() > 1e-3:
            raise InputError(
                self.name, f"rows that sum to {sums.min():.3g} ... {sums.max():.3g}", "probabilities that sum to 1"
            )
        return result

    def _adapted(self, model: Any) -> Any:
        from torch import nn

        if isinstance(model, nn.Module):
            return self._from_module
        if hasattr(model, "predict_proba") or (hasattr(model, "predict") and not callable(model)):
            return self._from_estimator
        if hasattr(model, "tokenizer") and hasattr(model, "task") and callable(model):
            return self._from_pipeline
        if not callable(model):
            raise InputError(self.name, type(model).__name__, "a callable, a scikit-learn model, a pipeline or an nn.Module")
        return model

    def _from_module(self, values: list[Any]) -> Probabilities:
        import torch

        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with torch.no_grad(), evaluating(self.model):
            logits = self.model(torch.from_numpy(np.stack([np.asarray(v, np.float32) for v in values])).to(device))
        result: Probabilities = torch.softmax(logits.double(), 1).cpu().numpy()
        return result

    def _from_estimator(self, values: list[Any]) -> Any:
        if not hasattr(self.model, "predict_proba"):
            return np.asarray(self.model.predict(values))
        classes = [one.item() if isinstance(one, np.generic) else one for one in self.model.classes_]
        if set(classes) != set(self.labels):
            raise InputError("labels", self.labels, f"the classes of the model, {classes}")
        found = np.asarray(self.model.predict_proba(values), np.float64)
        return found[:, [classes.index(label) for label in self.labels]]

    def _from_pipeline(self, values: list[Any]) -> Probabilities:
        answers = self.model(values, top_k=None, truncation=True)
        result = np.full((len(values), len(self.labels)), math.nan)
        for i, answer in enumerate(answers):
            for one in answer:
                if one["label"] not in self._place:
                    raise InputError("labels", self.labels, f"the labels of the pipeline; it also has {one['label']!r}")
                result[i, self._place[one["label"]]] = one["score"]
        return result


def _plain(answer: Any) -> Any:
    if answer is None:
        raise MissingError("the model returned nothing")
    detached = getattr(answer, "detach", None)
    return detached().cpu().numpy() if detached is not None else answer
