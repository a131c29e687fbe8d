"""Teachers: whatever supervises a student, frozen, metered and, where inputs repeat, remembered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, QueryBudgetExceeded
from tutelage.core.files import canonical_json, sha256_tensors, sha256_text, write_atomic
from tutelage.core.shares import rows_of_all
from tutelage.models.checks import run_model
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

    def __post_init__(self) -> None:
        check_integer("limit", self.limit, low=0)


class Teacher:
    """A frozen classifier that answers with logits.

    model: any nn.Module, images -> logits (B, classes). It is used in evaluation mode without gradients and is handed
    back as it was after each query, whatever mode others put it in. spent: samples asked so far, by all processes.
    """

    def __init__(self, model: nn.Module, *, name: str = "teacher", budget: QueryBudget | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(str(name), type(model).__name__, "an nn.Module that returns logits")
        if budget is not None and not isinstance(budget, QueryBudget):
            raise InputError("budget", budget, "a QueryBudget, such as QueryBudget(50_000)")
        self.model, self.name, self.budget, self.spent = model, name, budget, 0

    @torch.no_grad()
    def query(self, x: Tensor) -> Supervision:
        """Ask about x (B, ...)."""
        if not isinstance(x, Tensor) or x.dim() == 0:
            raise InputError("x", type(x).__name__, "a batch (B, ...) in a tensor")
        asked = rows_of_all(len(x))
        if self.budget is not None and self.spent + asked > self.budget.limit:
            raise QueryBudgetExceeded(
                f"{self.name}: {self.spent} of {self.budget.limit} samples were asked; {asked} more are over its budget"
            )
        with evaluating(self.model):
            logits = run_model(self.model, x, name=self.name).detach()
        self.spent += asked
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
    check_integer("batch_size", batch_size)
    if path.is_file():
        try:
            return load_file(path)["logits"]
        except (SafetensorError, OSError, KeyError, ValueError):
            pass  # damaged on disk: asked again, and written anew
    logits = torch.cat([teacher.query(part).logits.cpu() for part in torch.split(x, batch_size)])
    write_atomic(path, save({"logits": logits}))
    return logits
