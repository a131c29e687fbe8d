"""Edits of the docstring: a text edit of its words, with everything that names code left alone."""

from __future__ import annotations

import ast
import keyword
import re

from tutelage.threats.code.edit import Program, Proposal, TextOfCode
from tutelage.threats.code.layout import inner_span
from tutelage.threats.code.source import Refused, Source, Span, parsed
from tutelage.threats.text.edit import Change

TYPES = frozenset({
    "int", "float", "str", "bool", "list", "dict", "set", "tuple", "bytes", "complex", "object", "None", "True", "False",
    "List", "Dict", "Set", "Tuple", "Optional", "Union", "Any", "Callable", "Iterable", "Iterator", "Sequence", "integer",
    "string", "boolean", "array",
})  # fmt: skip


class EditDocstring(TextOfCode):
    """A text edit of the docstring up to its first `>>>`, or to its end.

    Words that are identifiers of prompt or solution, function names and names of types stay byte for byte, as do backslashes
    with what they escape, quotes and braces. A translation may move those marks, and words of one letter.
    """

    category = "docstring"

    def propose(self, program: Program, seed: int) -> Proposal:
        source = parsed(program.text)
        node = source.docstring(program.entry_point)
        start, end = text_span(source, node)
        text = source.text[start:end]
        if not text.strip():
            raise Refused("the docstring has no text")
        words = sorted(protected_words(source))
        protect: list[str | Span] = [*words, *_marks(text)]
        if self.edit.family == "translation":  # it may move everything: one letter is more often an article than a variable
            protect = [word for word in words if len(word) > 1]
        edited = self.edit(text, seed=seed, item=program.item or program.text, protect=protect)
        if edited.refused:
            raise Refused(edited.refused)
        after = program.text[:start] + edited.text + program.text[end:]
        if _without_docstring(parsed(after), program.entry_point) != _without_docstring(source, program.entry_point):
            raise Refused("the edit breaks out of the docstring")
        return Proposal([Change(start + one.start, start + one.end, one.text) for one in edited.changes])


def text_span(source: Source, node: ast.Expr) -> Span:
    """The words of a docstring: between its quotes, and before the first example."""
    start, end = inner_span(source, node)
    example = source.text.find(">>>", start, end)
    return start, end if example < 0 else example


def protected_words(source: Source) -> frozenset[str]:
    """Words that mean something to the code: its identifiers and the names of types."""
    return frozenset(name for name in source.names if not keyword.iskeyword(name)) | TYPES


def _marks(text: str) -> list[Span]:
    """Escapes, quotes and braces."""
    return [match.span() for match in re.finditer(r"\\.|[\"'{}\\]", text, flags=re.DOTALL)]


def _without_docstring(source: Source, entry_point: str) -> str:
    """The syntax of a program but for what the docstring says."""
    value = source.docstring(entry_point).value
    spelled = ast.dump(source.tree)
    return spelled.replace(ast.dump(value), "", 1)
