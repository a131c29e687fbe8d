"""`tutelage gate`, `monitor` and `card`: may a model ship, is it still good, and what is written beside it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from tutelage.core.errors import InputError, TutelageError

if TYPE_CHECKING:
    from tutelage.methods.audit.robust_mlops.judge import Verdict
    from tutelage.methods.audit.robust_mlops.policy import Source

out = Console(highlight=False)
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


class GateCommand(TyperCommand):
    """A wrong command line of a gate ends in 1 too."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            if getattr(error, "exit_code", 0):
                error.exit_code = 1  # type: ignore[attr-defined]
            raise


def gate(
    policy: Annotated[Path | None, typer.Argument(help="The policy, a YAML file.")] = None,
    candidate: Annotated[
        str, typer.Option(help="A saved audit (folder or audit.json), or predictions (.csv, .parquet); default: the policy's.")
    ] = "",
    champion: Annotated[str, typer.Option(help="The model in production, in the same forms.")] = "",
    folder: Annotated[Path, typer.Option("--out", help="Where the bundle and its reports go.")] = Path("gate"),
    junit: Annotated[Path | None, typer.Option(help="Also write the JUnit XML here.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Also append the Markdown summary here.", metavar="FILE")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Judge a stored bundle again, instead of a policy.", metavar="BUNDLE")
    ] = None,
) -> None:
    """May the candidate be shipped? Judges it by a policy, against the model in production, on the same items.

    Exit code 0: pass. 1: fail, also when something cannot be read or the command line is wrong. 2: inconclusive, measure on
    more items.
    Writes bundle.json, junit.xml, summary.md, metrics.prom, report.html and MODEL_CARD.md.

    Example: `tutelage gate policy.yaml --candidate audits/new --champion audits/old`
    """
    from tutelage.core.files import check_folder

    if replay is not None:
        from tutelage.methods.audit.robust_mlops.bundle import Bundle

        with _no_other_code():
            if policy is not None:
                raise InputError("POLICY", "both", "a policy, or --replay with a bundle")
            verdict = Bundle.load(replay).verdict
        out.print(_table(verdict))
        out.print(_last_line(verdict) + " (judged again from the bundle)")
        raise typer.Exit(verdict.exit_code)
    from tutelage.core.progress import shown
    from tutelage.methods.audit.robust_mlops.gating import gate as run_gate
    from tutelage.methods.audit.robust_mlops.reports import clear_reports, write_error

    with _no_other_code():
        if policy is None:
            raise InputError("POLICY", "nothing", "a policy, or --replay with a bundle")
        check_folder(folder)
        for option, file in (("junit", junit), ("summary", summary)):
            if file is not None:
                check_folder(file.parent, option)
                if file.exists() and not file.is_file():
                    raise InputError(option, str(file), "a file")
        clear_reports(folder)
        try:
            with _no_other_code(), shown() as progress:
                result = run_gate(policy, _source(candidate), _source(champion), out=folder, progress=progress)
        except TutelageError as error:
            if error.exit_code == 1:
                _send(write_error(str(error), folder), junit, summary)
            raise
        _send(result.files, junit, summary)
    out.print(_table(result.verdict))
    for reason in result.verdict.reasons:
        out.print(f"- {reason}", markup=False, soft_wrap=True)
    if result.bundle.rollback:
        out.print(f"rollback target: {result.bundle.rollback}", markup=False)
    out.print(_last_line(result.verdict))
    out.print(f"report: {result.files['html']}", soft_wrap=True)
    raise typer.Exit(result.exit_code)


