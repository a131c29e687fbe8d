"""F1, data validation: a profile of reference data, and what in new data breaks it."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, sha256_text, write_json
from tutelage.core.stats.distances import texts
from tutelage.methods.audit.robust_mlops.columns import Column, Columns, as_columns, is_number, rows, sha256_columns, take

Level = Literal["error", "warning", "info"]
Kind = Literal["number", "category", "time", "text"]
MOST_CATEGORIES = 50  # words with more different values than this are text: they have no set of categories
OUTLIERS = 0.01  # share of rows that may lie outside of limits that were learnt: a reference never holds the largest value
SLACK = 0.1  # by how much of the reference's range a number may lie outside of it
_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Finding:
    """One broken rule. level: "error" stops a gate. value: what was found, as text."""

    level: Level
    column: str
    rule: str
    value: str

    def __str__(self) -> str:
        return f"{self.level}: {self.column or 'table'}: {self.rule}: {self.value}"


@dataclass(frozen=True)
class Rules:
    """What a column must keep to; None: not asked.

    low, high: of numbers. outside: share of rows that may lie beyond them (with a warning). missing: largest share.
    categories: all allowed words. unique, monotonic: no value twice, none below the one before. required: must be there.
    """

    kind: Kind
    low: float | None = None
    high: float | None = None
    outside: float = 0.0
    missing: float | None = 0.0
    categories: tuple[str, ...] | None = None
    unique: bool = False
    monotonic: bool = False
    required: bool = True


@dataclass(frozen=True)
class Profile:
    """Rules and reference statistics of a table. cross: rules between columns, "start <= end" or "age >= 0".

    statistics: column -> mean, std, missing share and number of different values. sha256: of the reference data.
    """

    columns: dict[str, Rules]
    n: int
    sha256: str
    label: str = ""
    classes: tuple[str, ...] = ()
    class_shares: tuple[float, ...] = ()
    cross: tuple[str, ...] = ()
    least_rows: int = 1
    statistics: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        label: str = "",
        cross: Sequence[str] = (),
        schema: Mapping[str, Mapping[str, Any]] | None = None,
        least_rows: int = 1,
    ) -> Profile:
        """Learn the rules of reference data; `schema` (column -> fields of `Rules`) overrides what was learnt.

        Of numbers, 1 % may leave the reference's range by more than a tenth of it; limits that `schema` sets hold for all rows.
        The share of missing values may rise by 5 points. That a column is unique or never falls is only asked by `schema`.
        """
        columns = as_columns(data)
        if not rows(columns):
            raise InputError("data", "no rows", "a reference with rows")
        check_integer("least_rows", least_rows)
        found = {name: _learnt(values) for name, values in columns.items()}
        for name, changes in (schema or {}).items():
            found[name] = _changed(name, found.get(name, Rules("number")), changes)
        for rule in cross:
            _parse(rule, found)
        classes: tuple[str, ...] = ()
        shares: tuple[float, ...] = ()
        if label:
            if label not in columns:
                raise InputError("label", label, f"one of {', '.join(columns)}")
            words, times = np.unique(texts(columns[label]), return_counts=True)
            classes, shares = tuple(words.tolist()), tuple((times / times.sum()).tolist())
        return cls(
            found, rows(columns), sha256_columns(columns), label, classes, shares, tuple(cross), least_rows,
            {name: _statistics(values) for name, values in columns.items()},
        )  # fmt: skip

    def check(self, data: Any, *, labelled: bool = True) -> list[Finding]:
        """What breaks the profile. An error: a column that is missing or of another kind, values outside, too many missing, a
        rule between columns that fails, a label that was never seen. A warning: a column that is new, constant, or a class that
        is gone.
        """
        columns = as_columns(data)
        n = rows(columns)
        if n < self.least_rows:
            return [Finding("error", "", "size", f"{n} rows, at least {self.least_rows} wanted")]
        found = [
            Finding("warning", name, "unknown column", "not in the profile") for name in columns if name not in self.columns
        ]
        for name, rules in self.columns.items():
            if name == self.label and not labelled:
                continue
            if name not in columns:
                if rules.required:
                    found.append(Finding("error", name, "missing column", "not in the data"))
                continue
            found += _broken(name, columns[name], rules, self.statistics.get(name, {}))
        for rule in self.cross:
            found += _crossed(rule, columns, self.columns)
        if self.label and labelled and self.label in columns:
            found += self._labels(columns[self.label])
        return found

    def _labels(self, values: Column) -> list[Finding]:
        words, times = np.unique(texts(values), return_counts=True)
        known = dict(zip(words.tolist(), times.tolist(), strict=True))
        found = []
        if missing := known.get("", 0):
            found.append(Finding("error", self.label, "label missing", f"{missing} rows"))
        if new := [one for one in known if one and one not in self.classes]:
            found.append(Finding("error", self.label, "unknown label", ", ".join(new[:5])))
        expected = dict(zip(self.classes, self.class_shares, strict=True))
        # a class that should have had at least ten rows
        if gone := [one for one in self.classes if one not in known and expected[one] * len(values) >= 10]:
            found.append(Finding("warning", self.label, "class gone", ", ".join(gone[:5])))
        if len(values) and max(times) == len(values) and len(self.classes) > 1:
            found.append(Finding("error", self.label, "one label only", str(words[0])))
        return found

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def digest(self) -> str:
        """Hash of the profile itself."""
        return sha256_text(canonical_json(self.describe()))

    def save(self, path: Path | str) -> None:
        """Write JSON with the profile's own hash."""
        write_json(Path(path), {"profile": self.describe(), "sha256": self.digest})

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        """Read what `save` wrote; a file that was changed by hand is refused."""
        path = Path(path)
        if not path.is_file():
            raise MissingError(f"profile: there is no file {path}")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            kept = about["profile"]
            columns = {
                name: Rules(**{**one, "categories": None if one["categories"] is None else tuple(one["categories"])})
                for name, one in kept["columns"].items()
            }
            lists = {key: tuple(kept[key]) for key in ("classes", "class_shares", "cross")}
            profile = cls(**{**kept, "columns": columns, **lists})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("profile", f"{path.name} ({error})", "a profile as `save` writes it") from error
        if profile.digest != about["sha256"]:
            raise InputError("profile", path.name, "a profile whose hash is right; this one was changed after it was saved")
        return profile


