"""The picture for the report of the claim: the table corruption x severity of every arm, drawn from the rows."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from matplotlib.figure import Figure

from tutelage.auditing.figures import MUTED, new_figure
from tutelage.claims.claim import ClaimResult
from tutelage.claims.harden.intact import ARMS, SEEN, UNSEEN

DARK, LIGHT = "#111111", "#fdfdfd"  # on the colour of a cell, which is the same on a light and on a dark page


def pictures(result: ClaimResult) -> list[tuple[Figure, str]]:
    """(figure, caption) for the page of `result`; none if no cell has the table."""
    columns = [("clean", "", "clean")]
    columns += [(name, f"{s:g}", f"{name}_{s:g}") for name, strengths in (SEEN | UNSEEN).items() for s in strengths]
    table = dict[str, list[float]]()
    for arm in ARMS:
        rows = [r.metrics for r in result.rows if r.arm == arm and r.status == "ok" and columns[-1][2] in r.metrics]
        if rows:
            table[arm] = [float(np.mean([row[key] for row in rows])) for _, _, key in columns]
    if not table:
        return []
    caption = (
        "Accuracy in per cent of every arm under each corruption at each strength (jitter in radii of the object, tilt in "
        "degrees, the others as a share of the points), means over units. Tilt and ray drop were seen by no training."
    )
    return [(table_figure(table, columns), caption)]


def table_figure(table: dict[str, list[float]], columns: list[tuple[str, str, str]]) -> Figure:
    """One row an arm; columns are (corruption, strength, key), those of a corruption side by side, a gap between two."""
    figure, (axes,) = new_figure(1.2 + 0.3 * len(table), width=1.9 + 0.47 * len(columns))
    values = np.array(list(table.values()))
    gap, left, x = 0.25, list[float](), 0.0
    for i, (name, _, _) in enumerate(columns):
        x += gap if i and name != columns[i - 1][0] else 0.0
        left.append(x)
        x += 1.0
    low, high = float(values.min()), float(values.max())
    for i, at in enumerate(left):
        axes.pcolormesh([at, at + 1], np.arange(len(table) + 1), values[:, i : i + 1], cmap="Blues", vmin=low, vmax=high)
        for j, value in enumerate(values[:, i]):
            ink = LIGHT if value > low + 0.6 * (high - low) else DARK
            axes.text(at + 0.5, j + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_xlim(0, x)
    axes.set_ylim(len(table), 0)
    axes.set_yticks(np.arange(len(table)) + 0.5, list(table))
    axes.set_xticks([at + 0.5 for at in left], [strength for _, strength, _ in columns])
    for name, some in groupby(range(len(columns)), key=lambda i: columns[i][0]):
        own = list(some)
        middle = (left[own[0]] + left[own[-1]] + 1) / 2
        axes.text(middle, -0.25, name.replace("_", " "), ha="center", va="bottom", fontsize=9, color=MUTED)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
