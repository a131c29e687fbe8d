"""Which differences between models are real: paired on the same images, with intervals and one verdict a row.

Two models that are judged on the same images are compared image by image. For shares: Newcombe's interval of the paired
difference (1998, Stat. Med. 17:2635, method 10) and McNemar's exact test. For means over several corruptions of an image:
Student's paired t over the images. The p-values of all rows are adjusted together by Holm (1979), so that the chance of any
false "better" or "worse" in the whole table is at most 5 %.

Example::

    import tutelage
    from tutelage.auditing.compare import compare

    data = tutelage.fashion_mnist_subset("test").take(slice(0, 100))
    first, second = (tutelage.audit(tutelage.models.SmallCNN(8), data, threats=(), force=True, name=name) for name in "AB")
    for row in compare({"A": first, "B": second}).rows:
        print(row.what, row.difference, row.ci95, row.verdict)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tutelage.auditing.attributes import Answers
from tutelage.auditing.cells import NO_VALUE, colour, listed, marker, points
from tutelage.auditing.figures import MUTED, SURFACE, Label, figure_svg, new_figure, place_labels
from tutelage.auditing.page import (
    Block,
    Facts,
    Notice,
    Page,
    Picture,
    Section,
    Table,
    Text,
    data_table,
    percent,
    write_page,
)
from tutelage.auditing.report import comparison_section, unreliable_notices
from tutelage.auditing.result import AuditResult
from tutelage.auditing.shift import EffectiveRobustness, Scale, effective_robustness, shift_points
from tutelage.core.errors import InputError
from tutelage.core.files import write_json
from tutelage.core.stats import holm, mcnemar, newcombe_paired, paired_t

Audits = Mapping[str, AuditResult]
Verdict = Literal["better", "worse", "no difference shown", "not reliable"]
Values = npt.NDArray[Any]  # (n,) bool: right or wrong; or shares in [0, 1]

LEAST_BASELINES = 3  # for a line that says how far off it they are
LEVEL = 0.05  # chance of any false "better" or "worse" among all rows


@dataclass(frozen=True)
class Difference:
    """One row: `model` against the reference on n images. Accuracies in [0, 1]; difference: the model's less the reference's.

    category, name: as in `AuditRow`. ci95: the paired interval of the difference, by `ci_method`. only_reference,
    only_model: images that only one of them got right (None for means). p_value: of "no difference", by itself; p_holm:
    adjusted for all rows. verdict: of the model; "not reliable" under a threat if one of the audits failed its checks.
    """

    model: str
    category: str
    name: str
    n: int
    reference_value: float
    value: float
    difference: float
    ci95: tuple[float, float]
    ci_method: str
    only_reference: int | None
    only_model: int | None
    p_value: float
    p_holm: float = 1.0
    verdict: Verdict = "no difference shown"

    @property
    def what(self) -> str:
        """The row in words."""
        words = {
            "clean": "clean images",
            "corruptions": "the mean over corruptions",
            "corruption family": f"{self.name} corruptions",
            "corruption": self.name,
            "shift": f"shifted set {self.name}",
            "edits": "the mean over edits of attributes",
            "edit": f"edit {self.name}",
        }
        return words.get(self.category, self.category)


@dataclass(frozen=True)
class OnTheLine:
    """Effective robustness on one shifted set: (main, shifted) accuracies of models and baselines by name, and the fit."""

    shift: str
    models: dict[str, tuple[float, float]]
    baselines: dict[str, tuple[float, float]]
    found: EffectiveRobustness


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. left_out: what could not be compared, and why. notes: what to mind."""

    audits: dict[str, AuditResult]
    reference: str
    rows: list[Difference]
    left_out: list[str]
    notes: list[str]
    lines: list[OnTheLine]

    def of(self, model: str) -> list[Difference]:
        """The rows of one model."""
        return [row for row in self.rows if row.model == model]

    @property
    def models(self) -> list[str]:
        """The models that are compared with the reference."""
        return [name for name in self.audits if name != self.reference]

    def describe(self) -> dict[str, Any]:
        """Everything as JSON values."""
        keys = ("name", "sha256", "parameters")
        return {
            "reference": self.reference,
            "models": [
                {"model": name, "status": one.status, **{key: one.model[key] for key in keys}}
                for name, one in self.audits.items()
            ],
            "data": self.audits[self.reference].data,
            "rows": [{**asdict(row), "what": row.what} for row in self.rows],
            "adjustment": f"Holm over {len(self.rows)} rows, family-wise error at most {LEVEL:g}",
            "left_out": self.left_out,
            "notes": self.notes,
            "effective_robustness": [_described(line) for line in self.lines],
        }

    def save(self, folder: Path | str) -> Path:
        """Write compare.json and report.html into `folder`; returns the path of the page."""
        folder = Path(folder)
        write_json(folder / "compare.json", self.describe())
        return write_comparison(folder / "report.html", self)


