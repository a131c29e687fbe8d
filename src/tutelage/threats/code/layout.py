"""Edits of format: indentation, line breaks, blank lines, and where the docstring is written."""

from __future__ import annotations

import ast
import re
import tokenize
from dataclasses import dataclass

from tutelage.threats.code.edit import CodeEdit, Program, Proposal
from tutelage.threats.code.source import Refused, Source, Span, parsed
from tutelage.threats.text.edit import Change

TAB, SPACES = "\t", "    "


@dataclass(frozen=True)
class TabIndent(CodeEdit):
    """Indentation by spaces becomes indentation by tabs, and the other way round, in prompt and solution.

    Each level is one tab or four spaces. Lines inside texts stay, but for docstrings; what is aligned in brackets keeps its
    width as well as tabs can.
    """

    name = "tab_indent"
    category = "format"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        indents = [one.text for one in source.tokens if one.kind == tokenize.INDENT]
        if not indents:
            raise Refused("nothing is indented")
        unit = SPACES if indents[0].startswith(TAB) else TAB
        return Proposal(reindent(source, unit))


def reindent(source: Source, unit: str) -> list[Change]:
    """Changes that indent each level by `unit`."""
    levels: dict[int, tuple[str, int]] = {}  # line -> (what it is indented by, its level), of lines that begin a statement
    stack = [""]
    fresh_line = True
    for one in source.tokens:
        if one.kind == tokenize.INDENT:
            stack.append(one.text)
        elif one.kind == tokenize.DEDENT:
            stack.pop()
        elif one.kind in (tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER):
            continue
        elif one.kind == tokenize.NEWLINE:
            fresh_line = True
        elif fresh_line:
            levels[source.line_of(one.start)] = (stack[-1], len(stack) - 1)
            fresh_line = False
    inside = _lines_inside_texts(source)
    changes, (indent, level) = [], ("", 0)
    for line in range(len(source.text.splitlines())):
        start, end = source.line_span(line)
        text = source.text[start:end]
        blanks = text[: len(text) - len(text.lstrip(" \t"))]
        if line in levels:
            indent, level = levels[line]
        if line in inside or not text.strip():
            continue
        if line in levels:
            new = level * unit
        elif text.lstrip().startswith("#"):
            depth = _depth(source, line, levels, blanks)
            new = depth * unit if depth is not None else level * unit + _converted(blanks.removeprefix(indent), unit)
        elif blanks.startswith(indent):  # the second line of a statement, or a line of a docstring
            new = level * unit + _converted(blanks.removeprefix(indent), unit)
        else:
            new = _converted(blanks, unit)
        changes.append(Change(start, start + len(blanks), new))
    return changes


def _depth(source: Source, line: int, levels: dict[int, tuple[str, int]], blanks: str) -> int | None:
    """The level of a comment line: that of the statement with the same indentation nearest to it."""
    near = sorted((abs(other - line), level) for other, (indent, level) in levels.items() if indent == blanks)
    return near[0][1] if near else None


def _converted(blanks: str, unit: str) -> str:
    """Blanks of the same width in the other kind of indentation."""
    width = len(blanks.expandtabs(4))
    return TAB * (width // 4) + " " * (width % 4) if unit == TAB else " " * width


def _lines_inside_texts(source: Source) -> set[int]:
    """Lines that begin inside a string which is no docstring: their blanks are part of its value."""
    docstrings = {source.span(node.value)[0] for node in ast.walk(source.tree) if _is_docstring(source, node)}  # type: ignore[attr-defined]
    inside: set[int] = set()
    for one in source.tokens:
        if one.kind == tokenize.STRING and one.start not in docstrings:
            inside.update(range(source.line_of(one.start) + 1, source.line_of(one.end - 1) + 1))
    return inside


def _is_docstring(source: Source, node: ast.AST) -> bool:
    above = source.parents.get(node)
    body = getattr(above, "body", None)
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and isinstance(body, list)
        and body[:1] == [node]
        and "__doc__" not in source.names
    )


