"""F8, reports of one verdict: JUnit XML, a Markdown summary, Prometheus text, one HTML page, and a Hugging Face model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tutelage.core.errors import InputError
from tutelage.core.files import write_atomic, writing
from tutelage.methods.audit.robust_mlops.bundle import Bundle
from tutelage.methods.audit.robust_mlops.judge import Evidence, Measured, Outcome
from tutelage.methods.audit.robust_mlops.monitor import Monitor

WORDS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
MEANING = {
    "pass": "The candidate may be shipped.",
    "fail": "The candidate must not be shipped.",
    "inconclusive": "These items do not decide it: measure on more of them.",
}


def write_reports(bundle: Bundle, folder: Path | str) -> dict[str, Path]:
    """Write bundle.json, junit.xml, summary.md, metrics.prom, report.html and MODEL_CARD.md into `folder`."""
    folder = Path(folder)
    bundle.save(folder / "bundle.json")
    files = {"bundle": folder / "bundle.json", "html": folder / "report.html"}
    for name, file, text in (
        ("junit", "junit.xml", junit(bundle)),
        ("summary", "summary.md", summary(bundle)),
        ("prometheus", "metrics.prom", prometheus(bundle)),
        ("card", "MODEL_CARD.md", model_card(bundle)),
    ):
        write_atomic(folder / file, text)
        files[name] = folder / file
    write_html(bundle, files["html"])
    return files


FILES = ("bundle.json", "junit.xml", "summary.md", "metrics.prom", "MODEL_CARD.md", "report.html")


def clear_reports(folder: Path | str) -> None:
    """Take away what an earlier gate wrote: a gate that ends in an error must not leave its "pass" behind."""
    for name in FILES:
        with writing(Path(folder) / name):
            (Path(folder) / name).unlink(missing_ok=True)


def write_error(message: str, folder: Path | str) -> dict[str, Path]:
    """JUnit XML and Markdown of a gate that could not judge; there is no bundle."""
    files = {"junit": Path(folder) / "junit.xml", "summary": Path(folder) / "summary.md"}
    write_atomic(files["junit"], _suite("gate", [("gate", "error", message)]))
    write_atomic(files["summary"], f"## Gate: FAIL\n\n{MEANING['fail']} Nothing was judged: {_md(message)}\n")
    return files


def junit(bundle: Bundle) -> str:
    """A test suite with a case a gate and one for the data; an inconclusive gate is an error, as it must not be green."""
    verdict = bundle.verdict
    broken = [str(one) for one in bundle.findings if one.level == "error"]
    cases = [("data validation", "fail" if broken else "pass", "; ".join(broken))]
    cases += [(f"{one.gate} ({one.rule})", one.status, one.reason) for one in verdict.outcomes]
    if not verdict.outcomes:
        cases.append(("gates", "fail", "a policy without gates cannot pass"))
    return _suite(f"gate {bundle.policy.name}", cases)


def _suite(title: str, cases: list[tuple[str, str, str]]) -> str:
    suite = ElementTree.Element("testsuite", name=_plain(title))
    for name, status, reason in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name=_plain(name), time="0")
        if status != "pass":
            kind = "failure" if status == "fail" else "error"
            ElementTree.SubElement(case, kind, message=_plain(reason), type=status).text = _plain(reason)
        else:
            ElementTree.SubElement(case, "system-out").text = _plain(reason)
    failures, passed = (sum(status == wanted for _, status, _ in cases) for wanted in ("fail", "pass"))
    errors = len(cases) - failures - passed
    suite.attrib |= {"tests": str(len(cases)), "failures": str(failures), "errors": str(errors), "time": "0"}
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def summary(bundle: Bundle) -> str:
    """Markdown for a pull request: the verdict, a row a gate, what was wrong with the data, what it was made of."""
    verdict = bundle.verdict
    lines = [f"## Gate {_md(bundle.policy.name)}: {WORDS[verdict.status]}", "", MEANING[verdict.status], ""]
    against = f" against {_md(bundle.champion.name)} ({_hash(bundle.champion.sha256)})" if bundle.champion else ""
    lines += [f"Candidate {_md(bundle.candidate.name)} ({_hash(bundle.candidate.sha256)}){against}.", ""]
    lines += ["| gate | rule | candidate | champion | compared [one-sided limits] | limit | n | verdict |", "| --- " * 8 + "|"]
    for one in verdict.outcomes:
        cells = [
            one.gate,
            one.rule,
            _share(one.value),
            _share(one.champion),
            _limits(one),
            _number(one.limit),
            f"{one.n:,}",
            WORDS[one.status],
        ]
        lines.append("| " + " | ".join(_md(cell) for cell in cells) + " |")
    if verdict.reasons:
        lines += ["", *(f"- {_md(reason)}" for reason in verdict.reasons)]
    if bundle.rollback:
        lines += ["", f"If it has to be taken back: {_md(bundle.rollback)}."]
    lines += ["", f"Bundle `{bundle.sha256}`, items {_hash(bundle.candidate.data)}, {_md(_code(bundle))}.", ""]
    return "\n".join(lines)


def prometheus(bundle: Bundle) -> str:
    """Text exposition format: the status, each gate's status, and each metric of both models with its limits."""
    name = f'policy="{_label(bundle.policy.name)}"'
    lines = ["# HELP tutelage_gate_exit_code 0 pass, 1 fail, 2 inconclusive", "# TYPE tutelage_gate_exit_code gauge",
             f"tutelage_gate_exit_code{{{name}}} {bundle.verdict.exit_code}",
             "# HELP tutelage_gate_passed 1 where the gate passed", "# TYPE tutelage_gate_passed gauge"]  # fmt: skip
    for number, one in enumerate(bundle.verdict.outcomes):
        labels = f'{name},number="{number}",gate="{_label(one.gate)}",rule="{one.rule}",status="{one.status}"'
        lines.append(f"tutelage_gate_passed{{{labels}}} {int(one.status == 'pass')}")
    lines += ["# HELP tutelage_model_metric measured value and one-sided limits", "# TYPE tutelage_model_metric gauge"]
    for role, evidence in (("candidate", bundle.candidate), ("champion", bundle.champion)):
        for metric, found in (evidence.metrics if evidence else {}).items():
            low, high = found.limits(bundle.policy.alpha) if found.n else (found.value, found.value)
            for end, value in (("value", found.value), ("lower", low), ("upper", high)):
                lines.append(
                    f'tutelage_model_metric{{{name},role="{role}",metric="{_label(metric)}",end="{end}"}} {_prom(value)}'
                )
    return "\n".join(lines) + "\n"


