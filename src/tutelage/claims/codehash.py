"""The hash of the code that makes a result: the modules a claim reaches, without comments, docstrings and layout.

Reading a module's code takes some 10 ms, and claims reach hundreds; what was read is kept in the cache by the module's content.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import token
import tokenize
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tutelage.core.cache import default_cache_dir
from tutelage.core.errors import TutelageError
from tutelage.core.files import canonical_json, sha256_text, write_atomic

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
    "tutelage.data.fetch",
    "tutelage.data.guard",
    "tutelage.data.homes",
    "tutelage.data.readers",
    "tutelage.data.sets",
    "tutelage.models.checks",
    "tutelage.models.loading",
    "tutelage.teaching.checkpoint",
)
LARGEST = 2000  # modules in the file; beyond, those of older versions of the code are dropped


@cache
def code_sha256(module: str) -> str:
    """Hash over `module` and every tutelage module that it imports, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(reached(module)):
        digest.update(f"{name}\n".encode())
        digest.update(_read(name)[1].encode())
    _kept().save()
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
        for package, alias in _read(name)[0]:
            inner = f"{package}.{alias}"
            open_names.append(inner if alias and _path(inner) else package)
    return frozenset(found)


def imports(source: str) -> list[tuple[str, str]]:
    """What a module takes from tutelage: (a, b) of `from a import b`, (a, "") of `import a`."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tutelage"):
            names += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [(alias.name, "") for alias in node.names if alias.name.startswith("tutelage")]
    return names


Read = tuple[list[tuple[str, str]], str]  # a module's imports, its normalised source


@cache
def _read(module: str) -> Read:
    path = _path(module)
    source = path.read_text(encoding="utf-8") if path else ""
    return _kept().get(source)


@dataclass
class Kept:
    """What was read of modules, by the hash of their source: in memory, and in one file that may be missing or damaged."""

    path: Path
    reader: str  # hash of this very file: another version reads anew
    before: dict[str, Read] = field(default_factory=dict)  # as the file has it
    used: dict[str, Read] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Kept:
        found = cls(path, sha256_text(Path(__file__).read_text(encoding="utf-8")))
        try:
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            content = json.loads(text) if digest == sha256_text(text) else {}
        except (OSError, ValueError):
            content = {}
        if content.get("reader") == found.reader:
            found.before = {key: ([(a, b) for a, b in names], code) for key, (names, code) in content["modules"].items()}
        return found

    def get(self, source: str) -> Read:
        key = sha256_text(source)
        if key not in self.used:
            self.used[key] = self.before.get(key) or (imports(source), normalised(source))
        return self.used[key]

    def save(self) -> None:
        """Of what the file had, all that was used stays. A place that cannot be written costs time, no more."""
        if self.used.keys() <= self.before.keys():
            return
        self.before = {**self.before, **self.used} if len(self.before) < LARGEST else dict(self.used)
        text = canonical_json({"reader": self.reader, "modules": self.before})
        with suppress(OSError, TutelageError):
            write_atomic(self.path, f"{sha256_text(text)}\n{text}")


@cache
def _kept() -> Kept:
    return Kept.load(default_cache_dir() / "code.json")


@cache
def _path(module: str) -> Path | None:
    """Where the source of a module lies. Found by its name: to ask Python would import the packages above it."""
    first, *rest = module.split(".")
    package = find_spec(first)  # a top-level package is found without being imported
    if package is None or not package.origin:
        return None
    place = Path(package.origin).parent.joinpath(*rest)
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


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
