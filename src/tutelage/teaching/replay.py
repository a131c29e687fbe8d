"""Labelled source data as an endless, exactly resumable stream of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs, check_labels


class Replay:
    """Batches (x, y) without an end, shuffled anew for each pass by a generator of its own.

    source: an ImageSet, a data set of (x, y) with a length, or a DataLoader, of which the data set and the way of putting
    samples together are taken: the order is drawn here, so that a reset repeats it exactly. A last, smaller batch is left
    out. Test data raise SplitError.
    """

    def __init__(self, source: Any, batch_size: int, generator: torch.Generator) -> None:
        check_integer("batch_size", batch_size)
        self.collate = default_collate
        if isinstance(source, DataLoader):
            collate = source.collate_fn
            source = source.dataset
            if source is not None and not isinstance(source, ImageSet) and collate is not None:
                self.collate = collate
        if isinstance(source, IterableDataset) or not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
            raise InputError("source", type(source).__name__, "an ImageSet, or a data set of (x, y) with a length")
        with training_only():
            refuse_test_data(source)
        if len(source) == 0:
            raise InputError("source", "no samples", "at least one")
        self.data, self.generator = source, generator
        self.batch_size = min(batch_size, len(source))
        self._order, self._at = torch.empty(0, dtype=torch.int64), 0

    def __len__(self) -> int:
        return len(self.data)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The next batch: x (B, ...) in [0, 1] and labels y (B,)."""
        if self._at + self.batch_size > len(self._order):
            self._order, self._at = torch.randperm(len(self.data), generator=self.generator), 0
        index = self._order[self._at : self._at + self.batch_size]
        self._at += self.batch_size
        return self._batch(index)

    def in_order(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, in their own order: for statistics."""
        for index in torch.split(torch.arange(len(self.data)), batch_size):
            yield self._batch(index)

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        with training_only():
            if isinstance(self.data, ImageSet):
                x, y = self.data[index]
            else:
                found = self.collate([self.data[i] for i in index.tolist()])
                if not isinstance(found, tuple | list) or len(found) != 2:
                    raise InputError("source", f"samples of type {type(found).__name__}", "samples (x, y)")
                x, y = found
        check_inputs(x, name="source")
        check_labels(y, len(x), name="source")
        return x, y.long()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "order": self._order.clone(), "at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self._order, self._at = state["order"].clone(), int(state["at"])
