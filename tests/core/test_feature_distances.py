"""Distances between clouds of features: numbers by hand, and what must hold for any cloud."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.errors import InputError
from tutelage.core.feature_distances import frechet_distance, kernel_distance, precision_recall
from tutelage.core.rng import generator


def test_the_frechet_distance_by_hand():
    # one dimension: means 0 and 3, variances 2 and 8: 9 + 2 + 8 - 2 sqrt(16) = 11
    a, b = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [5.0]])
    assert frechet_distance(a, b) == pytest.approx(11.0)
    # two dimensions apart from each other: distances add up
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # variances 4/3
    assert frechet_distance(square, 2 * square + torch.tensor([1.0, 0.0])) == pytest.approx(1 + 2 * 4 / 3)


def test_the_frechet_distance_of_a_cloud_to_itself_is_0_it_is_symmetric_and_ignores_turns():
    g = generator(0)
    a, b = torch.randn(50, 4, generator=g), torch.randn(60, 4, generator=g) @ torch.randn(4, 4, generator=g) + 1
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=g).double())
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a.double() @ turn, b.double() @ turn) == pytest.approx(frechet_distance(a, b))


def test_fewer_rows_than_features_still_give_a_number():
    a = torch.randn(5, 20, generator=generator(1))
    assert frechet_distance(a, a + 1) == pytest.approx(20.0, rel=1e-6)


def test_the_kernel_distance_by_hand_and_unbiased():
    # one feature: k(x, y) = (xy + 1)^3; a = {0, 1}, b = {1, 2}
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    own = 1.0 + (1 * 2 + 1) ** 3  # k(0, 1), k(1, 2): means over the pairs that are not the same point
    across = ((0 + 1) ** 3 + (0 + 1) ** 3 + (1 + 1) ** 3 + (2 + 1) ** 3) / 4
    assert kernel_distance(a, b) == pytest.approx(own - 2 * across)
    g = generator(2)
    same = [kernel_distance(torch.randn(40, 3, generator=g), torch.randn(40, 3, generator=g)) for _ in range(60)]
    assert min(same) < 0  # unbiased: of equal distributions it falls on both sides of 0
    assert abs(sum(same) / 60) < 0.2


def test_precision_and_recall_tell_a_lost_mode_from_an_invented_one():
    g = generator(3)
    left, right = torch.randn(40, 2, generator=g), torch.randn(40, 2, generator=g) + 30
    both = torch.cat([left, right])
    lost = precision_recall(both, left + 0.01)
    assert lost.precision > 0.9
    assert 0.4 < lost.recall < 0.6
    invented = precision_recall(left, both)
    assert 0.4 < invented.precision < 0.6
    assert invented.recall == 1.0


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        (torch.zeros(1, 2), torch.zeros(4, 2), "a"),
        (torch.zeros(4), torch.zeros(4, 2), "a"),
        (torch.zeros(4, 2), torch.zeros(4, 3), "b"),
        (torch.zeros(4, 2), torch.full((4, 2), float("nan")), "NaN"),
    ],
)
def test_bad_features_are_named(a: torch.Tensor, b: torch.Tensor, named: str):
    for distance in (frechet_distance, kernel_distance, precision_recall):
        with pytest.raises(InputError, match=named):
            distance(a, b)
