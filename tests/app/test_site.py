"""The static site: what it says, that nothing hostile comes through, and how it works in a browser."""

from __future__ import annotations

import json
import re
import shlex
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from browser import CHROMIUM, Page, browser

from tutelage.app.cli import run
from tutelage.app.site import build, build_site, content, find_docs, plots
from tutelage.app.site.content import Entry, Record, Sentence, plain_words
from tutelage.app.site.feed import ATOM, feed
from tutelage.app.site.markdown import formula_html, render
from tutelage.app.site.serve import site_server
from tutelage.catalogue import find, systems
from tutelage.claims.state import State
from tutelage.core.errors import InputError, MissingError

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site of this checkout, built by the command of docs/site.md."""
    folder = tmp_path_factory.mktemp("site") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.chdir(folder.parent)
        docs = find_docs()
        assert docs is not None
        (code,) = re.findall(r"```sh\n(.*?)```", (docs / "site.md").read_text(), flags=re.S)
        assert run([*shlex.split(code)[1:], "--url", "https://example.org/t"]) == 0
    return folder


class Read(HTMLParser):
    """The elements of a page with their attributes, ids and links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, attribute: str) -> list[str]:
        return [str(given[attribute]) for _, given in self.elements if attribute in given]


def pages(folder: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


# ------------------------------------------------------------------------------------------------------- what it says


def test_every_system_has_a_page_with_its_purpose_and_how_it_can_be_falsified(site: Path):
    for system in systems():
        words = re.sub(r"<[^>]+>", "", (site / "systems" / f"{system.slug}.html").read_text())
        text = " ".join(unescaped(words).split())
        for part in (system.have, system.want, system.claim.sentence, system.claim.falsified, *system.claim.controls):
            assert " ".join(part.split()) in text, (system.slug, part)


def unescaped(text: str) -> str:
    import html

    return html.unescape(text)


def test_a_judged_page_has_example_formula_figures_and_where_it_fails(site: Path):
    page = (site / "systems" / "mtard.html").read_text()
    for part in (
        'id="try-it"',
        "<pre",
        'id="where-it-fails-and-mistakes-to-avoid"',
        "mtard-tradeoff.svg",
        'id="judged"',
        'id="made"',
    ):
        assert part in page
    record = Record.read(json.dumps(json.loads((site / "results" / "mtard.json").read_text())))
    assert page.count('<svg class="iv') == len(record.sentences) + 1
    for arm in record.arms:
        assert f">{arm.name}" in page
    assert "<!--" not in page
    assert "$$" not in page


def test_links_lead_somewhere_and_ids_are_unique(site: Path):
    check_links(site)


def check_links(site: Path) -> None:
    read = {path: Read(text) for path, text in pages(site).items()}
    ids = {path: one.all("id") for path, one in read.items()}
    for path, found in ids.items():
        assert len(found) == len(set(found)), path
    for path, one in read.items():
        for target in [*one.all("href"), *one.all("src")]:
            if target.startswith(("https://", "http://", "data:")):
                continue
            address, _, fragment = unquote(target).partition("#")
            place = (path.parent / address).resolve() if address else path
            assert place.is_file(), (path.name, target)
            if fragment:
                assert fragment in ids[place], (path.name, target)


def test_a_page_loads_nothing_from_elsewhere_and_has_no_inline_code(site: Path):
    for path, text in pages(site).items():
        read = Read(text)
        policy = next(given["content"] for tag, given in read.elements if given.get("http-equiv") == "Content-Security-Policy")
        assert policy is not None
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for tag, given in read.elements:
            assert not [name for name in given if name.startswith("on") or name == "style"], (path, tag, given)
            if tag in ("script", "img", "iframe", "source") or (tag == "link" and given.get("rel") in ("stylesheet", "icon")):
                source = given.get("src") or given.get("href") or ""
                assert not source.startswith(("http", "//")), (path, source)
                assert source or given.get("type") == "application/json", (path, tag)
            assert tag not in ("style", "iframe", "object", "embed", "base"), (path, tag)


def test_no_page_weighs_300_kilobytes(site: Path):
    check_weights(site)


def check_weights(site: Path) -> None:
    weights = {path.name: build.weight(site, str(path.relative_to(site))) for path in pages(site)}
    assert max(weights.values()) < 300_000, max(weights.items(), key=lambda pair: pair[1])


def test_without_docs_the_pages_say_what_the_package_knows(tmp_path: Path):
    build_site(tmp_path / "out")
    page = (tmp_path / "out" / "systems" / "mtard.html").read_text()
    assert "arXiv 2306.16170" in page
    assert 'id="verdict"' in page
    assert 'id="docstring"' in page
    assert "guides/" not in page
    assert [path.name for path in (tmp_path / "out" / "guides").iterdir()] == ["index.html"]
    check_links(tmp_path / "out")
    check_weights(tmp_path / "out")


# -------------------------------------------------------------------------------------------------------------- values


def sentence(**changes: Any) -> Sentence:
    given: dict[str, Any] = {
        "sentence": "a beats b", "primary": True, "kind": "superiority", "metric": "m", "better": "higher", "method": "a",
        "baseline": "b", "margin": 0.0, "difference": 1.0, "lo": 0.5, "hi": 1.5, "ci_method": "paired-t", "unit": "seed",
        "n_units": 3, "verdict": "holds",
    }  # fmt: skip
    return Sentence(**{**given, **changes})


def record(rows: list[dict[str, Any]], **changes: Any) -> Record:
    raw = {
        "slug": "mtard", "scale": "claim", "verdict": "holds", "controls": ["c"], "rows": rows, "config": {"x": HOSTILE},
        "data": [{"name": HOSTILE, "kind": "generated"}], "environment": {"threads": 1}, "commit": "0" * 40, "dirty": False,
        "code_sha256": "1" * 64, "started": "2026-01-02T03:04:05+00:00", "seconds": 60.0,
    }  # fmt: skip
    return Record({**raw, **changes}, (sentence(),))


def row(arm: str, unit: int, value: float, **changes: Any) -> dict[str, Any]:
    return {"arm": arm, "unit_id": unit, "status": "ok", "error": None, "metrics": {"m": value}, "seconds": 30.0, **changes}


def test_the_table_of_arms_has_means_with_student_t_half_widths():
    rows = [row("a", unit, value) for unit, value in enumerate((1.0, 2.0, 3.0))]
    rows += [row("b", 0, 1.0), row("c", 0, 1.0), row("c", 1, 1.0), row("a", 3, 90.0, status="failed", metrics={})]
    a, c = record(rows).arms  # b has one unit only: no interval, no row
    assert (a.name, a.role) == ("a", "method")
    assert a.means[0] == pytest.approx((2.0, 4.302653 / 3**0.5), abs=1e-5)  # t of 2 degrees of freedom, deviation 1
    assert (c.role, c.means[0]) == ("control", (1.0, 0.0))
    assert record(rows).cpu_seconds == 7 * 30.0
    assert record(rows).finished.isoformat() == "2026-01-02T03:05:05+00:00"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "+1.00 [+0.50, +1.50]"),
        ({"difference": -0.665, "lo": -1.328, "hi": -0.0016}, "-0.665 [-1.328, -0.002]"),  # "-0.00" would hide the verdict
        ({"lo": 0.0}, "+1.00 [+0.00, +1.50]"),
        ({"baseline": "", "kind": "threshold", "difference": 0.0, "lo": -0.0, "hi": 0.0}, "0 [0, 0]"),
        ({"baseline": "", "kind": "threshold", "difference": 98.25, "lo": 97.4, "hi": 98.9}, "98.2 [97.4, 98.9]"),
    ],
)
def test_a_difference_is_written_with_as_many_digits_as_its_margin_needs(changes: dict[str, Any], text: str):
    assert sentence(**changes).value == text


