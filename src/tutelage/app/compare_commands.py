"""`tutelage compare`: which differences between saved audits of the same images are real."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tutelage.core.errors import InputError, TutelageError

if TYPE_CHECKING:
    from tutelage.auditing.compare import Comparison
    from tutelage.auditing.result import AuditResult

# torch is imported inside the command, so that `--help` answers at once

out = Console(highlight=False)
_COLOURS = {"better": "green", "worse": "red", "not reliable": "yellow"}


def compare(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="AUDIT...", help="Two or more saved audits: folders or their audit.json; the first is the reference."
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="Where compare.json and report.html go.")] = Path("compare"),
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", help="An audit of a model trained as usual, for effective robustness. At least three: repeat it."
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="What the line of effective robustness is straight on: linear, logit, probit.")
    ] = "logit",
    details: Annotated[bool, typer.Option("--details", help="A row for each corruption too.")] = False,
) -> None:
    """Compare models on the same images: paired differences with intervals, and a verdict for each.

    *better*, *worse*: the difference is real, also after adjustment for the number of rows. *no difference shown*: it may be
    chance; the interval says how large it may still be. Audits of different images are refused.

    Example: `tutelage compare before/audit.json after/audit.json --out compare`
    """
    from tutelage.auditing.compare import compare as run_compare
    from tutelage.auditing.shift import check_scale
    from tutelage.core.files import check_folder

    if len(paths) < 2:
        raise InputError("AUDIT", f"{len(paths)} audit", "two or more")
    chosen = check_scale(scale)
    check_folder(folder)
    with as_saved("AUDIT", ", ".join([*paths, *(baselines or [])])):
        comparison = run_compare(
            _named(paths, "AUDIT"), baselines=_named(baselines or [], "baseline"), scale=chosen, details=details
        )
        page = comparison.save(folder)
    for model in comparison.models:
        out.print(f"[bold]{escape(model)}[/] against [bold]{escape(comparison.reference)}[/]")
        out.print(comparison_table(comparison, model))
    for line in comparison.lines:
        for name, value, limits in zip(line.models, line.found.values, line.found.intervals, strict=True):
            text = f"{100 * value:+z.1f} [{100 * limits.lo:+z.1f}, {100 * limits.hi:+z.1f}]"
            out.print(f"effective robustness of {name} on {line.shift}: {text} points", markup=False)
    for remark in (*comparison.left_out, *comparison.notes):
        out.print(f"[bold yellow]note[/] {escape(remark)}")
    out.print(f"report: {page}", soft_wrap=True)


@contextmanager
def as_saved(argument: str, source: str) -> Iterator[None]:
    """What a file holds that is no audit of ours, although it looks like one, becomes one sentence that names it."""
    try:
        yield
    except (TutelageError, OSError):
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(argument, source, f"an audit as `audit` writes it ({reason})") from error


def comparison_table(comparison: Comparison, model: str) -> Table:
    """One model against the reference, a row a difference."""
    table = Table(
        box=None, pad_edge=False, header_style="bold", caption_justify="left",
        caption="accuracy in per cent, differences in points [95 % interval]; p and verdict adjusted for all rows (Holm)",
    )  # fmt: skip
    table.add_column("on")
    # a model's name, my.py:build (folder), breaks at its parts and not in a word
    reference, this = (re.sub(r"(?<=[:/])(?=.)| (?=\()", "\n", name) for name in (comparison.reference, model))
    for column in ("n", reference, this, "difference", "p"):
        longest = max(map(len, column.split()), default=0)
        table.add_column(escape(column), justify="right", overflow="fold", min_width=min(longest, 16))
    table.add_column("verdict", no_wrap=True)
    for row in comparison.of(model):
        low, high = (f"{100 * end:+z.1f}" for end in row.ci95)  # z: no "-0.0"
        colour = _COLOURS.get(row.verdict)
        table.add_row(
            escape(row.what),
            f"{row.n:,}",
            f"{100 * row.reference_value:.1f}",
            f"{100 * row.value:.1f}",
            f"{100 * row.difference:+z.1f} \\[{low}, {high}]",
            f"{row.p_holm:.3f}" if row.p_holm >= 0.001 else "< 0.001",
            f"[{colour}]{row.verdict}[/]" if colour else row.verdict,
        )
    return table


def _named(paths: Sequence[str], argument: str) -> dict[str, AuditResult]:
    """The audits by their models' names; where these are not enough, with the folder's name or the whole path."""
    from tutelage.auditing.result import AuditResult

    files = [(path / "audit.json" if path.is_dir() else path) for path in map(Path, paths)]
    whole = [file.resolve() for file in files]
    if twice := [file for file, path in zip(files, whole, strict=True) if whole.count(path) > 1]:
        raise InputError(argument, f"{twice[0]} twice", "each audit once")
    found = [AuditResult.load(path, examples=False) for path in paths]
    names = [str(one.model["name"]) for one in found]
    for place in (lambda file: file.parent.name if file.name == "audit.json" else file.stem, str):
        again = {name for name in names if names.count(name) > 1}
        names = [
            f"{one.model['name']} ({place(file)})" if name in again else name
            for name, one, file in zip(names, found, files, strict=True)
        ]
    return dict(zip(names, found, strict=True))
