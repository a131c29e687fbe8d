"""The page of a claim and its two figures, from rows made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tutelage.claims.claim import Claim, ClaimResult, Row, Sentence
from tutelage.claims.distill.mtard import CLAIM
from tutelage.claims.figures import differences_figure, tradeoff_figure
from tutelage.claims.report import write_claim_report
from tutelage.claims.verdict import judge
from tutelage.core.errors import InputError
from tutelage.core.stats import mean_t, paired_t

EVIL = "<script>alert('1')</script>&$x^"
UNITS = 4
METHOD, BASELINE = "b-mtard", "single-robust-teacher"


def rows(gain: float, *, control: float = 50.0, noise: float = 0.1, claim: Claim = CLAIM) -> list[Row]:
    """Every cell: the method is `gain` better than the baseline; `control` is what the trivial arms reach."""
    made = []
    for i, arm in enumerate(claim.arms):
        for unit in range(UNITS):
            clean = control if arm in claim.controls else 70.0 + i / 10 + (2 * gain if arm == METHOD else 0)
            clean += noise * ((unit * 7 + i * 3) % 5)
            robust = 60.0 - i / 10 if arm not in claim.controls else control
            metrics = {"clean": clean, "robust": robust, "w_robust": (clean + robust) / 2}
            if arm in (METHOD, "mtard"):
                metrics["entropy_gap"] = 0.02 + 0.001 * unit
            made.append(Row(arm=arm, unit_id=unit, status="ok", metrics=metrics, seconds=1.5))
    return made


def result_of(made: list[Row], claim: Claim = CLAIM, **changes: Any) -> ClaimResult:
    verdict, judged = judge(claim, made)
    fields: dict[str, Any] = {
        "slug": claim.slug,
        "scale": "claim",
        "verdict": verdict,
        "claims": judged,
        "rows": made,
        "controls": list(claim.controls),
        "data": [{"name": "a set", "kind": "file", "split": "test", "n": 100, "sha256": "d" * 64}],
        "config": claim.scales["claim"].model_dump(),
        "environment": {"python": "3.11", "threads": 1, "packages": {"torch": "2.6"}},
        "commit": "c" * 40,
        "dirty": False,
        "code_sha256": "e" * 64,
        "started": "2025-01-01T00:00:00+0000",
        "seconds": 4000.0,
    }
    return ClaimResult(**{**fields, **changes})


class Page(HTMLParser):
    """The text of a page; complains about tags that are not closed and about anything that would be loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.figures = 0
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.figures += tag == "svg"
        targets = [value or "" for key, value in attrs if key in ("src", "href")]
        allowed = ("#", "https://arxiv.org/abs/") if tag == "a" else ("#",)
        assert all(target.startswith(allowed) for target in targets)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
            if self.open[-1] == "h1":
                self.headings.append(data)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Page]:
    def run(result: ClaimResult, claim: Claim = CLAIM) -> Page:
        return Page(write_claim_report(tmp_path / "report.html", claim, result))

    return run


@pytest.mark.parametrize(
    ("gain", "noise", "verdict", "words"),
    [
        (3.0, 0.1, "holds", "lies above the margin, and the method beats every control"),
        (-3.0, 0.1, "does not hold", "lies below the margin"),
        (0.0, 4.0, "undecided", "contains the margin"),
    ],
)
def test_the_verdict_comes_first_in_words(
    write: Callable[..., Page], gain: float, noise: float, verdict: str, words: str
) -> None:
    result = result_of(rows(gain, noise=noise))
    assert result.verdict == verdict
    page = write(result)
    before, _, _ = page.text.partition("Pictures")
    assert f"Verdict: {verdict}" in before
    assert words in before
    assert page.headings == [f"{CLAIM.system.name}: {verdict}"]
    assert CLAIM.sentences[0].sentence in before
    assert page.figures == 2


def test_a_control_that_is_not_beaten_is_named(write: Callable[..., Page]) -> None:
    result = result_of(rows(3.0, control=90.0))
    assert result.verdict == "does not hold"
    page = write(result)
    assert "is worse than a trivial control" in page.text
    assert all(control in page.text.partition("Pictures")[0] for control in CLAIM.controls)


def test_the_numbers_are_those_of_the_result(write: Callable[..., Page]) -> None:
    result = result_of(rows(3.0))
    page = write(result)
    primary = result.claims[0]
    low, high = primary.ci95
    assert f"{primary.difference:+.2f} [{low:+.2f}, {high:+.2f}] percentage points (95 % interval, paired-t)" in page.text
    for one in result.claims:
        assert one.sentence in page.text
        assert f"{one.difference:{'+' if one.kind != 'threshold' else ''}.2f}"[:5] in page.text
    for arm in result.arms:
        mean, interval = mean_t(list(result.values(arm, "clean").values()))
        assert f"{mean:.2f} [{interval.lo:.2f}, {interval.hi:.2f}]" in page.text
    own, other = (list(result.values(arm, "w_robust").values()) for arm in (METHOD, CLAIM.controls[0]))
    pair = paired_t(own, other)
    assert f"{pair.difference:+.2f} [{pair.interval.lo:+.2f}, {pair.interval.hi:+.2f}]" in page.text
    for said in ("d" * 64, "c" * 40, "e" * 64, "seed, each with its own teachers", "1 h 7 min", "torch 2.6"):
        assert said in page.text
    assert page.text.count("control") >= len(CLAIM.controls)