def test_an_interval_is_drawn_about_its_margin_with_the_better_side_right():
    # reach is 1.5: lo 0.5 lies a sixth of the width right of the middle; 200 wide, 7 left free on either side
    drawn = plots.margin_plot(sentence())
    assert 'class="iv good"' in drawn
    assert 'd="M131.0 10.0H193.0"' in drawn
    assert 'cx="162.0"' in drawn
    assert 'd="M100.0 2V18"' in drawn
    lower = plots.margin_plot(sentence(kind="threshold", better="lower", baseline="", margin=2.0))
    assert 'd="M131.0 10.0H193.0"' in lower  # 0.5 to 1.5 below the margin is as good as above


def test_sentences_of_one_metric_share_a_scale():
    first, second = plots.sentence_plots([sentence(), sentence(lo=2.0, difference=3.0, hi=4.0)])
    assert 'd="M30.2 10.0H76.8"' in first  # 0.5 and 1.5 of 0 to 4
    assert 'd="M100.0 10.0H193.0"' in second
    (alone,) = plots.sentence_plots([sentence(lo=2.0, difference=3.0, hi=4.0, metric="other")])
    assert 'd="M100.0 10.0H193.0"' in alone


def test_a_stale_result_says_so_and_names_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = Entry(find("mtard"), State("stale", "holds"), record([row("a", 0, 1.0), row("a", 1, 2.0)]), "", "")
    monkeypatch.setattr(build, "entries", lambda docs: (entry,))
    build_site(tmp_path / "out")
    page = (tmp_path / "out" / "systems" / "mtard.html").read_text()
    assert "Holds (stale)" in page
    assert "has changed since it was recorded" in page
    assert "0000000000" in page
    assert ">stale</span>" in (tmp_path / "out" / "index.html").read_text()