def compare(audits: Audits, *, baselines: Audits | None = None, scale: Scale = "logit", details: bool = False) -> Comparison:
    """Compare two or more audits of the same images; the first is the reference.

    audits: name -> result. Compared is what both have: clean accuracy, each threat's worst case, the mean over corruptions
    and each family, shifted sets; with `details` each corruption too. What was not measured in the same way (other attacks,
    other constants, another shifted set of that name) is left out and named. baselines: audits of at least three models
    that were trained as usual, on the same images and shifted sets: then effective robustness is told as well, with a line
    that is straight on `scale`; a shifted set that gives no such line is left out. Raises InputError, above all for audits
    of other images.
    """
    if not isinstance(audits, Mapping) or len(audits) < 2 or not all(isinstance(one, AuditResult) for one in audits.values()):
        raise InputError(
            "audits", type(audits).__name__ if not isinstance(audits, Mapping) else len(audits), "two or more audits by name"
        )
    reference, *others = audits
    for name in others:
        _check_same_data(reference, audits[reference], name, audits[name], "audits")
    for name, one in audits.items():
        _check_predictions(name, one)
    rows: list[Difference] = []
    left_out: list[str] = []
    for name in others:
        for item in _pairs(audits[reference], audits[name], details):
            if isinstance(item, str):
                left_out.append(f"{name}: {item}")
            else:
                rows.append(_difference(name, *item))
    adjusted = holm([row.p_value for row in rows]).tolist()
    threats = {threat for one in audits.values() for threat in one.threats}
    judged = []
    for row, p in zip(rows, adjusted, strict=True):
        unsure = row.category in threats and any(_doubted(audits[name], row.category) for name in (reference, row.model))
        judged.append(replace(row, p_holm=p, verdict=_verdict(row, p, unsure)))
    lines, without = _on_the_line(audits, baselines or {}, scale)
    return Comparison(dict(audits), reference, judged, [*left_out, *without], _notes(audits), lines)


def _doubted(one: AuditResult, threat: str) -> bool:
    """Whether a flag concerns this threat; audits from before the flags are doubted as a whole."""
    return one.status != "reliable" and (not (one.flags or one.failed) or bool(one.doubts(threat)))


def _check_same_data(first: str, one: AuditResult, second: str, other: AuditResult, argument: str) -> None:
    if one.data["sha256"] != other.data["sha256"]:
        described = [
            f"{name} on {result.data['n']} of {result.data['name']} ({result.data['sha256'][:8]})"
            for name, result in ((first, one), (second, other))
        ]
        raise InputError(argument, " and ".join(described), "audits of the same images in the same order")


def _check_predictions(name: str, result: AuditResult) -> None:
    n, kept = result.data["n"], result.predictions
    needed = {"clean": n, **dict.fromkeys(result.threats, n)}
    needed |= dict.fromkeys(result.settings.get("corruptions", {}).get("names", ()), n)
    needed |= {one["shift"]: one["n"] for one in result.settings.get("shifts", ())}
    for under, wanted in needed.items():
        if len(kept.get(under, ())) != wanted:
            got = f"{name} with {len(kept.get(under, ()))} predictions under {under}"
            raise InputError("audits", got, f"{wanted}, one an image, as `save` keeps them")


