"""The bench: data, slices and models of one task; runs them into a report, is saved, loaded and versioned."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import canonical_json, sha256_text, write_atomic
from tutelage.core.rng import numpy_generator
from tutelage.core.stats import holm
from tutelage.data.tables import Table, as_table
from tutelage.methods.audit.robustness_gym.measure import (
    Compared,
    Measured,
    Metric,
    against_other,
    against_rest,
    against_source,
    check_metrics,
    measure,
    shares,
)
from tutelage.methods.audit.robustness_gym.operations import Store
from tutelage.methods.audit.robustness_gym.report import Example, Report, ReportRow
from tutelage.methods.audit.robustness_gym.slices import CATEGORIES, Context, Slice, SliceBuilder, as_builder
from tutelage.models.predictors import Predictor

Floats = npt.NDArray[np.float64]
EXAMPLES = 3  # of an edit, for the page
SAVED_VALUES = "values that JSON can hold (texts, numbers) for a bench that is saved"


@dataclass(frozen=True)
class Task:
    """What benches of one kind share: the classes, the columns, the metrics.

    metrics: a name of accuracy, balanced_accuracy, macro_f1, or a name with a function of (classes (n,), probabilities (n, C)).
    """

    labels: Sequence[Hashable]
    name: str = "text classification"
    column: str = "text"
    label: str = "label"
    metrics: Mapping[str, Metric | None] = field(default_factory=lambda: {"accuracy": None})

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        if "accuracy" not in self.metrics:
            raise InputError("metrics", list(self.metrics), "accuracy among them: slices are compared by it")


def text_classification(labels: Sequence[Hashable], **settings: Any) -> Task:
    """A task of texts and classes."""
    return Task(labels, **settings)


@dataclass(eq=False)
class _Root:
    data: Table
    column: str
    store: Store
    built: list[Slice] = field(default_factory=list)  # of builders that need no model
    pending: list[SliceBuilder] = field(default_factory=list)


class Bench:
    """Slices and models of one task.

    seed: of random edits and attacks. n_min: a slice with fewer rows is shown as small and left out of `worst`. alpha: level
    after Holm's correction. level: of the intervals. Nothing is asked of a model before `run`.
    """

    def __init__(
        self, task: Task, *, seed: int = 0, n_min: int = 30, alpha: float = 0.05, level: float = 0.95, batch_size: int = 32
    ) -> None:
        if not isinstance(task, Task):
            raise InputError("task", type(task).__name__, "a Task: text_classification(labels)")
        check_integer("seed", seed, low=0)
        check_integer("n_min", n_min)
        check_integer("batch_size", batch_size)
        check_number("alpha", alpha, "a level between 0 and 1", low=1e-9, high=1 - 1e-9)
        check_number("level", level, "a level between 0 and 1", low=1e-9, high=1 - 1e-9)
        self.task, self.seed, self.n_min, self.alpha, self.level, self.batch_size = task, seed, n_min, alpha, level, batch_size
        self.models: dict[str, Predictor] = {}
        self.version = ""
        self._roots: list[_Root] = []
        self._saved: dict[str, str] = {}
        self._saved_meta = ""

    def add_model(self, name: str, predict: Any) -> Predictor:
        """predict: whatever `Predictor` takes: a function, a scikit-learn model, a pipeline."""
        if name in self.models:
            raise InputError("name", name, "the name of a model that is not there yet")
        model = predict if isinstance(predict, Predictor) else Predictor(predict, self.task.labels, batch_size=self.batch_size)
        model.name = name
        self.models[name] = model
        return model

    def add(self, data: Any, builders: Iterable[Any], columns: Sequence[str] = ()) -> list[Slice]:
        """Slices of `data` (see `as_table`); columns[0] is the input. The same slice is kept once. Returns the new slices.

        Builders that need a model are built by `run`, for each model.
        """
        table = as_table(data)
        column = columns[0] if columns else self.task.column
        table.column(column)
        unknown = set(table.column(self.task.label)) - set(self.task.labels)
        if unknown:
            raise InputError("labels", sorted(map(str, unknown)), f"labels of the task, {list(self.task.labels)}")
        root = next((r for r in self._roots if r.data.name == table.name), None)
        if root is None:
            root = _Root(table, column, Store())
        elif root.data.ids != table.ids or root.column != column:
            raise InputError("data", table.name, "another name for other data: as_table(data, name=...)")
        new: list[Slice] = []
        known = {_key(one) for one in root.built}
        context = Context(column, self.task.label, root.store, self.seed)
        pending = list(root.pending)
        for builder in [as_builder(one) for one in builders]:
            if builder.needs_model:
                if builder.identity not in [one.identity for one in pending]:
                    pending.append(builder)
                continue
            for one in builder.build(table, context).slices:
                if one.labels is not None and (odd := set(one.labels) - set(self.task.labels)):
                    raise InputError(f"labels of {one.name}", sorted(map(str, odd)), f"labels of {list(self.task.labels)}")
                if _key(one) not in known:
                    known.add(_key(one))
                    new.append(one)
        root.built += new  # only now, when nothing was refused
        root.pending = pending
        if root not in self._roots:
            self._roots.append(root)
        return new

    @property
    def slices(self) -> list[Slice]:
        """Those that are built, in the order of the categories."""
        found = [one for root in self._roots for one in root.built]
        return sorted(found, key=lambda one: CATEGORIES.index(one.category))

    def run(self) -> Report:
        """Ask every model, once for each distinct input, and compare every slice with what it comes from."""
        if not self.models:
            raise InputError("models", "none", "a model: bench.add_model(name, predict)")
        if not self._roots:
            raise InputError("data", "none", "data and slices: bench.add(data, builders)")
        rows: list[ReportRow] = []
        aggregates: dict[str, dict[str, dict[str, Measured]]] = {}
        examples: list[Example] = []
        for root in self._roots:
            for name, model in self.models.items():
                asked = list(root.data.column(root.column))
                on_root = model(asked)  # once; subpopulations only index it
                places = _places(model, root.data.column(self.task.label))
                aggregates.setdefault(root.data.name, {})[name] = self._metrics(root.data.name, places, on_root, root.data.ids)
                context = Context(root.column, self.task.label, root.store, self.seed, model, on_root)
                found = [*root.built, *(one for b in root.pending for one in b.build(root.data, context).slices)]
                for one in found:
                    row, shown = self._row(one, root, model, on_root, places)
                    rows.append(row)
                    examples += shown
        rows.sort(key=lambda row: CATEGORIES.index(row.category))
        rows = self._corrected(rows)
        settings = {"seed": self.seed, "n_min": self.n_min, "alpha": self.alpha, "level": self.level, "version": self.version}
        return Report(self.task.name, list(self.models), aggregates, rows, settings, examples)

    # ------------------------------------------------------------------------------------------------------------ rows

    def _row(
        self, one: Slice, root: _Root, model: Predictor, on_root: Floats, root_places: npt.NDArray[np.int64]
    ) -> tuple[ReportRow, list[Example]]:
        correct = on_root.argmax(1) == root_places
        before = on_root[one.source] if one.source is not None else None
        if one.values is None:
            assert before is not None
            probabilities = before
        elif one.source is not None and before is not None:
            probabilities = before.copy()
            originals = root.data.column(root.column)
            # rows that an edit left as they were have the answer that they had
            changed = [j for j, i in enumerate(one.source) if not _equal(one.values[j], originals[i])]
            probabilities[changed] = model([one.values[j] for j in changed])
        else:
            probabilities = model(list(one.values))
        n = len(one)
        if one.labels is None:
            reason = "the slice is empty" if n == 0 else "the edit's effect on labels is unknown"
            metrics = {name: Measured(None, reason=reason) for name in self.task.metrics}
            places = np.zeros(0, np.int64)
            right = None
        else:
            places = _places(model, one.labels)
            metrics = self._metrics("/".join([*one.lineage, one.name]), places, probabilities, one.ids)
            right = probabilities.argmax(1) == places
        notes = {key: value for key, value in one.notes.items() if value == value}
        compared: Compared | None = None
        examples: list[Example] = []
        if n and right is not None:
            if one.values is None:
                inside = np.zeros(len(root.data), bool)
                inside[one.source] = True
                compared = against_rest(inside, correct)
            elif one.source is not None:
                was = correct[one.source]
                compared = against_source(was, right, self.level)
                examples = self._examples(one, root, model, was & ~right, probabilities)
            else:
                compared = against_other(right, correct)
        if one.values is not None and one.source is not None and n and before is not None:
            notes["answers_changed"] = float((probabilities.argmax(1) != before.argmax(1)).mean())
        labels = list(self.task.labels)
        row = ReportRow(
            one.category, one.name, model.name, root.data.name, n, one.lineage, metrics, compared, shares(places, labels),
            shares(probabilities.argmax(1), labels), notes, n < self.n_min,
        )  # fmt: skip
        return row, examples

    def _metrics(
        self, key: str, places: npt.NDArray[np.int64], probabilities: Floats, ids: Sequence[str]
    ) -> dict[str, Measured]:
        # by id, so that neither resampling nor rounding depends on the order of the examples
        order = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), np.int64)
        return {
            name: measure(
                name, metric, places[order], probabilities[order], numpy_generator(self.seed, "metric", name, key), self.level
            )
            for name, metric in self.task.metrics.items()
        }

    def _examples(self, one: Slice, root: _Root, model: Predictor, lost: npt.NDArray[np.bool_], after: Floats) -> list[Example]:
        assert one.values is not None
        assert one.source is not None
        assert one.labels is not None
        texts = root.data.column(root.column)
        places = sorted(np.flatnonzero(lost).tolist(), key=lambda j: one.ids[j])[:EXAMPLES]
        return [
            Example(
                one.name, model.name, str(texts[one.source[j]]), str(one.values[j]), str(one.labels[j]),
                str(self.task.labels[int(after[j].argmax())]),
            )
            for j in places
            if isinstance(one.values[j], str)
        ]  # fmt: skip

    def _corrected(self, rows: list[ReportRow]) -> list[ReportRow]:
        """Holm's correction over the slices of each model."""
        result = list(rows)
        for model in self.models:
            places = [i for i, row in enumerate(rows) if row.model == model and row.compared is not None]
            if places:
                adjusted = holm([rows[i].compared.p_value for i in places])  # type: ignore[union-attr]
                for i, p in zip(places, adjusted, strict=True):
                    result[i] = replace(rows[i], compared=replace(rows[i].compared, p_holm=float(p)))  # type: ignore[type-var]
        return result

    # ---------------------------------------------------------------------------------------------------- save and load

    def save(self, folder: Path | str) -> str:
        """Write the bench into a folder, for others to run on other models, and return its version.

        Slices that were found against a model (attacks) are not built yet and are not in it: add them again. The version's
        last number counts changes of settings, the middle one added slices, the first one slices removed or changed.
        """
        folder = Path(folder)
        manifest = folder / "bench.json"
        saved, meta, version = self._saved, self._saved_meta, self.version
        if manifest.is_file():
            old = json.loads(manifest.read_text(encoding="utf-8"))
            saved, meta, version = {one["key"]: one["digest"] for one in old["slices"]}, old["meta"], old["version"]
        contents = {_key(one): _content(one, root.data) for root in self._roots for one in root.built}
        try:
            digests = {key: sha256_text(canonical_json(value)) for key, value in contents.items()}
        except TypeError as error:
            raise InputError("data", str(error), SAVED_VALUES) from error
        settings = {
            "task": {"name": self.task.name, "labels": list(self.task.labels), "column": self.task.column,
                     "label": self.task.label, "metrics": list(self.task.metrics)},
            "seed": self.seed, "n_min": self.n_min, "alpha": self.alpha, "level": self.level, "batch_size": self.batch_size,
        }  # fmt: skip
        now = sha256_text(canonical_json(settings))
        self.version = _next(version, saved, digests, now != meta)
        roots = []
        try:
            for k, root in enumerate(self._roots):
                columns = {name: list(values) for name, values in root.data.columns.items()}
                write_atomic(
                    folder / f"data-{k}.json", json.dumps({"ids": root.data.ids, "columns": columns}, ensure_ascii=False)
                )
                roots.append({"name": root.data.name, "column": root.column, "file": f"data-{k}.json"})
            listed = [
                {"key": key, "digest": digests[key], "root": k, **contents[key]}
                for k, root in enumerate(self._roots)
                for key in (_key(one) for one in root.built)
            ]
            whole = {"version": self.version, "meta": now, **settings, "roots": roots, "slices": listed}
            write_atomic(manifest, json.dumps(whole, ensure_ascii=False))
        except TypeError as error:
            raise InputError("data", str(error), SAVED_VALUES) from error
        self._saved, self._saved_meta = digests, now
        return self.version

    @classmethod
    def load(cls, folder: Path | str, metrics: Mapping[str, Metric] | None = None) -> Bench:
        """A bench that was saved, without models. metrics: the functions of the metrics that are no names of ours."""
        try:
            raw = json.loads((Path(folder) / "bench.json").read_text(encoding="utf-8"))
            task = raw["task"]
            own = {name: (metrics or {}).get(name) for name in task["metrics"]}
            bench = cls(
                Task(task["labels"], task["name"], task["column"], task["label"], own), seed=raw["seed"], n_min=raw["n_min"],
                alpha=raw["alpha"], level=raw["level"], batch_size=raw["batch_size"],
            )  # fmt: skip
            for one in raw["roots"]:
                data = json.loads((Path(folder) / one["file"]).read_text(encoding="utf-8"))
                bench._roots.append(_Root(Table(data["columns"], tuple(data["ids"]), one["name"]), one["column"], Store()))
            for one in raw["slices"]:
                root = bench._roots[one["root"]]
                root.built.append(_from_content(one, root.data))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("folder", f"{folder} ({type(error).__name__})", "a folder written by Bench.save") from error
        bench.version, bench._saved_meta = raw["version"], raw["meta"]
        bench._saved = {one["key"]: one["digest"] for one in raw["slices"]}
        return bench


