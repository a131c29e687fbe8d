"""The bracket of a model: certified accuracy <= true robust accuracy <= accuracy under attack, over many radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tutelage.auditing.cells import listed
from tutelage.auditing.figures import INK, MUTED, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Page, Picture, Section, Table, Text, percent, write_page
from tutelage.core.checks import check_number
from tutelage.core.errors import InputError, TutelageError
from tutelage.core.files import write_atomic
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.core.stats import Interval, wilson
from tutelage.guarantees.certify import CertReport, certify
from tutelage.guarantees.solvers import Solver
from tutelage.models.checks import check_inputs, check_labels, run_model
from tutelage.models.guard import evaluating
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD


@dataclass(frozen=True)
class Side:
    """One end of the bracket at one radius: a share of the samples, its 95 % Wilson interval, `sound` or `empirical`."""

    share: float
    interval: Interval
    label: str


@dataclass(frozen=True)
class Rung:
    """Both sides at one radius. report: of the verifiers. attacked: (N,) still right under attack."""

    eps: float
    certified: Side
    attacked: Side
    report: CertReport
    survived: Tensor

    @property
    def gap(self) -> float:
        """What is neither proved nor broken; 0 means that the robust accuracy on these samples is known."""
        return self.attacked.share - self.certified.share


@dataclass(frozen=True)
class Bracket:
    """The bracket of one model over radii, smallest first, on N samples."""

    rungs: tuple[Rung, ...]
    n: int
    attack: str

    def __str__(self) -> str:
        stages = self.rungs[0].report.stages
        lines = [f"{'eps':>8}  {'certified (sound)':<24} {'attacked (empirical)':<24} {'open':>6}  by {' + '.join(stages)}"]
        for one in self.rungs:
            counts = " + ".join(str(one.report.counts[stage]) for stage in stages)
            both = f"{_cell(one.certified):<24} {_cell(one.attacked):<24}"
            lines.append(f"{one.eps:>8.4g}  {both} {one.gap:>6.1%}  {counts}")
        what = f"{self.n} samples; attacked: {self.attack}; in brackets 95 % Wilson intervals"
        return "\n".join([*lines, what, "certified <= true robust accuracy <= attacked"])

    def figure(self) -> Figure:
        """One curve over eps for each side, the true robust accuracy between them."""
        figure, (axes,) = new_figure()
        eps = [one.eps for one in self.rungs]
        for side, colour, marker, words in (
            ("attacked", SERIES[1], "s", "accuracy under attack: an upper bound (empirical)"),
            ("certified", SERIES[0], "o", "certified accuracy: a lower bound (sound)"),
        ):
            ends: list[Side] = [getattr(one, side) for one in self.rungs]
            axes.plot(eps, [100 * one.share for one in ends], color=colour, marker=marker, label=words)
        low, high = ([100 * getattr(one, side).share for one in self.rungs] for side in ("certified", "attacked"))
        axes.fill_between(eps, low, high, color=MUTED, alpha=0.25, linewidth=0, label="the true robust accuracy is in here")
        axes.set_xlabel("eps, Linf, in input units", color=INK)
        axes.set_ylabel(f"accuracy, % of {self.n} samples", color=INK)
        axes.set_ylim(0, 102)
        axes.legend(frameon=False, fontsize=9)
        return figure

    def save(self, path: Path | str) -> Path:
        """Write the figure (.svg, .png, .pdf), or a whole page with figure and table (.html); the form by the suffix."""
        import io

        path = Path(path)
        form = path.suffix.removeprefix(".")
        if form == "html":
            return write_page(path, self.page())
        if form not in ("svg", "png", "pdf"):
            raise InputError("path", str(path), "a file name that ends in .html, .svg, .png or .pdf")
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format=form)
        write_atomic(path, buffer.getvalue())
        return path

    def page(self) -> Page:
        """The report: what lies between proof and attack, as a curve over eps and as a table."""
        stages = self.rungs[0].report.stages
        counted = (*stages, "broken") if "milp" in stages else stages
        words = [
            f"{self.n:,} samples, the same on both sides. What {listed(stages)} proved is a lower bound of the robust accuracy "
            f"on them (sound); what {self.attack} left is an upper bound (empirical). The true one lies between the two."
        ]
        if closed := [f"{one.eps:g}" for one in self.rungs if one.gap == 0]:
            words.append(f"Both sides meet at eps {listed(closed)}: there it is known exactly.")
        caption = "Accuracy over the size of the change allowed (linf): certified from below, under attack from above."
        rows = [
            [
                f"{one.eps:g}",
                *(percent(side.share, (side.interval.lo, side.interval.hi)) for side in (one.certified, one.attacked)),
                percent(one.gap),
                *(f"{one.report.counts[stage]:,}" for stage in counted),
            ]
            for one in self.rungs
        ]
        header = ["Eps", "Certified (sound)", "Attacked (empirical)", "Open", *counted]
        groups = [("", 1), ("robust accuracy", 2), ("", 1), ("samples proved by", len(stages))]
        groups += [("by MILP", 1)] if "milp" in stages else []
        note = (
            "In brackets: 95 % Wilson intervals. Open: neither proved nor broken. A sample proved at one eps counts as proved "
            "at every smaller one, so a share can be above what the verifiers of its row proved."
        )
        table = Table("Both sides at each eps", header, rows, "lr", groups, note)
        section = Section("Bracket", [Picture(figure_svg(self.figure(), caption), caption), table])
        return Page("Certified and attacked", "Bracket", [Text(words)], [section])


def bracket(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: Sequence[float],
    *,
    cascade: Sequence[str] = ("ibp", "crown"),
    steps: int = 40,
    restarts: int = 3,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    solver: Solver = "highs",
    time_limit: float | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Bracket:
    """Certify and attack `net` on the same samples x (N, ...), y (N,) at every radius of `eps`, Linf.

    The lower side is proved by `cascade` (see `certify`), the upper one is what PGD on cross-entropy leaves, `steps` steps from
    `restarts` starts, and what MILP has not shown to be broken. A sample proved robust at a radius is so at smaller ones, one
    broken at a radius is so at larger ones: both sides use this. Raises TutelageError if an attack breaks what was proved:
    then a bound or the net's arithmetic is at fault.
    """
    radii = sorted(set(eps))
    if not radii:
        raise InputError("eps", eps, "at least one radius")
    for one in radii:
        check_number("eps", one, "radii >= 0, in input units", low=0)
    check_inputs(x, bounds)
    check_labels(y, len(x))
    reports: list[CertReport] = []
    survived: list[Tensor] = []
    with evaluating(net), torch.no_grad():
        alive = (run_model(net, x).argmax(1) == y).cpu()
    for one in radii:
        report = certify(net, x, y, one, cascade, bounds=bounds, solver=solver, time_limit=time_limit, progress=progress)
        alive = alive & ~report.broken
        todo = alive.nonzero().squeeze(1)
        if one > 0 and len(todo):
            attack = PGD(Linf(one), steps=steps, restarts=restarts, bounds=bounds)
            result = attack.run(net, x[todo.to(x.device)], y[todo.to(y.device)], generator(seed, "bracket", one))
            alive = alive.index_put((todo,), ~result.success.cpu())
        reports.append(report)
        survived.append(alive)
    # what is proved at a larger radius is proved at a smaller one
    proved: list[Tensor] = []
    held = torch.zeros_like(survived[0])
    for report in reversed(reports):
        held = held | report.certified
        proved.append(held)
    proved.reverse()
    rungs = []
    for one, report, sure, left in zip(radii, reports, proved, survived, strict=True):
        if bool((sure & ~left).any()):
            raise TutelageError(f"at eps {one:g} an attack broke {int((sure & ~left).sum())} samples that were proved robust")
        rungs.append(Rung(float(one), _side(sure, "sound"), _side(left, "empirical"), report, left))
    name = PGD(Linf(radii[-1] or 1.0), steps=steps, restarts=restarts).name
    return Bracket(tuple(rungs), len(x), name)


def _side(right: Tensor, label: str) -> Side:
    count = int(right.sum())
    return Side(count / len(right), wilson(count, len(right)), label)


def _cell(side: Side) -> str:
    return f"{side.share:.1%} [{side.interval.lo:.1%}, {side.interval.hi:.1%}]"
