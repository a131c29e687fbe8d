"""Write docs/api: every public name of every room with its signature and first sentence, from the sources.

    python tools/build_api.py [--check]

The site (`tutelage site build`) has the same with whole docstrings. With --check nothing is written; the exit code is 1 if a
page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tutelage.app.site.reference import ROOMS, Module, reference

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "api"
NOTE = "<!-- written by tools/build_api.py from the docstrings; do not edit -->\n\n"


def pages() -> dict[str, str]:
    """name of a page -> what it should hold."""
    modules = reference()
    found = {f"{room}.md": _room(room, [m for m in modules if m.room == room]) for room in ROOMS}
    lines = [
        "# API",
        "",
        "Every public name, by room. The site (`tutelage site build`) has them with whole docstrings and a filter.",
    ]
    (package,) = (m for m in modules if not m.room)
    lines += ["", "What `import tutelage` gives:", "", "| name | from |", "| --- | --- |"]
    lines += [f"| `{name}` | `{home}` |" for name, home in package.exports]
    lines += ["", "| room | modules | names |", "| --- | --- | --- |"]
    for room in ROOMS:
        mine = [m for m in modules if m.room == room]
        lines.append(f"| [{room}]({room}.md) | {len(mine)} | {sum(len(m.names) for m in mine)} |")
    return {"README.md": NOTE + "\n".join(lines) + "\n", **found}


def _room(room: str, modules: list[Module]) -> str:
    lines = [f"# tutelage.{room}", "", "[All rooms](README.md)", ""]
    for module in modules:
        lines += [f"## {module.name}", ""]
        lines += [_escaped(module.lead), ""] if module.lead else []
        if module.exports:
            lines += ["Passed on: " + ", ".join(f"`{name}`" for name, _ in module.exports) + ".", ""]
        for name in module.names:
            if name.kind != "constant":
                lines += [f"- `{_one_line(name.signature)}`" + (f": {_escaped(name.lead)}" if name.lead else "")]
        lines += [""] if module.names else []
    return NOTE + "\n".join(lines).rstrip() + "\n"


def _one_line(signature: str) -> str:
    text = " ".join(signature.replace("`", "'").split())
    return text if len(text) <= 240 else text[:239] + "…"


def _escaped(words: str) -> str:
    """Without what Markdown would take for markup outside of code."""
    pieces = words.replace("``", "`").split("`")
    plain = [piece.translate({ord(c): f"\\{c}" for c in "*_[]<>$"}) if i % 2 == 0 else piece for i, piece in enumerate(pieces)]
    return "`".join(plain)


def main() -> None:
    wanted = pages()
    stale = [name for name, text in wanted.items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text]
    gone = [path.name for path in FOLDER.glob("*.md") if path.name not in wanted]
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date, run tools/build_api.py: {', '.join([*stale, *gone])}" if stale or gone else 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(wanted[name])
    for name in gone:
        (FOLDER / name).unlink()
    print(f"{len(stale)} pages written" if stale else "all pages are up to date")


if __name__ == "__main__":
    main()
