"""ReCode's way to make the same edits: on the text of the prompt, without scopes. The control, and the released behaviour.

What it gets wrong, and `syntax`, `layout` and `names` refuse or do otherwise: names are replaced wherever their letters stand
(`sum` inside `summary`) or wherever a word is equal (attributes, arguments given by name); a `while` loop increments last, so
`continue` never ends, and indexes whatever it is given; any line is copied into dead code; lines are broken inside texts.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

from tutelage.threats.code.edit import Category, CodeEdit, EditedProgram, Program, Proposal, pick
from tutelage.threats.code.layout import DocstringToComments, NewLineAfterCode, NewLineAfterDocstring
from tutelage.threats.code.names import toggle_case, words_of
from tutelage.threats.code.source import Refused, Source, parsed
from tutelage.threats.code.syntax import FLIPPED, last_statement
from tutelage.threats.text.edit import Change, TextEdit, apply


class Released(CodeEdit):
    """An edit as ReCode's code makes it: nothing is refused because it might do harm."""

    def _made(self, program: Program, proposal: Proposal) -> EditedProgram:
        done = apply(program.text, proposal.changes)
        if not done.changes:
            raise Refused("there is nothing to change")
        split = program.split + sum(len(c.text) - (c.end - c.start) for c in done.changes if c.end <= program.split)
        entry_point = program.entry_point if proposal.entry_point is None else proposal.entry_point
        test = program.test if proposal.test is None else proposal.test
        after = replace(program, text=done.text, split=split, entry_point=entry_point, test=test)
        return EditedProgram(after, done.changes)


@dataclass(frozen=True)
class ReleasedRename(Released):
    """The function's name, replaced as a substring everywhere."""

    name: str  # type: ignore[misc]
    edit: TextEdit | None = None

    category: Category = "function"  # type: ignore[misc]

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.edit is not None and self.edit.random

    def check(self) -> None:
        if self.edit is not None:
            self.edit.check()

    def propose(self, program: Program, seed: int) -> Proposal:
        old = program.entry_point
        if self.edit is None:
            new = toggle_case(old)
        else:
            words, kind = words_of(old)
            for attempt in range(20 if self.random else 1):
                text = self.edit(" ".join(words), seed=seed, item=f"{self.name}/{program.item}/{attempt}").text
                parts = [re.sub(r"[^A-Za-z0-9_]", "", word) for word in text.split()]
                new = ("_" if kind == "snake" else "").join(parts)
                if new != old:
                    break
        changes = [Change(m.start(), m.end(), new) for m in re.finditer(re.escape(old), program.text)]
        return Proposal(changes, entry_point=new, test=program.test.replace(old, new))


class ReleasedSyntax(Released):
    """Edits of syntax that take the first place they find."""

    category: Category = "syntax"  # type: ignore[misc]

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self.random = name in ("DeadCodeInserter", "VarRenamerRN")  # type: ignore[misc]

    def propose(self, program: Program, seed: int) -> Proposal:
        source, rng = parsed(program.text), self.rng(program, seed)
        make = {"DeadCodeInserter": _dead, "ForWhileTransformer": _while, "OperandSwap": _swap}.get(self.name)
        return Proposal(make(source, program, rng) if make else _renamed(source, program, rng, self.name))


def _dead(source: Source, program: Program, rng: Random) -> list[Change]:
    place = last_statement(source, program)
    body = source.function(program.entry_point).body
    lines = [line for line in source.text[source.span(body[0])[1] : program.split].split("\n") if line.strip()]
    if not lines:
        raise Refused("there is no line to copy")
    start = source.span(place)[0]
    at = source.line_start(start)
    indent = source.text[at:start]
    heads = ["for _i_0 in range(0):", "while False:", "if False:"]
    line = lines[pick(len(lines), rng)].strip()
    copied = f"{line} pass" if line.endswith(":") else line
    return [Change(at, at, f"{indent}{heads[pick(3, rng)]}\n{indent}{source.unit}{copied}\n")]


