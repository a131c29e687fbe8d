"""The monitor's page: what was seen on a stream, chunk by chunk, and what was decided, in one self-contained HTML file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.methods.audit.robust_mlops.columns import rows
from tutelage.methods.audit.robust_mlops.monitor import Decision, Monitor
from tutelage.methods.audit.robust_mlops.policy import describe

if TYPE_CHECKING:
    from tutelage.auditing.page import Picture, Table

MEANING = {
    "quiet": "nothing has changed that matters",
    "watch": "the inputs have drifted, the accuracy holds",
    "block": "invalid rows, which must not be answered",
    "retrain": "the inputs have drifted and the accuracy has fallen",
    "concept": "the accuracy has fallen without drift: look at labels",
    "rollback": "an older version is shown to be better on these rows",
    "cool-down": "an alarm soon after a decision",
    "hold": "an alarm while a person holds decisions back",
}
MOST_ROWS = 200  # chunks in the table: those that say something come first
MOST_COLUMNS = 20  # in the picture of drift: those that drifted most often
LEAST_P = 1e-12  # of the picture


def write_monitor_page(watcher: Monitor, path: Path | str) -> Path:
    """Write what `watcher` has seen so far to an HTML file; its address is returned."""
    from tutelage.auditing.page import Facts, Notice, Page, Section, Text, Tone, write_page

    found, seen, watch = watcher.summary(), watcher.decisions, watcher.policy.monitor
    tone: Tone = "bad" if found["decisions"] else "warn" if found["alarms"] or found["watched"] else "good"
    decided = [f"chunk {one.chunk}: {one.action}, {'; '.join(one.reasons)}" for one in seen if one.decided]
    title = f"{_many(found['decisions'], 'decision')} in {_many(found['chunks'], 'chunk')}"
    lead: list[Any] = [
        Notice(f"{title}. {_many(found['alarms'], 'alarm')}.", decided[:10], tone),
        Text([f"{times} × {action}: {MEANING[action]}." for action, times in Counter(one.action for one in seen).items()]),
    ]
    if found["rollbacks"]:
        lead.append(Text([f"Rolled back to {', '.join(found['rollbacks'])}; the champion is now {watcher.champion}."]))
    sections = []
    if seen:
        sections.append(Section("Accuracy and drift", _pictures(watcher)))
        sections.append(Section("Chunks", [_chunks(seen)]))
    if any(one.drift for one in seen):
        sections.append(Section("Columns", [_columns(seen)]))
    policy = describe(watcher.policy)
    facts = {
        "Reference": f"{rows(watcher._columns):,} rows, accuracy {_share(float(watcher._right.mean()))}",
        "Champion": watcher.champion,
        "Versions": list(watcher.versions),
        "Chunk": watch.chunk,
        "Average run length": f"{found['average_run_length']:.1f} chunks between alarms",
        **{f"monitor: {key}": value for key, value in policy["monitor"].items() if value not in ("", [], {})},
        **{f"rollback: {key}": value for key, value in policy["rollback"].items()},
    }
    sections.append(Section("How it was watched", [Facts(facts)]))
    return write_page(Path(path), Page(f"Monitor {watcher.policy.name}", "Monitor", lead, sections))


def _pictures(watcher: Monitor) -> list[Picture]:
    from tutelage.auditing.figures import GRID, MUTED, SERIES, figure_svg, new_figure
    from tutelage.auditing.page import Picture

    seen, watch = watcher.decisions, watcher.policy.monitor
    figure, (top, below) = new_figure(4.6, (1.5, 1.0))
    for axes in (top, below):
        for one in seen:
            if one.alarm:
                axes.axvspan(one.chunk - 0.5, one.chunk + 0.5, color=GRID, linewidth=0)
        axes.set_xlim(-0.7, len(seen) - 0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    marker = "o" if len(seen) <= 60 else ""
    true = [(one.chunk, one.accuracy) for one in seen if one.accuracy is not None]
    told = [(one.chunk, one.estimate.accuracy) for one in seen if one.estimate is not None]
    for series, label, colour, line in ((true, "true", SERIES[0], "-"), (told, "estimated without labels", SERIES[1], "--")):
        if series:
            x, y = zip(*series, strict=True)
            top.plot(x, y, line, color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=label)
    top.axhline(float(watcher._right.mean()), color=MUTED, linewidth=1, linestyle=":", label="on the reference")
    top.set_ylabel("accuracy")
    top.legend(fontsize=9, frameon=False, loc="lower left")
    drifted = [(one.chunk, max(LEAST_P, one.drift.p_value)) for one in seen if one.drift is not None]
    if drifted:
        x, y = zip(*drifted, strict=True)
        below.plot(x, y, color=SERIES[2], marker=marker, markersize=3.5, linewidth=1.4)
        below.set_yscale("log")
        below.set_ylim(min(1e-3, *y) / 3, 3)
    below.axhline(watch.alpha, color=MUTED, linewidth=1, linestyle=":")
    below.set_ylabel("p of drift")
    below.set_xlabel("chunk")
    caption = (
        "Above, the accuracy; below, the smallest adjusted p of drift, with the level as a dotted line (a change that is too "
        "small to matter is no drift). Grey: chunks with an alarm."
    )
    pictures = [Picture(figure_svg(figure, caption), caption)]
    times = _times(seen)
    if times:
        names = [name for name, _ in times.most_common(MOST_COLUMNS)]
        figure, (axes,) = new_figure(1.1 + 0.25 * len(names))
        dots = [(one.chunk, names.index(name)) for one in seen if one.drift for name in one.drift.which if name in names]
        axes.scatter(*zip(*dots, strict=True), s=14, marker="s", color=SERIES[2], linewidth=0)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.7, len(seen) - 0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("chunk")
        caption = "Which columns, and which tests of all columns together, drifted when."
        pictures.append(Picture(figure_svg(figure, caption), caption))
    return pictures


def _chunks(seen: Sequence[Decision]) -> Table:
    from tutelage.auditing.page import Mark, Table

    spoken = [one for one in seen if one.action != "quiet"]
    shown = seen if len(seen) <= MOST_ROWS else spoken[:MOST_ROWS]
    cells = [
        [str(one.chunk), f"{one.n:,}", Mark(one.action, "decision") if one.decided else one.action,
         _share(one.estimate.accuracy if one.estimate else None) + ("" if not one.estimate or one.estimate.trusted else " ?"),
         _share(one.accuracy), _number(one.evidence), _number(one.drift.p_value if one.drift else None),
         "; ".join(one.reasons) or "–"]
        for one in shown
    ]  # fmt: skip
    left_out = len(seen) - len(shown)
    note = "e: of a fall of the true accuracy; a ? marks an estimate that fails its own checks."
    note += f" {left_out:,} other chunks are in decisions.jsonl." if left_out else ""
    header = ["Chunk", "Rows", "Action", "Estimated", "True", "e", "Drift p", "Why"]
    return Table("Chunks", header, cells, "rrnrrrrt", note=note)


def _columns(seen: Sequence[Decision]) -> Table:
    from tutelage.auditing.page import Table

    times, cells = _times(seen), []
    reports = [(one.chunk, column) for one in seen if one.drift for column in one.drift.columns]
    for name in sorted(dict.fromkeys(column.column for _, column in reports), key=lambda name: -times[name]):
        own = [(chunk, column) for chunk, column in reports if column.column == name]
        first = next((str(chunk) for chunk, column in own if column.drifted), "–")
        cells.append([name, own[0][1].test, f"{times[name]:,}", first, _number(max(column.psi for _, column in own)),
                      _number(max(column.wasserstein for _, column in own))])  # fmt: skip
    header = ["Column", "Test", "Chunks with drift", "First", "Largest PSI", "Largest distance"]
    note = "Distance: Wasserstein, in standard deviations of the reference; 0 for words."
    return Table("Columns", header, cells, "llr", note=note)


def _times(seen: Sequence[Decision]) -> Counter[str]:
    """In how many chunks each column or joint test drifted."""
    return Counter(name for one in seen if one.drift for name in one.drift.which)


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"
