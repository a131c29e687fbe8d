"""Attacks by labels alone: exact distances of linear models, the order of the rays by hand, and what they may not look at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tutelage.auditing.audit import audit
from tutelage.core.errors import InputError
from tutelage.models.black_box import from_function
from tutelage.threats import FMN, L1, L2, Budget, Linf, margin
from tutelage.threats.asked import Asked
from tutelage.threats.decision import Decision, zero_one
from tutelage.threats.engine import AttackResult
from tutelage.threats.hops import _hop, _pattern
from tutelage.threats.objectives import AttackBatch
from tutelage.threats.rays import _places

NORMS = pytest.mark.parametrize("kind", [Linf, L2, L1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(seed: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 4))


class Border(nn.Module):
    """Two classes; wrong where 3 x_1 + 4 x_2 > 5."""

    def forward(self, x: Tensor) -> Tensor:
        score = 3 * x[:, 0] + 4 * x[:, 1] - 5
        return torch.stack([-score, score], 1)


class Never(nn.Module):
    """Class 0 everywhere; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)


class Told(nn.Module):
    """What `model` says, in another form with the same argmax; no gradients."""

    def __init__(self, model: nn.Module, form: str) -> None:
        super().__init__()
        self.model, self.form = model, form

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        logits = self.model(x)
        labels = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()
        if self.form == "labels":
            return labels
        # the margin of the label, which a search that climbs would follow, points the wrong way
        return labels * (1000 - (logits * labels).sum(1, keepdim=True)) - 1000 * (1 - labels)


@pytest.mark.parametrize(("kind", "distance", "within"), [(Linf, 5 / 7, 3e-3), (L2, 1.0, 0.01), (L1, 5 / 4, 0.01)])
def test_distances_by_hand(kind: type[Budget], distance: float, within: float) -> None:
    # from the origin to 3 x_1 + 4 x_2 = 5: 5 / |(3, 4)| in the dual norm, 7 for Linf, 5 for L2, 4 for L1
    found = Decision(kind(1.0), queries=600, bounds=None).distances(Border(), torch.zeros(1, 2), torch.tensor([0]), seeded())
    assert distance <= float(found.distance) * (1 + 1e-6) <= distance * (1 + within)


@NORMS
@pytest.mark.parametrize("form", ["labels", "misleading"])
def test_only_labels_are_looked_at(kind: type[Budget], form: str) -> None:
    model, x = net(), torch.rand(6, 1, 8, 8, generator=seeded(1))
    y = model(x).argmax(1)
    attack = Decision(kind({"linf": 0.2, "l2": 1.0, "l1": 6.0}[kind.norm]), queries=150)
    plain, told = attack.run(model, x, y, seeded()), attack.run(Told(model, form), x, y, seeded())
    assert bool(plain.success.any())
    assert torch.equal(plain.success, told.success)
    assert torch.equal(plain.x_adv, told.x_adv)
    assert torch.equal(plain.loss, told.loss)
    assert plain.backward == told.backward == 0
    assert torch.equal(plain.loss, plain.success.float())


def test_the_order_of_the_rays_by_hand() -> None:
    model = Never()
    Decision(Linf(0.1), queries=8).run(model, torch.full((1, 4), 0.5), torch.tensor([0]), seeded())
    asked = [[int(v) for v in x[0]] for x in model.seen[1:]]  # at the ends of the range, 0 and 1
    # + + + +, all of it flipped, the halves, the quarters
    assert asked[:4] == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]
    assert asked[4:] == [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]


