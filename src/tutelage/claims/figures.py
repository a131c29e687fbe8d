"""The two pictures of a claim: every arm on two axes, and every sentence with its interval."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tutelage.auditing.figures import (
    GRID,
    INK,
    MUTED,
    SERIES,
    SURFACE,
    Label,
    new_figure,
    place_labels,
)
from tutelage.claims.claim import Claim, ClaimResult, SentenceResult
from tutelage.core.errors import InputError
from tutelage.core.stats import mean_t

BLUE, VERMILLION, GREEN = SERIES[:3]
# role -> colour, marker, size; roles differ in more than colour
LOOKS = {
    "method": (BLUE, "D", 8.5),
    "baseline": (VERMILLION, "s", 8),
    "control": (MUTED, "X", 8),
    "sweep": (GREEN, "o", 6),
    "arm": (INK, "o", 6),
}
VERDICT_LOOKS = {"holds": (BLUE, "o", True), "does not hold": (VERMILLION, "X", True), "undecided": (MUTED, "o", False)}
ZOOM = 0.45  # an overview is added if the arms that are not controls take up less of the range than this


@dataclass(frozen=True)
class _Arm:
    """An arm on two axes: means, 95 % intervals (None for a single unit), and the units themselves."""

    name: str
    role: str
    x: float
    y: float
    x95: tuple[float, float] | None
    y95: tuple[float, float] | None
    units: Sequence[tuple[float, float]]

    @property
    def bars(self) -> list[tuple[float, float, float, float]]:
        if self.x95 is None or self.y95 is None:
            return []
        return [(self.x95[0], self.y, self.x95[1], self.y), (self.x, self.y95[0], self.x, self.y95[1])]

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The points that a picture of this arm must contain."""
        ends = [point for x0, y0, x1, y1 in self.bars for point in ((x0, y0), (x1, y1))]
        return [(self.x, self.y), *self.units, *ends]


def tradeoff_figure(claim: Claim, result: ClaimResult) -> Figure:
    """Every arm in the claim's two `axes`: mean over units with 95 % Student-t intervals both ways, units faint.

    Arms that differ in a trailing number are joined in its order. Where controls lie far from the other arms, an
    overview below shows all of them. Raises InputError for a claim without axes or a result without a finished cell.
    """
    if claim.axes is None:
        raise InputError("claim", f"{claim.slug} without axes", "a claim that names two metrics to draw")
    arms = _arms(claim, result)
    if not arms:
        raise InputError("result", "no cell with both metrics", f"rows with {' and '.join(claim.axes)}")
    names = [metric_label(claim, metric) for metric in claim.axes]
    near = [arm for arm in arms if arm.role != "control"] or arms
    far = _part(near, arms) < ZOOM
    figure, panels = new_figure(*((7.2, (2.6, 1.0)) if far else (5.0, (1.0,))))
    main = panels[0]
    main.set(xlabel=names[0], ylabel=names[1])
    percent = all("%" in name for name in names)
    shown = _set_limits(main, near if far else arms, 0.1, percent=percent)
    if percent:
        _equal_means(main)
    _draw(main, claim, arms)
    _legend(figure, arms, percent=percent)
    if far:
        overview = panels[1]
        _set_limits(overview, arms, 0.08, percent=percent)
        _draw(overview, claim, arms)
        (x0, x1), (y0, y1) = shown
        overview.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=INK, linewidth=1, linestyle=":"))
        main.set_title("The part in the dotted box below", fontsize=9.5, loc="left", color=MUTED)
        overview.set_title("All arms: the same axes, wider", fontsize=9.5, loc="left", color=MUTED)
        outside = [arm for arm in arms if not (x0 <= arm.x <= x1 and y0 <= arm.y <= y1)]
        _name(overview, outside, [arm for arm in arms if arm not in outside])
        _name(main, [arm for arm in arms if arm not in outside])
    else:
        _name(main, arms)
    return figure


def _arms(claim: Claim, result: ClaimResult) -> list[_Arm]:
    assert claim.axes is not None
    primary = claim.sentences[0]
    swept = {arm for group in _sweeps(result.arms) for arm in group}
    arms = []
    for name in result.arms:
        first, second = (result.values(name, metric) for metric in claim.axes)
        units = [(first[unit], second[unit]) for unit in sorted(first.keys() & second.keys())]
        if not units:
            continue
        roles = {primary.method: "method", primary.baseline: "baseline", **dict.fromkeys(claim.controls, "control")}
        role = roles.get(name, "sweep" if name in swept else "arm")
        (x, x95), (y, y95) = (_mean([unit[axis] for unit in units]) for axis in (0, 1))
        arms.append(_Arm(name, role, x, y, x95, y95, units))
    return arms


