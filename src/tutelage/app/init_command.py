"""`tutelage init`: a first script for the user's own project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

out = Console(highlight=False)


def init(
    folder: Annotated[Path, typer.Argument(help="Your project.", show_default="this folder")] = Path("."),
    kind: Annotated[
        str,
        typer.Option(
            help="audit (how does my model break), teach (make it robust), claim (does my method hold), gate (may it ship)."
        ),
    ] = "audit",
) -> None:
    """Write a script that audits or teaches your own model, or tests a claim about your own method; or a gate's policy.

    Models (functions that return an `nn.Module`), weights (`.safetensors`) and labelled images are looked for in the folder
    and filled in; nothing is asked, run or overwritten. What is not found stands in the script as a line to change.
    """
    from tutelage.app.scaffold import scaffold

    made = scaffold(folder, kind)
    for path in made.files:
        out.print(f"written: {escape(str(path))}", soft_wrap=True)
    found = made.found
    audits = ", ".join(one.folder for one in found.audits)
    for what, name in (("model", found.factory), ("weights", found.weights), ("training data", found.train),
                       ("test data", found.test), ("audits", audits)):  # fmt: skip
        if name:
            out.print(f"found {what}: {escape(name)}", soft_wrap=True)
    if made.found.others:
        out.print(f"[dim]not used: {escape(', '.join(made.found.others))}[/]", soft_wrap=True)
    for number, step in enumerate(made.next_steps, 1):
        out.print(f"{number}. {escape(step)}", soft_wrap=True)
