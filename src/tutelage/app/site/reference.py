"""The reference of the Python interface, read from the sources: signatures and docstrings of every public name.

Nothing is imported, so that no extra is needed and it takes a second. Public is what has no underscore before it, in modules
that have none; where a module has `__all__`, what that lists.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from markupsafe import Markup, escape

import tutelage
from tutelage.app.site.markdown import code_html

ROOMS = ("auditing", "catalogue", "claims", "core", "data", "guarantees", "methods", "models", "teaching", "threats")
LONGEST_VALUE = 100  # characters of a constant's value


@dataclass(frozen=True)
class Name:
    """A public function, class, method, property or constant. `signature` begins with its name."""

    name: str
    kind: str
    signature: str
    docstring: str
    members: tuple[Name, ...] = ()

    @property
    def lead(self) -> str:
        return first_sentence(self.docstring)

    @property
    def anchor(self) -> str:
        """The id on its page; ids that every page has are left alone."""
        return f"{self.name}-name" if self.name in ("main", "q", "theme") else self.name


@dataclass(frozen=True)
class Module:
    """A public module. `exports`: (name, module that defines it) of what its `__all__` takes from elsewhere."""

    name: str
    docstring: str
    names: tuple[Name, ...]
    exports: tuple[tuple[str, str], ...]

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    @property
    def lead(self) -> str:
        return first_sentence(self.docstring)

    @property
    def url(self) -> str:
        return f"api/{self.name}.html"


def reference(package: Path | None = None) -> tuple[Module, ...]:
    """Every public module of the rooms that has something public, by name; the package itself first.

    package: the folder of the package; default: this one.
    """
    root = package or Path(tutelage.__file__).parent
    found = [_module(root / "__init__.py", root)]
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if not any(part.startswith("_") and part != "__init__" for part in parts):
                found.append(_module(path, root))
    found = [_homes(module, found) for module in found]
    return tuple(sorted((m for m in found if m.names or m.exports or m.docstring), key=lambda m: m.name))


def first_sentence(text: str) -> str:
    """Of a docstring, in one line."""
    words = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", words, maxsplit=1)[0]


def _module(path: Path, root: Path) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    listed = _all(tree)
    public = (one for one in _names(tree.body) if (one.name in listed if listed is not None else one.name[0] != "_"))
    names = tuple({one.name: one for one in public}.values())  # of overloads the last, which is the function itself
    taken = _taken(tree, name, is_package=path.name == "__init__.py")
    exports = tuple((one, taken[one]) for one in listed or () if one in taken)
    return Module(name, ast.get_docstring(tree) or "", names, exports)


def _homes(module: Module, found: Sequence[Module]) -> Module:
    """With the modules that really define what is passed on through packages."""
    through = {one.name: dict(one.exports) for one in found}

    def home(name: str, place: str) -> str:
        for _ in range(9):
            if name not in through.get(place, {}):
                break
            place = through[place][name]
        return place

    return Module(module.name, module.docstring, module.names, tuple((n, home(n, place)) for n, place in module.exports))


def _all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List | ast.Tuple) else None
    return None


def _taken(tree: ast.Module, name: str, *, is_package: bool) -> dict[str, str]:
    """name -> module it is taken from, for `from a import b`; also of imports for type checkers only, as in lazy packages."""
    nodes: list[ast.stmt] = list(tree.body)
    for node in tree.body:
        if isinstance(node, ast.If):
            nodes += node.body
    found = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            place = ".".join([*base, *([node.module] if node.module else [])])
            if place.split(".")[0] == name.split(".")[0]:
                found.update({alias.asname or alias.name: place for alias in node.names})
    return found


def _names(body: Sequence[ast.stmt]) -> Iterator[Name]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _function(node)
        elif isinstance(node, ast.ClassDef):
            yield _class(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets: list[ast.expr] = list(node.targets) if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*|[A-Z]\w*", target.id) and node.value:
                    value = ast.unparse(node.value)
                    value = value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 1]}…"
                    yield Name(target.id, "constant", f"{target.id} = {value}", "")


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool = False) -> Name:
    decorators = {ast.unparse(one).split(".")[-1] for one in node.decorator_list}
    text = ast.get_docstring(node) or ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if method and decorators & {"property", "cached_property"}:
        return Name(node.name, "property", f"{node.name}{returns}", text)
    bound = method and "staticmethod" not in decorators
    return Name(node.name, "method" if method else "function", f"{node.name}({_arguments(node.args, bound)}){returns}", text)


def _arguments(given: ast.arguments, bound: bool) -> str:
    """The arguments as they stand in the source, without the first of a method."""
    shown = ast.arguments(
        given.posonlyargs, list(given.args), given.vararg, given.kwonlyargs, given.kw_defaults, given.kwarg, given.defaults
    )
    if bound and shown.args and not shown.posonlyargs:
        shown.args = shown.args[1:]
    return ast.unparse(shown)


def _class(node: ast.ClassDef) -> Name:
    own = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
    start = next((item for item in own if item.name == "__init__"), None)
    if start is not None:
        inside = _arguments(start.args, True)
    else:  # the fields of a dataclass or of a model
        fields = [
            ast.unparse(item).split(" = field(")[0]
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id[0] != "_"
            if "ClassVar" not in ast.unparse(item.annotation)
        ]
        inside = ", ".join(fields)
    members: dict[str, Name] = {}
    for item in own:
        if (not item.name.startswith("_") or item.name == "__call__") and ast.get_docstring(item):
            members.setdefault(item.name, _function(item, method=True))  # of a property and its setter the first
    bases = ", ".join(base for base in map(ast.unparse, node.bases) if base not in ("ABC", "Protocol", "BaseModel"))
    head = f"class {node.name}({inside})" if inside else f"class {node.name}"
    return Name(
        node.name, "class", head + (f"  # a {bases}" if bases else ""), ast.get_docstring(node) or "", tuple(members.values())
    )


# ----------------------------------------------------------------------------------------------------------- docstrings


def docstring_html(text: str) -> Markup:
    """A docstring as HTML: paragraphs, lists of arguments, equations and blocks as they stand, examples as code."""
    parts: list[str] = []
    example = False
    for block in _blocks(text):
        if block.startswith("    "):
            code = dedent(block)
            parts.append(str(code_html(code, "python")) if example else f'<pre tabindex="0">{escape(code)}</pre>')
            continue
        example = block.rstrip().endswith("::")
        words = re.sub(r"::\s*$", ":", block)
        for line in _joined(words):
            parts.append(f"<p>{_inline(line)}</p>")
    return Markup("\n".join(parts))


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs; indented lines that follow each other, blank lines between them included, are one block."""
    block: list[str] = []
    for line in [*text.expandtabs().splitlines(), ""]:
        inside = line.startswith("    ")
        starts = bool(block) and block[0].startswith("    ")
        if block and ((not line.strip() and not starts) or (line.strip() and starts and not inside)):
            yield "\n".join(block).rstrip()
            block = []
        if line.strip() or block:
            block.append(line)
    if any(line.strip() for line in block):
        yield "\n".join(block).rstrip()


def _joined(paragraph: str) -> Iterator[str]:
    """Wrapped lines together; a line that begins a description (`model: ...`) or a point of a list begins a new one."""
    begun: list[str] = []
    for line in paragraph.splitlines():
        if begun and re.match(r"(?:[a-z_][\w, *]*|Raises\b.*?): |Raises |[-*] ", line):
            yield " ".join(begun)
            begun = []
        begun.append(line.strip())
    if begun:
        yield " ".join(begun)


def _inline(words: str) -> Markup:
    pieces = re.split(r"``(.+?)``|`(.+?)`", words)
    made = []
    for i in range(0, len(pieces), 3):
        made.append(escape(pieces[i]))
        code = next((one for one in pieces[i + 1 : i + 3] if one), None)
        if code:
            made.append(Markup("<code>{}</code>").format(code))
    return Markup("").join(made)
