"""The `tutelage` command."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
import warnings
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tutelage import __version__
from tutelage.app.compare_commands import as_saved, compare
from tutelage.app.data_commands import data_app
from tutelage.app.gate_commands import GateCommand, card, gate, monitor
from tutelage.app.init_command import init
from tutelage.app.plugins import changed, listed, shown, split_changes, split_threats, use
from tutelage.app.site_commands import site_app
from tutelage.app.speak_command import speak
from tutelage.app.suites import check_corruptions, split_standard
from tutelage.app.sweep_commands import sweep
from tutelage.catalogue import ROOMS, search, systems
from tutelage.core.errors import AuditError, InputError, TutelageError, advice, named, short_path
from tutelage.core.memory import keep_memory

if TYPE_CHECKING:
    from tutelage.auditing.result import AuditResult, AuditRow
    from tutelage.claims.claim import ClaimResult
    from tutelage.core.plugins import MethodInfo, Plugin

# Heavy imports (torch and what stands on it) happen inside the commands, so that `--help` and `list` answer at once.

app = typer.Typer(
    name="tutelage",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Teach models to be robust, and prove how robust they are.\n\n"
    "Start with `tutelage demo`; audit your own classifier with `tutelage audit` and compare two with `tutelage compare`; "
    "see what there is with `tutelage list`.",
)
app.add_typer(data_app, name="data")
app.add_typer(site_app, name="site")
out = Console(highlight=False)
# typer may carry a copy of click of its own, whose errors are not those of the package click
_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    warnings.showwarning = _say_warning
    keep_memory()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0, 2 for bad input (one sentence on stderr), 130 when interrupted, 141
    when nobody reads what is printed any more (`tutelage list | head`)."""
    piped = _piped()
    try:
        code = int(typer.main.get_command(app).main(arguments, prog_name="tutelage", standalone_mode=False) or 0)
        if code == 130:  # this typer turns Ctrl-C into an exit code
            _say_error("interrupted")
        sys.stdout.flush()
        return code
    except TutelageError as error:
        _say_error(str(error))
        return error.exit_code
    except _USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            context = getattr(error, "ctx", None)
            message = " ".join(error.format_message().split()).rstrip(".")
            _say_error(f"{message} (see `{context.command_path if context else 'tutelage'} --help`)")
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _say_error("interrupted")
        return 130
    except SystemExit as error:
        if piped and isinstance(error.__context__, BrokenPipeError):  # click's and rich's way out
            return _unread()
        # no command of ours raises it: a model's own code did, and a 0 of it would be no success
        _say_error(f"the program was ended by code that it was given to run (sys.exit({error.code!r}))")
        return 2
    except OSError as error:
        if piped and isinstance(error, BrokenPipeError):
            return _unread()
        where, what = f": {short_path(error.filename)}" if error.filename else "", advice(error)
        _say_error(f"{error.strerror or error}{where}{f'; {what}' if what else ''}")
        return 2
    except MemoryError:
        _say_error("there is not enough memory for what was given: give less of it, or a smaller batch size")
        return 2
    except RecursionError:
        _say_error("what was given cannot be used: it is nested too deeply")
        return 2


