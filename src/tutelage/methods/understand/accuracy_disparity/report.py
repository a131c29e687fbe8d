"""The page of a disparity audit: the decomposition, the two-row figure of the paper, every effect and every model."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tutelage.auditing.figures import INK, MARKERS, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Notice, Page, Picture, Section, Table, Text, write_page
from tutelage.methods.understand.accuracy_disparity.audit import DisparityAudit, Estimate

CAPTION = (
    "Above: Delta_AD, the class gap that robust training adds to that of standard training. Below: Delta_ACC, the accuracy "
    "that it takes, with the classes as frequent as in training. Means over seeds with 95 % intervals, one line an eps."
)


def disparity_figure(audit: DisparityAudit) -> Figure:
    """Delta_AD and Delta_ACC against the ratio, in percentage points, one line an eps; predictions dashed."""
    figure, panels = new_figure(6.2, (1.0, 1.0))
    ratios = sorted({row.ratio for row in audit.table})
    sizes = sorted({row.eps for row in audit.table})
    for i, eps in enumerate(sizes):
        colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        rows = [audit.effect(ratio, eps) for ratio in ratios]
        for which, axes in enumerate(panels):
            found = [row.delta_accuracy if which else row.delta_disparity for row in rows]
            values = [100 * one.value for one in found]
            ends = [one.ci95 or (one.value, one.value) for one in found]
            bars = [
                [max(0.0, v - 100 * lo) for v, (lo, _) in zip(values, ends, strict=True)],
                [max(0.0, 100 * hi - v) for v, (_, hi) in zip(values, ends, strict=True)],
            ]
            axes.errorbar(ratios, values, yerr=bars, color=colour, marker=marker, markersize=6, linewidth=1.6, capsize=3)
            if audit.predicted is not None:
                law = [100 * audit.predicted(ratio, eps)[which] for ratio in ratios]
                axes.plot(ratios, law, color=colour, linewidth=1.4, linestyle="--", zorder=1)
    for axes, name in zip(panels, ("gap added, points", "accuracy lost, points"), strict=True):
        axes.set_xscale("log")
        axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axes.minorticks_off()
        axes.set_ylabel(name)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=0)
    panels[-1].set_xlabel("imbalance ratio, majority / minority")
    handles = [
        Line2D([], [], color=SERIES[i % len(SERIES)], marker=MARKERS[i % len(MARKERS)], label=f"eps {eps:g}")
        for i, eps in enumerate(sizes)
    ]
    if audit.predicted is not None:
        handles.append(Line2D([], [], color=INK, linestyle="--", label="predicted"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def write_report(path: Path, audit: DisparityAudit, *, title: str = "Accuracy disparity") -> Path:
    """Write the page to `path` and return it."""
    words = (
        "Every model was measured on the same test data, each class by itself. The gap is the accuracy of the majority "
        "minus that of the minority. What robustness costs without imbalance is inherent; what it adds to the gap "
        "beyond that is the work of imbalance."
    )
    first: list[Block] = [Text([words])]
    if audit.warnings:
        first.append(Notice("Mind this", audit.warnings, "warn"))
    ratios = sorted(audit.decomposition[0].by_imbalance)
    split = Table(
        "What comes from robustness itself, and what from imbalance, in percentage points",
        ["eps", "accuracy lost, balanced", *(f"gap added beyond that of ratio 1, ratio {ratio:g}" for ratio in ratios)],
        [[f"{p.eps:g}", _points(p.inherent), *(_points(p.by_imbalance[r]) for r in ratios)] for p in audit.decomposition],
    )
    effects = Table(
        "Robust against standard models, in percentage points",
        ["ratio", "eps", "gap, standard", "gap, robust", "gap added", "accuracy lost"],
        [
            [
                f"{row.ratio:g}", f"{row.eps:g}", _points(row.disparity_standard), _points(row.disparity_robust),
                _points(row.delta_disparity), _points(row.delta_accuracy),
            ]
            for row in audit.table
        ],
        note="In brackets: 95 % Student-t intervals over seeds; standard and robust models are paired by seed.",
    )  # fmt: skip
    models = Table(
        "Accuracy of every model, %",
        ["ratio", "eps", "seed", "majority", "minority"],
        [
            [f"{r.ratio:g}", f"{r.eps:g}", str(r.seed), f"{100 * r.acc_majority:.1f}", f"{100 * r.acc_minority:.1f}"]
            for r in audit.rows
        ],
    )
    sections = [
        Section("Decomposition", [split, Picture(figure_svg(disparity_figure(audit), CAPTION), CAPTION)]),
        Section("Effects", [effects]),
        Section("Models", [models]),
    ]
    if audit.data:
        sections.append(Section("Data", [Facts({name.capitalize(): text for name, text in audit.data.items()})]))
    return write_page(path, Page(title, "Class gaps of standard and robust models", first, sections))


def _points(one: Estimate) -> str:
    text = f"{100 * one.value:+.1f}"
    return text if one.ci95 is None else f"{text} [{100 * one.ci95[0]:+.1f}, {100 * one.ci95[1]:+.1f}]"
