"""`Adapter`: a model that answers batches and learns from them; its state can be saved, reset and compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError, MissingError, NotFinite
from tutelage.core.rng import generator
from tutelage.models.batchnorm import BatchNormPolicy, check_batch, uses_batch_statistics
from tutelage.models.checks import check_inputs, check_logits
from tutelage.models.copying import copied
from tutelage.models.loading import fingerprint
from tutelage.teaching.checkpoint import load_checkpoint, save_checkpoint

OptimizerLike = str | Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What an adapter says of a batch of B samples, all of it from before it learned from that batch.

    logits (B, K): the argmax is the answer. probs (B, K). student_logits, teacher_logits (B, K): the parts of the answer,
    where there are two. log: losses and other numbers of the step, empty without one.
    """

    logits: Tensor
    probs: Tensor
    student_logits: Tensor | None = None
    teacher_logits: Tensor | None = None
    log: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """How far one parameter tensor is from that of the source model: L2 norms of the change, and relative to the tensor."""

    name: str
    size: int
    change: float
    relative: float


@dataclass(frozen=True)
class Drift:
    """An adapted model against the source model: `changes` by tensor, the furthest (relatively) first; `total` of all."""

    changes: tuple[Change, ...]
    total: float

    def table(self, k: int = 10) -> str:
        """The k tensors that moved most, for people."""
        lines = [f"{'all parameters':<40} {100 * self.total:8.3f} %"]
        return "\n".join(lines + [f"{c.name:<40} {100 * c.relative:8.3f} %" for c in self.changes[:k]])


