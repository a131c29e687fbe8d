"""Which name means which variable: scopes, bindings and every place where a name stands, by the rules of Python.

Classes are skipped by what lies inside their functions; the first iterable of a comprehension belongs outside of it; `:=`
binds in the function around a comprehension; defaults, annotations and decorators belong outside of their function.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from tutelage.threats.code.source import Refused, Source, Span, parsed
from tutelage.threats.text.edit import Change

Role = Literal["load", "store", "delete", "parameter", "function", "class", "import", "declared"]
BUILTINS = frozenset(dir(builtins))
REFLECTIVE = frozenset({"locals", "globals", "vars", "dir", "eval", "exec", "__import__"})  # they see names as text
Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(eq=False)
class Scope:
    """A module, function (also a lambda), class or comprehension, and the names it binds."""

    kind: Literal["module", "function", "class", "comprehension"]
    node: ast.AST
    parent: Scope | None = None
    bound: set[str] = field(default_factory=set)
    declared_global: set[str] = field(default_factory=set)
    declared_nonlocal: set[str] = field(default_factory=set)

    @property
    def module(self) -> Scope:
        return self if self.parent is None else self.parent.module

    def resolve(self, name: str) -> Scope | None:
        """The scope whose variable `name` means here; None for built-ins and names that nobody binds."""
        if name in self.declared_global:
            return self.module if name in self.module.bound else None
        scope: Scope | None = self.parent if name in self.declared_nonlocal else self
        while scope is not None:
            if name in scope.bound and (scope is self or scope.kind != "class"):
                return scope
            scope = scope.parent
        return None


@dataclass(frozen=True)
class Occurrence:
    """One place where a name stands: its span, what it does there, the scope it stands in, and the scope it belongs to."""

    name: str
    span: Span
    role: Role
    scope: Scope
    home: Scope | None
    node: ast.AST


@lru_cache(maxsize=64)
def occurrences(source: Source) -> tuple[Occurrence, ...]:
    """Every name of a program, in the order of the text. Raises Refused where a position cannot be told."""
    walk = _Walk(source)
    found = [Occurrence(name, span, role, scope, scope.resolve(name), node) for name, span, role, scope, node in walk.found]
    return tuple(sorted(found, key=lambda one: one.span))


def rename(source: Source, home: Scope, old: str, new: str) -> list[Change]:
    """Changes that give the variable `old` of scope `home` the name `new`, wherever it stands, and nothing else.

    Raises Refused if `new` is no free name, if the program looks at names as text, or if a place cannot be told.
    """
    check_free(source, new)
    if seen := REFLECTIVE & source.names:
        raise Refused(f"it uses {min(seen)}, which sees names as text")
    if old.startswith("__") or home.kind == "class":
        raise Refused(f"{old} is known by its name outside of its scope")
    return [Change(*one.span, new) for one in occurrences(source) if one.name == old and one.home is home]


def is_name(text: str) -> bool:
    """Whether a variable or function may be called so without hiding anything of Python's own."""
    return text.isidentifier() and not keyword.iskeyword(text) and not keyword.issoftkeyword(text) and text not in BUILTINS


def check_free(source: Source, name: str) -> None:
    """Refused unless `name` is a name that the program does not use for anything."""
    if not is_name(name):
        raise Refused(f"{name!r} cannot be a name")
    if name in source.names:
        raise Refused(f"{name} is used already")


def fresh(source: Source, stem: str) -> str:
    """`stem`, or `stem` with the first number behind it that makes it a free name."""
    if is_name(stem) and stem not in source.names:
        return stem
    return next(name for i in range(len(source.names) + 1) if (name := f"{stem}_{i}") not in source.names)


def keywords_used(*texts: str) -> frozenset[str]:
    """Names of arguments that calls in these programs give by name."""
    trees = (parsed(text).tree for text in texts)
    return frozenset(node.arg for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg)


