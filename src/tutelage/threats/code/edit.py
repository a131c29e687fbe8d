"""What an edit of code is: a pure function (program, seed) -> edited program, which says what it changed or why it did not.

A program is a prompt and the rest of a reference solution, one text with a split. Edits see the whole of it, so that a variable
keeps its meaning on both sides; they begin only in the prompt, and the split moves with them. So the edited prompt comes
with a solution that completes it, and running both proves the edit harmless.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar, Literal, get_args

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.threats.code.source import Refused, compiles
from tutelage.threats.text.edit import Change, TextEdit, apply

Category = Literal["docstring", "function", "syntax", "format"]
CATEGORIES: tuple[Category, ...] = get_args(Category)


@dataclass(frozen=True)
class Program:
    """text[:split] is the prompt, text[split:] the rest of a solution.

    entry_point: the function that is asked for. test: code that is run after it. item: its name, which random streams hang on.
    """

    text: str
    split: int
    entry_point: str
    test: str = ""
    item: str = ""

    @property
    def prompt(self) -> str:
        return self.text[: self.split]

    @property
    def solution(self) -> str:
        return self.text[self.split :]


@dataclass(frozen=True)
class EditedProgram:
    """A program after an edit. changes: of its text; refused: why nothing was done, or ""."""

    program: Program
    changes: tuple[Change, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Proposal:
    """Changes of a program's text, and what becomes of entry point and test where they change too."""

    changes: Sequence[Change]
    entry_point: str | None = None
    test: str | None = None


class CodeEdit(ABC):
    """One way to change a program that leaves alone what it does.

    name: ReCode's. random: whether the seed matters. partial: whether it is made for prompts that hold half of the solution
    (syntax, format) or for prompts without any (docstring, function name).
    """

    name: ClassVar[str]
    category: ClassVar[Category]
    random: ClassVar[bool] = False

    @property
    def partial(self) -> bool:
        return self.category in ("syntax", "format")

    @abstractmethod
    def propose(self, program: Program, seed: int) -> Proposal:
        """The changes; raises Refused with the reason where there is nothing to change or it would not be harmless."""

    def check(self) -> None:
        """Raise MissingError, in one sentence, if something that the edit needs is not here."""
        return None

    def rng(self, program: Program, seed: int) -> Random:
        """The stream of one item: from the seed, the edit and the item, whatever else is edited."""
        return Random(derive(seed, "code edit", self.name, program.item or program.text))

    def __call__(self, program: Program, *, seed: int = 0) -> EditedProgram:
        """`program` after the edit, or as it was and the reason. Raises InputError, and MissingError as `check` does."""
        check_program(program)
        check_integer("seed", seed, low=0)
        try:
            proposal = self.propose(program, seed)
            return self._made(program, proposal)
        except Refused as reason:
            return EditedProgram(program, (), str(reason))

    def _made(self, program: Program, proposal: Proposal) -> EditedProgram:
        done = apply(program.text, proposal.changes)
        if len(done.changes) < len([c for c in proposal.changes if program.text[c.start : c.end] != c.text]):
            raise Refused("its changes overlap")
        if not done.changes:
            raise Refused("there is nothing to change")
        # what is inserted at the split itself belongs to the prompt
        split = program.split + sum(len(c.text) - (c.end - c.start) for c in done.changes if c.end <= program.split)
        if not compiles(done.text):
            raise Refused("Python would not take the result")
        entry_point = program.entry_point if proposal.entry_point is None else proposal.entry_point
        test = program.test if proposal.test is None else proposal.test
        after = replace(program, text=done.text, split=split, entry_point=entry_point, test=test)
        return EditedProgram(after, done.changes)


class TextOfCode(CodeEdit):
    """A text edit of some of a program's words: `propose` says which."""

    def __init__(self, name: str, edit: TextEdit) -> None:
        self.name = name  # type: ignore[misc]
        self.edit = edit
        self.random = edit.random  # type: ignore[misc]

    def check(self) -> None:
        self.edit.check()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.edit!r})"


def check_program(program: object) -> None:
    """A Program whose split lies in its text."""
    if not isinstance(program, Program):
        raise InputError("program", type(program).__name__, "a Program")
    if not 0 <= program.split <= len(program.text):
        raise InputError("program", f"split {program.split}", f"an offset from 0 to {len(program.text)}")


def pick(number: int, rng: Random) -> int:
    """One of 0 ... number - 1."""
    return min(int(rng.random() * number), number - 1)
