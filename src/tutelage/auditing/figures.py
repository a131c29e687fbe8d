"""Figures for pages: matplotlib drawn as inline SVG that follows the page's light or dark style, with labels that find room."""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colours of the light page; in an SVG on a page each becomes a variable that the dark style sets anew. After Okabe and
# Ito (2008): told apart by colour-blind readers too. Markers differ as well.
INK, SURFACE, MUTED, GRID = "#000000", "#ffffff", "#666a73", "#d9dce1"
SERIES = ("#0072b2", "#c8500a", "#008a65", "#a8477e", "#b37400", "#4b4fb5")
MARKERS = ("o", "s", "^", "D", "v", "P")
_VARIABLES = {
    INK: "currentColor",
    SURFACE: "var(--surface, #fff)",
    MUTED: f"var(--muted, {MUTED})",
    GRID: f"var(--grid, {GRID})",
    **{colour: f"var(--series-{i}, {colour})" for i, colour in enumerate(SERIES, 1)},
}
_COLOUR = re.compile("|".join(_VARIABLES))


def new_figure(height: float = 4.0, panels: Sequence[float] = (1.0,), width: float = 5.8) -> tuple[Figure, list[Any]]:
    """A figure of `width` x `height` inches and its axes, one above the other with heights in the ratio `panels`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": list(panels)})
    axes = list(grid[:, 0])
    for one in axes:
        one.grid(color=GRID, linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(MUTED)
        one.tick_params(color=MUTED, labelsize=9.5)
    return figure, axes


def save_svg(fig: Figure, path: Path) -> None:
    """Write a figure as an SVG file with a white ground; the same figure gives the same file, on any machine.

    matplotlib names the areas that it cuts to by a hash of numbers whose last digit may differ; here they are counted.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "tutelage"}):
        fig.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    text = buffer.getvalue()
    names = dict.fromkeys(re.findall(r'<clipPath id="(\w+)"', text))
    for number, name in enumerate(names, 1):
        text = text.replace(name, f"area{number}")
    path.write_text(text)


def figure_svg(fig: Figure, alt: str = "") -> Markup:
    """A matplotlib figure as inline SVG: no header, ids of its own, no background, text as text in the page's font.

    Black, white and the colours above follow the light or dark style of the page. alt: what the figure shows, in words.
    """
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "tutelage"}  # the salt: the same figure gives the same text
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context(settings), _any_script():
        fig.savefig(buffer, format="svg", transparent=True, metadata=nothing, bbox_inches="tight", pad_inches=0.05)
    text = buffer.getvalue()
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8] + "-"
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", body, count=2, flags=re.DOTALL)
    # '>' is escaped in texts and attributes, so these are the tags and only they
    body = re.sub(r"<[^>]*>", lambda tag: _inline(tag[0], prefix), body)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    width, height = (float(side) / 72 for side in box[1].split()[2:])
    head = (
        f'<svg viewBox="{box[1]}" width="{105 * width:.0f}" height="{105 * height:.0f}" '
        f'fill="currentColor" role="img" aria-label="{html.escape(alt or "figure")}">'
    )
    return Markup(head + body.strip())