class _Walk:
    """Scopes and raw occurrences of a program."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[tuple[str, Span, Role, Scope, ast.AST]] = []
        self.visit_all(source.tree.body, Scope("module", source.tree))

    def visit_all(self, nodes: Iterable[ast.AST | None], scope: Scope) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node, scope)

    def visit(self, node: ast.AST, scope: Scope) -> None:
        if getattr(node, "type_params", None):
            raise Refused("it has type parameters")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.bind(node.name, self.word(node, node.name, after="def"), "function", scope, node)
            self.visit_all([*node.decorator_list, *_outer(node.args), node.returns], scope)
            self.function(node.args, node.body, Scope("function", node, scope))
        elif isinstance(node, ast.Lambda):
            self.visit_all(_outer(node.args), scope)
            self.function(node.args, [node.body], Scope("function", node, scope))
        elif isinstance(node, ast.ClassDef):
            self.bind(node.name, self.word(node, node.name, after="class"), "class", scope, node)
            self.visit_all([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)], scope)
            self.visit_all(node.body, Scope("class", node, scope))
        elif isinstance(node, Comprehension):
            inner = Scope("comprehension", node, scope)
            self.visit(node.generators[0].iter, scope)
            for i, one in enumerate(node.generators):
                self.visit_all([one.target, *([one.iter] if i else []), *one.ifs], inner)
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            self.visit_all(parts, inner)
        elif isinstance(node, ast.NamedExpr):
            outer = scope
            while outer.kind == "comprehension" and outer.parent is not None:
                outer = outer.parent
            self.bind(node.target.id, self.here(node.target, node.target.id), "store", outer, node.target)
            self.visit(node.value, scope)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                self.note(node.id, self.here(node, node.id), "load", scope, node)
            else:
                role: Role = "store" if isinstance(node.ctx, ast.Store) else "delete"
                self.bind(node.id, self.here(node, node.id), role, scope, node)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            kept = scope.declared_global if isinstance(node, ast.Global) else scope.declared_nonlocal
            kept.update(node.names)
            for name in node.names:
                self.note(name, self.word(node, name), "declared", scope, node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                if bound != "*":
                    last = alias.asname is not None
                    self.bind(bound, self.word(alias, bound, last=last), "import", scope, alias)
        elif isinstance(node, ast.ExceptHandler):
            self.visit_all([node.type], scope)
            if node.name:
                self.bind(node.name, self.word(node, node.name, after="as"), "store", scope, node)
            self.visit_all(node.body, scope)
        elif isinstance(node, ast.MatchAs | ast.MatchStar | ast.MatchMapping):
            taken = node.rest if isinstance(node, ast.MatchMapping) else node.name
            if taken:
                self.bind(taken, self.word(node, taken, last=True), "store", scope, node)
            self.visit_all(ast.iter_child_nodes(node), scope)
        else:
            self.visit_all(ast.iter_child_nodes(node), scope)

    def function(self, arguments: ast.arguments, body: Iterable[ast.AST], scope: Scope) -> None:
        for one in _parameters(arguments):
            self.bind(one.arg, self.here(one, one.arg), "parameter", scope, one)
        self.visit_all(body, scope)

    def bind(self, name: str, span: Span, role: Role, scope: Scope, node: ast.AST) -> None:
        if name not in scope.declared_global | scope.declared_nonlocal:
            scope.bound.add(name)
        elif name in scope.declared_global:
            scope.module.bound.add(name)
        self.note(name, span, role, scope, node)

    def note(self, name: str, span: Span, role: Role, scope: Scope, node: ast.AST) -> None:
        self.found.append((name, span, role, scope, node))

    def here(self, node: ast.AST, name: str) -> Span:
        """The span of a name at the start of its node; inside f-strings older Pythons do not always know it."""
        start = self.source.span(node)[0]
        if self.source.text[start : start + len(name)] != name:
            raise Refused(f"the place of {name} in an f-string cannot be told")
        return start, start + len(name)

    def word(self, node: ast.AST, name: str, *, after: str = "", last: bool = False) -> Span:
        """The span of a name inside a node that says only that it is there: the first (last) one, or the one after a word."""
        tokens = self.source.tokens_in(*self.source.span(node))
        places = [
            (one.start, one.end)
            for i, one in enumerate(tokens)
            if one.kind == tokenize.NAME and one.text == name and (not after or (i and tokens[i - 1].text == after))
        ]
        if not places:
            raise Refused(f"the place of {name} cannot be told")
        return places[-1 if last else 0]


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (one for one in (arguments.vararg, arguments.kwarg) if one is not None)


def _outer(arguments: ast.arguments) -> list[ast.AST | None]:
    """Defaults and annotations, which belong to the scope around the function."""
    return [*arguments.defaults, *arguments.kw_defaults, *(one.annotation for one in _parameters(arguments))]
