"""The skeleton of every HTML page: one self-contained file of sections, tables, figures and small images.

A report is data: a `Page` of `Section`s of blocks. The template knows how a block looks, a report only what it says.
Nothing on a page is loaded from anywhere: styles, figures (SVG) and images (data URIs) are inside, and a content
security policy forbids the rest. Jinja2 escapes every string; only `figures.figure_svg` makes markup.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from tutelage import __version__
from tutelage.core.errors import InputError
from tutelage.core.files import write_atomic

# ------------------------------------------------------------------------------------------------------------- blocks

Tone = Literal["good", "bad", "warn", "plain"]


@dataclass(frozen=True)
class Text:
    """Paragraphs in words."""

    kind: ClassVar[str] = "text"
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """Something that must not be overlooked. The tone is also said by the title, never by colour alone."""

    kind: ClassVar[str] = "notice"
    title: str
    items: Sequence[str] = ()
    tone: Tone = "plain"


@dataclass(frozen=True)
class Mark:
    """A table cell with a tag beside its value, such as "best"."""

    text: str
    tag: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its header.

    align: a letter a column, the last for all that follow: "l" words, "n" words kept on one line, "a" long strings broken
    anywhere, "t" sentences, "r" numbers.

    groups: (text, columns) pairs of a header line above the header, if columns belong together.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Mark]]
    align: str = "lr"
    groups: Sequence[tuple[str, int]] = ()
    note: str = ""

    def side(self, column: int) -> str:
        return self.align[min(column, len(self.align) - 1)]


@dataclass(frozen=True)
class Facts:
    """Names and values; mappings and sequences are written out."""

    kind: ClassVar[str] = "facts"
    pairs: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A figure from `figure_svg` and what it shows."""

    kind: ClassVar[str] = "picture"
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Tile:
    """Small images side by side, each (label, data URI, text for those who cannot see it), under one caption."""

    images: Sequence[tuple[str, str, str]]
    caption: str


@dataclass(frozen=True)
class Gallery:
    kind: ClassVar[str] = "gallery"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Code:
    """What to type."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Link:
    """A plain link to a paper: followed by a reader, never loaded by the page."""

    kind: ClassVar[str] = "link"
    before: str
    url: str


Block = Text | Notice | Table | Facts | Picture | Gallery | Code | Link


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Page:
    """kicker: the kind of page, above the title. blocks: what is said before the first section."""

    title: str
    kicker: str
    blocks: Sequence[Block]
    sections: Sequence[Section]


def write_page(path: Path, page: Page) -> Path:
    """Render `page` and write it, whole or not at all."""
    write_atomic(path, _template().render(page=page, version=__version__, plain=plain))
    return path


@cache
def _template() -> Any:
    loader = PackageLoader("tutelage.auditing", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.j2")


# ------------------------------------------------------------------------------------------------------------ numbers


def percent(value: float, ci95: tuple[float, float] | None = None) -> str:
    """A share in [0, 1] as per cent, with its interval: "84.1 % [82.4, 85.7]"."""
    text = f"{100 * value:.1f} %"
    return text if ci95 is None else f"{text} [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"


def measured(value: float, ci95: tuple[float, float] | None = None, *, signed: bool = False) -> str:
    """A number with its interval, to two or three digits of the interval's half width: "+0.93 [+0.21, +1.65]"."""
    half = (ci95[1] - ci95[0]) / 2 if ci95 else 0.0
    power = math.floor(math.log10(half)) if half > 1e-9 else 0
    decimals = min(4, max(0, (1 if power < 0 else 2) - power))
    numbers = [f"{number:{'+' if signed else ''}z.{decimals}f}" for number in (value, *(ci95 or ()))]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" if ci95 else numbers[0]


def duration(seconds: float) -> str:
    """Seconds as a reader would say them: "8.4 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{int(seconds // 60)} min {int(seconds % 60)} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    """Any JSON value in one line of words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def titled(values: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """The entries of a settings mapping under names for people: {"batch_size": 256} -> {"Batch size": 256}."""
    known = {"n": "Samples", "sha256": "SHA-256", "eot": "Passes averaged"}
    return {known.get(key, key.replace("_", " ").capitalize()): value for key, value in values.items() if key not in without}


def data_table(sets: Sequence[Mapping[str, Any]]) -> Table:
    """The sets that a result rests on, one a row, with everything known about them."""
    keys = dict.fromkeys(["name", *(key for one in sets for key in one)])
    rows = [[plain(one.get(key)) for key in keys] for one in sets]
    align = "".join("a" if "sha256" in key else "r" if key in ("n", "classes") else "l" for key in keys)
    return Table("Data", list(titled(keys)), rows, align)


# ------------------------------------------------------------------------------------------------------------- images


def png_data_uri(array: Any) -> str:
    """An image as a data URI: (H, W), (1, H, W) or (3, H, W), floats in [0, 1] or uint8; tensors and arrays.

    Written pixel for pixel; the page enlarges it without smoothing. Raises InputError for other shapes.
    """
    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    elif pixels.ndim != 2:
        raise InputError("array", f"shape {pixels.shape}", "an image (H, W), (1, H, W) or (3, H, W)")
    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
