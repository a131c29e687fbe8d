"""Write the generated parts of the docs: the table of systems and each system's verdict.

    python tools/build_docs.py [--check]

Generated text stands between `<!-- name -->` and `<!-- /name -->` marks and comes from the catalogue and from results/.
With --check nothing is written; the exit code is 1 if something is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tutelage.auditing.figures import save_svg
from tutelage.catalogue import ROOM_PURPOSE, ROOMS, System, systems
from tutelage.claims.claim import ClaimResult, load_claim
from tutelage.claims.figures import differences_figure, tradeoff_figure
from tutelage.claims.runner import recorded
from tutelage.claims.state import state_of
from tutelage.core.stats import mean_t

ROOT = Path(__file__).parents[1]


def table_of_systems() -> str:
    """All systems by room; built ones link to their pages."""
    lines = ["| system | paper | what you get | state |", "| --- | --- | --- | --- |"]
    for room in ROOMS:
        lines.append(f"| **{room}** | | *{ROOM_PURPOSE[room]}* | |")
        for s in systems():
            if s.room == room:
                page = ROOT / "docs" / "systems" / f"{s.slug}.md"
                name = f"[{s.slug}](docs/systems/{s.slug}.md)" if page.exists() else s.slug
                paper = f"[{s.year}]({s.paper_url})" if s.paper_url else str(s.year)
                lines.append(f"| {name} | {paper} | {s.want} | {state_of(s)} |")
    return "\n".join(lines)


def counts() -> str:
    states = [state_of(s) for s in systems()]
    built = sum(state.status != "planned" for state in states)
    return f"{built} of {len(states)} systems are built; the others are planned. `tutelage list` shows the same table."


def verdict(system: System) -> str:
    """The recorded verdict of a system in words and tables, and where its pictures are."""
    result = recorded(system.slug)
    if result is None:
        return "Not recorded yet."
    primary, drawn = result.claims[0], load_claim(system.slug).axes is not None
    lines = [
        f"**{result.verdict.capitalize()}.** {primary.sentence}",
        "",
        f"Difference in {primary.metric}: {_interval(primary.difference, *primary.ci95)} {system.claim.metric_unit} "
        f"({primary.method} against {primary.baseline or 'the threshold'}, {primary.n_units} units: {primary.unit}; margin "
        f"{primary.margin:g}). Data: {result.data[0]['name']}. Commit `{result.commit[:10]}`, "
        f"{result.environment['threads']} thread(s) a worker, {result.environment['device_name']}.",
        "",
        *([f"![{system.slug}: the arms in two metrics](../images/{system.slug}-tradeoff.svg)", ""] if drawn else []),
        *_arms(result),
        "",
        "| sentence | difference [95 % interval] | margin | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for c in result.claims:
        name = f"**{c.sentence}**" if c.primary else c.sentence
        value = _interval(c.difference, *c.ci95) if c.baseline else f"{c.difference:.3g} [{c.ci95[0]:.3g}, {c.ci95[1]:.3g}]"
        lines.append(f"| {name} | {value} | {c.margin:g} | {c.verdict} |")
    lines += ["", f"![{system.slug}: all sentences with their intervals](../images/{system.slug}-differences.svg)"]
    return "\n".join(lines)


def _arms(result: ClaimResult) -> list[str]:
    """The arms in the metrics of the sentences, the primary one first."""
    metrics = list(dict.fromkeys(c.metric for c in result.claims))[:4]
    largest = {m: max((abs(v) for arm in result.arms for v in result.values(arm, m).values()), default=0.0) for m in metrics}
    lines = ["| arm | " + " | ".join(metrics) + " |", "| --- |" + " --- |" * len(metrics)]
    for arm in result.arms:
        cells = []
        for metric in metrics:
            values = list(result.values(arm, metric).values())
            if len(values) < 2:  # arms may measure other things
                cells.append("–")
                continue
            mean, interval = mean_t(values)
            digits = 1 if largest[metric] >= 10 else 2 if largest[metric] >= 1 else 3
            cells.append(f"{mean:.{digits}f} ± {(interval.hi - interval.lo) / 2:.{digits}f}")
        if set(cells) != {"–"}:
            lines.append(f"| {arm}{' (control)' if arm in result.controls else ''} | " + " | ".join(cells) + " |")
    return lines


def _interval(difference: float, lo: float, hi: float) -> str:
    return f"{difference:+.2f} [{lo:+.2f}, {hi:+.2f}]"


def fill(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->).*?(<!-- /{re.escape(name.split(':')[0])} -->)", flags=re.S)
    assert pattern.search(text), f"no mark {name}"
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n{match[2]}", text)


def pages() -> dict[Path, str]:
    """path -> what it should hold."""
    found: dict[Path, str] = {}
    readme = ROOT / "README.md"
    found[readme] = fill(fill(readme.read_text(), "systems", table_of_systems()), "counts", counts())
    for system in systems():
        page = ROOT / "docs" / "systems" / f"{system.slug}.md"
        if page.exists():
            found[page] = fill(page.read_text(), f"verdict:{system.slug}", verdict(system))
    return found


def draw() -> None:
    """The pictures of recorded results, under docs/images."""
    for system in systems():
        result = recorded(system.slug)
        if result is None:
            continue
        claim = load_claim(system.slug)
        folder = ROOT / "docs" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in (("tradeoff", tradeoff_figure), ("differences", differences_figure)):
            if name == "tradeoff" and claim.axes is None:
                continue
            save_svg(figure(claim, result), folder / f"{system.slug}-{name}.svg")


def main() -> None:
    stale = [path for path, text in pages().items() if path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.exit("out of date, run `make docs`: " + ", ".join(str(p.relative_to(ROOT)) for p in stale) if stale else 0)
    for path in stale:
        path.write_text(pages()[path])
    draw()
    print(f"{len(stale)} pages written" if stale else "all pages are up to date")


if __name__ == "__main__":
    main()