def find_leakage(train: Any, test: Any, *, ignore: Sequence[str] = ()) -> list[Finding]:
    """Rows of the test data that are in the training data too (same values in all columns but `ignore`), and repeats in each.

    Values are compared as they are, numbers to the last bit. One shared row is an error: what is measured on it is memory.
    """
    tables = {name: as_columns(data, name) for name, data in (("train", train), ("test", test))}
    shared = [name for name in tables["train"] if name in tables["test"] and name not in ignore]
    if not shared:
        raise InputError("test", list(tables["test"]), f"columns of the training data: {', '.join(tables['train'])}")
    keys = {name: _row_keys({column: table[column] for column in shared}) for name, table in tables.items()}
    known = set(keys["train"])
    found = []
    if leaked := sum(key in known for key in keys["test"]):
        share = leaked / len(keys["test"])
        found.append(Finding("error", "", "leakage", f"{leaked} test rows ({100 * share:.1f} %) are in the training data"))
    for name in keys:
        if repeats := len(keys[name]) - len(set(keys[name])):
            found.append(Finding("warning", "", "duplicate rows", f"{repeats} in {name}"))
    return found


def find_leaking_columns(data: Any, label: str, *, limit: float = 0.99) -> list[Finding]:
    """Columns that alone tell the label: AUC (two classes) or accuracy of the most frequent label a value above `limit`."""
    columns = as_columns(data)
    if label not in columns:
        raise InputError("label", label, f"one of {', '.join(columns)}")
    words, y = np.unique(texts(columns[label]), return_inverse=True)
    found = []
    for name, values in columns.items():
        if name == label or len(words) < 2:
            continue
        if is_number(values) and len(words) == 2:
            from sklearn.metrics import roc_auc_score

            known = ~np.isnan(values.astype(np.float64))
            if len(set(y[known])) < 2:
                continue
            auc = float(roc_auc_score(y[known], values[known]))
            told = max(auc, 1 - auc)
        else:
            _, which = np.unique(texts(values), return_inverse=True)
            table = np.zeros((which.max() + 1, len(words)))
            np.add.at(table, (which, y), 1)
            if len(table) > len(y) / 5:  # nearly every value is there once: that tells nothing
                continue
            told = float(table.max(1).sum() / len(y))
        if told > limit and told > np.bincount(y).max() / len(y):
            found.append(Finding("error", name, "tells the label", f"{told:.3f} by itself"))
    return found


def _row_keys(columns: Columns) -> list[tuple[Any, ...]]:
    parts = []
    for name in sorted(columns):
        values = columns[name]
        parts.append((values.astype(np.float64) + 0.0).view(np.int64).tolist() if is_number(values) else texts(values).tolist())
    return list(zip(*parts, strict=True))


