"""Procedural language tasks with exact answers: what a world of them is.

A world draws problems, writes solutions in several styles, right or with a mistake, and judges any text, step by step. Splits
are disjoint by construction: a problem belongs to the split that the hash of its canonical spelling names, so that the same
problem, in another order or another style, is never in two of them, whatever the seeds.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator

Split = Literal["train", "validation", "test"]
SHARES = (0.8, 0.1, 0.1)  # of the problems in train, validation and test
MOST_DRAWS = 2000  # for one item, until a split or a world counts as empty


@dataclass(frozen=True)
class Item:
    """One problem.

    prompt: what a model reads. answer: the exact answer. key: the canonical spelling; items of one key are one problem, and
    are in one split. content: what the world made it from.
    """

    prompt: str
    answer: str
    key: str
    content: tuple[object, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a solution: whether it follows from the step before it, and whether it is what the exact solution has."""

    text: str
    follows: bool
    right: bool


@dataclass(frozen=True)
class Verdict:
    """What a text is worth as a solution.

    right: the answer is. answer: the one that the text gives; None: none was found. steps: those that the text shows, in order.
    score: in [0, 1]; 1.0 for a right answer and 0.0 for a wrong one, unless a world gives parts.
    """

    right: bool
    answer: str | None
    steps: tuple[Step, ...] = ()
    score: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether the text shows steps and each follows: a right answer by wrong steps is not sound."""
        return bool(self.steps) and all(step.follows for step in self.steps)

    @property
    def first_mistake(self) -> int | None:
        """Index of the first step that does not follow; None where all do."""
        return next((i for i, step in enumerate(self.steps) if not step.follows), None)


@runtime_checkable
class World(Protocol):
    """A source of problems with a verifier."""

    name: str
    styles: tuple[str, ...]

    @property
    def alphabet(self) -> str:
        """Every character of its prompts and solutions."""
        ...

    def sample(
        self, n: int, rng: np.random.Generator | int, split: Split = "train", *, distinct: bool = False
    ) -> list[Item]: ...

    def render(
        self, item: Item, style: str | None = None, rng: np.random.Generator | int | None = None, *, wrong: bool = False
    ) -> str: ...

    def verify(self, item: Item, text: str) -> Verdict: ...


class LanguageWorld(ABC):
    """What worlds share. One sets `name` and `styles`, and gives `alphabet`, `draw`, `_render` and `verify`."""

    name: str = ""
    styles: tuple[str, ...] = ()

    @property
    @abstractmethod
    def alphabet(self) -> str:
        """All characters that its texts may hold."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Item:
        """One problem, of any split."""

    @abstractmethod
    def verify(self, item: Item, text: str) -> Verdict:
        """Judge any text as a solution of `item`; it never raises for a text."""

    @abstractmethod
    def _render(self, item: Item, style: str, rng: np.random.Generator, wrong: bool) -> str:
        """A solution in a style; with a mistake if `wrong`."""

    def sample(self, n: int, rng: np.random.Generator | int, split: Split = "train", *, distinct: bool = False) -> list[Item]:
        """n problems of a split.

        rng: a generator, or a seed. distinct: no two of one key. Raises InputError; also where the world has not so many.
        """
        check_integer("n", n, low=0)
        check_choice("split", split, get_args(Split))
        rng = checked_rng(rng, self.name, split)
        found: list[Item] = []
        seen: set[str] = set()
        while len(found) < n:
            for _ in range(MOST_DRAWS):
                item = self.draw(rng)
                if split_of(self.name, item.key) == split and not (distinct and item.key in seen):
                    break
            else:
                kind = "distinct problems" if distinct else "problems"
                raise InputError("n", n, f"at most about {len(seen)} {kind} of split {split}; {self.name} has not more")
            seen.add(item.key)
            found.append(item)
        return found

    def render(
        self, item: Item, style: str | None = None, rng: np.random.Generator | int | None = None, *, wrong: bool = False
    ) -> str:
        """A solution, without the prompt, in one of `styles` (default: the first).

        rng: a generator, or a seed, for styles and mistakes that are drawn. wrong: with a mistake, whose consequences are
        carried on, and a wrong answer. Raises InputError.
        """
        style = self.styles[0] if style is None else style
        check_choice("style", style, self.styles)
        return self._render(item, style, checked_rng(0 if rng is None else rng, self.name, "render", item.key), wrong)


def split_of(name: str, key: str, shares: Sequence[float] = SHARES) -> Split:
    """The split of the problem `key` of the world `name`: by a hash, so it is the same on every machine.

    Example::

        >>> from tutelage.data.worlds.tasks import split_of
        >>> split_of("sums", "2+3"), split_of("sums", "7+7")
        ('train', 'test')
    """
    place = int.from_bytes(hashlib.sha256(f"{name}/{key}".encode()).digest()[:8], "big") / 2**64
    if place < shares[0]:
        return "train"
    return "validation" if place < shares[0] + shares[1] else "test"


def checked_rng(rng: object, *names: object) -> np.random.Generator:
    """A generator as it is, or the stream `names` of a seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    check_integer("rng", rng, low=0)
    return numpy_generator(int(rng), *names)  # type: ignore[call-overload]
