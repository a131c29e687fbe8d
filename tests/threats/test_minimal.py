"""Smallest changes: exact distances of linear models, one search for all eps, and what is told of samples that hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.threats import APGD, FMN, L1, L2, Budget, Linf, margin
from tutelage.threats.minimal import _cosine

NORMS = pytest.mark.parametrize(("kind", "dual"), [(Linf, 1.0), (L2, 2.0), (L1, math.inf)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int = 2, features: int = 12) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Linear(features, classes).double()


class Border(nn.Module):
    """Two classes; wrong where 3 x_1 + 4 x_2 > 5."""

    def forward(self, x: Tensor) -> Tensor:
        score = 3 * x[:, 0] + 4 * x[:, 1] - 5
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize(("kind", "distance"), [(Linf, 5 / 7), (L2, 1.0), (L1, 5 / 4)])
def test_distances_by_hand(kind: type[Budget], distance: float) -> None:
    # from the origin to 3 x_1 + 4 x_2 = 5: 5 / |(3, 4)| in the dual norm, 7 for Linf, 5 for L2, 4 for L1
    found = FMN(kind(1.0), bounds=None).distances(Border(), torch.zeros(1, 2), torch.tensor([0]), seeded())
    assert float(found.distance) == pytest.approx(distance, rel=2e-3)


@NORMS
def test_distances_of_a_linear_model_are_exact(kind: type[Budget], dual: float) -> None:
    model, x = linear(), torch.rand(30, 12, dtype=torch.float64, generator=seeded())
    logits = model(x).detach()
    w = (model.weight[1] - model.weight[0]).detach()
    exact = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(w, dual)
    found = FMN(kind(1.0), bounds=None).distances(model, x, logits.argmax(1), seeded())
    assert bool((found.distance >= exact * (1 - 1e-9)).all())  # nothing is nearer than the border
    assert bool((found.distance <= exact * 1.01).all())


@NORMS
def test_several_classes_the_nearest_border_counts(kind: type[Budget], dual: float) -> None:
    model, x = linear(4), torch.rand(30, 12, dtype=torch.float64, generator=seeded(1))
    logits = model(x).detach()
    y = logits.argmax(1)
    gap = logits.gather(1, y[:, None]) - logits
    w = model.weight.detach()[y][:, None] - model.weight.detach()[None]
    exact = (gap / torch.linalg.vector_norm(w, dual, dim=2)).scatter(1, y[:, None], torch.inf).amin(1)
    found = FMN(kind(1.0), bounds=None).distances(model, x, y, seeded())
    assert float((found.distance / exact).median()) < 1.01
    assert bool((found.distance >= exact * (1 - 1e-9)).all())


def test_one_search_gives_every_eps_that_single_attacks_give() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 4)).double()
    x = torch.rand(150, 8, dtype=torch.float64, generator=seeded(3))
    y = model(x).argmax(1)
    found = FMN(Linf(0.1)).distances(model, x, y, seeded())
    for eps in (0.02, 0.05, 0.1, 0.2):
        single = APGD(Linf(eps), objective=margin).run(model, x, y, seeded())
        assert found.accuracy(eps) == pytest.approx(float((~single.success).double().mean()), abs=0.03)
    curve = [found.accuracy(eps) for eps in (0.0, 0.02, 0.05, 0.1, 0.2, 1.0)]
    assert curve == sorted(curve, reverse=True)


def test_every_broken_point_is_broken_and_in_range() -> None:
    model, x = linear(3), torch.rand(40, 12, dtype=torch.float64, generator=seeded(5))
    y = model(x).argmax(1)
    found = FMN(L2(1.0)).distances(model, x, y, seeded())
    broken = torch.isfinite(found.distance)
    assert bool(broken.any())
    assert bool((model(found.x_adv).argmax(1) != y)[broken].all())
    assert 0 <= float(found.x_adv.min()) <= float(found.x_adv.max()) <= 1
    torch.testing.assert_close(found.distance[broken], (found.x_adv - x).norm(dim=1)[broken])


def test_the_range_of_inputs_does_not_stop_the_search() -> None:
    model, x = linear(3), torch.rand(40, 12, dtype=torch.float64, generator=seeded(6))
    y = model(x).argmax(1)
    # what the best corner of [0, 1]^12 for each other class reaches says which samples can be broken at all
    w = model.weight.detach()[None] - model.weight.detach()[y][:, None]
    best = w.clamp_min(0).sum(2) + model.bias.detach()[None] - model.bias.detach()[y][:, None]
    possible = (best.scatter(1, y[:, None], -1.0) > 1e-9).any(1)
    found = FMN(L2(1.0)).distances(model, x, y, seeded())
    assert int(possible.sum()) > 20
    assert float(torch.isfinite(found.distance)[possible].double().mean()) > 0.9


def test_wrong_from_the_start_is_at_distance_0_and_what_cannot_break_at_infinity() -> None:
    x = torch.tensor([[0.9, 0.9], [0.1, 0.1]])  # 6.3 > 5: wrong already

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x.sum(1) - 3  # the range ends at a sum of 2
            return torch.stack([-score, score], 1)

    found = FMN(Linf(0.1)).distances(Border(), x, torch.tensor([0, 0]), seeded())
    assert float(found.distance[0]) == 0
    assert math.isfinite(float(found.distance[1]))
    never = FMN(Linf(0.1)).distances(Never(), x, torch.tensor([0, 0]), seeded())
    assert never.distance.tolist() == [math.inf, math.inf]
    assert never.accuracy(1.0) == 1.0


def test_as_an_attack_it_succeeds_within_the_budget_only() -> None:
    x, y = torch.zeros(1, 2), torch.tensor([0])
    assert not bool(FMN(L2(0.99), bounds=None).run(Border(), x, y, seeded()).success)
    result = FMN(L2(1.01), bounds=None).run(Border(), x, y, seeded())
    assert bool(result.success)
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.6, 0.8]]), atol=5e-3, rtol=0)  # the foot of the normal


class Wall(nn.Module):
    """Two classes on [0, 1]^2. The slope leads up to a border at a mean of 0.95; behind its back, at 0.35, is a nearer one."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1)
        score = torch.where(mean > 0.4, mean - 0.95, 0.35 - mean)
        return torch.stack([-score, score], 1)