def _key(one: Slice) -> str:
    return sha256_text(canonical_json([one.category, one.name, list(one.lineage)]))[:16]


def _content(one: Slice, root: Table) -> dict[str, Any]:
    return {
        "name": one.name, "category": one.category, "lineage": list(one.lineage), "ids": list(one.ids), "notes": one.notes,
        "labels": None if one.labels is None else list(one.labels), "values": None if one.values is None else list(one.values),
        "source": None if one.source is None else [root.ids[i] for i in one.source],
    }  # fmt: skip


def _from_content(raw: Mapping[str, Any], root: Table) -> Slice:
    check_choice("category", raw["category"], CATEGORIES)
    source = None if raw["source"] is None else np.array([root.place(one) for one in raw["source"]], np.int64)
    labels = None if raw["labels"] is None else tuple(raw["labels"])
    values = None if raw["values"] is None else tuple(raw["values"])
    return Slice(
        raw["name"], raw["category"], tuple(raw["lineage"]), labels, source, values, tuple(raw["ids"]), notes=raw["notes"]
    )


def _next(version: str, saved: Mapping[str, str], now: Mapping[str, str], other_settings: bool) -> str:
    """The next semantic version after the one that holds `saved`."""
    if not version:
        return "1.0.0"
    major, minor, patch = map(int, version.split("."))
    if any(now.get(key) != digest for key, digest in saved.items()):
        return f"{major + 1}.0.0"
    if set(now) - set(saved):
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}" if other_settings else version


def _places(model: Predictor, labels: Iterable[Hashable]) -> npt.NDArray[np.int64]:
    return np.array([model.place(one) for one in labels], np.int64)


def _equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else bool(a == b)
