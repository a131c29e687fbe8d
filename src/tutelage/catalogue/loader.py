"""The typed view of `systems.toml`. Whether a system is planned, built or judged is derived elsewhere, never typed here."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

ROOM_PURPOSE = {
    "distill": "make a small student from teachers",
    "harden": "train against a threat",
    "adapt": "fix it at test time, or in weight space",
    "certify": "what can be guaranteed",
    "detect": "which inputs to refuse",
    "align": "learn from preferences, rewards, weak supervision",
    "tutor": "teach an agent or a person",
    "decide": "act well in the worst case",
    "understand": "why does it (not) generalise",
    "audit": "how does it break",
}
ROOMS = tuple(ROOM_PURPOSE)
Kind = Literal["superiority", "noninferiority", "threshold"]


@dataclass(frozen=True)
class Figure:
    """A headline figure of the paper and where it was taken from."""

    figure: str
    value: str
    source: str


@dataclass(frozen=True)
class PrimaryClaim:
    """The sentence a system is judged by, written before its first run.

    `method` against `baseline` in `metric`; the advantage, signed so that larger is better, must exceed `margin` (in
    `metric_unit`) over `n_units` independent units. For kind "threshold" the margin is the value to reach.
    """

    sentence: str
    kind: Kind
    metric: str
    metric_unit: str
    better: Literal["higher", "lower"]
    method: str
    baseline: str
    margin: float
    unit: str
    n_units: int
    controls: tuple[str, ...]
    falsified: str
    data: str


@dataclass(frozen=True)
class System:
    """One published system. `module` is where its method is, or will be."""

    slug: str
    name: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    arxiv: str
    arxiv_confirmed: bool
    room: str
    module: str
    have: str
    want: str
    headline: tuple[Figure, ...]
    claim: PrimaryClaim

    @property
    def claim_module(self) -> str:
        return self.module.replace("tutelage.methods.", "tutelage.claims.")

    @property
    def paper_url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@cache
def systems() -> tuple[System, ...]:
    """All systems, by room and then by slug."""
    text = (files("tutelage.catalogue") / "systems.toml").read_text(encoding="utf-8")
    found = [_system(entry) for entry in tomllib.loads(text)["system"]]
    return tuple(sorted(found, key=lambda s: (ROOMS.index(s.room), s.slug)))


def find(slug: str) -> System:
    """The system of that slug; KeyError names the nearest ones."""
    for system in systems():
        if system.slug == slug:
            return system
    near = difflib.get_close_matches(slug.lower(), [s.slug for s in systems()], n=3, cutoff=0.4)
    raise KeyError(", ".join(near))


def search(text: str) -> tuple[System, ...]:
    """Systems whose name, title, room, have/want or claim contain every word of `text`."""
    words = text.lower().split()

    def haystack(s: System) -> str:
        return " ".join([s.slug, s.name, s.title, s.room, s.have, s.want, s.claim.sentence, *s.authors]).lower()

    return tuple(s for s in systems() if all(word in haystack(s) for word in words))


def _system(entry: dict[str, Any]) -> System:
    claim = _typed(PrimaryClaim, entry["claim"], entry["slug"])
    headline = tuple(_typed(Figure, figure, entry["slug"]) for figure in entry["headline"])
    system: System = _typed(System, {**entry, "claim": claim, "headline": headline}, entry["slug"])
    return system


def _typed(kind: type, values: dict[str, Any], slug: str) -> Any:
    wanted = {field.name for field in fields(kind)}
    if values.keys() != wanted:
        raise ValueError(f"catalogue entry {slug}: {kind.__name__} has the wrong keys {sorted(values.keys() ^ wanted)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
