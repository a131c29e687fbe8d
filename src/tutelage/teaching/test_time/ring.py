"""Single samples for adapters that need a batch: the last samples stay at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.checks import check_inputs
from tutelage.teaching.test_time.adapter import Adapter, Drift, Prediction


class RingBuffer:
    """Answers samples one by one, each among the last `window` samples, which BatchNorm takes its statistics from.

    The adapter learns from the whole buffer each time that `window` new samples have come; in between it only answers. Until
    `least` samples are there, `model` (the source model, or any other adapter) answers alone. A sample costs a pass over the
    buffer. Larger batches are taken sample by sample.

    >>> one_by_one = RingBuffer(RMT(model, ...), window=64, first=Source(model))
    """

    def __init__(self, adapter: Adapter, window: int = 64, *, first: Adapter, least: int = 2) -> None:
        if not isinstance(adapter, Adapter) or not isinstance(first, Adapter):
            raise InputError("adapter", f"{type(adapter).__name__} and {type(first).__name__}", "two Adapters")
        check_integer("least", least, low=max(1, adapter.smallest_batch))
        check_integer("window", window, low=least)
        if first.smallest_batch > 1:
            raise InputError("first", f"{first.name}, which needs a batch", "an adapter for single samples: Source(model)")
        self.adapter, self.first, self.window, self.least = adapter, first, window, least
        self._held: list[Tensor] = []
        self._seen = 0

    @property
    def name(self) -> str:
        return f"{self.adapter.name}-ring-{self.window}"

    @property
    def smallest_batch(self) -> int:
        return 1

    def adapt(self, x: Tensor) -> Prediction:
        """Answer x (B, ...), one sample after the other; learn whenever the ring is full again."""
        return self._each(x, learn=True)

    def predict(self, x: Tensor) -> Prediction:
        """Answer x (B, ...) without learning; the buffer, too, stays as it was."""
        held, seen = list(self._held), self._seen
        try:
            return self._each(x, learn=False)
        finally:
            self._held, self._seen = held, seen

    def _each(self, x: Tensor, *, learn: bool) -> Prediction:
        check_inputs(x)
        if self._held and x.shape[1:] != self._held[0].shape:
            raise InputError("x", f"samples of shape {tuple(x.shape[1:])}", f"{tuple(self._held[0].shape)}, as before")
        return _joined([self._one(sample, learn=learn) for sample in x.detach()])

    def _one(self, sample: Tensor, *, learn: bool) -> Prediction:
        at = self._seen % self.window
        if len(self._held) < self.window:
            self._held.append(sample.clone())
        else:
            self._held[at] = sample.clone()
        self._seen += 1
        if len(self._held) < self.least:
            return self.first.predict(sample[None])
        full = self._seen % self.window == 0
        buffer = torch.stack(self._held)
        found = self.adapter.adapt(buffer) if learn and full else self.adapter.predict(buffer)
        return _row(found, at)

    def drift(self) -> float:
        return self.adapter.drift()

    def diff(self, part: str = "model") -> Drift:
        return self.adapter.diff(part)

    def state_dict(self) -> dict[str, Any]:
        held = torch.stack(self._held) if self._held else None
        return {"adapter": self.adapter.state_dict(), "held": held, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adapter.load_state_dict(state["adapter"])
        self._held = [] if state["held"] is None else list(state["held"].clone())
        self._seen = int(state["seen"])

    def reset(self) -> None:
        """Back to before the first sample: the adapter, and an empty buffer."""
        self.adapter.reset()
        self._held, self._seen = [], 0

    def save(self, folder: Path | str) -> None:
        """The state of the adapter; the buffer fills again within `window` samples."""
        self.adapter.save(folder)

    def load(self, folder: Path | str) -> None:
        self.adapter.load(folder)
        self._held, self._seen = [], 0


def _row(found: Prediction, i: int) -> Prediction:
    student, teacher = (None if part is None else part[i : i + 1] for part in (found.student_logits, found.teacher_logits))
    return Prediction(found.logits[i : i + 1], found.probs[i : i + 1], student, teacher, found.log)


def _joined(found: list[Prediction]) -> Prediction:
    def together(name: str) -> Tensor | None:
        parts = [getattr(one, name) for one in found]
        return None if any(part is None for part in parts) else torch.cat(parts)

    logits, probs = together("logits"), together("probs")
    assert logits is not None
    assert probs is not None
    log = next((one.log for one in reversed(found) if one.log), {})
    return Prediction(logits, probs, together("student_logits"), together("teacher_logits"), log)