def test_the_smallest_change_of_all_restarts_counts() -> None:
    x, y = torch.full((20, 2), 0.55), torch.zeros(20, dtype=torch.long)  # 0.4 below the one border, 0.2 above the other
    one = FMN(Linf(1.0), 40).distances(Wall(), x, y, seeded(1))
    many = FMN(Linf(1.0), 40, restarts=6).distances(Wall(), x, y, seeded(1))
    assert float(one.distance.min()) > 0.39
    assert bool((many.distance <= one.distance).all())
    assert float((many.distance < 0.21).double().mean()) > 0.5
    assert many.forward > 5 * one.forward


def test_bisection_shortens() -> None:
    model, x = linear(3), torch.rand(40, 12, dtype=torch.float64, generator=seeded(6))
    y = model(x).argmax(1)
    plain = FMN(L2(1.0), 8, bisections=0, bounds=None).distances(model, x, y, seeded())
    short = FMN(L2(1.0), 8, bisections=24, bounds=None).distances(model, x, y, seeded())
    assert bool((short.distance <= plain.distance).all())
    assert float(short.distance.sum()) < float(plain.distance.sum())


def test_rates_by_hand() -> None:
    # half-way between the first and the last of 5 steps a cosine is at the mean
    assert [_cosine(1.0, 0.0, k, 5) for k in (1, 3, 5)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("changes", "argument"), [({"steps": 0}, "steps"), ({"bisections": -1}, "bisections"), ({"first_step": 0.0}, "first_step")]
)
def test_bad_settings(changes: dict[str, float], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        FMN(Linf(0.1), **changes)
