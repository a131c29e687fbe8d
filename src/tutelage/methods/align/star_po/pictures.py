"""Figures of a robustness map, and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tutelage.auditing.figures import INK, MARKERS, MUTED, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Notice, Page, Picture, Section, Table, write_page
from tutelage.core.rng import numpy_generator
from tutelage.methods.align.star_po.grid import RobustnessMap


def spread_figure(found: RobustnessMap) -> Figure:
    """Test reward of every configuration of every method; the line is the SFT model, the bar the mean of a method."""
    figure, (axes,) = new_figure(1.0 + 0.62 * len(found.methods), width=6.4)
    rng = numpy_generator(0, "jitter")
    for i, method in enumerate(found.methods):
        colour = SERIES[i % len(SERIES)]
        for row in found.of(method):
            ok = row.status == "ok"
            value = (row.test if ok else found.sft["test"])["reward"]
            place = i + float(rng.uniform(-0.22, 0.22))
            axes.plot(
                value, place, MARKERS[i % len(MARKERS)] if ok else "x", color=colour, markersize=5, alpha=0.75, linestyle=""
            )
        mean = float(np.mean([found.spread(method, seed).mean for seed in found.seeds]))
        axes.plot([mean, mean], [i - 0.34, i + 0.34], color=INK, linewidth=2.2, zorder=4)
    axes.axvline(found.sft["test"]["reward"], color=MUTED, linestyle=":", linewidth=1.4, zorder=1)
    axes.set_yticks(range(len(found.methods)), found.methods)
    axes.set_ylim(len(found.methods) - 0.5, -0.5)
    axes.set_xlabel("reward on test prompts")
    handles = [
        Line2D([], [], color=INK, linewidth=2.2, label="mean of the grid"),
        Line2D([], [], color=MUTED, linestyle=":", label="SFT model"),
        Line2D([], [], color=MUTED, marker="x", linestyle="", markersize=5, label="failed"),
    ]
    shown = handles if any(found.failed(method) for method in found.methods) else handles[:2]
    figure.legend(handles=shown, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def expected_best_figure(found: RobustnessMap) -> Figure:
    """E_k against k: what the best of k random configurations scores, chosen on validation prompts."""
    figure, (axes,) = new_figure(3.4, width=6.4)
    for i, method in enumerate(found.methods):
        n = len(found.of(method, found.seeds[0]))
        values = [found.expected_best(method, k) for k in range(1, n + 1)]
        axes.plot(
            range(1, n + 1), values, color=SERIES[i % len(SERIES)], marker=MARKERS[i % len(MARKERS)], markersize=4.5,
            linewidth=1.6, label=method,
        )  # fmt: skip
    axes.axhline(found.sft["test"]["reward"], color=MUTED, linestyle=":", linewidth=1.4, label="SFT model")
    axes.set_xlabel("configurations tried, k")
    axes.set_ylabel("expected test reward")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=min(5, len(found.methods) + 1), frameon=False, fontsize=9)
    return figure


def price_figure(found: RobustnessMap) -> Figure:
    """What the reward costs: divergence from the SFT model above, length below; a point a configuration, means over seeds."""
    figure, panels = new_figure(5.2, (1.0, 1.0), width=6.4)
    for axes, metric, label in zip(panels, ("kl", "length"), ("KL to the SFT model, nats", "length, tokens"), strict=True):
        for i, method in enumerate(found.methods):
            x, y = (
                np.mean([found.scores(method, seed, "test", one) for seed in found.seeds], axis=0) for one in (metric, "reward")
            )
            axes.plot(x, y, MARKERS[i % len(MARKERS)], color=SERIES[i % len(SERIES)], markersize=5, alpha=0.8, linestyle="")
        sft = found.sft["test"]
        axes.plot(sft[metric], sft["reward"], "*", color=INK, markersize=10, linestyle="")
        if metric == "kl":
            axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlabel(label)
        axes.set_ylabel("test reward")
    handles = [
        Line2D([], [], color=SERIES[i % len(SERIES)], marker=MARKERS[i % len(MARKERS)], linestyle="", markersize=5, label=name)
        for i, name in enumerate(found.methods)
    ]
    handles.append(Line2D([], [], color=INK, marker="*", linestyle="", markersize=9, label="SFT model"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    return figure


CAPTIONS = (
    (spread_figure, "Reward on test prompts of every configuration and seed. The best cell is one dot among them."),
    (
        expected_best_figure,
        "What a practitioner gets who tries k random configurations and keeps the best on validation prompts.",
    ),
    (price_figure, "What the reward costs: divergence from the SFT model, and length. One point a configuration."),
)


def write_map(path: Path | str, found: RobustnessMap, *, k: int = 1) -> Path:
    """Write the page of a robustness map, with the recommendation for k configurations, and return its path."""
    first: list[Block] = []
    if len(found.methods) > 1:
        said = found.recommend(k)
        title = f"Take {said.method}" if said.clear else f"{said.method}, without a clear lead"
        first.append(Notice(title, [str(said)], "good" if said.clear else "warn"))
    plain = "" if found.decoding.is_plain else " along decoded answers (not by plain sampling)"
    sft = found.sft["test"]
    facts = {
        "SFT model": f"reward {sft['reward']:.3f}, length {sft['length']:.1f}",
        "Tokens, chosen less rejected": f"{found.length_gap:+.1f}",
        "Divergence": f"Rao-Blackwell{plain}",
        "Seeds": ", ".join(map(str, found.seeds)),
    }
    first.append(Facts(facts))
    header = ["method", "n", "failed", "mean", "s.d.", "worst", "25 %", "chosen", "length there", "KL", "length", "cut off"]
    rows = [
        [
            one["method"], str(one["configurations"]), str(one["failed"]),
            *(f"{one[key]:.3f}" for key in ("mean", "sd", "worst", "q25", "chosen")),
            *(f"{one[key]:.1f}" for key in ("chosen_length", "kl", "length")), f"{100 * one['truncated']:.0f} %",
        ]
        for one in found.table
    ]  # fmt: skip
    every = [
        [row.method, str(row.setting), str(row.seed), *_cells(row.test), _number(row.validation, "reward"), row.error]
        for row in found.rows
    ]
    names = ["method", "setting", "seed", "reward", "win rate", "KL", "length", "on validation", "failure"]
    sections = [
        Section("Methods over their grids", [Table("Means over seeds; rewards on test prompts", header, rows)]),
        Section("Pictures", [Picture(figure_svg(draw(found), caption), caption) for draw, caption in CAPTIONS]),
        Section("Every training", [Table("Each configuration and seed", names, every)]),
    ]
    return write_page(Path(path), Page("Robustness map", "Preference optimisation", first, sections))


def _cells(test: object) -> list[str]:
    return [_number(test, key) for key in ("reward", "win_rate", "kl", "length")]


def _number(values: object, key: str) -> str:
    return f"{values[key]:.3f}" if isinstance(values, dict) and key in values else "–"
