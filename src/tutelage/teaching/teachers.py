"""Teachers: whatever supervises a student, frozen, metered and, where inputs repeat, remembered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tutelage.core.errors import InputError, QueryBudgetExceeded
from tutelage.core.files import canonical_json, sha256_tensors, sha256_text, write_atomic
from tutelage.models.checks import check_logits
from tutelage.models.guard import evaluating
from tutelage.models.loading import fingerprint


@dataclass(frozen=True)
class Supervision:
    """What a teacher says of a batch: logits (B, classes), without gradient."""

    logits: Tensor


@dataclass
class QueryBudget:
    """At most `limit` samples may be asked; the query that would pass it raises QueryBudgetExceeded before it is made."""

    limit: int


class Teacher:
    """A frozen classifier that answers with logits.

    model: any nn.Module, images -> logits (B, classes). It is used in evaluation mode without gradients and is handed
    back as it was after each query, whatever mode others put it in. spent: samples asked so far.
    """

    def __init__(self, model: nn.Module, *, name: str = "teacher", budget: QueryBudget | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(name, type(model).__name__, "an nn.Module that returns logits")
        self.model, self.name, self.budget, self.spent = model, name, budget, 0

    @torch.no_grad()
    def query(self, x: Tensor) -> Supervision:
        """Ask about x (B, ...)."""
        if self.budget is not None and self.spent + len(x) > self.budget.limit:
            raise QueryBudgetExceeded(
                f"{self.name}: {self.spent} of {self.budget.limit} samples were asked; {len(x)} more are over its budget"
            )
        with evaluating(self.model):
            logits = check_logits(self.model(x), len(x), name=self.name).detach()
        self.spent += len(x)
        return Supervision(logits)

    def state_dict(self) -> dict[str, Any]:
        """The meter, not the weights: a teacher does not change."""
        return {"spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = int(state["spent"])


def remembered_logits(teacher: Teacher, x: Tensor, folder: Path, *, batch_size: int = 512) -> Tensor:
    """The teacher's logits (N, classes) on a fixed set x (N, ...), asked once and kept on disk.

    Only for inputs that never change (no augmentation, no attack). The file's name is the hash of the teacher's
    structure and weights and of x, so a changed teacher or set is asked anew. Answers read from disk are not metered.
    """
    key = sha256_text(canonical_json([repr(teacher.model), fingerprint(teacher.model), sha256_tensors({"x": x})]))[:24]
    path = folder / f"logits-{key}.safetensors"
    if path.is_file():
        return load_file(path)["logits"]
    logits = torch.cat([teacher.query(part).logits.cpu() for part in torch.split(x, batch_size)])
    write_atomic(path, save({"logits": logits}))
    return logits
