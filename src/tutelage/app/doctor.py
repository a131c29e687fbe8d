"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import torch
from rich.table import Table

from tutelage.core.cache import Cache
from tutelage.core.environment import installed_version
from tutelage.data.inventory import inventory


def examine() -> list[tuple[str, Table]]:
    """(title, table) pairs, in the order in which a person would look."""
    return [("This machine", _machine()), ("Packages", _packages()), ("Extras", _extras()), ("Cache and data", _places())]


def _machine() -> Table:
    table = _table()
    table.add_row("Python", sys.version.split()[0])
    table.add_row("torch", f"{torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    table.add_row("devices", ", ".join(devices))
    return table


def requirements() -> dict[str, list[str]]:
    """extra -> the packages it asks for; "" is the base."""
    try:
        lines = requires("tutelage") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        package = re.split(r"[ \[<>=!~;]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        found.setdefault(extra[1] if extra else "", []).append(package)
    return found


def _packages() -> Table:
    table = _table()
    for package in requirements().get("", []):
        table.add_row(package, installed_version(package) or "[red]missing[/]: pip install tutelage")
    return table


def _extras() -> Table:
    table = _table()
    for extra, packages in sorted(requirements().items()):
        wanted = [p for p in packages if p != "tutelage"]
        if not extra or not wanted:
            continue
        missing = [p for p in wanted if installed_version(p) is None]
        have = ", ".join(f"{p} {version(p)}" for p in wanted if p not in missing)
        if missing:
            table.add_row(extra, f"missing {', '.join(missing)}: pip install 'tutelage\\[{extra}]'")
        else:
            table.add_row(extra, have)
    return table


def _places() -> Table:
    table = _table()
    cache = Cache.default()
    table.add_row("cache", f"{cache.root} ({cache.size() / 1e6:.1f} MB); set TUTELAGE_CACHE to move it")
    data = os.environ.get("TUTELAGE_DATA")
    there = [f"{e.name} ({', '.join(p.where for p in e.places)})" for e in inventory() if e.places]
    table.add_row("data", f"TUTELAGE_DATA={data or 'not set'}; here: {', '.join(there)}; `tutelage data list` tells more")
    return table


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    return table
