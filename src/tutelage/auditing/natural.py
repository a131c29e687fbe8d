"""The parts of a report about natural change: common corruptions, shifted sets, and who bears the mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.auditing.cells import cell, colour, find, marker, points, rows_of, share
from tutelage.auditing.figures import figure_svg, new_figure
from tutelage.auditing.page import Block, Picture, Table, Text
from tutelage.auditing.result import SHIFTS, AuditResult


def corruption_blocks(result: AuditResult) -> list[Block]:
    """By family and by corruption, over the severities; a picture if there are several; the mCE if there is one."""
    severities = sorted({int(row.name.partition("@")[2]) for row in rows_of(result, "corruption") if "@" in row.name})
    about = result.settings["corruptions"]
    words = "Each row is a mean over corruptions, which weigh the same. In brackets: 95 % intervals by Student's t over images."
    if "frost" in about:
        words += f" Frost was laid on from {about['frost']} textures; results with other textures do not compare."
    blocks: list[Block] = [
        _severity_table(
            "Accuracy under families of common corruptions, by severity",
            {
                **{name: ("corruption family", name) for name in _bases(result, "corruption family")},
                "all": ("corruptions", "mean"),
            },
            result,
            severities,
            "Family",
            words,
        )
    ]
    if len(severities) > 1:
        blocks.append(_severity_picture(result, severities))
    if (score := find(result, "corruptions", "mCE")) is not None:
        blocks.append(
            Text([
                f"Mean corruption error: {share(score)} of the errors of {score.under}, weights "
                f"{about['baseline']['sha256'][:8]}, on the same corrupted images "
                "(100 % is as many; Hendrycks and Dietterich 2019)."
            ])
        )  # fmt: skip
    names = {name: ("corruption", name) for name in _bases(result, "corruption")}
    note = "In brackets: 95 % Wilson intervals; for the mean over severities by Student's t over images."
    blocks.append(_severity_table("Accuracy under each corruption, by severity", names, result, severities, "Corruption", note))
    return blocks


def _bases(result: AuditResult, category: str) -> list[str]:
    """The names of a category without their severities."""
    return list(dict.fromkeys(row.name.partition("@")[0] for row in rows_of(result, category)))


def _severity_table(
    caption: str, names: Mapping[str, tuple[str, str]], result: AuditResult, severities: Sequence[int], what: str, note: str
) -> Table:
    rows = []
    for shown, (category, name) in names.items():
        found = [find(result, category, f"{name}@{severity}") for severity in severities]
        over = find(result, category, name)
        rows.append([shown, *(cell(row) for row in ([*found, over] if len(severities) > 1 else [over or found[0]]))])
    header = [f"severity {severity}" for severity in severities] + (["mean"] if len(severities) > 1 else [])
    return Table(caption, [what, *header], rows, note=note)


def _severity_picture(result: AuditResult, severities: Sequence[int]) -> Picture:
    """Accuracy over severity, a line a family, beginning with the clean accuracy."""
    figure, (axes,) = new_figure(3.8)
    clean = result.row("clean")
    for i, family in enumerate(_bases(result, "corruption family")):
        steps = [(s, row) for s in severities if (row := find(result, "corruption family", f"{family}@{s}")) is not None]
        x, rows = [0, *(severity for severity, _ in steps)], [clean, *(row for _, row in steps)]
        low, high = ([100 * row.ci95[side] for row in rows] for side in (0, 1))
        axes.fill_between(x, low, high, color=colour(i), alpha=0.16, linewidth=0)
        values = [100 * row.value for row in rows]
        axes.plot(x, values, color=colour(i), marker=marker(i), markersize=5.5, linewidth=1.8, label=family)
    axes.set_xticks([0, *severities], ["clean", *map(str, severities)])
    axes.set_xlabel("severity")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(-2, 102)
    axes.legend(frameon=False, fontsize=9.5)
    caption = f"Accuracy over the severity of common corruptions, a line a family, on {clean.n:,} samples, with 95 % bands."
    return Picture(figure_svg(figure, caption), caption)


def shift_table(result: AuditResult) -> Table:
    rows = []
    for name in result.shifts:
        here, main, difference = (result.row(category, name) for category in SHIFTS)
        rows.append([name, f"{here.n:,}", share(here), f"{main.n:,}", share(main), points(difference.value, difference.ci95)])
    note = (
        "The difference is that between the shifted set and the samples of the main set whose classes the shifted set has, "
        "in points of per cent. In brackets: 95 % intervals, Wilson's for one set, Newcombe's for two independent sets."
    )
    header = ["Shifted set", "n", "Accuracy", "n, main set", "Accuracy, main set", "Difference"]
    return Table("Accuracy on shifted sets", header, rows, note=note)


def disparity_table(result: AuditResult) -> Table:
    found = rows_of(result, "disparity")
    columns = list(dict.fromkeys(row.under for row in found))
    names = list(dict.fromkeys(row.name for row in found))
    table = {(row.name, row.under): row for row in found}
    rows = [[name, *(cell(table.get((name, under))) for under in columns)] for name in names]
    note = (
        "The lowest of many measured accuracies is too low by chance. The 95 % intervals allow for that: they hold whichever "
        "class is the worst (Bonferroni)."
    )
    return Table("Who bears the mistakes: tail and disparity over classes", ["Over classes", *columns], rows, note=note)


def corruption_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, for the table of settings."""
    if "corruptions" not in settings:
        return {}
    about = settings["corruptions"]
    names, severities = (list(dict.fromkeys(name.partition("@")[i] for name in about["names"])) for i in (0, 2))
    what = f"{', '.join(names)} at severities {', '.join(sorted(severities))}; constants: {about['constants']}"
    return {"Corruptions": f"{what}; frost: {about['frost']}" if "frost" in about else what}


def natural_arguments(settings: Mapping[str, Any]) -> str:
    """The lines that ask for corruptions and shifted sets, if there were any."""
    text = ""
    if about := settings.get("corruptions"):
        asked: dict[str, list[str]] = {}
        for name in about["names"]:
            asked.setdefault(name.partition("@")[0], []).append(name.partition("@")[2])
        corruptions = [f"{name}@{','.join(severities)}" for name, severities in asked.items()]
        text += f"    corruptions={json.dumps(corruptions)},\n"
        if "baseline" in about:
            text += f"    baseline=...,  # the audit of {json.dumps(about['baseline']['name'], ensure_ascii=False)}\n"
    if shifts := settings.get("shifts"):
        names = [f"{json.dumps(one['shift'])}: ..." for one in shifts]
        text += f"    shifts={{{', '.join(names)}}},\n"
    return text
