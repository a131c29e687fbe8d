"""F3, accuracy without labels: ATC, DoC, CBPE, and re-weighting with a domain classifier.

All of them assume that the inputs have changed and the meaning of an input has not (covariate shift), and confidences that are
about right on the reference. None can see a change of the labels: that needs labels (`EProcess` in the monitor).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.stats.checks import booleans, same_length, vector
from tutelage.methods.audit.robust_mlops.drift import domain_probabilities

Floats = npt.NDArray[np.float64]
Method = Literal["atc", "doc", "cbpe", "importance"]
METHODS: tuple[Method, ...] = ("atc", "doc", "cbpe", "importance")
MOST_MISCALIBRATED = 0.05
LARGEST_RATIO = 20.0
LEAST_EFFECTIVE = 0.1  # of the reference rows; with fewer a re-weighted estimate rests on a handful


@dataclass(frozen=True)
class Estimate:
    """accuracy in [0, 1]; reference: on labelled reference data. ece: calibration error there. effective: reference rows that
    the weights are worth (importance), else all. trusted: its own checks passed; why: what failed.
    """

    method: str
    accuracy: float
    reference: float
    ece: float
    effective: float
    trusted: bool
    why: str = ""


def confidence_of(probabilities: npt.ArrayLike) -> Floats:
    """(n,): the largest probability of each row of (n, K)."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or not np.isfinite(p).all() or p.min() < -1e-6 or abs(p.sum(1) - 1).max() > 1e-3:
        raise InputError("probabilities", f"shape {p.shape}", "rows of probabilities (n, K >= 2) that sum to 1")
    return np.asarray(p.max(1))


def calibration_error(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mean over bins of equal width of |accuracy - mean confidence|, weighted by their rows."""
    values, correct = vector("confidence", confidence), booleans("right", right)
    same_length(values, correct, "confidence", "right")
    check_integer("bins", bins)
    which = np.clip((values * bins).astype(np.int64), 0, bins - 1)
    gaps = np.bincount(which, correct.astype(np.float64) - values, minlength=bins)
    return float(np.abs(gaps).sum() / values.size)


def atc_threshold(confidence: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """ATC's t (Garg et al. 2022, arXiv 2201.04234, eq. 3): the share of reference confidences above t is the accuracy there."""
    values, correct = np.sort(vector("confidence", confidence)), booleans("right", right)
    same_length(values, correct, "confidence", "right")
    wrong = int((~correct).sum())
    if wrong == 0:
        return float(np.nextafter(values[0], -np.inf))
    return float(values[wrong - 1])


def estimate_accuracy(
    confidence: npt.ArrayLike,
    right: npt.ArrayLike,
    new_confidence: npt.ArrayLike,
    method: Method = "atc",
    *,
    features: npt.ArrayLike | None = None,
    new_features: npt.ArrayLike | None = None,
    limit: float = MOST_MISCALIBRATED,
    seed: int = 0,
) -> Estimate:
    """Accuracy on new rows, whose labels nobody knows.

    confidence (n,) and right (n,): of labelled reference rows, that the model was not trained on; new_confidence (m,). "atc":
    share of new confidences above the threshold. "doc": reference accuracy less the fall of the mean confidence (Guillory et
    al. 2021). "cbpe": mean of the new confidences. "importance": reference rows weighted by p/(1-p) n/m of a domain classifier
    over features (n, d), (m, d), at most 20. Not trusted: a calibration error above `limit` (cbpe, doc), or weights that are
    worth less than a tenth of the rows. Raises InputError.
    """
    check_choice("method", method, METHODS)
    values, correct, new = vector("confidence", confidence), booleans("right", right), vector("new_confidence", new_confidence)
    same_length(values, correct, "confidence", "right")
    check_number("limit", limit, "a share from 0 to 1", low=0, high=1)
    accuracy, ece, effective, why = float(correct.mean()), calibration_error(values, correct), float(values.size), ""
    if method == "atc":
        found = float((new > atc_threshold(values, correct)).mean())
    elif method == "doc":
        found = accuracy - (float(values.mean()) - float(new.mean()))
    elif method == "cbpe":
        found = float(new.mean())
    else:
        if features is None or new_features is None:
            raise InputError("features", "none", "features of reference and new rows for importance weights")
        weights = importance_weights(features, new_features, rng=np.random.default_rng(seed))
        if weights.shape != values.shape:
            raise InputError("features", f"{weights.size} rows", f"{values.size}, as confidence has")
        found = float((weights * correct).sum() / weights.sum())
        effective = float(weights.sum() ** 2 / (weights**2).sum())
        if effective < LEAST_EFFECTIVE * values.size:
            why = f"the weights are worth {effective:.0f} of {values.size} reference rows"
    if method in ("cbpe", "doc") and ece > limit:
        why = f"calibration error {ece:.3f} on the reference, at most {limit:g}"
    return Estimate(method, min(1.0, max(0.0, found)), accuracy, ece, effective, not why, why)


def importance_weights(reference: npt.ArrayLike, new: npt.ArrayLike, *, rng: np.random.Generator) -> Floats:
    """(n,): how much likelier each reference row is among the new rows; out-of-fold, clipped at 20."""
    x, y = np.asarray(reference, np.float64), np.asarray(new, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError("new", f"shape {y.shape}", f"features (m, {x.shape[-1]}) as the reference has")
    middle, spread = x.mean(0), x.std(0)
    spread[spread == 0] = 1.0
    p, is_new = domain_probabilities((x - middle) / spread, (y - middle) / spread, rng=rng)
    own = np.clip(p[~is_new], 1e-6, 1 - 1e-6)  # classes have equal weight, so n/m is in p already
    return np.minimum(own / (1 - own), LARGEST_RATIO)