def _pairs(a: AuditResult, b: AuditResult, details: bool) -> Iterator[tuple[str, str, Values, Values] | str]:
    """(category, name, values of a, values of b) of all that both have, or why something is left out."""
    yield "clean", "clean", _right(a, "clean"), _right(b, "clean")
    attacks = [dict(zip(one.threats, one.settings["threats"], strict=True)) for one in (a, b)]
    for threat in dict.fromkeys([*attacks[0], *attacks[1]]):
        if threat in a.failed or threat in b.failed:
            yield f"{threat}: it failed in one of the audits"
        elif not all(threat in one for one in attacks):
            yield f"{threat}: only one of the audits has it"
        elif attacks[0][threat] != attacks[1][threat]:
            yield f"{threat}: the attacks had other settings"
        else:
            yield threat, "worst case", _right(a, threat), _right(b, threat)
    yield from _corruption_pairs(a, b, details)
    sets = [{one["shift"]: one["sha256"] for one in result.settings.get("shifts", ())} for result in (a, b)]
    for shift in dict.fromkeys([*sets[0], *sets[1]]):
        if not all(shift in one for one in sets):
            yield f"shifted set {shift}: only one of the audits has it"
        elif sets[0][shift] != sets[1][shift]:
            yield f"shifted set {shift}: it held other images"
        else:
            yield "shift", shift, _right(a, shift), _right(b, shift)
    yield from _edit_pairs(a, b, details)


def _corruption_pairs(a: AuditResult, b: AuditResult, details: bool) -> Iterator[tuple[str, str, Values, Values] | str]:
    about = [result.settings.get("corruptions") for result in (a, b)]
    if about[0] is None or about[1] is None:
        if about[0] != about[1]:
            yield "corruptions: only one of the audits has them"
        return
    if odd := [key for key in ("constants", "frost") if about[0].get(key) != about[1].get(key)]:
        yield f"corruptions: {odd[0]} {about[0].get(odd[0])} and {about[1].get(odd[0])}"
        return
    both = [name for name in about[0]["names"] if name in about[1]["names"]]
    if rest := sorted(set(about[0]["names"]) ^ set(about[1]["names"])):
        yield f"corruptions that only one of the audits has: {', '.join(rest)}"
    if not both:
        return
    from tutelage.auditing.corruption import shares
    from tutelage.threats.corruptions import Corruption

    asked = [Corruption(name.partition("@")[0], int(name.partition("@")[2])) for name in both]

    def pair(category: str, name: str, mine: Sequence[Corruption]) -> tuple[str, str, Values, Values]:
        if len(mine) == 1:  # right or wrong
            return category, name, _right(a, str(mine[0])), _right(b, str(mine[0]))
        import torch

        first, second = (
            shares({str(one): torch.tensor(result.predictions[str(one)]) for one in mine}, mine).numpy() for result in (a, b)
        )
        return category, name, first, second

    yield pair("corruptions", "mean", asked)
    families = list(dict.fromkeys(one.family for one in asked))
    for family in families if len(families) > 1 else []:
        yield pair("corruption family", family, [one for one in asked if one.family == family])
    names = list(dict.fromkeys(one.name for one in asked))
    for name in names if details and len(names) > 1 else []:
        yield pair("corruption", name, [one for one in asked if one.name == name])


def _edit_pairs(a: AuditResult, b: AuditResult, details: bool) -> Iterator[tuple[str, str, Values, Values] | str]:
    """Edited pictures: the mean over the edits that both audits made alike, and with details each edit."""
    if a.attributes is None or b.attributes is None:
        if a.attributes is not b.attributes:
            yield "edits of attributes: only one of the audits has them"
        return
    if not (a.attributes.answers and b.attributes.answers):
        yield "edits of attributes: one of the audits is of an earlier version, which did not keep the answers"
        return
    if a.attributes.settings.get("right") != b.attributes.settings.get("right"):
        yield "edits of attributes: one audit counts the label as right, the other the model's own answer"
        return
    first, second = a.attributes.answers, b.attributes.answers
    both = [edit for edit in first if edit in second]
    if rest := [edit for edit in {**first, **second} if edit not in both]:
        yield f"edits that only one of the audits has: {', '.join(rest)}"
    alike = [edit for edit in both if first[edit].sha256 == second[edit].sha256]
    if odd := [edit for edit in both if edit not in alike]:
        yield f"edits with other pictures for each model: {', '.join(odd)}"
    counted = [row.edit for row in a.attributes.rows if row.edit in alike and row.attribute != "none"]
    if not counted:
        return
    done = np.array([first[edit].ok for edit in counted])  # (edits, pictures)
    any_done = done.any(0)

    def shares(answers: Mapping[str, Answers]) -> Values:
        right = np.array([answers[edit].right for edit in counted]) & done
        return np.asarray((right.sum(0) / np.maximum(done.sum(0), 1))[any_done])

    if len(counted) > 1:
        yield "edits", "mean", shares(first), shares(second)
    for edit in alike if details or len(counted) == 1 else []:
        ok = np.array(first[edit].ok)
        yield "edit", edit, np.array(first[edit].right)[ok], np.array(second[edit].right)[ok]


