"""Plug-ins: methods, threats and models of other packages, found by entry points.

A package names what it brings in its own `pyproject.toml`:

    [project.entry-points."tutelage.methods"]     # a module that says what it is for: ROOM, HAVE, WANT, a docstring
    smooth-labels = "my_package.smooth_labels"
    [project.entry-points."tutelage.threats"]     # make(budget) -> Attack, or change(x, *, generator) -> x'
    raster = "my_package.threats:raster"
    [project.entry-points."tutelage.models"]      # make() -> nn.Module, images in [0, 1] -> logits
    tiny = "my_package.models:tiny"

Nothing of a package is imported before it is used or asked about. One that cannot be used costs a sentence, never the program.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args

from tutelage.core.errors import TutelageError

Kind = Literal["methods", "threats", "models"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
_ROOM_WORDS = ("HAVE", "WANT", "ROOM")


class PluginError(TutelageError):
    """A plug-in cannot be used; the message names it, its package and the reason."""


@dataclass(frozen=True)
class Plugin:
    """One entry point. `package` and `version` are those of the distribution that brings it."""

    kind: Kind
    name: str
    value: str
    package: str
    version: str
    _entry: EntryPoint = field(repr=False, compare=False)

    @property
    def origin(self) -> str:
        return f"{self.package} {self.version}".strip()

    def load(self) -> Any:
        """What the entry point names. Raises PluginError whatever the package's code does when it is imported."""
        if not _NAME.fullmatch(self.name):
            raise self.error("its name must be small letters and digits, joined by - _ or .")
        try:
            with _quiet():
                return self._entry.load()
        except (Exception, SystemExit) as error:
            raise self.error(f"{type(error).__name__}: {error}") from error

    def error(self, reason: str) -> PluginError:
        words = " ".join(reason.split())
        return PluginError(
            f"the plug-in {self.name!r} ({self.kind}) of {self.origin} cannot be used: {words[:300]} "
            f"(`pip uninstall {self.package}` takes it away)"
        )


@dataclass(frozen=True)
class MethodInfo:
    """What the module of a method says of itself: ROOM, HAVE, WANT; TITLE, AUTHORS, YEAR, URL if it likes; its docstring."""

    plugin: Plugin
    room: str
    have: str
    want: str
    title: str
    authors: tuple[str, ...]
    year: int
    url: str
    docstring: str

    @property
    def name(self) -> str:
        return self.plugin.name


def plugins(kind: Kind | None = None) -> tuple[Plugin, ...]:
    """The plug-ins of one kind, or all, by kind and name. Of several with one name the first package's counts.

    Nothing is imported; whether one can be used, `load` shows.
    """
    found: dict[tuple[Kind, str], Plugin] = {}
    for one in KINDS if kind is None else (kind,):
        here = []
        for entry in entry_points(group=f"tutelage.{one}"):
            package = entry.dist.name if entry.dist else "an unknown package"
            here.append(Plugin(one, entry.name, entry.value, package, entry.dist.version if entry.dist else "", entry))
        for plugin in sorted(here, key=lambda p: (p.name, p.package, p.value)):
            found.setdefault((one, plugin.name), plugin)
    return tuple(found.values())


def find_plugin(kind: Kind, name: str) -> Plugin | None:
    return next((plugin for plugin in plugins(kind) if plugin.name == name), None)


def method_info(plugin: Plugin) -> MethodInfo:
    """What the module of a plug-in of kind "methods" says. Raises PluginError."""
    from tutelage.catalogue import ROOMS

    module = plugin.load()
    said = {key: getattr(module, key, None) for key in _ROOM_WORDS}
    if wrong := [key for key, value in said.items() if not isinstance(value, str) or not value.strip()]:
        raise plugin.error(f"{plugin.value} has no text {wrong[0]}")
    if said["ROOM"] not in ROOMS:
        raise plugin.error(f"ROOM is {said['ROOM']!r}, wanted one of {', '.join(ROOMS)}")
    more: dict[str, Any] = {
        key: getattr(module, key, default) for key, default in (("TITLE", ""), ("AUTHORS", ()), ("YEAR", 0), ("URL", ""))
    }
    authors = more["AUTHORS"]
    names = isinstance(authors, tuple | list) and all(isinstance(one, str) for one in authors)
    if not (names and isinstance(more["TITLE"], str) and isinstance(more["URL"], str) and isinstance(more["YEAR"], int)):
        raise plugin.error("TITLE and URL must be text, YEAR a whole number, AUTHORS a tuple of names")
    if more["URL"] and not more["URL"].startswith(("https://", "http://")):
        raise plugin.error(f"URL is {more['URL']!r}, wanted https://...")
    return MethodInfo(
        plugin, str(said["ROOM"]), str(said["HAVE"]), str(said["WANT"]), more["TITLE"], tuple(authors), more["YEAR"],
        more["URL"], (getattr(module, "__doc__", None) or "").strip(),
    )  # fmt: skip


def summary(plugin: Plugin) -> str:
    """The first sentence of what a threat or model says of itself. Raises PluginError."""
    words = " ".join((getattr(plugin.load(), "__doc__", None) or "").split())
    return re.split(r"(?<=\.)\s", words, maxsplit=1)[0]


def usable(kind: Kind, look: Callable[[Plugin], Any] = Plugin.load) -> list[tuple[Plugin, Any]]:
    """(plug-in, look(plug-in)) of each that can be used; each other one is a warning of one sentence."""
    found = []
    for plugin in plugins(kind):
        try:
            found.append((plugin, look(plugin)))
        except PluginError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """What a package prints or warns about while it is imported is no part of our output."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
