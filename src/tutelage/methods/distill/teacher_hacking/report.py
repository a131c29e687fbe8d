"""The page of a hacking report, and its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tutelage.auditing.figures import INK, MARKERS, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Notice, Page, Picture, Section, Table, Text, Tone, write_page
from tutelage.methods.distill.teacher_hacking.monitor import HackingReport, Verdict

TITLES: dict[Verdict, str] = {
    "hacking": "Teacher hacking",
    "none": "No teacher hacking seen",
    "undecided": "Undecided",
}
TONES: dict[Verdict, Tone] = {"hacking": "bad", "none": "good", "undecided": "warn"}


def curves_figure(found: HackingReport) -> Figure:
    """Both distances against the epoch, and below, where there is an oracle, golden against proxy, a point a measurement."""
    figure, panels = new_figure(5.6 if found.golden else 3.2, (1.0, 1.0) if found.golden else (1.0,))
    axes = panels[0]
    shown = [max(epoch, 0.5) for epoch in found.epochs]  # epoch 0 has no place on a logarithmic axis
    axes.plot(
        shown, found.proxy, color=SERIES[0], marker=MARKERS[0], markersize=3.5, linewidth=1.3, label="proxy, to the teacher"
    )
    if found.golden:
        axes.plot(
            shown,
            found.golden,
            color=SERIES[1],
            marker=MARKERS[1],
            markersize=3.5,
            linewidth=1.3,
            label="golden, to the oracle",
        )
    if found.teacher_gap is not None:
        axes.axhline(found.teacher_gap, color=INK, linewidth=0.8, linestyle=":", label="teacher gap")
    if found.powerlaw.window is not None:
        line = np.geomspace(found.powerlaw.window[0], max(found.epochs), 40)
        axes.plot(
            line, [found.powerlaw.at(epoch) for epoch in line], color=INK, linewidth=0.9, linestyle="--", label="power law"
        )
    if found.stop_at and found.verdict == "hacking":
        axes.axvline(found.stop_at, color=SERIES[3], linewidth=1.0, label=f"stop at {found.stop_at}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for place in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter, axes.xaxis.set_major_formatter):
        place(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("epoch (the first point: before)")
    axes.set_ylabel("nats a token")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    if found.golden:
        axes = panels[1]
        axes.plot(found.proxy, found.golden, color=SERIES[0], marker=MARKERS[0], markersize=3.5, linewidth=1.0)
        axes.annotate(
            "start", (found.proxy[0], found.golden[0]), textcoords="offset points", xytext=(-6, 6), ha="right", fontsize=8
        )
        axes.annotate("end", (found.proxy[-1], found.golden[-1]), textcoords="offset points", xytext=(6, 6), fontsize=8)
        axes.set_xlabel("proxy distance, nats a token")
        axes.set_ylabel("golden distance")
    return figure


def write_hacking_report(found: HackingReport, path: Path | str) -> Path:
    """Write the page of a report to `path` and return it."""
    facts = {"Answers measured on": found.answers, "Source of the answers": found.source or "not told"}
    facts["Distance to the teacher"] = f"{found.proxy[0]:.4f} before, {found.proxy[-1]:.4f} at the end, nats a token"
    if found.golden is not None and found.excess is not None and found.excess_interval is not None:
        low, high = found.excess_interval
        facts["Distance to the oracle"] = (
            f"{found.golden[0]:.4f} before, {min(found.golden):.4f} at epoch {found.stop_at}, {found.golden[-1]:.4f} at the end"
        )
        facts["Lost since its minimum"] = f"{found.excess:.4f} [{low:.4f}, {high:.4f}]"
        facts["Teacher to the oracle"] = f"{found.teacher_gap:.4f}"
    law = found.powerlaw
    if law.window is None:
        facts["Power law"] = "no window of the curve fits one"
    else:
        left = f"left at epoch {law.flagged}, {'above' if law.above else 'below'} it" if law.flagged else "holds to the end"
        facts["Power law"] = f"exponent {law.c:.3f}, fitted to epochs {law.window[0]} to {law.window[1]}; {left}"
    what = {
        "hacking": f"From epoch {found.since_epoch} to {found.first_epoch} the student came nearer to its teacher and went "
        "away from the oracle."
        if found.golden
        else "The distance to the teacher left its power law. Without an oracle that is a suspicion.",
        "none": "The golden distance did not rise." if found.golden else "The distance to the teacher follows its power law.",
        "undecided": "What was measured does not tell.",
    }[found.verdict]
    first: list[Block] = [Notice(TITLES[found.verdict], [what, *found.advice], TONES[found.verdict]), Facts(facts)]
    caption = (
        "Distances on frozen answers of the reference. Below: the same points against each other; hacking turns the curve up."
    )
    header = ["epoch", "train", "proxy", "proxy, whole answer"] + (["golden", "golden, whole answer"] if found.golden else [])
    rows = [
        [
            str(epoch),
            f"{found.train[i]:.4f}" if found.train[i] == found.train[i] else "",
            f"{found.proxy[i]:.4f}",
            f"{found.proxy_sum[i]:.3f}",
            *([f"{found.golden[i]:.4f}", f"{found.golden_sum[i]:.3f}"] if found.golden and found.golden_sum else []),
        ]
        for i, epoch in enumerate(found.epochs)
    ]
    picture = Picture(figure_svg(curves_figure(found), caption), caption)
    note = Text(
        ["Hacking: proxy(e1) <= proxy(e0) and golden(e1) > golden(e0) + 2 s.e. for some epochs e0 < e1; arXiv 2502.02671."]
    )
    sections = [Section("Curves", [picture, note]), Section("Measurements", [Table("Nats", header, rows)])]
    return write_page(Path(path), Page(f"Distillation: {TITLES[found.verdict].lower()}", "Teacher hacking", first, sections))
