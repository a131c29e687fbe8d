"""Recorded results: whole, and their verdicts follow from their rows."""

from __future__ import annotations

import pytest

from tutelage.claims.claim import ClaimResult, load_claim
from tutelage.claims.runner import results_folder
from tutelage.claims.verdict import judge

RESULTS = sorted(results_folder().glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_recorded_verdict_follows_from_its_rows(path):
    result = ClaimResult.model_validate_json(path.read_text())
    claim = load_claim(result.slug)
    verdict, sentences = judge(claim, result.rows)
    assert result.slug == path.stem
    assert result.scale == "claim"
    assert not result.dirty
    assert {(r.arm, r.unit_id) for r in result.rows} == {(a, u) for a in claim.arms for u in range(claim.units["claim"])}
    assert verdict == result.verdict
    for found, stored in zip(sentences, result.claims, strict=True):
        assert found.sentence == stored.sentence
        assert found.verdict == stored.verdict
        assert found.difference == pytest.approx(stored.difference, abs=1e-9)
        assert found.ci95 == pytest.approx(stored.ci95, abs=1e-9)
