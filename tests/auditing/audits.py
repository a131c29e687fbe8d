"""Audits made of given predictions, so that what follows from them can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.auditing import AuditResult
from tutelage.auditing.corruption import corruption_rows, describe
from tutelage.auditing.result import accuracy_row
from tutelage.auditing.shift import shift_rows
from tutelage.threats.corruptions import Corruption

THREAT = "linf@0.1"


def mask(text: str) -> Tensor:
    """ "1101" -> right, right, wrong, right."""
    return torch.tensor([digit == "1" for digit in text])


def audited(
    name: str,
    clean: str,
    *,
    threat: str = "",
    steps: int = 20,
    corrupted: Mapping[str, str] | None = None,
    shifted: Mapping[str, str] | None = None,
    labels: Sequence[int] | None = None,
    **changes: Any,
) -> AuditResult:
    """clean, threat, corrupted, shifted: a digit an image, 1 for right. labels: of main and shifted sets alike."""
    right = {"clean": mask(clean)}
    n = len(clean)
    classes = torch.zeros(n, dtype=torch.int64) if labels is None else torch.tensor(labels)
    rows = [accuracy_row("clean", "clean", right["clean"])]
    settings: dict[str, Any] = {"seed": 0, "batch_size": 8, "threats": [], "cost": [], "curve": "none"}
    if threat:
        right[THREAT] = mask(threat)
        rows += [accuracy_row(THREAT, stage, right[THREAT]) for stage in ("PGD", "worst case")]
        attack = {"name": f"PGD-{steps}", "steps": steps, "restarts": 1, "step_size": 0.01, "start": "uniform", "eot": 1}
        settings["threats"] = [{"budget": THREAT, "attacks": [attack]}]
    if corrupted:
        right |= {key: mask(digits) for key, digits in corrupted.items()}
        asked = [Corruption(key.partition("@")[0], int(key.partition("@")[2])) for key in corrupted]
        rows += corruption_rows(right, asked)
        settings["corruptions"] = describe(asked)
    for key, digits in (shifted or {}).items():
        right[key] = mask(digits)
        theirs = torch.zeros(len(digits), dtype=torch.int64)
        rows += shift_rows(key, right[key], theirs, right["clean"], classes)
        described = {"name": key, "kind": "file", "split": "", "n": len(digits), "sha256": f"{key}" * 8}
        settings.setdefault("shifts", []).append({"shift": key, **described})
    whole: dict[str, Any] = {
        "rows": rows,
        "curves": [],
        "examples": [],
        "classes": ("a", "b"),
        "status": "reliable",
        "warnings": [],
        "settings": settings,
        "model": {"name": name, "parameters": 7, "sha256": f"weights of {name}"},
        "data": {"name": "made up", "kind": "generated", "split": "test", "n": n, "sha256": "d" * 64, "classes": 2},
        "environment": {"device": "cpu", "threads": 1},
        "seconds": 1.0,
        "predictions": {key: value.tolist() for key, value in right.items()},
    }
    return AuditResult(**{**whole, **changes})
