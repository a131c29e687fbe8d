"""The hash of the code that makes a result: the parts of modules that a claim reaches, and of these what makes numbers.

Reached is, beginning with all of the claim's own module, every function, class and constant that reached code names. A method
counts if its name occurs anywhere in reached code, whatever the object. What no name leads to is not seen: a module that is
imported by a string that is put together.

Left out are comments, docstrings and layout, and refusals: `if bad: raise InputError(...)`, `except KeyError: raise
InputError(...)`, `check_...(x)` as a statement, and the words of such an error. A cell that came to its end met none of them,
so that a clearer error, or a guard that was missing, does not make a recorded result stale. One exception: where code catches
such errors and goes on, refusals are part of what happens; there, and in what is called there, they count.

To read a module takes some 10 ms, and claims reach hundreds; what was read is kept in the cache by the module's content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tutelage.claims import parts, refusals
from tutelage.claims.parts import Module, read
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

READER = (__file__, parts.__file__, refusals.__file__)

Place = tuple[str, int]  # a module, and which of its parts


@cache
def code_sha256(module: str) -> str:
    """Hash over what `module` reaches in tutelage, and the names under which that has what comes from elsewhere."""
    found, caught = _reach(module), _Reach(whole=True)
    caught.may_call(found)
    for name, i in sorted(found.places):
        swallowed = _read(name).parts[i].swallowed
        if swallowed is not None:
            caught.names(name, swallowed)
            caught.places.add((name, i))
    lines = []
    for name, i in sorted(found.places | caught.places):
        code, part = _read(name), _read(name).parts[i]
        whole = (name, i) in caught.places
        lines += [f"{name}.{one} is {code.foreign[one]}" for one in part.uses_of(whole) if one in code.foreign]
        lines.append(f"{name}.{part.owner}.{'.'.join(part.names)} {part.whole if whole else part.lean}")
    _kept().save()
    return hashlib.sha256("\n".join(sorted(set(lines))).encode()).hexdigest()


@cache
def reached(module: str) -> frozenset[str]:
    """Names of the tutelage modules of which `module` reaches something, itself included."""
    return frozenset(name for name, _ in _reach(module).places)


@cache
def _reach(module: str) -> _Reach:
    found = _Reach(whole=False)
    found.module(module)
    return found


class _Reach:
    """What is reached, and what will be as soon as its name occurs: methods, and parts of modules that are used as objects."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole  # also through refusals
        self.places: set[Place] = set()
        self._touched: set[str] = set()
        self._said: set[str] = set()
        self._waiting: dict[str, set[Place]] = {}
        self._open: list[Place] = []

    def module(self, name: str) -> None:
        """All of a module."""
        self._touch(name)
        self._add((name, i) for i in range(len(_read(name).parts)))
        self._follow()

    def may_call(self, other: _Reach) -> None:
        """Methods of the classes that another reaches are reached by their names."""
        for module, i in other.places:
            part = _read(module).parts[i]
            if part.is_class:
                self._await((module, j) for j in _read(module).methods(part.names[0]))

    def names(self, module: str, names: Iterable[str]) -> None:
        """What these names mean in a module."""
        for name in names:
            self._name(module, name)
        self._follow()

    def _follow(self) -> None:
        while self._open:
            module, i = self._open.pop()
            part = _read(module).parts[i]
            for name in part.uses_of(self.whole):
                self._name(module, name)
            if part.is_class:
                self._await((module, j) for j in _read(module).methods(part.names[0]))

    def _name(self, module: str, name: str) -> None:
        if name.startswith("tutelage."):
            package, _, inner = name.partition(":")
            self._import(package, inner)
            return
        code = _read(module)
        self._add((module, i) for i in code.at.get(name, ()))
        for source in code.imports.get(name, ()):
            self._import(*source)
        if name not in self._said:
            self._said.add(name)
            self._add(self._waiting.pop(name, ()))

    def _import(self, package: str, name: str) -> None:
        inner = f"{package}.{name}" if name else package
        if package.startswith(NEUTRAL) or inner.startswith(NEUTRAL):
            return
        if _path(inner):
            self._touch(inner)
            self._await((inner, i) for i, part in enumerate(_read(inner).parts) if not part.owner)
            return
        self._touch(package)
        code = _read(package)
        if name in code.at:
            self._add((package, i) for i in code.at[name])
        elif name in code.imports:
            for source in code.imports[name]:
                self._import(*source)
        else:
            self.module(package)  # made in a way that is not understood

    def _touch(self, module: str) -> None:
        """What runs when the module is imported."""
        if module not in self._touched:
            self._touched.add(module)
            self._add((module, i) for i, part in enumerate(_read(module).parts) if not part.names)

    def _await(self, places: Iterable[Place]) -> None:
        for module, i in places:
            for name in _read(module).parts[i].names:
                if name in self._said:
                    self._add([(module, i)])
                else:
                    self._waiting.setdefault(name, set()).add((module, i))

    def _add(self, places: Iterable[Place]) -> None:
        new = [place for place in places if place not in self.places]
        self.places.update(new)
        self._open += new


@cache
def _read(module: str) -> Module:
    path = _path(module)
    return _kept().get(path.read_text(encoding="utf-8") if path else "")


@dataclass
class Kept:
    """What was read of modules, by the hash of their source: in memory, and in one file that may be missing or damaged."""

    path: Path
    reader: str  # hash of the code that reads: another version reads anew
    before: dict[str, Module] = field(default_factory=dict)  # as the file has it
    used: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Kept:
        found = cls(path, sha256_text("".join(Path(file).read_text(encoding="utf-8") for file in READER)))
        try:
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            content = json.loads(text) if digest == sha256_text(text) else {}
        except (OSError, ValueError):
            content = {}
        if content.get("reader") == found.reader:
            found.before = {key: Module.from_plain(one) for key, one in content["modules"].items()}
        return found

    def get(self, source: str) -> Module:
        key = sha256_text(source)
        if key not in self.used:
            self.used[key] = self.before.get(key) or read(source)
        return self.used[key]

    def save(self) -> None:
        """Of what the file had, all that was used stays. A place that cannot be written costs time, no more."""
        if self.used.keys() <= self.before.keys():
            return
        self.before = {**self.before, **self.used} if len(self.before) < LARGEST else dict(self.used)
        text = canonical_json({"reader": self.reader, "modules": {key: asdict(one) for key, one in self.before.items()}})
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
