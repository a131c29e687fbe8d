"""Edits of single characters: what fingers, scanners and carelessness do to a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tutelage.threats.text.edit import Change, Protected, TextEdit, check_rate
from tutelage.threats.text.tokens import WORD

# the keys that touch each key of a QWERTY keyboard
NEIGHBOURS = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg", "y": "tugh", "u": "yihj", "i": "uojk", "o": "ipkl",
    "p": "ol", "a": "qwsz", "s": "weadzx", "d": "erfsxc", "f": "rtdgcv", "g": "tyfhvb", "h": "yugjbn", "j": "uihknm",
    "k": "iojlm", "l": "opk", "z": "asx", "x": "sdzc", "c": "dfxv", "v": "fgcb", "b": "ghvn", "n": "hjbm", "m": "jkn",
}  # fmt: skip
KEYS = NEIGHBOURS | {key.upper(): keys.upper() for key, keys in NEIGHBOURS.items()}
# what character recognition takes for something else
CONFUSED = {
    "rn": ("m",), "cl": ("d",), "vv": ("w",), "li": ("h",), "m": ("rn",), "d": ("cl",), "w": ("vv",), "h": ("li", "b"),
    "l": ("1", "I"), "i": ("l", "1"), "o": ("0",), "e": ("c",), "c": ("e",), "a": ("o",), "s": ("5",), "b": ("6", "h"),
    "g": ("9", "q"), "u": ("v",), "n": ("ri", "u"), "t": ("f",), "f": ("t",), "I": ("l", "1"), "O": ("0",), "S": ("5",),
    "B": ("8",), "Z": ("2",), "G": ("6",), "1": ("l", "I"), "0": ("O",), "5": ("S",), "8": ("B",), "6": ("b",),
    "2": ("Z",),
}  # fmt: skip


RUN = re.compile(r"[^\W_]{2,}")
# looked ahead for, so that the second letter of a pair is looked at as well
LOOKS = re.compile("(?=(" + "|".join(sorted(CONFUSED, key=len, reverse=True)) + "))")


def pick(options: str | tuple[str, ...] | list[str], draw: float) -> str:
    """One of `options` by a draw from [0, 1)."""
    return options[int(draw * len(options))]


@dataclass(frozen=True)
class ButterFingers(TextEdit):
    """Each letter, with probability `rate`, becomes a letter of a neighbouring key, in the same case.

    ReCode's rate is 0.05 for each letter; its released code draws 0 to 99 and compares with <= 5, which is 0.06.
    """

    rate: float = 0.05

    name = "butter-fingers"
    family = "character"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        draw, rate = rng.random, self.rate
        for i, letter in enumerate(text):
            if letter in KEYS and draw() < rate:
                yield Change(i, i + 1, pick(KEYS[letter], draw()))


@dataclass(frozen=True)
class SwapCharacters(TextEdit):
    """Each pair of adjacent letters or digits, with probability `rate`, changes places; no character moves twice."""

    rate: float = 0.05

    name = "swap-characters"
    family = "character"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        last, draw, rate = -2, rng.random, self.rate
        for run in RUN.finditer(text):
            for i in range(run.start(), run.end() - 1):
                # drawn for every pair, so that what is protected or was swapped before does not shift the rest
                if draw() < rate and last < i - 1:
                    last = i
                    yield Change(i, i + 2, text[i + 1] + text[i])


@dataclass(frozen=True)
class ChangeCharCase(TextEdit):
    """Each letter, with probability `rate`, changes between upper and lower case."""

    rate: float = 0.35

    name = "change-char-case"
    family = "character"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        draw, rate = rng.random, self.rate
        for i, letter in enumerate(text):
            if letter.isalpha() and draw() < rate:
                other = letter.swapcase()
                if len(other) == 1:  # "ß" has no upper case of one letter
                    yield Change(i, i + 1, other)


@dataclass(frozen=True)
class Whitespace(TextEdit):
    """Each space, with probability `remove`, is deleted; before each other character one is inserted with probability `add`.

    Only plain spaces go: line breaks and tabs stay. Spaces beside a protected span stay too, or its word would be glued to
    its neighbour.
    """

    remove: float = 0.10
    add: float = 0.05

    name = "whitespace"
    family = "character"

    def __post_init__(self) -> None:
        check_rate("remove", self.remove)
        check_rate("add", self.add)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        draw = rng.random
        for i, letter in enumerate(text):
            value = draw()
            if letter == " ":
                if value < self.remove and not protected.borders(i, i + 1):
                    yield Change(i, i + 1, "")
            elif value < self.add and not letter.isspace():
                yield Change(i, i, " ")


@dataclass(frozen=True)
class OCRErrors(TextEdit):
    """Each character or pair that scanners confuse, with probability `rate`, becomes what they take it for: m, rn; l, 1."""

    rate: float = 0.05

    name = "ocr-errors"
    family = "character"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        draw, rate, after = rng.random, self.rate, 0
        for match in LOOKS.finditer(text):
            if (i := match.start()) >= after and draw() < rate:
                found = match[1]
                after = i + len(found)
                yield Change(i, after, pick(CONFUSED[found], draw()))


@dataclass(frozen=True)
class Typos(TextEdit):
    """Each word of at least 4 letters, with probability `rate`, gets one slip: a letter lost, doubled, swapped or missed.

    It is inside the word: its first and last letter stay, so that people still read it.
    """

    rate: float = 0.2

    name = "typos"
    family = "character"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for word in WORD.finditer(text):
            if word.end() - word.start() < 4 or rng.random() >= self.rate:
                continue
            kind, place, key = rng.random(), rng.random(), rng.random()
            i = word.start() + 1 + int(place * (word.end() - word.start() - 3))  # inside, with one more letter after it
            letter = text[i]
            near = NEIGHBOURS.get(letter.lower(), letter)
            slips = ((i, i + 1, ""), (i, i + 1, 2 * letter), (i, i + 2, text[i + 1] + letter), (i, i + 1, pick(near, key)))
            yield Change(*slips[int(4 * kind)])
