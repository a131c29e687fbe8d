"""Checks of plain arguments: numbers, integers, choices. Each raises an InputError that names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from tutelage.core.errors import InputError


def check_integer(argument: str, value: object, *, low: int = 1, high: int | None = None) -> None:
    """An integer (no bool) from `low` to `high`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        raise InputError(argument, value, f"an integer >= {low}" if high is None else f"an integer from {low} to {high}")


def check_number(argument: str, value: object, wanted: str, *, low: float = -math.inf, high: float = math.inf) -> None:
    """A finite number (no bool, no string) from `low` to `high`; `wanted` says so in words."""
    if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and low <= float(value) <= high):
        raise InputError(argument, value, wanted)


def check_positive(argument: str, value: object, wanted: str) -> None:
    """A finite number above 0."""
    check_number(argument, value, wanted, low=math.ulp(0.0))


def check_choice(argument: str, value: object, choices: Sequence[str]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(argument, value, f"one of {', '.join(c or repr(c) for c in choices)}")


def check_callable(argument: str, value: object, wanted: str) -> None:
    if not callable(value):
        raise InputError(argument, value, wanted)