def _right(result: AuditResult, under: str) -> Values:
    return np.array(result.predictions[under], dtype=np.bool_)


def _difference(model: str, category: str, name: str, a: Values, b: Values) -> Difference:
    """The row of one pair, before it is judged."""
    values = float(a.mean()), float(b.mean())
    if a.dtype == np.bool_:
        test, interval = mcnemar(b, a), newcombe_paired(b, a)
        return Difference(
            model, category, name, len(a), *values, values[1] - values[0], (interval.lo, interval.hi), "newcombe-paired",
            test.c, test.b, test.p_value,
        )  # fmt: skip
    found = paired_t(b, a)
    ci95 = max(-1.0, found.interval.lo), min(1.0, found.interval.hi)
    return Difference(model, category, name, len(a), *values, found.difference, ci95, "paired-t", None, None, found.p_value)


def _verdict(row: Difference, p: float, unsure: bool) -> Verdict:
    if unsure:
        return "not reliable"
    if p > LEVEL or row.difference == 0:
        return "no difference shown"
    return "better" if row.difference > 0 else "worse"


def _notes(audits: Audits) -> list[str]:
    notes = []
    if len({one.settings["seed"] for one in audits.values()}) > 1:
        notes.append("The audits have different seeds: the noise of attacks and corruptions is not the same for all models.")
    if len({one.environment.get("device") for one in audits.values()}) > 1:
        notes.append("The audits ran on different devices.")
    return notes


def _on_the_line(audits: Audits, baselines: Audits, scale: Scale) -> tuple[list[OnTheLine], list[str]]:
    """The lines, and why shifted sets have none."""
    if not baselines:
        return [], []
    if len(baselines) < LEAST_BASELINES:
        wanted = f"at least {LEAST_BASELINES} models that were trained as usual: repeat --baseline"
        raise InputError("baselines", f"{len(baselines)} ({', '.join(baselines)})", wanted)
    reference = next(iter(audits))
    shifts = [name for name in audits[reference].shifts if all(name in one.shifts for one in audits.values())]
    if not shifts:
        raise InputError(
            "baselines", f"{len(baselines)} baselines, but no shifted set that all audits have", "audits with shifts"
        )
    judged = {one.model["sha256"]: name for name, one in audits.items()}
    for name, one in baselines.items():
        _check_same_data(reference, audits[reference], name, one, "baselines")
        if (twin := judged.get(one.model["sha256"])) is not None:
            raise InputError(
                "baselines", f"{name}, which has the weights of {twin}", "models that are not among those compared"
            )
    lines: list[OnTheLine] = []
    without: list[str] = []
    for shift in shifts:
        everyone = {**audits, **{f"baseline {name}": one for name, one in baselines.items()}}
        hashes = {name: _shift_hash(one, shift) for name, one in everyone.items()}
        if odd := [name for name, found in hashes.items() if found != hashes[reference]]:
            raise InputError("baselines", f"{odd[0]} with another shifted set {shift}", f"the same images as {reference} has")
        models, line = shift_points(audits, shift), shift_points(baselines, shift)
        named = dict(zip(audits, models, strict=True)), dict(zip(baselines, line, strict=True))
        try:
            lines.append(OnTheLine(shift, *named, effective_robustness(models, line, scale)))
        except InputError as error:  # what was compared image by image holds all the same
            reason = _off_the_scale(dict(zip(everyone, [*models, *line], strict=True)), shift, scale) or str(error)
            without.append(f"effective robustness on {shift}: {reason}")
    return lines, without


def _off_the_scale(everyone: Mapping[str, tuple[float, float]], shift: str, scale: Scale) -> str:
    """Whose accuracies, (main, shifted), the scale has no place for; nothing if it has one for all."""
    if scale == "linear":
        return ""
    ends = [
        f"{name} gets {100 * value:.0f} % of {where}"
        for name, pair in everyone.items()
        for where, value in zip(("the main set", shift), pair, strict=True)
        if value in (0, 1)
    ]
    return f'{"; ".join(ends)}; the {scale} scale has no place for that: --scale linear (scale="linear") has' if ends else ""


def _shift_hash(result: AuditResult, shift: str) -> str:
    return next((str(one["sha256"]) for one in result.settings.get("shifts", ()) if one["shift"] == shift), "")


