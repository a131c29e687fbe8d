"""Attacks by surrogates: momentum by hand, several surrogates, and a target that is asked and never differentiated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats import APGD, L1, L2, PGD, AttackBatch, Budget, Linf, Suite
from tutelage.threats.transfer import MeanLogits, Transfer, _diverse


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Threshold(nn.Module):
    """Class 1 from `at` on: logits (0, 10 (x - at)) of x (B, 1)."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), 10 * (x - self.at)], 1)


class Answers(Threshold):
    """A target that refuses to be differentiated, and counts what it is asked."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked += len(x)
        return super().forward(x)


def second_logit(logits: Tensor, batch: AttackBatch) -> Tensor:
    return logits[:, 1]


ZERO = torch.tensor([0])


class Peak(nn.Module):
    """Logits (1, -|x - 0.52|): the second, never the larger, is highest at 0.52."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x), -(x - 0.52).abs()], 1)


@pytest.mark.parametrize(
    ("momentum", "ends"), [(0.0, [0.53, 0.50, 0.53]), (1.0, [0.53, 0.53, 0.50]), (0.5, [0.53, 0.50, 0.53])]
)
def test_momentum_by_hand(momentum: float, ends: list[float]) -> None:
    # gradients of one coordinate have L1 size 1, the slope is +1 below 0.52 and -1 above. With mu = 1: g = 1, then 1 - 1 = 0,
    # which goes nowhere, then 0 - 1; with mu = 1/2: 1, 1/2 - 1 < 0, -1/4 + 1 > 0
    for steps, end in enumerate(ends, start=1):
        attack = Transfer(Linf(0.1), Peak(), steps, 0.03, momentum=momentum, objective=second_logit, retire=False)
        # the target keeps the strongest point that it is shown, so it gets a monotone one, climbing either way
        for sign in (1.0, -1.0):

            class Slope(nn.Module):
                def forward(self, x: Tensor, sign: float = sign) -> Tensor:
                    return torch.cat([torch.full_like(x, 9.0), sign * x], 1)

            result = attack.run(Slope(), torch.tensor([[0.5]]), ZERO, seeded())
            better = sign * end > sign * 0.5
            assert float(result.x_adv) == pytest.approx(end if better else 0.5)


def test_the_search_goes_on_beyond_the_border_of_the_surrogate() -> None:
    # the surrogate breaks at 0.3, the target at 0.5; from 0.25 the budget reaches 0.65
    x = torch.tensor([[0.25]])
    result = Transfer(Linf(0.4), Threshold(0.3)).run(Answers(0.5), x, ZERO, seeded())
    assert bool(result.success)
    assert float(result.x_adv) == pytest.approx(0.65)
    assert not bool(Transfer(Linf(0.2), Threshold(0.3)).run(Answers(0.5), x, ZERO, seeded()).success)


def test_the_target_is_asked_and_never_differentiated() -> None:
    x, y = torch.tensor([[0.1], [0.2], [0.45], [0.9]]), torch.zeros(4, dtype=torch.long)
    target = Answers(0.5)
    attack = Transfer(Linf(0.1), Threshold(0.3), steps=6, looks=2, restarts=2, retire=False)
    result = attack.run(target, x, y, seeded())
    assert result.success.tolist() == [False, False, True, True]
    # one clean pass, then two looks a search
    assert result.forward == target.asked == 4 + 4 * 2 * 2
    assert result.backward == 0
    assert result.surrogate_forward == result.surrogate_backward == 4 * 6 * 2


def test_looks_end_the_search_sooner() -> None:
    # steps of 0.05 from 0.4: at 0.55, after three of ten, the target is broken
    x, attack = torch.tensor([[0.4]]), Transfer(Linf(0.5), Threshold(0.3), 10, 0.05, looks=10)
    result = attack.run(Answers(0.5), x, ZERO, seeded())
    assert float(result.x_adv) == pytest.approx(0.55)
    assert (result.forward, result.surrogate_backward) == (1 + 3, 3)
    once = Transfer(Linf(0.5), Threshold(0.3), 10, 0.05).run(Answers(0.5), x, ZERO, seeded())
    assert float(once.x_adv) == pytest.approx(0.9)
    assert (once.forward, once.surrogate_backward) == (1 + 1, 10)


def test_mean_logits_by_hand() -> None:
    mean = MeanLogits([Threshold(0.2), Threshold(0.4)])
    torch.testing.assert_close(mean(torch.tensor([[0.5]])), torch.tensor([[0.0, 2.0]]))  # of 3 and 1
    with pytest.raises(InputError, match=r"^models: got"):
        MeanLogits([])
    with pytest.raises(InputError, match=r"^models: got logits of shapes"):
        MeanLogits([Threshold(0.2), nn.Linear(1, 3)])(torch.tensor([[0.5]]))


def correlated(n: int) -> tuple[nn.Module, list[nn.Module]]:
    """A linear target, and surrogates whose weights are the target's plus as much noise again."""
    source = seeded(8)
    weights = torch.randn(3, 50, generator=source)
    models = []
    for noise in (0.0, *[1.5] * n):
        model = nn.Linear(50, 3, bias=False)
        model.weight = nn.Parameter(weights + noise * torch.randn(3, 50, generator=source))
        models.append(model)
    return models[0], models[1:]


