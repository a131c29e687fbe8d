"""The modality passport: which modality a fused classifier leans on, and what an attacker can do with that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tutelage.auditing.figures import INK, MARKERS, SERIES, figure_svg, new_figure
from tutelage.auditing.page import Block, Facts, Notice, Page, Picture, Section, Table, Text, Tone, percent, titled, write_page
from tutelage.auditing.subsets import SubsetRow, SubsetTable, evaluate_subsets
from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.core.stats import wilson
from tutelage.data.multimodal import MultiModalSet
from tutelage.methods.harden.crmt.margins import (
    Method,
    certified_radius,
    check_model,
    modality_lipschitz,
    modality_margins,
    preference,
    score_all,
)
from tutelage.models.fusion import AdditiveHead, FusionModel
from tutelage.models.guard import evaluating
from tutelage.threats.budgets import L2
from tutelage.threats.multimodal import Clip, Joint, MultiModalPGD
from tutelage.threats.objectives import cross_entropy, margin

JOINT = "joint"
KINDS: dict[Method, str] = {
    "empirical": "empirical (largest gradient norm seen: an estimate, no guarantee)",
    "spectral": "spectral (product of layer norms: a guarantee)",
}


@dataclass(frozen=True)
class AttackCurve:
    """Accuracy in [0, 1] over the L2 eps (eps[0] = 0) of one attacker: "joint", or the name of the one modality that moves."""

    attacker: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over the grid without eps = 0: the area under the curve."""
        return sum(self.accuracy[1:]) / max(1, len(self.accuracy) - 1)


@dataclass(frozen=True)
class ModalityRow:
    """One modality. margin: mean of (4). share: of all margins (4). tau: kind -> largest constant over the classes. radius:
    kind -> mean of (5) for an attack on it alone. held: kind -> at each eps of the grid, the share of samples whose radius is
    at least that."""

    name: str
    margin: float
    share: float
    tau: Mapping[str, float]
    radius: Mapping[str, float]


@dataclass(frozen=True)
class Passport:
    """Everything the page shows; `save` writes it as JSON, `to_html` as the page."""

    modalities: tuple[ModalityRow, ...]
    radius: Mapping[str, float]
    certified: Mapping[str, tuple[float, ...]]
    curves: tuple[AttackCurve, ...]
    subsets: SubsetTable
    clean: float
    n: int
    attacked: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())

    def curve(self, attacker: str) -> AttackCurve:
        """The curve of "joint" or of one modality."""
        for one in self.curves:
            if one.attacker == attacker:
                return one
        raise InputError("attacker", attacker, "one of " + ", ".join(one.attacker for one in self.curves))

    def weakest(self) -> str:
        """The modality whose attacker leaves least accuracy, averaged over the grid."""
        return min((one for one in self.curves if one.attacker != JOINT), key=lambda one: one.mean).attacker

    def preferred(self) -> str:
        """The modality with the largest share of the margins."""
        return max(self.modalities, key=lambda one: one.share).name

    def save(self, path: Path | str) -> Path:
        write_json(Path(path), asdict(self))
        return Path(path)

    def to_html(self, path: Path | str, *, title: str = "Modality passport") -> Path:
        return write_page(Path(path), passport_page(self, title))