def test_failed_and_missing_cells_are_shown_with_their_reasons(write: Callable[..., Page]) -> None:
    made = rows(3.0)
    for i in (0, 5):
        made[i] = Row(arm=made[i].arm, unit_id=made[i].unit_id, status="failed", error=f"NotFinite: step {i}", seconds=0.5)
    page = write(result_of(made))
    assert page.headings == [f"{CLAIM.system.name}: incomplete"]
    assert f"2 of {len(made)} cells failed" in page.text
    assert "On the cells that are there the primary sentence holds." in page.text
    for i in (0, 5):
        assert page.text.count(f"NotFinite: step {i}") == 2  # above, and in the table


def test_a_result_without_any_success_is_still_a_page(write: Callable[..., Page]) -> None:
    made = [Row(arm=a, unit_id=u, status="failed", error="boom", seconds=0.1) for a in CLAIM.arms for u in range(2)]
    page = write(result_of(made))
    assert "could not be judged" in page.text
    assert "All of them are listed under Arms." in page.text
    assert page.text.count("not judged") >= len(CLAIM.sentences)
    assert page.figures == 0


def test_one_unit_draws_points_without_intervals(write: Callable[..., Page]) -> None:
    page = write(result_of([row for row in rows(1.0) if row.unit_id == 0], scale="smoke", dirty=True))
    assert page.figures == 1
    assert "(one unit)" in page.text
    assert "Smoke scale shows that the code runs" in page.text
    assert "Uncommitted code" in page.text


def test_how_to_run_it_again_names_what_was_changed(write: Callable[..., Page]) -> None:
    result = result_of(rows(3.0))
    settings = {**result.config, "epochs": 4, "student": "my nets:small"}
    page = write(result.model_copy(update={"config": settings, "data": [{"name": "a world", "kind": "generated"}]}))
    command = page.text.partition("tutelage run mtard --scale claim ")[2].partition(" Finished")[0]
    assert command == f"--seeds {UNITS} --set 'student=my nets:small' --set epochs=4"
    assert "Changed settings" in page.text
    usual = write(result_of(rows(3.0)[: -len(CLAIM.controls)])).text
    assert "tutelage run mtard --scale claim" in usual


def test_generated_data_are_told_apart_from_real_ones(write: Callable[..., Page]) -> None:
    result = result_of(rows(3.0))
    real, world = {"name": "digits", "kind": "file"}, {"name": "a world", "kind": "generated"}

    def page(*data: dict[str, str]) -> str:
        return write(result.model_copy(update={"data": list(data)})).text

    assert "Generated data" not in page(real)
    assert "Measured on generated data, not on a real set." in page(world)
    both = page(real, world)
    assert "generated ones: a world." in both
    assert "not on a real set" not in both


def test_every_string_is_escaped(write: Callable[..., Page]) -> None:
    arm = f"arm {EVIL}"
    claim = replace(
        CLAIM,
        arms=(*CLAIM.arms, arm),
        secondary=(Sentence(f"Sentence {EVIL}", "clean", arm, BASELINE),),
        metric_labels={"clean": f"clean {EVIL}, %", "robust": "robust, %", EVIL: EVIL},
    )
    made = rows(1.0, claim=claim)
    made[-1] = Row(arm=arm, unit_id=9, status="failed", error=f"Error: {EVIL}", seconds=1.0)
    changes = {
        "data": [{"name": EVIL, "kind": EVIL, "path": EVIL}],
        "config": {**result_of(made, claim).config, "student": EVIL, EVIL: EVIL},
        "environment": {"device": EVIL, EVIL: {EVIL: EVIL}},
        "commit": EVIL,
    }
    page = write(result_of(made, claim, **changes), claim)
    assert "<script" not in page.source
    for shown in (arm, f"Sentence {EVIL}", f"clean {EVIL}", f"Error: {EVIL}"):
        assert shown in page.text


def test_the_tradeoff_names_every_arm_once() -> None:
    result = result_of(rows(1.0, control=20.0))
    figure = tradeoff_figure(CLAIM, result)
    assert len(figure.axes) == 2  # the controls are far away: a part, and an overview
    names = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sorted(name for name in names if name in CLAIM.arms) == sorted(CLAIM.arms)
    sweep = [arm for arm in CLAIM.arms if arm.startswith("fixed-weights-")]
    wanted = [pytest.approx(mean_t(list(result.values(arm, "clean").values()))[0]) for arm in sweep]
    assert any(list(line.get_xdata()) == wanted for line in figure.axes[0].lines)
    near = [row for row in result.rows if row.arm not in CLAIM.controls]
    assert len(tradeoff_figure(CLAIM, result_of(near)).axes) == 1


def test_the_forest_has_every_sentence_with_its_verdict() -> None:
    result = result_of(rows(3.0))
    figure = differences_figure(CLAIM, result)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(words) == 2 * len(result.claims)
    for number, one in enumerate(result.claims, 1):
        assert any(word.startswith(f"{number}  {one.method}") for word in words)
    assert sorted(w for w in words if not w[0].isdigit()) == sorted(one.verdict for one in result.claims)
    drawn = [tuple(line.get_xdata()) for axes in figure.axes for line in axes.lines]
    assert all(one.ci95 in drawn for one in result.claims)


def test_figures_say_what_they_lack() -> None:
    result = result_of(rows(1.0))
    with pytest.raises(InputError, match="axes"):
        tradeoff_figure(replace(CLAIM, axes=None), result)
    with pytest.raises(InputError, match="no cell"):
        tradeoff_figure(replace(CLAIM, axes=("clean", "nothing")), result)
    with pytest.raises(InputError, match="no judged sentence"):
        differences_figure(CLAIM, result.model_copy(update={"claims": []}))


def test_a_claim_without_axes_has_one_figure(write: Callable[..., Page]) -> None:
    page = write(result_of(rows(1.0)), replace(CLAIM, axes=None))
    assert page.figures == 1
    assert unescape(page.source).count(CLAIM.system.paper_url) == 2
    assert re.search(r"Headline figures of the paper", page.text)