@pytest.mark.parametrize("budget", [Linf(0.1), L2(0.8), L1(6.0)])
def test_several_surrogates_transfer_better_than_one_and_one_better_than_noise(budget: Budget) -> None:
    target, surrogates = correlated(8)
    x = torch.rand(200, 50, generator=seeded(1))
    y = target(x).argmax(1)

    def share(attack: Any) -> float:
        return float(attack.run(target, x, y, seeded()).success.double().mean())

    noise = float((target((x + budget.sample(x, seeded())).clamp(0, 1)).argmax(1) != y).double().mean())
    one, eight, white = (
        share(Transfer(budget, surrogates[0])),
        share(Transfer(budget, MeanLogits(surrogates))),
        share(APGD(budget, 50)),
    )
    assert noise + 0.05 < one
    assert one + 0.05 < eight <= white + 0.03


def test_surrogates_come_back_as_they_were() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        surrogate = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        target = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    surrogate[1].weight.requires_grad_(False)
    surrogate[2].eval()
    state = {key: value.clone() for key, value in surrogate.state_dict().items()}
    modes = [module.training for module in surrogate.modules()]
    x = torch.rand(6, 1, 4, 4, generator=seeded())
    world = torch.get_rng_state()
    Transfer(Linf(0.1), surrogate, diversity=0.5).run(target, x, target(x).argmax(1), seeded())
    assert all(torch.equal(value, state[key]) for key, value in surrogate.state_dict().items())
    assert [module.training for module in surrogate.modules()] == modes
    assert [p.requires_grad for p in surrogate.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in surrogate.parameters())
    assert torch.equal(torch.get_rng_state(), world)
    # in evaluation mode: the same search as with dropout switched off beforehand
    once = Transfer(Linf(0.1), surrogate).run(target, x, target(x).argmax(1), seeded())
    again = Transfer(Linf(0.1), surrogate.eval()).run(target, x, target(x).argmax(1), seeded())
    assert torch.equal(once.x_adv, again.x_adv)


def test_with_the_target_as_its_own_surrogate_it_is_a_white_box_attack() -> None:
    target, _ = correlated(0)
    x = torch.rand(100, 50, generator=seeded(1))
    y = target(x).argmax(1)
    own = Transfer(Linf(0.05), target, momentum=0.0).run(target, x, y, seeded())
    assert float(own.success.float().mean()) >= float(PGD(Linf(0.05), 20).run(target, x, y, seeded()).success.float().mean())


def test_diverse_copies() -> None:
    x = torch.ones(200, 1, 20, 20)
    noise = [seeded(i) for i in range(200)]
    assert torch.equal(_diverse(x, 0.0, noise), x)
    copies = _diverse(x, 1.0, noise)
    area = copies.flatten(1).mean(1)
    assert float(area.min()) >= 0.8**2 - 1e-5  # sides of 0.8 to 1
    assert float(area.max()) <= 1
    assert float(area.mean()) == pytest.approx((1 - 0.8**3) / 3 / 0.2, abs=0.02)  # the mean of s^2 for s in [0.8, 1]
    some = (_diverse(x, 0.5, noise) != x).flatten(1).any(1).float().mean()
    assert float(some) == pytest.approx(0.5, abs=4 * 0.5 / 200**0.5)
    # the copy is where it should be: none of its light is lost
    point = torch.zeros(200, 1, 21, 21)
    point[:, :, 10, 10] = 1
    moved = _diverse(point, 1.0, noise).flatten(1).sum(1)
    assert float(moved.min()) > 0.5


def test_a_surrogate_without_gradients_is_a_warning() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0 * x + 1, 0 * x], 1)

    result = Transfer(Linf(0.1), Flat(), restarts=2).run(Threshold(0.9), torch.full((3, 1), 0.5), ZERO.expand(3), seeded())
    assert len(result.warnings) == 1
    assert "surrogate is zero for 100%" in result.warnings[0]


def test_it_fits_a_suite_and_says_what_it_used() -> None:
    attack = Transfer(Linf(0.1), MeanLogits([Threshold(0.3), Peak()]))
    suite = Suite(attack.budget, (("transfer", attack),))
    result = suite.run(Answers(0.5), torch.tensor([[0.45], [0.1]]), torch.tensor([0, 0]), seeded())
    assert result.success.tolist() == [True, False]
    assert result.backward == 0
    assert attack.settings["surrogate"] == "mean logits of Threshold, Peak"
    assert "surrogate are not among them" in str(attack.settings["passes"])


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"surrogate": nn.Identity()}, "surrogate"),
        ({"surrogate": [Threshold(0.3)]}, "surrogate"),
        ({"steps": 0}, "steps"),
        ({"looks": 0}, "looks"),
        ({"looks": 21}, "looks"),
        ({"step_size": 0.0}, "step_size"),
        ({"relative_step": -1.0}, "relative_step"),
        ({"momentum": -0.1}, "momentum"),
        ({"diversity": 1.1}, "diversity"),
    ],
)
def test_bad_settings(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        Transfer(Linf(0.1), **{"surrogate": Threshold(0.3), **changes})


@pytest.mark.parametrize(
    ("surrogate", "changes", "message"),
    [
        (nn.Linear(3, 2), {}, "surrogate: got RuntimeError"),
        (nn.Flatten(), {}, "surrogate: got 1 output column"),
        (Threshold(0.3), {"diversity": 0.5}, r"diversity: got 0.5 for inputs of shape \(1, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_target_is_asked(
    surrogate: nn.Module, changes: dict[str, Any], message: str
) -> None:
    target = Answers(0.5)
    with pytest.raises(InputError, match=message):
        Transfer(Linf(0.1), surrogate, **changes).run(target, torch.tensor([[0.4]]), ZERO, seeded())
    with pytest.raises(InputError, match="y: got label 5"):
        Transfer(Linf(0.1), Threshold(0.3)).run(target, torch.tensor([[0.4]]), torch.tensor([5]), seeded())
    assert target.asked == 0