def write_html(bundle: Bundle, path: Path) -> Path:
    """One self-contained page."""
    from tutelage.auditing.page import Facts, Mark, Notice, Page, Section, Table, Text, Tone, write_page

    verdict = bundle.verdict
    tones: dict[str, Tone] = {"pass": "good", "fail": "bad", "inconclusive": "warn"}
    lead: list[Any] = [Notice(f"{WORDS[verdict.status]}. {MEANING[verdict.status]}", verdict.reasons, tones[verdict.status])]
    against = f", against the champion {bundle.champion.name}" if bundle.champion else ""
    passed = sum(one.status == "pass" for one in verdict.outcomes)
    lead.append(Text([f"{bundle.candidate.name}{against}: {passed} of {len(verdict.outcomes)} gates passed."]))
    if bundle.rollback:
        lead.append(Text([f"If it has to be taken back: {bundle.rollback}."]))
    cells = [
        [one.gate, one.rule, _share(one.value), _share(one.champion), _limits(one), _number(one.limit), f"{one.n:,}",
         Mark(WORDS[one.status], one.family) if one.family else WORDS[one.status]]
        for one in verdict.outcomes
    ]  # fmt: skip
    header = ["Gate", "Rule", "Candidate", "Champion", "Compared [limits]", "Limit", "n", "Verdict"]
    note = (
        f"Limits are one-sided, each at {100 * (1 - bundle.policy.alpha):g} %. A gate passes if all of the interval keeps the "
        "limit, fails if none of it does, and is inconclusive in between. Non-inferiority is paired: both models answered the "
        "same items."
    )
    sections = [Section("Gates", [Table("Gates", header, cells, "lnrrrrrn", note=note)])]
    if picture := _picture(bundle):
        sections[0] = Section("Gates", [*sections[0].blocks, picture])
    if bundle.findings:
        found = [[one.level, one.column or "table", one.rule, one.value] for one in bundle.findings]
        sections.append(Section("Data", [Table("Findings", ["Level", "Column", "Rule", "Found"], found, "lllt")]))
    sections.append(Section("Robustness matrix", [_matrix(bundle, Table)]))
    facts: dict[str, Any] = {"Bundle": bundle.sha256, "Items": bundle.candidate.data, "Candidate": bundle.candidate.sha256}
    if bundle.champion:
        facts["Champion"] = bundle.champion.sha256
    code = bundle.lineage.get("code", {})
    facts |= {"Code": _code(bundle), "Dirty": code.get("dirty"), "Seed": bundle.lineage.get("seed"), "Time": bundle.time}
    facts |= {f"Hash of {key}": value for key, value in (bundle.lineage.get("files") or {}).items()}
    facts["Packages"] = (bundle.lineage.get("environment") or {}).get("packages", {})
    sections.append(
        Section("What it was made of", [Facts({key: value for key, value in facts.items() if value not in (None, "")})])
    )
    return write_page(path, Page(f"Gate {bundle.policy.name}", "Gate", lead, sections))


