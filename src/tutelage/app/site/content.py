"""What the site says, before it is a page: systems with their records, and the words that a search looks in."""

from __future__ import annotations

import ast
import json
import re
import statistics
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import tutelage
from tutelage.catalogue import ROOM_PURPOSE, System, systems
from tutelage.claims.state import State, state_of

TONES = {"holds": "good", "does not hold": "bad", "undecided": "warn"}
MOST_METRICS = 4  # columns of the table of arms, as in the docs


@dataclass(frozen=True)
class Sentence:
    """One judged sentence of a record; `lo` and `hi` are its 95 % interval."""

    sentence: str
    primary: bool
    kind: str
    metric: str
    better: str
    method: str
    baseline: str
    margin: float
    difference: float
    lo: float
    hi: float
    ci_method: str
    unit: str
    n_units: int
    verdict: str

    @property
    def tone(self) -> str:
        return TONES.get(self.verdict, "plain")

    @property
    def compared(self) -> str:
        return f"{self.method} against {self.baseline}" if self.baseline else self.method

    @property
    def value(self) -> str:
        """The difference with its sign, or the value that is held against the threshold, with its interval."""
        form = f"+z.{self._decimals()}f" if self.baseline else "z.3g"  # z: no "-0"
        return f"{self.difference:{form}} [{self.lo:{form}}, {self.hi:{form}}]"

    def _decimals(self) -> int:
        """Two, or as many as tell the ends of the interval from the margin: they are what the verdict hangs on."""
        ends = [end for end in (self.lo, self.hi) if end != self.margin]
        return next((d for d in (2, 3, 4) if all(round(end, d) != round(self.margin, d) for end in ends)), 4)


@dataclass(frozen=True)
class Arm:
    """An arm and its mean in each shown metric, with half the width of the 95 % Student-t interval; None: not measured."""

    name: str
    role: str
    means: tuple[tuple[float, float] | None, ...]


@dataclass(frozen=True)
class Record:
    """A recorded result, as far as the site shows it."""

    raw: Mapping[str, Any]
    sentences: tuple[Sentence, ...]

    @classmethod
    def read(cls, text: str) -> Record:
        raw = json.loads(text)
        sentences = []
        for one in raw["claims"]:
            lo, hi = one["ci95"]
            sentences.append(Sentence(**{key: value for key, value in one.items() if key != "ci95"}, lo=lo, hi=hi))
        return cls(raw, tuple(sentences))

    @property
    def verdict(self) -> str:
        return str(self.raw["verdict"])

    @property
    def tone(self) -> str:
        return TONES.get(self.verdict, "plain")

    @property
    def primary(self) -> Sentence | None:
        return next((one for one in self.sentences if one.primary), None)

    @property
    def finished(self) -> datetime:
        return datetime.fromisoformat(self.raw["started"]) + timedelta(seconds=float(self.raw["seconds"]))

    @property
    def cpu_seconds(self) -> float:
        """Of all cells together."""
        return sum(float(row["seconds"]) for row in self.raw["rows"])

    @property
    def cpu_time(self) -> str:
        seconds = self.cpu_seconds
        minutes = round(seconds / 60)
        return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

    @property
    def generated(self) -> bool:
        """Whether all data came out of a generator, none from a real set."""
        return self.data_kinds == "generated"

    @property
    def data_kinds(self) -> str:
        """In a word or two, what the cells were measured on."""
        names = {"file": "real set"}
        return ", ".join(sorted({names.get(kind := str(one.get("kind")), kind) for one in self.raw["data"]}))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the sentences, that of the primary one first."""
        return tuple(dict.fromkeys(one.metric for one in self.sentences))[:MOST_METRICS]

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that measured one of `metrics` on at least two units."""
        rows: list[Mapping[str, Any]] = [row for row in self.raw["rows"] if row["status"] == "ok"]
        found = []
        for name in dict.fromkeys(row["arm"] for row in rows):
            means = tuple(
                _mean([row["metrics"][metric] for row in rows if row["arm"] == name and metric in row["metrics"]])
                for metric in self.metrics
            )
            if any(means):
                found.append(Arm(name, self._role(name), means))
        return tuple(found)

    def _role(self, arm: str) -> str:
        if arm in self.raw["controls"]:
            return "control"
        primary = self.primary
        return {primary.method: "method", primary.baseline: "baseline"}.get(arm, "") if primary else ""

    def digits(self, metric: str) -> int:
        largest = max((abs(row["metrics"].get(metric, 0.0)) for row in self.raw["rows"]), default=0.0)
        return 1 if largest >= 10 else 2 if largest >= 1 else 3


def _mean(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # Student-t quantile; core.stats would import all of scipy.stats

    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


@dataclass(frozen=True)
class Entry:
    """One system on the site. docs: its page in Markdown, docstring: of its method; both may be empty."""

    system: System
    state: State
    record: Record | None
    docs: str
    docstring: str

    @property
    def slug(self) -> str:
        return self.system.slug

    @property
    def url(self) -> str:
        return f"systems/{self.slug}.html"

    @property
    def tone(self) -> str:
        """Of the badge; the badge says it in words too."""
        return TONES.get(self.state.verdict, "plain") if self.state.verdict else self.state.status

    @property
    def stale(self) -> bool:
        return self.state.status == "stale"

    @property
    def filter(self) -> str:
        """What the choice of states calls it: the verdict, else the status."""
        return self.state.verdict or self.state.status


def entries(docs: Path | None) -> tuple[Entry, ...]:
    """All systems: judged ones, built ones, planned ones; each by room and slug.

    docs: the folder with `systems/<slug>.md`, or None.
    """
    found = [_entry(system, docs) for system in systems()]
    order = {"verdict": 0, "stale": 0, "method": 1}
    return tuple(sorted(found, key=lambda entry: order.get(entry.state.status, 2)))  # sorting keeps what is equal in order


def _entry(system: System, docs: Path | None) -> Entry:
    state = state_of(system)
    record = files("tutelage") / "results" / f"{system.slug}.json"
    page = docs / "systems" / f"{system.slug}.md" if docs else None
    return Entry(
        system,
        state,
        Record.read(record.read_text(encoding="utf-8")) if state.verdict else None,
        page.read_text(encoding="utf-8") if page and page.is_file() else "",
        module_docstring(system.module) if state.status != "planned" else "",
    )


def module_docstring(module: str) -> str:
    """The docstring of a module of this package, read and not imported."""
    place = Path(tutelage.__file__).parent.joinpath(*module.split(".")[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return ""


# -------------------------------------------------------------------------------------------------------------- search


def plain_words(text: str) -> str:
    """Lower case, without accents and marks, one blank between words; site.js does the same with what is typed."""
    letters = (c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W_]+", "".join(letters)))


def search_index(found: Sequence[Entry], others: Sequence[tuple[str, str, str, str]]) -> dict[str, Any]:
    """The index that the page carries. `others`: (kind, title, address, further words) of pages that are no system."""
    listed = []
    for entry in found:
        s = entry.system
        fields = (f"{s.slug} {s.name}", s.title, f"{s.room} {ROOM_PURPOSE[s.room]}", s.have, s.want)
        rest = f"{s.claim.sentence} {s.claim.data} {' '.join(s.authors)} {s.year} {s.venue}"
        listed.append([s.slug, *map(plain_words, fields), plain_words(rest)])
    pages = [[kind, title, url, plain_words(title), plain_words(words)] for kind, title, url, words in others]
    return {"systems": listed, "pages": pages}
