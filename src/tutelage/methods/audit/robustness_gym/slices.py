"""Slices and what builds them: subpopulations, transformations, attacks, evaluation sets, behind one call."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_callable, check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.data.tables import Table, as_table
from tutelage.methods.audit.robustness_gym.operations import Store
from tutelage.models.predictors import Predictor
from tutelage.threats.text.attack import GreedyWords, TextAttack, TextBugger
from tutelage.threats.text.edit import TextEdit

Category = Literal["subpopulation", "transformation", "evaluation set", "attack", "generic"]
CATEGORIES: tuple[Category, ...] = ("subpopulation", "transformation", "evaluation set", "attack", "generic")
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Slice:
    """One named part or view of a data set.

    values: the inputs, or None: those of the source rows. labels: the true ones, or None: unknown. source: (n,) rows of the
    root data that they come from, or None for data of their own. model: of whom an attack found them. lineage: root
    data, then each builder. notes: numbers of the builder, such as how many edits were refused.
    """

    name: str
    category: Category
    lineage: tuple[str, ...]
    labels: tuple[Hashable, ...] | None
    source: Ints | None = None
    values: tuple[Any, ...] | None = None
    ids: tuple[str, ...] = ()
    model: str = ""
    notes: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class SliceSet:
    """K slices and their membership (N, K): which rows of the data are in which."""

    slices: list[Slice]
    membership: Bools


@dataclass(frozen=True, eq=False)
class Context:
    """What a builder may use beside the data: columns, the classes' column, stored results, a model where it needs one."""

    column: str = "text"
    label: str = "label"
    store: Store = field(default_factory=Store)
    seed: int = 0
    model: Predictor | None = None
    probabilities: npt.NDArray[np.float64] | None = None  # of `model` on the data


class SliceBuilder(ABC):
    """Builds slices of a data set. needs_model: its slices are found anew for each model."""

    category: ClassVar[Category]
    needs_model: ClassVar[bool] = False

    @property
    @abstractmethod
    def names(self) -> list[str]: ...

    @property
    def identity(self) -> str:
        """What the lineage records: names and parameters."""
        return ", ".join(self.names)

    @abstractmethod
    def build(self, data: Table, context: Context) -> SliceSet: ...

    def __call__(self, data: Any, columns: Sequence[str] = ("text",), **context: Any) -> SliceSet:
        """Slices of `data` (anything that `as_table` takes), from its column `columns[0]`."""
        return self.build(as_table(data), Context(column=columns[0], **context))


# ------------------------------------------------------------------------------------------------------- subpopulations


class Subpopulation(SliceBuilder):
    """Rows of the data that fulfil a condition; its slices are views, nothing is copied and no model is asked."""

    category = "subpopulation"

    @abstractmethod
    def members(self, data: Table, context: Context) -> Bools:
        """(N, K): which row is in which slice."""

    def build(self, data: Table, context: Context) -> SliceSet:
        membership = np.asarray(self.members(data, context))
        if membership.shape != (len(data), len(self.names)) or membership.dtype != np.bool_:
            got = f"{membership.dtype} of shape {membership.shape}"
            raise InputError(self.identity, got, f"booleans of shape ({len(data)}, {len(self.names)})")
        return SliceSet([_view(data, membership[:, k], name, self, context) for k, name in enumerate(self.names)], membership)

    def __or__(self, other: Subpopulation) -> Subpopulation:
        return Combined((self, other), "or")

    def __and__(self, other: Subpopulation) -> Subpopulation:
        return Combined((self, other), "and")

    def __invert__(self) -> Subpopulation:
        return Complement(self)


def _view(data: Table, inside: Bools, name: str, builder: SliceBuilder, context: Context) -> Slice:
    rows = np.flatnonzero(inside).astype(np.int64)
    labels = data.column(context.label)
    lineage = (data.name, f"{builder.identity} @ {context.column}")
    model = context.model.name if builder.needs_model and context.model is not None else ""
    ids = tuple(data.ids[i] for i in rows)
    return Slice(name, builder.category, lineage, tuple(labels[i] for i in rows.tolist()), rows, ids=ids, model=model)


