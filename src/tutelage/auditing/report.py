"""The report of an audit: one HTML page for one model, or for several side by side."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tutelage.auditing.cells import cell, colour, extreme, find, marker, points, rows_of, share
from tutelage.auditing.figures import MUTED, Label, figure_svg, new_figure, place_labels
from tutelage.auditing.natural import corruption_blocks, corruption_facts, disparity_table, natural_arguments, shift_table
from tutelage.auditing.page import (
    Block,
    Code,
    Facts,
    Gallery,
    Mark,
    Notice,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Tile,
    data_table,
    duration,
    percent,
    plain,
    png_data_uri,
    titled,
    write_page,
)
from tutelage.auditing.result import ATTRIBUTES, CORRUPTIONS, PARTS, SHIFTS, AuditResult, AuditRow, Example

Audits = Mapping[str, AuditResult]

GALLERY = 12  # pictures a threat
CUMULATIVE = (
    "Attacks of a threat run one after the other: each line counts what is still right after that attack and those before it. "
    "The worst case is what is right after all of them. In brackets: 95 % Wilson intervals."
)
BRACKETS = "In brackets: 95 % intervals."


def write_report(
    path: Path,
    audits: Audits,
    *,
    title: str = "Audit",
    intro: str = "",
    figures: Mapping[str, Figure] | None = None,
) -> Path:
    """Write the page of one or several audits, name -> result, to `path` and return it.

    intro: a paragraph before everything. figures: caption -> matplotlib figure, shown after the comparison. The page is
    self-contained: it loads nothing.
    """
    blocks: list[Block] = [Text([intro])] if intro else []
    blocks += _summary(audits)
    sections = [comparison_section(audits)] if len(audits) > 1 else []
    if figures:
        pictures = [Picture(figure_svg(figure, caption), caption) for caption, figure in figures.items()]
        sections.append(Section("Figures", pictures))
    for name, result in audits.items():
        parts = _model_sections(result, alone=len(audits) == 1)
        sections += parts if len(audits) == 1 else [Section(name, unreliable_notices(result), parts)]
    kicker = "Robustness audit" if len(audits) == 1 else f"Robustness audit of {len(audits)} models"
    return write_page(path, Page(title, kicker, blocks, sections))


# ------------------------------------------------------------------------------------------------------------ summary


def _summary(audits: Audits) -> list[Block]:
    same_data = len({result.data["sha256"] for result in audits.values()}) == 1
    paragraphs: list[str] = []
    notices: list[Notice] = []
    if len(audits) > 1 and same_data:
        paragraphs.append(f"{len(audits)} models were audited on {_samples(next(iter(audits.values())))}.")
    for name, result in audits.items():
        who = f"{name} ({result.model['parameters']:,} parameters)"
        opening = f"{who}:" if len(audits) > 1 and same_data else f"{who} was audited on {_samples(result)}."
        paragraphs.append(f"{opening} {_outcome(result)}")
        notices += unreliable_notices(result, name if len(audits) > 1 else "")
    if not same_data:
        text = "The models were not all audited on the same samples: compare their numbers with that in mind."
        notices.append(Notice("Different data", [text], "warn"))
    return [Text(paragraphs), *notices]


def _samples(result: AuditResult) -> str:
    split = result.data["split"]
    return f"{result.row('clean').n:,} samples of {result.data['name']}{f', {split} split' if split else ''}"


def _outcome(result: AuditResult) -> str:
    text = f"Without any change, the sanity check, {share(result.row('clean'))} are classified right."
    for threat in result.threats:
        unsure = ", a number that is unreliable" if result.doubts(threat) else ""
        text += f" Under {threat}, {share(result.row(threat))} stay right in the worst case{unsure}."
    if (mean := find(result, "corruptions", "mean")) is not None:
        names = {name.partition("@")[0] for name in result.settings["corruptions"]["names"]}
        what = next(iter(names)) if len(names) == 1 else f"{len(names)} common corruptions"
        text += f" Under {what}, {share(mean)} stay right on average."
    if result.failed:
        text += f" No number is there of what failed: {', '.join(result.failed)}."
    for row in (r for r in result.rows if r.category == "shift"):
        text += f" On the shifted set {row.name}, {share(row)} are right."
    if (drop := find(result, "attributes", "average")) is not None:
        text += f" Edits of one attribute of the object cost {points(drop.value, drop.ci95)} points on average."
    passed = "passed" if result.status == "reliable" else "did not pass"
    return f"{text} The audit {passed} its own checks: its status is {result.status}."


def unreliable_notices(result: AuditResult, name: str = "") -> list[Notice]:
    """What must be read before the numbers of an audit that did not pass its own checks."""
    if result.status == "reliable":
        return []
    seen = [f for f in result.flags if f.unreliable]  # none in audits of earlier versions, whose warnings say all
    whose = f" ({name})" if name else ""
    notices = []
    if result.failed:
        reasons = [f"{what}: {reason}." for what, reason in result.failed.items()]
        notices.append(Notice(f"Failed: these have no number{whose}", reasons, "bad"))
    if seen or not notices:
        which = "the marked numbers" if seen else "these numbers"
        items = [f"{f'{f.threat}: ' if f.threat else ''}{f.seen}. Run next: {f.run_next}." for f in seen]
        notices.append(Notice(f"{result.status.capitalize()}: do not rely on {which}{whose}", items or result.warnings, "bad"))
    return notices


# ---------------------------------------------------------------------------------------------------- several models


def comparison_section(audits: Audits) -> Section:
    """Several models side by side: accuracies, clean against worst case, accuracy over eps."""
    blocks: list[Block] = [_comparison_table(audits)]
    for threat in dict.fromkeys(threat for result in audits.values() for threat in result.threats):
        blocks.append(_tradeoff(audits, threat))
    return Section("Comparison", [*blocks, *_curves(audits)])


def _comparison_table(audits: Audits) -> Table:
    columns: dict[str, list[str]] = {"clean": ["clean"]}  # threat -> attacks
    for result in audits.values():
        for threat in result.threats:
            known = columns.setdefault(threat, [])
            known += [r.name for r in result.rows if r.category == threat and r.name not in known]
    if len({plain(one.settings["corruptions"]["names"]) for one in audits.values() if "corruptions" in one.settings}) == 1:
        columns["corruptions"] = ["mean"]  # of the same ones
    if shifts := list(dict.fromkeys(name for one in audits.values() for name in one.shifts)):
        columns["shift"] = shifts
    cells = [(under, name) for under, names in columns.items() for name in names]
    table = [[find(result, threat, attack) for threat, attack in cells] for result in audits.values()]
    trusted = [result.status == "reliable" for result in audits.values()]
    best = [extreme([row[i] for row, sure in zip(table, trusted, strict=True) if sure], max) for i in range(len(cells))]
    rows = [
        [_named(name, result), *(_sure(result, row) or cell(row, best[i], "best") for i, row in enumerate(found))]
        for (name, result), found in zip(audits.items(), table, strict=True)
    ]
    attacked = any(result.threats for result in audits.values())
    best_words = "“best” marks the highest value of a column; where intervals overlap, that may be chance."
    return Table(
        f"Accuracy of each model{', clean and after each attack' if attacked else ''}",
        ["Model", "clean", *(name for _, name in cells[1:])],
        rows,
        groups=[("", 2), *((under, len(names)) for under, names in columns.items() if under != "clean")],
        note=f"{CUMULATIVE if attacked else BRACKETS} {best_words}",
    )


def _sure(result: AuditResult, row: AuditRow | None) -> Mark | None:
    """The cell of a number that a flag makes unreliable; None for all others."""
    return Mark(share(row), "unreliable") if row is not None and result.doubts(row.category) else None


def _named(name: str, result: AuditResult) -> str | Mark:
    return name if result.status == "reliable" else Mark(name, result.status)


def _tradeoff(audits: Audits, threat: str) -> Picture:
    figure, (axes,) = new_figure(4.2)
    labels, bars = [], []
    for i, (name, result) in enumerate(audits.items()):
        if threat not in result.threats:
            continue
        clean, worst = result.row("clean"), result.row(threat)
        x, y = 100 * clean.value, 100 * worst.value
        (left, right), (low, high) = ((100 * r.ci95[0], 100 * r.ci95[1]) for r in (clean, worst))
        axes.errorbar(
            x, y, xerr=[[x - left], [right - x]], yerr=[[y - low], [high - y]], color=colour(i), marker=marker(i),
            markersize=8, linewidth=1.3,
        )  # fmt: skip
        labels.append(Label(x, y, name, colour(i), bold=True))
        bars += [(left, y, right, y), (x, low, x, high)]
    axes.set_xlabel("clean accuracy, %")
    axes.set_ylabel("worst-case accuracy, %")
    axes.set_title(f"Under {threat}", fontsize=10.5, loc="left", parse_math=False)
    axes.margins(0.14)
    place_labels(axes, labels, bars)
    caption = f"Clean against worst-case accuracy under {threat}, one point a model, with 95 % intervals. Best is upper right."
    return Picture(figure_svg(figure, caption), caption)


def _curves(audits: Audits) -> list[Block]:
    """One accuracy-over-eps picture a norm."""
    norms = dict.fromkeys(curve.norm for result in audits.values() for curve in result.curves)
    return [_curve_picture(audits, norm) for norm in norms]


def _curve_picture(audits: Audits, norm: str) -> Picture:
    figure, (axes,) = new_figure(4.0)
    handles, names, sizes = [], [], set()
    for i, (name, result) in enumerate(audits.items()):
        curves = [curve for curve in result.curves if curve.norm == norm]
        for curve in curves:
            low, high = ([100 * pair[side] for pair in curve.ci95] for side in (0, 1))
            axes.fill_between(curve.eps, low, high, color=colour(i), alpha=0.16, linewidth=0)
            values = [100 * value for value in curve.accuracy]
            (line,) = axes.plot(curve.eps, values, color=colour(i), marker=marker(i), markersize=5.5, linewidth=1.8)
            sizes.add(curve.n)
        if curves:
            handles.append(line)
            names.append(name)
    for eps in sorted({_eps(budget) for result in audits.values() for budget in _budgets(result, norm)}):
        axes.axvline(eps, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    axes.set_xlabel(f"eps ({norm}; inputs are in [0, 1])")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(-2, 102)
    axes.set_xlim(left=0)
    if len(audits) > 1:
        legend = axes.legend(handles, [str(i) for i in range(len(names))], frameon=False, fontsize=9.5)
        for text, name in zip(legend.get_texts(), names, strict=True):  # a name may begin with _ or hold a $
            text.set_parse_math(False)
            text.set_text(name)
    n = " or ".join(f"{n:,}" for n in sorted(sizes))
    caption = f"Accuracy over the size of the change allowed ({norm}), on {n} samples, with 95 % bands. Dotted: eps audited."
    return Picture(figure_svg(figure, caption), caption)


def _budgets(result: AuditResult, norm: str) -> list[str]:
    return [t["budget"] for t in result.settings["threats"] if t["budget"].startswith(f"{norm}@")]


def _eps(budget: str) -> float:
    """The eps of a budget's name: "linf@8/255" -> 8 / 255."""
    above, _, below = budget.partition("@")[2].partition("/")
    return float(above) / float(below or 1)


