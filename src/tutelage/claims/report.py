"""The report of a claim: its verdict, what the verdict rests on, and how to run it again, as one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tutelage.auditing.figures import figure_svg
from tutelage.auditing.page import (
    Block,
    Code,
    Facts,
    Link,
    Mark,
    Notice,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Tone,
    data_table,
    duration,
    measured,
    plain,
    titled,
    write_page,
)
from tutelage.auditing.players import players
from tutelage.claims.claim import Claim, ClaimResult, Row, SentenceResult
from tutelage.claims.figures import differences_figure, in_points, metric_label, tradeoff_figure
from tutelage.core.errors import TutelageError
from tutelage.core.stats import mean_t, paired_t

TONES: dict[str, Tone] = {"holds": "good", "does not hold": "bad", "undecided": "warn"}
MOST_REASONS = 3  # of failed cells, above the first section
NO_VALUE, NOT_JUDGED = "–", "not judged"


def write_claim_report(path: Path, claim: Claim, result: ClaimResult) -> Path:
    """Write the page of one result of `claim` to `path` and return it. The page is self-contained: it loads nothing."""
    system = claim.system
    sections = [Section("Pictures", _pictures(claim, result)), _sentences(claim, result), _arms(claim, result)]
    sections += [_provenance(claim, result), _paper(claim)]
    page = Page(
        f"{system.name}: {result.verdict}", f"Claim · {system.room} · scale {result.scale}", _verdict(claim, result), sections
    )
    written = write_page(path, page)
    if (path.parent / "result.json").is_file():  # a run folder, not a page somewhere
        leave_files(path.parent, claim, result)
    return written


def leave_files(folder: Path, claim: Claim, result: ClaimResult) -> None:
    """Put what can be heard or used of a run beside its result: `leave(result, folder)` of `<claim>_pictures`, if it is there.

    An extra or an artifact that is missing leaves nothing; the page says so where it would have shown it.
    """
    module = _beside(claim)
    if module is not None and hasattr(module, "leave"):
        with suppress(Exception):  # as for pictures: a result of another version of the code may say anything
            module.leave(result, folder)


# ------------------------------------------------------------------------------------------------------------ verdict


def _verdict(claim: Claim, result: ClaimResult) -> list[Block]:
    primary = next((one for one in result.claims if one.primary), None)
    sentence = primary.sentence if primary else claim.sentences[0].sentence
    title = f"Verdict: {result.verdict}"
    if primary is None:
        text = "The primary sentence could not be judged: method and baseline have fewer than two complete units in common."
        blocks: list[Block] = [Text([sentence]), Notice(title, [text], "warn")]
    else:
        tone = TONES.get(result.verdict, "warn")
        blocks = [Text([sentence]), Notice(title, _meaning(claim, result, primary), tone), _basis(claim, primary)]
    return [*blocks, *_cautions(claim, result)]


def _meaning(claim: Claim, result: ClaimResult, one: SentenceResult) -> list[str]:
    """What the verdict says, in words."""
    what = "value" if one.kind == "threshold" else "difference"
    side = "below" if one.kind == "threshold" and one.better == "lower" else "above"
    other = {"above": "below", "below": "above"}[side]
    inside = one.ci95[0] > one.margin if side == "above" else one.ci95[1] < one.margin
    words = {
        "holds": f"The whole 95 % interval of the {what} lies {side} the margin, and the method beats every control.",
        "does not hold": f"The whole 95 % interval of the {what} lies {other} the margin: what was measured speaks against it.",
        "undecided": f"The 95 % interval of the {what} contains the margin: these units cannot tell; more units may.",
    }
    if inside and one.verdict != "holds":
        names = ", ".join(claim.controls)
        what_controls = "is worse than" if one.verdict == "does not hold" else "is not clearly better than"
        words[one.verdict] = (
            f"The 95 % interval of the {what} lies {side} the margin, but the method {what_controls} a trivial control "
            f"({names}), which it must beat too: a gain that a trivial step also brings is none of the method's."
        )
    if result.verdict != "incomplete":
        return [words[one.verdict]]
    missing = "No verdict is given while cells are missing or failed."
    return [missing, f"On the cells that are there the primary sentence {_says(one)}. {words[one.verdict]}"]


def _says(one: SentenceResult) -> str:
    return "is undecided" if one.verdict == "undecided" else one.verdict


def _basis(claim: Claim, one: SentenceResult) -> Facts:
    value = "Value" if one.kind == "threshold" else "Difference"
    number = measured(one.difference, one.ci95, signed=one.kind != "threshold")
    return Facts(
        {
            value: f"{number} {claim.system.claim.metric_unit} (95 % interval, {one.ci_method})",
            "Margin": f"{one.margin:g} ({one.kind}, {one.better} is better)",
            "Metric": metric_label(claim, one.metric),
            "Method": one.method,
            "Baseline": one.baseline or "none: the margin is a value to reach",
            "Controls to beat": ", ".join(claim.controls) or "none",
            "Units": f"{one.n_units} ({one.unit})",
        }
    )


def _cautions(claim: Claim, result: ClaimResult) -> list[Block]:
    notices: list[Block] = []
    if failed := [row for row in result.rows if row.status == "failed"]:
        reasons = [f"{row.arm}, unit {row.unit_id}: {row.error}" for row in failed[:MOST_REASONS]]
        reasons += ["All of them are listed under Arms."] if len(failed) > MOST_REASONS else []
        notices.append(Notice(f"{len(failed)} of {len(result.rows)} cells failed", reasons, "bad"))
    if result.scale == "smoke":
        text = "Smoke scale shows that the code runs, on tiny inputs. It says nothing about the paper."
        notices.append(Notice("Smoke scale", [text], "warn"))
    if changed := _changes(claim, result):
        notices.append(Notice("Changed settings", [f"{key} = {plain(value)}" for key, value in changed.items()], "warn"))
    if generated := [one for one in result.data if one.get("kind") == "generated"]:
        text = "Measured on generated data, not on a real set."
        if len(generated) < len(result.data):
            names = ", ".join(str(one.get("name")) for one in generated)
            text = f"Among the data are generated ones: {names}. The others are real sets."
        notices.append(Notice("Generated data", [text], "plain"))
    if result.dirty or not result.commit:
        text = "The source tree had changes that are in no commit, so the commit alone does not say what ran."
        notices.append(Notice("Uncommitted code", [text], "plain"))
    return notices


def _changes(claim: Claim, result: ClaimResult) -> dict[str, Any]:
    """What `--set` changed against the scale's own config."""
    base = claim.scales[result.scale].model_dump() if result.scale in claim.scales else {}
    return {key: value for key, value in result.config.items() if key in base and base[key] != value}


