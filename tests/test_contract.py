"""The system contract: what every built system must pass. A new system is picked up by itself."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from tutelage.catalogue import System, systems
from tutelage.claims.claim import load_claim
from tutelage.claims.runner import run_claim
from tutelage.claims.state import state_of
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError

BUILT = [s for s in systems() if state_of(s).status != "planned"]
each_system = pytest.mark.parametrize("system", BUILT, ids=lambda s: s.slug)


def test_something_is_built():
    assert BUILT


@each_system
def test_the_method_says_its_paper_and_equations(system: System):
    text = import_module(system.module).__doc__ or ""
    assert not system.arxiv or system.arxiv in text
    assert "(1)" in text
    assert "Example" in text


@each_system
def test_the_claim_fits_the_catalogue(system: System):
    claim, primary = load_claim(system.slug), system.claim
    assert claim.slug == system.slug
    assert primary.method in claim.arms
    assert primary.baseline in (*claim.arms, "")
    assert set(claim.controls) == set(primary.controls)
    assert set(claim.controls) <= set(claim.arms)
    assert {"smoke", "claim", "paper"} <= set(claim.scales)
    assert claim.units["claim"] == primary.n_units
    for sentence in claim.secondary:
        assert {sentence.method, sentence.baseline} <= {*claim.arms, ""}


@each_system
def test_the_smoke_claim_is_valid_and_twice_the_same(system: System, tmp_path: Path):
    first = run_claim(system.slug, scale="smoke", cache=Cache(tmp_path / "a"))
    second = run_claim(system.slug, scale="smoke", cache=Cache(tmp_path / "b"), seeds=1)
    assert [r.error for r in first.rows if r.status == "failed"] == []
    assert {r.arm for r in first.rows} == set(load_claim(system.slug).arms)
    again = [(r.arm, r.unit_id, r.metrics) for r in second.rows]
    assert {arm for arm, _, _ in again} == {r.arm for r in first.rows}
    assert [(r.arm, r.unit_id, r.metrics) for r in first.rows if r.unit_id == again[0][1]] == again
    assert first.claims[0].primary
    assert len({tuple(sorted(r.metrics.items())) for r in first.rows}) > 1, "every arm the same: the cells measure nothing"


@each_system
def test_an_unknown_setting_is_refused(system: System):
    with pytest.raises(InputError, match="no_such_key"):
        run_claim(system.slug, changes={"no_such_key": "1"})


@each_system
def test_the_examples_of_docs_and_docstring_run(system: System, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (root / "docs" / "systems" / f"{system.slug}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert blocks, "the page has no example"
    text = import_module(system.module).__doc__ or ""
    example = re.search(r"Example::\n\n((?:    .*\n|\n)+)", text)
    assert example, "the docstring has no `Example::` block"
    monkeypatch.chdir(tmp_path)
    for code in (blocks[0], re.sub(r"^    ", "", example[1], flags=re.M)):
        exec(compile(code, system.slug, "exec"), {})
