"""The hash of the code that makes a result: the modules a claim reaches, without comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
import io
import token
import tokenize
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# They check, read, judge and report, but make no number of a cell. What they read is hashed by content (`data` of a
# result), and verdicts are computed from rows.
NEUTRAL = (
    "tutelage.catalogue",
    "tutelage.claims.claim",
    "tutelage.claims.codehash",
    "tutelage.core.cache",
    "tutelage.core.environment",
    "tutelage.core.errors",
    "tutelage.core.files",
    "tutelage.core.progress",
    "tutelage.core.runs",
    "tutelage.core.stats",
    "tutelage.data.checks",
    "tutelage.data.guard",
    "tutelage.data.readers",
    "tutelage.data.sets",
    "tutelage.models.checks",
    "tutelage.models.loading",
    "tutelage.teaching.checkpoint",
)


@cache
def code_sha256(module: str) -> str:
    """Hash over `module` and every tutelage module that it imports, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(reached(module)):
        digest.update(f"{name}\n".encode())
        digest.update(normalised(_source(name)).encode())
    return digest.hexdigest()


@cache
def reached(module: str) -> frozenset[str]:
    """Names of the tutelage modules that `module` stands on, itself included."""
    found: set[str] = set()
    open_names = [module]
    while open_names:
        name = open_names.pop()
        if name in found or name.startswith(NEUTRAL):
            continue
        found.add(name)
        open_names += _imports(name)
    return frozenset(found)


def _imports(module: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tutelage"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.append(inner if _path(inner) else str(node.module))
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("tutelage")]
    return names


@cache
def _path(module: str) -> Path | None:
    """Where the source of a module lies. Found by its name: to ask Python would import the packages above it."""
    first, *rest = module.split(".")
    package = find_spec(first)  # a top-level package is found without being imported
    if package is None or not package.origin:
        return None
    place = Path(package.origin).parent.joinpath(*rest)
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


@cache
def _source(module: str) -> str:
    path = _path(module)
    return path.read_text(encoding="utf-8") if path else ""


def normalised(source: str) -> str:
    """The tokens that matter, one a line; the same on every Python version, whatever the formatter did.

    Comments, blank lines, line breaks and string statements (docstrings) are left out. Newer tokenizers split f-strings;
    their source text is taken whole.
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(position: tuple[int, int]) -> int:
        return starts[position[0] - 1] + position[1]

    kept: list[str] = []
    statement: list[tuple[int, str]] = []
    fstring_depth, fstring_start = 0, 0
    begin, end = getattr(token, "FSTRING_START", -1), getattr(token, "FSTRING_END", -1)
    for item in tokenize.generate_tokens(io.StringIO(source).readline):
        if item.type == begin:
            fstring_start = offset(item.start) if fstring_depth == 0 else fstring_start
            fstring_depth += 1
        elif item.type == end:
            fstring_depth -= 1
            if fstring_depth == 0:
                statement.append((token.STRING, source[fstring_start : offset(item.end)]))
        elif fstring_depth or item.type in (tokenize.COMMENT, tokenize.NL):
            continue
        elif item.type in (token.NEWLINE, token.ENDMARKER):
            if any(kind != token.STRING for kind, _ in statement):
                kept += [text for _, text in statement]
                kept.append(";")
            statement = []
        elif item.type in (token.INDENT, token.DEDENT):
            kept.append("{" if item.type == token.INDENT else "}")
        else:
            statement.append((item.type, item.string))
    return "\n".join(kept)
