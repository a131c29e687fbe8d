"""The page of an audit, and its picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tutelage.auditing.figures import INK, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Code, Facts, Notice, Page, Picture, Section, Table, Text, Tone, percent, write_page
from tutelage.methods.audit.recode.evaluation import CodeRobustnessReport, Failure, ScoreRow
from tutelage.threats.code.edit import CATEGORIES

SHOWN = 12  # failing prompts on a page; the JSON file has all


def robustness_figure(report: CodeRobustnessReport) -> Figure:
    """A row a transformation: nominal pass@1, the mean over seeds, and the worst case."""
    k = min(row.score.k for row in report.rows)
    names = [row.name for row in report.rows if row.score.k == k and row.items == "all" and row.name not in (*CATEGORIES,)]
    names = [name for name in names if not name.startswith("overall")]
    figure, (axes,) = new_figure(1.2 + 0.24 * len(names), width=6.4)
    for y, name in enumerate(reversed(names)):
        one = report.get(name, k=k)
        axes.plot([100 * one.robust, 100 * one.nominal], [y, y], color=INK, linewidth=0.8, zorder=1)
        axes.plot(100 * one.nominal, y, marker="|", markersize=11, color=INK, linestyle="")
        axes.plot(100 * one.average, y, marker="o", markersize=4.5, color=SERIES[0], linestyle="")
        axes.plot(100 * one.robust, y, marker="s", markersize=4.5, color=SERIES[1], linestyle="")
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=8.5)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlim(-2, 102)
    axes.set_xlabel(f"problems solved, pass@{k}, %")
    handles = [
        Line2D([], [], marker="|", markersize=11, color=INK, linestyle="", label="nominal"),
        Line2D([], [], marker="o", markersize=4.5, color=SERIES[0], linestyle="", label="edited, mean over seeds"),
        Line2D([], [], marker="s", markersize=4.5, color=SERIES[1], linestyle="", label="edited, worst seed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def write_report(path: Path, report: CodeRobustnessReport) -> Path:
    """Write the page to `path` and return it."""
    k = min(row.score.k for row in report.rows)
    header = ["", "problems", f"pass@{k}", "mean over edits", f"RP@{k}", "RD", "RR", "broken"]
    groups = [row for row in report.rows if row.score.k == k and row.name in CATEGORIES]
    single = [row for row in report.rows if row.name not in CATEGORIES and not row.name.startswith("overall")]
    worst = max((row.score.drop or 0.0 for row in groups if row.items == "all"), default=0.0)
    tone: Tone = "good" if worst < 10 else "warn" if worst < 30 else "bad"
    lines = [
        f"{row.name}: {percent(row.score.nominal)} of the problems are solved, {percent(row.score.robust)} under every edit"
        for row in groups
        if row.items == "all"
    ]
    note = (
        "RP: solved under every edit and seed. RD: share of pass lost. RR: problems whose result changes either way. broken: "
        "of the solved problems, those that an edit breaks. Full prompts (docstring, function) and prompts with half of a "
        "solution (syntax, format) have nominal numbers of their own."
    )
    first: list[Block] = [Notice("Solved, and solved under every harmless edit", lines, tone)]
    if report.not_run:
        first.append(Notice("Not run", [f"{name}: {why}" for name, why in report.not_run.items()], "warn"))
    if report.broken:
        first.append(
            Notice("Problems left out: their own solution fails", [f"{n}: {why}" for n, why in report.broken.items()], "warn")
        )
    changed = [row for row in single if row.items == "changed" and row.score.k == k]
    every = [row for row in single if row.items == "all" and row.score.k == k]
    made = [
        [
            name,
            percent(report.changed[name]),
            percent(report.rejected[name]),
            "; ".join(f"{n}x {r}" for r, n in report.skipped[name].items()),
        ]
        for name in report.changed
    ]
    caption = "Nominal prompts against edited ones. The worst seed decides about robustness; the mean over seeds hides it."
    sections = [
        Section(
            "By category",
            [Table("The worst over all transformations and seeds of a category", header, _cells(groups), "lr", note=note)],
        ),
        Section(
            "By transformation",
            [
                Picture(figure_svg(robustness_figure(report), caption), caption),
                Table("All problems", header, _cells(every), "nr"),
                Table("Only problems whose prompt changed", header, _cells(changed), "nr"),
            ],
        ),
        Section("Edits", [Table("What was made", ["", "changed", "refused by the gate", "left alone because"], made, "nrrt")]),
        Section("Prompts that broke an answer", _shown(report.failures)),
        Section("Setting", [Facts(_setting(report))]),
    ]
    return write_page(path, Page(f"Code under harmless edits: {report.model}", "ReCode", first, sections))


def _cells(rows: list[ScoreRow]) -> list[list[str]]:
    return [
        [
            row.name if row.items == "all" else f"{row.name}, changed only",
            str(row.score.problems),
            percent(row.score.nominal),
            percent(row.score.average),
            percent(row.score.robust),
            _points(row.score.drop),
            _points(row.score.relative),
            "none solved" if row.score.broken is None else percent(row.score.broken),
        ]
        for row in rows
    ]


def _points(value: float | None) -> str:
    return "none solved" if value is None else f"{value:.1f} %"


def _shown(failures: list[Failure]) -> list[Block]:
    if not failures:
        return [Text(["No edit broke a right answer."])]
    blocks: list[Block] = [
        Text([f"{len(failures)} in all; {min(SHOWN, len(failures))} of them, spread over the transformations."])
    ]
    seen: dict[str, int] = {}
    ranked = []
    for one in failures:
        seen[one.transform] = seen.get(one.transform, 0) + 1
        ranked.append((seen[one.transform], one))
    for _, one in sorted(ranked, key=lambda pair: pair[0])[:SHOWN]:
        blocks.append(Text([f"{one.task_id}, {one.transform}, seed {one.seed}: {one.status} ({one.error})"]))
        blocks.append(Code(f"{one.nominal_prompt}{one.nominal_completion}"))
        blocks.append(Code(f"{one.prompt}{one.completion}"))
    return blocks


def _setting(report: CodeRobustnessReport) -> dict[str, object]:
    return {
        "Model": report.model,
        "Fingerprint": report.fingerprint,
        "Problems": report.problems,
        "Seeds of random edits": report.seeds,
        "Decoding": vars(report.decoding),
        "Nominal pass, full prompts": {f"k={k}": percent(v) for k, v in report.nominal.items()},
        "Nominal pass, prompts with half of a solution": {f"k={k}": percent(v) for k, v in report.nominal_partial.items()},
        "Sandbox": report.isolation,
    }