def monitor(
    policy: Annotated[Path, typer.Argument(help="The policy, a YAML file.")],
    stream: Annotated[Path, typer.Option(help="New rows in their order, .parquet or .csv, with the model's predictions.")],
    reference: Annotated[
        str, typer.Option(help="Labelled rows of the time the model was validated; default: data.reference of the policy.")
    ] = "",
    folder: Annotated[Path, typer.Option("--out", help="Where report.html and decisions.jsonl go.")] = Path("monitor"),
) -> None:
    """Watch a stream: data checks, drift, accuracy with or without labels, and what to do, chunk by chunk.

    Exit code 0: no decision was needed. 1: a decision was made (block, retrain, look at the labels, roll back). 2: bad input.

    Example: `tutelage monitor policy.yaml --reference last-year.parquet --stream this-week.parquet`
    """
    from tutelage.core.files import check_folder, write_atomic
    from tutelage.methods.audit.robust_mlops.columns import chunks
    from tutelage.methods.audit.robust_mlops.monitor import Monitor, column_predictor
    from tutelage.methods.audit.robust_mlops.monitor_page import write_monitor_page
    from tutelage.methods.audit.robust_mlops.policy import read_policy
    from tutelage.methods.audit.robust_mlops.profile import Profile
    from tutelage.methods.audit.robust_mlops.registry import Registry
    from tutelage.methods.audit.robust_mlops.reports import prometheus_of_monitor

    rules = read_policy(policy)
    base = reference or rules.data.reference
    if not base:
        raise InputError("reference", "nothing", "--reference or data.reference in the policy")
    check_folder(folder)
    watch = rules.monitor
    versions = {"champion": column_predictor(watch.prediction, watch.confidence)}
    versions |= {name: column_predictor(column) for name, column in watch.versions.items()}
    profile = Profile.load(rules.data.profile) if rules.data.profile else None
    log = folder / "decisions.jsonl"
    log.unlink(missing_ok=True)
    with _readable(None):
        watcher = Monitor(rules, base, versions, profile=profile, log=log)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("chunk", "rows", "action", "estimated", "true", "drift p", "why"):
        table.add_column(column, justify="left" if column in ("action", "why") else "right")
    for chunk in chunks(stream, watch.chunk):
        with _readable(len(watcher.decisions)):
            one = watcher.observe(chunk)
        shown = [
            str(one.chunk), f"{one.n:,}", f"[bold]{one.action}[/]" if one.alarm else one.action,
            f"{one.estimate.accuracy:.3f}" if one.estimate else "-", f"{one.accuracy:.3f}" if one.accuracy is not None else "-",
            f"{one.drift.p_value:.2g}" if one.drift else "-", escape("; ".join(one.reasons)),
        ]  # fmt: skip
        table.add_row(*shown)
    found = watcher.summary()
    write_atomic(folder / "metrics.prom", prometheus_of_monitor(rules.name, watcher))
    out.print(table)
    out.print(
        f"{found['chunks']} chunks, {found['alarms']} alarms, {found['decisions']} decisions; average run length "
        f"{found['average_run_length']:.1f} chunks"
    )
    if found["rollbacks"]:
        named = ""
        if rules.registry:
            named = f" ({', '.join(one.name for one in Registry(rules.registry).versions())} in the registry)"
        out.print(f"roll back to {', '.join(found['rollbacks'])}{named}", markup=False)
    out.print(f"decisions: {log}", soft_wrap=True)
    out.print(f"report: {write_monitor_page(watcher, folder / 'report.html')}", soft_wrap=True)
    raise typer.Exit(1 if found["decisions"] else 0)


def card(
    bundle: Annotated[Path, typer.Argument(help="A bundle of `gate`: its folder or bundle.json.")],
    to: Annotated[Path, typer.Option("--out", help="Where the card goes.")] = Path("README.md"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model card in the form of the Hugging Face hub from a bundle: use, data, metrics with intervals, limits, gate.

    Example: `tutelage card gate/ --out README.md`
    """
    from tutelage.core.files import write_atomic
    from tutelage.methods.audit.robust_mlops.bundle import Bundle
    from tutelage.methods.audit.robust_mlops.reports import model_card

    found = Bundle.load(bundle)
    if to.exists() and not force:
        raise InputError("out", str(to), "a file that is not there yet, or --force")
    write_atomic(to, model_card(found))
    out.print(f"model card: {to}", soft_wrap=True)


@contextmanager
def _readable(chunk: int | None) -> Iterator[None]:
    """What a table holds that cannot be computed with, such as words as confidences, becomes one sentence."""
    try:
        yield
    except (TutelageError, OSError):
        raise
    except (TypeError, ValueError, LookupError) as error:
        argument, where = ("reference", "it") if chunk is None else ("stream", f"chunk {chunk}")
        raise InputError(argument, f"{where} with {error}", "columns as the policy names them, of numbers or words") from error


@contextmanager
def _no_other_code() -> Iterator[None]:
    """Whatever happens ends in 1: a 2 would read as "inconclusive", and a model that ends the program could make it a 0."""
    try:
        yield
    except TutelageError as error:
        error.exit_code = 130 if error.exit_code == 130 else 1
        raise
    except (Exception, SystemExit) as error:  # a model, its data and its metrics are the user's own code and files
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {str(error)[:300]} ({Path(at.filename).name}, line {at.lineno})"
        failure = TutelageError(f"nothing was judged: {reason}")
        failure.exit_code = 1
        raise failure from error


def _send(files: Mapping[str, Path], junit: Path | None, summary: Path | None) -> None:
    """The reports to where CI wants them: JUnit replaced, the summary appended to."""
    from tutelage.core.files import write_atomic

    if junit is not None:
        write_atomic(junit, files["junit"].read_bytes())
    if summary is not None:
        before = summary.read_bytes() if summary.exists() else b""
        write_atomic(summary, before + files["summary"].read_bytes())


def _source(text: str) -> Source | None:
    from tutelage.methods.audit.robust_mlops.policy import Source

    if not text:
        return None
    return Source(predictions=text) if text.endswith((".csv", ".parquet")) else Source(audit=text)


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("gate", "rule", "compared [one-sided limits]", "n", "verdict"):
        table.add_column(column, justify="right" if column == "n" else "left")
    for one in verdict.outcomes:
        colour = _COLOURS[one.status]
        table.add_row(escape(one.gate), one.rule, escape(one.reason), f"{one.n:,}", f"[{colour}]{one.status.upper()}[/]")
    return table


def _last_line(verdict: Verdict) -> str:
    return f"[bold {_COLOURS[verdict.status]}]{verdict.status.upper()}[/] (exit code {verdict.exit_code})"
