"""The page of an audit: whole, safe, self-contained, and with the numbers of the result."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tutelage.auditing import AuditResult, AuditRow, Example, audit
from tutelage.auditing.figures import figure_svg
from tutelage.auditing.page import (
    duration,
    measured,
    percent,
    plain,
    png_data_uri,
)
from tutelage.auditing.report import write_report
from tutelage.core.errors import InputError
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.cnn import SmallCNN

THREATS = ("fgsm:linf@0.1", "pgd-3:l2@0.5")
EVIL = "<script>alert('1')</script>&$x^"


class Page(HTMLParser):
    """Text, tags and links of a page; complains about tags that are not closed, ids given twice and what is loaded."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, self.open
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in self.tags:
            assert tag not in ("script", "iframe", "link", "object")
            target = attributes.get("src") or attributes.get("href") or "#"
            assert tag == "a" or target.startswith(("#", "data:image/png;base64,"))
            if target.startswith("#") and target != "#":
                assert target[1:] in ids
            for used in re.findall(r"url\(#([^)]+)\)", " ".join(attributes.values())):
                assert used in ids
        assert "@import" not in source
        assert not re.search(r"url\((?!#)", source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and attributes.items() <= a.items() for t, a in self.tags)


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def result() -> AuditResult:
    train, test = fashion_mnist_subset("train"), fashion_mnist_subset("test")
    x, y = train.split_off(200)[1][list(range(200))]
    torch.manual_seed(0)
    net = SmallCNN(8)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    part = test.split_off(60, split="test")[1]
    return audit(net, part, threats=THREATS, name="tiny net", slices={"first": range(30), "last": range(30, 60)})


@pytest.fixture
def evil(result: AuditResult) -> AuditResult:
    """The result with a script in everything that a user names."""
    classes = tuple(f"{name}{EVIL}" for name in result.classes)
    renamed = dict(zip(result.classes, classes, strict=True))
    return replace(
        result,
        rows=[replace(r, name=renamed.get(r.name, f"{r.name}{EVIL}")) for r in result.rows],
        classes=classes,
        status="unreliable",
        warnings=[f"gradients vanish {EVIL}"],
        model={**result.model, "name": EVIL},
        data={**result.data, "name": EVIL, "split": EVIL, "file": f"{EVIL}.npz"},
        environment={**result.environment, "device_name": EVIL},
    )


def test_the_numbers_are_those_of_the_rows(result: AuditResult, tmp_path: Path) -> None:
    page = page_of(write_report(tmp_path / "report.html", {"tiny net": result}))
    for row in result.rows:
        low, high = row.ci95
        assert f"{100 * row.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in page.text
    for said in (
        result.model["sha256"],
        result.data["sha256"],
        "60 samples of Fashion-MNIST",
        "its status is reliable",
        "weakest",
    ):
        assert said in page.text
    assert page.count("table") == page.count("caption") == 8
    assert page.count("svg") == len(result.curves) == 2
    for threat in THREATS:
        assert f'"{threat}"' in page.text  # how to run it again
    assert "Unreliable" not in page.text


def test_save_writes_the_same_page_and_it_is_repeatable(result: AuditResult, tmp_path: Path) -> None:
    saved = result.save(tmp_path / "audit")
    again = AuditResult.load(tmp_path / "audit").to_html(tmp_path / "again.html")
    assert saved.read_bytes() == again.read_bytes()


def test_every_string_of_a_user_is_escaped(evil: AuditResult, tmp_path: Path) -> None:
    figure = Figure(figsize=(3, 2))
    figure.subplots().set_title(EVIL, parse_math=False)
    audits = {EVIL: evil, f"_{EVIL}2": replace(evil, status=EVIL), "模型": evil}
    path = write_report(tmp_path / "page.html", audits, title=EVIL, intro=EVIL, figures={EVIL: figure})
    source = path.read_text()
    assert "<script" not in source
    page = page_of(path)
    assert page.text.count(EVIL) > 100
    for shown in (f"{EVIL}.npz", f"gradients vanish {EVIL}", f"sandal{EVIL}", "模型"):
        assert shown in page.text


