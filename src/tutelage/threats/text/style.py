"""Edits of style: how people write in a hurry, loudly, or without marks; the words stay the same words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tutelage.threats.text.edit import Change, Protected, TextEdit, check_rate
from tutelage.threats.text.tokens import WORD, like

SHORT = {
    "you": "u", "are": "r", "your": "ur", "please": "pls", "people": "ppl", "because": "cuz", "before": "b4",
    "great": "gr8", "thanks": "thx", "really": "rly", "though": "tho", "through": "thru", "tonight": "tonite",
    "with": "w/", "without": "w/o", "and": "&", "to": "2", "for": "4", "going to": "gonna", "want to": "wanna",
    "have to": "hafta", "love": "luv", "okay": "ok", "about": "abt", "something": "smth", "someone": "sb", "very": "v",
    "picture": "pic", "favorite": "fav", "message": "msg", "tomorrow": "tmrw",
}  # fmt: skip
_SHORT = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, SHORT), key=len, reverse=True)) + r")\b", re.IGNORECASE)
VOWELS = "aeiou"


@dataclass(frozen=True)
class Casual(TextEdit):
    """Words become the short forms of messages, each with probability `rate`: you -> u, great -> gr8."""

    rate: float = 0.8

    name = "casual"
    family = "style"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for match in _SHORT.finditer(text):
            if rng.random() < self.rate:
                yield Change(*match.span(), like(match[0], SHORT[match[0].lower()]))


@dataclass(frozen=True)
class UpperCase(TextEdit):
    """THE WHOLE TEXT IN CAPITALS."""

    name = "upper-case"
    family = "style"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        return _each(text, str.upper)


@dataclass(frozen=True)
class LowerCase(TextEdit):
    """the whole text without capitals."""

    name = "lower-case"
    family = "style"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        return _each(text, str.lower)


def _each(text: str, change: object) -> Iterator[Change]:
    assert callable(change)
    for word in WORD.finditer(text):
        yield Change(*word.span(), change(word[0]))


@dataclass(frozen=True)
class NoPunctuation(TextEdit):
    """Punctuation goes, apostrophes and hyphens inside words stay."""

    name = "no-punctuation"
    family = "style"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for match in re.finditer(r"(?<!\w)['’-]|['’-](?!\w)|[^\w\s'’-]", text):
            yield Change(*match.span(), "")


@dataclass(frozen=True)
class Elongated(TextEdit):
    """Each word of 3 to 8 letters, with probability `rate`, is drawn out at its last vowel: good -> gooood."""

    rate: float = 0.15

    name = "elongated"
    family = "style"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for word in WORD.finditer(text):
            places = [i for i, letter in enumerate(word[0].lower()) if letter in VOWELS]
            if not 3 <= len(word[0]) <= 8 or not places:
                continue
            take, more = rng.random() < self.rate, rng.random()
            if take:
                i = word.start() + places[-1]
                yield Change(i, i + 1, text[i] * (3 + int(more * 3)))