# ---------------------------------------------------------------------------------------------------------- one model


def _model_sections(result: AuditResult, *, alone: bool) -> list[Section]:
    accuracy: list[Block] = [_threat_table(result)]
    if alone:
        accuracy += _curves({result.model["name"]: result})
    sections = [Section("Accuracy", accuracy)]
    if result.flags:
        sections.append(Section("Flags", [_flags_table(result)]))
    if any(row.category in CORRUPTIONS for row in result.rows):
        sections.append(Section("Common corruptions", corruption_blocks(result)))
    if result.shifts:
        sections.append(Section("Shifted sets", [shift_table(result)]))
    for category, title in (("class", "Classes"), ("slice", "Slices")):
        if any(row.category == category for row in result.rows):
            spread = [disparity_table(result)] if category == "class" and rows_of(result, "disparity") else []
            sections.append(Section(title, [_parts_table(result, category), *spread]))
    if result.attributes is not None:
        sections.append(Section("Attributes", result.attributes.lead(), result.attributes.sections()))
    if galleries := [g for threat in result.threats if (g := _gallery(result, threat))]:
        sections.append(Section("Worst examples", [Text([GALLERY_WORDS])], galleries))
    return [*sections, Section("How this was measured", _settings(result), [_again(result)])]


def _threat_table(result: AuditResult) -> Table:
    shown = [row for row in result.rows if row.category not in (*PARTS, *CORRUPTIONS, *SHIFTS, *ATTRIBUTES)]
    rows = [[r.category, "none" if r.category == "clean" else r.name, _sure(result, r) or share(r), f"{r.n:,}"] for r in shown]
    note = " ".join([*_threats_in_words(result), CUMULATIVE])
    if not result.threats:
        note = BRACKETS
    return Table("Accuracy under each threat", ["Threat", "Attack", "Accuracy", "n"], rows, "llr", note=note)