# ------------------------------------------------------------------------------------------------------------- hostile


def test_hostile_names_and_texts_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bad = replace(find("mtard"), name=HOSTILE, title=HOSTILE, authors=(HOSTILE,), have=HOSTILE, want=f"</script>{HOSTILE}")
    bad = replace(bad, claim=replace(bad.claim, sentence=HOSTILE, falsified=HOSTILE, unit=HOSTILE, data=HOSTILE))
    docs = f"# {HOSTILE}\n\n{HOSTILE}\n\n[a](javascript:alert(1)) ![{HOSTILE}](//evil/x.png) `{HOSTILE}`\n\n## {HOSTILE}\n"
    docs += f"\n```{HOSTILE}\n{HOSTILE}\n```\n\n| {HOSTILE} |\n| --- |\n| {HOSTILE} |\n\n$${HOSTILE}$$\n"
    rows = [row(HOSTILE, unit, 1.0) for unit in (0, 1)]
    entry = Entry(bad, State("verdict", "holds"), record(rows, controls=[HOSTILE]), docs, HOSTILE)
    monkeypatch.setattr(build, "entries", lambda docs: (entry,))
    build_site(tmp_path / "out")
    harmless = (tmp_path / "out" / "404.html").read_text().count("<script")
    for path, text in pages(tmp_path / "out").items():
        read = Read(text)
        assert text.count("<script") == harmless + (path == tmp_path / "out" / "index.html"), path
        assert not [tag for tag, given in read.elements if any(name.startswith("on") for name in given)], path
        assert not [given for tag, given in read.elements if tag == "img" and "mtard-tradeoff" not in str(given.get("src"))], (
            path
        )
        assert not [href for href in read.all("href") if "javascript" in href], path
    index = re.search(r'<script type="application/json" id="index">(.*?)</script>', (tmp_path / "out/index.html").read_text())
    assert index is not None
    assert json.loads(index[1])["systems"][0][0] == "mtard"


# ------------------------------------------------------------------------------------------------------------ markdown


def test_markdown_keeps_code_and_turns_formulas_into_mathml():
    pytest.importorskip("latex2mathml")
    done = render("# T\n\nA *word*, `$HOME` and $x_1$.\n\n$$ \\frac{a}{b} $$\n\nIt costs 3$ or 4$.\n")
    assert done.title == "T"
    assert "<code>$HOME</code>" in done.html
    assert "<msub><mi>x</mi><mn>1</mn></msub>" in done.html
    assert "<mfrac>" in done.html
    assert "3$ or 4$" in done.html


def test_a_formula_without_the_converter_is_shown_as_its_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "latex2mathml.converter", None)
    assert formula_html(r"a < \tau", block=False) == r"<code>a &lt; \tau</code>"
    assert 'class="formula tex"' in formula_html(r"\tau", block=True)


def test_headings_get_the_ids_that_links_in_the_docs_use():
    done = render("# T\n\n## Does it *hold*, here?\n\n## A\n\n## A\n")
    assert [heading.id for heading in done.headings] == ["does-it-hold-here", "a", "a-1"]