def _while(source: Source, program: Program, rng: Random) -> list[Change]:
    loops = [node for node in ast.walk(source.function(program.entry_point)) if isinstance(node, ast.For)]
    loops = [
        node for node in loops if source.span(node.body[0])[0] < program.split and source.begins_line(source.span(node)[0])
    ]
    if not loops:
        raise Refused("there is no for loop before the split")
    loop = min(loops, key=lambda node: source.span(node)[0])
    start, end = source.span(loop)
    indent = source.text[source.line_start(start) : start]
    inner = indent + source.unit
    target = source.segment(loop.target)
    is_range = isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Name) and loop.iter.func.id == "range"
    if is_range and isinstance(loop.iter, ast.Call) and loop.iter.args:
        texts = [source.segment(one) for one in loop.iter.args]
        low, high = ("0", texts[0]) if len(texts) == 1 else (texts[0], texts[1])
        step = texts[2] if len(texts) == 3 else "1"
        sign = ">" if step.startswith("-") else "<"
        head = f"{indent}{target} = {low}\n{indent}while {target} {sign} {high}:\n"
        tail = f"{inner}{target} += {step}\n"
    else:
        items, index = source.segment(loop.iter), f"_{target.split(',')[0].strip('( ')}_i"
        head = f"{indent}{index} = 0\n{indent}while {index} < len({items}):\n{inner}{target} = {items}[{index}]\n"
        tail = f"{inner}{index} += 1\n"
    first = source.span(loop.body[0])[0]
    body = source.line_start(first) if source.begins_line(first) else first
    after = source.line_end(end - 1)
    if source.text[after - 1 : after] != "\n":
        tail = f"\n{tail}"
    return [
        Change(source.line_start(start), body, head if source.begins_line(first) else head + inner),
        Change(after, after, tail),
    ]


def _swap(source: Source, program: Program, rng: Random) -> list[Change]:
    found = [node for node in ast.walk(source.function(program.entry_point)) if isinstance(node, ast.Compare)]
    for node in sorted(found, key=lambda node: source.span(node)[0]):
        if source.span(node)[1] <= program.split and type(node.ops[0]) in FLIPPED:
            low, high = source.span(node.left), source.span(node.comparators[0])
            between = source.text[low[1] : high[0]]
            sign = next(text for text in ("<=", ">=", "==", "!=", "<", ">") if text in between)
            flipped = between.replace(sign, FLIPPED[type(node.ops[0])], 1)
            return [Change(low[0], high[1], source.segment(node.comparators[0]) + flipped + source.segment(node.left))]
    raise Refused("there is no comparison before the split")


def _renamed(source: Source, program: Program, rng: Random, name: str) -> list[Change]:
    """The most frequent variable, replaced at every equal word outside of texts."""
    function = source.function(program.entry_point)
    known = [node.id for node in ast.walk(function) if isinstance(node, ast.Name) and source.span(node)[1] <= program.split]
    stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    counts = Counter(word for word in known if word in stored)
    if not counts:
        raise Refused("there is no variable before the split")
    old = counts.most_common(1)[0][0]
    letters = "abcdefghijklmnopqrstuvwxyz"
    new = "VAR_0" if name == "VarRenamerNaive" else "".join(letters[pick(26, rng)] for _ in old)
    return [Change(one.start, one.end, new) for one in source.tokens if one.kind == tokenize.NAME and one.text == old]


class ReleasedFormat(Released):
    """Edits of format by lines of text."""

    category: Category = "format"  # type: ignore[misc]

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self.random = name == "new_lines"  # type: ignore[misc]

    def propose(self, program: Program, seed: int) -> Proposal:
        text, rng = program.text, self.rng(program, seed)
        if self.name == "tab_indent":
            old, new = ("\t", "    ") if "\n\t" in text else ("    ", "\t")
            return Proposal([Change(m.start(), m.end(), new) for m in re.finditer(old, text)])
        if self.name == "split_lines":
            return Proposal(_split(program))
        if self.name == "new_lines":
            begin = text.find("\n", max(text.rfind('"""', 0, program.split), text.rfind("'''", 0, program.split)))
            places = [m.end() for m in re.finditer("\n", text) if begin < m.start() < program.split]
            return Proposal([Change(at, at, "\n") for at in places if rng.random() < 0.5])
        same = {"doc2comments": DocstringToComments, "new_line_aftercode": NewLineAfterCode}.get(
            self.name, NewLineAfterDocstring
        )
        return same().propose(program, seed)


def _split(program: Program) -> list[Change]:
    lines, at = [], 0
    for line in program.prompt.splitlines(keepends=True):
        if not line.strip().startswith("#") and len(line.split()) > 1:
            lines.append((len(line.strip()), at, line))
        at += len(line)
    if not lines:
        raise Refused("no line can be broken")
    _, start, line = max(lines, key=lambda one: (one[0], -one[1]))
    words = list(re.finditer(r"\S+", line))
    middle = words[len(words) // 2]
    indent = line[: len(line) - len(line.lstrip())]
    return [Change(start + words[len(words) // 2 - 1].end(), start + middle.start(), f" \\\n{indent}    ")]