def _piped() -> bool:
    """Whether our output goes to another program."""
    try:
        return sys.__stdout__ is not None and stat.S_ISFIFO(os.fstat(sys.__stdout__.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _unread() -> int:
    """That program has had enough: write nothing more, also not when this one ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


def _say_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line, without the place in the code that Python would show."""
    print(f"warning: {message}", file=sys.stderr)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        out.print(f"tutelage {__version__}")
        raise typer.Exit


def _system_names(incomplete: str) -> list[tuple[str, str]]:
    """For the completion of the shell: names with what they give."""
    return [(s.slug, s.want) for s in systems() if s.slug.startswith(incomplete)]


# ---------------------------------------------------------------------------------------------------------- catalogue


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    room: Annotated[str, typer.Option(help=f"Only this room: {', '.join(ROOMS)}.")] = "",
    text: Annotated[str, typer.Option("--search", help="Only systems that contain all these words.")] = "",
) -> None:
    """List the 64 systems, what each is for, and its state.

    *planned*: not built yet. *method*: usable, its claim is not recorded. *holds*, *does not hold*, *undecided*: the
    verdict of its recorded claim; *(stale)* if its code has changed since.
    """
    from tutelage.claims.state import state_of

    if room and room not in ROOMS:
        raise InputError("room", room, f"one of {', '.join(ROOMS)}")
    found = [s for s in (search(text) if text else systems()) if room in ("", s.room)]
    states = {s.slug: state_of(s) for s in found}
    others = listed(room, text.split())
    if as_json:
        entries = [
            {"slug": s.slug, "name": s.name, "room": s.room, "year": s.year, "arxiv": s.arxiv, "title": s.title,
             "have": s.have, "want": s.want, "status": states[s.slug].status, "verdict": states[s.slug].verdict}
            for s in found
        ]  # fmt: skip
        entries += [
            {"slug": one["plugin"].name, "name": one["plugin"].name, "room": one["room"], "year": one["year"], "arxiv": "",
             "title": one["title"], "have": one["have"], "want": one["use"], "status": "plug-in", "verdict": ""}
            for one in others if one["plugin"].kind == "methods"
        ]  # fmt: skip
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    if not found and not others:
        out.print("No system matches. `tutelage list` shows all of them.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("system", "state", "I want ..."):
        table.add_column(column, no_wrap=column != "I want ...")
    for name, members in groupby(found, key=lambda s: s.room):  # they come room by room
        table.add_row(f"[bold cyan]{name}[/]")
        for s in members:
            table.add_row(f"  {s.slug}", _coloured(str(states[s.slug])), escape(s.want))
    out.print(table)
    built = sum(state.status != "planned" for state in states.values())
    if others:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("plug-in", "kind", "package", "what it is"):
            table.add_column(column, no_wrap=column != "what it is")
        for one in others:
            plugin = one["plugin"]
            kind = f"method, {one['room']}" if plugin.kind == "methods" else plugin.kind.removesuffix("s")
            table.add_row(plugin.name, kind, escape(plugin.origin), escape(one["use"]))
        out.print()
        out.print(table)
    out.print(f"\n{len(found)} systems, {built} built. `tutelage show SYSTEM` tells more.")


@app.command()
def show(
    slug: Annotated[
        str, typer.Argument(help="A system or plug-in of `tutelage list`, such as mtard.", autocompletion=_system_names)
    ],
) -> None:
    """Show one system: what it is for, its paper, its equations, an example to run, its claim and verdict."""
    from tutelage.claims.claim import get_system
    from tutelage.claims.runner import recorded
    from tutelage.claims.state import state_of

    if slug not in {s.slug for s in systems()} and (plugin := shown(slug)):
        _print_plugin(*plugin)
        return
    system = get_system(slug)
    state = state_of(system)
    out.print(f"[bold]{escape(system.name)}[/]  ({system.room}, {_coloured(str(state))})")
    out.print(f"{escape(system.title)}\n{escape(', '.join(system.authors))} ({system.year}) {escape(system.venue)}")
    if system.arxiv:
        unsure = "" if system.arxiv_confirmed else "  (id not confirmed)"
        out.print(f"arXiv {system.arxiv}  {system.paper_url}{unsure}")
    out.print(f"\nI have {escape(system.have)}.\nI want {escape(system.want)}.")
    out.print("\n[bold]What the paper reports[/]")
    for figure in system.headline:
        out.print(f"  {escape(figure.figure)}: {escape(figure.value)}  [dim]({escape(figure.source)})[/]")
    out.print("\n[bold]The claim tested here[/]")
    out.print(f"  {escape(system.claim.sentence)}")
    claim = system.claim
    margin = f"{claim.margin:g} {claim.metric_unit}".strip()
    out.print(f"  [dim]{claim.metric}, {claim.kind}, margin {margin}; unit: {escape(claim.unit)}[/]")
    if state.status == "planned":
        out.print("\nThis system is planned; its method is not built yet.")
        return
    from importlib import import_module

    out.print("\n[bold]Method[/] " + system.module)
    out.print(escape((import_module(system.module).__doc__ or "").strip()))
    result = recorded(slug)
    if result is not None:
        out.print()
        _print_claim(result)
    out.print(f"\nRun it: tutelage run {slug} --scale smoke (seconds), --scale claim (the recorded experiment)")


def _print_plugin(plugin: Plugin, info: MethodInfo | None, text: str) -> None:
    out.print(f"[bold]{escape(plugin.name)}[/]  ({plugin.kind.removesuffix('s')} of the package {escape(plugin.origin)})")
    if info is not None:
        paper = ", ".join(part for part in (info.title, ", ".join(info.authors), str(info.year or ""), info.url) if part)
        out.print(f"{escape(paper)}\n\nI have {escape(info.have)}.\nI want {escape(info.want)}.")
    out.print(f"\n{escape(text)}\n\nUse it: {escape(use(plugin))}")
    out.print("It comes from another package; no claim of it is recorded here.")


# -------------------------------------------------------------------------------------------------------------- claims


@app.command("run")
def run_(
    slug: Annotated[str, typer.Argument(help="A built system of `tutelage list`.", autocompletion=_system_names)],
    scale: Annotated[
        str, typer.Option(help="smoke (seconds), claim (the experiment), paper (the paper's data and nets).")
    ] = "smoke",
    record: Annotated[
        bool, typer.Option("--record", help="Write the result into the package: claim scale, clean checkout.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Number of independent units; 0 for the claim's own.")] = 0,
    jobs: Annotated[int, typer.Option(help="Cells at once; on this machine its cores are shared among them.")] = 1,
    on: Annotated[
        str, typer.Option(help="local (worker processes) or ray (Ray tasks; a cluster if RAY_ADDRESS is set).")
    ] = "local",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: --set epochs=3. Repeatable.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/SLUG-SCALE-TIME.")] = None,
) -> None:
    """Run a system's claim: every arm on every unit, verdict, plot and page.

    Finished cells and trained teachers are cached: a run that was interrupted goes on where it stopped.
    """
    from tutelage.claims.claim import get_scale, load_claim
    from tutelage.claims.report import write_claim_report
    from tutelage.claims.runner import record as write_record
    from tutelage.claims.runner import run_claim
    from tutelage.core.cache import default_cache_dir
    from tutelage.core.environment import git_state
    from tutelage.core.files import check_folder
    from tutelage.core.progress import shown
    from tutelage.core.workers import get_engine

    changes = dict(_pair(text) for text in set_ or [])
    size = get_scale(scale)
    if record and (scale != "claim" or changes or seeds):
        raise InputError(
            "record", f"scale {scale}{' with --set or --seeds' if changes or seeds else ''}", "--scale claim alone"
        )
    if record and git_state()[1]:
        raise InputError("record", "a tree with uncommitted changes", "a clean checkout, so that the commit says what ran")
    claim = load_claim(slug)
    claim.config(size, changes)  # a wrong setting is told before the folder is made
    folder = folder or Path("runs") / f"{slug}-{scale}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_folder(folder)
    check_folder(default_cache_dir(), "$TUTELAGE_CACHE")
    with shown() as progress:
        result = run_claim(
            slug, scale=size, changes=changes, seeds=seeds or None, jobs=jobs, on=get_engine(on), out=folder, progress=progress
        )
    page = write_claim_report(folder / "report.html", claim, result)
    _print_claim(result)
    if record:
        out.print(f"recorded: {write_record(result)}")
    out.print(f"report: {page}", soft_wrap=True)
    if failed := sum(row.status == "failed" for row in result.rows):
        _say_error(f"{failed} of {len(result.rows)} cells failed; the report says why")
        raise typer.Exit(1)


@app.command()
def report(
    source: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder of `run` or `audit`, or a system with a recorded result.")
    ],
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write the page; default report.html in the folder.")
    ] = None,
) -> None:
    """Write the HTML page of a finished run again."""
    from tutelage.auditing.result import AuditResult
    from tutelage.claims.claim import get_system, load_claim
    from tutelage.claims.report import write_claim_report
    from tutelage.claims.runner import load_result, recorded
    from tutelage.core.errors import MissingError

    if to is not None and to.is_file() and to.suffix.lower() not in (".html", ".htm"):
        raise InputError("out", str(to), "a new file, or an .html page, which is replaced")
    folder = Path(source)
    if (folder / "audit.json").is_file():
        with as_saved("RUN", source):
            page = AuditResult.load(folder).to_html(to or folder / "report.html")
    elif (folder / "result.json").is_file():
        result = load_result(folder)
        page = write_claim_report(to or folder / "report.html", load_claim(result.slug), result)
    elif folder.exists():
        raise InputError("RUN", source, "a folder with audit.json or result.json, as `audit` and `run` write")
    else:
        found = recorded(get_system(source).slug)
        if found is None:
            raise MissingError(f"{source} has no recorded result; `tutelage run {source} --scale claim` makes one")
        page = write_claim_report(to or Path(f"{source}.html"), load_claim(source), found)
    out.print(f"report: {page}", soft_wrap=True)


