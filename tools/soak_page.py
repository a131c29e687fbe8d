"""The tables of docs/reliability.md, from docs/soak.json, which `make soak` writes.

    python tools/soak_page.py [--check]

With --check nothing is written; the exit code is 1 if the page is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
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
    return "\n".join([*lines, "", made_by(found)])


def claims_table(found: dict[str, Any]) -> str:
    """Markdown: a row for the smoke claim of each system."""
    lines = [
        "| system | kills | in its quarters | inside a write | resumed runs | identical rows | finished cells computed again |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = ("kills", "inside", "runs", "identical", "twice")
    total = {key: sum(one[key] for one in found["jobs"]) for key in keys}
    for one in found["jobs"]:
        spread = " · ".join(map(str, one["quarters"]))
        cells = [one["job"], one["kills"], spread, *(one[key] for key in keys[1:])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    cells = [f"all {len(found['jobs'])}", total["kills"], "", *(total[key] for key in keys[1:])]
    lines.append(f"| {' | '.join(f'**{cell}**' if cell != '' else '' for cell in cells)} |")
    runs: dict[str, list[str]] = {}
    for one in found["jobs"]:
        runs.setdefault(made_by({**found, **one.get("by", {})}), []).append(one["job"])
    most, *others = sorted(runs, key=lambda run: -len(runs[run]))
    return "\n".join([*lines, "", most, *(f"{', '.join(runs[run])}: {run[0].lower()}{run[1:]}" for run in others)])


def cases_table(found: dict[str, Any]) -> str:
    """Markdown: a row for each group of cases of tools/campaign."""
    keys = ("cases", "refused", "fine", "wrong")
    head = ("what was given", "cases", "refused with a sentence", "fine", "anything else")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    rows = {name: {**one, "wrong": len(one["failures"])} for name, one in found["groups"].items()}
    lines += [f"| {name} | {' | '.join(str(one[key]) for key in keys)} |" for name, one in rows.items()]
    total = " | ".join(f"**{sum(one[key] for one in rows.values())}**" for key in keys)
    return "\n".join([*lines, f"| **all** | {total} |", "", made_by(found)])


MADE = ("seed", "date", "commit", "torch", "machine")


def by(found: dict[str, Any]) -> dict[str, Any]:
    """What a run was made by."""
    return {key: found[key] for key in MADE}


def made_by(found: dict[str, Any]) -> str:
    return (
        f"Seed {found['seed']}, {found['date']}, commit `{found['commit'][:10]}`, torch {found['torch']}, {found['machine']}."
    )


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "soak": table,
    "claims": claims_table,
    "inputs": cases_table,
    "hostile": cases_table,
    "disks": cases_table,
}


def filled() -> str:
    """The page as it should be."""
    page, figures = PAGE.read_text(), json.loads(FIGURES.read_text())
    for part, to_table in PARTS.items():
        found = figures if part == "soak" else figures.get(part)
        if found is not None:
            page = _between(page, part, to_table(found))
    return page


def _between(page: str, mark: str, content: str) -> str:
    pattern = rf"(<!-- {mark} -->).*?(<!-- /{mark} -->)"
    return re.sub(pattern, lambda m: f"{m[1]}\n{content}\n{m[2]}", page, flags=re.S)


def beside_others(found: dict[str, Any], path: Path, order: list[str]) -> dict[str, Any]:
    """The claims part with the new rows of some systems and, of the others, those in `path`, each with the run it is of."""
    before = json.loads(path.read_text()).get("claims", {"jobs": []}) if path.exists() else {"jobs": []}
    rows = {one["job"]: {"by": by(whole), **one} for whole in (before, found) for one in whole["jobs"]}
    return {**found, "jobs": sorted(rows.values(), key=lambda one: order.index(one["job"]))}


def write_figures(path: Path, found: dict[str, Any]) -> None:
    """Add `found` to the figures in `path`; those of other parts stay. docs/soak.json also fills the page."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **found}, indent=1, ensure_ascii=False) + "\n")
    if path.resolve() == FIGURES:
        PAGE.write_text(filled())


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(None if PAGE.read_text() == filled() else "docs/reliability.md is out of date: python tools/soak_page.py")
    PAGE.write_text(filled())