@dataclass(frozen=True)
class SplitLines(CodeEdit):
    """The longest line of code goes on, from its middle token, in a new line after a backslash."""

    name = "split_lines"
    category = "format"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        best: tuple[int, Change] | None = None
        for line in range(source.line_of(program.split) + 1):
            start, end = source.line_span(line)
            if end > program.split:
                break
            tokens = [one for one in source.tokens_in(start, end) if one.kind not in (tokenize.NEWLINE, tokenize.NL)]
            # a line that a string runs into or out of has no tokens there
            if (
                len(tokens) < 2
                or any(one.kind == tokenize.COMMENT for one in tokens)
                or tokens[-1].end < len(source.text[:end].rstrip())
            ):
                continue
            if source.text[start : tokens[0].start].strip() or source.text[start:end].rstrip().endswith("\\"):
                continue
            middle = tokens[len(tokens) // 2]
            previous = tokens[len(tokens) // 2 - 1]
            indent = source.text[start : tokens[0].start]
            length = len(source.text[start:end].strip())
            if best is None or length > best[0]:
                best = length, Change(previous.end, middle.start, f" \\\n{indent}{source.unit}")
        if best is None:
            raise Refused("no line of code can be broken")
        return Proposal([best[1]])


@dataclass(frozen=True)
class DocstringToComments(CodeEdit):
    """The docstring becomes comment lines with the same words."""

    name = "doc2comments"
    category = "format"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        node = source.docstring(program.entry_point)
        start, end = source.span(node)
        if "__doc__" in source.names or len(source.function(program.entry_point).body) < 2:
            raise Refused("the docstring is needed where it is")
        if not source.begins_line(start) or source.text[end : source.line_end(end - 1)].strip() or end > program.split:
            raise Refused("the docstring does not have its lines for itself")
        indent = source.text[source.line_start(start) : start]
        low, high = inner_span(source, node)
        lines = [line.strip() for line in source.text[low:high].strip().split("\n")]
        text = f"\n{indent}".join(f"# {line}".rstrip() for line in lines)
        return Proposal([Change(start, end, text)])


def inner_span(source: Source, node: ast.Expr) -> Span:
    """What stands between the quotes of a docstring."""
    start, end = source.span(node.value)
    opening = re.match(r"[rRuUbB]*('''|\"\"\"|'|\")", source.text[start:end])
    assert opening is not None
    return start + opening.end(), end - len(opening[1])


@dataclass(frozen=True)
class NewLines(CodeEdit):
    """Each line end between docstring and split gets a blank line, with probability 0.5."""

    name = "new_lines"
    category = "format"
    random = True

    def propose(self, program: Program, seed: int) -> Proposal:
        source, rng = parsed(program.text), self.rng(program, seed)
        begin = _after_docstring(source, program)
        places = [at for at in sorted(source.line_ends) if begin < at <= program.split]
        if not places:
            raise Refused("there is no line between docstring and split")
        return Proposal([Change(at, at, "\n") for at in places if rng.random() < 0.5])


@dataclass(frozen=True)
class NewLineAfterCode(CodeEdit):
    """A blank line at the end of the prompt."""

    name = "new_line_aftercode"
    category = "format"

    def propose(self, program: Program, seed: int) -> Proposal:
        if program.split not in parsed(program.text).line_ends:
            raise Refused("the prompt does not end with a line of code")
        return Proposal([Change(program.split, program.split, "\n")])


@dataclass(frozen=True)
class NewLineAfterDocstring(CodeEdit):
    """A blank line after the docstring."""

    name = "new_line_afterdoc"
    category = "format"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        at = _after_docstring(source, program)
        if at > program.split or at not in source.line_ends:
            raise Refused("the prompt does not go on after the docstring's line")
        return Proposal([Change(at, at, "\n")])


def _after_docstring(source: Source, program: Program) -> int:
    """The start of the line after the docstring."""
    return source.line_end(source.span(source.docstring(program.entry_point))[1] - 1)
