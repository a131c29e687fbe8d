"""Code without its refusals, the errors that tell a user what is wrong with what was given: they make no number.

The syntax tree of a module is cut down to what a run that came to its end can have met. `codehash` says what that is for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

REFUSALS = frozenset({"InputError", "MissingError", "SplitError"})
CATCHERS = REFUSALS | {"TutelageError", "ValueError", "Exception", "BaseException"}  # an InputError is a ValueError
ELSEWHERE = (ast.Return, ast.Continue, ast.Break, ast.Yield, ast.YieldFrom, ast.Await)


def told(node: object) -> str:
    """The syntax tree as text, the same on every Python version; docstrings and other string statements are left out."""
    if isinstance(node, list):
        return f"[{', '.join(told(one) for one in node if not is_text(one))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment")]
    return f"{type(node).__name__}({', '.join(f'{name}={told(value)}' for name, value in fields if value not in (None, []))})"


def is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def without_refusals(node: ast.stmt) -> ast.Module:
    """A statement without guards, handlers that only refuse, words of errors, and the imports that only these need.

    What is given is used up. What is left need not be a program: bodies may be empty.
    """
    before = _names(node)
    tree: ast.Module = _WithoutRefusals().visit(ast.Module([node], []))
    gone = before - _names(tree)
    for inner in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            held = getattr(inner, name, None)
            if isinstance(held, list):
                setattr(inner, name, [one for one in held if not _is_import_of(one, gone)])
    return tree


_DOTTED = re.compile(r"tutelage(\.\w+)+(:\w+)?")


def names_in(node: ast.AST) -> set[str]:
    """Every name, attribute, and text that could name something: "name" as in getattr(x, "name"), "tutelage.module:name"."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            found.add(inner.attr)
        elif isinstance(inner, ast.Constant) and isinstance(text := inner.value, str):
            found |= {text} if text.isidentifier() or _DOTTED.fullmatch(text) else set()
    return found


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _is_import_of(node: ast.AST, gone: set[str]) -> bool:
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return False
    node.names = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] not in gone]
    return not node.names


class _WithoutRefusals(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> Any:
        plain = not any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node.test))
        guard = plain and refuses(node.body)
        self.generic_visit(node)
        if guard:
            return node.orelse
        return None if plain and not node.body and not node.orelse else node

    def visit_Try(self, node: ast.Try) -> Any:
        node.handlers = [handler for handler in node.handlers if not refuses(handler.body)]
        self.generic_visit(node)
        return node if node.handlers or node.finalbody else [*node.body, *node.orelse]

    def visit_Raise(self, node: ast.Raise) -> Any:
        return ast.Raise(exc=ast.Name(_called(node.exc))) if _called(node.exc) in REFUSALS else node

    def visit_Expr(self, node: ast.Expr) -> Any:
        return None if isinstance(node.value, ast.Call) and _called(node.value).startswith("check_") else node


def refuses(body: Sequence[ast.stmt]) -> bool:
    """Whether statements end in the refusal of an input, or in the error that was caught, whatever happens."""
    if not body or any(isinstance(node, ELSEWHERE) for statement in body for node in ast.walk(statement)):
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return refuses(last.body) and refuses(last.orelse)
    return isinstance(last, ast.Raise) and (last.exc is None or _called(last.exc) in REFUSALS)


def _called(node: ast.AST | None) -> str:
    """`Name` of `Name`, `a.Name`, `Name(...)`, `a.Name(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def swallowed_names(node: ast.AST) -> list[str] | None:
    """What is named where refusals are caught and the code goes on; None if it never does."""
    tried: list[ast.AST] = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Try):
            tried += inner.body if _goes_on(inner.handlers) else []
        elif isinstance(inner, ast.With):
            tried += inner.body if any(_suppresses(item.context_expr) for item in inner.items) else []
    return sorted(set().union(*(names_in(one) for one in tried))) if tried else None


def _goes_on(handlers: Sequence[ast.ExceptHandler]) -> bool:
    open_kinds = set(CATCHERS)
    for handler in handlers:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        caught = {_called(kind) if kind else "BaseException" for kind in kinds} & open_kinds
        if caught and not refuses(handler.body):
            return True
        if caught & {"TutelageError", "Exception", "BaseException"}:
            return False  # none is left for the handlers below
        open_kinds -= {"InputError", "SplitError", "ValueError"} if caught & {"InputError", "ValueError"} else caught
    return False


def _suppresses(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _called(node) == "suppress" and any(_called(kind) in CATCHERS for kind in node.args)
