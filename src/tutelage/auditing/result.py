"""What an audit returns: rows with intervals, curves, the worst examples, and everything that made them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.auditing.flags import Flag
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_atomic, write_json
from tutelage.core.stats import hoeffding, mean_t, wilson

if TYPE_CHECKING:
    from tutelage.auditing.attributes import AttributeReport

# categories of rows that are no threats: parts of the data, natural change, and what is derived from classes
PARTS = ("class", "slice", "disparity")
CORRUPTIONS = ("corruption", "corruption family", "corruptions")
SHIFTS = ("shift", "shift main", "shift difference")
ATTRIBUTES = ("attribute", "attributes")


@dataclass(frozen=True)
class AuditRow:
    """One measured share. value: accuracy in [0, 1]; ci95: its Wilson interval; n: samples. By category, name is:

    "clean": clean. A threat such as "linf@8/255": the attack. "class", "slice": the class or slice, and `under` is
    "clean", the threat or the shifted set; "disparity": see `shift.disparity_rows`.
    "corruption": "fog@3", or "fog" over its severities; "corruption family": "noise@3" or "noise"; "corruptions":
    "mean@3", "mean" and "mCE" (relative to the audit named in `under`). Means over several corruptions have a Student-t
    interval over the images, see `mean_row`.
    "shift": accuracy on the shifted set of that name; "shift main": on the main set, classes of the shifted set only;
    "shift difference": the first less the second, in [-1, 1].
    "attribute": by how much an edit lowers the accuracy on the same pictures, in [-1, 1]; "attributes": "average". An edit
    that no picture allows has n = 0, and NaN for value and ci95, null in JSON.
    """

    category: str
    name: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    under: str = ""


@dataclass(frozen=True)
class Curve:
    """Accuracy over budget size for one norm, on `n` samples: eps (K,), accuracy (K,), ci95 (K pairs)."""

    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...]
    n: int


@dataclass(frozen=True)
class Example:
    """A sample that was right and could be turned: images (C, H, W) in [0, 1], class indices, the size of the change.

    index: position in the audited samples (in the whole set, if `n` was not given).
    breaks_at: the smallest eps of the curve that broke it (0 if it was not on the curve). confidence: of the wrong class.
    """

    threat: str
    index: int
    label: int
    predicted: int
    confidence: float
    size: float
    breaks_at: float
    clean: Tensor
    adversarial: Tensor


@dataclass
class AuditResult:
    """The outcome of `audit` for one model. Accuracies are shares in [0, 1]; intervals are 95 % Wilson intervals.

    status: "reliable", or "unreliable" with the reasons in `warnings`, a line a flag. flags: those, and notes, which leave the
    status as it is. settings: seed, batch size, attacks and their cost in samples passed. model: class name, parameters,
    SHA-256 of the weights. data: name, n, classes, SHA-256. predictions: what was right, sample by sample: "clean", and under
    each threat, corruption ("fog@3") and shifted set. attributes: what edits of attributes cost, see `with_attributes`.
    failed: what was asked for and ended in an error, with its reason; it has no rows.
    """

    rows: list[AuditRow]
    curves: list[Curve]
    examples: list[Example]
    classes: tuple[str, ...]
    status: str
    warnings: list[str]
    settings: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    predictions: dict[str, list[bool]] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    attributes: AttributeReport | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def clean_accuracy(self) -> float:
        return self.row("clean").value

    def row(self, category: str, name: str | None = None) -> AuditRow:
        """The row of a category; of a threat without a name, its worst case."""
        found = [r for r in self.rows if r.category == category and (name is None or r.name == name)]
        if category in self.failed:
            raise InputError("category", f"{category}, which failed: {self.failed[category]}", "one with a number")
        if not found:
            raise InputError("category", category, f"one of {', '.join(dict.fromkeys(r.category for r in self.rows))}")
        return found[-1]

    @property
    def threats(self) -> list[str]:
        """Names of the threats, in the order in which they were given."""
        others = ("clean", *PARTS, *CORRUPTIONS, *SHIFTS, *ATTRIBUTES)
        return [c for c in dict.fromkeys(r.category for r in self.rows) if c not in others]

    @property
    def shifts(self) -> list[str]:
        """Names of the shifted sets, in the order in which they were given."""
        return [r.name for r in self.rows if r.category == "shift"]

    @property
    def notes(self) -> list[str]:
        """What is worth knowing and makes nothing unreliable, a line a note."""
        undone = [] if self.attributes is None else self.attributes.undone
        return [
            *(flag.message for flag in self.flags if not flag.unreliable),
            *(f"edit {edit}: no picture allows it, so that it has no drop and is in no mean" for edit in undone),
        ]

    def doubts(self, category: str) -> list[Flag]:
        """The flags that make the rows of a category (a threat, "clean") unreliable."""
        return [flag for flag in self.flags if flag.concerns(category, self.threats)]

    def with_attributes(self, report: AttributeReport) -> AuditResult:
        """This audit with that of attributes (`methods.audit.imagenet_e.audit_attributes`) of the same model, in one report."""
        if report.model["sha256"] != self.model["sha256"]:
            raise InputError("report", f"one of {report.model['name']}, with other weights", "one of the same model")
        rows = [row for row in self.rows if row.category not in ATTRIBUTES]
        return replace(self, rows=[*rows, *report.audit_rows()], attributes=report)

    def worst(self, k: int = 12, threat: str | None = None) -> list[Example]:
        """The k samples that were broken with the smallest change, the most confident mistakes first among equals."""
        return [e for e in self.examples if threat in (None, e.threat)][:k]

    def save(self, folder: Path | str) -> Path:
        """Write audit.json, examples.safetensors and report.html into `folder`; returns the path of the report."""
        folder = Path(folder)
        about = {key: value for key, value in asdict(replace(self, examples=[], attributes=None)).items() if key != "examples"}
        about["examples"] = [{k: v for k, v in vars(e).items() if k not in ("clean", "adversarial")} for e in self.examples]
        about["rows"] = [row if row["n"] else {**row, "value": None, "ci95": None} for row in about["rows"]]
        # a digit a sample: a list would take a line for each
        about["predictions"] = {key: digits(mask) for key, mask in self.predictions.items()}
        images = {f"clean/{i}": e.clean.contiguous() for i, e in enumerate(self.examples)}
        images |= {f"adversarial/{i}": e.adversarial.contiguous() for i, e in enumerate(self.examples)}
        if self.attributes is not None:
            shown = self.attributes.examples
            about["attributes"] = self.attributes.describe()
            about["attributes"]["examples"] = [
                {k: v for k, v in vars(e).items() if k not in ("original", "edited")} for e in shown
            ]
            for kind in ("original", "edited"):
                images |= {f"attributes/{kind}/{i}": getattr(e, kind).clone() for i, e in enumerate(shown)}  # may be shared
        write_atomic(folder / "examples.safetensors", save(images))
        write_json(folder / "audit.json", about)
        return self.to_html(folder / "report.html")

    def to_html(self, path: Path | str) -> Path:
        """Write the report as one self-contained HTML page."""
        from tutelage.auditing.report import write_report

        return write_report(Path(path), {self.model["name"]: self})

    @classmethod
    def load(cls, path: Path | str, *, examples: bool = True) -> AuditResult:
        """Read back what `save` wrote: its folder, or the audit.json in it. Without `examples` that file is enough."""
        path = Path(path)
        file = path / "audit.json" if path.is_dir() else path
        if not file.is_file() or file.suffix != ".json":
            raise MissingError(f"{path} holds no audit (no audit.json)")
        try:
            return cls._read(file, examples)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError("folder", str(path), f"an audit as `save` writes it ({what})") from error

    @classmethod
    def _read(cls, file: Path, examples: bool) -> AuditResult:
        about = json.loads(file.read_text())
        images = load((file.parent / "examples.safetensors").read_bytes()) if examples else {}
        nothing = {"value": math.nan, "ci95": (math.nan, math.nan)}  # n is 0
        about["rows"] = [
            AuditRow(**{**row, **({"ci95": tuple(row["ci95"])} if row["n"] else nothing)}) for row in about["rows"]
        ]
        about["curves"] = [
            Curve(c["norm"], tuple(c["eps"]), tuple(c["accuracy"]), tuple(map(tuple, c["ci95"])), c["n"])
            for c in about["curves"]
        ]
        about["examples"] = [
            Example(**e, clean=images[f"clean/{i}"], adversarial=images[f"adversarial/{i}"])
            for i, e in enumerate(about["examples"] if examples else [])
        ]
        about["classes"] = tuple(about["classes"])
        about["flags"] = [Flag(**flag) for flag in about.get("flags", [])]  # audits of earlier versions have none
        if about.get("attributes") is not None:
            from tutelage.auditing.attributes import attribute_report_of

            prefix = "attributes/"
            pictures = {key.removeprefix(prefix): image for key, image in images.items() if key.startswith(prefix)}
            about["attributes"] = attribute_report_of(about["attributes"], pictures)
        about["predictions"] = {key: mask_of(found) for key, found in about.get("predictions", {}).items()}
        return cls(**about)


def digits(mask: Sequence[bool]) -> str:
    """What was right, as a digit a sample."""
    return "".join("01"[right] for right in mask)


def mask_of(found: str | list[bool]) -> list[bool]:
    """What was right, from a digit a sample; audits of earlier versions hold a list."""
    if set(found) - ({"0", "1"} if isinstance(found, str) else {True, False}):
        raise ValueError("predictions that are not right or wrong")
    return [digit == "1" for digit in found] if isinstance(found, str) else list(map(bool, found))


def accuracy_row(category: str, name: str, right: Tensor, *, under: str = "", metric: str = "accuracy") -> AuditRow:
    """A row from a mask (n,) of what was right."""
    n, hits = len(right), int(right.sum())
    interval = wilson(hits, n)
    return AuditRow(category, name, metric, hits / n, (interval.lo, interval.hi), n, under)


def mean_row(category: str, name: str, shares: Tensor) -> AuditRow:
    """A row from shares (n,) in [0, 1], one an image: how much of several corruptions of it is right.

    The images are the independent units. ci95: mean ± t(n-1) s / sqrt(n), cut to [0, 1]; where all shares are equal, or of
    one image, Hoeffding's, which needs no spread.
    """
    values = shares.double().numpy()
    spread = len(values) > 1 and values.min() < values.max()
    interval = mean_t(values)[1] if spread else hoeffding(values)
    ci95 = max(0.0, interval.lo), min(1.0, interval.hi)
    return AuditRow(category, name, "accuracy", float(values.mean()), ci95, len(values))