def test_an_unreliable_audit_says_so_first(result: AuditResult, tmp_path: Path) -> None:
    broken = replace(result, status="unreliable", warnings=["the model is random", "linf@0.1: masked gradients"])
    page = page_of(write_report(tmp_path / "page.html", {"tiny net": broken}))
    before, _, _ = page.text.partition("Accuracy under each threat")
    assert "Unreliable: do not rely on these numbers" in before
    assert all(warning in before for warning in broken.warnings)


def test_several_audits_are_compared(result: AuditResult, tmp_path: Path) -> None:
    def with_clean(value: float, **changes: object) -> AuditResult:
        rows = [replace(r, value=value, ci95=(value - 0.1, value)) if r.category == "clean" else r for r in result.rows]
        return replace(result, rows=rows, **changes)

    audits = {
        "weak": with_clean(0.5),
        "strong": with_clean(0.75),
        "masked": with_clean(0.875, status="unreliable", warnings=["masked gradients"]),
    }
    page = page_of(write_report(tmp_path / "page.html", audits, title="Three"))
    table = page.text.partition("Accuracy of each model")[2].partition("Attacks of a threat run")[0]
    assert re.search(r"strong best 75\.0 % \[65\.0, 75\.0\]", table)
    assert table.count("best 75.0 %") == 1
    assert "best 87.5 %" not in table  # what is not reliable wins nothing
    assert "masked unreliable 87.5 %" in table
    assert "3 models were audited on 60 samples" in page.text
    assert "Unreliable: do not rely on these numbers (masked)" in page.text
    assert page.count("svg") == len(result.threats) + len(result.curves)
    for name in audits:
        assert page.count("h2") >= 4
        assert name in page.text


def test_models_without_a_threat_in_common_and_on_other_data(result: AuditResult, tmp_path: Path) -> None:
    first = result.threats[0]
    part = replace(
        result,
        rows=[r for r in result.rows if r.category != result.threats[1] and r.under != result.threats[1]],
        curves=[],
        examples=[],
        data={**result.data, "sha256": "0" * 64},
    )
    page = page_of(write_report(tmp_path / "page.html", {"whole": result, "part": part}))
    assert "Different data" in page.text
    assert first in page.text
    assert "–" in page.text


def test_the_gallery_shows_what_was_found(result: AuditResult, tmp_path: Path) -> None:
    source = write_report(tmp_path / "page.html", {"tiny net": result}).read_text()
    shown = [example for threat in result.threats for example in result.worst(12, threat)]
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', source)
    assert shown
    assert len(images) == 3 * len(shown)
    for i, example in enumerate(shown):
        clean, adversarial, change = (pixels(images[3 * i + j][0]) for j in range(3))
        np.testing.assert_allclose(clean / 255, example.clean[0], atol=0.003)
        np.testing.assert_allclose(adversarial / 255, example.adversarial[0], atol=0.003)
        difference = (example.adversarial - example.clean)[0]
        expected = 0.5 + 0.5 * difference / difference.abs().max()
        np.testing.assert_allclose(change / 255, expected, atol=0.003)
        assert f"change ×{0.5 / float(difference.abs().max()):.3g}" in source
        true, predicted = result.classes[example.label], result.classes[example.predicted]
        assert f"#{example.index} {true} → {predicted} ({100 * example.confidence:.1f} %)" in unescape(source)