def _mean(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    if len(values) < 2:
        return values[0], None
    mean, interval = mean_t(values)
    return mean, (interval.lo, interval.hi)


def _sweeps(names: Sequence[str]) -> list[list[str]]:
    """Arms that are alike but for a number at their end, two or more, in the order of that number."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)", name):
            groups.setdefault(match[1], []).append((float(match[2]), name))
    return [[name for _, name in sorted(group)] for group in groups.values() if len(group) > 1]


def _part(arms: Sequence[_Arm], whole: Sequence[_Arm]) -> float:
    """The part of the range of `whole` that `arms` take up, on the axis on which it is smaller."""
    parts = [1.0]
    for axis in (0, 1):
        own, all_values = ([point[axis] for arm in some for point in arm.corners] for some in (arms, whole))
        if max(all_values) > min(all_values):
            parts.append((max(own) - min(own)) / (max(all_values) - min(all_values)))
    return min(parts)


def _set_limits(axes: Any, arms: Sequence[_Arm], pad: float, *, percent: bool) -> list[tuple[float, float]]:
    """Show all of `arms`, with some room; of the interval of a percentage what is possible."""
    limits = []
    for axis, setter in enumerate((axes.set_xlim, axes.set_ylim)):
        values = [point[axis] for arm in arms for point in arm.corners]
        room = pad * ((max(values) - min(values)) or 1.0)
        low, high = min(values) - room, max(values) + room
        limits.append((max(low, -4.0), min(high, 104.0)) if percent else (low, high))
        setter(*limits[-1])
    return limits


def _draw(axes: Any, claim: Claim, arms: Sequence[_Arm]) -> None:
    by_name = {arm.name: arm for arm in arms}
    for group in _sweeps(list(by_name)):
        line = [by_name[name] for name in group]
        axes.plot([a.x for a in line], [a.y for a in line], color=GREEN, linewidth=1.4, zorder=2)
    for arm in sorted(arms, key=lambda a: list(LOOKS).index(a.role), reverse=True):
        colour, marker, size = LOOKS[arm.role]
        dots = dict.fromkeys(arm.units)  # hundreds of units often share a few points
        axes.plot(*zip(*dots, strict=True), ".", color=colour, alpha=0.5, markersize=5, markeredgewidth=0, zorder=2)
        for x0, y0, x1, y1 in arm.bars:
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1.1, alpha=0.75, zorder=3, solid_capstyle="butt")
        axes.plot(arm.x, arm.y, marker, color=colour, markersize=size, markeredgecolor=SURFACE, markeredgewidth=0.7, zorder=4)


def _name(axes: Any, arms: Sequence[_Arm], others: Sequence[_Arm] = ()) -> None:
    """Write the names of `arms` beside their points; `others` are drawn too, but not named."""
    order = sorted(arms, key=lambda arm: list(LOOKS).index(arm.role))
    labels = [Label(arm.x, arm.y, arm.name, LOOKS[arm.role][0], bold=arm.role in ("method", "baseline")) for arm in order]
    drawn = [*arms, *others]
    place_labels(axes, labels, [bar for arm in drawn for bar in arm.bars] + _sweep_pieces(drawn))


def _sweep_pieces(arms: Sequence[_Arm]) -> list[tuple[float, float, float, float]]:
    """The lines of the sweeps in short pieces, for names to keep off."""
    by_name = {arm.name: arm for arm in arms}
    pieces = []
    for group in _sweeps(list(by_name)):
        for a, b in pairwise(by_name[name] for name in group):
            steps = [(a.x + (b.x - a.x) * t / 24, a.y + (b.y - a.y) * t / 24) for t in range(25)]
            pieces += [(min(p[0], q[0]), min(p[1], q[1]), max(p[0], q[0]), max(p[1], q[1])) for p, q in pairwise(steps)]
    return pieces


def _equal_means(axes: Any) -> None:
    """Dashed lines on which the mean of the two axes is the same."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for mean in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values((x0 + y0) / 2, (x1 + y1) / 2):
        left, right = max(x0, 2 * mean - y1), min(x1, 2 * mean - y0)
        if right - left < 0.04 * (x1 - x0):
            continue
        axes.plot([left, right], [2 * mean - left, 2 * mean - right], "--", color=GRID, linewidth=1.2, zorder=1)
        axes.annotate(
            f"{mean:g}", (left, 2 * mean - left), xytext=(3, -2), textcoords="offset points",
            fontsize=7.5, color=MUTED, ha="left", va="top", zorder=1,
        )  # fmt: skip


def _legend(figure: Figure, arms: Sequence[_Arm], *, percent: bool) -> None:
    words = {"method": "method", "baseline": "baseline", "control": "control", "sweep": "sweep, in order", "arm": "other arm"}
    handles = [
        Line2D([], [], color=c, marker=m, markersize=7, linestyle="-" if role == "sweep" else "none", label=words[role])
        for role, (c, m, _) in LOOKS.items()
        if any(arm.role == role for arm in arms)
    ]
    handles.append(Line2D([], [], color=INK, marker=".", alpha=0.4, linestyle="none", label="one unit"))
    if percent:
        handles.append(Line2D([], [], color=MUTED, linestyle="--", linewidth=1.2, label="equal mean of both"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def differences_figure(claim: Claim, result: ClaimResult) -> Figure:
    """Every judged sentence: difference (for a threshold the metric), 95 % interval, margin, and the verdict in words.

    One panel a metric, for their units differ. The numbers are those of the table of sentences. Raises InputError for a
    result in which no sentence could be judged.
    """
    if not result.claims:
        raise InputError("result", "no judged sentence", "two complete units for at least one sentence")
    groups: dict[tuple[str, bool], list[tuple[int, SentenceResult]]] = {}
    for number, one in enumerate(result.claims, 1):
        groups.setdefault((one.metric, one.kind == "threshold"), []).append((number, one))
    heights = [len(group) + 0.25 for group in groups.values()]
    figure, panels = new_figure(0.44 * sum(heights) + 0.62 * len(heights) + 0.5, heights)
    for axes, ((metric, threshold), group) in zip(panels, groups.items(), strict=True):
        for place, (number, one) in enumerate(reversed(group)):
            _forest_row(axes, place, number, one)
        name = metric_label(claim, metric)
        words = name if threshold else f"advantage in {in_points(name)}"
        axes.set_xlabel("\n".join(wrap(words, 70)), fontsize=9.5, parse_math=False)
        axes.set_ylim(-0.5, len(group) - 0.25)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        if not threshold:
            axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
    handles = [
        Line2D([], [], color=colour, marker=marker, fillstyle="full" if full else "none", label=verdict)
        for verdict, (colour, marker, full) in VERDICT_LOOKS.items()
    ]
    handles.append(Line2D([], [], color=INK, marker="|", markersize=11, markeredgewidth=2, linestyle="none", label="margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def metric_label(claim: Claim, metric: str) -> str:
    """The name of a metric for people."""
    return (claim.metric_labels or {}).get(metric, metric.replace("_", " "))


def in_points(label: str) -> str:
    """The name of a difference in a metric of that name: what is in per cent differs by percentage points."""
    return label.removesuffix(", %") + ", percentage points" if label.endswith(", %") else label


def _forest_row(axes: Any, place: int, number: int, one: SentenceResult) -> None:
    colour, marker, full = VERDICT_LOOKS[one.verdict]
    axes.plot(one.ci95, [place, place], color=colour, linewidth=2.4 if one.primary else 1.6, solid_capstyle="butt", zorder=3)
    axes.plot(
        one.difference, place, marker, color=colour, markersize=9 if one.primary else 7, zorder=4,
        markerfacecolor=colour if full else SURFACE, markeredgewidth=1.6 if not full else 0.5,
    )  # fmt: skip
    axes.plot([one.margin] * 2, [place - 0.17, place + 0.17], color=INK, linewidth=2, zorder=2)
    side = "above" if one.better == "higher" else "below"
    words = f"{one.method} against {one.baseline}" if one.baseline else f"{one.method}, {side} {one.margin:g}"
    look = {"transform": axes.get_yaxis_transform(), "fontsize": 9, "va": "center", "parse_math": False, "zorder": 5}
    look["bbox"] = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1}  # keeps the lines behind the words off them
    weight = "bold" if one.primary else "normal"
    axes.text(0, place + 0.42, f"{number}  {words}", ha="left", fontweight=weight, **look)
    axes.text(1, place + 0.42, one.verdict, ha="right", fontweight=weight, color=colour, **look)
