"""Auto-PGD: its checkpoints by hand, its steps against a sample-by-sample reading of the paper, and its strength."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats import APGD, L1, L2, PGD, Budget, Linf, dlr, margin
from tutelage.threats.apgd import checkpoints


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(width: int = 8, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes)).double()


def test_checkpoints_by_hand() -> None:
    # shares 0.22, then intervals of 0.22 - 0.03 = 0.19, 0.16, 0.13, 0.10, 0.07, then never below 0.06
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(10)) == [3, 5, 6, 7, 8, 9, 10]  # rounded up: 2.2, 4.1, 5.7, 7, 8, 8.7, 9.3, 9.9
    assert checkpoints(1) == {1}


def test_the_first_step_has_twice_the_length_of_eps_by_hand() -> None:
    seen: list[float] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(float(x.detach()[0, 0]))
            return torch.stack([1 - x[:, 0], x[:, 0] - 1], 1)

    # the label's logit falls as x grows: from 0.5 a step of 2 * 0.1 is cut to 0.6, the end of the budget
    APGD(Linf(0.1), steps=2, start="clean").run(Watch(), torch.tensor([[0.5]]), torch.tensor([0]), seeded())
    assert seen == pytest.approx([0.5, 0.5, 0.6, 0.6])


def one_by_one(
    f: Callable[[Tensor], Tensor], x: Tensor, project: Callable[[Tensor], Tensor], unit: Callable[[Tensor], Tensor],
    eps: float, steps: int,
) -> float:  # fmt: skip
    """The paper's algorithm for one sample, from the clean point: the best value seen."""

    def value_and_grad(z: Tensor) -> tuple[float, Tensor]:
        z = z.clone().requires_grad_()
        value = f(z)
        (grad,) = torch.autograd.grad(value, z)
        return float(value.detach()), grad

    marks = sorted(checkpoints(steps))
    points, eta = [x], 2 * eps
    value, grad = value_and_grad(x)
    best, best_x, best_grad = value, x, grad
    risen, best_then, changed_then, mark = 0, -math.inf, False, 0
    here = x
    for k in range(1, steps + 1):
        moved = project(here + eta * unit(grad))
        if k > 1:
            moved = project(here + 0.75 * (moved - here) + 0.25 * (here - points[-2]))
        points.append(moved)
        before, here = value, moved
        value, grad = value_and_grad(here)
        risen += value > before
        if value > best:
            best, best_x, best_grad = value, here, grad
        if k in marks and k < steps:
            if risen < 0.75 * (k - mark) or (not changed_then and best <= best_then):
                eta, changed_then = eta / 2, True
                here, value, grad = best_x, best, best_grad
                points.append(here)
            else:
                changed_then = False
            best_then, risen, mark = best, 0, k
    return best


@pytest.mark.parametrize("steps", [7, 30, 100])
@pytest.mark.parametrize("budget", [Linf(0.15), L2(0.3)])
def test_a_batch_climbs_as_each_sample_alone_would(budget: Budget, steps: int) -> None:
    model, x = net(), torch.rand(12, 6, dtype=torch.float64, generator=seeded())
    y = model(x).argmax(1)
    # nothing counts as a success, so that the best value is kept whatever the prediction
    attack = APGD(budget, steps=steps, start="clean", accept=lambda z, b: torch.zeros(len(z), dtype=torch.bool))
    result = attack.run(model, x, y, seeded())
    for i in range(len(x)):
        xi, yi = x[i : i + 1], y[i : i + 1]
        best = one_by_one(
            lambda z, yi=yi: nn.functional.cross_entropy(model(z), yi),
            xi,
            lambda z, xi=xi: budget.project(xi, z).clamp(0, 1),
            budget.steepest,
            float(budget.eps),
            steps,
        )
        assert float(result.loss[i]) == pytest.approx(best, rel=1e-9)


class Valley(nn.Module):
    """Two classes; wrong only within 0.004 of x = 0.5371 in the first coordinate: long steps jump over it."""

    def forward(self, x: Tensor) -> Tensor:
        gap = 0.004 - (x[:, 0] - 0.5371).abs()
        return torch.stack([-gap, gap], 1)


def test_shrinking_steps_find_what_steps_of_one_length_jump_over() -> None:
    x, y = torch.full((1, 3), 0.4), torch.tensor([0])
    fixed = PGD(Linf(0.3), steps=40, step_size=0.15, start="clean").run(Valley(), x, y, seeded())
    shrinking = APGD(Linf(0.3), steps=40, start="clean").run(Valley(), x, y, seeded())
    assert not bool(fixed.success)
    assert bool(shrinking.success)


@pytest.mark.parametrize("budget", [Linf(0.12), L2(0.25), L1(0.5)])
def test_at_least_as_strong_as_pgd_of_the_same_length(budget: Budget) -> None:
    model, x = net(32, 5), torch.rand(200, 6, dtype=torch.float64, generator=seeded(2))
    y = model(x).argmax(1)
    keep_all = {"start": "clean", "accept": lambda z, b: torch.zeros(len(z), dtype=torch.bool)}
    auto = APGD(budget, steps=50, **keep_all).run(model, x, y, seeded())
    plain = PGD(budget, steps=50, **keep_all).run(model, x, y, seeded())
    assert float(auto.loss.mean()) >= float(plain.loss.mean()) - 1e-3  # in so few dimensions both come near the best


def test_l1_comes_near_the_best_sparse_change() -> None:
    weights = torch.rand(1, 200, generator=seeded(4)) ** 2

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x @ weights.T.to(x)
            return torch.cat([200 - score, score - 200], 1)

    x = torch.full((1, 200), 0.7)
    result = APGD(L1(3.0), steps=100, objective=margin).run(Linear(), x, torch.tensor([0]), seeded())
    # the best that a sum of 3 can do is to move the 10 heaviest coordinates by 0.3 each, up to the range's end
    best = 0.3 * float(weights.sort(descending=True).values[0, :10].sum())
    assert 0.97 * best < float(((result.x_adv - x) * weights).sum()) <= best * (1 + 1e-5)
    assert float((result.x_adv - x).abs().sum()) <= 3 * (1 + 1e-5)


def test_nothing_found_in_a_wider_ball_counts() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x.sum(1) - 0.75  # wrong only 0.25 away from x = 0.5, beyond eps and within 3 eps
            return torch.stack([-score, score], 1)

    result = APGD(L1(0.2), steps=20).run(Step(), torch.tensor([[0.5]]), torch.tensor([0]), seeded())
    assert not bool(result.success)
    assert float((result.x_adv - 0.5).abs().sum()) <= 0.2 * (1 + 1e-5)


def test_objectives_and_targets() -> None:
    model, x = net(), torch.rand(40, 6, dtype=torch.float64, generator=seeded(3))
    y = model(x).argmax(1)
    for objective in (dlr, margin):
        assert bool(APGD(Linf(0.3), steps=20, objective=objective).run(model, x, y, seeded()).success.any())
    target = (y + 1) % 4
    result = APGD(Linf(0.5), steps=20, objective=dlr, targeted=True).run(model, x, y, seeded(), target=target)
    assert torch.equal(result.success, model(result.x_adv).argmax(1) == target)
    assert bool(result.success.any())


@pytest.mark.parametrize("name", ["step_size", "relative_step"])
def test_a_step_size_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got 0.1, wanted none"):
        APGD(Linf(0.1), **{name: 0.1})


def test_name() -> None:
    assert APGD(Linf(0.1), restarts=2).name == "APGD-100 x2 cross_entropy"
