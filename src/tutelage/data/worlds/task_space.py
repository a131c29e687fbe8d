"""A continuous space of tasks: a box of d parameters, each from a low to a high bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.core.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaskSpace:
    """The box [low, high] in R^d. names: one a parameter, for tables and plots ("parameter 1", ... if not given).

    Raises InputError for bounds that are not finite numbers, of unequal length, or with low >= high.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __init__(self, low: ArrayLike, high: ArrayLike, names: Sequence[str] = ()) -> None:
        bounds = [_numbers(argument, value) for argument, value in (("low", low), ("high", high))]
        if len(bounds[0]) != len(bounds[1]):
            raise InputError("high", f"{len(bounds[1])} bounds", f"{len(bounds[0])}, as many as low has")
        for i, (a, b) in enumerate(zip(*bounds, strict=True)):
            if a >= b:
                raise InputError("low", f"{a:g} for parameter {i + 1}, whose high is {b:g}", "low < high for each parameter")
        if names and len(names) != len(bounds[0]):
            raise InputError("names", f"{len(names)} names", f"one for each of the {len(bounds[0])} parameters")
        object.__setattr__(self, "low", bounds[0])
        object.__setattr__(self, "high", bounds[1])
        object.__setattr__(self, "names", tuple(names) or tuple(f"parameter {i + 1}" for i in range(len(bounds[0]))))

    @property
    def dims(self) -> int:
        return len(self.low)

    def to_unit(self, tasks: ArrayLike) -> Floats:
        """Tasks (..., d) -> coordinates in [0, 1] (..., d)."""
        low, high = np.array(self.low), np.array(self.high)
        found: Floats = np.clip((np.asarray(tasks, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
        return found

    def from_unit(self, coordinates: ArrayLike) -> Floats:
        """Coordinates (..., d), clipped to [0, 1], -> tasks (..., d) inside the box."""
        low, high = np.array(self.low), np.array(self.high)
        inside = low + np.clip(np.asarray(coordinates, dtype=np.float64), 0.0, 1.0) * (high - low)
        tasks: Floats = np.clip(inside, low, high)  # rounding may leave the box by a hair
        return tasks

    def uniform(self, rng: np.random.Generator, n: int | None = None) -> Floats:
        """One uniform task (d,), or n of them (n, d)."""
        return self.from_unit(rng.random(self.dims if n is None else (n, self.dims)))

    def check(self, task: ArrayLike, argument: str = "task") -> Floats:
        """The task as an array (d,). Raises InputError if it has another length, is not finite or lies outside the box."""
        try:
            found = np.asarray(task, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(argument, task, f"{self.dims} numbers") from error
        if found.shape != (self.dims,) or not np.isfinite(found).all():
            raise InputError(argument, task, f"{self.dims} finite numbers ({', '.join(self.names)})")
        if (found < self.low).any() or (found > self.high).any():
            raise InputError(argument, found.tolist(), f"a task inside the box from {list(self.low)} to {list(self.high)}")
        return found


def _numbers(argument: str, value: ArrayLike) -> tuple[float, ...]:
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(argument, value, "a bound for each parameter, such as (0.0, 0.0)") from error
    if found.ndim != 1 or found.size == 0 or not all(math.isfinite(one) for one in found):
        raise InputError(argument, value, "a finite bound for each parameter, such as (0.0, 0.0)")
    return tuple(float(one) for one in found)
