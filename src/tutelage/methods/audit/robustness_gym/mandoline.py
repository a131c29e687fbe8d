"""Mandoline: the accuracy on unlabelled target data from labelled source data, re-weighted by what slices they share.

Chen, Goel, Sohoni, Poms, Fatahalian, Re: Mandoline: Model Evaluation under Distribution Shift, arXiv 2107.00643 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize
from scipy.special import logsumexp

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mandoline:
    """weights: (n,) of the source rows, mean 1. w: (K,) of the slices. effective: how many source rows the weights are worth.

    estimate: the weighted mean of the metric; plain: its mean without weights.
    """

    weights: Floats
    w: Floats
    effective: float
    estimate: float
    plain: float


def mandoline(source: npt.ArrayLike, target: npt.ArrayLike, metric: npt.ArrayLike, *, ridge: float = 1e-3) -> Mandoline:
    """Equation (3): max_w  w . mean_target(g) - log mean_source exp(w . g), then weights proportional to exp(w . g_i).

    source (n, K) and target (m, K): g, membership in K slices as booleans, or -1, 0 (does not apply) and +1. metric: (n,) the
    metric of each source row, such as 0 or 1 for right. ridge: pulls w to 0, so that a slice which one side lacks does not
    send it to infinity. Raises InputError.
    """
    g, h = _graph("source", source), _graph("target", target)
    values = np.asarray(metric, np.float64)
    if g.shape[1] != h.shape[1]:
        raise InputError("target", f"{h.shape[1]} slices", f"{g.shape[1]}, as the source has")
    if values.shape != (len(g),) or not np.isfinite(values).all():
        raise InputError("metric", f"shape {values.shape}", f"{len(g)} finite numbers, one a source row")
    check_number("ridge", ridge, "a finite number >= 0", low=0)
    goal = h.mean(0)

    def loss(w: Floats) -> tuple[float, Floats]:
        scores = g @ w
        top = float(logsumexp(scores))
        share = np.exp(scores - top)
        value = top - np.log(len(g)) - float(w @ goal) + ridge * float(w @ w) / 2
        return value, share @ g - goal + ridge * w

    start = np.zeros(g.shape[1])
    _, slope = loss(start)
    # at the answer already: the same shares on both sides, to rounding
    if np.abs(slope).max(initial=0.0) < 1e-12:
        w = start
    else:
        w = np.asarray(scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x, np.float64)
    scores = g @ w
    weights = np.exp(scores - scores.max())
    weights /= weights.mean()
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Mandoline(weights, w, effective, float((weights * values).mean()), float(values.mean()))


def _graph(name: str, value: npt.ArrayLike) -> Floats:
    found = np.asarray(value)
    if found.ndim != 2 or not len(found):
        raise InputError(name, f"shape {found.shape}", "a table (rows, slices) with at least one row")
    if found.dtype == np.bool_:
        return np.where(found, 1.0, -1.0)
    if not np.isin(found, (-1, 0, 1)).all():
        raise InputError(name, "other values", "booleans, or -1, 0 and +1")
    return found.astype(np.float64)
