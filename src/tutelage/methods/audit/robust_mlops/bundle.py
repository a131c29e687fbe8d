"""The evidence bundle: everything a verdict rests on, sealed with a hash, from which it can be judged again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, sha256_text, write_json
from tutelage.methods.audit.robust_mlops.judge import Evidence, Measured, Outcome, Verdict, judge
from tutelage.methods.audit.robust_mlops.policy import Policy, describe, read_policy
from tutelage.methods.audit.robust_mlops.profile import Finding, Level

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
            if about["version"] != VERSION:
                raise InputError("bundle", f"version {about['version']}", f"version {VERSION}, which this package reads")
            policy = read_policy(dict(about["policy"]))
            findings = tuple(map(_finding, about["findings"]))
            candidate = _read(about["candidate"])
            champion = _read(about["champion"]) if about["champion"] is not None else None
            lineage = {**about["lineage"], "code": dict(about["lineage"].get("code") or {})}
            verdict = judge(policy, candidate, champion, findings)
            found = cls(policy, candidate, champion, findings, verdict, lineage, str(about["rollback"]), str(about["time"]))
            stored = [about["verdict"]["status"], *((one["gate"], one["status"]) for one in about["verdict"]["outcomes"])]
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError("bundle", f"{file.name} ({reason})", "a bundle as `gate` writes it") from error
        if stored != [verdict.status, *((one.gate, one.status) for one in verdict.outcomes)]:
            told = [f"{gate} {status}" for gate, status in stored[1:]]
            raise InputError(
                "bundle",
                f"a verdict {stored[0]} ({', '.join(told)})",
                f"{_in_words(verdict.status, verdict.outcomes)}, which its evidence gives with this version",
            )
        return found


def replay(path: Path | str) -> Verdict:
    """Judge the evidence of a stored bundle again. Raises InputError if it was changed or gives another verdict."""
    return Bundle.load(path).verdict


def _in_words(status: str, outcomes: Sequence[Outcome]) -> str:
    return f"{status} ({', '.join(f'{one.gate} {one.status}' for one in outcomes)})"


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
        right = tuple("01".index(digit) == 1 for digit in one["right"]) if "right" in one else None
        values = tuple(map(_number, one["values"])) if "values" in one else None
        low, high = map(_number, one["interval"]) if "interval" in one else (0.0, 0.0)
        interval = (low, high) if "interval" in one else None
        value, n = _number(one["value"]), int(one["n"])
        if right is not None and (len(right) != n or (n and abs(sum(right) / n - value) > 1e-9)):
            raise ValueError(f"{name} is not the share of its own answers")
        metrics[name] = Measured(value, n, interval, right, values, str(one.get("doubt", "")))
    return Evidence(
        str(about["name"]), str(about["sha256"]), str(about["data"]), metrics, dict(about["facts"]), dict(about["sets"]),
        tuple(map(str, about["clusters"])),
    )  # fmt: skip


def _finding(about: Mapping[str, Any]) -> Finding:
    if (level := about["level"]) not in get_args(Level):
        raise ValueError(f"a finding of level {level}")
    return Finding(level, str(about["column"]), str(about["rule"]), str(about["value"]))


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