def check_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """What the policy says of the model: lists of words where a list belongs, words elsewhere. Raises InputError."""
    for name, value in card.items():
        if name in ("tags", "limits"):
            if not isinstance(value, list | tuple) or not all(isinstance(one, str | int | float) for one in value):
                raise InputError(f"policy.card.{name}", value, "a list of words")
        elif name == "language" and isinstance(value, list | tuple):
            continue
        elif not isinstance(value, str | int | float):
            raise InputError(f"policy.card.{name}", value, "words")
    return dict(card)


def model_card(bundle: Bundle, extra: Mapping[str, Any] | None = None) -> str:
    """A model card in the form of the Hugging Face hub: metadata (YAML with model-index), intended use, data, metrics with
    intervals, robustness matrix, limits, and what the gate said. `card` of the policy fills in what nobody can measure.
    """
    import yaml  # type: ignore[import-untyped, unused-ignore]

    about = check_card({**bundle.policy.card, **(extra or {})})
    one, verdict = bundle.candidate, bundle.verdict
    data = (one.facts.get("data") or {}) if isinstance(one.facts.get("data"), Mapping) else {}
    dataset = str(data.get("name") or bundle.policy.data.test or "test items")
    results = [
        {
            "type": "accuracy" if found.right is not None or found.values is not None else name,
            "name": name,
            "value": round(found.value, 6),
        }
        for name, found in one.metrics.items()
        if found.value == found.value
    ]
    head: dict[str, Any] = {
        key: about[key] for key in ("license", "language", "library_name", "pipeline_tag", "base_model") if key in about
    }
    head["tags"] = [*about.get("tags", ()), "tutelage"]
    task = {"type": about.get("pipeline_tag", "other")}
    set_ = {
        "type": re.sub(r"[^a-z0-9-]+", "-", dataset.lower()).strip("-") or "data",
        "name": dataset,
        "revision": one.data[:12],
    }
    head["model-index"] = [{"name": one.name, "results": [{"task": task, "dataset": set_, "metrics": results}]}]
    text = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    text += [f"# {_md(str(about.get('title', one.name)))}", ""]
    if "description" in about:
        text += [_md(str(about["description"])), ""]
    for title, key, default in (
        ("Intended use", "intended_use", "Not stated."),
        ("Training data", "training_data", "Not stated."),
        ("Out of scope", "out_of_scope", "Anything that the tables below do not measure."),
    ):
        text += [f"## {title}", "", _md(str(about.get(key, default))), ""]
    about_data = f"{_md(dataset)}, {_md(data.get('n', 'unknown number of'))} items, SHA-256 {_hash(one.data, 64)}."
    text += [
        "## Evaluation data", "", about_data, "",
        "## Metrics", "", f"Limits are one-sided, each at {100 * (1 - bundle.policy.alpha):g} %.", "",
        "| metric | value [limits] | n |", "| --- | --- | --- |",
        *(f"| {_md(name)} | {_cell(found, bundle.policy.alpha)} | {found.n:,} |" for name, found in one.metrics.items()), "",
        "## Gate", "", f"**{WORDS[verdict.status]}**: {MEANING[verdict.status]}", "",
        "| gate | rule | verdict | why |", "| --- | --- | --- | --- |",
        *(f"| {_md(o.gate)} | {o.rule} | {WORDS[o.status]} | {_md(o.reason)} |" for o in verdict.outcomes), "",
    ]  # fmt: skip
    limits = [str(item) for item in about.get("limits", ())]
    limits += [f"Not reliable: {warning}" for warning in one.facts.get("unreliable", ())]
    limits += [f"{finding}" for finding in bundle.findings]
    limits.append("The numbers hold for items like those measured; attacks that were not run may do better.")
    text += ["## Limits", "", *(f"- {_md(item)}" for item in limits), ""]
    made_of = f"model {_hash(one.sha256, 64)}; {_md(_code(bundle))}; {_md(bundle.time)}"
    text += ["## Provenance", "", f"Bundle `{bundle.sha256}`; {made_of}.", ""]
    return "\n".join(text)


