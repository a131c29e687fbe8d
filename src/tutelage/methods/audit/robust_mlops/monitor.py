"""F7 and F9: a model in production, chunk by chunk. Checks, drift, estimated and true accuracy, one decision, a rollback
target.

==================  ==================  =================================================================
data                performance         decision
==================  ==================  =================================================================
invalid             any                 block: these rows must not be answered
drift               falls               retrain (or rollback, where an older version does better on these rows)
drift               holds               watch
no drift            falls               concept: the meaning of the inputs has changed, look at labels
no drift            holds               quiet
==================  ==================  =================================================================

A fall is estimated without labels, or tested with them: then by an e-process, which may be looked at after every chunk without
a false alarm, ever, with probability 1 - alpha. Alarms become decisions by hysteresis: k alarms in the last m chunks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError
from tutelage.core.runs import append_jsonl
from tutelage.core.stats.distances import texts
from tutelage.core.stats.noninferiority import noninferiority
from tutelage.core.stats.sequential import Adwin, Ddm, EDetector, EProcess, PageHinkley, average_run_length, spending
from tutelage.methods.audit.robust_mlops.columns import Columns, as_columns, is_number, rows
from tutelage.methods.audit.robust_mlops.drift import DriftReport, drift
from tutelage.methods.audit.robust_mlops.estimate import Estimate, estimate_accuracy
from tutelage.methods.audit.robust_mlops.policy import Policy, Rollback
from tutelage.methods.audit.robust_mlops.profile import Finding, Profile

Action = Literal["quiet", "watch", "block", "retrain", "concept", "rollback", "cool-down", "hold"]
ALARMS = ("block", "retrain", "concept", "rollback")


@dataclass
class Hysteresis:
    """k alarms in the last m chunks make a decision; then `cooldown` chunks without one. hold: a person has stopped it."""

    rule: Rollback
    last: deque[bool] = field(init=False)
    waiting: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.last = deque(maxlen=self.rule.m)

    def observe(self, alarm: bool) -> bool:
        """Whether this chunk makes a decision."""
        if self.waiting:
            self.waiting -= 1
            return False
        self.last.append(alarm)
        if self.rule.hold or not alarm or sum(self.last) < self.rule.k:
            return False
        self.last.clear()
        self.waiting = self.rule.cooldown
        return True


class Predictor(Protocol):
    """A version of the model: columns -> (answers (n,), confidences (n,) or None)."""

    def __call__(self, columns: Columns, /) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]: ...


def column_predictor(prediction: str, confidence: str = "") -> Predictor:
    """A version whose answers are a column of the stream (shadow traffic that was logged)."""

    def answer(columns: Columns, /) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        if prediction not in columns:
            raise InputError("chunk", f"columns {', '.join(columns)}", f"a column {prediction}")
        found = columns[confidence].astype(np.float64) if confidence in columns else None
        return columns[prediction], found

    return answer


@dataclass(frozen=True)
class Decision:
    """What was seen on a chunk and what to do. alarm: of this chunk; decided: the alarms became a decision.

    accuracy: true one of the chunk, None without labels. evidence: e-value of a fall of the true accuracy. target: version to
    go back to. reasons: in words.
    """

    chunk: int
    n: int
    action: Action
    alarm: bool
    decided: bool
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    drift: DriftReport | None = None
    estimate: Estimate | None = None
    accuracy: float | None = None
    evidence: float | None = None
    target: str = ""

    def describe(self) -> dict[str, Any]:
        about = asdict(self)
        about["findings"] = [str(one) for one in self.findings]
        about["drift"] = self.drift.describe() if self.drift else None
        return about


@dataclass
class Monitor:
    """Watches a stream by a policy.

    reference: labelled rows like those the champion was validated on (never trained on). versions: name -> predictor, the
    champion first; the others, newest first, are what a rollback may go to. profile: for F1; without one it is fitted on the
    reference. log: a JSONL file to which every decision is added. on_rollback: called with the target, to switch the traffic.
    """

    policy: Policy
    reference: Any
    versions: Mapping[str, Predictor]
    profile: Profile | None = None
    log: Path | None = None
    on_rollback: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not self.versions:
            raise InputError("versions", "none", "at least the champion")
        watch = self.policy.monitor
        self._columns = as_columns(self.reference, "reference")
        own = {watch.prediction, watch.confidence, watch.label, *watch.versions.values()}
        self._watched = list(watch.columns) or [name for name in self._columns if name not in own]
        self.champion = next(iter(self.versions))
        self._hysteresis = Hysteresis(self.policy.rollback)
        self._detector, self._looks = EDetector(watch.alpha), 0
        self.profile = self.profile or Profile.fit({name: self._columns[name] for name in self._watched})
        self.decisions: list[Decision] = []
        self._baseline()

    def _baseline(self) -> None:
        """What is known of the champion on the reference, and a fresh e-process for it."""
        watch = self.policy.monitor
        answers, self._confidence = self.versions[self.champion](self._columns)
        if watch.label not in self._columns:
            raise InputError("reference", f"columns {', '.join(self._columns)}", f"the labels in a column {watch.label}")
        self._right = same(answers, self._columns[watch.label])
        lowest = float(self._right.mean()) - watch.drop / 2
        self._fall = EProcess(min(1 - 1e-6, max(1e-6, lowest)))
        self._adwin, self._ddm, self._hinkley = Adwin(watch.alpha), Ddm(), PageHinkley(slack=1 - lowest)
        self._reference_answers = answers

    def observe(self, chunk: Any, labels: npt.ArrayLike | None = None) -> Decision:
        """Look at the next rows. labels (n,): where they are known, else taken from the label column if there is one."""
        watch = self.policy.monitor
        columns = as_columns(chunk, "chunk")
        truth = np.asarray(labels) if labels is not None else columns.get(watch.label)
        assert self.profile is not None
        seen = {name: values for name, values in columns.items() if name in self.profile.columns}
        findings = (
            tuple(self.profile.check(seen, labelled=False)) if seen else (Finding("error", "", "no column is known", "0"),)
        )
        broken = [one for one in findings if one.level == "error"]
        if any(one.rule in ("missing column", "no column is known", "kind", "size") for one in broken):
            return self._decide("block", findings, tuple(str(one) for one in broken), rows(columns))
        answers, confidence = self.versions[self.champion](columns)
        found = self._drift(columns, answers, confidence)
        estimate = self._estimate(confidence)
        accuracy = evidence = None
        falls: list[str] = []
        if truth is not None:
            right = same(answers, truth)
            accuracy, evidence = float(right.mean()), self._fall.update(right)
            # with labels an estimate is no longer asked
            if self._fallen(right, evidence):
                told = f"e-value {evidence:.3g}" if watch.fall == "e-process" else watch.fall
                falls.append(f"true accuracy {accuracy:.3f}, {self._right.mean():.3f} on the reference ({told})")
        elif estimate is not None and estimate.trusted and estimate.reference - estimate.accuracy >= watch.drop:
            falls.append(f"estimated accuracy {estimate.accuracy:.3f}, {estimate.reference:.3f} on the reference")
        drifted = self._flag(found)
        reasons = [*(str(one) for one in broken), *([f"drift in {', '.join(found.which)}"] if drifted else []), *falls]
        if (
            truth is not None
            and estimate is not None
            and accuracy is not None
            and falls
            and not self._agrees(estimate, accuracy, rows(columns))
        ):
            reasons.append(f"the estimate without labels ({estimate.accuracy:.3f}) is wrong here and must not be trusted")
        action: Action = "quiet"
        if broken:
            action = "block"
        elif falls:
            action = "retrain" if drifted else "concept"
        elif drifted:
            action = "watch"
        return self._decide(
            action, findings, tuple(reasons), rows(columns), found, estimate, accuracy, evidence, columns=columns, truth=truth
        )

    def observe_all(self, chunks: Sequence[Any]) -> list[Decision]:
        return [self.observe(chunk) for chunk in chunks]

    def _drift(self, columns: Columns, answers: npt.NDArray[Any], confidence: npt.NDArray[np.float64] | None) -> DriftReport:
        """Of the inputs, and of what the model answers to them."""
        watch = self.policy.monitor
        old = {name: self._columns[name] for name in self._watched} | {"its answers": texts(self._reference_answers)}
        new = {name: columns[name] for name in self._watched if name in columns} | {"its answers": texts(answers)}
        if confidence is not None and self._confidence is not None:
            old["its confidence"], new["its confidence"] = self._confidence, confidence
        return drift(
            old, new, tests=watch.tests, columns=list(new), alpha=watch.alpha, adjust=watch.adjust, bins=watch.bins,
            effect=watch.effect, permutations=watch.permutations, seed=self.policy.seed + self._looks,
        )  # fmt: skip

    def _flag(self, found: DriftReport) -> bool:
        """Whether drift is said, by how repeated looks are counted; the effect must be large enough in any case."""
        watch = self.policy.monitor
        self._looks += 1
        over = self._detector.update(found.p_value)
        if watch.looks == "fixed":
            return found.drifted
        if watch.looks == "spending":
            return found.drifted and found.p_value <= spending(watch.alpha, self._looks)
        return over and found.drifted

    def _estimate(self, confidence: npt.NDArray[np.float64] | None) -> Estimate | None:
        if confidence is None or self._confidence is None:
            return None
        return estimate_accuracy(self._confidence, self._right, confidence, self.policy.monitor.estimate)

    def _fallen(self, right: npt.NDArray[np.bool_], evidence: float) -> bool:
        """Whether the true accuracy has fallen, by the detector that the policy names."""
        watch = self.policy.monitor
        if watch.fall == "e-process":
            return evidence >= 1 / watch.alpha
        wrong = (~right).astype(np.float64).tolist()
        if watch.fall == "ddm":
            alarms = [self._ddm.update(one) == "drift" for one in wrong]  # every value is taken, also after an alarm
            return any(alarms)
        if watch.fall == "page-hinkley":
            alarms = [self._hinkley.update(one) for one in wrong]
            return any(alarms)
        before = float(np.mean(self._adwin.window or [0.0]))
        cuts = [self._adwin.update(one) for one in wrong]
        return any(cuts) and float(np.mean(self._adwin.window)) > before

    def _agrees(self, estimate: Estimate, accuracy: float, n: int) -> bool:
        return abs(estimate.accuracy - accuracy) <= 3.0 * math.sqrt(max(1e-9, accuracy * (1 - accuracy)) / n) + 0.02

    def _decide(
        self,
        action: Action,
        findings: tuple[Finding, ...],
        reasons: tuple[str, ...],
        n: int,
        found: DriftReport | None = None,
        estimate: Estimate | None = None,
        accuracy: float | None = None,
        evidence: float | None = None,
        *,
        columns: Columns | None = None,
        truth: npt.NDArray[Any] | None = None,
    ) -> Decision:
        alarm, target = action in ALARMS, ""
        cooling = self._hysteresis.waiting > 0
        decided = self._hysteresis.observe(alarm)
        if decided and columns is not None and truth is not None and action != "block":
            target = self._target(columns, truth)
            if target:
                action = "rollback"
        elif alarm and not decided and self.policy.rollback.hold:
            action = "hold"
        elif alarm and cooling:
            action = "cool-down"
        made = Decision(
            len(self.decisions), n, action, alarm, decided, reasons, findings, found, estimate, accuracy, evidence, target
        )
        self.decisions.append(made)
        if self.log is not None:
            append_jsonl(self.log, made.describe())
        if target:
            self.champion = target
            self._baseline()
            if self.on_rollback is not None:
                self.on_rollback(target)
        return made

    def _target(self, columns: Columns, truth: npt.NDArray[Any]) -> str:
        """The newest other version that is shown to be better than the champion on this chunk, paired on its rows."""
        own = same(self.versions[self.champion](columns)[0], truth)
        for name, version in self.versions.items():
            if name == self.champion:
                continue
            other = same(version(columns)[0], truth)
            # paired on these very rows, Bonferroni over the versions that are asked
            if noninferiority(other, own, delta=0.0, alpha=self.policy.alpha / max(1, len(self.versions) - 1)).lower > 0:
                return name
        return ""

    def summary(self) -> dict[str, Any]:
        """Chunks, alarms, and the average run length between chunks with an alarm."""
        alarms = [one for one in self.decisions if one.alarm]
        return {
            "chunks": len(self.decisions),
            "alarms": len(alarms),
            "decisions": sum(one.decided for one in self.decisions),
            "watched": sum(one.action == "watch" for one in self.decisions),
            "rollbacks": [one.target for one in self.decisions if one.target],
            "average_run_length": average_run_length(len(alarms), len(self.decisions)),
            "champion": self.champion,
        }


def same(answers: npt.ArrayLike, truth: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(n,): which answers are right; numbers as numbers, all else as text."""
    first, second = np.asarray(answers), np.asarray(truth)
    if first.shape != second.shape:
        raise InputError("labels", f"{second.size} labels", f"{first.size}, one a row")
    if is_number(first) and is_number(second):
        return np.asarray(first.astype(np.float64) == second.astype(np.float64))
    return np.asarray(texts(first) == texts(second))
