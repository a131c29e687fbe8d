"""The libraries of the extra `lm`, imported when they are needed, never before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tutelage.core.errors import MissingError


def extra(library: str, what: str) -> Any:
    """The library `library`, which `what` needs; MissingError says what to install."""
    try:
        return import_module(library)
    except ImportError as error:
        raise MissingError(f"{what} needs {library}: pip install 'tutelage[lm]'") from error
