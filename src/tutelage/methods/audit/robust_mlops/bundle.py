"""The evidence bundle: everything a verdict rests on, sealed with a hash, from which it can be judged again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, sha256_text, write_json
from tutelage.methods.audit.robust_mlops.judge import Evidence, Measured, Verdict, judge
from tutelage.methods.audit.robust_mlops.policy import Policy, describe, read_policy
from tutelage.methods.audit.robust_mlops.profile import Finding

VERSION = 1


@dataclass(frozen=True)
class Bundle:
    """Policy and evidence, the verdict they gave, what they were made with, and the version to go back to."""

    policy: Policy
    candidate: Evidence
    champion: Evidence | None
    findings: tuple[Finding, ...]
    verdict: Verdict
    lineage: Mapping[str, Any]
    rollback: str = ""
    time: str = ""

    def describe(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "policy": describe(self.policy),
            "candidate": _written(self.candidate),
            "champion": _written(self.champion) if self.champion is not None else None,
            "findings": [asdict(one) for one in self.findings],
            "verdict": self.verdict.describe(),
            "lineage": dict(self.lineage),
            "rollback": self.rollback,
            "time": self.time,
        }

    @property
    def sha256(self) -> str:
        """Hash of everything in it: what a registry keeps as the gate of a version."""
        return sha256_text(canonical_json(_finite(self.describe())))

    def save(self, path: Path | str) -> str:
        """Write bundle.json; returns its hash."""
        about = _finite(self.describe())
        write_json(Path(path), {**about, "sha256": sha256_text(canonical_json(about))})
        return self.sha256

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Read a bundle (a file, or the folder of it). One that was changed after it was written is refused."""
        path = Path(path)
        file = path / "bundle.json" if path.is_dir() else path
        if not file.is_file():
            raise MissingError(f"bundle: there is no file {file}")
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            sealed = about.pop("sha256")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError("bundle", f"{file.name} ({error})", "a bundle as `gate` writes it") from error
        if sealed != sha256_text(canonical_json(about)):
            raise InputError("bundle", file.name, "a bundle whose hash is right; this one was changed after it was written")
        try:
            policy = read_policy(about["policy"])
            findings = tuple(Finding(**one) for one in about["findings"])
            candidate = _read(about["candidate"])
            champion = _read(about["champion"]) if about["champion"] is not None else None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("bundle", f"{file.name} ({error})", "a bundle as `gate` writes it") from error
        verdict = judge(policy, candidate, champion, findings)
        found = cls(policy, candidate, champion, findings, verdict, about["lineage"], about["rollback"], about["time"])
        if verdict.status != about["verdict"]["status"]:
            raise InputError(
                "bundle",
                f"a verdict {about['verdict']['status']}",
                f"{verdict.status}, which its evidence gives with this version",
            )
        return found


def replay(path: Path | str) -> Verdict:
    """Judge the evidence of a stored bundle again. Raises InputError if it was changed or gives another verdict."""
    return Bundle.load(path).verdict


def _written(one: Evidence) -> dict[str, Any]:
    metrics = {}
    for name, found in one.metrics.items():
        about: dict[str, Any] = {"value": found.value, "n": found.n}
        if found.interval is not None:
            about["interval"] = list(found.interval)
        if found.right is not None:
            about["right"] = "".join("01"[right] for right in found.right)
        if found.values is not None:
            about["values"] = list(found.values)
        if found.doubt:
            about["doubt"] = found.doubt
        metrics[name] = about
    return {
        "name": one.name, "sha256": one.sha256, "data": one.data, "metrics": metrics, "facts": dict(one.facts),
        "sets": dict(one.sets), "clusters": list(one.clusters),
    }  # fmt: skip


def _read(about: Mapping[str, Any]) -> Evidence:
    metrics = {}
    for name, one in about["metrics"].items():
        right = tuple(digit == "1" for digit in one["right"]) if "right" in one else None
        values = tuple(map(_number, one["values"])) if "values" in one else None
        interval = (_number(one["interval"][0]), _number(one["interval"][1])) if "interval" in one else None
        metrics[name] = Measured(_number(one["value"]), int(one["n"]), interval, right, values, one.get("doubt", ""))
    return Evidence(
        about["name"], about["sha256"], about["data"], metrics, about["facts"], about["sets"], tuple(about["clusters"])
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _finite(value: Any) -> Any:
    """JSON has no NaN: it is written as null, and read as NaN again."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value