def test_a_better_ray_by_hand() -> None:
    # x_1 - x_2 > 0.35 from the middle: + + never breaks it, - + neither, + - does at a radius of 0.175
    class Difference(Never):
        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.clone())
            return torch.stack([0 * x[:, 0], x[:, 0] - x[:, 1] - 0.35], 1)

    model = Difference()
    attack = Decision(Linf(1.0), queries=60, retire=False)
    found = attack.run(model, torch.full((1, 2), 0.5), torch.tensor([0]), seeded())
    asked = torch.cat(model.seen[1:]) - 0.5
    assert asked[:4].sign().tolist() == [[1, 1], [-1, -1], [-1, 1], [1, -1]]
    # what follows the first broken point: strides of 5 %, 10 %, 20 % of it, then halves
    assert asked[4:8, 0].tolist() == pytest.approx([0.5 * 0.95, 0.5 * 0.85, 0.5 * 0.65, 0.5 * 0.325])
    assert float(asked[8, 0]) == pytest.approx(0.5 * (0.325 + 0.65) / 2)
    assert 0.175 < float((found.x_adv - 0.5).abs().max()) < 0.175 * 1.004


def test_a_second_round_takes_other_blocks() -> None:
    model = Never()
    Decision(Linf(0.1), queries=32).run(model, torch.full((1, 8), 0.5), torch.tensor([0]), seeded())
    asked = torch.cat(model.seen[1:]).round().bool()
    halves = {tuple(row.tolist()) for row in asked if int(row.sum()) == 4}
    assert len(halves) == 4  # of the order of the coordinates, and of a random one


def test_blocks_of_images_are_squares() -> None:
    places = _places(torch.Size([2, 4, 4]))
    assert sorted(places.tolist()) == list(range(32))
    first = places.reshape(2, 4, 4) < 8  # a quarter: two channels of the 2 x 2 pixels at the top left
    assert first.nonzero().tolist() == [[c, i, j] for c in range(2) for i in range(2) for j in range(2)]
    assert sorted(_places(torch.Size([3, 5, 7])).tolist()) == list(range(105))
    assert _places(torch.Size([6])).tolist() == list(range(6))


def test_linf_comes_near_the_exact_distance_of_a_linear_model() -> None:
    w = torch.randn(1, 1, 8, 8, generator=seeded(5))

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = ((x - 0.5) * w).flatten(1).sum(1)
            return torch.stack([2 - score, score - 2], 1)

    x = torch.full((3, 1, 8, 8), 0.5)
    found = Decision(Linf(0.1), queries=1500).distances(Linear(), x, torch.zeros(3, dtype=torch.long), seeded())
    exact = 2 / float(w.abs().sum())
    assert bool((found.distance >= exact * (1 - 1e-5)).all())
    assert bool((found.distance <= exact * 1.15).all())


