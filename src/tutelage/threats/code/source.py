"""A program as text, syntax tree and tokens, with one kind of position: offsets of characters.

Edits of code are changes of spans of its text, so what an edit does not mean to touch stays byte for byte: comments, quotes,
blank lines, the author's spaces.
"""

from __future__ import annotations

import ast
import io
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

Span = tuple[int, int]
INVISIBLE = frozenset({tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER})


class Refused(Exception):
    """Why an edit leaves a program as it is: it would change what the program does, or there is nothing to edit."""


@dataclass(frozen=True)
class Token:
    """A token of Python: its kind (of `token`), text, and span."""

    kind: int
    text: str
    start: int
    end: int


class Source:
    """A parsed program. Raises Refused for text that is no Python, or that has line ends other than newlines."""

    def __init__(self, text: str) -> None:
        if "\r" in text or "\f" in text:
            raise Refused("it has carriage returns or form feeds")
        self.text = text
        try:
            self.tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise Refused(f"it does not parse ({error})") from None
        self._starts = [0, *(i + 1 for i, letter in enumerate(text) if letter == "\n")]

    # ------------------------------------------------------------------------------------------------------- positions

    def offset(self, line: int, column: int) -> int:
        """The offset of a position of `ast`: line from 1, column in bytes of UTF-8."""
        start = self._starts[line - 1]
        if self.text.isascii():
            return start + column
        end = self._starts[line] if line < len(self._starts) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode(errors="ignore"))

    def span(self, node: ast.AST) -> Span:
        """Where a node lies; of a decorated definition, without its decorators."""
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def segment(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def line_of(self, offset: int) -> int:
        """The number, from 0, of the line that holds a character."""
        return bisect_right(self._starts, offset) - 1

    def line_span(self, line: int) -> Span:
        """A line, from 0, with its newline."""
        return self._starts[line], self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)

    def line_start(self, offset: int) -> int:
        return self._starts[self.line_of(offset)]

    def line_end(self, offset: int) -> int:
        """After the newline of the line that holds a character."""
        return self.line_span(self.line_of(offset))[1]

    def begins_line(self, offset: int) -> bool:
        """Whether only blanks stand before a character in its line."""
        return not self.text[self.line_start(offset) : offset].strip()

    def _at(self, row: int, column: int) -> int:
        """The offset of a position of `tokenize`; a token that stands for the end lies at the end."""
        return min(self._starts[row - 1] + column if row <= len(self._starts) else len(self.text), len(self.text))

    # ---------------------------------------------------------------------------------------------------------- tokens

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """All tokens, comments and line ends included; an f-string is one token in every version of Python."""
        found: list[Token] = []
        inside = 0
        try:
            for one in tokenize.generate_tokens(io.StringIO(self.text).readline):
                start, end = self._at(*one.start), self._at(*one.end)
                name = tokenize.tok_name[one.type]
                if name == "FSTRING_END":
                    inside -= 1
                    if not inside:
                        found[-1] = Token(tokenize.STRING, self.text[found[-1].start : end], found[-1].start, end)
                    continue
                if name == "FSTRING_START":
                    if not inside:
                        found.append(Token(tokenize.STRING, one.string, start, end))
                    inside += 1
                if not inside:
                    found.append(Token(one.type, one.string, start, end))
        except (tokenize.TokenError, IndentationError, SyntaxError) as error:
            raise Refused(f"it cannot be read token by token ({error})") from None
        return tuple(found)

    def tokens_in(self, start: int, end: int) -> list[Token]:
        """Tokens that lie in a span."""
        return [one for one in self.tokens if start <= one.start and one.end <= end and one.kind not in INVISIBLE]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every word of the program outside comments and strings, and every name inside its f-strings."""
        words = {one.text for one in self.tokens if one.kind == tokenize.NAME}
        return frozenset(words | {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)})

    @cached_property
    def unit(self) -> str:
        """One step of indentation: the first there is, or four spaces."""
        return next((one.text for one in self.tokens if one.kind == tokenize.INDENT), "    ")

    @cached_property
    def line_ends(self) -> frozenset[int]:
        """Offsets after those newlines behind which a blank line changes nothing: none inside strings or after a backslash."""
        return frozenset(one.end for one in self.tokens if one.kind in (tokenize.NEWLINE, tokenize.NL) and one.text)

    # ------------------------------------------------------------------------------------------------------------ tree

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around a node, from the inside out."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
        """The last function of that name on the top level; Refused if there is none."""
        for node in reversed(self.tree.body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return node
        raise Refused(f"there is no function {name}")

    def docstring(self, name: str) -> ast.Expr:
        """The docstring of a function of the top level, as a statement. Refused if it has none or more than one literal.

        Imports may stand before it, as in HumanEval/115: it tells people what to do all the same.
        """
        body = self.function(name).body
        first = next((node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)), body[0])
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)):
            raise Refused(f"{name} has no docstring")
        if len(self.tokens_in(*self.span(first))) != 1:
            raise Refused(f"the docstring of {name} is not one literal")
        return first


@lru_cache(maxsize=256)
def parsed(text: str) -> Source:
    """`Source(text)`, made once."""
    return Source(text)


def compiles(text: str) -> bool:
    """Whether Python takes a program."""
    try:
        compile(text, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True
