"""Arithmetic chains: "3+5+8=", solved by partial sums, with a verdict for each step.

A solution writes the partial sums s_2, …, s_n of n terms; the last is the answer. Styles:

    answer      16
    terse       8,16
    padded      8,8,8,16,16          each partial sum once, and one to four times more
    equations   3+5=8,8+8=16
    verbose     3+5=8, so now 8+8=16, so 16

A step follows if it repeats the step before it or adds the next term to it; so after a mistake the steps that carry it on
follow, and are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.data.worlds.tasks import Item, LanguageWorld, Step, Verdict

Operations = Literal["+", "+-"]
STYLES = ("terse", "padded", "answer", "equations", "verbose")
_WORDS = {"verbose": " sonw"}
_NUMBER = re.compile(r"-?\d+", re.ASCII)
_EQUATION = re.compile(r"(-?\d+(?:[+-]\d+)*)=(-?\d+)", re.ASCII)
MISTAKES = (-10, -3, -2, -1, 1, 2, 3, 10)
MOST_DIGITS = 18  # of a number that is read: a model may write thousands


class ArithmeticChains(LanguageWorld):
    """Sums of a few terms.

    operands: how many terms a problem may have, each as often as the others. low, high: of a term. operations: "+", or "+-"
    for differences too. styles: those it renders, the first by default. repeats: how often more the padded style may write a
    partial sum, (least, most). Problems with the same terms in another order are one problem.

    Example::

        >>> from tutelage.data.worlds.arithmetic import ArithmeticChains
        >>> world = ArithmeticChains(operands=(3,))
        >>> item = world.item((3, 5, 8))
        >>> item.prompt, world.render(item, "terse"), world.render(item, "equations")
        ('3+5+8=', '8,16', '3+5=8,8+8=16')
        >>> verdict = world.verify(item, "9,17")
        >>> verdict.right, [step.follows for step in verdict.steps], [step.right for step in verdict.steps]
        (False, [False, True], [False, False])
    """

    name = "arithmetic"

    def __init__(
        self,
        operands: Sequence[int] = (2, 3),
        *,
        low: int = 1,
        high: int = 9,
        operations: Operations = "+",
        styles: Sequence[str] = STYLES,
        repeats: tuple[int, int] = (1, 4),
    ) -> None:
        if not len(operands):
            raise InputError("operands", operands, "numbers of terms, such as (2, 3)")
        for count in operands:
            check_integer("operands", count, low=2)
        check_integer("low", low)  # a term of 0 could not be told from a repetition
        check_integer("high", high, low=low)
        check_choice("operations", operations, ("+", "+-"))
        if isinstance(styles, str) or not len(styles):
            raise InputError("styles", styles, f"some of {', '.join(STYLES)}")
        for style in styles:
            check_choice("styles", style, STYLES)
        if not (isinstance(repeats, tuple | list) and len(repeats) == 2):
            raise InputError("repeats", repeats, "(least, most)")
        check_integer("repeats", repeats[0], low=0)
        check_integer("repeats", repeats[1], low=repeats[0])
        self.operands, self.low, self.high, self.operations = tuple(operands), low, high, operations
        self.styles, self.repeats = tuple(styles), (int(repeats[0]), int(repeats[1]))

    @property
    def alphabet(self) -> str:
        words = "".join(_WORDS.get(style, "") for style in self.styles)
        signs = "+=," + ("-" if self.operations == "+-" else "")
        return "".join(sorted({*"0123456789", *signs, *words}))

    def item(self, terms: Sequence[int]) -> Item:
        """The problem of these terms; a negative one is taken off."""
        if len(terms) < 2 or not terms[0] > 0 or not all(terms):
            raise InputError("terms", tuple(terms), "two terms or more, none 0, the first above 0")
        terms = tuple(int(term) for term in terms)
        key = "".join(f"{term:+d}" for term in sorted(terms))
        return Item(f"{_spelled(terms)}=", str(sum(terms)), key, terms)

    def draw(self, rng: np.random.Generator) -> Item:
        count = int(rng.choice(self.operands))
        terms = rng.integers(self.low, self.high + 1, count)
        if self.operations == "+-":
            terms[1:] *= rng.choice([-1, 1], count - 1)
        return self.item([int(term) for term in terms])

    def _render(self, item: Item, style: str, rng: np.random.Generator, wrong: bool) -> str:
        terms = _terms(item)
        offsets = [0] * (len(terms) - 1)
        if wrong:
            # a mistake somewhere, carried on to the answer; it must not look like a repetition, nor want a minus sign
            at = int(rng.integers(len(offsets)))
            sizes = [size for size in MISTAKES if size != -terms[at + 1] or at == 0]
            if self.operations == "+":
                sizes = [size for size in sizes if sum(terms[: at + 2]) + size >= 0]
            size = int(rng.choice(sizes))
            offsets = [size if i >= at else 0 for i in range(len(offsets))]
        sums = [value + offset for value, offset in zip(list(accumulate(terms))[1:], offsets, strict=True)]
        if style == "answer":
            return str(sums[-1])
        if style == "padded":
            least, most = self.repeats
            return ",".join(str(value) for value in sums for _ in range(1 + int(rng.integers(least, most + 1))))
        if style == "terse":
            return ",".join(map(str, sums))
        before = [terms[0], *sums]
        lines = [f"{a}{b:+d}={c}" for a, b, c in zip(before, terms[1:], sums, strict=False)]
        return ",".join(lines) if style == "equations" else ", so now ".join(lines) + f", so {sums[-1]}"

    def verify(self, item: Item, text: str) -> Verdict:
        """Each part between commas is a step by its last number; a part without a number follows from nothing."""
        terms = _terms(item)
        partial = list(accumulate(terms))
        if not text.strip():
            return Verdict(False, None)
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 1 and "=" not in text:  # an answer alone shows no step, unless the problem has only one
            value = _value(parts[0])
            right = value == partial[-1]
            only = (Step(parts[0], right, right),) if len(terms) == 2 else ()
            return Verdict(right, _said(value), only, float(right))
        steps: list[Step] = []
        at, before = 0, terms[0]
        for part in parts:
            value = _value(part)
            if value is None or not _equation_holds(part):
                steps.append(Step(part, False, False))
                before = before if value is None else value
                at += value is not None
            elif at and value == before:  # a repetition
                steps.append(Step(part, True, value == partial[min(at, len(terms) - 1)]))
            else:
                at += 1
                inside = at < len(terms)
                follows = inside and value == before + terms[at]
                steps.append(Step(part, follows, inside and value == partial[at]))
                before = value
        answer = _value(parts[-1])
        right = answer == partial[-1]
        return Verdict(right, _said(answer), tuple(steps), float(right))


def _terms(item: Item) -> tuple[int, ...]:
    return tuple(int(str(term)) for term in item.content)


def _spelled(terms: Sequence[int]) -> str:
    return f"{terms[0]}" + "".join(f"{term:+d}" for term in terms[1:])


def _value(part: str) -> int | None:
    """The number that a part of a solution ends in."""
    found = _NUMBER.findall(part)
    if not found or not part.endswith(found[-1]) or len(found[-1]) > MOST_DIGITS:
        return None
    return int(found[-1])


def _said(value: int | None) -> str | None:
    return None if value is None else str(value)


def _equation_holds(part: str) -> bool:
    """Whether the equations that a part shows are true; a part without one shows none that is false."""
    if "=" not in part:
        return True
    found = _EQUATION.findall(part)
    return bool(found) and all(sum(map(int, re.findall(r"[+-]?\d+", left))) == int(right) for left, right in found)