@pytest.mark.parametrize(("kind", "dual", "factor"), [(L2, 2.0, 1.15), (L1, math.inf, 2.0)])
def test_hops_come_near_the_exact_distance_of_a_linear_model(kind: type[Budget], dual: float, factor: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Linear(12, 2).double()
    x = torch.rand(12, 12, dtype=torch.float64, generator=seeded())
    logits = model(x).detach()
    w = (model.weight[1] - model.weight[0]).detach()
    exact = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(w, dual)
    found = Decision(kind(1.0), queries=1500, bounds=None).distances(model, x, logits.argmax(1), seeded())
    assert bool((found.distance >= exact * (1 - 1e-9)).all())
    assert float((found.distance / exact).median()) < factor


def test_the_normal_of_a_linear_border() -> None:
    """(2) of `hops` on a plane: the estimate leans far more to the true normal than a random direction does."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Linear(40, 2)
    w = (model.weight[1] - model.weight[0]).detach()
    x = torch.zeros(5, 40)
    y = model(x).argmax(1)
    gap = (model(x)[:, 1] - model(x)[:, 0]).detach()
    on_border = x - (gap * 1.001 / w.square().sum())[:, None] * w + 0.01
    attack = Decision(L2(1.0), bounds=None)
    found = AttackResult(x.clone(), torch.zeros(5, dtype=torch.bool), torch.zeros(5), 0, 0)
    noise = [seeded(i) for i in range(5)]
    with torch.no_grad():
        asked = Asked(attack, model, AttackBatch(x, y), L2(1.0), torch.arange(5), noise, found, 64, torch.ones(5))
        asked.ask(on_border)
        step = _hop(asked, 1, 200) - asked.nearest
    away = -gap.sign()[:, None] * w
    cosine = nn.functional.cosine_similarity(step, away.expand(5, -1))
    # of B draws in D dimensions it is about 1 / sqrt(1 + (pi / 2) D / B) = 0.87; a random direction has 0 +- 0.16
    assert bool((cosine > 0.7).all())
    assert found.forward == 5 + 5 * 200 + 5 * 6


def test_first_points_are_of_several_coarsenesses() -> None:
    x = torch.zeros(1, 3, 8, 8)
    for cells in (1, 2, 4):
        drawn = _pattern(x, [seeded()], cells)
        assert len(drawn.unique()) == 3 * cells**2
        assert torch.equal(drawn[..., 0, 0], drawn[..., 8 // cells - 1, 8 // cells - 1])
    assert len(_pattern(x, [seeded()], 0).unique()) == 192
    assert _pattern(torch.zeros(2, 5), [seeded(), seeded(1)], 4).shape == (2, 5)


@NORMS
def test_distances_are_of_the_size_that_gradients_find(kind: type[Budget]) -> None:
    model, x = net(), torch.rand(20, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    by_labels = Decision(kind(1.0), queries=1000).distances(model, x, y, seeded()).distance
    by_gradients = FMN(kind(1.0)).distances(model, x, y, seeded()).distance
    assert bool(torch.isfinite(by_labels).all())
    ratio = float((by_labels / by_gradients).median())
    assert 0.98 < ratio < {"linf": 1.5, "l2": 1.5, "l1": 3.5}[kind.norm]


@NORMS
def test_more_queries_come_nearer(kind: type[Budget]) -> None:
    model, x = net(), torch.rand(10, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    few, many = (Decision(kind(1.0), queries=q).distances(model, x, y, seeded()) for q in (120, 600))
    assert bool((many.distance <= few.distance).all())  # the same search, seen earlier
    assert float(many.distance.mean()) < 0.8 * float(few.distance.mean())
    assert bool((model(many.x_adv).argmax(1) != y).all())
    assert few.forward <= 10 * 121


@NORMS
def test_restarts_count_only_if_nearer(kind: type[Budget]) -> None:
    model, x = net(), torch.rand(10, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    one = Decision(kind(1.0), queries=150).distances(model, x, y, seeded())
    three = Decision(kind(1.0), queries=150, restarts=3).distances(model, x, y, seeded())
    assert bool((three.distance <= one.distance).all())
    assert bool((three.distance < one.distance).any())


@NORMS
def test_what_never_breaks_comes_back_as_it_was(kind: type[Budget]) -> None:
    model, x = Never(), torch.rand(3, 6, generator=seeded())
    y = torch.zeros(3, dtype=torch.long)
    result = Decision(kind(0.1), queries=50).run(model, x, y, seeded())
    assert torch.equal(result.x_adv, x)
    assert not bool(result.success.any())
    assert result.forward == 3 + 3 * 50  # every query was used to look for a first broken point
    assert bool(result.warnings) == (kind is not Linf)
    assert Decision(kind(0.1), queries=50).distances(model, x, y, seeded()).distance.tolist() == [math.inf] * 3


@NORMS
def test_wrong_from_the_start_costs_nothing_more(kind: type[Budget]) -> None:
    x = torch.tensor([[0.9, 0.9], [0.4, 0.4]])  # 6.3 > 5: wrong already
    found = Decision(kind(1.0), queries=60).distances(Border(), x, torch.tensor([0, 0]), seeded())
    assert float(found.distance[0]) == 0
    assert torch.equal(found.x_adv[0], x[0])
    assert found.forward <= 2 + 60


@NORMS
def test_retired_neighbours_do_not_change_a_sample(kind: type[Budget]) -> None:
    model, x = net(), torch.rand(12, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    eps = float(Decision(kind(1.0), queries=200).distances(model, x, y, seeded()).distance.median())
    together = Decision(kind(eps), queries=200).run(model, x, y, seeded())
    kept = Decision(kind(eps), queries=200, retire=False).run(model, x, y, seeded())
    assert torch.equal(together.success, kept.success)
    assert 0 < int(together.success.sum()) < 12
    assert together.forward < kept.forward
    # it goes on inside the budget, for a smaller change
    size = together.success & (kind(1.0).size(x, kept.x_adv) < kind(1.0).size(x, together.x_adv))
    assert bool(size.any())
    assert bool((kind(1.0).size(x, kept.x_adv) <= eps * (1 + 1e-5)).all())


def test_another_notion_of_success_is_all_that_is_asked() -> None:
    attack = Decision(Linf(1.0), queries=80, retire=False)
    wanted = replace(attack, accept=lambda z, batch: margin(z, batch) > 0.7)
    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    # 2 (7 r - 1.5) > 0.7 at r = 0.264; the border itself is at 0.214
    assert float(attack.run(Border(), x, y, seeded()).x_adv.max()) == pytest.approx(0.5 + 1.5 / 7, rel=2e-3)
    assert float(wanted.run(Border(), x, y, seeded()).x_adv.max()) == pytest.approx(0.5 + 1.85 / 7, rel=2e-3)


def test_towards_a_target() -> None:
    model, x = net(), torch.rand(8, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    target = (y + 1) % 4
    result = Decision(L2(5.0), queries=300, targeted=True).run(model, x, y, seeded(), target=target)
    assert bool(result.success.any())
    assert torch.equal(model(result.x_adv).argmax(1) == target, result.success)


def test_how_far_a_first_point_may_be_without_bounds() -> None:
    x, y = torch.zeros(1, 2), torch.tensor([0])
    near, far = (Decision(L2(0.1), queries=100, bounds=None, reach=reach) for reach in (0.9, 4.0))
    assert not math.isfinite(float(near.distances(Border(), x, y, seeded()).distance))
    assert float(far.distances(Border(), x, y, seeded()).distance) < 1.3


def test_nan_is_no_label() -> None:
    class Cliff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x), torch.where(x > 0.9, torch.nan, x - 1)], 1)

    for budget in (Linf(0.1), L2(0.1)):
        with pytest.raises(InputError, match=r"^model: got NaN or infinity at a point of the search"):
            Decision(budget, queries=100).run(Cliff(), torch.full((1, 1), 0.1), torch.tensor([0]), seeded())


def test_a_function_that_gives_labels_is_audited_by_labels() -> None:
    hidden, data = net(), torch.rand(40, 1, 8, 8, generator=seeded(3))
    labels = hidden(data).argmax(1)
    model = from_function(lambda x: hidden(x).argmax(1), gives="labels", classes=4, takes="torch")
    attack = Decision(L2(1.0), queries=120)
    result = audit(model, (data, labels), threats=[attack], curve=False)
    (worst,) = [row for row in result.rows if row.name == "worst case"]
    own = attack.run(hidden, data, labels, seeded())
    assert worst.value == pytest.approx(1 - float(own.success.double().mean()), abs=0.15)  # other noise, the same search
    assert worst.value < 0.9


def test_zero_one_by_hand() -> None:
    logits, y = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
    assert zero_one(logits, AttackBatch(logits, y)).tolist() == [0.0, 1.0]
    assert zero_one(logits, AttackBatch(logits, y, torch.tensor([0, 1]))).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "argument"), [({"queries": 0}, "queries"), ({"reach": 0.0}, "reach"), ({"objective": margin}, "objective")]
)
def test_bad_settings(changes: dict[str, object], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: got"):
        Decision(Linf(0.1), **changes)
