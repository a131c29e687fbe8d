"""Targets in the order of their distance: by hand on linear models, and where an untargeted search goes astray."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats import APGD, L1, L2, AttackBatch, AttackResult, Budget, Linf, TargetedAPGD, margin
from tutelage.threats.targeted import gap, leaves_its_label


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Corner(nn.Module):
    """z = (0, 4 x_1 - 2, 3 x_2 + 3 x_1 - 2.5, -5), label 0 near the origin."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([a * 0, 4 * a - 2, 3 * a + 3 * b - 2.5, b * 0 - 5], 1)


@pytest.mark.parametrize(
    ("budget", "nearest"),
    [
        # at the origin the differences to classes 1 and 2 are 2 and 2.5, their gradients (4, 0) and (3, 3)
        (Linf(0.1), [2, 1]),  # 2 / 4 = 0.5 against 2.5 / 6 = 0.417
        (L2(0.1), [1, 2]),  # 2 / 4 = 0.5 against 2.5 / 4.243 = 0.589
        (L1(0.1), [1, 2]),  # 2 / 4 = 0.5 against 2.5 / 3 = 0.833
    ],
)
def test_order_by_hand(budget: Budget, nearest: list[int]) -> None:
    x, y = torch.zeros(1, 2), torch.tensor([0])
    found = AttackResult(x, torch.tensor([False]), torch.zeros(1), 0, 0)
    attack = TargetedAPGD(budget, targets=2, candidates=3)
    assert attack._nearest(Corner(), AttackBatch(x, y), found).tolist() == [nearest]
    assert (found.forward, found.backward) == (1, 3)


def test_gap_by_hand() -> None:
    z = torch.tensor([[1.0, 4.0, 2.0]])
    batch = AttackBatch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([2]))
    assert gap(z, batch).tolist() == [1.0]  # 2 - 1
    assert gap(z, AttackBatch(batch.x, batch.y)).tolist() == [3.0]  # the margin
    assert leaves_its_label(z, batch).tolist() == [True]  # class 1 is not the target, but it is wrong


class Trap(nn.Module):
    """Class 1 is next at the start but out of reach; class 2 is reached by going the other way."""

    def forward(self, x: Tensor) -> Tensor:
        a = x[:, 0] - 0.5
        return torch.stack([a * 0, 2 * a - 0.5, -20 * a - 1.5], 1)


def test_a_class_that_is_near_is_found_beside_one_that_is_next() -> None:
    x, y = torch.full((1, 1), 0.5), torch.tensor([0])
    untargeted = APGD(Linf(0.1), steps=50, start="clean", objective=margin).run(Trap(), x, y, seeded())
    targeted = TargetedAPGD(Linf(0.1), steps=5, targets=1, candidates=2, start="clean").run(Trap(), x, y, seeded())
    assert not bool(untargeted.success)  # uphill is towards class 1, 0.25 away; class 2 is 0.075 away
    assert bool(targeted.success)
    assert float(targeted.x_adv) < 0.5


@pytest.mark.parametrize("budget", [Linf(0.1), L2(0.25)])
def test_all_targets_break_at_least_as_many_as_one_search(budget: Budget) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 6)).double()
    x = torch.rand(200, 8, dtype=torch.float64, generator=seeded(3))
    y = model(x).argmax(1)
    one = APGD(budget, steps=50, objective=margin).run(model, x, y, seeded())
    all_targets = TargetedAPGD(budget, steps=50, targets=5).run(model, x, y, seeded())
    assert int(all_targets.success.sum()) >= int(one.success.sum())
    # what is kept of the unbroken is their margin, not the gap to the last target
    z = model(all_targets.x_adv)
    torch.testing.assert_close(all_targets.loss, margin(z, AttackBatch(x, y)).detach())


def test_few_classes() -> None:
    model = nn.Linear(4, 2)
    x = torch.rand(5, 4, generator=seeded())
    result = TargetedAPGD(Linf(0.5), steps=10).run(model, x, model(x).argmax(1), seeded())
    assert result.backward <= 5 * (1 + 10)  # one other class: one gradient for the order, one ascent


@pytest.mark.parametrize(
    ("changes", "argument"), [({"targets": 0}, "targets"), ({"candidates": 3}, "candidates"), ({"targeted": True}, "targeted")]
)
def test_bad_settings(changes: dict[str, int], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        TargetedAPGD(Linf(0.1), **changes)