def _flags_table(result: AuditResult) -> Table:
    """What was seen that speaks against a number, and what to run next; unreliable ones first, then notes."""
    ordered = sorted(result.flags, key=lambda flag: not flag.unreliable)
    rows: list[list[str | Mark]] = [
        [
            Mark(f.slug, "unreliable" if f.unreliable else "note"),
            f.threat or "all",
            f"{f.seen[:1].upper()}{f.seen[1:]}.",
            f"{f.why[:1].upper()}{f.why[1:]}.",
            f"{f.run_next}. More: {f.page}",
        ]
        for f in ordered
    ]
    note = "A number that a flag concerns is unreliable: run next what stands there. A note changes no number."
    return Table("Signs of attacks that fail", ["Flag", "Threat", "Seen", "Why", "Run next"], rows, "nlt", note=note)


def _threats_in_words(result: AuditResult) -> list[str]:
    """What each audited budget allows."""
    words = []
    for budget in dict.fromkeys(t["budget"] for t in result.settings["threats"]):
        norm, _, eps = budget.partition("@")
        what = {
            "linf": "no value of the input moves by more than",
            "l2": "the change has a Euclidean length of at most",
            "l1": "the changes sum to at most",
        }
        if norm in what:
            words.append(f"{budget}: {what[norm]} {eps} (inputs are in [0, 1]).")
    return words


