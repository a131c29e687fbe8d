"""The gate itself: validate, measure both models on the same items, judge, write the bundle, register."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.core.errors import InputError, MissingError
from tutelage.core.progress import QUIET, Progress
from tutelage.methods.audit.robust_mlops.bundle import Bundle
from tutelage.methods.audit.robust_mlops.columns import as_columns
from tutelage.methods.audit.robust_mlops.judge import Evidence, Verdict, judge
from tutelage.methods.audit.robust_mlops.lineage import Lineage, hash_of, made_with
from tutelage.methods.audit.robust_mlops.measure import evidence_from
from tutelage.methods.audit.robust_mlops.policy import Policy, Source, describe, read_policy
from tutelage.methods.audit.robust_mlops.profile import Finding, Profile, find_leakage, find_leaking_columns
from tutelage.methods.audit.robust_mlops.registry import Registry, Store, Version
from tutelage.methods.audit.robust_mlops.reports import check_card, write_reports


@dataclass(frozen=True)
class GateResult:
    """status: "pass", "fail" or "inconclusive"; exit_code 0, 1, 2. bundle: the evidence. files: what was written."""

    bundle: Bundle
    files: Mapping[str, Path]

    @property
    def verdict(self) -> Verdict:
        return self.bundle.verdict

    @property
    def status(self) -> str:
        return self.bundle.verdict.status

    @property
    def exit_code(self) -> int:
        return self.bundle.verdict.exit_code


def gate(
    policy: Policy | Mapping[str, Any] | Path | str,
    candidate: Evidence | Source | None = None,
    champion: Evidence | Source | None = None,
    *,
    out: Path | str | None = None,
    registry: Store | None = None,
    progress: Progress = QUIET,
) -> GateResult:
    """May the candidate be shipped?

    policy: a YAML file, a mapping or a `Policy`. candidate, champion: evidence, or where to get it; default: what the policy
    says. Without a champion, rules that need one fail. out: a folder for the bundle and its reports. registry: its champion is
    the rollback target; default the policy's folder, if it names one. A candidate that passes is not promoted by itself:
    `registry.promote(number, gate=result.bundle.sha256)` does it.

    Data that break the policy's profile, rows that are in the training data too and columns that tell the label stop the gate
    before a model is measured. Raises InputError and MissingError for what cannot be read.
    """
    rules = read_policy(policy)
    check_card(rules.card)
    for name in rules.trackers:
        _tracker(name)  # a wrong name is told before anything is measured
    if rules.registry and Path(rules.registry).exists() and not Path(rules.registry).is_dir():
        raise InputError("policy.registry", rules.registry, "a folder")
    store = registry if registry is not None else Registry(rules.registry) if rules.registry else None
    findings = validate(rules)
    stop = any(one.level == "error" for one in findings)
    if stop or not rules.gates:  # nothing is measured on data that are broken, or for nothing
        new: Evidence = candidate if isinstance(candidate, Evidence) else Evidence("candidate", "", "", {})
        old: Evidence | None = champion if isinstance(champion, Evidence) else None
    else:
        new = _evidence(candidate, rules.candidate, rules, "candidate", store, progress)
        named = champion is not None or rules.champion != Source()
        old = _evidence(champion, rules.champion, rules, "champion", store, progress) if named else None
    verdict = judge(rules, new, old, findings)
    target = _target(store)
    lineage = {**made_with(rules.seed), "files": _hashes(rules), "policy": describe(rules)["name"]}
    bundle = Bundle(rules, new, old, tuple(findings), verdict, lineage, target, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    files = write_reports(bundle, out) if out is not None else {}
    if isinstance(store, Registry):
        _record(store.lineage, bundle)
    if rules.trackers and out is not None:
        track(bundle, rules.trackers, Path(out))
    return GateResult(bundle, files)


def validate(policy: Policy) -> list[Finding]:
    """F1 on what the policy names: the test table against its profile or schema; repeats; rows of the training data."""
    data, findings = policy.data, list[Finding]()
    checked = bool(data.profile or data.data_schema or data.reference or data.cross)
    if not data.test or not (checked or data.train):
        return findings
    test = as_columns(data.test, "data.test")
    if data.profile:
        profile = Profile.load(data.profile)
        if data.data_schema or data.cross:
            raise InputError("policy.data.schema", "a schema and a profile", "one of them; the profile has the rules in it")
    elif checked:
        profile = make_profile(as_columns(data.reference, "data.reference") if data.reference else test, policy)
    if checked:
        known = {name: values for name, values in test.items() if name in profile.columns or name != data.id}
        try:
            findings += profile.check(known)
        except TypeError as error:  # a word as the least number, and the like
            raise InputError("policy.data.schema", str(error), "rules that fit their columns") from error
    if data.train:
        ignored = [name for name in (data.id,) if name]
        train = as_columns(data.train, "data.train")
        findings += find_leakage(train, test, ignore=ignored)
        if data.label:
            told = {name: values for name, values in train.items() if name != data.id}
            findings += find_leaking_columns(told, data.label)
    return findings


def make_profile(data: Any, policy: Policy) -> Profile:
    """The profile of reference data by the policy's schema and cross rules.

    New rows have new ids: their column has no rules but those of the schema.
    """
    own = policy.data
    kept = {name: values for name, values in as_columns(data).items() if name != own.id or name in own.data_schema}
    try:
        return Profile.fit(kept, label=own.label, cross=own.cross, schema=own.data_schema, least_rows=own.least_rows)
    except TypeError as error:
        raise InputError("policy.data.schema", str(error), "rules that fit their columns") from error


def track(bundle: Bundle, trackers: tuple[str, ...], folder: Path) -> None:
    """Log verdict and metrics to Accelerate's trackers: mlflow, wandb, tensorboard, ... (as far as they are installed)."""
    from accelerate.state import PartialState

    PartialState()  # trackers ask it which process they are in
    numbers: dict[str, float] = {"gate/exit_code": float(bundle.verdict.exit_code)}
    for role, evidence in (("candidate", bundle.candidate), ("champion", bundle.champion)):
        for name, found in (evidence.metrics if evidence else {}).items():
            if found.value == found.value:
                numbers[f"{role}/{name}"] = found.value
    for name in trackers:
        kind = _tracker(name)
        try:
            tracker = kind(bundle.policy.name, folder) if kind.requires_logging_directory else kind(bundle.policy.name)
            if hasattr(tracker, "start"):  # of newer versions of Accelerate
                tracker.start()
        except (ImportError, NameError) as error:
            raise MissingError(f"the tracker {name} is not installed: pip install {name}") from error
        tracker.store_init_configuration({"bundle": bundle.sha256, "status": bundle.verdict.status})
        tracker.log({key.replace("@", "_at_").replace(":", "/"): value for key, value in numbers.items()}, step=0)
        tracker.finish()


