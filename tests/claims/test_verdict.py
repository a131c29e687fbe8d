from __future__ import annotations

import math

import pytest

from tutelage.claims.claim import Claim, ClaimConfig, Row, Sentence
from tutelage.claims.distill.mtard import CLAIM as MTARD_CLAIM
from tutelage.claims.verdict import judge


def claim_with(*secondary: Sentence) -> Claim:
    """The primary sentence of mtard: b-mtard against single-robust-teacher in w_robust, margin 0, two controls."""
    return Claim(
        slug="mtard",
        arms=("b-mtard", "single-robust-teacher", *MTARD_CLAIM.controls),
        controls=MTARD_CLAIM.controls,
        scales={"smoke": ClaimConfig()},
        units={"smoke": 3},
        cell=lambda cell: {},
        data=lambda config: [],
        secondary=secondary,
    )


def rows_of(**arms: list[float]) -> list[Row]:
    return [
        Row(arm=arm.replace("_", "-"), unit_id=i, status="ok", metrics={"w_robust": v}, seconds=0.0)
        for arm, values in arms.items()
        for i, v in enumerate(values)
    ]


WEAK = {"hard_labels_only": [40.0, 41.0, 39.0], "pgd_at_label_smoothing": [60.0, 61.0, 59.0]}


def test_holds_when_the_interval_is_above_the_margin_and_controls_are_beaten():
    rows = rows_of(b_mtard=[72.0, 73.0, 74.0], single_robust_teacher=[70.0, 71.0, 72.5], **WEAK)
    verdict, (primary,) = judge(claim_with(), rows)
    # differences 2, 2, 1.5: mean 11/6, sd sqrt(((1/6)^2 * 2 + (1/3)^2) / 2) = 0.288675; t(.975, 2) = 4.302653
    half = 4.302653 * 0.288675 / math.sqrt(3)
    assert primary.difference == pytest.approx(11 / 6)
    assert primary.ci95 == pytest.approx((11 / 6 - half, 11 / 6 + half), abs=1e-4)
    assert verdict == primary.verdict == "holds"
    assert primary.n_units == 3


def test_does_not_hold_and_undecided():
    refuted = rows_of(b_mtard=[68.0, 69.0, 70.5], single_robust_teacher=[70.0, 71.0, 72.0], **WEAK)
    assert judge(claim_with(), refuted)[0] == "does not hold"
    open_ = rows_of(b_mtard=[68.0, 73.0, 70.5], single_robust_teacher=[70.0, 71.0, 70.0], **WEAK)
    assert judge(claim_with(), open_)[0] == "undecided"


def test_a_control_that_is_not_beaten_takes_the_verdict_away():
    method = {"b_mtard": [72.0, 73.0, 74.0], "single_robust_teacher": [70.0, 71.0, 72.5]}
    level = rows_of(**method, hard_labels_only=[72.0, 73.5, 73.0], pgd_at_label_smoothing=[60.0, 61.0, 59.0])
    assert judge(claim_with(), level)[0] == "undecided"
    better = rows_of(**method, hard_labels_only=[80.0, 81.0, 82.5], pgd_at_label_smoothing=[60.0, 61.0, 59.0])
    assert judge(claim_with(), better)[0] == "does not hold"


def test_failed_cells_make_a_result_incomplete_and_unpaired_units_do_not_count():
    rows = rows_of(b_mtard=[72.0, 73.0, 74.0], single_robust_teacher=[70.0, 71.0], **WEAK)
    rows.append(Row(arm="single-robust-teacher", unit_id=2, status="failed", error="out of luck", seconds=0.0))
    verdict, (primary,) = judge(claim_with(), rows)
    assert verdict == "incomplete"
    assert primary.n_units == 2


def test_threshold_sentences_show_the_metric_itself():
    below = Sentence("w is below 75.", "w_robust", "b-mtard", kind="threshold", better="lower", margin=75.0)
    rows = rows_of(b_mtard=[72.0, 73.0, 74.0], single_robust_teacher=[70.0, 71.0, 72.5], **WEAK)
    _, (_, threshold) = judge(claim_with(below), rows)
    assert threshold.difference == pytest.approx(73.0)  # not -73
    # sd 1: half width 4.302653 / sqrt(3) = 2.484138, so the interval [70.52, 75.48] reaches over 75
    assert threshold.ci95 == pytest.approx((73 - 2.484138, 73 + 2.484138), abs=1e-4)
    assert threshold.verdict == "undecided"


def test_a_lower_metric_can_be_the_better_one():
    lower = Sentence("b is lower.", "w_robust", "single-robust-teacher", "b-mtard", better="lower")
    rows = rows_of(b_mtard=[72.0, 73.0, 74.0], single_robust_teacher=[70.0, 71.0, 72.5], **WEAK)
    _, (_, found) = judge(claim_with(lower), rows)
    assert found.difference == pytest.approx(11 / 6)
    assert found.verdict == "holds"
