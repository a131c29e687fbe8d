"""Edits of phrases: other words for the same, openings that say nothing, additions that do not matter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tutelage.core.errors import InputError
from tutelage.threats.text.character import pick
from tutelage.threats.text.edit import Change, Protected, TextEdit, check_rate
from tutelage.threats.text.grammar import CLOSED
from tutelage.threats.text.tokens import like

# phrases of one meaning; each may stand for any other of its row. Written for this package.
SAME = (
    ("a lot of", "plenty of", "lots of"), ("in order to", "so as to"), ("because of", "due to", "on account of"),
    ("at the moment", "right now"), ("as well as", "along with"), ("for example", "for instance"),
    ("in spite of", "despite"), ("even though", "although"), ("at first", "in the beginning"),
    ("at last", "in the end", "finally"), ("a number of", "several"), ("most of the time", "usually"),
    ("from time to time", "now and then", "sometimes"), ("right away", "at once", "immediately"),
    ("with regard to", "concerning"), ("a bit", "a little"), ("kind of", "sort of"), ("in general", "on the whole"),
    ("of course", "naturally"), ("no doubt", "without doubt"), ("at least", "if nothing else"),
    ("such as", "like for instance"), ("in fact", "as a matter of fact"), ("in addition", "besides"),
    ("instead of", "rather than"), ("as soon as", "the moment"), ("all the time", "constantly"), ("as if", "as though"),
    ("has to", "needs to"), ("have to", "need to"), ("had to", "needed to"), ("is able to", "can"),
    ("was able to", "could"), ("be able to", "manage to"), ("the fact that", "the truth that"),
    ("in terms of", "as regards"), ("one of the", "among the"), ("so far", "until now"),
    ("over and over", "again and again"), ("make sure", "see to it"), ("think about", "consider"),
    ("look like", "seem like"), ("looks like", "seems like"), ("find out", "discover"), ("get rid of", "do away with"),
    ("give up", "quit"), ("point out", "mention"), ("put up with", "tolerate"), ("run out of", "use up"),
    ("deal with", "handle"), ("come up with", "think of"), ("makes you", "causes you to"), ("make you", "cause you to"),
    ("based on", "founded on"), ("full of", "filled with"),
)  # fmt: skip
_ROWS = {phrase: tuple(other for other in row if other != phrase) for row in SAME for phrase in row}
_PHRASES = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, _ROWS), key=len, reverse=True)) + r")\b", re.IGNORECASE)
OPENINGS = (
    "As a matter of fact, ", "Well, ", "You know, ", "To be honest, ", "In my view, ", "For what it is worth, ",
    "I must say, ", "By the way, ",
)  # fmt: skip
ADDITIONS = (" (seen on Monday)", " https://t.co/3fKq", " @friend", " #review", " --", " [1]", " P.S. I wrote this at home.")


@dataclass(frozen=True)
class PhraseParaphrase(TextEdit):
    """Each common phrase, with probability `rate`, becomes another of the same meaning: "a lot of", "plenty of"."""

    rate: float = 1.0

    name = "phrase-paraphrase"
    family = "phrase"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for match in _PHRASES.finditer(text):
            take, which = rng.random() < self.rate, rng.random()
            if take:
                yield Change(*match.span(), like(match[0], pick(_ROWS[match[0].lower()], which)))


@dataclass(frozen=True)
class OpeningPhrase(TextEdit):
    """An opening that adds no opinion is put before the text: "Well, ...", "To be honest, ..."."""

    openings: tuple[str, ...] = OPENINGS

    name = "opening-phrase"
    family = "phrase"

    def __post_init__(self) -> None:
        _check_options("openings", self.openings)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        start = len(text) - len(text.lstrip())
        yield Change(start, start, pick(self.openings, rng.random()))
        first = re.match(r"[A-Z][a-z]*\b", text[start:])
        if first is not None and first[0].lower() in CLOSED - {"i"}:  # "Well, the film"; a name keeps its capital
            yield Change(start, start + 1, text[start].lower())


@dataclass(frozen=True)
class Distractor(TextEdit):
    """Something without meaning is put behind the text: an address, a handle, a tag (CheckList's invariance tests)."""

    additions: tuple[str, ...] = ADDITIONS

    name = "distractor"
    family = "phrase"

    def __post_init__(self) -> None:
        _check_options("additions", self.additions)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        end = len(text.rstrip())
        yield Change(end, end, pick(self.additions, rng.random()))


def _check_options(argument: str, value: object) -> None:
    if not isinstance(value, tuple) or not value or not all(isinstance(one, str) for one in value):
        raise InputError(argument, value, "a tuple of texts")
