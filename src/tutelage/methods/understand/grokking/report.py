"""The pages of an examination and of a phase diagram, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from tutelage.auditing.figures import INK, MARKERS, MUTED, SERIES, SURFACE, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Notice, Page, Picture, Section, Table, Text, Tone, percent, titled, write_page
from tutelage.core.errors import InputError
from tutelage.methods.understand.grokking.diagram import AXES, Axis, PhaseDiagram
from tutelage.methods.understand.grokking.measure import PHASES, Phase
from tutelage.methods.understand.grokking.microscope import Examination
from tutelage.methods.understand.grokking.pruning import PruningCurve
from tutelage.methods.understand.grokking.training import History, describe

KINDS = (("test", "test", 0), ("clean", "clean training labels", 2), ("corrupted", "corrupted training labels", 1))
MEANINGS: dict[Phase, str] = {
    "coexistence": "The rule is learnt and the wrong labels are memorised as well, by different neurons.",
    "partial inversion": "The rule is learnt; some of the wrong labels are ignored.",
    "full inversion": "The rule is learnt, and the wrong labels are ignored: training accuracy lies below test accuracy.",
    "memorisation": "The training labels are memorised, the wrong ones too; the rule is not learnt.",
    "confusion": "Neither the training labels nor the rule are known.",
}
LETTERS: dict[Phase, str] = dict(zip(PHASES, "CPIMX", strict=True))
COLOURS: dict[Phase, str] = dict(zip(PHASES, (SERIES[2], SERIES[4], SERIES[0], SERIES[1], MUTED), strict=True))
AXIS_NAMES: dict[str, str] = {"alpha": "share of pairs trained on, alpha", "weight_decay": "weight decay", "dropout": "dropout"}


def pruning_figure(curve: PruningCurve) -> Figure:
    """Accuracy against the share of pruned neurons: a panel an order, a line a kind of question."""
    orders = list(dict.fromkeys(row.order for row in curve.rows))
    figure, panels = new_figure(2.1 * len(orders) + 0.8, [1.0] * len(orders))
    names = {"low": f"lowest {curve.scored_by} first", "high": f"highest {curve.scored_by} first"}
    for axes, order in zip(panels, orders, strict=True):
        rows = curve.of(order)
        for key, _, i in KINDS:
            values = [100 * getattr(row.accuracies, key) for row in rows]
            axes.plot(
                [100 * row.fraction for row in rows], values, color=SERIES[i], marker=MARKERS[i], markersize=4, linewidth=1.5
            )
        draws = rows[0].draws
        random = f"random order (mean of {draws})" if draws > 1 else "random order"
        axes.set_title(names.get(order, random), loc="left", fontsize=9.5)
        axes.set_ylim(-4, 104)
        axes.set_ylabel("accuracy, %")
    panels[-1].set_xlabel("neurons pruned, %")
    handles = [Line2D([], [], color=SERIES[i], marker=MARKERS[i], markersize=4, label=name) for _, name, i in KINDS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def history_figure(history: History) -> Figure:
    """Accuracies and, below, the mean IPR of the neurons against the step."""
    with_ipr = "mean_ipr" in history.rows[-1]
    figure, panels = new_figure(4.4 if with_ipr else 3.2, (2.0, 1.0) if with_ipr else (1.0,))
    steps = [row["step"] for row in history.rows]
    for key, _, i in KINDS:
        panels[0].plot(steps, [100 * row[key] for row in history.rows], color=SERIES[i], marker=MARKERS[i], markersize=3.5)
    target = 100 * (1 - history.xi)
    panels[0].axhline(target, color=INK, linewidth=0.8, linestyle=":", zorder=1)
    train = [100 * row["train"] for row in history.rows]
    panels[0].plot(steps, train, color=INK, linewidth=1.4, linestyle="--")
    panels[0].set_ylabel("accuracy, %")
    panels[0].set_ylim(-4, 104)
    if with_ipr:
        panels[1].plot(steps, [row["mean_ipr"] for row in history.rows], color=SERIES[3], marker=MARKERS[3], markersize=3.5)
        panels[1].set_ylabel("mean IPR")
        panels[1].set_ylim(0, 1)
    panels[-1].set_xlabel("step")
    handles = [Line2D([], [], color=SERIES[i], marker=MARKERS[i], markersize=4, label=name) for _, name, i in KINDS]
    handles.append(Line2D([], [], color=INK, linestyle="--", label="all training labels"))
    handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=0.8, label="1 - xi"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def neurons_figure(found: Examination) -> Figure:
    """How many neurons have which IPR, and the weights of the most and of the least periodic one."""
    figure, (histogram, high, low) = new_figure(5.2, (1.5, 1.0, 1.0))
    values = found.ipr.numpy()
    histogram.hist(values, bins=np.linspace(0, 1, 41), color=SERIES[0])
    histogram.set_xlabel("IPR of a neuron")
    histogram.set_ylabel("neurons")
    for axes, which, name in ((high, int(values.argmax()), "highest"), (low, int(values.argmin()), "lowest")):
        weights = found.incoming[which][: found.data.p].numpy()
        axes.plot(range(len(weights)), weights, color=SERIES[0], linewidth=1.2, marker=".", markersize=4)
        axes.axhline(0, color=INK, linewidth=0.6, zorder=0)
        axes.set_title(f"weights of the neuron of {name} IPR, {values[which]:.2f}", loc="left", fontsize=9.5)
    low.set_xlabel("first token m")
    return figure


def gain_figure(found: Examination) -> Figure:
    """The scale of each neuron in the norm layer against its IPR."""
    if found.gain is None:
        raise InputError("found", "a net without a norm layer", "one whose neurons have a gain")
    figure, (axes,) = new_figure(3.2)
    axes.plot(found.ipr.numpy(), found.gain.numpy(), linestyle="", marker="o", markersize=4, color=SERIES[0], alpha=0.6)
    axes.set_xlabel("IPR of a neuron")
    axes.set_ylabel("|scale| in the norm layer")
    return figure


def diagram_figure(diagram: PhaseDiagram) -> Figure:
    """Corruption xi upwards against the first axis with several values; a panel for each value of the others."""
    across = next((axis for axis in AXES if len(diagram.values(axis)) > 1), "alpha")
    others: list[Axis] = [axis for axis in AXES if axis != across]
    panels = [(a, b) for a in diagram.values(others[0]) for b in diagram.values(others[1])]
    columns, rows = diagram.values(across), diagram.values("xi")
    figure, axes_list = new_figure(1.0 + len(panels) * (0.6 + 0.3 * len(rows)), [1.0] * len(panels))
    for axes, values in zip(axes_list, panels, strict=True):
        axes.grid(False)
        for (i, column), (j, xi) in ((c, r) for c in enumerate(columns) for r in enumerate(rows)):
            at: dict[str, float] = {across: column, "xi": xi, others[0]: values[0], others[1]: values[1]}
            phase = diagram.phase(**at)
            axes.add_patch(Rectangle((i - 0.5, j - 0.5), 1, 1, facecolor=COLOURS[phase], edgecolor=SURFACE, linewidth=1))
            axes.text(i, j, LETTERS[phase], ha="center", va="center", fontsize=9, color=SURFACE, fontweight="bold")
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(-0.5, len(rows) - 0.5)
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set_ylabel("corrupted, xi")
        title = ", ".join(f"{AXIS_NAMES[axis].split(',')[0]} {value:g}" for axis, value in zip(others, values, strict=True))
        axes.set_title(title, loc="left", fontsize=9.5)
    axes_list[-1].set_xlabel(AXIS_NAMES[across])
    handles = [Patch(color=COLOURS[phase], label=f"{LETTERS[phase]}  {phase}") for phase in PHASES]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def write_report(path: Path, found: Examination) -> Path:
    """Write the page of an examination to `path` and return it."""
    one = found.accuracies
    tone: Tone = "good" if "inversion" in found.phase else "plain" if found.phase == "coexistence" else "bad"
    numbers = Facts(
        {
            "Test accuracy": percent(one.test),
            "Training accuracy, labels as given": f"{percent(one.train)} (1 - xi is {percent(1 - found.data.xi)})",
            "Training accuracy, clean labels": _share(one.clean),
            "Training accuracy, corrupted labels": f"{_share(one.corrupted)} (chance agreement {percent(1 / found.data.p)})",
            "Really wrong labels: memorised": _share(one.memorised),
            "Really wrong labels: answered rightly": _share(one.restored),
            "Mean IPR": f"{float(found.ipr.mean()):.3f}",
        }
    )
    first: list[Block] = [Notice(f"Phase: {found.phase}", [MEANINGS[found.phase]], tone), numbers]
    if found.warnings:
        first.append(Notice("Mind this", found.warnings, "warn"))
    caption = (
        "Accuracy as neurons are pruned, without training again. If the rule sits in periodic neurons, the wrong labels are "
        "forgotten long before the rule when low IPR goes first, and not so in random order."
    )
    rows = [
        [row.order, f"{100 * row.fraction:.0f} %", *(_share(getattr(row.accuracies, key)) for key, _, _ in KINDS)]
        for row in found.curve.rows
    ]
    table = Table("Every point of the curves", ["order", "pruned", *(name for _, name, _ in KINDS)], rows)
    neurons = (
        "Above: neurons by inverse participation ratio (IPR): 1 is a single frequency. Below: the incoming weights of the "
        "most and of the least periodic neuron, over the first token."
    )
    sections = [
        Section("Pruning", [_picture(pruning_figure(found.curve), caption), table]),
        Section("Neurons", [_picture(neurons_figure(found), neurons)]),
    ]
    if found.gain is not None:
        text = f"Scale of each neuron in the norm layer against its IPR; rank correlation {found.gain_correlation:+.2f}."
        sections.append(Section("Norm layer", [_picture(gain_figure(found), text)]))
    if found.history is not None:
        text = "Accuracies on the way, the mean IPR below. Nothing was selected by test accuracy."
        settings = Facts(titled(describe(found.history.config)))
        sections.append(Section("Training", [_picture(history_figure(found.history), text), settings]))
    sections.append(Section("Data", [Facts(titled(found.data.describe()))]))
    return write_page(path, Page(f"Grokking: {found.phase}", "Memorisation microscope", first, sections))


def write_diagram(path: Path, diagram: PhaseDiagram) -> Path:
    """Write the page of a phase diagram to `path` and return it."""
    caption = "The phase of the net at the end of training, by the accuracies averaged over seeds."
    meanings = Table("Phases", ["", "phase", "what it means"], [[LETTERS[p], p, MEANINGS[p]] for p in PHASES], "lnt")
    rows = [
        [
            f"{c.xi:g}", f"{c.alpha:g}", f"{c.weight_decay:g}", f"{c.dropout:g}", str(c.seed), c.phase, percent(c.train),
            percent(c.test), _share(c.corrupted), f"{c.mean_ipr:.2f}",
        ]
        for c in diagram.cells
    ]  # fmt: skip
    header = ["xi", "alpha", "decay", "dropout", "seed", "phase", "train", "test", "corrupted", "IPR"]
    task = {"Task": f"{diagram.operation}, mod {diagram.p}", "Width": diagram.width}
    sections = [
        Section("Every net", [Table("At the end of training", header, rows, "rrrrrn" + "r")]),
        Section("Training", [Facts({**task, **titled(describe(diagram.config), without=("weight decay", "log every"))})]),
    ]
    first: list[Block] = [Text([caption]), _picture(diagram_figure(diagram), caption), meanings]
    return write_page(path, Page("Grokking: phase diagram", "Memorisation microscope", first, sections))


def _picture(figure: Figure, caption: str) -> Picture:
    return Picture(figure_svg(figure, caption), caption)


def _share(value: Any) -> str:
    return percent(value) if value == value else "none there"
