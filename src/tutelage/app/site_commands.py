"""`tutelage site`: the catalogue with its verdicts and the docs as a static site, built and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

site_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The catalogue, its verdicts and the docs as a static site.",
)
out = Console(highlight=False)
FOLDER = Path("site")


@site_app.command()
def build(
    folder: Annotated[
        Path, typer.Option("--out", help="Where the site goes; a site that was built there is replaced.")
    ] = FOLDER,
    docs: Annotated[
        Path | None, typer.Option(help="Folder of the docs; default: those of the checkout, if the package runs from one.")
    ] = None,
    url: Annotated[str, typer.Option(help="Address where the site will stand, for full links in the feed.")] = "",
) -> None:
    """Build the site: search, a page a system, comparisons, the docs, a feed of verdicts.

    The pages load nothing from elsewhere. Put the folder on any web server, show it with `tutelage site serve`, or open
    its index.html.
    """
    from tutelage.app.site import build_site, find_docs

    made = build_site(folder, docs or find_docs(), url=url)
    page, weight = made.heaviest
    out.print(
        f"{made.pages} pages in {made.seconds:.1f} s; the heaviest, {page}, weighs {weight / 1000:.0f} kB", soft_wrap=True
    )
    out.print(f"site: {made.folder / 'index.html'}", soft_wrap=True)


@site_app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="What `site build` made.")] = FOLDER,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is seen from this machine only.")] = "127.0.0.1",
) -> None:
    """Show the built site in a browser, until Ctrl-C."""
    from tutelage.app.site.serve import serve_site

    serve_site(folder, port, host, lambda address: out.print(f"{address}   (Ctrl-C ends it)", soft_wrap=True))
