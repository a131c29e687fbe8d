"""Draw docs/images/teacher-hacking-curves.png: one run of the claim with fixed answers and one with the student's own.

    python tools/hacking_curves.py [unit]

The unit is one that the claim does not have (default 9001, the one its constants were set on). Takes minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FuncFormatter

from tutelage.auditing.figures import INK, MARKERS, SERIES, new_figure
from tutelage.claims.claim import Cell
from tutelage.claims.distill.teacher_hacking import CLAIM, taught
from tutelage.core.cache import Cache
from tutelage.methods.distill.teacher_hacking import HackingReport

TARGET = Path(__file__).parents[1] / "docs" / "images" / "teacher-hacking-curves.png"
ARMS = {"offline-one-answer": "fixed answers of the teacher", "online-student": "the student's own answers"}


def draw(found: dict[str, HackingReport], path: Path) -> None:
    figure, (golden, proxy, both) = new_figure(7.6, (1.0, 1.0, 1.2))
    for i, (arm, report) in enumerate(found.items()):
        assert report.golden is not None
        shown = [max(epoch, 0.5) for epoch in report.epochs]
        style = {"color": SERIES[i], "marker": MARKERS[i], "markersize": 3.5, "linewidth": 1.2, "label": ARMS[arm]}
        golden.plot(shown, report.golden, **style)
        proxy.plot(shown, report.proxy, **style)
        both.plot(report.proxy, report.golden, **style)
    gap = next(iter(found.values())).teacher_gap
    for axes in (golden, both):
        axes.axhline(gap, color=INK, linewidth=0.8, linestyle=":", label="teacher to the oracle")
    for axes, name in ((golden, "golden: to the oracle"), (proxy, "proxy: to the teacher")):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_ylabel(f"{name}\nnats a token")
        axes.set_xlabel("epoch (the first point: before)")
    both.invert_xaxis()
    both.set_xlabel("proxy, falling to the right")
    both.set_ylabel("golden\nnats a token")
    golden.legend(frameon=False, fontsize=8.5)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, facecolor="white")


def main() -> None:
    unit = int(sys.argv[1]) if len(sys.argv) > 1 else 9001
    config = CLAIM.config("claim", {})
    draw({arm: taught(Cell(arm, unit, config, Cache.default())) for arm in ARMS}, TARGET)


if __name__ == "__main__":
    main()
