"""From rows to verdicts, by one rule for all claims. Verdicts can always be computed again from the rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tutelage.claims.claim import Claim, Row, Sentence, SentenceResult
from tutelage.core.stats import Verdict, decide


def judge(claim: Claim, rows: Sequence[Row]) -> tuple[Verdict | Literal["incomplete"], list[SentenceResult]]:
    """(verdict of the primary sentence, every sentence that has at least two complete units).

    A unit counts for a sentence if method and baseline both have it. The primary sentence holds only if the method also
    beats each trivial control: an interval against a control that reaches 0 makes it undecided, one below 0 refutes it.
    """
    values = _table(rows)
    judged = [found for sentence in claim.sentences if (found := _judge_one(claim, sentence, values)) is not None]
    if not judged or not judged[0].primary or any(row.status == "failed" for row in rows):
        return "incomplete", judged
    return judged[0].verdict, judged


Table = Mapping[tuple[str, str], Mapping[int, float]]


def _table(rows: Sequence[Row]) -> Table:
    table: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        for metric, value in row.metrics.items():
            table.setdefault((row.arm, metric), {})[row.unit_id] = value
    return table


def _judge_one(claim: Claim, sentence: Sentence, values: Table) -> SentenceResult | None:
    advantages = _advantages(sentence, sentence.baseline, values)
    if len(advantages) < 2:
        return None
    sign = 1 if sentence.better == "higher" else -1
    margin = sign * sentence.margin if sentence.kind == "threshold" else sentence.margin
    decision = decide(advantages, margin=margin, kind=sentence.kind)
    verdict = decision.verdict
    if sentence.primary:
        verdict = _with_controls(claim, sentence, values, verdict)
    difference, lo, hi = decision.difference, decision.interval.lo, decision.interval.hi
    if sentence.kind == "threshold" and sign < 0:  # show the metric itself again
        difference, lo, hi = -difference, -hi, -lo
    return SentenceResult(
        sentence=sentence.sentence,
        primary=sentence.primary,
        kind=sentence.kind,
        metric=sentence.metric,
        better=sentence.better,
        method=sentence.method,
        baseline=sentence.baseline,
        margin=sentence.margin,
        difference=difference,
        ci95=(lo, hi),
        ci_method=decision.ci_method,
        unit=claim.system.claim.unit,
        n_units=decision.n_units,
        verdict=verdict,
    )


def _advantages(sentence: Sentence, against: str, values: Table) -> list[float]:
    """One signed advantage a unit: positive where the method is better (for a threshold, the signed metric itself)."""
    sign = 1 if sentence.better == "higher" else -1
    own = values.get((sentence.method, sentence.metric), {})
    if not against:
        return [sign * own[unit] for unit in sorted(own)]
    other = values.get((against, sentence.metric), {})
    return [sign * (own[unit] - other[unit]) for unit in sorted(own.keys() & other.keys())]


def _with_controls(claim: Claim, sentence: Sentence, values: Table, verdict: Verdict) -> Verdict:
    if verdict != "holds":
        return verdict
    for control in claim.controls:
        advantages = _advantages(sentence, control, values)
        against = decide(advantages, margin=0.0, kind="superiority").verdict if len(advantages) > 1 else "undecided"
        if against == "does not hold":
            return "does not hold"
        if against == "undecided":
            verdict = "undecided"
    return verdict
