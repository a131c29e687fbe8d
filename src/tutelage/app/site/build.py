"""Build the site: render every page into a folder of its own, then put it in the place of the old one."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import tutelage
from tutelage import __version__
from tutelage.app.plugins import listed
from tutelage.app.site import plots
from tutelage.app.site.content import TONES, Entry, entries, search_index
from tutelage.app.site.feed import feed
from tutelage.app.site.markdown import Heading, Rendered, code_html, render
from tutelage.app.site.reference import docstring_html, reference
from tutelage.catalogue import ROOM_PURPOSE, ROOMS
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder, writing

MARK = ".tutelage-site"  # says that a folder was made here and may be replaced
FIRST_GUIDES = ("quickstart", "first-use", "audit", "attacks", "corruptions", "compare", "gate", "models", "data")


@dataclass(frozen=True)
class SiteSummary:
    """What was built. heaviest: the address of the page that weighs most, with all that it loads, and its bytes."""

    folder: Path
    pages: int
    seconds: float
    heaviest: tuple[str, int]


@dataclass
class _Guide:
    """A page of the docs that is about no single system."""

    source: PurePosixPath  # below docs
    text: str
    url: str
    rendered: Rendered


@dataclass
class _Site:
    folder: Path
    docs: Path | None
    found: tuple[Entry, ...]
    guides: list[_Guide] = field(default_factory=list)
    images: set[str] = field(default_factory=set)  # names in docs/images that some page shows
    written: dict[str, str] = field(default_factory=dict)  # address -> page

    def write(self, url: str, template: str, **values: Any) -> None:
        up = "../" * url.count("/")
        page = _templates().get_template(template).render(
            up=up, url=url, version=__version__, guides_built=bool(self.guides), **values
        )  # fmt: skip
        self.written[url] = page
        target = self.folder / url
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")


def find_docs() -> Path | None:
    """The docs of the checkout that this package runs from, or None where it was installed without them."""
    docs = Path(tutelage.__file__).parents[2] / "docs"
    return docs if (docs / "systems").is_dir() else None


def build_site(out: Path, docs: Path | None = None, *, url: str = "") -> SiteSummary:
    """Build the site in the folder `out`, which then holds the whole site or what it held before.

    docs: the folder of the docs, whose pages, formulas and pictures are taken in; without it the pages say what the
    catalogue, the methods' docstrings and the records know. url: where the site will stand, for full links in the feed.
    Raises InputError if `out` holds anything that was not built here, if `docs` is no folder or `url` no address.
    """
    if docs is not None and not docs.is_dir():
        raise InputError("docs", str(docs), "a folder of Markdown pages, such as docs of a checkout of Tutelage")
    if url and not url.startswith(("https://", "http://")):
        raise InputError("url", url, "the address of the site, https://...")
    if out.exists() and not out.is_dir():
        raise InputError("out", str(out), "a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise InputError("out", str(out), "an empty or new folder, or one that `tutelage site build` made")
    check_folder(out)
    begun = time.perf_counter()
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            site = _Site(folder, docs, entries(docs))
            _write(site, url if not url or url.endswith("/") else f"{url}/")
            os.chmod(folder, 0o755)
            _replace(out, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    heaviest = max(((address, weight(out, address)) for address in site.written), key=lambda pair: pair[1])
    return SiteSummary(out, len(site.written), time.perf_counter() - begun, heaviest)


def _replace(out: Path, folder: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    old = folder.with_name(f"{folder.name}-old")
    out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def weight(out: Path, address: str) -> int:
    """Bytes of a page with everything that it loads: style, script and pictures."""
    page = (out / address).read_text(encoding="utf-8")
    loaded = set(re.findall(r'<(?:img|script)\b[^>]*\bsrc="([^"]+)"|<link rel="(?:stylesheet|icon)" href="([^"]+)"', page))
    base = (out / address).parent
    sizes: list[int] = [(base / (a or b)).stat().st_size for a, b in loaded if not (a or b).startswith("data:")]
    return len(page.encode()) + sum(sizes)


# ------------------------------------------------------------------------------------------------------------ the pages


def _write(site: _Site, url: str) -> None:
    (site.folder / MARK).write_text("made by `tutelage site build`, which may replace this folder\n")
    for name in ("site.css", "site.js"):
        target = site.folder / "assets" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((files("tutelage.app.site") / "assets" / name).read_bytes())
    site.guides = list(_guides(site))
    for guide in site.guides:
        site.write(guide.url, "guide.html.j2", guide=guide, contents=_contents(guide.rendered.headings))
    for entry in site.found:
        _system_page(site, entry)
        if entry.record is not None:
            target = site.folder / "results" / f"{entry.slug}.json"
            target.parent.mkdir(exist_ok=True)
            target.write_text(json.dumps(entry.record.raw, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for room in ROOMS:
        found = [entry for entry in site.found if entry.system.room == room]
        site.write(
            f"rooms/{room}.html", "room.html.j2", room=room, purpose=ROOM_PURPOSE[room], found=found,
            margin_plot=plots.margin_plot,
        )  # fmt: skip
    in_rooms = sorted(site.found, key=lambda entry: ROOMS.index(entry.system.room))
    site.write("compare.html", "compare.html.j2", found=in_rooms, margin_plot=plots.margin_plot)
    site.write("guides/index.html", "guides.html.j2", guides=site.guides)
    others = [("guide", guide.rendered.title, guide.url, _guide_words(guide)) for guide in site.guides]
    _reference_pages(site)
    if brought := listed("", []):
        site.write("plugins.html", "plugins.html.j2", found=brought)
        others += [("plug-in", one["plugin"].name, f"plugins.html#{one['plugin'].name}", str(one["text"])) for one in brought]
    counts = {
        state: sum(entry.filter == state for entry in site.found) for state in (*TONES, "incomplete", "method", "planned")
    }
    site.write("index.html", "index.html.j2", found=site.found, rooms=ROOM_PURPOSE, counts=counts,
               index=search_index(site.found, others), margin_plot=plots.margin_plot,
               built=sum(entry.state.status != "planned" for entry in site.found), brought=brought)  # fmt: skip
    site.write("404.html", "404.html.j2")
    (site.folder / "feed.atom").write_bytes(feed(site.found, url))
    for name in sorted(site.images):
        assert site.docs is not None
        (site.folder / "images").mkdir(exist_ok=True)
        shutil.copyfile(site.docs / "images" / name, site.folder / "images" / name)


def _guides(site: _Site) -> Iterator[_Guide]:
    if site.docs is None:
        return
    elsewhere = ("systems", "api")  # both have pages of their own
    sources = [path for path in site.docs.rglob("*.md") if path.relative_to(site.docs).parts[0] not in elsewhere]
    names = {path: PurePosixPath(path.relative_to(site.docs).as_posix()) for path in sources}
    order = {name: i for i, name in enumerate(FIRST_GUIDES)}
    for path in sorted(sources, key=lambda p: (len(names[p].parts), order.get(p.stem, 99), str(names[p]))):
        source = names[path]
        text = path.read_text(encoding="utf-8")
        url = _guide_url(source)
        resolve = partial(_resolve, site, source, url)
        yield _Guide(source, text, url, render(text, resolve, partial(_size, site)))


def _guide_url(source: PurePosixPath) -> str:
    """docs/flags/x.md -> guides/flags-x.html: one level deep, so that all of them find the style the same way."""
    return f"guides/{'-'.join((*source.parent.parts, source.stem)).lower()}.html"


def _guide_words(guide: _Guide) -> str:
    return f"{guide.rendered.lead} {' '.join(heading.text for heading in guide.rendered.headings)}"


def _resolve(site: _Site, source: PurePosixPath, url: str, target: str) -> str | None:
    """Where a link or picture of the docs page `source`, now at `url`, leads; None for files that the site has not."""
    path, sharp, fragment = target.partition("#")
    place = PurePosixPath(os.path.normpath(source.parent / path))
    up = "../" * url.count("/")
    if site.docs is None or ".." in place.parts or not (site.docs / place).is_file():
        return None
    if place.parts[0] == "images" and len(place.parts) == 2:
        site.images.add(place.name)
        return f"{up}images/{place.name}"
    if place.suffix != ".md":
        return None
    if place.parts[0] == "api":
        return f"{up}api/index.html"
    own = f"systems/{place.stem}.html" if place.parts[0] == "systems" else _guide_url(place)
    return f"{up}{own}{sharp}{fragment}"


def _size(site: _Site, address: str) -> Markup:
    """Width and height of a picture as attributes; nothing where they cannot be told."""
    name = PurePosixPath(address).name
    if site.docs is None or name not in site.images:
        return Markup("")
    path = site.docs / "images" / name
    if path.suffix == ".svg":
        head = path.read_text(encoding="utf-8", errors="replace")[:2000]
        found = re.search(r'viewBox="[\d.eE+-]+ [\d.eE+-]+ ([\d.]+) ([\d.]+)"', head)
        sides = [float(side) * 4 / 3 for side in found.groups()] if found else []  # points to pixels
    else:
        from PIL import Image

        try:
            with Image.open(path) as picture:
                sides = [float(side) for side in picture.size]
        except OSError:
            sides = []
    return Markup(f' width="{sides[0]:.0f}" height="{sides[1]:.0f}"') if sides else Markup("")


def _reference_pages(site: _Site) -> None:
    modules = reference()
    places = {(m.name, one.name): f"{m.name}.html#{one.anchor}" for m in modules for one in m.names}
    for module in modules:
        site.write(module.url, "module.html.j2", module=module, places=places, docstring=docstring_html, signature=code_html)
    rooms = {room: [m for m in modules if m.room == room] for room in dict.fromkeys(["", *(m.room for m in modules)])}
    site.write("api/index.html", "api.html.j2", rooms=[(room or "tutelage", found) for room, found in rooms.items()])


def _system_page(site: _Site, entry: Entry) -> None:
    source = PurePosixPath("systems") / f"{entry.slug}.md"
    begin, end = f"<!-- verdict:{entry.slug} -->", "<!-- /verdict -->"
    before, found, rest = entry.docs.partition(begin)
    after = rest.partition(end)[2] if found else ""

    resolve = partial(_resolve, site, source, entry.url)
    parts = [render(text, resolve, partial(_size, site)) for text in (_without_purpose(before), after)]
    picture = resolve(f"../images/{entry.slug}-tradeoff.svg") if entry.record else None
    headings = [*parts[0].headings, *parts[1].headings]
    contents = _contents([h for h in headings if h.level == 2])
    own = [("judged", "How it is judged"), ("reported", "What the paper reports")]
    if entry.record:
        own.append(("made", "How the verdict was made"))
        if not found:
            contents.append(("verdict", "Does it hold here?"))
    if entry.docstring:
        own.append(("docstring", "The method in its own words"))
    api = entry.state.status != "planned"
    record = entry.record
    site.write(
        entry.url, "system.html.j2", entry=entry, before=parts[0], after=parts[1], picture=picture,
        size=_size(site, picture or ""), api=api, has_place=bool(found),
        contents=[*contents, *own], plots=plots.sentence_plots(record.sentences) if record else [],
        margin_plot=plots.margin_plot, command=code_html(f"tutelage run {entry.slug} --scale claim --jobs 2", "sh"),
    )  # fmt: skip


def _without_purpose(text: str) -> str:
    """Without the paragraph "I have ... I want ...", which every page shows in one form."""
    blocks = text.split("\n\n")
    return "\n\n".join(block for i, block in enumerate(blocks) if i > 3 or not block.lstrip().startswith("**I have**"))


def _contents(headings: Iterable[Heading]) -> list[tuple[str, str]]:
    return [(heading.id, heading.text) for heading in headings if heading.level == 2]


# ---------------------------------------------------------------------------------------------------------- templates


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("tutelage.app.site", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["plain"] = _plain
    environment.filters["embedded"] = _embedded
    return environment


def _plain(value: Any) -> str:
    """Any JSON value in one line of words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "") else str(value)


def _embedded(value: Any) -> Markup:
    """JSON that can stand inside a script element: no tag and no entity can begin in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