@dataclass(frozen=True, eq=False)
class Condition(Subpopulation):
    """Rows for which a function of the row (a dict of its columns) is true. Made by the decorator `subpopulation`."""

    title: str
    function: Callable[[dict[str, Any]], bool]

    @property
    def names(self) -> list[str]:
        return [self.title]

    def members(self, data: Table, context: Context) -> Bools:
        return np.array([[bool(self.function(data.row(i)))] for i in range(len(data))], bool).reshape(len(data), 1)


def subpopulation(name: str = "") -> Callable[[Callable[[dict[str, Any]], bool]], Condition]:
    """Decorator: a function of one row becomes a slice builder.

    @subpopulation(name="short")
    def short(row): return len(row["text"].split()) < 5
    """

    def decorate(function: Callable[[dict[str, Any]], bool]) -> Condition:
        check_callable("function", function, "a function of one row")
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if len(needed) != 1:
            raise InputError("function", f"{len(needed)} arguments", "one argument, the row")
        return Condition(name or function.__name__, function)

    return decorate


@dataclass(frozen=True, eq=False)
class Combined(Subpopulation):
    """Union ("or": in any) or intersection ("and": in all) over all columns of several subpopulations."""

    parts: tuple[Subpopulation, ...]
    how: Literal["or", "and"]

    def __post_init__(self) -> None:
        check_choice("how", self.how, ("or", "and"))
        if not self.parts or not all(isinstance(one, Subpopulation) for one in self.parts):
            raise InputError("parts", self.parts, "subpopulations")

    @property
    def needs_model(self) -> bool:  # type: ignore[override]
        return any(part.needs_model for part in self.parts)

    @property
    def names(self) -> list[str]:
        return ["(" + f" {self.how} ".join(name for part in self.parts for name in part.names) + ")"]

    @property
    def identity(self) -> str:
        return "(" + f" {self.how} ".join(part.identity for part in self.parts) + ")"

    def members(self, data: Table, context: Context) -> Bools:
        columns = np.concatenate([part.members(data, context) for part in self.parts], 1)
        joined: Bools = np.asarray(columns.any(1) if self.how == "or" else columns.all(1), bool)[:, None]
        return joined


def union(*parts: Subpopulation) -> Subpopulation:
    return Combined(parts, "or")


def intersection(*parts: Subpopulation) -> Subpopulation:
    return Combined(parts, "and")


@dataclass(frozen=True, eq=False)
class Complement(Subpopulation):
    """For each slice of a subpopulation the rows outside."""

    part: Subpopulation

    @property
    def needs_model(self) -> bool:  # type: ignore[override]
        return self.part.needs_model

    @property
    def names(self) -> list[str]:
        return [f"not {name}" for name in self.part.names]

    @property
    def identity(self) -> str:
        return f"not {self.part.identity}"

    def members(self, data: Table, context: Context) -> Bools:
        return ~self.part.members(data, context)


# ------------------------------------------------------------------------------------------------------ transformations