def passport(
    model: FusionModel,
    data: MultiModalSet,
    *,
    train: MultiModalSet | None = None,
    eps: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    steps: int = 50,
    restarts: int = 5,
    single_restarts: int | None = None,
    samples: int | None = 500,
    clip: Clip | None = None,
    spectral: bool = True,
    tau_limit: int | None = 1000,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Passport:
    """Examine a FusionModel with an additive head (OrthogonalFusion or ConcatFusion) on labelled data.

    data: what it is examined on. train: what empirical Lipschitz constants are measured on (default: `data`), its first
    `tau_limit` samples. eps: L2 radii of the attack curves, in input units; joint ones move all modalities in one ball. steps,
    restarts: of PGD; see `attack_curve`. single_restarts: of attacks on one modality (default: restarts). samples: at most so
    many are attacked. clip: valid range of a modality. spectral=False leaves the sound constants out.
    """
    check_model(model)
    if not isinstance(data, MultiModalSet):
        raise InputError("data", type(data).__name__, "a MultiModalSet")
    grid = sorted({0.0, *map(float, eps)})
    for one in eps:
        check_number("eps", one, "numbers > 0, in input units", low=1e-12)
    for argument, value in (("samples", samples), ("tau_limit", tau_limit), ("single_restarts", single_restarts)):
        if value is not None:
            check_integer(argument, value)
    head = model.head
    assert isinstance(head, AdditiveHead)
    scored = score_all(model, data, batch_size=batch_size)
    a, bias, y = head.integration.detach(), head.bias.detach(), data.labels
    margins = modality_margins(scored.scores, a, y)
    share = preference(margins)
    kinds: list[Method] = ["empirical", "spectral"] if spectral else ["empirical"]
    tau = {
        kind: modality_lipschitz(model, train or data, method=kind, limit=tau_limit, batch_size=batch_size) for kind in kinds
    }
    radius = {kind: certified_radius(scored.scores, a, bias, tau[kind], y).double() for kind in kinds}
    rows = []
    for m, name in enumerate(model.modalities):
        own = {kind: certified_radius(scored.scores, a, bias, tau[kind], y, modality=m).double() for kind in kinds}
        rows.append(
            ModalityRow(
                name,
                float(margins[:, m].mean()),
                float(share[m]),
                {kind: float((a.abs() * tau[kind].to(a))[m].max()) for kind in kinds},
                {kind: float(own[kind].mean()) for kind in kinds},
            )
        )
    part = data
    if samples is not None and samples < len(data):
        part = data.take(torch.randperm(len(data), generator=generator(seed, "attacked samples"))[:samples].sort().values)
    curves, warnings = [], []
    for attacker in (JOINT, *model.modalities):
        n_starts = restarts if attacker == JOINT or single_restarts is None else single_restarts
        curve, said = attack_curve(
            model, part, attacker, grid[1:], steps=steps, restarts=n_starts, clip=clip, batch_size=batch_size, seed=seed,
            progress=progress,
        )  # fmt: skip
        curves.append(curve)
        warnings += said
    with torch.no_grad():
        hits = torch.stack([a[m] * z for m, z in enumerate(scored.scores)]).sum(0) + bias
    return Passport(
        tuple(rows),
        {kind: float(radius[kind].mean()) for kind in kinds},
        {kind: tuple(float((radius[kind] >= e).double().mean()) if e else 0.0 for e in grid) for kind in kinds},
        tuple(curves),
        evaluate_subsets(model, data, batch_size=batch_size),
        float((hits.argmax(1) == y).double().mean()),
        len(data),
        len(part),
        {"eps": grid, "norm": "L2", "steps": steps, "restarts": restarts, "single_restarts": single_restarts or restarts},
        data.describe(),
        tuple(dict.fromkeys(warnings)),
    )


def attack_curve(
    model: FusionModel,
    data: MultiModalSet,
    attacker: str,
    eps: Sequence[float],
    *,
    steps: int = 50,
    restarts: int = 5,
    clip: Clip | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress = QUIET,
) -> tuple[AttackCurve, list[str]]:
    """Accuracy over eps, from small to large, and what the attacks warned of. What one eps broke stays broken in a larger one.

    restarts are split between the margin, first, and cross-entropy. The margin term makes nets so sure that the gradient of
    cross-entropy rounds to zero: an attack on it alone sees nothing and flatters them.
    """
    over = None if attacker == JOINT else (attacker,)
    broken = _clean_errors(model, data, batch_size)
    shares, warnings = [_share(~broken)], []
    halves = [(margin, restarts - restarts // 2), (cross_entropy, restarts // 2)]
    with progress.task(f"{attacker} attack", len(eps)) as task:
        for one in sorted(eps):
            for objective, starts in halves:
                left = (~broken).nonzero().squeeze(1)
                if not starts or not len(left):
                    continue
                attack = MultiModalPGD(Joint(L2(one), over), steps, restarts=starts, objective=objective, clip=clip or {})
                name = getattr(objective, "__name__", "objective")
                for start in range(0, len(left), batch_size):
                    index = left[start : start + batch_size]
                    x, y = data[index]
                    noise = generator(seed, attacker, one, name, start)
                    found = attack.run(model, x, y, noise)
                    broken[index[found.success]] = True
                    warnings += [f"{attacker}: {said}" for said in found.warnings]
            shares.append(_share(~broken))
            task.advance()
    grid = (0.0, *sorted(float(one) for one in eps))
    return AttackCurve(attacker, grid, tuple(v for v, _ in shares), tuple(ci for _, ci in shares)), warnings


def _clean_errors(model: FusionModel, data: MultiModalSet, batch_size: int) -> Tensor:
    parts = []
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(data), batch_size):
            x, y = data[start : start + batch_size]
            parts.append(model(x).argmax(1) != y)
    return torch.cat(parts)


def _share(held: Tensor) -> tuple[float, tuple[float, float]]:
    k, n = int(held.sum()), len(held)
    interval = wilson(k, n)
    return k / n, (interval.lo, interval.hi)


# ----------------------------------------------------------------------------------------------------------- the page


def passport_page(found: Passport, title: str) -> Page:
    """Preference, curves, subsets and radii as sections of a page."""
    weak, strong = found.weakest(), found.preferred()
    curve, joint = found.curve(weak), found.curve(JOINT)
    last = curve.eps[-1]
    tone: Tone = "warn" if curve.accuracy[-1] < 0.5 * found.clean else "plain"
    lead = Notice(
        f"The weak spot is {weak}",
        [
            f"An attacker who moves {weak} alone by at most {last:g} (L2) leaves "
            f"{percent(curve.accuracy[-1], curve.ci95[-1])}; one who moves everything by as much leaves "
            f"{percent(joint.accuracy[-1], joint.ci95[-1])}.",
            f"The model leans on {strong}: {percent(_row(found, strong).share)} of the mean margins are its.",
            f"Without {strong} it has {percent(found.subsets.without(strong).accuracy)} left, with everything "
            f"{percent(found.clean)}.",
        ],
        tone,
    )  # fmt: skip
    blocks: list[Block] = [lead]
    if found.warnings:
        blocks.append(Notice("The attacks warn", list(found.warnings), "warn"))
    kinds = list(found.radius)
    margins = [[one.name, f"{one.margin:.3f}", percent(one.share)] for one in found.modalities]
    reach = [
        [one.name, *(f"{one.tau[k]:.3g}" for k in kinds), *(f"{one.radius[k]:.3g}" for k in kinds)] for one in found.modalities
    ]
    one_by_one = Section(
        "Each modality",
        [
            Table("Margins and preference", ["modality", "mean margin", "share (preference)"], margins),
            Table(
                "Lipschitz constants, and the mean radius if only this modality is attacked",
                ["modality", *kinds, *kinds],
                reach,
                groups=[("", 1), ("Lipschitz", len(kinds)), ("mean radius", len(kinds))],
                note="Empirical: the largest seen, no guarantee. Spectral: a sound bound, loose.",
            ),
            Text(
                [
                    "Margin: how far the right class is ahead in this modality's part of the logits; negative means that alone "
                    "it would err. Lipschitz: the most by which its part of a logit can change for each unit of change of its "
                    "input, over all classes.",
                ]
            ),
        ],
    )
    held = [
        [KINDS[kind], f"{found.radius[kind]:.3g}", *(percent(v) for v in found.certified[kind][1:])]  # type: ignore[index]
        for kind in kinds
    ]
    grid = joint.eps[1:]
    radii = Section(
        "Radius around each sample",
        [
            Table(
                "Joint L2 radius (5): mean, and the share of samples whose radius is at least eps",
                ["Lipschitz constants", "mean radius", *(f"eps {e:g}" for e in grid)],
                held,
                note="Only the spectral row is a certificate. The empirical one looks like it; its constants were measured.",
            ),
        ],
    )
    curves = Section(
        "Attack curves",
        [
            Picture(figure_svg(curves_figure(found), "accuracy over eps"), "Accuracy over the L2 eps of each attacker."),
            Table(
                f"Accuracy under attack, {found.attacked} samples",
                ["attacker", *(f"eps {e:g}" for e in joint.eps), "mean over eps > 0"],
                [
                    [c.attacker, *(percent(v) for v in c.accuracy), percent(c.mean)]
                    for c in found.curves
                ],
            ),
        ],
    )  # fmt: skip
    subsets = Section(
        "When modalities are missing",
        [found.subsets.table(), Text(["A missing modality is its mean input: zero after normalisation, not a black picture."])],
    )
    setting = Section("Setting", [Facts(titled({**found.settings, "samples": found.n, "data": dict(found.data)}))])
    return Page(title, "Modality passport", blocks, [one_by_one, curves, subsets, radii, setting])


def curves_figure(found: Passport) -> Figure:
    """Accuracy over eps, a line an attacker; dotted: the share with a sound certificate of that radius (joint)."""
    figure, (axes,) = new_figure(3.6)
    draw_curves(axes, found)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_curves(axes: Any, found: Passport) -> None:
    """The curves of one passport into given axes."""
    for i, curve in enumerate(found.curves):
        values = [100 * v for v in curve.accuracy]
        style = {"color": INK, "linewidth": 2.0} if curve.attacker == JOINT else {"color": SERIES[i - 1], "linewidth": 1.5}
        axes.plot(
            curve.eps, values, marker=MARKERS[i % len(MARKERS)], markersize=4.5, label=f"{curve.attacker} attack", **style
        )
        low, high = zip(*curve.ci95, strict=True)
        axes.fill_between(
            curve.eps, [100 * v for v in low], [100 * v for v in high], color=style["color"], alpha=0.12, linewidth=0
        )
    sound = found.certified.get("spectral")
    if sound is not None and any(v > 0 for v in sound[1:]):
        joint = found.curve(JOINT)
        axes.plot(
            joint.eps[1:],
            [100 * v for v in sound[1:]],
            color=INK,
            linestyle=":",
            linewidth=1.2,
            label="certified (joint, sound)",
        )
    axes.set_ylim(-3, 103)
    axes.set_xlabel("eps (L2, input units)")
    axes.set_ylabel("accuracy, %")


def _row(found: Passport, name: str) -> ModalityRow:
    return next(one for one in found.modalities if one.name == name)


__all__ = [
    "AttackCurve",
    "ModalityRow",
    "Passport",
    "SubsetRow",
    "attack_curve",
    "curves_figure",
    "draw_curves",
    "passport",
    "passport_page",
]
