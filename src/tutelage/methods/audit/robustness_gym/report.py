"""The Robustness Report: one row for a slice and a model, comparable over all four kinds; checks for CI; comparisons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.core.files import canonical_json, sha256_text, write_atomic
from tutelage.methods.audit.robustness_gym.measure import Compared, Measured
from tutelage.methods.audit.robustness_gym.slices import CATEGORIES, Category

BOUND = re.compile(r"\s*(>=|<=|>|<)\s*([-+]?\d*\.?\d+)\s*")


@dataclass(frozen=True)
class ReportRow:
    """What a model does on one slice. labels, predictions: shares of the classes. notes: numbers of the builder."""

    category: Category
    slice: str
    model: str
    data: str
    n: int
    lineage: tuple[str, ...]
    metrics: dict[str, Measured]
    compared: Compared | None
    labels: dict[str, float]
    predictions: dict[str, float]
    notes: dict[str, float]
    small: bool

    @property
    def accuracy(self) -> float | None:
        found = self.metrics.get("accuracy")
        return None if found is None else found.value


@dataclass(frozen=True)
class Example:
    """An edited or attacked text on which the answer went from right to wrong."""

    slice: str
    model: str
    before: str
    after: str
    label: str
    predicted: str


@dataclass(frozen=True)
class CheckResult:
    """ok, and a line for each bound that was looked at."""

    ok: bool
    lines: list[str]

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1


@dataclass(frozen=True)
class Report:
    """aggregates: data set -> model -> metrics on all of it. rows: by category, in the order in which slices were added."""

    task: str
    models: list[str]
    aggregates: dict[str, dict[str, dict[str, Measured]]]
    rows: list[ReportRow]
    settings: dict[str, Any] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Hash of every number: equal for equal predictions on equal slices, whatever the order of the examples."""
        return sha256_text(
            canonical_json({"aggregates": _plain(self.aggregates), "rows": [_plain(asdict(r)) for r in self.rows]})
        )

    def of(self, category: Category) -> list[ReportRow]:
        check_choice("category", category, CATEGORIES)
        return [row for row in self.rows if row.category == category]

    def row(self, slice_: str, model: str = "") -> ReportRow:
        """The row of a slice, "negation" or "subpopulation/negation"; of the first model if none is named. Or InputError."""
        found = next((r for r in self.rows if _called(r, slice_) and model in ("", r.model)), None)
        if found is None:
            raise InputError("slice", slice_, f"one of {', '.join(dict.fromkeys(row.slice for row in self.rows))}")
        return found

    def worst(self, k: int = 5, model: str = "") -> list[ReportRow]:
        """The k slices of lowest accuracy, those with fewer than n_min rows left out."""
        usable = [r for r in self.rows if r.accuracy is not None and not r.small and model in ("", r.model)]
        return sorted(usable, key=lambda r: (r.accuracy, r.category, r.slice, r.model))[:k]

    def check(self, policy: Mapping[str, Mapping[str, str]], *, use: str = "value") -> CheckResult:
        """Compare with bounds: {"negation": {"accuracy": ">=0.85"}}; every model must keep them, and every slice of that name.

        use: "value", or "low" for the lower limit of the interval. What could not be measured does not pass. Raises InputError
        for a slice or a metric that is not there, so that a misspelt test cannot pass.
        """
        check_choice("use", use, ("value", "low"))
        lines, ok = [], True
        for name, bounds in policy.items():
            self.row(name)
            for metric, text in bounds.items():
                match = BOUND.fullmatch(text) if isinstance(text, str) else None
                if match is None:
                    raise InputError(f"policy of {name}", text, 'a bound such as ">=0.85"')
                for row in (r for r in self.rows if _called(r, name)):
                    if metric not in row.metrics:
                        raise InputError(f"policy of {name}", metric, f"one of {', '.join(row.metrics)}")
                    found: float | None = getattr(row.metrics[metric], use)
                    kept = found is not None and _holds(found, match[1], float(match[2]))
                    ok = ok and kept
                    said = f"{found:.4f}" if found is not None else f"none ({row.metrics[metric].reason})"
                    lines.append(f"{'ok  ' if kept else 'FAIL'} {row.model}: {name} {metric} {said}, wanted {text.strip()}")
        return CheckResult(ok, lines)

    def to_markdown(self) -> str:
        """Tables by category, for a pull request or a wiki."""
        parts = [f"# Robustness report: {self.task}", ""]
        for data, models in self.aggregates.items():
            for model, metrics in models.items():
                parts.append(f"- all of {data}, {model}: {', '.join(f'{k} {shown(v)}' for k, v in metrics.items())}")
        for category in CATEGORIES:
            if not (rows := self.of(category)):
                continue
            names = list(rows[0].metrics)
            head = ["slice", "model", "n", *names, "difference", "p (Holm)"]
            parts += ["", f"## {category}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
            for row in rows:
                cells = [_escaped(row.slice), row.model, f"{row.n}{' (small)' if row.small else ''}"]
                cells += [shown(row.metrics[name]) for name in names]
                parts.append(f"| {' | '.join([*cells, difference(row), p_text(row)])} |")
        return "\n".join(parts) + "\n"

    def to_html(self, path: Path | str) -> Path:
        """One self-contained page with a figure and examples."""
        # by name: how a page looks is no part of what a claim measures
        pages = import_module("tutelage.methods.audit.robustness_gym.pages")
        written: Path = pages.write_report(self, Path(path))
        return written

    def save(self, path: Path | str) -> None:
        write_atomic(Path(path), json.dumps(_plain(asdict(self)), indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """A report that was saved. Raises InputError for another file."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = [
                ReportRow(**{
                    **row, "lineage": tuple(row["lineage"]), "metrics": _measured(row["metrics"]),
                    "compared": None if row["compared"] is None else Compared(**row["compared"]),
                })
                for row in raw["rows"]
            ]  # fmt: skip
            aggregates = {d: {m: _measured(v) for m, v in models.items()} for d, models in raw["aggregates"].items()}
            examples = [Example(**one) for one in raw["examples"]]
            return cls(raw["task"], raw["models"], aggregates, rows, raw["settings"], examples)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError("path", f"{path} ({type(error).__name__})", "a report written by Report.save") from error


@dataclass(frozen=True)
class Change:
    """A slice and a model in two reports; None where one of them has no number."""

    slice: str
    model: str
    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Diff:
    """Two reports of one task. changes: slices in both, worst loss first; added, removed: slices in one only."""

    changes: list[Change]
    added: list[str]
    removed: list[str]

    def worse(self, by: float = 0.0) -> list[Change]:
        """Slices that lost more than `by`."""
        return [one for one in self.changes if one.difference is not None and one.difference < -by]

    def to_markdown(self) -> str:
        parts = ["| slice | model | before | after | difference |", "| --- | --- | --- | --- | --- |"]
        for c in self.changes:
            d = "" if c.difference is None else f"{100 * c.difference:+.1f}"
            parts.append(f"| {_escaped(c.slice)} | {c.model} | {_share(c.before)} | {_share(c.after)} | {d} |")
        parts += [f"- added: {name}" for name in self.added] + [f"- removed: {name}" for name in self.removed]
        return "\n".join(parts) + "\n"


def compare(before: Report, after: Report, *, metric: str = "accuracy") -> Diff:
    """What changed from one report to another: slices joined by name, lineage and model (or the one model of each)."""
    if before.task != after.task:
        raise InputError("after", after.task, f"a report of the task {before.task}")
    one_each = len(before.models) == len(after.models) == 1
    a, b = ({_key(row, one_each): row for row in report.rows} for report in (before, after))
    changes = []
    for key in (key for key in a if key in b):
        first, second = (row.metrics[metric].value if metric in row.metrics else None for row in (a[key], b[key]))
        changes.append(Change(a[key].slice, b[key].model, first, second))
    changes.sort(key=lambda c: (c.difference is None, c.difference or 0.0, c.slice, c.model))
    gone, new = ([x[k].slice for k in x if k not in y] for x, y in ((a, b), (b, a)))
    return Diff(changes, list(dict.fromkeys(new)), list(dict.fromkeys(gone)))


def _key(row: ReportRow, one_each: bool) -> tuple[str, ...]:
    # an attack's lineage names the model that it was made against
    lineage = [one for one in row.lineage if not one.startswith("against ")]
    return (row.category, row.slice, *lineage, "" if one_each else row.model)


def shown(one: Measured) -> str:
    """ "81.2 [78.0, 84.1]" in per cent, or why there is no number."""
    if one.value is None:
        return f"- ({one.reason})"
    text = f"{100 * one.value:.1f}"
    return text if one.low is None or one.high is None else f"{text} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def difference(row: ReportRow) -> str:
    return "" if row.compared is None else f"{100 * row.compared.delta:+.1f}"


def p_text(row: ReportRow) -> str:
    if row.compared is None:
        return ""
    return "< 0.001" if row.compared.p_holm < 0.001 else f"{row.compared.p_holm:.3f}"


def _called(row: ReportRow, name: str) -> bool:
    return name in (row.slice, f"{row.category}/{row.slice}")


def _holds(value: float, sign: str, bound: float) -> bool:
    return {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}[sign]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _measured(raw: Mapping[str, Any]) -> dict[str, Measured]:
    return {name: Measured(**one) for name, one in raw.items()}


def _plain(value: Any) -> Any:
    """JSON values: NaN becomes None."""
    if isinstance(value, Measured | Compared):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def by_category(report: Report) -> Iterator[tuple[Category, list[ReportRow]]]:
    for category in CATEGORIES:
        if rows := report.of(category):
            yield category, rows
