"""Detectors: what all of them share, and the ones that need nothing but the classifier or its last features.

MaxSoftmax          s(x) = max_c p_c(x)                            Hendrycks & Gimpel 2017, arXiv 1610.02136
Energy              s(x) = T log sum_c exp(z_c(x) / T)             Liu et al. 2020, arXiv 2010.03759
ODIN                s(x) = max_c p_c(x'; T),  x' = x + eps sign(grad_x log max_c p_c(x; T))
                                                                   Liang et al. 2018, arXiv 1706.02690
NearestNeighbours   s(x) = -|u(x) - u_(k)|, u = f / |f|, u_(k) the k-th nearest training feature
                                                                   Sun et al. 2022, arXiv 2204.06507
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tutelage.auditing.measure import device_of
from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_tensors, sha256_text, write_atomic, write_json
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs, run_model
from tutelage.models.guard import evaluating
from tutelage.models.loading import fingerprint
from tutelage.models.pooled import PooledLayers, penultimate
from tutelage.teaching.objectives import pair

FORMAT = "tutelage-detector-1"
CONSTANTS, TENSORS = "detector.json", "detector.safetensors"


class Detector(ABC):
    """A score for each input of a classifier, higher for what looks like its training data.

    model: nn.Module, inputs (B, ...) -> logits (B, classes); it is used in evaluation mode and never changed. bounds: the
    range of valid inputs, None for any. A subclass writes `_score`, and names what it was made of in `constants` (JSON) and
    `tensors`, so that `save` and `load` work.
    """

    name: ClassVar[str]

    def __init__(self, model: nn.Module, *, bounds: tuple[float, float] | None = (0.0, 1.0)) -> None:
        if not isinstance(model, nn.Module):
            raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
        self.model, self.bounds = model, bounds

    @abstractmethod
    def _score(self, x: Tensor) -> Tensor:
        """x (B, ...) on the model's device, checked -> (B,). The model is in evaluation mode."""

    def score(self, x: Tensor) -> Tensor:
        """Scores (B,) float64 on the CPU of inputs (B, ...), higher = more like the training data.

        Raises InputError for inputs that are no such batch, and for a detector that must be fitted first.
        """
        check_inputs(x, self.bounds)
        with evaluating(self.model):
            return self._score(x.to(device_of(self.model))).detach().cpu().double()

    def scores(self, data: ImageSet, *, batch_size: int = 256) -> Tensor:
        """Scores (N,) of a whole set, in its order."""
        return torch.cat([self.score(x) for x, _ in batches(data, batch_size)])

    def labels(self, x: Tensor) -> Tensor:
        """The classifier's answers (B,) int64 on the CPU."""
        check_inputs(x, self.bounds)
        with evaluating(self.model), torch.no_grad():
            return run_model(self.model, x.to(device_of(self.model))).argmax(1).cpu()

    def constants(self) -> dict[str, Any]:
        """What it was made with, as JSON; what it learned is in `tensors`."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    @abstractmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The opposite of `constants` and `tensors`."""

    def fingerprint(self) -> str:
        """SHA-256 of detector and model."""
        parts = [type(self).__name__, json.dumps(self.constants(), sort_keys=True), sha256_tensors(self.tensors())]
        return sha256_text("\n".join([*parts, fingerprint(self.model)]))

    def save(self, folder: Path | str) -> None:
        """Write constants (JSON) and tensors (safetensors) into a folder. The model is not in it, only its fingerprint."""
        folder = Path(folder)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors().items()}
        write_atomic(folder / TENSORS, save(tensors))
        about = {"format": FORMAT, "kind": type(self).__name__, "constants": self.constants(), "bounds": self.bounds}
        write_json(folder / CONSTANTS, {**about, "model": fingerprint(self.model), "tensors": sha256_tensors(tensors)})

    @classmethod
    def load(cls, folder: Path | str, model: nn.Module) -> Self:
        """What `save` wrote, for the same model: another one, another kind or damaged files raise InputError."""
        folder = Path(folder)
        if not (folder / CONSTANTS).is_file() or not (folder / TENSORS).is_file():
            raise MissingError(f"detector: {folder} holds no {CONSTANTS} and {TENSORS}")
        try:
            about, tensors = json.loads((folder / CONSTANTS).read_text(encoding="utf-8")), load_file(folder / TENSORS)
            kind, digest, made_for = about["kind"], about["tensors"], about["model"]
            constants, bounds = about["constants"], about["bounds"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError("folder", str(folder), f"a detector that was saved whole ({error})") from error
        if kind != cls.__name__:
            raise InputError("folder", f"{folder} with a {kind}", f"a {cls.__name__}: {kind}.load reads it")
        if digest != sha256_tensors(tensors):
            raise InputError("folder", f"{folder / TENSORS} that was changed", "the tensors that were saved")
        if not isinstance(model, nn.Module) or fingerprint(model) != made_for:
            raise InputError("model", "another model than the detector was fitted on", "that model with the same weights")
        made = cls._restored(model, constants, tensors)
        made.bounds = tuple(bounds) if bounds else None
        return made


class MaxSoftmax(Detector):
    """The maximum softmax probability, in (0, 1]."""

    name = "max-softmax"

    def _score(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return run_model(self.model, x).cpu().double().softmax(1).amax(1)

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(model)


class Energy(Detector):
    """The negative free energy of the logits, in logit units. temperature: T."""

    name = "energy"

    def __init__(self, model: nn.Module, temperature: float = 1.0, *, bounds: tuple[float, float] | None = (0.0, 1.0)) -> None:
        super().__init__(model, bounds=bounds)
        check_positive("temperature", temperature, "a number > 0")
        self.temperature = float(temperature)

    def _score(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = run_model(self.model, x).cpu().double()
        return self.temperature * (logits / self.temperature).logsumexp(1)

    def constants(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(model, **constants)


class ODIN(Detector):
    """The maximum softmax probability at a high temperature, after a small step that raises it.

    eps: length of the step in input units. The moved input is not cut back into the range of inputs, as in the paper.
    """

    name = "odin"

    def __init__(
        self,
        model: nn.Module,
        temperature: float = 1000.0,
        eps: float = 0.0014,
        *,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(model, bounds=bounds)
        check_positive("temperature", temperature, "a number > 0")
        check_number("eps", eps, "a number >= 0, in input units", low=0)
        self.temperature, self.eps = float(temperature), float(eps)

    def _score(self, x: Tensor) -> Tensor:
        if self.eps > 0:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                highest = (run_model(self.model, x) / self.temperature).log_softmax(1).amax(1)
                (grad,) = torch.autograd.grad(highest.sum(), x)
            x = x.detach() + self.eps * grad.sign()
        with torch.no_grad():
            # float64: at T = 1000 the probabilities of 10 classes differ in the third digit only
            return (run_model(self.model, x).cpu().double() / self.temperature).softmax(1).amax(1)

    def constants(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "eps": self.eps}

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(model, **constants)


class NearestNeighbours(Detector):
    """Minus the distance to the k-th nearest training sample, in normalised features of one layer; in [-2, 0].

    layer: a tap as of `models.taps`; what goes into the linear head if left out. `fit` keeps all features: N d float32.
    """

    name = "knn"

    def __init__(
        self, model: nn.Module, layer: str = "", k: int = 50, *, bounds: tuple[float, float] | None = (0.0, 1.0)
    ) -> None:
        super().__init__(model, bounds=bounds)
        check_integer("k", k)
        self.layer, self.k = layer, k
        self._bank = torch.empty(0, 0)

    def fit(self, loader: DataLoader[Any]) -> Self:
        """Keep the features of batches (x, y), without augmentation; labels are not used. Test data raise SplitError."""
        bank = []
        with training_only(), evaluating(self.model), torch.no_grad():
            refuse_test_data(loader)
            for batch in loader:
                x, _ = pair(batch)
                check_inputs(x, self.bounds)
                x = x.to(device_of(self.model))
                self.layer = self.layer or penultimate(self.model, x)
                bank.append(self._normalised(x))
        if sum(map(len, bank)) < self.k:
            raise InputError("k", self.k, f"at most the number of training samples, {sum(map(len, bank))}")
        self._bank = torch.cat(bank)
        return self

    def _normalised(self, x: Tensor) -> Tensor:
        features = PooledLayers(self.model, [self.layer])(x)[1][0].cpu().float()
        return torch.nn.functional.normalize(features)

    def _score(self, x: Tensor) -> Tensor:
        if not len(self._bank):
            raise InputError("detector", "one that was not fitted", "fit(loader) first")
        with torch.no_grad():
            distances = torch.cdist(self._normalised(x), self._bank)
        return -distances.kthvalue(self.k, dim=1).values

    def constants(self) -> dict[str, Any]:
        return {"layer": self.layer, "k": self.k}

    def tensors(self) -> dict[str, Tensor]:
        return {"bank": self._bank}

    @classmethod
    def _restored(cls, model: nn.Module, constants: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        made = cls(model, **constants)
        made._bank = tensors["bank"]
        return made


def batches(data: ImageSet, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x, y) of a set, in order; an InputError for anything else."""
    if not isinstance(data, ImageSet):
        raise InputError("data", type(data).__name__, "an ImageSet: as_images(data)")
    yield from data.loader(batch_size)
