"""A module taken apart: functions, constants, classes and their methods, each with the names that it uses and its hashes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tutelage.claims.refusals import is_text, names_in, swallowed_names, told, without_refusals
from tutelage.core.files import sha256_text

Import = tuple[str, str]  # (a, b) of `from a import b`, (a, "") of `import a`
PLAIN = frozenset({"property", "cached_property", "classmethod", "staticmethod", "abstractmethod", "override", "overload"})
BARE = frozenset({"", "object", "Protocol", "Generic", "ABC"})  # bases that call no method by themselves


@dataclass(frozen=True)
class Part:
    """A function, a constant, a class without what is left to its methods, a method, or (no names) what an import runs."""

    names: Sequence[str]  # of a method: its own
    owner: str  # the class of a method
    is_class: bool
    whole_uses: Sequence[str]
    whole: str  # hash of the code
    uses: Sequence[str]
    lean: str  # without refusals
    swallowed: Sequence[str] | None  # names used where refusals are caught and the code goes on; None if nowhere

    def uses_of(self, whole: bool) -> Sequence[str]:
        return self.whole_uses if whole else self.uses


@dataclass(frozen=True)
class Module:
    parts: Sequence[Part]
    imports: Mapping[str, Sequence[Import]]  # of tutelage, by the name it has here
    foreign: Mapping[str, str]  # other imports

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Module:
        imports = {name: [(a, b) for a, b in taken] for name, taken in content["imports"].items()}
        return cls([Part(**part) for part in content["parts"]], imports, dict(content["foreign"]))

    @cached_property
    def at(self) -> dict[str, list[int]]:
        """Where a name of the module is made; methods are no names of the module."""
        found: dict[str, list[int]] = {}
        for i, part in enumerate(self.parts):
            for name in () if part.owner else part.names:
                found.setdefault(name, []).append(i)
        return found

    def methods(self, owner: str) -> list[int]:
        return [i for i, part in enumerate(self.parts) if part.owner == owner]


def read(source: str) -> Module:
    """Raises SyntaxError for what is no Python."""
    tree = ast.parse(source)
    imports: dict[str, list[Import]] = {}
    foreign: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                package, name = (node.module or "", alias.name) if isinstance(node, ast.ImportFrom) else (alias.name, "")
                here = alias.asname or alias.name.split(".")[0]
                if package.startswith("tutelage"):
                    imports.setdefault(here, []).append((package, name))
                else:
                    foreign[here] = f"{package}.{name}"
    return Module([*_parts(tree)], imports, foreign)


def _parts(tree: ast.Module) -> Iterator[Part]:
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) or is_text(node):
            continue
        if isinstance(node, ast.ClassDef):
            methods = [one for one in node.body if _waits(one, node)]
            node.body = [one for one in node.body if one not in methods]
            yield _part([node.name], node, is_class=True)
            yield from (_part([method.name], method, owner=node.name) for method in methods)  # type: ignore[attr-defined]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _part([node.name], node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
            plain = all(isinstance(target, ast.Name | ast.Tuple) for target in targets)
            yield _part(names if plain else [], node)
        else:
            yield _part([], node)


def _waits(node: ast.stmt, owner: ast.ClassDef) -> bool:
    """Whether it is a method that only runs where its name is written.

    Not those that Python calls, that a decorator may hand on, or that a base class from elsewhere may call.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("__"):
        return False
    if any(_last(base) not in BARE for base in owner.bases) or owner.keywords:
        return False
    return all(_last(one) in PLAIN for one in node.decorator_list)


def _last(node: ast.AST) -> str:
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "?"


def _part(names: list[str], node: ast.stmt, *, owner: str = "", is_class: bool = False) -> Part:
    uses, whole, swallowed = sorted(names_in(node)), sha256_text(told(node)), swallowed_names(node)
    lean = without_refusals(node)  # uses the node up
    return Part(names, owner, is_class, uses, whole, sorted(names_in(lean)), sha256_text(told(lean)), swallowed)
