"""Tutelage teaches models to be robust and proves how robust they are.

    import tutelage
    result = tutelage.audit(model, data, threats=["linf@8/255"])

Nothing is imported before it is used: `import tutelage` is instant, and extras are only needed by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.auditing import AuditResult
    from tutelage.auditing.audit import audit
    from tutelage.data import ImageSet, fashion_mnist_subset
    from tutelage.methods.distill.mtard import MTARDConfig, fit_mtard
    from tutelage.teaching import Teacher, fit
    from tutelage.threats import FGSM, L2, PGD, Linf, Suite

__version__ = "0.1.0"

# public name -> the module that defines it
_HOMES = {
    "AuditResult": "tutelage.auditing",
    "FGSM": "tutelage.threats",
    "ImageSet": "tutelage.data",
    "L2": "tutelage.threats",
    "Linf": "tutelage.threats",
    "MTARDConfig": "tutelage.methods.distill.mtard",
    "PGD": "tutelage.threats",
    "Suite": "tutelage.threats",
    "Teacher": "tutelage.teaching",
    "audit": "tutelage.auditing",
    "fashion_mnist_subset": "tutelage.data",
    "fit": "tutelage.teaching",
    "fit_mtard": "tutelage.methods.distill.mtard",
}

__all__ = [
    "FGSM",
    "L2",
    "PGD",
    "AuditResult",
    "ImageSet",
    "Linf",
    "MTARDConfig",
    "Suite",
    "Teacher",
    "audit",
    "fashion_mnist_subset",
    "fit",
    "fit_mtard",
]


_ROOMS = ("auditing", "catalogue", "claims", "core", "data", "guarantees", "methods", "models", "teaching", "threats")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"tutelage.{name}")
    raise AttributeError(f"module 'tutelage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