# --------------------------------------------------------------------------------------------------------------- audit


@app.command()
def audit(
    model: Annotated[
        str,
        typer.Argument(
            help="Factory of your model, package.module:function or file.py:function; or the address of a prediction endpoint, "
            "http://127.0.0.1:8000/predict."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images: a folder of class folders, an .npz (image, label), a .parquet; or emoji, the bundled "
            "drawings (seven groups)."
        ),
    ],
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file to load into the model.")] = None,
    threats: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: linf@8/255, l2@0.5 (the standard suite), fgsm:linf@0.1, pgd-50:l2@1. "
            "Default: linf@8/255, or none if --shift or another --suite than standard is given."
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="standard (the standard attacks, at the budgets of --threats or at linf@8/255); corruptions (fifteen, five "
            "severities), corruptions@3, noise@1,3,5, fog; attributes (edits of background, size, position, direction: "
            "--data needs masks). Repeatable.",
            metavar="NAME[@SEVERITIES]",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="For --suite attributes: masks of the images, same names; without, --data are cut-outs or emoji."),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A saved audit of the same images and corruptions, for the mean corruption error.")
    ] = None,
    shift: Annotated[
        list[str] | None, typer.Option(help="Another labelled set, in the forms of --data. Repeatable.", metavar="NAME=PATH")
    ] = None,
    slices: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet with a row for each image: each value of a column is a slice.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where audit.json and report.html go.")] = Path("audit"),
    n: Annotated[int, typer.Option(help="Use n samples, class shares kept; 0 for all.")] = 0,
    size: Annotated[int, typer.Option(help="Resize images to size x size; 0 leaves them, emoji at 48.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples a batch; the result does not depend on it.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the attacks' noise.")] = 0,
    name: Annotated[str, typer.Option(help="The model's name in the report.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    curve: Annotated[bool, typer.Option("--curve/--no-curve", help="Also sweep eps.")] = True,
    gives: Annotated[str, typer.Option(help="What an address answers: logits or probabilities.")] = "logits",
    force: Annotated[bool, typer.Option("--force", help="Go on although the sanity check fails.")] = False,
    jobs: Annotated[int, typer.Option(help="Parts at once, in worker processes; the numbers stay the same.")] = 1,
    on: Annotated[
        str, typer.Option(help="local (worker processes) or ray (Ray tasks; a cluster if RAY_ADDRESS is set).")
    ] = "local",
) -> None:
    """Audit your own image classifier: accuracy, robustness with intervals, pictures of its failures, one HTML page.

    Robustness to attacks (`--threats`, `--suite standard`), to common corruptions (`--suite corruptions`), to edits of
    objects with masks (`--suite attributes`) and on other sets (`--shift`).

    The factory returns an `nn.Module` that maps images in [0, 1] to logits; normalisation belongs inside it. `tutelage.models`
    has wrappers for models that return or want something else, functions, scikit-learn and HTTP (black-box attacks only).

    An audit that was stopped goes on where it was: give the same command again.

    Example: `tutelage audit my_net.py:build --weights my_net.safetensors --data images/ --threats linf@8/255,l2@0.5`
    """
    import torch

    from tutelage.app.attributes import audited_attributes, check_classes, is_emoji, read_pictures, split_suites
    from tutelage.auditing.audit import audit as run_audit
    from tutelage.auditing.shift import read_slices
    from tutelage.auditing.state import clear_finished
    from tutelage.core import on_ray
    from tutelage.core.files import check_folder
    from tutelage.core.progress import shown
    from tutelage.core.runs import Run
    from tutelage.core.workers import get_engine
    from tutelage.data.readers import read_images
    from tutelage.models.checks import same_classes
    from tutelage.models.loading import is_address, load_model
    from tutelage.threats.parse import parse_threat

    wanted, others = split_standard(threats, [one.strip() for one in suite or []], shift or [])
    threats_made = split_threats(wanted)
    for one in threats_made:
        if isinstance(one, str):
            parse_threat(one)
    suites, changes = split_changes(others)
    corruptions, attributes = split_suites(suites, masks, data)
    if corruptions:
        check_corruptions(corruptions)
    sets = _sets(shift or [])
    if twice := [plugin.name for plugin in changes if plugin.name in sets]:
        raise InputError("shift", twice[0], "another name: a plug-in's suite has this one")
    for option, value, least in (("n", n, 0), ("size", size, 0), ("batch-size", batch_size, 1), ("jobs", jobs, 1)):
        if value < least:
            raise InputError(option, value, f"at least {least}")
    if (engine := get_engine(on)) == "ray":
        on_ray.require()
    check_folder(folder)
    config: dict[str, Any] = {"model": model, "weights": str(weights or ""), "data": data, "threats": wanted, "n": n,
                              "size": size, "batch_size": batch_size, "seed": seed, "curve": curve, "force": force}  # fmt: skip
    natural = {
        "suite": others,
        "masks": str(masks or ""),
        "baseline": str(baseline or ""),
        "shift": sets,
        "slices": str(slices or ""),
        "gives": gives if gives != "logits" else "",
    }
    config |= {option: value for option, value in natural.items() if value}
    if (folder / "run.json").exists():
        Run.create(folder, "audit", config, device)  # another run there is told now, not after the work
    pictures = read_pictures(data, masks, size, n) if attributes or is_emoji(data) else None
    if pictures and attributes:
        check_classes(pictures)
    images = pictures.images if pictures else read_images(Path(data), size=size or None)
    if n > len(images):
        raise InputError("n", n, f"at most {len(images)}, as many as there are")
    shifts = {}
    for key, path in sets.items():
        with named(f"shift {key}"):
            shifts[key] = read_images(Path(path), size=size or None)
    for plugin in changes:
        part = images.split_off(n, split=images.split)[1] if n and n != len(images) else images
        shifts[plugin.name] = changed(part, plugin, seed, batch_size)
    parts = read_slices(slices, images.labels) if slices else None
    try:
        net = load_model(model, weights, gives).to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise InputError("device", device, f"a device of this machine ({error})") from error
    with same_classes(net), shown() as progress:
        result = run_audit(
            net, images, threats=threats_made, corruptions=corruptions or None, baseline=baseline, shifts=shifts, slices=parts,
            n=None if pictures else n or None, batch_size=batch_size, seed=seed, curve=curve, force=force, name=name or model,
            state=folder / "state", jobs=jobs, on=engine,
            factory="" if is_address(model) else model,  # an endpoint goes to workers as it is, with what it gives
            progress=progress,
        )  # fmt: skip
        if not result.failed:  # else the folder stays open for the same audit without what failed
            Run.create(folder, "audit", config, device)
        page = result.save(folder)  # whatever happens to the edits
        if pictures and attributes:
            try:
                edits = audited_attributes(net, pictures, name=result.model["name"], batch_size=batch_size, progress=progress)
            except TutelageError as error:
                raise AuditError(f"{error} (in --suite attributes; all the rest is in {page})") from error
            result = result.with_attributes(edits)
            page = result.save(folder)
    clear_finished(folder / "state")
    out.print(audit_table({result.model["name"]: result}))
    for warning in result.warnings:
        out.print(f"[bold yellow]unreliable[/]: {escape(warning)}")
    for note in result.notes:
        out.print(f"note: {escape(note)}")
    out.print(f"report: {page}", soft_wrap=True)
    if result.failed:
        _say_error(
            f"{', '.join(result.failed)} failed; the report says why, and what is finished is kept in {folder / 'state'}"
        )
        raise typer.Exit(1)


def _sets(pairs: list[str]) -> dict[str, str]:
    """name -> path, from what --shift was given."""
    sets: dict[str, str] = {}
    for pair in pairs:
        key, equals, path = pair.partition("=")
        if not equals or not key.strip() or not path.strip():
            raise InputError("shift", pair, "NAME=PATH")
        if key.strip() in sets:
            raise InputError("shift", f"{key.strip()} twice", "a name for each set")
        sets[key.strip()] = path.strip()
    return sets


app.command()(compare)
app.command()(speak)
app.command()(init)
app.command()(sweep)
app.command(cls=GateCommand)(gate)
app.command()(monitor)
app.command()(card)


# ---------------------------------------------------------------------------------------------------------------- demo


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where the report and the student's weights go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds on a few images, to see that it works.")] = False,
) -> None:
    """The main job on bundled images: two teachers, one small robust student (B-MTARD), all three audited.

    About four minutes on two CPU cores. The report has tables, curves and pictures.
    """
    from tutelage.app.demo import run_demo
    from tutelage.core.cache import default_cache_dir
    from tutelage.core.files import check_folder
    from tutelage.core.progress import shown

    check_folder(folder)
    check_folder(default_cache_dir(), "$TUTELAGE_CACHE")
    with shown() as progress:
        audits, page = run_demo(folder, seed=seed, quick=quick, progress=progress)
    out.print(audit_table(audits))
    out.print(f"report: {page}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed, which extras are missing and how to get them, the devices, the cache and the data folder."""
    from tutelage.app.doctor import examine

    for title, table in examine():
        out.print(f"[bold]{title}[/]")
        out.print(table)
        out.print()


# -------------------------------------------------------------------------------------------------------------- tables


def audit_table(audits: dict[str, AuditResult]) -> Table:
    """(clean, each attack of each threat) x models, with 95 % intervals."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("")
    for name in audits:
        table.add_column(escape(name), justify="right", overflow="fold")
    first = next(iter(audits.values()))
    shown = [*first.threats, "corruption family", "corruptions", "shift", "attribute", "attributes"]
    natural = {"corruption family": "corruptions", "shift": "shifted set", "attribute": "drop by", "attributes": "drop,"}
    rows = [("clean", "clean")] + [(t, r.name) for t in shown for r in first.rows if r.category == t and _whole(r)]
    single = {threat for threat in first.threats if sum(row.category == threat for row in first.rows) == 2}
    told = {"accuracy in per cent": True, "drop in points": "attributes" in {category for category, _ in rows}}
    for category, stage in rows:
        if category in single and stage != "worst case":
            continue  # of a threat of one attack, whose name it has, it is the same
        label = category if category == "clean" else f"{natural.get(category, category)} {stage}"
        if category in single:
            label = category
        if stage == "mCE":
            baseline, label = first.settings["corruptions"]["baseline"], "mCE"
            told[f"mCE in per cent of the errors of {baseline['name']}, weights {baseline['sha256'][:8]}"] = True
        table.add_row(escape(label), *[_share(result, result.row(category, stage)) for result in audits.values()])
    table.caption = escape(f"{'; '.join(words for words, is_there in told.items() if is_there)} [95 % interval]")
    for what in dict.fromkeys(what for result in audits.values() for what in result.failed):
        table.add_row(escape(what), *["[red]failed[/]" if what in result.failed else "" for result in audits.values()])
    return table


def _share(result: AuditResult, row: AuditRow) -> str:
    """An accuracy with its interval, marked where a flag makes it unreliable."""
    if not row.n:
        return "no picture allows it"
    text = f"{100 * row.value:.1f} \\[{100 * row.ci95[0]:.1f}, {100 * row.ci95[1]:.1f}]"
    return f"[yellow]unreliable[/] {text}" if result.doubts(row.category) else text


def _whole(row: AuditRow) -> bool:
    """Whether a row stands for all severities."""
    return row.category not in ("corruption family", "corruptions") or "@" not in row.name


def _print_claim(result: ClaimResult) -> None:
    metrics = list(dict.fromkeys(key for row in result.rows for key in row.metrics))[:4]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right")
    for arm in result.arms:
        means = []
        for metric in metrics:
            values = list(result.values(arm, metric).values())
            means.append(f"{sum(values) / len(values):.2f}" if values else "-")
        table.add_row(arm + (" (control)" if arm in result.controls else ""), *means)
    out.print(f"[bold]{result.slug} at {result.scale} scale[/]: {_coloured(result.verdict)}   (means over units)")
    out.print(table)
    verdicts = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("sentence", "difference [95 % interval]", "margin", "verdict"):
        verdicts.add_column(column)
    for c in result.claims:
        verdicts.add_row(
            ("[bold]primary[/] " if c.primary else "") + escape(c.sentence),
            _interval(c.difference, *c.ci95, signed=bool(c.baseline)),
            f"{c.margin:g}",
            _coloured(c.verdict),
        )
    out.print(verdicts)


def _interval(value: float, lo: float, hi: float, *, signed: bool) -> str:
    """A difference with its sign, or the metric itself with more digits."""
    form = "+z.2f" if signed else ".4f"  # z: no "-0.00"
    return f"{value:{form}} \\[{lo:{form}}, {hi:{form}}]"


def _coloured(state: str) -> str:
    colours = {"holds": "green", "does not hold": "red", "undecided": "yellow", "planned": "dim"}
    colour = colours.get(state.removesuffix(" (stale)"))
    return f"[{colour}]{state}[/]" if colour else state


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError("set", text, "key=value")
    return key.strip(), value.strip()


__all__ = ["app", "audit_table", "main", "run"]