# --------------------------------------------------------------------------------------------- pictures and sentences


def _pictures(claim: Claim, result: ClaimResult) -> list[Block]:
    blocks: list[Block] = []
    if claim.axes is not None and any(result.values(arm, metric) for arm in result.arms for metric in claim.axes[:1]):
        x, y = (metric_label(claim, metric) for metric in claim.axes)
        caption = f"Every arm: {x} against {y}. Means over units with 95 % Student-t intervals in both directions."
        blocks.append(Picture(figure_svg(tradeoff_figure(claim, result), caption), caption))
    if result.claims:
        caption = (
            "Every sentence with its 95 % interval, numbered as in the table below. Right of 0 the method is better. A "
            "sentence holds if the whole interval is on the better side of its margin, the thick tick."
        )
        blocks.append(Picture(figure_svg(differences_figure(claim, result), caption), caption))
    blocks += _own_pictures(claim, result)
    return blocks or [Text(["There is nothing to draw: no cell succeeded."])]


def _beside(claim: Claim) -> Any:
    """The module `<claim>_pictures` beside the claim, or None.

    It is no part of the claim itself, so that a change of a picture leaves recorded results as they are.
    """
    name, found = f"{claim.system.claim_module}_pictures", None
    with suppress(ModuleNotFoundError):  # of a claim that lies elsewhere
        found = find_spec(name)
    return import_module(name) if found else None


