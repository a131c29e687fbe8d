"""Plug-ins on the command line: what a threat of another package is to an audit, and how plug-ins are listed and shown."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tutelage.core.errors import InputError
from tutelage.core.plugins import MethodInfo, Plugin, find_plugin, method_info, plugins, summary, usable

if TYPE_CHECKING:
    from tutelage.data.images import ImageSet
    from tutelage.threats.engine import Attack
    from tutelage.threats.suite import Suite

CHANGE = "change(x, *, generator) -> x'"


def is_attack(plugin: Plugin) -> bool:
    """Whether a threat is made for a budget, `make(budget)`, or changes images by itself. Raises PluginError."""
    made = plugin.load()
    if not callable(made):
        raise plugin.error(f"{plugin.value} is no function: wanted make(budget) -> Attack, or {CHANGE}")
    try:
        return "budget" in inspect.signature(made).parameters
    except (TypeError, ValueError) as error:
        raise plugin.error(f"its arguments cannot be told ({error})") from error


def split_threats(wanted: Sequence[str]) -> list[str | Attack | Suite]:
    """What --threats names, with those of plug-ins (`NAME:linf@8/255`) made; the others are left as they are.

    Raises InputError or PluginError before anything is computed.
    """
    return [_threat(part.strip()) for part in wanted]


def _threat(text: str) -> str | Attack | Suite:
    name, colon, budget = text.partition(":")
    plugin = find_plugin("threats", name) if colon else None
    if plugin is None or _is_known(text):
        return text
    if not is_attack(plugin):
        raise InputError("threats", text, f"--suite {name}: this plug-in changes images within no budget")
    from tutelage.threats.budgets import parse_budget
    from tutelage.threats.engine import Attack
    from tutelage.threats.suite import Suite

    within = parse_budget(budget)
    try:
        made = plugin.load()(within)
    except Exception as error:
        raise plugin.error(f"{type(error).__name__}: {error}") from error
    if isinstance(made, Attack):
        return Suite(made.budget, ((name, made),))
    if isinstance(made, Suite):
        return made
    raise plugin.error(f"{plugin.value} gave {type(made).__name__}, wanted an Attack or a Suite")


def _is_known(text: str) -> bool:
    """Whether the package itself has a threat of that name: it comes first."""
    from tutelage.threats.parse import parse_threat

    try:
        parse_threat(text)
    except InputError:
        return False
    return True


def split_changes(suites: Sequence[str]) -> tuple[list[str], list[Plugin]]:
    """(what --suite names of this package, changes of plug-ins); the package's own names come first."""
    own: list[str] = []
    found: list[Plugin] = []
    for suite in suites:
        plugin = find_plugin("threats", suite) if "@" not in suite and not _is_suite(suite) else None
        if plugin is None:
            own.append(suite)
        elif is_attack(plugin):
            raise InputError("suite", suite, f"--threats {suite}:linf@8/255: this plug-in attacks within a budget")
        elif plugin in found:
            raise InputError("suite", f"{suite} twice", "each suite once")
        else:
            found.append(plugin)
    return own, found


def _is_suite(text: str) -> bool:
    from tutelage.auditing.corruption import chosen

    try:
        chosen([text])
    except InputError:
        return False
    return True


def changed(images: ImageSet, plugin: Plugin, seed: int, batch_size: int) -> ImageSet:
    """The images as a plug-in changes them, for an audit to compare with the ones before.

    The noise depends on the seed and on the batches. Raises PluginError if the function fails or gives anything but as many
    images of the same shape, in [0, 1].
    """
    from dataclasses import replace

    import torch

    from tutelage.core.rng import generator

    change, noise, done = plugin.load(), generator(seed, "plug-in", plugin.name), []
    for first in range(0, len(images), batch_size):
        batch = images.take(slice(first, first + batch_size)).images
        given = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        try:
            made = change(given.clone(), generator=noise)
        except Exception as error:
            raise plugin.error(f"{type(error).__name__}: {error}") from error
        if not isinstance(made, torch.Tensor) or made.shape != given.shape or not made.is_floating_point():
            what = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
            raise plugin.error(f"it gave {what} for images {tuple(given.shape)}")
        if not bool(torch.isfinite(made).all()) or float(made.min()) < 0 or float(made.max()) > 1:
            raise plugin.error("it gave values outside [0, 1]")
        done.append(made.detach().cpu())
    return replace(images, images=torch.cat(done), name=f"{images.name}, {plugin.name}")


def listed(room: str, words: Sequence[str]) -> list[dict[str, Any]]:
    """Plug-ins as `tutelage list` shows them: name, kind, package, use. Those that cannot be used are warnings."""
    found: list[dict[str, Any]] = []
    for plugin, info in usable("methods", method_info):
        found.append({"plugin": plugin, "room": info.room, "use": info.want, "have": info.have, "title": info.title,
                      "year": info.year, "url": info.url, "docstring": info.docstring, "command": use(plugin),
                      "text": f"{info.have} {info.want} {info.title} {' '.join(info.authors)}"})  # fmt: skip
    for kind in ("threats", "models"):
        for plugin, about in usable(kind, _about):
            command = use(plugin)
            found.append({"plugin": plugin, "room": "", "use": about, "text": about, "have": "", "url": "", "title": "",
                          "docstring": "", "command": command})  # fmt: skip

    def fits(one: dict[str, Any]) -> bool:
        text = f"{one['plugin'].name} {one['plugin'].package} {one['room']} {one['text']}".lower()
        return room in ("", one["room"]) and all(word.lower() in text for word in words)

    return [one for one in found if fits(one)]


def _about(plugin: Plugin) -> str:
    """What a threat or model says of itself, once it is sure that it can be called."""
    if plugin.kind == "threats":
        is_attack(plugin)
    elif not callable(made := plugin.load()):
        raise plugin.error(f"{plugin.value} is {type(made).__name__}, wanted a function that makes an nn.Module")
    return summary(plugin)


def shown(name: str) -> tuple[Plugin, MethodInfo | None, str] | None:
    """(plug-in, what its method says, what it says of itself) of that name, whatever its kind; None if there is none."""
    for plugin in plugins():
        if plugin.name == name:
            info = method_info(plugin) if plugin.kind == "methods" else None
            text = info.docstring if info else inspect.cleandoc(getattr(plugin.load(), "__doc__", None) or "")
            return plugin, info, text
    return None


def use(plugin: Plugin) -> str:
    """The command or import by which it is used."""
    if plugin.kind == "models":
        return f"tutelage audit {plugin.name} --data ..."
    if plugin.kind == "threats":
        return f"--threats {plugin.name}:linf@8/255" if is_attack(plugin) else f"--suite {plugin.name}"
    return f"import {plugin.value.partition(':')[0]}"