def _kind(values: Column) -> Kind:
    if is_number(values):
        return "number"
    if values.dtype.kind == "M":
        return "time"
    words = texts(values)
    return "category" if len(np.unique(words)) <= min(MOST_CATEGORIES, max(2, len(words) // 2)) else "text"


def _missing(values: Column) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "M":
        return np.isnat(values)
    return np.zeros(len(values), np.bool_) if values.dtype.kind in "iub" else texts(values) == ""


def _learnt(values: Column) -> Rules:
    kind, gone = _kind(values), _missing(values)
    share = float(gone.mean())
    allowed = min(1.0, share + 0.05) if share else 0.0
    if kind == "number":
        known = values[~gone].astype(np.float64)
        known = known[np.isfinite(known)]
        if not known.size:
            return Rules(kind, missing=1.0)
        low, high = float(known.min()), float(known.max())
        room = SLACK * (high - low)
        return Rules(kind, low - room, high + room, OUTLIERS, allowed)
    if kind == "category":
        return Rules(kind, missing=allowed, categories=tuple(one for one in np.unique(texts(values)).tolist() if one))
    return Rules(kind, missing=allowed)


def _changed(name: str, rules: Rules, changes: Mapping[str, Any]) -> Rules:
    known = {**asdict(rules)}
    names = {"min": "low", "max": "high"}
    if {"min", "max", "low", "high"} & set(changes):
        known["outside"] = 0.0  # a limit that a person set is meant
    elif changes.get("unique") or changes.get("monotonic"):
        known["low"] = known["high"] = known["categories"] = None  # keys and times go on where the reference ended
    for key, value in changes.items():
        field_name = names.get(key, key)
        if field_name not in known:
            raise InputError(
                f"schema of {name}", key, f"one of min, max, {', '.join(k for k in known if k not in ('low', 'high'))}"
            )
        known[field_name] = tuple(map(str, value)) if field_name == "categories" and value is not None else value
    if known["kind"] not in ("number", "category", "time", "text"):
        raise InputError(f"schema of {name}", known["kind"], "number, category, time or text")
    return Rules(**known)


def _statistics(values: Column) -> dict[str, float]:
    found = {"missing": float(_missing(values).mean()), "different": float(len(np.unique(texts(values))))}
    if is_number(values):
        known = values.astype(np.float64)
        known = known[np.isfinite(known)]
        found |= {"mean": float(known.mean()) if known.size else 0.0, "std": float(known.std()) if known.size else 0.0}
    return found


def _broken(name: str, values: Column, rules: Rules, before: Mapping[str, float]) -> list[Finding]:
    kind = _kind(values)
    number = is_number(values)
    if (rules.kind == "number") != number or (rules.kind == "time") != (kind == "time"):
        return [Finding("error", name, "kind", f"{kind}, {rules.kind} wanted")]
    found, gone = [], _missing(values)
    if rules.missing is not None and gone.mean() > rules.missing + 1e-12:
        found.append(
            Finding("error", name, "missing values", f"{100 * gone.mean():.1f} %, at most {100 * rules.missing:.1f} %")
        )
    if number:
        known = values[~gone].astype(np.float64)
        if bad := int((~np.isfinite(known)).sum()):
            found.append(Finding("error", name, "infinite", f"{bad} rows"))
        known = known[np.isfinite(known)]
        low, high = (-np.inf if rules.low is None else rules.low), (np.inf if rules.high is None else rules.high)
        if away := int(((known < low) | (known > high)).sum()):
            level: Level = "error" if away > rules.outside * len(values) else "warning"
            found.append(Finding(level, name, "range", f"{away} rows outside of {low:g} to {high:g}"))
        if known.size > 1 and known.min() == known.max() and before.get("std", 0) > 0:
            found.append(Finding("warning", name, "constant", f"{known[0]:g} in all rows"))
    if rules.categories is not None and rules.kind == "category":
        new = sorted(set(texts(values).tolist()) - {*rules.categories, ""})
        if new:
            found.append(Finding("error", name, "unknown category", ", ".join(new[:5])))
    if rules.unique and len(np.unique(texts(values))) < len(values):
        found.append(Finding("error", name, "unique", f"{len(values) - len(np.unique(texts(values)))} repeats"))
    if rules.monotonic and len(values) > 1:
        falls = int((np.diff(values.astype("datetime64[ns]").astype(np.int64) if kind == "time" else values) < 0).sum())
        if falls:
            found.append(Finding("error", name, "monotonic", f"falls {falls} times"))
    return found


def _parse(rule: str, columns: Mapping[str, Any]) -> tuple[str, str, str | float]:
    """A rule "column <= column" or "column <= number", without evaluating anything."""
    for sign in _COMPARE:  # the longer signs come first
        left, found, right = rule.partition(sign)
        if found:
            name, other = left.strip(), right.strip()
            if name not in columns:
                break
            if other in columns:
                return name, sign, other
            try:
                return name, sign, float(other)
            except ValueError:
                break
    raise InputError("cross", rule, "two columns, or a column and a number, with one of <= >= == != < > between")


def _crossed(rule: str, columns: Columns, known: Mapping[str, Any]) -> list[Finding]:
    name, sign, other = _parse(rule, known)
    if name not in columns or (isinstance(other, str) and other not in columns):
        return []  # told as a missing column
    if is_number(columns[name]) != (not isinstance(other, str) or is_number(columns[other])):
        return []  # told as another kind
    right = columns[other] if isinstance(other, str) else other
    there = ~_missing(columns[name]) & (~_missing(columns[other]) if isinstance(other, str) else True)
    broken = int((~_COMPARE[sign](columns[name], right) & there).sum())
    return [Finding("error", name, f"rule {rule}", f"{broken} rows")] if broken else []


__all__ = ["Finding", "Profile", "Rules", "find_leakage", "find_leaking_columns", "take"]