@dataclass(frozen=True, eq=False)
class Transformation(SliceBuilder):
    """Each row edited. A row is left out where the edit was refused, and with keep="changed" where it had nothing to change.

    edit: a TextEdit, or a function of one value (an image too), deterministic. Its label effect decides what the labels are: as
    before, mapped, or unknown; unknown ones enter no accuracy.
    """

    edit: TextEdit | Callable[[Any], Any]
    title: str = ""
    keep: Literal["changed", "all"] = "changed"

    category = "transformation"

    def __post_init__(self) -> None:
        check_choice("keep", self.keep, ("changed", "all"))
        check_callable("edit", self.edit, "a TextEdit, or a function of one value")

    @property
    def names(self) -> list[str]:
        return [self.title or (self.edit.name if isinstance(self.edit, TextEdit) else getattr(self.edit, "__name__", "edit"))]

    @property
    def identity(self) -> str:
        return self.edit.identity if isinstance(self.edit, TextEdit) else self.names[0]

    def build(self, data: Table, context: Context) -> SliceSet:
        values = data.column(context.column)
        if isinstance(self.edit, TextEdit):
            self.edit.check()
            edited = self.edit.many(list(values), seed=context.seed, items=list(data.ids))
            after: list[Any] = [one.text for one in edited]
            worked = np.array([not one.refused for one in edited], bool)
            changed = np.array([one.changed for one in edited], bool)
        else:
            after = [self.edit(value) for value in values]
            worked = np.ones(len(data), bool)
            changed = np.array([not _same(a, b) for a, b in zip(values, after, strict=True)], bool)
        inside = worked & changed if self.keep == "changed" else worked
        source = np.flatnonzero(inside).astype(np.int64)
        rows = source.tolist()
        found = data.column(context.label)
        labels: tuple[Hashable, ...] | None = tuple(found[i] for i in rows)
        if isinstance(self.edit, TextEdit) and self.edit.label_effect != "keep":
            labels = None if self.edit.label_effect == "unknown" else tuple(self.edit.map_label(found[i]) for i in rows)
        made = Slice(
            self.names[0], self.category, (data.name, f"{self.identity} @ {context.column}"), labels, source,
            tuple(after[i] for i in rows), tuple(data.ids[i] for i in rows),
            notes={"changed": float(changed.sum()), "refused": float((~worked).sum())},
        )  # fmt: skip
        return SliceSet([made], inside[:, None])


@dataclass(frozen=True, eq=False)
class Then(SliceBuilder):
    """A transformation, then a subpopulation of what it made; the lineage names both."""

    first: Transformation
    second: Subpopulation

    category = "transformation"

    @property
    def names(self) -> list[str]:
        return [f"{self.first.names[0]} > {name}" for name in self.second.names]

    @property
    def identity(self) -> str:
        return f"{self.first.identity} > {self.second.identity}"

    def build(self, data: Table, context: Context) -> SliceSet:
        made = self.first.build(data, context).slices[0]
        assert made.source is not None
        assert made.values is not None
        edited = data.take(made.source).with_column(context.column, made.values)
        inside = self.second.members(edited, context)
        membership = np.zeros((len(data), inside.shape[1]), bool)
        slices = []
        for k, name in enumerate(self.names):
            rows = np.flatnonzero(inside[:, k])
            membership[made.source[rows], k] = True
            labels = None if made.labels is None else tuple(made.labels[i] for i in rows)
            lineage = (*made.lineage, f"{self.second.identity} @ {context.column}")
            values, ids = tuple(made.values[i] for i in rows), tuple(made.ids[i] for i in rows)
            slices.append(Slice(name, self.category, lineage, labels, made.source[rows], values, ids))
        return SliceSet(slices, membership)


# -------------------------------------------------------------------------------------------------- attacks, other sets

ATTACKS: dict[str, type[TextAttack]] = {"greedy-words": GreedyWords, "text-bugger": TextBugger}


