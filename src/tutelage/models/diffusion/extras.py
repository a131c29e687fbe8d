"""diffusers and peft, imported when they are needed, never before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tutelage.core.errors import MissingError

EXTRAS = {"diffusers": "diffusion", "peft": "lm"}


def extra(library: str, what: str) -> Any:
    """The module `library`, which `what` needs; MissingError says what to install."""
    try:
        return import_module(library)
    except ImportError as error:
        name = library.partition(".")[0]
        raise MissingError(f"{what} needs {name}: pip install 'tutelage[{EXTRAS[name]}]'") from error
