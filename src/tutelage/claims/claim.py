"""What a claim is: arms and controls, independent units, scales, and one function that computes a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from tutelage.catalogue import System, find
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, MissingError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.stats import Kind, Verdict

Scale = Literal["smoke", "claim", "paper"]


class ClaimConfig(BaseModel):
    """Settings of a claim at one scale; the fields of a subclass are what `--set key=value` may change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Sentence:
    """One falsifiable sentence about the rows of a claim; see `catalogue.PrimaryClaim` for the fields."""

    sentence: str
    metric: str
    method: str
    baseline: str = ""
    kind: Kind = "superiority"
    better: Literal["higher", "lower"] = "higher"
    margin: float = 0.0
    primary: bool = False


@dataclass(frozen=True)
class Cell:
    """One arm on one unit, and what it may use."""

    arm: str
    unit: int
    config: Any
    cache: Cache
    progress: Progress = QUIET


@dataclass(frozen=True)
class Claim:
    """The experiment of one system.

    arms: every arm, controls and baselines included. controls: the trivial ones, which the method must beat too.
    scales: a config for each scale. units: how many independent repetitions a scale has by default. cell: computes the
    metrics (finite numbers) of one arm on one unit, from `Cell` alone. data: the sets used, as results list them.
    secondary: further sentences. axes: two metrics to draw against each other, all arms, with intervals.
    """

    slug: str
    arms: tuple[str, ...]
    controls: tuple[str, ...]
    scales: Mapping[Scale, ClaimConfig]
    units: Mapping[Scale, int]
    cell: Callable[[Cell], Mapping[str, float]]
    data: Callable[[Any], list[dict[str, Any]]]
    secondary: tuple[Sentence, ...] = ()
    axes: tuple[str, str] | None = None
    metric_labels: Mapping[str, str] | None = None

    @property
    def system(self) -> System:
        return find(self.slug)

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """The primary sentence, from the catalogue, then the secondary ones."""
        c = self.system.claim
        first = Sentence(c.sentence, c.metric, c.method, c.baseline, c.kind, c.better, c.margin, primary=True)
        return (first, *self.secondary)

    def config(self, scale: Scale, changes: Mapping[str, str]) -> ClaimConfig:
        """The config of `scale` with `--set` changes, validated; unknown keys and wrong values raise InputError."""
        from pydantic import ValidationError

        if scale not in self.scales:
            raise InputError("scale", scale, f"one of {', '.join(self.scales)}")
        base = self.scales[scale]
        known = type(base).model_fields
        for key in changes:
            if key not in known:
                raise InputError("set", key, f"one of {', '.join(known)}")
        try:
            return type(base).model_validate({**base.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0]) if first["loc"] else "settings"
            raise InputError("set", f"{field}={first['input']}", _wanted(first["msg"])) from error


def _wanted(message: str) -> str:
    """pydantic's "Input should be greater than 0" -> "greater than 0"."""
    return message.removeprefix("Input should be ").removeprefix("Value error, ")


class SentenceResult(BaseModel):
    """One sentence and what was found."""

    model_config = ConfigDict(extra="forbid")

    sentence: str
    primary: bool
    kind: Kind
    metric: str
    better: Literal["higher", "lower"]
    method: str
    baseline: str
    margin: float
    difference: float
    ci95: tuple[float, float]
    ci_method: str
    unit: str
    n_units: int
    verdict: Verdict


class Row(BaseModel):
    """One cell: the metrics of an arm on a unit, or why it failed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    arm: str
    unit_id: int
    status: Literal["ok", "failed"]
    error: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float


class ClaimResult(BaseModel):
    """The one schema of every result, in a run folder or recorded under `results/`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    slug: str
    scale: Scale
    verdict: Verdict | Literal["incomplete"]
    claims: list[SentenceResult]
    rows: list[Row]
    controls: list[str]
    data: list[dict[str, Any]]
    config: dict[str, Any]
    environment: dict[str, Any]
    commit: str
    dirty: bool
    code_sha256: str
    started: str
    seconds: float

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """unit -> value, for the cells that succeeded."""
        return {r.unit_id: r.metrics[metric] for r in self.rows if r.arm == arm and metric in r.metrics}

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(row.arm for row in self.rows))


def load_claim(slug: str) -> Claim:
    """The claim of a system; MissingError if the system is only planned so far, InputError if there is none of that name."""
    system = get_system(slug)
    try:
        module = import_module(system.claim_module)
    except ModuleNotFoundError as error:
        if error.name and system.claim_module.startswith(error.name):
            raise MissingError(f"{slug} is planned: its claim is not built yet (`tutelage list` shows what is)") from error
        raise MissingError(
            f"{slug} needs {error.name}, which is not installed (`tutelage doctor` says how to get it)"
        ) from error
    claim: Claim = module.CLAIM
    return claim


def get_scale(name: str) -> Scale:
    """The scale of that name, or an InputError."""
    for scale in get_args(Scale):
        if scale == name:
            return cast(Scale, scale)
    raise InputError("scale", name, "smoke, claim or paper")


def get_system(slug: str) -> System:
    """The catalogue entry, or an InputError with the nearest names."""
    if not isinstance(slug, str):
        raise InputError("slug", type(slug).__name__, "the name of a system of `tutelage list`")
    try:
        return find(slug)
    except KeyError as error:
        near = str(error.args[0])
        raise InputError("slug", slug, f"a system of `tutelage list`{f', such as {near}' if near else ''}") from error
