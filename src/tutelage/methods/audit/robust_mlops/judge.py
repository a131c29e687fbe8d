"""F4, the judge: from the evidence of two models to pass, fail or inconclusive.

A pure function: the same evidence, the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.rng import derive
from tutelage.core.stats.interval import Interval
from tutelage.core.stats.many import holm
from tutelage.core.stats.noninferiority import Status, items_needed, noninferiority
from tutelage.core.stats.proportions import wilson
from tutelage.methods.audit.robust_mlops.policy import Gate, Policy
from tutelage.methods.audit.robust_mlops.profile import Finding

EXIT_CODES: dict[Status, int] = {"pass": 0, "fail": 1, "inconclusive": 2}


@dataclass(frozen=True)
class Measured:
    """One metric of one model. right: item by item, where it is a share of right answers. values: item by item otherwise.

    interval: two-sided at level 1 - 2 alpha, so that each end is a one-sided limit at 1 - alpha; None where `value` is exact.
    doubt: why the number is not reliable.
    """

    value: float
    n: int
    interval: tuple[float, float] | None = None
    right: tuple[bool, ...] | None = None
    values: tuple[float, ...] | None = None
    doubt: str = ""

    @classmethod
    def share(cls, right: npt.ArrayLike, doubt: str = "") -> Measured:
        """Of a mask of what was right."""
        mask = np.asarray(right, np.bool_)
        return cls(float(mask.mean()) if mask.size else math.nan, mask.size, None, tuple(mask.tolist()), None, doubt)

    def limits(self, alpha: float) -> tuple[float, float]:
        """One-sided limits, each at 1 - alpha."""
        if self.right is not None:
            found: Interval = wilson(sum(self.right), len(self.right), 1 - 2 * alpha)
            return found.lo, found.hi
        return self.interval if self.interval is not None else (self.value, self.value)


@dataclass(frozen=True)
class Evidence:
    """All that was measured of one model. sha256: of its weights, or of what stands for them. data: hash of the items, per set.

    clusters: the cluster of each item, for a bootstrap of clusters; empty where items are independent.
    """

    name: str
    sha256: str
    data: str
    metrics: Mapping[str, Measured]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    clusters: tuple[str, ...] = ()

    def set_of(self, metric: str) -> str:
        return self.sets.get(metric.partition("/")[0], self.data)


@dataclass(frozen=True)
class Outcome:
    """One gate judged. difference: candidate less champion. lower, upper: one-sided limits of what is compared with `limit`.

    p_fail: of "the limit is kept"; p_holm: adjusted in its family. needed: items that would decide it, 0 where not known.
    """

    gate: str
    rule: str
    status: Status
    reason: str
    value: float | None = None
    champion: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    limit: float | None = None
    n: int = 0
    gained: int | None = None
    lost: int | None = None
    p_fail: float | None = None
    p_holm: float | None = None
    needed: int = 0
    method: str = ""
    family: str = ""


@dataclass(frozen=True)
class Verdict:
    """status of all gates together: "fail" if one fails or nothing was checked, else "inconclusive" if one is, else "pass"."""

    status: Status
    outcomes: tuple[Outcome, ...]
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]

    def describe(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "reasons": list(self.reasons),
            "outcomes": [asdict(one) for one in self.outcomes],
            "findings": [asdict(one) for one in self.findings],
        }


def judge(policy: Policy, candidate: Evidence, champion: Evidence | None = None, findings: Sequence[Finding] = ()) -> Verdict:
    """Judge every gate of the policy. Nothing is measured here.

    Shipping needs all gates to pass, each at its alpha: that is an intersection-union test and needs no adjustment. A block
    needs one failure, so gates of one `family` fail only if their p-values, adjusted by Holm, are at most alpha.
    """
    broken = [one for one in findings if one.level == "error"]
    if broken and not candidate.metrics:
        outcomes = [Outcome(one.name, one.rule, "fail", "not measured: the data are broken") for one in policy.gates]
    else:
        outcomes = [_outcome(gate, policy, candidate, champion) for gate in policy.gates]
    for family in dict.fromkeys(one.family for one in outcomes if one.family):
        known = {i: one.p_fail for i, one in enumerate(outcomes) if one.family == family and one.p_fail is not None}
        for i, p in zip(known, holm(list(known.values())).tolist() if known else [], strict=True):
            one, alpha = replace(outcomes[i], p_holm=p), policy.gates[i].alpha or policy.alpha
            if one.status == "fail" and p > alpha:
                one = replace(one, status="inconclusive", reason=f"{one.reason}; not after Holm in {family} (p {p:.3f})")
            outcomes[i] = one
    reasons = [str(one) for one in broken]
    if not outcomes:
        reasons.append("no gate was checked: a policy without gates cannot pass")
    reasons += [f"{one.gate} ({one.rule}): {one.reason}" for one in outcomes if one.status != "pass"]
    status: Status = "pass"
    if broken or not outcomes or any(one.status == "fail" for one in outcomes):
        status = "fail"
    elif any(one.status == "inconclusive" for one in outcomes):
        status = "inconclusive"
    return Verdict(status, tuple(outcomes), tuple(findings), tuple(reasons))


def _outcome(gate: Gate, policy: Policy, candidate: Evidence, champion: Evidence | None) -> Outcome:
    alpha = gate.alpha if gate.alpha is not None else policy.alpha
    delta = gate.delta if gate.delta is not None else policy.delta

    def failed(reason: str) -> Outcome:
        return Outcome(gate.name, gate.rule, "fail", reason, family=gate.family)

    found = candidate.metrics.get(gate.name)
    if found is None:
        return failed(f"the candidate has no metric {gate.name}; it has {', '.join(candidate.metrics) or 'none'}")
    if problem := _unusable(found):
        return failed(f"the candidate's {gate.name} {problem}")
    if gate.rule in ("min", "max"):
        return _absolute(gate, found, alpha)
    if champion is None:
        return failed("there is no champion to compare with")
    before = champion.metrics.get(gate.name)
    if before is None:
        return failed(f"the champion has no metric {gate.name}")
    if problem := _unusable(before):
        return failed(f"the champion's {gate.name} {problem}")
    if gate.rule == "relative":
        return _relative(gate, found, before, alpha, delta)
    if candidate.set_of(gate.name) != champion.set_of(gate.name):
        return failed("candidate and champion were measured on different items")
    return _paired(gate, policy, candidate, champion, alpha, delta)


def _unusable(one: Measured) -> str:
    numbers = [one.value, *(one.interval or ())]
    if not all(math.isfinite(number) for number in numbers):
        return "is not a finite number"
    if not one.n and one.interval is None and one.right is None and one.values is None:
        return "has neither items nor an interval: a number without its uncertainty is not compared"
    return f"is not reliable: {one.doubt}" if one.doubt else ""


def _absolute(gate: Gate, found: Measured, alpha: float) -> Outcome:
    assert gate.value is not None
    lower, upper = found.limits(alpha)
    sign = 1 if gate.rule == "min" else -1
    ends = sorted((sign * lower, sign * upper))
    status: Status = "pass" if ends[0] >= sign * gate.value else "fail" if ends[1] < sign * gate.value else "inconclusive"
    word = "at least" if sign > 0 else "at most"
    reason = f"{found.value:.4g} [{lower:.4g}, {upper:.4g}], {word} {gate.value:g} wanted"
    p_fail = None
    if found.right is not None and 0 < gate.value < 1:  # score test, the one Wilson's limits invert
        z = sign * (found.value - gate.value) / math.sqrt(gate.value * (1 - gate.value) / found.n)
        p_fail = 0.5 * math.erfc(-z / math.sqrt(2))
    return Outcome(
        gate.name, gate.rule, status, reason, found.value, None, None, lower, upper, gate.value, found.n, p_fail=p_fail,
        method="wilson" if found.right is not None else "given interval", family=gate.family,
    )  # fmt: skip


def _relative(gate: Gate, found: Measured, before: Measured, alpha: float, delta: float) -> Outcome:
    """From the intervals of both, which are taken as independent: distances to the limits in squares (MOVER, Newcombe 1998)."""
    sign = 1 if gate.better == "higher" else -1
    (lo, hi), (old_lo, old_hi) = found.limits(alpha), before.limits(alpha)
    difference = found.value - before.value
    down = math.hypot(found.value - lo, old_hi - before.value)
    up = math.hypot(hi - found.value, before.value - old_lo)
    lower, upper = difference - down, difference + up
    ends = sorted((sign * lower, sign * upper))
    status: Status = "pass" if ends[0] >= -delta else "fail" if ends[1] < -delta else "inconclusive"
    reason = (
        f"difference {difference:+.4g} [{lower:+.4g}, {upper:+.4g}], {'lower' if sign > 0 else 'higher'} by {delta:g} at most"
    )
    return Outcome(
        gate.name, gate.rule, status, reason, found.value, before.value, difference, lower, upper, -sign * delta, found.n,
        method="mover", family=gate.family,
    )  # fmt: skip


def _paired(gate: Gate, policy: Policy, candidate: Evidence, champion: Evidence, alpha: float, delta: float) -> Outcome:
    found, before = candidate.metrics[gate.name], champion.metrics[gate.name]
    new, old = (one.right if one.right is not None else one.values for one in (found, before))
    if new is None or old is None or len(new) != len(old):
        return Outcome(
            gate.name, gate.rule, "fail", "without results item by item there is nothing to pair", family=gate.family
        )
    n = len(new)
    if candidate.sha256 and candidate.sha256 == champion.sha256 and new == old:
        reason = "candidate and champion are the same model"
        return Outcome(gate.name, gate.rule, "pass", reason, found.value, before.value, 0.0, 0.0, 0.0, -delta, n, 0, 0, 1.0,
                       method="identity", family=gate.family)  # fmt: skip
    if n < 2:
        return Outcome(gate.name, gate.rule, "fail", f"{n} items", n=n, family=gate.family)
    clusters = candidate.clusters if len(candidate.clusters) == n else None
    method: Literal["score", "bootstrap", "student-t"] | None = "bootstrap" if clusters is not None else gate.method
    kind = np.bool_ if found.right is not None else np.float64
    seen = noninferiority(
        np.array(new, kind), np.array(old, kind), delta=delta, alpha=alpha, method=method, clusters=clusters,
        rng=np.random.default_rng(derive(policy.seed, "gate", gate.name)),
    )  # fmt: skip
    needed = 0
    if seen.status == "inconclusive" and seen.gained is not None and seen.lost is not None and delta > 0:
        needed = items_needed(max(1, seen.gained + seen.lost) / n, delta=delta, alpha=alpha)
    reason = f"difference {seen.difference:+.4f} [{seen.lower:+.4f}, {seen.upper:+.4f}], worse by {delta:g} at most"
    if needed > n:
        reason += f"; an equal model would need about {needed:,} items to pass, there are {n:,}"
    return Outcome(
        gate.name, gate.rule, seen.status, reason, found.value, before.value, seen.difference, seen.lower, seen.upper, -delta,
        n, seen.gained, seen.lost, seen.p_fine, needed=needed, method=seen.method, family=gate.family,
    )  # fmt: skip
