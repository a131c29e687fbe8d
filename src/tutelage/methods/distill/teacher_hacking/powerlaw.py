"""Does a curve still follow its power law? The sign of hacking that needs no oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """log distance(e) = a - c log e, fitted to a window of the curve, and where the curve left it.

    window: first and last epoch of the fit; None where no window fits, so that nothing can be said. resid: standard deviation
    of the residuals there, in log units. flagged: the first of the epochs that left the line; None: none did. above: whether
    the curve lies above the line from there (it falls more slowly than before).
    """

    a: float = 0.0
    c: float = 0.0
    resid: float = 0.0
    window: tuple[int, int] | None = None
    flagged: int | None = None
    above: bool = False

    def at(self, epoch: float) -> float:
        """The distance that the line expects."""
        return float(np.exp(self.a - self.c * np.log(epoch)))


def fit_power_law(
    epochs: Sequence[int],
    distances: Sequence[float],
    *,
    bound: float = 0.05,
    k: float = 3.0,
    in_a_row: int = 3,
    least: int = 5,
    floor: float = 0.005,
) -> PowerLaw:
    """Fit (7) to the first window whose residuals have a standard deviation below `bound`, and look where the rest leaves it.

    epochs: increasing, > 0. distances: > 0. The window begins with `least` points, at the first place where they fit, and grows
    by one point at a time as long as it fits. A point is out if its residual from the line of the points before it exceeds k
    standard deviations of a prediction, (8); the curve has left the line at the first of `in_a_row` points that are out.
    floor: the least standard deviation that is believed. (The paper shows the log-log plot; this statistic is ours.)
    Raises InputError.
    """
    check_positive("bound", bound, "a number > 0, in log units")
    check_positive("k", k, "a number of standard deviations > 0")
    check_positive("floor", floor, "a number > 0, in log units")
    check_integer("in_a_row", in_a_row)
    check_integer("least", least, low=3)
    e, d = np.asarray(epochs, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    if e.ndim != 1 or e.shape != d.shape:
        raise InputError("distances", f"{d.shape} for {e.shape} epochs", "one distance for each epoch")
    if not (np.isfinite(d).all() and np.isfinite(e).all() and (e > 0).all() and (np.diff(e) > 0).all()):
        raise InputError("epochs", list(epochs)[:5], "increasing epochs > 0 with finite distances")
    kept = d > 0  # a distance of 0 has no logarithm: the student is its teacher
    x, y, when = np.log(e[kept]), np.log(d[kept]), e[kept].astype(int)
    start = next((i for i in range(len(x) - least + 1) if _line(x[i : i + least], y[i : i + least])[2] < bound), None)
    if start is None:
        return PowerLaw()
    end, growing = start + least, True
    while True:
        a, c, resid = _line(x[start:end], y[start:end])
        off = y[end:] - (a - c * x[end:])
        out = np.abs(off) > k * max(resid, floor) * _prediction(x[start:end], x[end:])
        if growing:
            run = len(out) >= in_a_row and bool(out[:in_a_row].all())
            if end < len(x) and not run and _line(x[start : end + 1], y[start : end + 1])[2] < bound:
                end += 1
                continue
            growing = False
        runs = [i for i in range(len(out) - in_a_row + 1) if out[i : i + in_a_row].all()]
        window = (int(when[start]), int(when[end - 1]))
        if not runs:
            return PowerLaw(a, c, resid, window)
        return PowerLaw(a, c, resid, window, int(when[end + runs[0]]), bool(off[runs[0]] > 0))


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """a, c and the standard deviation of the residuals (n - 2 in its denominator) of y = a - c x."""
    mean, middle = float(x.mean()), float(y.mean())
    slope = float(((x - mean) * (y - middle)).sum() / ((x - mean) ** 2).sum())
    a = middle - slope * mean
    left = y - (a + slope * x)
    return a, -slope, float(np.sqrt((left**2).sum() / (len(x) - 2)))


def _prediction(x: Array, new: Array) -> Array:
    """(8): how much wider than the residuals the errors of predictions at `new` are, sqrt(1 + 1/n + (x - mean)^2 / Sxx)."""
    mean = x.mean()
    wider: Array = np.sqrt(1.0 + 1.0 / len(x) + (new - mean) ** 2 / ((x - mean) ** 2).sum())
    return wider
