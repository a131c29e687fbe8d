"""Accuracy by class: hand-made tables, ties, and the choice of the tail."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tutelage.auditing.per_class import class_accuracy, per_class_report, tail_accuracy, weakest_classes
from tutelage.core.errors import InputError
from tutelage.core.stats import wilson

# class 0: 3 of 4 right, class 1: 0 of 1, class 2: 1 of 2, class 3: 2 of 2
Y = torch.tensor([0, 0, 0, 0, 1, 2, 2, 3, 3])
RIGHT = torch.tensor([1, 1, 1, 0, 0, 1, 0, 1, 1], dtype=torch.bool)


def test_by_hand() -> None:
    assert class_accuracy(RIGHT, Y).tolist() == [0.75, 0.0, 0.5, 1.0]
    assert class_accuracy(RIGHT, Y, 5)[4].isnan()
    assert weakest_classes(RIGHT, Y, 0.5).tolist() == [1, 2]
    assert tail_accuracy(RIGHT, Y, 0.5) == pytest.approx(0.25)
    assert tail_accuracy(RIGHT, Y, 0.3) == pytest.approx(0.25)  # 1.2 classes are two
    assert tail_accuracy(RIGHT, Y, 0.25) == 0


def test_invariant_7_the_whole_tail_is_the_macro_accuracy() -> None:
    assert tail_accuracy(RIGHT, Y, 1.0) == pytest.approx((0.75 + 0 + 0.5 + 1) / 4)
    assert tail_accuracy(RIGHT, Y, 1.0) != pytest.approx(float(RIGHT.double().mean()))  # not that over samples


def test_thirty_per_cent_of_ten_classes_are_three() -> None:
    y = torch.arange(10).repeat(10)
    right = (torch.arange(100) // 10) < y  # class c is right c times
    assert weakest_classes(right, y).tolist() == [0, 1, 2]
    assert tail_accuracy(right, y) == pytest.approx(0.1)


def test_classes_chosen_elsewhere_are_judged_here() -> None:
    assert tail_accuracy(RIGHT, Y, chosen=torch.tensor([3, 0])) == pytest.approx(0.875)
    assert tail_accuracy(RIGHT, Y, chosen=weakest_classes(~RIGHT, Y, 0.25)) == 1  # weakest there, strongest here


def test_the_choice_on_the_same_data_is_too_low_where_all_classes_are_equally_hard() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat(30)

    def drawn() -> Tensor:
        return torch.rand(300, generator=rng) < 0.6

    same, other = [], []
    for _ in range(100):
        a, b = drawn(), drawn()
        same.append(tail_accuracy(b, y))
        other.append(tail_accuracy(b, y, chosen=weakest_classes(a, y)))
    assert sum(other) / 100 == pytest.approx(0.6, abs=0.02)
    assert sum(same) / 100 < 0.55


def test_ties_go_to_the_first_class() -> None:
    assert weakest_classes(torch.ones(6, dtype=torch.bool), torch.tensor([2, 1, 0, 5, 5, 1]), 0.5).tolist() == [0, 1]


def test_the_report_by_hand() -> None:
    clean = torch.ones(9, dtype=torch.bool)
    clean[0] = False
    report = per_class_report(clean, RIGHT & clean, Y, ["a", "b", "c", "d", "never"])
    assert [(row.name, row.n, row.clean, row.robust) for row in report.rows] == [
        ("a", 4, 0.75, 0.5),
        ("b", 1, 1.0, 0.0),
        ("c", 2, 1.0, 0.5),
        ("d", 2, 1.0, 1.0),
    ]
    assert report.disparity_clean == pytest.approx(0.25)
    assert report.disparity_robust == 1
    assert report.worst.name == "b"
    assert report.rows[0].robust_ci == wilson(2, 4)
    assert "75.0" in str(report)
    assert str(report).count("\n") == 5


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: class_accuracy(RIGHT.float(), Y), "correct"),
        (lambda: class_accuracy(RIGHT[:3], Y), "y"),
        (lambda: class_accuracy(RIGHT, Y, 3), "y"),
        (lambda: weakest_classes(RIGHT, Y, 0), "frac"),
        (lambda: tail_accuracy(RIGHT, Y, 1.5), "frac"),
        (lambda: tail_accuracy(RIGHT, Y, chosen=torch.tensor([7])), "chosen"),
        (lambda: tail_accuracy(RIGHT, Y, chosen=torch.tensor([], dtype=torch.long)), "chosen"),
        (lambda: per_class_report(RIGHT, RIGHT, Y, ["a", "b"]), "y"),
    ],
)
def test_wrong_arguments_are_refused(call, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got"):
        call()
