"""`tutelage sweep`: the claim of a system over a grid of its settings."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tutelage.core.errors import InputError

# torch is imported inside the command, so that `--help` answers at once

out = Console(highlight=False)


def sweep(
    slug: Annotated[str, typer.Argument(help="A built system of `tutelage list`.")],
    over: Annotated[
        list[str], typer.Option(help="A setting and its values: --over lr=0.01,0.1. Repeatable: every combination is run.")
    ],
    scale: Annotated[str, typer.Option(help="smoke, claim or paper, as for `run`.")] = "smoke",
    seeds: Annotated[int, typer.Option(help="Number of independent units; 0 for the claim's own.")] = 0,
    jobs: Annotated[int, typer.Option(help="Cells at once, of all points together.")] = 1,
    on: Annotated[
        str, typer.Option(help="local (worker processes) or ray (Ray tasks; a cluster if RAY_ADDRESS is set).")
    ] = "local",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of all points: --set epochs=3. Repeatable.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Default runs/SLUG-sweep-TIME.")] = None,
) -> None:
    """Run a system's claim at each point of a grid of its settings: how far does the verdict hang on them?

    Each point keeps its own rows and verdict (`tutelage report OUT/000` makes its page). Finished cells are cached: a sweep
    that was stopped goes on where it was.

    Example: `tutelage sweep mtard --over eps=0.05,0.1 --over epochs=5,10 --jobs 4`
    """
    from tutelage.claims.claim import get_scale
    from tutelage.claims.sweep import sweep as run_sweep
    from tutelage.core.cache import default_cache_dir
    from tutelage.core.files import check_folder
    from tutelage.core.progress import shown
    from tutelage.core.workers import get_engine

    size, engine = get_scale(scale), get_engine(on)
    grid = {}
    for text in over:
        key, values = _pair("over", text)
        if key in grid:
            raise InputError("over", f"{key} twice", "each setting once, with all of its values")
        grid[key] = [value.strip() for value in values.split(",")]
    changes = dict(_pair("set", text) for text in set_ or [])
    check_folder(default_cache_dir(), "$TUTELAGE_CACHE")
    folder = folder or Path("runs") / f"{slug}-sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    with shown() as progress:
        found = run_sweep(
            slug, grid, scale=size, changes=changes, seeds=seeds or None, jobs=jobs, on=engine, out=folder, progress=progress
        )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold", caption="the primary sentence", caption_justify="left")
    for column in (*grid, "difference [95 % interval]", "verdict"):
        table.add_column(escape(column))
    for row in found.table():
        low, high = row["ci95"] or (None, None)
        value = "-" if row["difference"] is None else f"{row['difference']:+.4g} \\[{low:+.4g}, {high:+.4g}]"
        note = f" ({row['failed']} cells failed)" if row["failed"] else ""
        table.add_row(*(escape(row["settings"][key]) for key in grid), value, f"{row['verdict']}{note}")
    out.print(table)
    out.print(f"sweep: {folder / 'sweep.json'}", soft_wrap=True)
    if failed := sum(row["failed"] for row in found.table()):
        cells = sum(len(result.rows) for result in found.results)
        print(f"error: {failed} of {cells} cells failed; result.json of their runs says why", file=sys.stderr)
        raise typer.Exit(1)


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(option, text, "key=value" if option == "set" else "key=value,value")
    return key.strip(), value.strip()
