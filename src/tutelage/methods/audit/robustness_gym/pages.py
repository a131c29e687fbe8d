"""The page of a Robustness Report."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from tutelage.auditing.figures import INK, MARKERS, MUTED, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Mark, Page, Picture, Section, Table, Text, titled, write_page
from tutelage.methods.audit.robustness_gym.report import Report, ReportRow, by_category, difference, p_text, shown

WORDS = {
    "subpopulation": "Rows that share something. The difference is to all of the data; the test compares with the rest.",
    "transformation": "Rows after an edit. Difference and test are to the same rows before it (McNemar).",
    "evaluation set": "Other data. Difference and test are to all of the data.",
    "attack": "Rows after an attack on the model; accuracy counts all rows, also those that were wrong before.",
    "generic": "Other slices.",
}


def report_figure(report: Report) -> Figure:
    """Accuracy of each slice with its interval, a line for the whole; a marker a model."""
    slices = list(dict.fromkeys((row.category, row.slice) for row in report.rows if row.accuracy is not None))
    figure, (axes,) = new_figure(0.9 + 0.3 * max(3, len(slices)), width=7.2)
    for m, model in enumerate(report.models):
        for row in (r for r in report.rows if r.model == model and r.accuracy is not None):
            found = row.metrics["accuracy"]
            y = slices.index((row.category, row.slice)) + (m - (len(report.models) - 1) / 2) * 0.28
            assert found.value is not None
            assert found.low is not None
            assert found.high is not None
            axes.plot([100 * found.low, 100 * found.high], [y, y], color=SERIES[m % len(SERIES)], linewidth=1.4)
            marker = MARKERS[m % len(MARKERS)]
            axes.plot([100 * found.value], [y], marker=marker, color=SERIES[m % len(SERIES)], markersize=5, linestyle="none")
    for m, model in enumerate(report.models):
        whole = next(iter(report.aggregates.values()))[model]["accuracy"].value
        if whole is not None:
            axes.axvline(100 * whole, color=SERIES[m % len(SERIES)], linewidth=0.9, linestyle="--", label=f"{model}, all data")
    axes.set_yticks(range(len(slices)), [f"{name}  ({category})" for category, name in slices], fontsize=8, color=INK)
    axes.set_ylim(len(slices) - 0.5, -0.5)
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False, fontsize=8, ncols=2)
    return figure


def write_report(report: Report, path: Path) -> Path:
    worst = report.worst(5)
    said = [f"{row.slice} ({row.category}, {row.model}): accuracy {shown(row.metrics['accuracy'])} %" for row in worst]
    whole = [
        f"All of {data}, {model}: accuracy {shown(metrics['accuracy'])} %."
        for data, models in report.aggregates.items()
        for model, metrics in models.items()
    ]
    blocks: list[Block] = [Text([*whole, "The lowest: " + "; ".join(said) + "." if said else "No slice is large enough."])]
    alt = "Accuracy of every slice with its 95 % interval, and of all data as a line."
    figure = Picture(figure_svg(report_figure(report), alt), "Accuracy of every slice with its interval; the line is all data.")
    sections = [Section("At a glance", [figure])]
    for category, rows in by_category(report):
        sections.append(
            Section(
                category.capitalize(), [Text([WORDS[category]]), _table(category, rows, report), *_notes(rows), _classes(rows)]
            )
        )
    if report.examples:
        cells = [[e.slice, e.model, e.before, e.after, f"{e.label}, said {e.predicted}"] for e in report.examples]
        sections.append(
            Section("Answers that went wrong", [Table("Texts", ["slice", "model", "before", "after", "label"], cells, "llttl")])
        )
    sections.append(Section("How it was made", [Facts({**titled(report.settings), "Digest": report.digest}), _lineage(report)]))
    return write_page(path, Page(f"Robustness report: {report.task}", "Robustness Gym", blocks, sections))


def _table(category: str, rows: list[ReportRow], report: Report) -> Table:
    names = list(rows[0].metrics)
    alpha = report.settings.get("alpha", 0.05)
    cells: list[list[str | Mark]] = []
    for row in rows:
        c = row.compared
        clear = c is not None and c.p_holm <= alpha and c.delta < 0
        first: str | Mark = Mark(row.slice, "worse") if clear else Mark(row.slice, "small") if row.small else row.slice
        numbers = [shown(row.metrics[name]) for name in names]
        cells.append([first, row.model, f"{row.n:,}", *numbers, difference(row), p_text(row)])
    head = ["slice", "model", "rows", *(f"{name.replace('_', ' ')}, %" for name in names), "difference", "p (Holm)"]
    return Table(category.capitalize(), head, cells, "llr")


def _notes(rows: list[ReportRow]) -> list[Block]:
    """What the builders counted: edits refused, questions asked."""
    keys = list(dict.fromkeys(key for row in rows for key in row.notes))
    cells = [[row.slice, row.model, *(f"{row.notes[key]:.3g}" if key in row.notes else "" for key in keys)] for row in rows]
    return [Table("Counts", ["slice", "model", *(key.replace("_", " ") for key in keys)], cells, "llr")] if keys else []


def _classes(rows: list[ReportRow]) -> Table:
    labels = list(dict.fromkeys(label for row in rows for label in (*row.labels, *row.predictions)))
    cells = [
        [
            row.slice,
            row.model,
            *(_of(row.labels, label) for label in labels),
            *(_of(row.predictions, label) for label in labels),
        ]
        for row in rows
    ]
    return Table(
        "Classes, %",
        ["slice", "model", *labels, *labels],
        cells,
        "llr",
        [("", 2), ("true", len(labels)), ("said", len(labels))],
    )


def _of(shares: dict[str, float], label: str) -> str:
    return f"{100 * shares[label]:.0f}" if label in shares else ""


def _lineage(report: Report) -> Table:
    rows = dict.fromkeys((row.slice, " -> ".join(row.lineage)) for row in report.rows)
    return Table("Where the slices come from", ["slice", "lineage"], [list(one) for one in rows], "lt")