def _parts_table(result: AuditResult, category: str) -> Table:
    """Classes or slices x clean, every threat and every shifted set; the weakest of each column is marked."""
    found = {under: [r for r in rows_of(result, category) if r.under == under] for under in ("clean", *result.threats)}
    by_column: list[Sequence[AuditRow | None]] = [rows for rows in found.values() if rows]
    columns = [under for under, rows in found.items() if rows]
    for under in result.shifts:  # a shifted set may have a part of the classes
        if theirs := {r.name: r for r in rows_of(result, category) if r.under == under}:
            by_column.append([theirs.get(row.name) for row in found["clean"]])
            columns.append(under)
    weakest = [extreme(rows, min) for rows in by_column]
    rows = [
        [first.name, f"{first.n:,}", *(cell(row, weakest[i], "weakest") for i, row in enumerate(parts))]
        for first, parts in zip(found["clean"], zip(*by_column, strict=True), strict=True)
    ]
    what = "class" if category == "class" else "slice"
    where = ", and on each shifted set" if set(columns) & set(result.shifts) else ""
    return Table(
        f"Accuracy of each {what}: clean, and in the worst case under each threat{where}",
        [what.capitalize(), "n", *columns],
        rows,
        note=f"“weakest” marks the lowest value of a column; a {what} has few samples, so mind the 95 % intervals.",
    )


GALLERY_WORDS = (
    "Samples that were right and could be turned, those that needed the smallest change first. The third image is the change "
    "alone, signed and amplified so that its largest value fills the range: in each channel mid-grey is no change, brighter "
    "was raised, darker was lowered. The factor is given with each image."
)


def _gallery(result: AuditResult, threat: str) -> Section | None:
    examples = result.worst(GALLERY, threat)
    norm = threat.partition("@")[0].rpartition(":")[2]
    tiles = [_tile(example, result.classes, norm) for example in examples]
    return Section(f"Under {threat}", [Gallery(tiles)]) if tiles else None