def test_links_to_what_is_not_on_the_site_become_text():
    places = {"b.md#x": "b.html#x"}
    done = render("[b](b.md#x) [code](../src/x.py) [out](https://example.org/)", places.get)
    assert '<a href="b.html#x">b</a> code <a href="https://example.org/" rel="noreferrer">out</a>' in done.html


def test_words_are_folded_for_the_search():
    assert plain_words("Élan vital -- L2-norm, 3×3!") == "elan vital l2 norm 3 3"


# ----------------------------------------------------------------------------------------------------------- the feed


def test_the_feed_is_atom_with_the_newest_verdict_first(site: Path):
    root = ET.fromstring((site / "feed.atom").read_bytes())
    assert root.tag == f"{{{ATOM}}}feed"
    found = root.findall(f"{{{ATOM}}}entry")
    assert len(found) == len(list((site / "results").glob("*.json")))
    times = [one.findtext(f"{{{ATOM}}}updated") for one in found]
    assert times == sorted(times, reverse=True)
    assert times[0] == root.findtext(f"{{{ATOM}}}updated")
    ids = [one.findtext(f"{{{ATOM}}}id") for one in found]
    assert len(set(ids)) == len(ids)
    links = [link.get("href", "") for one in found for link in one.findall(f"{{{ATOM}}}link")]
    assert all(link.startswith("https://example.org/t/systems/") for link in links)


def test_a_new_recording_is_a_new_entry_and_an_old_one_keeps_its_id():
    def entry(started: str) -> bytes:
        return feed([Entry(find("mtard"), State("verdict", "holds"), record([], started=started), "", "")])

    old, same, new = (entry(f"2026-01-0{day}T00:00:00+00:00") for day in (1, 1, 2))
    assert old == same
    ids = [ET.fromstring(one).findtext(f"{{{ATOM}}}entry/{{{ATOM}}}id") for one in (old, new)]
    assert ids[0] != ids[1]


# ---------------------------------------------------------------------------------------------------- building, serving


