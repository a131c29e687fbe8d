"""The table of docs/reliability.md, from docs/soak.json, which `make soak` writes.

    python tools/soak_page.py [--check]

With --check nothing is written; the exit code is 1 if the page is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURES = DOCS / "reliability.md", DOCS / "soak.json"


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each kind of run."""
    lines = [
        "| run | kills | in its quarters | inside a write | resumed runs | bit-identical | finished cells computed again |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["jobs"]:
        name = f"{one['job']}, new interpreters" if one["fresh"] else one["job"]
        spread = " · ".join(map(str, one["quarters"]))
        twice = one["twice"] if one["job"] == "grid" else ""
        lines.append(f"| {name} | {one['kills']} | {spread} | {one['inside']} | {one['runs']} | {one['identical']} | {twice} |")
    about = (
        f"Seed {found['seed']}, {found['date']}, commit `{found['commit'][:10]}`, torch {found['torch']}, {found['machine']}."
    )
    return "\n".join([*lines, "", about])


def filled() -> str:
    """The page as it should be."""
    content = table(json.loads(FIGURES.read_text()))
    return re.sub(r"(<!-- soak -->).*?(<!-- /soak -->)", lambda m: f"{m[1]}\n{content}\n{m[2]}", PAGE.read_text(), flags=re.S)


def write_page() -> None:
    PAGE.write_text(filled())


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(None if PAGE.read_text() == filled() else "docs/reliability.md is out of date: python tools/soak_page.py")
    write_page()