class Adapter(ABC):
    """Base of test-time adaptation: `adapt` answers a batch and then learns from it; the model given is never changed.

    model: nn.Module, images (B, C, H, W) in [0, 1] -> logits (B, K). policy: how its BatchNorm layers normalise. steps: of
    the optimiser for each batch; the answer is that of before the first one. seed: of augmentations and other draws.
    A batch of one is refused where BatchNorm takes its statistics from the batch.
    """

    name = "adapter"

    def __init__(self, model: nn.Module, policy: BatchNormPolicy, *, steps: int = 1, seed: int = 0) -> None:
        check_integer("steps", steps)
        self.model = copied(model)
        self.model.requires_grad_(False)
        policy.apply(self.model)
        self.steps, self.seed, self.batches = steps, seed, 0
        self.generator = generator(seed, "test-time adaptation")
        self.optimizer: Optimizer | None = None
        self._source = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self._fingerprint = fingerprint(model)
        self._batch_statistics = uses_batch_statistics(self.model)
        self._initial: dict[str, Any] = {}

    # answering

    @property
    def smallest_batch(self) -> int:
        """2 where BatchNorm needs a batch, else 1."""
        return 2 if self._batch_statistics else 1

    def adapt(self, x: Tensor) -> Prediction:
        """Answer x (B, ...), then learn from it. Raises InputError before any change, NotFinite before a bad step."""
        x = self._checked(x)
        # a caller's no_grad or inference_mode must not stop the learning
        with torch.inference_mode(False), torch.enable_grad():
            if x.is_inference():
                x = x.clone()
            prediction = self._adapt(x)
            for _ in range(self.steps - 1):
                self._adapt(x)
        self.batches += 1
        return prediction

    @torch.no_grad()
    def predict(self, x: Tensor) -> Prediction:
        """Answer x (B, ...) without learning: nothing changes."""
        return self._answer(self._checked(x))

    def _checked(self, x: Tensor) -> Tensor:
        check_inputs(x)
        if self._batch_statistics:
            check_batch(self.model, x)
        return x.to(next((p.device for p in self.model.parameters()), x.device))

    @abstractmethod
    def _adapt(self, x: Tensor) -> Prediction:
        """Answer, and take one step."""

    @abstractmethod
    def _answer(self, x: Tensor) -> Prediction:
        """Answer only."""

    # learning

    def _learn(self, loss: Tensor) -> float:
        """One optimiser step; returns the norm of the gradient. Nothing is changed if loss or gradient is not finite."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros(())
        size, value = torch.stack([norm, loss.detach().to(norm)]).tolist()
        if not (abs(value) < float("inf") and size < float("inf")):
            raise NotFinite(self.batches, "the loss or its gradient on this batch")
        self.optimizer.step()
        return float(size)

    # state

    def parts(self) -> dict[str, nn.Module]:
        """The modules that change, by name."""
        return {"model": self.model}

    @property
    def settings(self) -> dict[str, Any]:
        """The constants of the method, plain values: a saved state only goes into an adapter that has the same."""
        return {"steps": self.steps}

    def state_dict(self) -> dict[str, Any]:
        """Everything that adaptation changed, generators and optimiser included. Tensors are copies."""
        modules = {name: _clones(part.state_dict()) for name, part in self.parts().items()}
        optimizer = _clones(self.optimizer.state_dict()) if self.optimizer is not None else None
        return {"batches": self.batches, "generator": self.generator.get_state(), "parts": modules, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts().items():
            part.load_state_dict(state["parts"][name])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(_clones(state["optimizer"]))
        self.generator.set_state(state["generator"])
        self.batches = int(state["batches"])

    def reset(self) -> None:
        """Back to before the first batch (after the warm-up, if there was one), to the bit."""
        self.load_state_dict(self._initial)

    def diff(self, part: str = "model") -> Drift:
        """How far a part ("model", or "teacher") has moved from the source model, tensor by tensor."""
        parts = self.parts()
        if part not in parts or {n for n, _ in parts[part].named_parameters()} != set(self._source):
            fitting = [n for n, p in parts.items() if {m for m, _ in p.named_parameters()} == set(self._source)]
            raise InputError("part", part, f"one of {', '.join(fitting)}")
        changes, squares, whole = [], 0.0, 0.0
        for name, now in parts[part].named_parameters():
            before = self._source[name]
            moved, size = float((now.detach() - before).norm()), float(before.norm())
            changes.append(Change(name, now.numel(), moved, moved / max(size, 1e-12)))
            squares, whole = squares + moved**2, whole + size**2
        changes.sort(key=lambda change: -change.relative)
        return Drift(tuple(changes), (squares / max(whole, 1e-24)) ** 0.5)

    @torch.no_grad()
    def drift(self) -> float:
        """Distance of the model's parameters from the source model's, relative to their norm."""
        pairs = [(now - before, before) for now, before in zip(self.model.parameters(), self._source.values(), strict=True)]
        if not pairs:
            return 0.0
        moved, whole = (torch.stack(torch._foreach_norm(list(part))).norm() for part in zip(*pairs, strict=True))
        return float(moved / whole.clamp_min(1e-12))

    def save(self, folder: Path | str) -> None:
        """Write the adapted state into `folder`, whole or not at all: safetensors and JSON."""
        about = {"adapter": self.name, "source": self._fingerprint, "settings": self.settings}
        save_checkpoint(Path(folder), self.batches, {**about, "state": self.state_dict()})

    def load(self, folder: Path | str) -> None:
        """Go on from what `save` wrote. Raises InputError for another adapter, source model or other constants."""
        found = load_checkpoint(Path(folder))
        if found is None:
            raise MissingError(f"adapter: there is no saved state in {folder}")
        saved = found[1]
        for what, own in (("adapter", self.name), ("source", self._fingerprint)):
            if saved.get(what) != own:
                raise InputError("folder", f"a state of the {what} {saved.get(what)}", f"one of {own}")
        for key, own in self.settings.items():
            if saved["settings"].get(key) != own:
                raise InputError("folder", f"a state with {key}={saved['settings'].get(key)}", f"{key}={own}")
        self.load_state_dict(saved["state"])

    def _remember(self) -> None:
        """What `reset` goes back to."""
        self._initial = self.state_dict()


def make_optimizer(optimizer: OptimizerLike, parameters: list[nn.Parameter], lr: float) -> Optimizer:
    """ "adam" (0.9, 0.999), "sgd" (Nesterov, momentum 0.9), both without weight decay, or what a function makes."""
    check_positive("lr", lr, "a learning rate > 0")
    if not parameters:
        raise InputError("model", "no parameters that could be adapted", "a model with some")
    if optimizer == "adam":
        return Adam(parameters, lr=lr, foreach=True)
    if optimizer == "sgd":
        return SGD(parameters, lr=lr, momentum=0.9, nesterov=True, foreach=True)
    if not callable(optimizer):
        raise InputError("optimizer", optimizer, "adam, sgd, or a function of the parameters that returns an optimiser")
    return optimizer(parameters)


def answered(logits: Tensor, **more: Any) -> Prediction:
    """The prediction whose answer is the argmax of logits (B, K)."""
    logits = check_logits(logits.detach(), len(logits))
    return Prediction(logits, logits.softmax(1), **more)


def _clones(value: Any) -> Any:
    """`value` with every tensor inside cloned."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _clones(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return cast(Any, type(value))(_clones(part) for part in value)
    return value
