"""The verdict on a claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy.typing as npt

from tutelage.core.errors import InputError
from tutelage.core.stats.checks import finite, vector
from tutelage.core.stats.interval import Interval
from tutelage.core.stats.means import student_t

Kind = Literal["superiority", "noninferiority", "threshold"]
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Decision:
    """The verdict on one claim with the numbers it rests on."""

    difference: float
    interval: Interval
    ci_method: str
    n_units: int
    verdict: Verdict


def decide(differences: npt.ArrayLike, *, margin: float, kind: Kind) -> Decision:
    """The verdict on a claim from its 95 % Student-t interval: "holds" if lo > margin, "does not hold" if hi < margin.

    `differences` has one signed advantage over the baseline for each of n >= 2 units, positive where the method is
    better, in the units of the metric. "superiority" takes a margin >= 0; "noninferiority" one < 0, below which the
    advantage may not fall; for "threshold" both the values and the margin are the metric itself, times -1 if lower is
    better. That the method also beats each trivial control is for the caller to check. Raises `InputError`.
    """
    if kind not in get_args(Kind):
        raise InputError("kind", kind, "one of " + ", ".join(get_args(Kind)))
    margin = finite("margin", margin)
    if kind == "superiority" and margin < 0.0:
        raise InputError("margin", margin, "zero or more for superiority (a negative margin is non-inferiority)")
    if kind == "noninferiority" and margin >= 0.0:
        raise InputError("margin", margin, "a negative number for noninferiority")
    method = "student-t" if kind == "threshold" else "paired-t"
    units = vector("differences", differences)
    mean, _, interval = student_t("differences", units, 0.95, method)
    verdict: Verdict = "undecided"
    if interval.lo > margin:
        verdict = "holds"
    elif interval.hi < margin:
        verdict = "does not hold"
    return Decision(mean, interval, method, units.size, verdict)
