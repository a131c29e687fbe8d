"""Edits of the function's name: another spelling or another word, in definition, calls, docstring examples and tests."""

from __future__ import annotations

import ast
import re
import tokenize
from dataclasses import dataclass
from typing import Literal

from tutelage.threats.code.edit import CodeEdit, Program, Proposal, TextOfCode
from tutelage.threats.code.scopes import BUILTINS, is_name, occurrences, rename
from tutelage.threats.code.source import Refused, Source, parsed
from tutelage.threats.text.edit import Change

TRIES = 20  # of an edit that changes letters only now and then, until it changes one and the name is free
HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words_of(name: str) -> tuple[list[str], Literal["snake", "camel"]]:
    """The words of a name and how they are joined: between underscores, or else at its humps."""
    if "_" in name.strip("_"):
        return [part for part in name.split("_") if part], "snake"
    words = HUMP.findall(name)
    return words, "camel" if len(words) > 1 else "snake"


def toggle_case(name: str) -> str:
    """snake_case becomes camelCase, camelCase becomes snake_case; one word stays. Leading underscores stay.

    Toggling twice gives the name back, for snake_case in lower case without digits and double underscores.
    """
    bare = name.lstrip("_")
    begin = name[: len(name) - len(bare)]
    words, kind = words_of(bare)
    if len(words) < 2:
        return name
    if kind == "snake":
        return begin + words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:])
    return begin + "_".join(word.lower() for word in words)


@dataclass(frozen=True)
class CamelCase(CodeEdit):
    """The function's name changes between snake_case and camelCase."""

    name = "FuncRenameCamelCase"
    category = "function"

    def propose(self, program: Program, seed: int) -> Proposal:
        new = toggle_case(program.entry_point)
        if new == program.entry_point:
            raise Refused("the name is one word")
        return rename_function(program, new)


class RenameByWords(TextOfCode):
    """A text edit of the words of the function's name; what is left of it is letters, digits and underscores.

    It is tried, with a stream for each try, until it gives another name that is free.
    """

    category = "function"

    def propose(self, program: Program, seed: int) -> Proposal:
        words, kind = words_of(program.entry_point)
        reason = "the edit leaves the name as it is"
        for attempt in range(TRIES if self.random else 1):
            item = f"{self.name}/{program.item or program.text}/{attempt}"
            edited = self.edit(" ".join(words), seed=seed, item=item)
            parts = [part for word in edited.text.split() if (part := re.sub(r"[^A-Za-z0-9_]", "", word))]
            if not edited.changed or not parts:
                continue
            new = "_".join(parts) if kind == "snake" else parts[0] + "".join(part[:1].upper() + part[1:] for part in parts[1:])
            if new == program.entry_point:
                continue
            try:
                return rename_function(program, new)
            except Refused as why:
                reason = str(why)
        raise Refused(reason)


def rename_function(program: Program, new: str) -> Proposal:
    """The asked function under a new name: in code, in the examples of its docstring and of comments, and in the tests.

    In docstrings and comments, the name is changed where it is called, `name(`; elsewhere only if it is no word of a language
    (it has an underscore, a digit or a capital inside). Raises Refused if the new name is not free.
    """
    old = program.entry_point
    source, tests = parsed(program.text), parsed(program.test)
    if not is_name(new) or new in BUILTINS:
        raise Refused(f"{new!r} cannot be a name")
    if new in source.names | tests.names:
        raise Refused(f"{new} is used already")
    home = next((one.home for one in occurrences(source) if one.role == "function" and one.node is source.function(old)), None)
    if home is None:
        raise Refused(f"there is no function {old}")
    changes = [*rename(source, home, old, new), *_in_words(source, old, new)]
    test = program.test
    for change in sorted(_free_in(tests, old, new), key=lambda one: -one.start):
        test = test[: change.start] + change.text + test[change.end :]
    return Proposal(changes, entry_point=new, test=test)


def _in_words(source: Source, old: str, new: str) -> list[Change]:
    """Where docstrings and comments speak of the function."""
    speaking = bool(re.search(r"[_\d]|(?<=.)[A-Z]", old.strip("_")))
    pattern = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)" + ("" if speaking else r"(?=\()"))
    changes = []
    for one in source.tokens:
        if one.kind == tokenize.COMMENT or (one.kind == tokenize.STRING and _is_docstring(source, one.start)):
            changes += [Change(one.start + m.start(), one.start + m.end(), new) for m in pattern.finditer(one.text)]
    return changes


def _is_docstring(source: Source, start: int) -> bool:
    """Whether the string that begins there is a statement by itself."""
    return any(isinstance(node, ast.Expr) and source.span(node)[0] == start for node in ast.walk(source.tree))


def _free_in(tests: Source, old: str, new: str) -> list[Change]:
    """Where the tests mean the program's function: names that the tests do not bind themselves."""
    return [Change(*one.span, new) for one in occurrences(tests) if one.name == old and one.home is None]
