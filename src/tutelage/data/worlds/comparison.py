"""Comparison pairs: which of two chains of additions and subtractions is larger?

"3+5-2?9-4:" has the answer ">" (the left one is larger). The level of a pair is the larger number of operations of its two
sides, a measure of difficulty. A second label, which side is written shorter, agrees with the first one only by chance: a goal
that can be set against it. Styles:

    answer   >
    worked   6?5>               the two values first
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.data.worlds.tasks import Item, LanguageWorld, Step, Verdict

STYLES = ("answer", "worked")
_WORKED = re.compile(r"(-?\d{1,18})\?(-?\d{1,18})([<>])", re.ASCII)


class ComparisonPairs(LanguageWorld):
    """Pairs of chains with different values.

    operations: how many additions and subtractions a side may have. low, high: of a term. A pair and its mirror image are one
    problem. Values of a chain may be negative.

    Example::

        >>> from tutelage.data.worlds.comparison import ComparisonPairs
        >>> world = ComparisonPairs()
        >>> item = world.item((3, 5, -2), (9, -4))
        >>> item.prompt, item.answer, world.render(item, "worked"), world.level(item), world.shorter(item)
        ('3+5-2?9-4:', '>', '6?5>', 2, '>')
    """

    name = "comparison"

    def __init__(
        self, operations: Sequence[int] = (1, 2, 3, 4), *, low: int = 1, high: int = 9, styles: Sequence[str] = STYLES
    ) -> None:
        if not len(operations):
            raise InputError("operations", operations, "numbers of operations, such as (1, 2)")
        for count in operations:
            check_integer("operations", count)
        check_integer("low", low)
        check_integer("high", high, low=low)
        for style in styles:
            check_choice("styles", style, STYLES)
        self.operations, self.low, self.high, self.styles = tuple(operations), low, high, tuple(styles)

    @property
    def alphabet(self) -> str:
        return "+-0123456789:<>?"

    def item(self, left: Sequence[int], right: Sequence[int]) -> Item:
        """The problem of two chains of terms, whose sums must differ; negative terms are taken off."""
        left, right = tuple(map(int, left)), tuple(map(int, right))
        if not left or not right or sum(left) == sum(right):
            raise InputError("left", f"{left} against {right}", "two chains with different values")
        sides = _spelled(left), _spelled(right)
        answer = ">" if sum(left) > sum(right) else "<"
        return Item(f"{sides[0]}?{sides[1]}:", answer, "?".join(sorted(sides)), (left, right))

    def draw(self, rng: np.random.Generator) -> Item:
        while True:
            left, right = self._side(rng), self._side(rng)
            if sum(left) != sum(right):
                return self.item(left, right)

    def _side(self, rng: np.random.Generator) -> list[int]:
        count = int(rng.choice(self.operations)) + 1
        terms = rng.integers(self.low, self.high + 1, count)
        terms[1:] *= rng.choice([-1, 1], count - 1)
        return [int(term) for term in terms]

    def level(self, item: Item) -> int:
        """Operations of the side that has more."""
        return max(map(len, _sides(item))) - 1

    def shorter(self, item: Item) -> Literal["<", ">", "="]:
        """The other goal: ">" where the left side is the shorter text, "<" where the right one is, "=" where none is."""
        left, right = (len(_spelled(side)) for side in _sides(item))
        return "=" if left == right else ">" if left < right else "<"

    def _render(self, item: Item, style: str, rng: np.random.Generator, wrong: bool) -> str:
        left, right = (sum(side) for side in _sides(item))
        if wrong:  # one value is off, far enough to turn the sign round
            off = abs(left - right) + int(rng.integers(1, 4))
            if rng.integers(2):
                left += off if left < right else -off
            else:
                right += off if right < left else -off
        sign = ">" if left > right else "<"
        return sign if style == "answer" else f"{left}?{right}{sign}"

    def verify(self, item: Item, text: str) -> Verdict:
        """Steps of a worked solution: each value, then the sign, which follows from the two values shown."""
        text = text.strip()
        if text in ("<", ">"):
            return Verdict(text == item.answer, text, (), float(text == item.answer))
        found = _WORKED.fullmatch(text)
        if found is None:
            return Verdict(False, None)
        exact = [sum(side) for side in _sides(item)]
        shown = int(found[1]), int(found[2])
        steps = [Step(str(value), value == true, value == true) for value, true in zip(shown, exact, strict=True)]
        follows = shown[0] > shown[1] if found[3] == ">" else shown[0] < shown[1]
        right = found[3] == item.answer
        return Verdict(right, found[3], (*steps, Step(found[3], follows, right)), float(right))


def _sides(item: Item) -> list[tuple[int, ...]]:
    return [tuple(int(str(term)) for term in side) for side in item.content if isinstance(side, tuple)]


def _spelled(terms: Sequence[int]) -> str:
    return f"{terms[0]}" + "".join(f"{term:+d}" for term in terms[1:])