def test_colour_images_and_unchanged_ones(result: AuditResult, tmp_path: Path) -> None:
    threat = result.threats[0]
    clean = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = Example(threat, 5, 1, 42, 0.9, 0.1, 8 / 255, clean, (clean + 0.1).clamp(0, 1))
    same = replace(turned, index=6, breaks_at=0.0, adversarial=clean)
    source = write_report(tmp_path / "page.html", {"m": replace(result, examples=[turned, same])}).read_text()
    images = [pixels(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", source)]
    assert [image.shape for image in images] == [(8, 8, 3)] * 6
    assert (images[5] == 128).all()
    assert "breaks at eps 8/255" in source
    assert "output 42" in source  # a class that the data does not name
    assert "not on the curve" in source


def pixels(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_slices_and_missing_parts(result: AuditResult, tmp_path: Path) -> None:
    page = page_of(write_report(tmp_path / "page.html", {"m": result}))
    assert "Accuracy of each slice" in page.text
    bare = replace(result, rows=[r for r in result.rows if r.category not in ("class", "slice")], curves=[], examples=[])
    page = page_of(write_report(tmp_path / "bare.html", {"m": bare}))
    assert "Accuracy of each slice" not in page.text
    assert "Worst examples" not in page.text
    assert page.count("svg") == page.count("img") == 0


def test_many_classes_scroll_in_their_own_box(result: AuditResult, tmp_path: Path) -> None:
    unders = ["clean", *result.threats]
    rows = [AuditRow("class", f"class {c}", "accuracy", c / 50, (0.0, 1.0), 5, under) for under in unders for c in range(50)]
    shown = replace(result, rows=[r for r in result.rows if r.category not in ("class", "slice")] + rows)
    page = page_of(write_report(tmp_path / "page.html", {"m": shown}))
    assert page.count("div", **{"class": "scroll tall"}) == 1
    assert page.count("span", **{"class": "tag"}) == len(unders) + 1  # the weakest class of each column; the note on FGSM


def test_a_figure_is_inline_follows_the_style_and_has_its_own_ids() -> None:
    def plot(height: float) -> Figure:
        figure = Figure(figsize=(4, height))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o-", color="#0072b2", label='a "b" id="c" #000000 漢')
        axes.legend()
        return figure

    first, second = figure_svg(plot(2), "a <plot>"), figure_svg(plot(3))
    assert first == figure_svg(plot(2), "a <plot>")
    assert first.startswith("<svg ")
    assert "http" not in first
    page = Page(f"<div>{first}{second}</div>")  # ids of both are told apart
    assert 'a "b" id="c" #000000 漢' in page.text  # text stays what it is
    assert 'aria-label="a &lt;plot&gt;"' in first
    assert "var(--series-1, #0072b2)" in first
    assert "currentColor" in first
    assert "font-family" not in first


def test_numbers_in_words() -> None:
    assert percent(0.8412) == "84.1 %"
    assert percent(0.8412, (0.824, 0.857)) == "84.1 % [82.4, 85.7]"
    assert measured(0.934, (0.212, 1.656), signed=True) == "+0.93 [+0.21, +1.66]"
    assert measured(0.0227, (0.0146, 0.0307)) == "0.0227 [0.0146, 0.0307]"
    assert measured(50.0, (10.0, 90.0)) == "50.0 [10.0, 90.0]"
    assert measured(1.5, (1.5, 1.5)) == "1.50 [1.50, 1.50]"
    assert measured(3) == "3.00"
    assert measured(-0.001, (-0.2, 0.2), signed=True) == "+0.00 [-0.20, +0.20]"
    assert [duration(s) for s in (8.44, 200, 7500)] == ["8.4 s", "3 min 20 s", "2 h 5 min"]
    assert plain({"a": [1, None], "b": True, "c": 0.1}) == "a 1, none, b yes, c 0.1"


def test_png_keeps_pixels_and_refuses_other_shapes() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (pixels(png_data_uri(grey).partition(",")[2]) == grey).all()
    colour = torch.rand(3, 5, 2)
    np.testing.assert_allclose(pixels(png_data_uri(colour).partition(",")[2]) / 255, colour.permute(1, 2, 0), atol=0.002)
    with pytest.raises(InputError, match="array"):
        png_data_uri(torch.rand(2, 5, 5))