def _own_pictures(claim: Claim, result: ClaimResult) -> list[Block]:
    """Of `pictures(result) -> [(figure, caption)]` and `sounds(result) -> [(name, wav file)]` beside the claim."""
    module = _beside(claim)
    if module is None:
        return []
    try:
        blocks: list[Block] = [Picture(figure_svg(figure, caption), caption) for figure, caption in module.pictures(result)]
        if hasattr(module, "sounds"):
            blocks += [players(module.sounds(result))]
    except TutelageError as error:  # an extra or an artifact that is missing: the page is written without them
        return [Notice("Pictures of the cells", [f"They could not be drawn: {error}"], "plain")]
    except Exception as error:  # a result of another version of the code may say anything; its numbers are shown all the same
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [Notice("Pictures of the cells", [f"They could not be drawn from this result ({reason})."], "plain")]
    return blocks


def _sentences(claim: Claim, result: ClaimResult) -> Section:
    rows: list[list[str | Mark]] = []
    for number, one in enumerate(result.claims, 1):
        sentence = f"{number}. {one.sentence}"
        pair = f"{one.method} against {one.baseline}" if one.baseline else one.method
        value = measured(one.difference, one.ci95, signed=one.kind != "threshold")
        basis = [value, f"{one.margin:g}", str(one.n_units), metric_label(claim, one.metric), pair]
        rows.append([Mark(sentence, "primary") if one.primary else sentence, one.verdict, *basis])
    judged = {one.sentence for one in result.claims}
    for left in claim.sentences:
        if left.sentence not in judged:
            pair = f"{left.method} against {left.baseline}" if left.baseline else left.method
            unjudged = [NO_VALUE, f"{left.margin:g}", NO_VALUE, metric_label(claim, left.metric), pair]
            rows.append([left.sentence, NOT_JUDGED, *unjudged])
    header = ["Sentence", "Verdict", "Difference or value", "Margin", "Units", "Metric", "Compared"]
    note = (
        "Differences are advantages, positive where the method is better; in brackets 95 % intervals over units. Only the "
        "primary sentence carries the verdict of the claim; the others were not corrected for their number. Not judged: "
        "fewer than two complete units."
    )
    return Section("All sentences", [Table("What was asked and what was found", header, rows, "tnrrrl", note=note)])


# --------------------------------------------------------------------------------------------------------------- arms


def _arms(claim: Claim, result: ClaimResult) -> Section:
    metrics = list(dict.fromkeys(metric for row in result.rows for metric in row.metrics))
    rows = [_arm_row(claim, result, arm, metrics) for arm in result.arms]
    header = ["Arm", "Units", "Failed", *(metric_label(claim, metric) for metric in metrics), "Time"]
    note = "Mean over units, and in brackets its 95 % Student-t interval. Time: all units together, without cached teachers."
    blocks: list[Block] = [Table("Every arm in every metric", header, rows, note=note)]
    if failed := [row for row in result.rows if row.status == "failed"]:
        blocks.append(_failures(failed))
    if controls := _against_controls(claim, result):
        blocks.append(controls)
    return Section("Arms", blocks)


def _arm_row(claim: Claim, result: ClaimResult, arm: str, metrics: Sequence[str]) -> list[str | Mark]:
    mine = [row for row in result.rows if row.arm == arm]
    ok = sum(row.status == "ok" for row in mine)
    values = [_mean(list(result.values(arm, metric).values())) for metric in metrics]
    time = duration(sum(row.seconds for row in mine))
    role = _role(claim, arm)
    return [Mark(arm, role) if role else arm, str(ok), str(len(mine) - ok), *values, time]


