"""The Square attack: its schedule, squares and bumps by hand, and what it reaches where the best change is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats import L1, L2, Budget, Linf, Square
from tutelage.threats.square import _bump, _windows


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Weighted(nn.Module):
    """Two classes; class 1 gains <w, x> but never wins."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        score = (x * self.weights).flatten(1).sum(1)
        return torch.stack([1000 - score, score - 1000], 1)


def test_squares_shrink_by_the_published_schedule() -> None:
    attack = Square(Linf(0.1), queries=10_000, p=0.8)
    for query, halvings in ((1, 0), (10, 0), (11, 1), (51, 2), (201, 3), (501, 4), (1001, 5), (2001, 6), (4001, 7), (8001, 9)):
        assert attack._share(query) == 0.8 / 2**halvings
    assert Square(Linf(0.1), queries=1000)._share(4) == 0.4  # a tenth of the queries: the same schedule, ten times faster


def test_windows_by_hand() -> None:
    # 2 x 2 windows in a 3 x 4 image; corners at the first and the last possible place
    places = _windows(torch.tensor([0.0, 0.999]), torch.tensor([0.0, 0.999]), 2, 2, 3, 4)
    assert places[:, 0].tolist() == [[0, 1, 4, 5], [6, 7, 10, 11]]


def test_bump_by_hand() -> None:
    # two hills: rows 0-1 up, rows 2-4 down. Middle of the lower one at its row 1, column 2, distances 1 and 2 beside it;
    # reach is 3, so heights are 1 + 1/4 + 1/9, 1/4 + 1/9, 1/9
    a, b, c = 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9
    lower = [[-c, -b, -b, -b, -c], [-c, -b, -a, -b, -c], [-c, -b, -b, -b, -c]]
    torch.testing.assert_close(_bump(5, 5)[2:], torch.tensor(lower))
    torch.testing.assert_close(_bump(5, 5)[1], torch.tensor([c, b, a, b, c]))
    assert _bump(1, 4).shape == (1, 4)


def test_linf_pixels_are_at_an_end_of_their_range() -> None:
    model = Weighted(torch.randn(1, 3, 6, 6, generator=seeded()))
    x = torch.rand(2, 3, 6, 6, generator=seeded(1))
    Square(Linf(0.1), queries=40).run(model, x, torch.zeros(2, dtype=torch.long), seeded())
    for x_adv in model.seen[1:]:
        ends = torch.stack([(x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1)])
        assert bool(torch.isclose(x_adv, ends, atol=1e-6).any(0).all())


@pytest.mark.parametrize(("budget", "norm"), [(L2(0.7), 2), (L1(3.0), 1)])
def test_changes_keep_their_length(budget: Budget, norm: int) -> None:
    model = Weighted(torch.randn(1, 2, 8, 8, generator=seeded()))
    x = torch.full((3, 2, 8, 8), 0.5)
    Square(budget, queries=60, bounds=None).run(model, x, torch.zeros(3, dtype=torch.long), seeded())
    for x_adv in model.seen[1:]:
        torch.testing.assert_close((x_adv - x).flatten(1).norm(norm, dim=1), torch.full((3,), float(budget.eps)))


def test_one_query_changes_one_square() -> None:
    model = Weighted(torch.zeros(1, 1, 10, 10))  # nothing is ever better, so every query starts from the first point
    x = torch.full((1, 1, 10, 10), 0.5)
    Square(Linf(0.1), queries=30, p=0.04).run(model, x, torch.zeros(1, dtype=torch.long), seeded())
    first = model.seen[1]
    for x_adv in model.seen[2:]:
        rows, columns = (x_adv != first)[0, 0].nonzero(as_tuple=True)
        if len(rows):
            assert int(rows.max() - rows.min()) < 2  # sqrt(0.04 * 100) = 2
            assert int(columns.max() - columns.min()) < 2


def test_linf_comes_near_the_best_change() -> None:
    weights = torch.randn(1, 1, 8, 8, generator=seeded(5))
    x = torch.full((4, 1, 8, 8), 0.5)
    result = Square(Linf(0.1), queries=2000).run(Weighted(weights), x, torch.zeros(4, dtype=torch.long), seeded())
    reached = ((result.x_adv - x) * weights).flatten(1).sum(1)
    assert bool((reached > 0.85 * 0.1 * weights.abs().sum()).all())  # the best is eps |w|_1


@pytest.mark.parametrize(("budget", "dual"), [(L2(0.7), 2), (L1(1.0), float("inf"))])
def test_l2_and_l1_beat_a_random_direction_by_far(budget: Budget, dual: float) -> None:
    weights = nn.functional.avg_pool2d(torch.randn(1, 1, 24, 24, generator=seeded(6)), 8, 1)
    weights = nn.functional.interpolate(weights, 8)  # smooth, as images' gradients are
    x = torch.full((4, 1, 8, 8), 0.5)
    result = Square(budget, queries=1500).run(Weighted(weights), x, torch.zeros(4, dtype=torch.long), seeded())
    reached = ((result.x_adv - x) * weights).flatten(1).sum(1)
    best = float(budget.eps) * float(weights.flatten().norm(dual))
    assert bool((reached > 0.3 * best).all())
    assert bool((reached <= best * (1 + 1e-5)).all())


def test_retired_neighbours_do_not_change_a_sample() -> None:
    weights = torch.randn(1, 1, 6, 6, generator=seeded(7))

    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = ((x - 0.5) * weights).flatten(1).sum(1) + x[:, 0, 0, 0] * 0
            return torch.stack([1.2 - score, score - 1.2], 1)

    x = torch.full((12, 1, 6, 6), 0.5)
    y = torch.zeros(12, dtype=torch.long)
    together = Square(Linf(0.1), queries=150).run(Far(), x, y, seeded())
    kept = Square(Linf(0.1), queries=150, retire=False).run(Far(), x, y, seeded())
    assert torch.equal(together.success, kept.success)
    assert int(together.success.sum()) > 0
    assert together.forward < kept.forward


@pytest.mark.parametrize(("changes", "argument"), [({"queries": 0}, "queries"), ({"p": 0.0}, "p"), ({"p": 1.5}, "p")])
def test_bad_settings(changes: dict[str, float], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        Square(Linf(0.1), **changes)
