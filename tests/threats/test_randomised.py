"""Random models: votes by hand, runs that repeat, and breaks that are more than luck."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import seeded as world
from tutelage.threats import PGD, AttackResult, Decision, Linf, Square, Transfer
from tutelage.threats.randomised import Randomised, confirmed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Says(nn.Module):
    """Gives the logits of `answers` one after the other, times the sum of x; for inputs of sum 1 those themselves."""

    def __init__(self, *answers: list[float]) -> None:
        super().__init__()
        self.answers = answers
        self.turn: Iterator[list[float]] = iter(())

    def forward(self, x: Tensor) -> Tensor:
        try:
            answer = next(self.turn)
        except StopIteration:
            self.turn = iter(self.answers)
            answer = next(self.turn)
        return x.sum(1, keepdim=True) * torch.tensor(answer)


class Ripple(nn.Module):
    """Class 1 where the mean of x, with noise of 0.05, is above 1/2; seen through ripples that bend every single gradient."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.05 * torch.randn_like(x)
        score = 200 * ((x + 0.04 * torch.sin(100 * x)).mean(1) - 0.5)
        return torch.stack([0 * score, score], 1)


class Noisy(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x + self.std * torch.randn_like(x))
        return 5 * logits


ONE = torch.ones(1, 1)


def test_votes_and_probabilities_by_hand() -> None:
    # two draws lean to class 0, one is sure of class 1: p = (0.550, 0.450) twice, and (0.0067, 0.9933)
    says = Says([0.2, 0.0], [0.2, 0.0], [0.0, 5.0])
    p0 = (2 * math.exp(0.2) / (1 + math.exp(0.2)) + 1 / (1 + math.exp(5))) / 3  # 0.369
    with torch.no_grad():
        by_mean = Randomised(says, 3, combine="probabilities")(ONE).exp()
        by_votes = Randomised(says, 3)(ONE).exp()
    assert by_mean.tolist() == [pytest.approx([p0, 1 - p0])]
    assert by_votes.tolist() == [pytest.approx([(2 + p0) / 4, (1 + 1 - p0) / 4])]
    assert (int(by_mean.argmax()), int(by_votes.argmax())) == (1, 0)


def test_equal_votes_are_decided_by_the_probabilities() -> None:
    with torch.no_grad():
        assert int(Randomised(Says([1.0, 0.0], [0.0, 3.0]), 2)(ONE).argmax()) == 1
        assert int(Randomised(Says([3.0, 0.0], [0.0, 1.0]), 2)(ONE).argmax()) == 0


@pytest.mark.parametrize("combine", ["votes", "probabilities"])
def test_the_gradient_is_that_of_the_expected_probabilities(combine: Any) -> None:
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    out = Randomised(Says([1.0, 0.0], [0.0, 3.0]), 2, combine=combine)(x)
    (grad,) = torch.autograd.grad(out[0, 1], x)
    # p_1 = (s(-x) + s(3x)) / 2 with the logistic s; d log p_1 / dx = (-s(-1) s(1) + 3 s(3) s(-3)) / (s(-1) + s(3))

    def s(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    assert float(grad) == pytest.approx((-s(-1) * s(1) + 3 * s(3) * s(-3)) / (s(-1) + s(3)))


def test_one_draw_by_probabilities_is_the_model_itself() -> None:
    model, x = Noisy(0.0), torch.rand(5, 6, generator=seeded())
    with torch.no_grad():
        out = Randomised(model, 1, combine="probabilities")(x)
        torch.testing.assert_close(out, model(x).log_softmax(1))


def test_calls_draw_anew_and_runs_repeat() -> None:
    model, x = Randomised(Noisy(0.3), 3, combine="probabilities"), torch.rand(5, 6, generator=seeded())
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(x), model(x)
        model.eval()
        again = model(x)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    with torch.enable_grad():
        climbed = model.eval()(x)
    assert not torch.equal(first, climbed.detach())  # a judge does not see the draws of a search
    other = Randomised(Noisy(0.3), 3, combine="probabilities", seed=1)
    with torch.no_grad():
        assert not torch.equal(first, other(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(Linf(0.1), 3, restarts=2),
        PGD(Linf(0.1), 3, eot=2, retire=False),
        Square(Linf(0.1), queries=5),
        Decision(Linf(0.1), queries=30),
        Transfer(Linf(0.1), Randomised(Noisy(0.2), 2, seed=3), 3),
    ],
    ids=lambda attack: attack.name,
)
@pytest.mark.parametrize("n", [1, 7])
def test_attacks_on_it_repeat_and_leave_everything_as_it_was(attack: Any, n: int) -> None:
    model, x = Randomised(Noisy(0.2), 3), torch.rand(n, 6, generator=seeded())
    y = Noisy(0.0)(x).argmax(1)
    model.train()
    before = torch.get_rng_state()
    first, again = (attack.run(model, x, y, seeded()) for _ in range(2))
    assert torch.equal(first.x_adv, again.x_adv)
    assert torch.equal(first.success, again.success)
    assert float((first.x_adv - x).abs().max()) <= 0.1 + 1e-6
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.model.training


def test_dropout_in_evaluation_mode() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(40), nn.Linear(40, 3))
    x, net = torch.rand(4, 6, generator=seeded()), net.eval()
    with torch.no_grad():
        still = Randomised(net, 2)
        assert torch.equal(still(x), still(x))
        model = Randomised(net, 2, dropout=True).eval()
        assert [module.training for module in net] == [False, False, True, False, False]
        assert not torch.equal(model(x), model(x))
    statistics = net[3].running_mean.clone()
    PGD(Linf(0.1), 2).run(model, x, net(x).argmax(1), seeded())
    assert torch.equal(net[3].running_mean, statistics)
    assert net[2].training