def _tile(example: Example, classes: Sequence[str], norm: str) -> Tile:
    true, predicted = (classes[c] if c < len(classes) else f"output {c}" for c in (example.label, example.predicted))
    change = (example.adversarial - example.clean).double()
    largest = float(change.abs().max())
    factor = 0.5 / largest if largest else 0.0
    images = [
        ("clean", png_data_uri(example.clean), f"clean image {example.index}, class {true}"),
        ("adversarial", png_data_uri(example.adversarial), f"changed image {example.index}, taken for {predicted}"),
        (f"change ×{factor:.3g}", png_data_uri(0.5 + factor * change), f"the change of image {example.index}, amplified"),
    ]
    breaks = f", breaks at eps {_eps_text(example.breaks_at)}" if example.breaks_at else ", not on the curve"
    caption = (
        f"#{example.index} {true} → {predicted} ({percent(example.confidence)}), change {example.size:.3g} ({norm}){breaks}"
    )
    return Tile(images, caption)


def _eps_text(eps: float) -> str:
    """An eps the way budgets are written: in 255ths where it is a whole number of them."""
    parts = eps * 255
    return f"{round(parts)}/255" if 0 < eps < 1 and math.isclose(parts, round(parts), rel_tol=1e-9) else f"{eps:.4g}"


# ---------------------------------------------------------------------------------------------------------- provenance


def _settings(result: AuditResult) -> list[Block]:
    settings, model = result.settings, result.model
    attacks = [
        [t["budget"], a["name"], ", ".join(f"{key.replace('_', ' ')} {plain(v)}" for key, v in a.items() if key != "name")]
        for t in settings["threats"]
        for a in t["attacks"]
    ]
    cost = [
        [f"{c['threat']}: {a['name']}" if a["name"] else c["threat"], plain(a["forward"]), plain(a["backward"])]
        for c in settings["cost"]
        for a in [*c.get("attacks", []), {**c, "name": ""}]
    ]
    header = ["Budget", "Attack", "Settings"]
    tables = [
        Table("Attacks", header, attacks, "lll"),
        Table("Samples passed through the model", ["Threat", "Forward", "Backward"], cost),
    ]
    return [
        *(tables if attacks else []),
        data_table([result.data, *settings.get("shifts", [])]),
        Facts(
            {
                "Model": model["name"],
                "Parameters": model["parameters"],
                "Weights SHA-256": model["sha256"],
                **titled(settings, without=("threats", "cost", "shifts", "corruptions")),
                **corruption_facts(settings),
                **({} if result.attributes is None else {"Attributes": result.attributes.settings}),
                "Time": duration(result.seconds),
                **titled(result.environment),
            }
        ),
    ]


def _again(result: AuditResult) -> Section:
    settings = result.settings
    threats = ", ".join(_argument(threat) for threat in settings["threats"])
    curve = ", curve=False" if settings["curve"] == "none" else ""
    attributes = "" if result.attributes is None else "result = result.with_attributes(audit_attributes(model, pictures))\n"
    call = (
        "import tutelage\n\n"
        "result = tutelage.audit(\n"
        f"    model,  # weights with the SHA-256 above\n"
        f"    data,  # {json.dumps(result.data['name'], ensure_ascii=False)}\n"
        f"    threats=[{threats}],\n"
        f"{natural_arguments(settings)}"
        f"    n={result.data['n']}, batch_size={settings['batch_size']}, seed={settings['seed']}{curve},\n"
        ")\n"
        f"{attributes}"
        'result.save("audit")'
    )
    words = (
        "The same model, data, seed, batch size, device and number of threads give the same numbers to the last bit; "
        "other batch sizes and devices the same up to rounding."
    )
    return Section("Run it again", [Code(call), Text([words])])


def _argument(threat: Mapping[str, Any]) -> str:
    """The string that `audit` takes for a threat; for a suite of one's own, its budget and a remark."""
    budget, attacks = threat["budget"], threat["attacks"]
    names = [attack["name"] for attack in attacks]
    if threat.get("suite") in ("standard suite", "black-box suite"):
        return json.dumps(budget)
    if len(names) == 1 and attacks[0]["restarts"] == 1 and re.fullmatch(r"FGSM|PGD-\d+", names[0]):
        return json.dumps(f"{names[0].lower()}:{budget}")
    return f"{json.dumps(budget)} with a suite of {', '.join(names)}"