def _role(claim: Claim, arm: str) -> str:
    primary = claim.sentences[0]
    if arm in claim.controls:
        return "control"
    return {primary.method: "method", primary.baseline: "baseline"}.get(arm, "")


def _mean(values: Sequence[float]) -> str:
    if not values:
        return NO_VALUE
    if len(values) == 1:
        return f"{measured(values[0])} (one unit)"
    mean, interval = mean_t(values)
    return measured(mean, (interval.lo, interval.hi))


def _failures(failed: Sequence[Row]) -> Table:
    rows = [[row.arm, str(row.unit_id), row.error or "no reason kept", duration(row.seconds)] for row in failed]
    return Table("Failed cells", ["Arm", "Unit", "Reason", "Time"], rows, "lrar")


def _against_controls(claim: Claim, result: ClaimResult) -> Table | None:
    """The method against each trivial control in the metric of the primary sentence."""
    primary = claim.sentences[0]
    sign = 1 if primary.better == "higher" else -1
    own, rows = result.values(primary.method, primary.metric), []
    for control in claim.controls:
        other = result.values(control, primary.metric)
        units = sorted(own.keys() & other.keys())
        if len(units) < 2:
            rows.append([control, NO_VALUE, str(len(units))])
            continue
        pair = paired_t([sign * own[unit] for unit in units], [sign * other[unit] for unit in units])
        value = measured(pair.difference, (pair.interval.lo, pair.interval.hi), signed=True)
        rows.append([control, value, str(len(units))])
    header = ["Control", f"Advantage of {primary.method} in {in_points(metric_label(claim, primary.metric))}", "Units"]
    note = "The claim holds only if each of these intervals lies above 0 as well."
    return Table("The method against the trivial controls", header, rows, note=note) if rows else None


# --------------------------------------------------------------------------------------------------------- provenance


def _provenance(claim: Claim, result: ClaimResult) -> Section:
    fields = type(claim.scales[result.scale]).model_fields if result.scale in claim.scales else {}
    changed = _changes(claim, result)
    config: list[list[str | Mark]] = [
        [
            key,
            Mark(plain(value), "changed") if key in changed else plain(value),
            (fields[key].description or "") if key in fields else "",
        ]
        for key, value in result.config.items()
    ]
    code = {
        "Commit": f"{result.commit or 'none'}{' and uncommitted changes' if result.dirty else ''}",
        "Code SHA-256": result.code_sha256,
        "Started": result.started,
        "Time": duration(result.seconds),
        **titled(result.environment),
    }
    blocks: list[Block] = [
        data_table(result.data),
        Table("Settings", ["Setting", "Value", "Meaning"], config, "lal"),
        Facts(code),
    ]
    again = Section("Run it again", [Code(_command(claim, result)), Text([AGAIN])])
    return Section("How this was made", blocks, [again])


AGAIN = (
    "Finished cells are taken from the cache if code, settings, threads and torch are the same; the verdict is computed anew."
)


def _command(claim: Claim, result: ClaimResult) -> str:
    words = ["tutelage", "run", result.slug, "--scale", result.scale]
    units = len({row.unit_id for row in result.rows})
    if units != claim.units.get(result.scale, units):
        words += ["--seeds", str(units)]
    for key, value in _changes(claim, result).items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _paper(claim: Claim) -> Section:
    system = claim.system
    about = Text([f"{', '.join(system.authors)}: {system.title}. {system.venue}, {system.year}."])
    rows = [[one.figure, one.value, one.source] for one in system.headline]
    table = Table("Headline figures of the paper, in its own setting", ["Figure", "Value", "Taken from"], rows, "l")
    link: list[Block] = [Link("Paper:", system.paper_url)] if system.paper_url else []
    return Section("The paper", [about, *link, *([table] if rows else [])])