def _described(line: OnTheLine) -> dict[str, Any]:
    found = line.found
    return {
        "shift": line.shift,
        "scale": found.scale,
        "slope": found.slope,
        "intercept": found.intercept,
        "r2": found.r2,
        "band": found.method,
        "baselines": [{"model": name, "main": x, "shifted": y} for name, (x, y) in line.baselines.items()],
        "models": [
            {
                "model": name,
                "main": x,
                "shifted": y,
                "expected": beta,
                "effective_robustness": rho,
                "ci95": [limits.lo, limits.hi],
            }
            for (name, (x, y)), beta, rho, limits in zip(
                line.models.items(), found.expected, found.values, found.intervals, strict=True
            )
        ],
    }


# --------------------------------------------------------------------------------------------------------------- page


def outcome(comparison: Comparison, model: str) -> str:
    """One sentence: on what the model is better, worse, and where no difference is shown."""
    by_verdict: dict[str, list[str]] = {}
    for row in comparison.of(model):
        by_verdict.setdefault(row.verdict, []).append(row.what)
    words = {"better": "is better on", "worse": "is worse on", "no difference shown": "shows no difference on",
             "not reliable": "cannot be judged on"}  # fmt: skip
    parts = [f"{words[verdict]} {listed(by_verdict[verdict])}" for verdict in words if verdict in by_verdict]
    return f"Against {comparison.reference}, {model} {listed(parts)}."


def write_comparison(path: Path, comparison: Comparison, *, title: str = "Comparison") -> Path:
    """Write the page of a comparison to `path` and return it; self-contained, as every page is."""
    audits = comparison.audits
    data = audits[comparison.reference].data
    split = f", {data['split']} split" if data["split"] else ""
    lead: list[Block] = [
        Text([
            f"{len(audits)} models on the same {data['n']:,} samples of {data['name']}{split}.",
            *(outcome(comparison, model) for model in comparison.models),
        ]),
        *(notice for name, one in audits.items() for notice in unreliable_notices(one, name)),
    ]  # fmt: skip
    if comparison.left_out:
        lead.append(Notice("Left out", comparison.left_out, "warn"))
    if comparison.notes:
        lead.append(Notice("To mind", comparison.notes, "warn"))
    tables = [_table(comparison, model) for model in comparison.models]
    sections = [Section("Differences", [*tables, _picture(comparison), Text([_HOW])])]
    if comparison.lines:
        sections.append(Section("Effective robustness", [block for line in comparison.lines for block in _line_blocks(line)]))
    beside = comparison_section(audits)
    sections.append(Section("Side by side", beside.blocks))
    facts = {
        name: f"{one.model['name']}, {one.model['parameters']:,} parameters, weights SHA-256 {one.model['sha256']}"
        for name, one in audits.items()
    }
    sections.append(
        Section(
            "What was compared", [Facts(facts), data_table([data, *audits[comparison.reference].settings.get("shifts", [])])]
        )
    )
    return write_page(path, Page(title, f"Comparison of {len(audits)} models", lead, sections))


_HOW = (
    "A difference is the accuracy of the model less that of the reference, on the same images. Its 95 % interval is "
    "Newcombe's for paired samples, with McNemar's exact test; for means over several corruptions of an image it is "
    "Student's paired t over images. The p-values are adjusted by Holm over all rows: the chance of any false “better” or "
    "“worse” is at most 5 %. The intervals are not adjusted, so one may exclude 0 where no difference is shown. No "
    "difference shown does not mean equal: the interval says how large a difference may still be."
)


