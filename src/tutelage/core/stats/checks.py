"""Checks of arguments that the statistics share."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError


def vector(argument: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(argument, values, "a sequence of numbers") from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(argument, f"shape {array.shape}", "a one-dimensional, non-empty sequence")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise InputError(argument, f"{array[bad[0]]} at position {bad[0]}", "finite numbers")
    return array


def matrix(argument: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(argument, values, "rows of numbers, all of one length") from None
    if array.ndim != 2 or array.size == 0:
        raise InputError(argument, f"shape {array.shape}", "a two-dimensional, non-empty array")
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        row, column = bad[0].tolist()
        raise InputError(argument, f"{array[row, column]} at row {row}, column {column}", "finite numbers")
    return array


def booleans(argument: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise InputError(argument, values, "a sequence of booleans") from None
    if array.dtype != np.bool_ or array.ndim != 1 or array.size == 0:
        got = f"{array.dtype} of shape {array.shape}"
        raise InputError(argument, got, "a one-dimensional, non-empty sequence of booleans")
    return array


def same_length(a: npt.NDArray[Any], b: npt.NDArray[Any], first: str = "a", second: str = "b") -> None:
    if a.size != b.size:
        raise InputError(second, f"{b.size} values", f"{a.size}, as many as {first} has")


def counts(successes: int, n: int) -> tuple[int, int]:
    successes, n = integer("successes", successes), integer("n", n)
    if n < 1:
        raise InputError("n", n, "at least one trial")
    if not 0 <= successes <= n:
        raise InputError("successes", successes, f"a count from 0 to n = {n}")
    return successes, n


def integer(argument: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(argument, value, "an integer") from None


def finite(argument: str, value: object) -> float:
    if not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise InputError(argument, value, "a finite number")
    return float(value)


def checked_level(level: object) -> float:
    if not isinstance(level, int | float | np.number) or not 0.0 < level < 1.0:
        raise InputError("level", level, "a confidence level between 0 and 1, such as 0.95")
    return float(level)