def test_only_a_site_is_ever_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = Entry(find("mtard"), State("planned"), None, "", "")
    monkeypatch.setattr(build, "entries", lambda docs: (entry,))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="out"):
        build_site(mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    out = tmp_path / "out"
    build_site(out)
    (out / "old.html").write_text("gone after the next build")
    build_site(out)
    assert not (out / "old.html").exists()
    monkeypatch.setattr(build, "feed", lambda found, url: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_site(out)
    assert (out / "index.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_wrong_arguments_are_told_before_anything_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for arguments, words in (
        (["--docs", str(tmp_path / "none")], "docs: got"),
        (["--url", "example.org"], "url: got example.org"),
        (["--out", str(Path(__file__))], "out: got"),
    ):
        assert run(["site", "build", *(["--out", str(tmp_path / "o")] if "--out" not in arguments else []), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert run(["site", "serve", str(tmp_path)]) == 2
    assert "tutelage site build" in capsys.readouterr().err
    with pytest.raises(MissingError):
        site_server(tmp_path)


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    with site_server(site, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_server_gives_the_pages_with_strict_headers_and_nothing_else(site: Path, address: str):
    with urllib.request.urlopen(f"{address}/") as answer:
        assert b"Published systems" in answer.read()
        assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/systems/", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/none.html"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}{path}")
        assert caught.value.code == 404
        caught.value.close()
    port = int(address.rpartition(":")[2])
    with pytest.raises(InputError, match="port"):
        site_server(site, port=port)
    with pytest.raises(InputError, match="port"):
        site_server(site, port=70_000)


# -------------------------------------------------------------------------------------------------------- in a browser

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs a Chromium on the path (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as one:
        one.look(1200)
        yield one


SHOWN = "[...document.querySelectorAll('#results > li:not([hidden])')].map(item => item.id.slice(2))"


@needs_browser
def test_search_open_and_deep_link_without_a_word_in_the_console(page: Page, address: str):
    page.open(f"{address}/index.html")
    assert len(page.js(SHOWN)) == len(systems())
    page.press("/")
    assert page.js("document.activeElement.id") == "q"
    page.type("multi-teacher distillation")
    assert page.js(SHOWN)[0] == "mtard"
    assert "system" in page.js("document.getElementById('count').textContent")
    assert page.js("location.search") == "?q=multi-teacher+distillation"
    page.press("ArrowDown")
    assert page.js("document.activeElement.getAttribute('href')") == "systems/mtard.html"
    page.press("Enter", leaves=True)
    assert page.js("location.pathname") == "/systems/mtard.html"
    page.open(f"{address}/systems/mtard.html#judged")
    assert abs(page.js("document.getElementById('judged').getBoundingClientRect().top")) < 200
    page.open(f"{address}/index.html?q=teacher&room=distill&state=planned")
    wanted = [s.slug for s in systems() if s.room == "distill"]
    assert page.js(SHOWN)
    assert set(page.js(SHOWN)) <= set(wanted)
    page.open(f"{address}/compare.html")
    page.press("/")
    page.type("grokking")
    page.press("Enter", leaves=True)
    assert page.js(SHOWN)[0] == "grokking"
    assert page.problems == []
    assert all(url.startswith((address, "data:", "about:")) for url in page.requests)


@needs_browser
def test_what_is_had_and_what_is_wanted_are_looked_for_apart(page: Page, address: str):
    def found(query: str) -> list[str]:
        page.js(f"q.value = {json.dumps(query)}, q.dispatchEvent(new Event('input')), 0")
        return list(page.js(SHOWN))

    page.open(f"{address}/index.html")
    by_slug = {s.slug: s for s in systems()}
    for query, field in (("I have teachers", "have"), ("I want robustness", "want")):
        hits = found(query)
        assert hits, query
        assert all(query.split()[-1].rstrip("s") in plain_words(getattr(by_slug[slug], field)) for slug in hits)
    assert found("I have a robust checkpoint, I want accuracy")[0] == "adaptive-smoothing"
    assert found("ROBUSTÉ checkpoints")[0]  # marks and plurals make no difference
    assert found("zzz qqq") == []
    assert "No system matches" in page.js("document.getElementById('count').textContent")
    page.js("document.getElementById('clear').click()")
    assert len(page.js(SHOWN)) == len(systems())
    assert found("quickstart") == []
    assert page.js("document.querySelector('#page-results a').getAttribute('href')") == "guides/quickstart.html"


@needs_browser
def test_names_of_the_api_are_found_from_the_search(page: Page, address: str):
    page.open(f"{address}/index.html?q=FGSM")
    link = "[...document.querySelectorAll('#page-results a')].pop().getAttribute('href')"
    assert page.js(link) == "api/index.html?name=FGSM"
    page.open(f"{address}/{page.js(link)}")
    left = "[...document.querySelectorAll('.module:not([hidden]) a')].map(one => one.textContent)"
    assert "tutelage.threats.engine" in page.js(left)
    assert "tutelage.data.worlds" not in page.js(left)
    page.open(f"{address}/api/tutelage.threats.engine.html#FGSM")
    assert "FGSM(budget: Budget" in page.js("document.getElementById('FGSM').parentElement.textContent")
    assert page.problems == []


@needs_browser
def test_tables_sort_by_number_and_say_so(page: Page, address: str):
    page.open(f"{address}/compare.html")
    column = "[...document.querySelector('table').tBodies[0].rows].map(r => parseFloat(r.cells[4].dataset.sort))"
    button = "document.querySelector('table').tHead.rows[0].cells[4]"
    page.js(f"{button}.querySelector('button').click()")
    assert page.js(column) == sorted(page.js(column))
    assert page.js(f"{button}.getAttribute('aria-sort')") == "ascending"
    page.js(f"{button}.querySelector('button').click()")
    assert page.js(column) == sorted(page.js(column), reverse=True)


@needs_browser
def test_the_pages_work_from_disk_too(page: Page, site: Path):
    page.problems.clear()
    page.open(f"{(site / 'index.html').as_uri()}?q=mtard")
    assert page.js(SHOWN)[0] == "mtard"
    assert page.js("getComputedStyle(document.querySelector('.top')).borderBottomWidth") == "1px"
    assert page.problems == []


@needs_browser
def test_the_theme_is_the_readers_and_can_be_changed_for_good(page: Page, address: str):
    page.look(1200, dark=True)
    page.open(f"{address}/index.html")
    surface = "getComputedStyle(document.body).backgroundColor"
    dark = page.js(surface)
    page.js("document.getElementById('theme').click()")
    light = page.js(surface)
    assert light == "rgb(255, 255, 255)" != dark
    page.open(f"{address}/compare.html")
    assert page.js(surface) == light
    page.js("localStorage.clear()")
    page.open(f"{address}/compare.html")
    assert page.js(surface) == dark
    page.look(1200)


# contrast by WCAG 2.1 (1.4.3), over what lies behind each text; names of controls; headings in order; pictures with words
ACCESSIBLE = r"""
(() => {
  const parts = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const wrong = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || ["SCRIPT", "OPTION"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parts(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    const what = `${element.tagName} ${element.className} ${element.textContent.slice(0, 40)}`;
    if (ratio < (large ? 3 : 4.5)) wrong.push(`contrast ${ratio.toFixed(2)}: ${what}`);
  }
  for (const field of document.querySelectorAll("input, select, button, a")) {
    const name = field.getAttribute("aria-label") || field.labels?.[0]?.textContent || field.textContent
      || document.getElementById(field.getAttribute("aria-labelledby"))?.textContent || "";
    if (!name.trim()) wrong.push(`no name: ${field.outerHTML.slice(0, 80)}`);
  }
  let before = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) wrong.push(`heading of level ${level} after ${before}: ${heading.textContent}`);
    before = level;
  }
  if (document.querySelectorAll("h1").length !== 1 || document.querySelectorAll("main").length !== 1) wrong.push("h1 or main");
  for (const image of document.images) if (!image.alt.trim()) wrong.push(`no words: ${image.src}`);
  for (const table of document.querySelectorAll("table")) {
    if (!table.querySelector("th[scope=col], thead th")) wrong.push("a table without headings");
  }
  for (const region of document.querySelectorAll("[role=region], section, nav")) {
    if (!region.getAttribute("aria-label")) wrong.push(`a region without a name: ${region.outerHTML.slice(0, 60)}`);
  }
  if (!document.documentElement.lang) wrong.push("no language");
  return wrong;
})()
"""
LOOKED_AT = ("index.html", "compare.html", "rooms/distill.html", "systems/mtard.html", "systems/actionmae.html",
             "guides/index.html", "guides/audit.html", "404.html", "api/index.html",
    "api/tutelage.threats.budgets.html",
)  # fmt: skip


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_can_be_read_and_used_by_all(page: Page, site: Path, dark: bool):
    page.look(1200, dark=dark)
    for one in LOOKED_AT:
        page.open((site / one).as_uri())
        assert page.js(ACCESSIBLE) == [], one
    page.js("document.querySelector('p').style.color = '#7f7f7f', document.querySelector('a').textContent = '', 0")
    assert len(page.js(ACCESSIBLE)) == 2  # the check sees grey on either theme, and a link without a name


@needs_browser
def test_a_phone_shows_pages_without_scrolling_sideways(page: Page, site: Path):
    page.look(360, 740, phone=True)
    for one in LOOKED_AT:
        page.open((site / one).as_uri())
        assert page.js("document.documentElement.scrollWidth") <= 360, one
    page.look(1200)


@needs_browser
def test_every_stop_of_the_tab_key_is_seen(page: Page, site: Path):
    page.open((site / "index.html").as_uri())
    seen = []
    for _ in range(9):
        page.press("Tab")
        seen.append(page.js("document.activeElement.textContent.trim() || document.activeElement.id"))
        assert page.js("getComputedStyle(document.activeElement).outlineStyle") != "none", seen[-1]
    assert seen[:2] == ["Skip to the content", "Tutelage"]
    assert {"q", "Compare"} <= set(seen)


def test_words_of_the_index_are_folded_as_in_the_browser(site: Path):
    """The rule for typed words in site.js and that of `plain_words` agree on the words of the catalogue."""
    script = (site / "assets" / "site.js").read_text()
    assert 'normalize("NFKD").replace(/\\p{M}/gu, "").match(/[\\p{L}\\p{N}]+/gu)' in script
    assert content.search_index([], [])["systems"] == []