def _table(comparison: Comparison, model: str) -> Table:
    reference, found = comparison.reference, comparison.of(model)
    rows = [
        [
            row.what,
            percent(row.reference_value),
            percent(row.value),
            points(row.difference, row.ci95),
            row.verdict,
            p_text(row.p_holm),
            *(NO_VALUE if count is None else f"{count:,}" for count in (row.only_reference, row.only_model)),
            f"{row.n:,}",
        ]
        for row in found
    ]
    header = ["On", reference, model, "Difference, points", "Verdict", "p (Holm)", reference, model, "n"]
    groups = [("", 1), ("accuracy", 2), ("", 3), ("right alone", 2), ("", 1)]
    return Table(f"{model} against {reference}", header, rows, "lrrrnr", groups)


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _picture(comparison: Comparison) -> Picture:
    """All differences with their intervals, one line a row, one marker a model."""
    whats = list(dict.fromkeys(row.what for row in comparison.rows))
    models = comparison.models
    figure, (axes,) = new_figure(1.1 + 0.34 * len(whats) * max(1.0, 0.6 * len(models)))
    handles = []
    for i, model in enumerate(models, 1):  # the reference has the first colour in the other pictures
        for row in comparison.of(model):
            y = whats.index(row.what) + 0.5 * ((i - 0.5) / len(models) - 0.5)
            middle, low, high = (100 * value for value in (row.difference, *row.ci95))
            filled = colour(i) if row.verdict in ("better", "worse") else SURFACE
            axes.errorbar(
                middle, y, xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]], color=colour(i), marker=marker(i),
                markerfacecolor=filled, markersize=6.5, linewidth=1.4,
            )  # fmt: skip
        handles += axes.plot([], [], color=colour(i), marker=marker(i), linestyle="none")
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(whats)), whats, parse_math=False)
    axes.set_ylim(len(whats) - 0.5, -0.5)
    axes.set_xlabel(f"difference from {comparison.reference}, points", parse_math=False)
    if len(models) > 1:
        legend = axes.legend(handles, ["0"] * len(models), frameon=False, fontsize=9.5)
        for text, name in zip(legend.get_texts(), models, strict=True):  # a name may begin with _ or hold a $
            text.set_parse_math(False)
            text.set_text(name)
    caption = (
        f"Differences from {comparison.reference} with 95 % intervals; right of 0 the model is better. Filled: real after "
        "adjustment; open: no difference shown."
    )
    return Picture(figure_svg(figure, caption), caption)


def _line_blocks(line: OnTheLine) -> list[Block]:
    found = line.found
    table = [
        [name, percent(x), percent(y), percent(beta), points(rho, (limits.lo, limits.hi))]
        for (name, (x, y)), beta, rho, limits in zip(
            line.models.items(), found.expected, found.values, found.intervals, strict=True
        )
    ]
    band = "a bootstrap of the baseline models" if found.method == "bootstrap" else "Student's t, as they are few"
    note = (
        f"Expected: what the line through {found.n_baselines} baseline models gives, fitted on the {found.scale} scale "
        f"(R² {found.r2:.3f}). Effective robustness: how far above it the model is (Taori et al. 2020), with a 95 % interval "
        f"from {band}. It holds the uncertainty of the line, not that of the model's own accuracies."
    )
    header = ["Model", "Main set", f"Shifted set {line.shift}", "Expected", "Effective robustness, points"]
    return [Table(f"Effective robustness on {line.shift}", header, table, note=note), _line_picture(line)]


def _line_picture(line: OnTheLine) -> Picture:
    figure, (axes,) = new_figure(4.2)
    everyone = [*line.models.values(), *line.baselines.values()]
    low, high = min(x for x, _ in everyone), max(x for x, _ in everyone)
    room = max(0.02, 0.08 * (high - low))
    grid = np.linspace(max(1e-3, low - room), min(1 - 1e-3, high + room), 60)
    below, above = line.found.band(grid)
    axes.fill_between(100 * grid, 100 * below, 100 * above, color=MUTED, alpha=0.18, linewidth=0)
    axes.plot(100 * grid, 100 * line.found.line(grid), color=MUTED, linewidth=1.4)
    x, y = zip(*line.baselines.values(), strict=True)
    axes.plot([100 * v for v in x], [100 * v for v in y], color=MUTED, marker="o", markersize=5, linestyle="none")
    ends = [v for _, v in everyone]
    axes.set_ylim(max(-2.0, 100 * (min(ends) - 0.1)), min(102.0, 100 * (max(ends) + 0.1)))
    labels = []
    for i, (name, (main, shifted)) in enumerate(line.models.items()):
        axes.plot(100 * main, 100 * shifted, color=colour(i), marker=marker(i), markersize=8, linestyle="none")
        labels.append(Label(100 * main, 100 * shifted, name, colour(i), bold=True))
    axes.set_xlabel("accuracy on the main set, %")
    axes.set_ylabel(f"accuracy on {line.shift}, %", parse_math=False)
    place_labels(axes, labels)
    caption = f"Accuracy on {line.shift} against accuracy on the main set. Grey: baseline models, their line and its 95 % band."
    return Picture(figure_svg(figure, caption), caption)