def _inline(tag: str, prefix: str) -> str:
    """One tag of matplotlib's SVG, fit to stand in a page beside others."""
    tag = re.sub(r'\bid="', f'id="{prefix}', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', tag).replace("xlink:href=", "href=")
    tag = tag.replace("url(#", f"url(#{prefix}")
    if 'style="' not in tag:
        return tag
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    return _COLOUR.sub(lambda colour: _VARIABLES[colour[0]], tag)


@dataclass(frozen=True)
class Label:
    """The name of a point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    colour: str = INK
    bold: bool = False


def place_labels(axes: Any, labels: Sequence[Label], bars: Sequence[tuple[float, float, float, float]] = ()) -> None:
    """Write each label beside its point where it covers least of the other labels, points and `bars`.

    bars: error bars as (x0, y0, x1, y1) in data coordinates. Call it last: the layout of the figure is fixed here.
    Labels that had to move away get a thin line to their point. The first ones choose first.
    """
    figure = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    looks = [{"fontsize": 9, "fontweight": "bold" if one.bold else "normal", "parse_math": False} for one in labels]
    with _any_script():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        probes = [axes.text(one.x, one.y, one.text, **look) for one, look in zip(labels, looks, strict=True)]
        extents = [probe.get_window_extent(renderer) for probe in probes]
    for probe in probes:
        probe.remove()
    scale = figure.dpi / 72
    halves = [np.array([extent.width / scale + 3, extent.height / scale + 1]) / 2 for extent in extents]
    spots = [axes.transData.transform((one.x, one.y)) / scale for one in labels]
    ends = [axes.transData.transform((bar[:2], bar[2:])).ravel() / scale for bar in bars]
    thin = np.array([-0.7, -0.7, 0.7, 0.7])
    taken = np.array([*(np.concatenate([spot - 4, spot + 4]) for spot in spots), *(end + thin for end in ends)])
    weights = np.array([12.0] * len(spots) + [6.0] * len(ends))
    offsets = _offsets(spots, halves, taken.reshape(-1, 4), weights, (axes.bbox.get_points() / scale).reshape(1, 4))
    for one, look, offset, half in zip(labels, looks, offsets, halves, strict=True):
        away = math.hypot(*np.maximum(0, abs(offset) - half)) > 13
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4} if away else None
        axes.annotate(
            one.text, (one.x, one.y), xytext=tuple(offset), textcoords="offset points", ha="center", va="center",
            color=one.colour, arrowprops=line, annotation_clip=False, zorder=5, **look,
        )  # fmt: skip


def _offsets(spots: Sequence[Any], halves: Sequence[Any], taken: Any, weights: Any, frame: Any) -> list[Any]:
    """For each box of half size `halves` the way from its spot to its centre, in points.

    Costs: distance; what is covered of the boxes `taken` (M, 4; those of the spots first) by their weights, and of other
    labels; what is outside of the frame; spots and labels that the line to the spot would cross. Each label takes its
    cheapest place; then twice again, knowing the others.
    """
    steps = [(reach, 2 * math.pi * turn / 16) for reach in (6, 10, 16, 24, 34, 46, 60, 76) for turn in range(16)]
    reaches = np.array([reach for reach, _ in steps])
    circle = np.array([[math.cos(angle), math.sin(angle)] for _, angle in steps])
    boxes = np.full((len(spots), 4), -1e6)  # out of the way until placed
    offsets = [np.zeros(2)] * len(spots)
    for i in [*range(len(spots))] * 3:
        moves = circle * (reaches[:, None] + halves[i])
        places = np.hstack([spots[i] + moves - halves[i], spots[i] + moves + halves[i]])
        others = np.delete(boxes, i, axis=0)
        cost = 1.5 * reaches + _shared(places, taken) @ weights + 20 * _shared(places, others).sum(1)
        cost += 50 * (4 * halves[i].prod() - _shared(places, frame)[:, 0])
        until = np.clip(1 - halves[i] / np.maximum(abs(moves), 1e-9), 0, 1).max(1)  # where the line enters its label
        lines = spots[i] + moves[:, None] * until[:, None, None] * np.linspace(0.2, 1, 9)[:, None]
        bits = np.concatenate([lines - 1, lines + 1], axis=2).reshape(-1, 4)
        crossed = _shared(bits, np.vstack([np.delete(taken[: len(spots)], i, axis=0), others])).sum(1)
        cost += 8 * crossed.reshape(len(moves), -1).sum(1)
        best = int(cost.argmin())
        boxes[i], offsets[i] = places[best], moves[best]
    return offsets


def _shared(places: Any, others: Any) -> Any:
    """The areas that boxes (N, 4) and boxes (M, 4), each x0, y0, x1, y1, have in common: (N, M)."""
    low, high = np.maximum(places[:, None, :2], others[:, :2]), np.minimum(places[:, None, 2:], others[:, 2:])
    return np.maximum(high - low, 0.0).prod(2)


@contextmanager
def _any_script() -> Iterator[None]:
    """Let names be in any script: the reader's fonts draw the text, not the one that matplotlib measures with."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield
