"""What edits of attributes cost a classifier: drops with intervals, a page with pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.auditing.page import Block, Facts, Gallery, Notice, Page, Section, Table, Text, Tile, png_data_uri, write_page
from tutelage.auditing.result import AuditRow, digits, mask_of
from tutelage.core.errors import InputError
from tutelage.core.files import write_json
from tutelage.core.rng import numpy_generator
from tutelage.core.stats import bootstrap, mean_t, newcombe_paired
from tutelage.core.stats.resampling import BOOTSTRAP_MIN_UNITS


@dataclass(frozen=True)
class AttributeRow:
    """One edit. original, edited: top-1 accuracy in per cent on the same n pictures, those with which the edit could be done
    (of `total`). drop: original - edited, percentage points; ci95: its 95 % interval (Newcombe 1998, paired). rate: mean share
    of the frame that the object covers after the edit. by_class: name -> (drop, n). Where no picture allows the edit, n is 0
    and the numbers are NaN, null in JSON.
    """

    edit: str
    attribute: str
    original: float
    edited: float
    drop: float
    ci95: tuple[float, float]
    n: int
    total: int
    rate: float
    by_class: dict[str, tuple[float, int]]


@dataclass(frozen=True)
class AttributeExample:
    """A picture that was right and is wrong after an edit: (C, H, W) uint8 before and after, class numbers, position."""

    edit: str
    index: int
    label: int
    predicted: int
    original: Tensor
    edited: Tensor


@dataclass(frozen=True)
class Answers:
    """Of one edit, picture by picture: right, and ok, whether the edit could be done; sha256 of the edited pictures."""

    right: list[bool]
    ok: list[bool]
    sha256: str


@dataclass
class AttributeReport:
    """The drop of every edit for one model. average: mean drop of all edits but the inversion, with its interval.

    answers: by edit, what was right, for paired comparisons; of audits from before they were kept, none.
    """

    rows: list[AttributeRow]
    average: float
    average_ci95: tuple[float, float]
    classes: tuple[str, ...]
    settings: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    examples: list[AttributeExample] = field(default_factory=list)
    answers: dict[str, Answers] = field(default_factory=dict)

    def row(self, edit: object) -> AttributeRow:
        """The row of an edit, or of its name."""
        for row in self.rows:
            if row.edit == str(edit):
                return row
        raise InputError("edit", str(edit), f"one of {', '.join(row.edit for row in self.rows)}")

    @property
    def floor(self) -> float:
        """The drop of the inversion edit: what the editor itself costs; 0 if it was not asked for."""
        return next((row.drop for row in self.rows if row.attribute == "none"), 0.0)

    def ranking(self) -> list[tuple[str, float]]:
        """(attribute, its largest drop), the attribute that hurts most first."""
        worst: dict[str, float] = {}
        for row in self.rows:
            if row.attribute != "none" and row.n:
                worst[row.attribute] = max(row.drop, worst.get(row.attribute, -100.0))
        return sorted(worst.items(), key=lambda pair: -pair[1])

    @property
    def undone(self) -> list[str]:
        """The edits that no picture allows."""
        return [row.edit for row in self.rows if not row.n]

    def table(self) -> str:
        """All rows as Markdown."""
        lines = ["| edit | drop in points [95 %] | original | edited | object | n |", "| --- | --- | --- | --- | --- | --- |"]
        for row in self.rows:
            lines.append(f"| {' | '.join(_cells(row))} |")
        lines.append(f"| average | {_interval(self.average, self.average_ci95)} | | | | |")
        return "\n".join(lines)

    def save(self, folder: Path | str) -> Path:
        """Write attributes.json and report.html into `folder`; returns the path of the report."""
        folder = Path(folder)
        write_json(folder / "attributes.json", self.describe())
        return self.to_html(folder / "report.html")

    def to_html(self, path: Path | str) -> Path:
        """Write one self-contained HTML page."""
        facts = Facts({"Model": self.model, "Data": self.data, **self.settings})
        sections = [*self.sections(), Section("Settings", [facts])]
        return write_page(Path(path), Page("Attributes", "Attribute audit", self.lead(), sections))

    def lead(self) -> list[Block]:
        """What was found, in words."""
        ranking = ", ".join(f"{name} ({drop:.1f} points)" for name, drop in self.ranking()) or "nothing that could be edited"
        floor = (
            "The inversion, which edits nothing, could be done with no picture: what the editor itself costs is not known."
            if math.isnan(self.floor)
            else f"The inversion, which edits nothing, costs {self.floor:.1f} points: drops of this size say nothing."
        )
        lead: list[Block] = [
            Text(
                [
                    f"{self.model['name']} was tested on {self.data['n']:,} pictures of {self.data['name']} and on the same "
                    "pictures with one attribute of the object edited.",
                    f"What hurts most: {ranking}. {floor}",
                ]
            )
        ]
        if failed := [f"{row.edit}: {row.total - row.n} of {row.total}" for row in self.rows if row.n < row.total]:
            words = "Pictures with which an edit could not be done are left out of both accuracies of its row."
            if self.undone:
                words += " An edit that no picture allows has no drop, and is neither in the average nor in what hurts most."
            lead.append(Notice("Some edits could not be done", [words, *failed], "warn"))
        return lead

    def sections(self) -> list[Section]:
        """The drops, by edit and by class, and pictures."""
        header = ["Edit", "Drop, points", "Original", "Edited", "Object", "n"]
        rows = [*[_shown(row) for row in self.rows], ["average", _interval(self.average, self.average_ci95), "", "", "", ""]]
        note = (
            "Drop: accuracy on the originals minus accuracy on the same pictures edited, with its 95 % interval. The average "
            "is over all edits but the inversion. Object: mean share of the frame that it covers."
        )
        blocks: list[Block] = [Table("Top-1 drop of each edit", header, rows, "lr", note=note)]
        parts = [Section("Drops", blocks), Section("Classes", [self._by_class()])]
        galleries = [Section(row.edit, [Gallery(tiles)]) for row in self.rows if (tiles := self._tiles(row.edit))]
        if galleries:
            words = "Pictures that were right, before and after the edit, and what the model says then."
            parts.append(Section("Examples", [Text([words])], galleries))
        return parts

    def describe(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        about = {key: value for key, value in vars(self).items() if key not in ("rows", "examples", "answers")}
        answers = {
            edit: {"right": digits(one.right), "ok": digits(one.ok), "sha256": one.sha256} for edit, one in self.answers.items()
        }
        return {**about, "rows": [asdict(row) for row in self.rows], "answers": answers}

    def audit_rows(self) -> list[AuditRow]:
        """The drops as rows of an audit: shares in [-1, 1], NaN where n is 0; the average last."""
        rows = [
            AuditRow("attribute", row.edit, "drop", row.drop / 100, (row.ci95[0] / 100, row.ci95[1] / 100), row.n)
            for row in self.rows
        ]
        low, high = (end / 100 for end in self.average_ci95)
        return [*rows, AuditRow("attributes", "average", "drop", self.average / 100, (low, high), self.data["n"])]

    def _by_class(self) -> Table:
        cells = [[name, *(_drop_of(row.by_class, name) for row in self.rows)] for name in self.classes]
        return Table("Drop by class, in points", ["Class", *(row.edit for row in self.rows)], cells, "lr")

    def _tiles(self, edit: str) -> list[Tile]:
        tiles = []
        for one in self.examples:
            if one.edit == edit:
                true, said = self.classes[one.label], _class_name(self.classes, one.predicted)
                images = [
                    ("original", png_data_uri(one.original.float() / 255), f"picture {one.index}, class {true}"),
                    ("edited", png_data_uri(one.edited.float() / 255), f"the same after {edit}, taken for {said}"),
                ]
                tiles.append(Tile(images, f"#{one.index} {true} → {said}"))
        return tiles


class AttributeAudit(AttributeReport):
    """What `audit_attributes` returns: a report in which an edit that no picture allows has a row too."""

    @classmethod
    def of(cls, report: AttributeReport, edits: Mapping[str, str]) -> AttributeAudit:
        """A report with a row for each of these edits, name -> attribute, in their order."""
        known, total = {row.edit: row for row in report.rows}, report.data["n"]
        rows = [known.get(name) or _undone_row(name, attribute, total) for name, attribute in edits.items()]
        return cls(**{**vars(report), "rows": rows})

    def table(self) -> str:
        lines = super().table().splitlines()
        for place, row in enumerate(self.rows, 2):
            if not row.n:
                lines[place] = f"| {' | '.join(_shown(row))} |"
        return "\n".join(lines)

    def describe(self) -> dict[str, Any]:
        about = super().describe()
        missing = dict.fromkeys(("original", "edited", "drop", "ci95", "rate"))
        return {**about, "rows": [row if row["n"] else {**row, **missing} for row in about["rows"]]}


def attribute_report_of(about: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> AttributeReport:
    """What `describe` said, with the pictures of the examples, "original/0", "edited/0" and so on, where they are at hand."""
    rows = [
        AttributeRow(
            **{**row, "ci95": tuple(row["ci95"]), "by_class": {name: tuple(pair) for name, pair in row["by_class"].items()}}
        )
        if row["n"]
        else _undone_row(row["edit"], row["attribute"], row["total"])
        for row in about["rows"]
    ]
    examples = [
        AttributeExample(**one, original=pictures[f"original/{i}"], edited=pictures[f"edited/{i}"])
        for i, one in enumerate(about.get("examples", []) if pictures else [])
    ]
    kept = about.get("answers", {})
    answers = {edit: Answers(mask_of(one["right"]), mask_of(one["ok"]), one["sha256"]) for edit, one in kept.items()}
    fixed = {"average_ci95": tuple(about["average_ci95"]), "classes": tuple(about["classes"])}
    return AttributeAudit(**{**about, **fixed, "rows": rows, "examples": examples, "answers": answers})


def drop_row(
    edit: str, attribute: str, right: Tensor, right_edited: Tensor, ok: Tensor, rate: Tensor, labels: Tensor,
    classes: Sequence[str],
) -> AttributeRow:  # fmt: skip
    """The row of an edit from masks (N,) of what was right before and after it; only where `ok` is True.

    Raises InputError where no picture could be edited.
    """
    n = int(ok.sum())
    if n == 0:
        raise InputError("edit", f"{edit}, which could be done with no picture", "an edit that fits the data")
    a, b = right[ok].numpy(), right_edited[ok].numpy()
    interval = newcombe_paired(a, b)
    by_class = {}
    for c, name in enumerate(classes):
        mine = ok & (labels == c)
        if bool(mine.any()):
            difference = right[mine].double().mean() - right_edited[mine].double().mean()
            by_class[name] = (100 * float(difference), int(mine.sum()))
    return AttributeRow(
        edit, attribute, 100 * float(a.mean()), 100 * float(b.mean()), 100 * float(a.mean() - b.mean()),
        (100 * interval.lo, 100 * interval.hi), n, len(ok), float(rate[ok].mean()), by_class,
    )  # fmt: skip


def average_drop(lost: Mapping[str, Tensor], ok: Mapping[str, Tensor], seed: int) -> tuple[float, tuple[float, float]]:
    """(mean over edits of their drops, its 95 % interval), in points. lost: edit -> (N,) of 1, 0, -1; ok: edit -> (N,) masks.

    Pictures are resampled, all their edits together (bootstrap; Student's t over pictures where there are fewer than 20).
    """
    change = np.stack([lost[name].double().numpy() for name in lost], 1)
    done = np.stack([ok[name].numpy() for name in lost], 1)
    n = len(change)

    def mean(index: np.ndarray, axis: int = -1) -> np.ndarray:
        at = np.moveaxis(index.astype(np.int64), axis, -1)
        # an edit that no drawn picture has counts as no drop
        totals = (change * done)[at].sum(-2) / np.maximum(done[at].sum(-2), 1)
        return np.asarray(100 * totals.mean(-1))

    value = float(mean(np.arange(n)))
    if n >= BOOTSTRAP_MIN_UNITS:
        interval = bootstrap(np.arange(n), mean, rng=numpy_generator(seed, "average drop"))
        return value, (interval.lo, interval.hi)
    each = 100 * (change * done).sum(1) / np.maximum(done.sum(1), 1)
    if n < 2:
        return value, (-100.0, 100.0)
    _, interval = mean_t(each)
    return value, (interval.lo, interval.hi)


def _undone_row(edit: str, attribute: str, total: int) -> AttributeRow:
    none = math.nan
    return AttributeRow(edit, attribute, none, none, none, (none, none), 0, total, none, {})


def _shown(row: AttributeRow) -> list[str]:
    return _cells(row) if row.n else [row.edit, "no picture allows it", "–", "–", "–", f"0 of {row.total:,}"]


def _cells(row: AttributeRow) -> list[str]:
    n = f"{row.n:,}" if row.n == row.total else f"{row.n:,} of {row.total:,}"
    share = f"{100 * row.rate:.1f} %"
    return [row.edit, _interval(row.drop, row.ci95), f"{row.original:.1f} %", f"{row.edited:.1f} %", share, n]


def _interval(value: float, ci95: tuple[float, float]) -> str:
    return f"{value:.1f} [{ci95[0]:.1f}, {ci95[1]:.1f}]"


def _drop_of(by_class: Mapping[str, tuple[float, int]], name: str) -> str:
    return f"{by_class[name][0]:.1f} (n {by_class[name][1]})" if name in by_class else "–"


def _class_name(classes: Sequence[str], c: int) -> str:
    return classes[c] if c < len(classes) else f"output {c}"


def first_turned(right: Tensor, right_edited: Tensor, ok: Tensor, k: int) -> Tensor:
    """Positions of the first k pictures that were right and are wrong after an edit that could be done."""
    return torch.nonzero(right & ~right_edited & ok).flatten()[:k]