@dataclass(frozen=True, eq=False)
class Attack(SliceBuilder):
    """Texts that an attack found against one model; only those that it has right are attacked, the others stay as they are.

    attack: a TextAttack, or its name with budget as the largest share of changed words. sample: attack so many rows only, the
    same whatever the order (None: all).
    """

    attack: TextAttack | str
    budget: float | None = None
    sample: int | None = None

    category = "attack"
    needs_model = True

    def __post_init__(self) -> None:
        if isinstance(self.attack, str):
            check_choice("attack", self.attack, tuple(ATTACKS))
        elif not isinstance(self.attack, TextAttack):
            raise InputError("attack", type(self.attack).__name__, f"a TextAttack, or one of {', '.join(ATTACKS)}")
        elif self.budget is not None:
            raise InputError("budget", self.budget, "None for an attack that has its own")
        if self.sample is not None:
            check_integer("sample", self.sample)

    @property
    def chosen(self) -> TextAttack:
        if isinstance(self.attack, TextAttack):
            return self.attack
        kind: Any = ATTACKS[self.attack]
        result: TextAttack = kind() if self.budget is None else kind(max_changed=self.budget)
        return result

    @property
    def names(self) -> list[str]:
        return [self.chosen.name]

    @property
    def identity(self) -> str:
        return self.chosen.identity + (f" on {self.sample}" if self.sample else "")

    def build(self, data: Table, context: Context) -> SliceSet:
        model = context.model
        if model is None:
            raise InputError("model", None, "a model: an attack is made against one")
        rows = some_rows(data, self.sample, context.seed)
        picked = rows.tolist()
        texts, found = data.column(context.column), data.column(context.label)
        places = [model.place(found[i]) for i in picked]
        result = self.chosen.run(
            model, [texts[i] for i in picked], places, seed=context.seed, items=[data.ids[i] for i in picked],
            batch_size=model.batch_size,
        )  # fmt: skip
        membership = np.zeros((len(data), 1), bool)
        membership[rows] = True
        notes = {
            "correct_before": float(result.correct.sum()),
            "success_rate": result.success_rate,
            "queries": float(result.queries.mean()) if len(rows) else 0.0,
            "words_changed": float(result.words[result.success].mean()) if result.success.any() else 0.0,
        }
        lineage = (data.name, f"{self.identity} @ {context.column}", f"against {model.name}")
        ids = tuple(data.ids[i] for i in picked)
        labels = tuple(found[i] for i in picked)
        made = Slice(self.names[0], self.category, lineage, labels, rows, tuple(result.texts), ids, model.name, notes)
        return SliceSet([made], membership)


def some_rows(data: Table, sample: int | None, seed: int) -> Ints:
    """All rows, or `sample` of them by a draw on their ids: the same whatever their order."""
    if sample is None or sample >= len(data):
        return np.arange(len(data))
    ranked = sorted(range(len(data)), key=lambda i: derive(seed, "sample", data.ids[i]))
    return np.array(sorted(ranked[:sample], key=lambda i: data.ids[i]), np.int64)


@dataclass(frozen=True, eq=False)
class EvaluationSet(SliceBuilder):
    """Another data set, with labels of its own: a challenge set, another domain, a set made by hand.

    columns, labels: how its columns and labels are called in the task, {"sentence": "text"} and {1: "positive"}.
    """

    title: str
    data: Any
    columns: dict[str, str] = field(default_factory=dict)
    labels: dict[Hashable, Hashable] = field(default_factory=dict)

    category = "evaluation set"

    @property
    def names(self) -> list[str]:
        return [self.title]

    def build(self, data: Table, context: Context) -> SliceSet:
        own = as_table(self.data)
        back = {new: old for old, new in self.columns.items()}
        values = tuple(own.column(back.get(context.column, context.column)))
        labels = tuple(self.labels.get(one, one) for one in own.column(back.get(context.label, context.label)))
        made = Slice(self.title, self.category, (own.name, f"evaluation set {self.title}"), labels, None, values, own.ids)
        return SliceSet([made], np.zeros((len(data), 1), bool))


def as_builder(one: Any) -> SliceBuilder:
    """A builder of whatever stands in a list of them: an edit is a transformation, an attack an attack."""
    if isinstance(one, SliceBuilder):
        return one
    if isinstance(one, TextEdit):
        return Transformation(one)
    if isinstance(one, TextAttack):
        return Attack(one)
    raise InputError("builders", type(one).__name__, "slice builders, text edits or text attacks")


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else bool(a == b)