def _matrix(bundle: Bundle, table: Any) -> Any:
    both: list[tuple[str, Evidence]] = [("Candidate", bundle.candidate)]
    if bundle.champion:
        both.append(("Champion", bundle.champion))
    names = list(dict.fromkeys(name for _, one in both for name in one.metrics))
    cells = [[name, *(_cell(one.metrics.get(name), bundle.policy.alpha) for _, one in both)] for name in names]
    return table("All metrics", ["Metric", *(role for role, _ in both)], cells, "lr")


def _picture(bundle: Bundle) -> Any:
    from tutelage.auditing.figures import MUTED, figure_svg, new_figure
    from tutelage.auditing.page import Picture

    shown = [one for one in bundle.verdict.outcomes if one.rule == "noninferior" and one.difference is not None]
    if not shown:
        return None
    colours = {"pass": "#1a7f37", "fail": "#b42318", "inconclusive": "#9a6700"}
    figure, (axes,) = new_figure(1.2 + 0.42 * len(shown))
    for y, one in enumerate(shown):
        assert one.lower is not None
        assert one.upper is not None
        assert one.limit is not None
        assert one.difference is not None
        axes.plot([100 * one.lower, 100 * one.upper], [y, y], color=colours[one.status], linewidth=2)
        axes.plot([100 * one.difference], [y], "o", color=colours[one.status], markersize=6)
        axes.plot([100 * one.limit] * 2, [y - 0.35, y + 0.35], color="#333333", linewidth=1.6)
        axes.annotate(
            WORDS[one.status], (100 * one.upper, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(shown)), [one.gate for one in shown], parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.margins(x=0.4)  # room for the words
    axes.set_xlabel("candidate less champion, points")
    caption = (
        "Differences with one-sided limits; the short black line is the limit. Right of it: not worse by more than is allowed."
    )
    return Picture(figure_svg(figure, caption), caption)


def _cell(found: Measured | None, alpha: float) -> str:
    if found is None:
        return "–"
    if found.value != found.value:
        return "NaN"
    low, high = found.limits(alpha)
    return f"{found.value:.4g} [{low:.4g}, {high:.4g}]" + (" (not reliable)" if found.doubt else "")


def _limits(one: Outcome) -> str:
    if one.lower is None or one.upper is None:
        return "–"
    middle = one.difference if one.difference is not None else one.value
    form = "+.4f" if one.difference is not None else ".4g"
    return f"{middle:{form}} [{one.lower:{form}}, {one.upper:{form}}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _prom(value: float) -> str:
    return "NaN" if value != value else f"{value:.10g}"


def _label(text: str) -> str:
    return _plain(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _plain(text: str) -> str:
    """Without the characters that XML has no spelling for; a terminal would obey some of them."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def _md(text: object) -> str:
    """Text that stays text in a Markdown table: no new cell, no markup, no link."""
    return re.sub(r"([|\\`*_<>\[\]~$&#])", r"\\\1", " ".join(_plain(str(text)).split()))


def _hash(text: str, length: int = 12) -> str:
    """A hash as code; what comes from a file may be anything."""
    return f"`{text[:length]}`" if re.fullmatch(r"\w+", text) else _md(text[:length]) or "no hash"


def _code(bundle: Bundle) -> str:
    code = bundle.lineage.get("code") or {}
    commit = str(code.get("commit") or "")
    return f"commit {commit[:12]}{' (with changes)' if code.get('dirty') else ''}" if commit else "no git checkout"


def prometheus_of_monitor(name: str, watcher: Monitor) -> str:
    """Text exposition format of a monitor: chunks by action, alarms, average run length, and the last chunk's accuracies."""
    label, found = f'policy="{_label(name)}"', watcher.summary()
    lines = ["# HELP tutelage_monitor_chunks_total chunks seen, by action", "# TYPE tutelage_monitor_chunks_total counter"]
    actions = [one.action for one in watcher.decisions]
    lines += [f'tutelage_monitor_chunks_total{{{label},action="{one}"}} {actions.count(one)}' for one in dict.fromkeys(actions)]
    for key in ("alarms", "decisions", "average_run_length"):
        lines += [f"# TYPE tutelage_monitor_{key} gauge", f"tutelage_monitor_{key}{{{label}}} {_prom(float(found[key]))}"]
    if watcher.decisions:
        last = watcher.decisions[-1]
        numbers = {"true_accuracy": last.accuracy, "estimated_accuracy": last.estimate.accuracy if last.estimate else None}
        for key, value in numbers.items():
            if value is not None:
                lines += [f"# TYPE tutelage_monitor_{key} gauge", f"tutelage_monitor_{key}{{{label}}} {_prom(value)}"]
    return "\n".join(lines) + "\n"
