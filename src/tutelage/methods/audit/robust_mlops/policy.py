"""The policy file: what a model must show to be shipped, and how a stream is watched.

YAML, read by `safe_load`, every key checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tutelage.core.errors import InputError, MissingError
from tutelage.methods.audit.robust_mlops.drift import MULTIVARIATE


class Part(BaseModel):
    """Unknown keys are refused: a misspelt gate would otherwise be no gate."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Gate(Part):
    """One requirement. metric: "clean", a threat, "corruptions", "fog@3", "shift:NAME", "clean/SLICE", "worst slice", "ece",
    "latency_ms", or one of the file `metrics`. rule: "min" or "max": the metric's one-sided limit against `value`;
    "noninferior": paired with the champion on the same items; "relative": against the champion, from both intervals.
    family: gates of one name share their error by Holm. better: for "relative".
    """

    metric: str
    rule: Literal["min", "max", "noninferior", "relative"]
    value: float | None = None
    delta: float | None = Field(None, ge=0)
    alpha: float | None = Field(None, gt=0, le=0.5)
    slice: str = ""
    family: str = ""
    better: Literal["higher", "lower"] = "higher"
    method: Literal["score", "bootstrap", "student-t"] | None = None

    @property
    def name(self) -> str:
        return f"{self.metric}/{self.slice}" if self.slice else self.metric


class Source(Part):
    """Where a model's numbers come from: a saved audit, a file of predictions, a model to audit, or a version of the registry.

    metrics: a JSON file of further metrics, name -> {value, ci95, n} or {right: "0110..."}.
    """

    audit: str = ""
    predictions: str = ""
    model: str = ""
    weights: str = ""
    version: str = ""
    name: str = ""
    metrics: str = ""
    latency: bool = False


class Data(Part):
    """test: what models and predictions are judged on (images, or a table).

    profile, schema: of the table. train: for leakage.
    """

    test: str = ""
    train: str = ""
    reference: str = ""
    profile: str = ""
    data_schema: dict[str, dict[str, Any]] = Field(default_factory=dict, alias="schema")
    label: str = ""
    id: str = ""
    cross: tuple[str, ...] = ()
    slices: str = ""
    cluster: str = ""
    threats: tuple[str, ...] = ()
    corruptions: str = ""
    shifts: dict[str, str] = Field(default_factory=dict)
    n: int = Field(0, ge=0)
    least_rows: int = Field(1, ge=1)


class Watch(Part):
    """How `monitor` looks at a stream. drop: fall of accuracy that counts. estimate: of the accuracy without labels."""

    chunk: int = Field(500, ge=20)
    columns: tuple[str, ...] = ()
    tests: tuple[Literal["mmd", "domain-classifier", "pca"], ...] = ()
    alpha: float = Field(0.01, gt=0, le=0.5)
    adjust: Literal["holm", "bh"] = "holm"
    looks: Literal["fixed", "spending", "e-detector"] = "fixed"
    effect: float = Field(1.0, ge=0)
    bins: int = Field(10, ge=2)
    permutations: int = Field(200, ge=20)
    estimate: Literal["atc", "doc", "cbpe"] = "atc"
    fall: Literal["e-process", "adwin", "ddm", "page-hinkley"] = "e-process"
    drop: float = Field(0.05, gt=0, lt=1)
    prediction: str = "prediction"
    confidence: str = "confidence"
    label: str = "label"
    versions: dict[str, str] = Field(default_factory=dict)  # version -> its column of predictions


class Rollback(Part):
    """k alarms in the last m chunks; after a decision, `cooldown` chunks without another one."""

    k: int = Field(2, ge=1)
    m: int = Field(3, ge=1)
    cooldown: int = Field(5, ge=0)
    hold: bool = False


class Policy(Part):
    """The whole file. alpha: one-sided level of each gate; delta: margin of "noninferior" where a gate has none of its own."""

    name: str = "model"
    alpha: float = Field(0.05, gt=0, le=0.5)
    delta: float = Field(0.01, ge=0)
    seed: int = 0
    candidate: Source = Source()
    champion: Source = Source()
    data: Data = Data()
    gates: tuple[Gate, ...] = ()
    monitor: Watch = Watch()
    rollback: Rollback = Rollback()
    registry: str = ""
    trackers: tuple[str, ...] = ()
    card: dict[str, Any] = Field(default_factory=dict)


def read_policy(source: Path | str | Mapping[str, Any] | Policy) -> Policy:
    """The policy of a YAML file or of a mapping. Raises InputError with the place of what is wrong, MissingError."""
    if isinstance(source, Policy):
        return source
    if isinstance(source, Mapping):
        return _checked(source)
    path = Path(source)
    if not path.is_file():
        raise MissingError(f"policy: there is no file {path}")
    import yaml  # type: ignore[import-untyped, unused-ignore]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError("policy", f"{path.name} ({error})", "a YAML file") from error
    if not isinstance(content, Mapping):
        raise InputError("policy", f"{path.name} with {type(content).__name__}", "names and values, such as gates: [...]")
    return _checked(content)


def _checked(content: Mapping[str, Any]) -> Policy:
    try:
        policy = Policy.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = (
            "a key that a policy has" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Input should be ")
        )
        raise InputError(f"policy.{place}", first["input"], message) from error
    for i, gate in enumerate(policy.gates):
        if gate.rule in ("min", "max") and gate.value is None:
            raise InputError(f"policy.gates.{i}.value", "none", f"a number to compare {gate.name} with")
        if gate.rule in ("noninferior", "relative") and gate.value is not None:
            raise InputError(f"policy.gates.{i}.value", gate.value, f"delta, for the rule {gate.rule}")
    if policy.rollback.k > policy.rollback.m:
        raise InputError("policy.rollback.k", policy.rollback.k, f"at most m = {policy.rollback.m}")
    return policy


def describe(policy: Policy) -> dict[str, Any]:
    """As JSON, from which the policy can be read again."""
    return policy.model_dump(by_alias=True, mode="json")


__all__ = ["MULTIVARIATE", "Data", "Gate", "Policy", "Rollback", "Source", "Watch", "describe", "read_policy"]
