from __future__ import annotations

import re

import pytest

from tutelage.catalogue import ROOMS, find, search, systems


def test_there_are_sixty_four_systems_each_once():
    slugs = [s.slug for s in systems()]
    assert len(slugs) == 64
    assert len(set(slugs)) == 64


@pytest.mark.parametrize("system", systems(), ids=lambda s: s.slug)
def test_an_entry_says_what_it_is_judged_by(system):
    claim = system.claim
    assert system.room in ROOMS
    assert system.module == f"tutelage.methods.{system.room}.{system.slug.replace('-', '_')}"
    assert 2000 < system.year <= 2026
    assert system.arxiv == "" or re.fullmatch(r"\d{4}\.\d{4,5}", system.arxiv)
    assert system.authors
    assert system.have
    assert system.want
    assert claim.sentence.endswith(".")
    assert claim.falsified
    assert claim.better in ("higher", "lower")
    assert claim.n_units >= 2
    assert claim.controls, "a claim without a trivial control proves little"
    assert claim.method not in (claim.baseline, *claim.controls)
    assert all(figure.source for figure in system.headline)
    if claim.kind == "superiority":
        assert claim.margin >= 0
        assert claim.baseline
    elif claim.kind == "noninferiority":
        assert claim.margin < 0
        assert claim.baseline
    else:
        assert claim.kind == "threshold"
        assert claim.baseline == ""


def test_search_wants_every_word_and_find_names_neighbours():
    assert [s.slug for s in search("teacher clean robust b-mtard")] == ["mtard"]
    assert search("no such words here") == ()
    with pytest.raises(KeyError, match="mtard"):
        find("mtad")
