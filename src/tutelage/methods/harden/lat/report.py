"""The page of a hardening: how much push elicits the bad completion, before and after, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tutelage.auditing.figures import INK, MARKERS, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Notice, Page, Picture, Section, Table, percent, titled, write_page
from tutelage.core.errors import InputError
from tutelage.methods.harden.lat.adversary import LatentAttack
from tutelage.methods.harden.lat.measure import ElicitationCurve, Retention


def elicitation_figure(curves: Mapping[str, ElicitationCurve], unit: str = "absolute") -> Figure:
    """The share of prompts with the bad completion, and its probability, against the radius; a line a curve, by its name."""
    if not curves or len(curves) > len(SERIES):
        raise InputError("curves", f"{len(curves)} curves", f"1 to {len(SERIES)}, by name")
    figure, (answers, chances) = new_figure(5.0, (1.0, 1.0))
    for i, (name, curve) in enumerate(curves.items()):
        eps = [row.eps for row in curve.rows]
        style = {"color": SERIES[i], "marker": MARKERS[i], "markersize": 4.5, "linewidth": 1.6}
        answers.plot(eps, [100 * row.bad for row in curve.rows], label=name, **style)
        chances.plot(eps, [row.p_bad for row in curve.rows], **style)
    answers.set_ylim(-4, 104)
    answers.set_ylabel("prompts that give\nthe bad completion, %")
    chances.set_yscale("log")
    chances.set_ylabel("probability of the\nbad completion")
    chances.set_xlabel("radius, mean lengths of the stream" if unit == "residual" else "radius, units of the hidden states")
    for axes in (answers, chances):
        axes.axvline(0, color=INK, linewidth=0.6, zorder=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def write_report(
    path: Path | str,
    before: ElicitationCurve,
    after: ElicitationCurve,
    attack: LatentAttack,
    kept: Retention | None = None,
    *,
    others: Mapping[str, ElicitationCurve] | None = None,
) -> Path:
    """Write the page to `path` and return it. others: further curves to draw, such as those of a baseline, by name."""
    curves = {"before": before, "after": after, **(others or {})}
    if [row.eps for row in before.rows] != [row.eps for row in after.rows]:
        raise InputError("after", [row.eps for row in after.rows], f"the radii of `before`: {[row.eps for row in before.rows]}")
    last = before.rows[-1].eps
    caption = (
        "For each prompt, a perturbation of its hidden states is searched that makes the model give the bad completion. The "
        "further to the right a curve rises, the deeper the behaviour is buried."
    )
    harder = after.rows[-1].bad < before.rows[-1].bad or after.median > before.median
    first: list[Block] = [
        Notice(
            "Harder to elicit" if harder else "Not harder to elicit",
            [
                f"Half of the prompts give the bad completion at {_radius(before.median, last)} before, and at "
                f"{_radius(after.median, last)} after."
            ],
            "good" if harder else "bad",
        ),
        Picture(figure_svg(elicitation_figure(curves, attack.units), caption), caption),
    ]
    rows = [
        [name, f"{row.eps:g}", percent(row.bad), percent(row.good), f"{row.p_bad:.2g}"]
        for name, curve in curves.items()
        for row in curve.rows
    ]
    table = Table("Every point", ["model", "radius", "bad completion", "good completion", "probability of the bad one"], rows)
    sections = [Section("Elicitation", [table])]
    if kept is not None:
        costs = {
            "Benign completions given, before": percent(kept.answers_before),
            "Benign completions given, after": percent(kept.answers_after),
            "Log-probability a token, before": f"{kept.logprob_before:.4g} nats",
            "Log-probability a token, after": f"{kept.logprob_after:.4g} nats",
            "KL(before || after) a token": f"{kept.kl:.3g} nats",
        }
        sections.append(Section("Retention", [Facts(costs)]))
    settings = {**vars(attack), "layers": ", ".join(map(str, attack.layers))}
    sections.append(Section("Attack", [Facts(titled(settings, without=("eps",)))]))
    return write_page(Path(path), Page("Latent attack: before and after", "Latent adversarial training", first, sections))


def _radius(median: float, last: float) -> str:
    return f"radius {median:g}" if median < float("inf") else f"no radius up to {last:g}"


__all__: Sequence[str] = ["elicitation_figure", "write_report"]