def rippled() -> tuple[Tensor, Tensor]:
    """60 inputs whose mean is 0.04 below the border; it is crossed for certain only with an eps above 0.04."""
    x = torch.rand(60, 20, generator=seeded())
    return (x - x.mean(1, keepdim=True) + 0.46).clamp(0, 1), torch.zeros(60, dtype=torch.long)


def test_eot_finds_what_the_gradient_of_a_single_draw_misses() -> None:
    x, y = rippled()
    judge = Randomised(Ripple(), 100, seed=9)
    attack = PGD(Linf(0.06), 20, retire=False)
    held = []
    for draws in (1, 20):
        result = attack.run(Randomised(Ripple(), draws), x, y, seeded())
        held.append(float(confirmed(result, judge, y).success.double().mean()))
    assert held[0] < 0.2
    assert held[1] > 0.8
    with world(0):  # the attack's own eot, on the model itself
        own = PGD(Linf(0.06), 20, eot=20, retire=False).run(Ripple(), x, y, seeded())
    assert float(confirmed(own, judge, y).success.double().mean()) > 0.7


def test_a_lucky_draw_is_no_break() -> None:
    x, y = rippled()
    with world(0):
        lucky = PGD(Linf(0.06), 20).run(Ripple(), x, y, seeded())
    claimed = int(lucky.success.sum())
    assert claimed > 15  # a single draw was wrong somewhere on the way
    told = confirmed(lucky, Randomised(Ripple(), 100, seed=9), y)
    assert int(told.success.sum()) <= 2
    assert told.warnings[-1] == f"{claimed - int(told.success.sum())} of {claimed} successes did not hold on fresh draws"
    assert told.forward == lucky.forward + 60
    assert torch.equal(told.x_adv, lucky.x_adv)


def test_robust_accuracy_by_vote_is_not_that_of_a_single_draw() -> None:
    # 0.01 beyond the border in the mean of 20 coordinates with noise of 0.05: a single draw is wrong with probability
    # Phi(0.01 / (0.05 / sqrt(20))) = Phi(0.89) = 0.81, the vote of 100 draws almost always
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = (x + 0.05 * torch.randn_like(x)).mean(1) - 0.5
            return torch.stack([0 * score, 100 * score], 1)

    x, y = torch.full((500, 20), 0.51), torch.zeros(500, dtype=torch.long)
    with world(0), torch.no_grad():
        single = float((Plain()(x).argmax(1) == y).double().mean())
    with torch.no_grad():
        vote = float((Randomised(Plain(), 100)(x).argmax(1) == y).double().mean())
    assert single == pytest.approx(0.19, abs=4 * (0.19 * 0.81 / 500) ** 0.5)
    assert vote < 0.01


def test_confirmed_by_hand() -> None:
    x = torch.tensor([[1.0], [1.0], [-1.0]])
    found = AttackResult(x, torch.tensor([True, False, True]), torch.zeros(3), 10, 5)
    # two draws of three say class 1 for x = 1, and class 0 for x = -1
    says = Randomised(Says([0.0, 1.0], [0.0, 1.0], [1.0, 0.0]), 3)
    told = confirmed(found, says, torch.tensor([0, 0, 0]))
    assert told.success.tolist() == [True, False, False]  # the second was no success, and does not become one
    assert told.warnings == ["1 of 2 successes did not hold on fresh draws"]
    assert (told.forward, told.backward) == (13, 5)
    aimed = confirmed(found, says, torch.tensor([0, 0, 1]), target=torch.tensor([1, 1, 0]))
    assert aimed.success.tolist() == [True, False, True]
    assert aimed.warnings == []


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"model": len}, "model"),
        ({"draws": 0}, "draws"),
        ({"combine": "mean"}, "combine"),
        ({"seed": 0.5}, "seed"),
        ({"dropout": True}, "dropout"),
    ],
)
def test_bad_settings(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        Randomised(**{"model": Noisy(0.1), **changes})


def test_outputs_that_are_no_logits() -> None:
    with pytest.raises(InputError, match=r"^model: got outputs of shape"):
        Randomised(nn.Flatten(0), 2)(torch.rand(3, 2))
