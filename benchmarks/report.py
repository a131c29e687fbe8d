"""Write the tables of docs/benchmarks.md from benchmarks/results.json.

    python benchmarks/report.py [--check]

Generated text stands between `<!-- benchmark:GROUP -->` and `<!-- /benchmark -->`. With --check nothing is written; the exit
code is 1 if the page is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from common import load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
SPEECH = PAGE.parent / "images" / "speech-speed.svg"
MARKS = re.compile(r"(<!-- benchmark:([\w-]+) -->).*?(<!-- /benchmark -->)", flags=re.S)
PLACE = ("cpu", "cores", "threads", "system")


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one group as a table, what was noted, and what they were measured with."""
    if not rows:
        return "Not measured yet: `make bench`."
    lines = [
        "| race | against | ours / theirs [quartiles] | wanted | ours | theirs | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        ratios = f"**{ratio(row['median_ratio'])}** [{ratio(low)}, {ratio(high)}]"
        lines.append(
            f"| {row['name']} | {row['peer']} | {ratios} | {row['wanted']} "
            f"| {milliseconds(row['median_ours'])} | {milliseconds(row['median_peer'])} | {row['n']} |"
        )
    noted = [f"- {row['name']}: {told(row['notes'])}" for row in rows if row["notes"]]
    return "\n".join([*lines, *([""] if noted else []), *noted, "", *measured_with(rows)])


def attacks_table(rows: list[dict[str, Any]]) -> str:
    """attack_suite.py: robust accuracy and time against each peer, what each side broke alone, flags, and what is missed."""
    if not rows:
        return "Not measured yet: `python benchmarks/attack_suite.py`."
    lines = [
        "| model | against | robust accuracy, ours | theirs | ours less theirs [95 %], points | only ours breaks | only theirs "
        "| ours | theirs | times faster (processor time) | wanted | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    said: dict[str, list[str]] = {}
    for row in rows:
        notes = row["notes"]
        robust = dict(notes["robust accuracy"])
        mine, (yours,) = robust.pop("tutelage"), robust.values()
        difference, low, high = (f"{100 * value:+.1f}" for value in notes["difference"])
        slugs = ", ".join(text.split(":")[0] for text in notes["audit"]["warnings"])
        mark = f" **unreliable**: {slugs}" if notes["audit"]["status"] == "unreliable" else ""
        lines.append(
            f"| {row['name'].split(' against ')[0]}, {notes['budget']} | {row['peer']} | {mine:.1%}{mark} "
            f"| {yours:.1%} | **{difference}** [{low}, {high}] | {notes['only ours breaks']} | {notes['only theirs breaks']} "
            f"| {milliseconds(row['median_ours'])} | {milliseconds(row['median_peer'])} "
            f"| **{notes['times faster']:.1f}** ({notes['times faster in processor time']:.1f}) "
            f"| {row['wanted']} | {'**missed**: ' + ', '.join(notes['missed']) if notes['missed'] else 'met'} |"
        )
        n = notes["images"]
        about = f"{notes['model']}; {notes['budget']}, {n} images, clean accuracy {notes['clean accuracy']:.1%}"
        facts = said.setdefault(about, [])
        for side, after in notes["after each attack"].items():
            if after:
                facts.append(f"{side} after each attack: " + ", ".join(f"{name} {share:.1%}" for name, share in after.items()))
        spent = (f"{name} {forward / n:.1f} + {backward / n:.1f}" for name, (forward, backward) in notes["passes"].items())
        facts.append(f"tutelage, passes an image, forward + backward: {', '.join(spent)}; searched in {notes['searched in']}")
        for side, texts in notes["warnings"].items():
            facts += [f"{side} warns: {text}" for text in texts]
        facts += [f"flag of the audit (its first 128 images), {text}" for text in notes["audit"]["warnings"]]
        for what in ("outside the budget", "disputed"):
            facts += [f"{side}: {count} images {what}" for side, count in notes[what].items() if count]
    for about, facts in said.items():
        lines += ["", f"- {about}", *(f"  - {fact}" for fact in dict.fromkeys(facts))]
    return "\n".join([*lines, "", *measured_with(rows)])


TABLES = {"attacks": attacks_table}


def told(notes: dict[str, Any]) -> str:
    parts = []
    for key, value in notes.items():
        text = ", ".join(f"{name} {number}" for name, number in value.items()) if isinstance(value, dict) else str(value)
        parts.append(f"{key}: {text}")
    return "; ".join(parts)


def measured_with(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each machine, set of versions, commit and day, with what was measured so."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        cpu, cores, threads, system = (row["machine"][key] for key in PLACE)
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        changed = ", with changes since" if row["dirty"] else ""
        place = f"{cpu}, {cores} cores, {threads} thread(s), {system}; {versions}; commit `{row['commit'][:10]}`{changed}"
        groups.setdefault(f"{row['date']}, {place}.", []).append(row["name"])
    if len(groups) == 1:
        return [f"Measured {next(iter(groups))}"]
    return [f"- Measured {place} ({'; '.join(names)})" for place, names in groups.items()]


def filled(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with its tables, from the rows of a results file."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES.get(match[2], table)([row for row in rows if row['group'] == match[2]])}\n{match[3]}"

    return MARKS.sub(fill, text)


def draw_speech(rows: list[dict[str, Any]]) -> None:
    """Seconds a spectrogram against its length, of the student and of the autoregressive sides: straight lines have slope 1."""
    from tutelage.auditing.figures import MARKERS, SERIES, new_figure, save_svg

    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        _, frames, side = row["name"].split(", ", 2)
        length = int(frames.split()[0])
        curves.setdefault("teacher of the claim, with a cache" if "claim" in side else f"teacher, {side}", {})[length] = row[
            "median_peer"
        ]
        curves.setdefault("FastSpeech, of the claim" if "claim" in side else "FastSpeech", {})[length] = row["median_ours"]
    figure, (panel,) = new_figure(3.2, width=7.4)
    for i, (name, curve) in enumerate(sorted(curves.items())):
        panel.plot(*zip(*sorted(curve.items()), strict=True), color=SERIES[i], marker=MARKERS[i], markersize=4, label=name)
    lengths = sorted({length for curve in curves.values() for length in curve})
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(lengths, [str(length) for length in lengths])
    panel.minorticks_off()
    panel.set_xlabel("frames")
    panel.set_ylabel("seconds")
    panel.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save_svg(figure, SPEECH)


def main() -> None:
    old = PAGE.read_text()
    new = filled(old, load())
    if "--check" in sys.argv[1:]:
        sys.exit("docs/benchmarks.md is out of date: python benchmarks/report.py" if new != old else 0)
    if new != old:
        PAGE.write_text(new)
    if speech := [row for row in load() if row["group"] == "speech"]:
        draw_speech(speech)
    print("written" if new != old else "up to date")


if __name__ == "__main__":
    main()
