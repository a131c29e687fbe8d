"""Threats for models that only answer: what a bare budget means for them, and which attacks are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from brightness import Mean, mean_of
from tutelage.core.errors import InputError
from tutelage.models import Normalized, from_function
from tutelage.threats import FGSM, L2, PGD, Linf, Square, Suite, parse_threat
from tutelage.threats.black_box import black_box_suite, for_model
from tutelage.threats.decision import Decision


def labels_of(batch: np.ndarray) -> np.ndarray:
    return mean_of(batch).argmax(1)


SCORES = from_function(mean_of)
LABELS = from_function(labels_of, gives="labels", classes=2)


def test_a_model_with_gradients_keeps_what_was_asked() -> None:
    for suite in (Suite.standard(Linf(0.1)), Suite(Linf(0.1), (("PGD", PGD(Linf(0.1))),))):
        assert for_model(suite, Mean()) is suite


def test_a_bare_budget_becomes_the_black_box_suite() -> None:
    suite = for_model(parse_threat("l2@0.5"), SCORES)
    assert suite == black_box_suite(L2(0.5))
    assert suite.name == "l2@0.5 black-box suite"
    assert [(name, type(attack), attack.queries) for name, attack in suite.attacks] == [  # type: ignore[attr-defined]
        ("Square", Square, 5000),
        ("Decision", Decision, 1000),
    ]
    inside = for_model(parse_threat("l2@0.5"), Normalized(LABELS, [0.5], [0.5]), queries=60)
    assert [(type(attack), attack.queries) for _, attack in inside.attacks] == [(Decision, 60)]  # type: ignore[attr-defined]


def test_what_needs_no_gradients_is_left_alone() -> None:
    suite = Suite(Linf(0.1), (("Square", Square(Linf(0.1), queries=7)), ("Decision", Decision(Linf(0.1), queries=3))))
    assert for_model(suite, SCORES) is suite


@pytest.mark.parametrize("text", ["fgsm:linf@0.1", "pgd-3:linf@0.1", "apgd-3:linf@0.1", "fmn-3:linf@0.1"])
def test_a_gradient_attack_by_name_is_refused(text: str) -> None:
    wanted = (
        r"^threats: got .* on a Function, which gives no gradients, wanted black-box attacks, such as square-5000:linf@0\.1,"
    )
    with pytest.raises(InputError, match=wanted):
        for_model(parse_threat(text), SCORES)
    assert parse_threat("square-5000:linf@0.1").attacks[0][1] == Square(Linf(0.1), queries=5000)  # what it names exists


def test_one_gradient_attack_among_others_is_refused() -> None:
    suite = Suite(Linf(0.1), (("Square", Square(Linf(0.1), queries=7)), ("FGSM", FGSM(Linf(0.1)))))
    with pytest.raises(InputError, match="got FGSM on a Function"):
        for_model(suite, SCORES)


@pytest.mark.parametrize("model", [SCORES, LABELS], ids=["scores", "labels"])
def test_the_suite_breaks_what_can_be_broken_and_nothing_else(model: Any) -> None:
    """Linear in the mean: a sample breaks if and only if its mean is within eps of 0.5."""
    means = torch.tensor([0.3, 0.42, 0.46, 0.54, 0.58, 0.7])
    x = means[:, None, None, None].expand(6, 1, 4, 4).clone()
    y = (means > 0.5).long()
    eps = 0.06
    result = black_box_suite(Linf(eps), 400, labels_only=model is LABELS).run(model, x, y, torch.Generator().manual_seed(0))
    assert result.success.tolist() == [False, False, True, True, False, False]
    assert float((result.x_adv - x).abs().max()) <= eps + 1e-6
    assert result.backward == 0


def test_square_alone_is_lost_on_labels() -> None:
    """Why labels get another suite: Square sees no slope, and a start of stripes does not move the mean enough."""
    x = torch.full((8, 1, 4, 4), 0.46)
    y = torch.zeros(8, dtype=torch.long)
    budget = Linf(0.045)
    square = Square(budget, queries=60).run(LABELS, x, y, torch.Generator().manual_seed(0)).success
    suite = black_box_suite(budget, 60, labels_only=True).run(LABELS, x, y, torch.Generator().manual_seed(0)).success
    assert int(square.sum()) < int(suite.sum())