def _tracker(name: str) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kinds = {str(key): kind for key, kind in LOGGER_TYPE_TO_CLASS.items()}
    if name not in kinds:
        raise InputError("policy.trackers", name, f"one of {', '.join(kinds)}")
    return kinds[name]


def _evidence(
    given: Evidence | Source | None, named: Source, policy: Policy, role: str, store: Store | None, progress: Progress
) -> Evidence:
    if isinstance(given, Evidence):
        return given
    source = given if given is not None else named
    if source.version:
        if store is None:
            raise InputError(f"policy.{role}.version", source.version, "a registry in the policy")
        version = store.get(source.version)
        if not isinstance(store, Registry):
            raise InputError(f"policy.{role}.version", source.version, "a registry that is a folder")
        source = source.model_copy(
            update={"version": "", "weights": str(store.check(version)), "name": source.name or version.name}
        )
    return evidence_from(source, policy, role, progress=progress)


def _target(store: Store | None) -> str:
    """What to go back to if the candidate is promoted and must be taken back: the champion of now."""
    if store is None:
        return ""
    try:
        found: Version = store.get("champion")
    except MissingError:
        return ""
    return f"{found.name} (SHA-256 {found.sha256[:12]})" if found.sha256 else found.name


def _hashes(policy: Policy) -> dict[str, str]:
    """Content hashes of the files that the policy names."""
    data = policy.data
    named = {
        "test": data.test,
        "train": data.train,
        "reference": data.reference,
        "profile": data.profile,
        "slices": data.slices,
    }
    for role, source in (("candidate", policy.candidate), ("champion", policy.champion)):
        named |= {f"{role} {key}": getattr(source, key) for key in ("audit", "predictions", "weights", "metrics")}
    return {name: hash_of(path) for name, path in named.items() if path and Path(path).exists()}


def _record(lineage: Lineage, bundle: Bundle) -> None:
    lineage.record("gate", {
        "bundle": bundle.sha256, "status": bundle.verdict.status, "candidate": bundle.candidate.sha256,
        "champion": bundle.champion.sha256 if bundle.champion else "", "data": bundle.candidate.data,
    })  # fmt: skip
