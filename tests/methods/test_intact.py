"""INTACT against its card: the invariants, limit cases, terms worked out by hand, and the refusals.

Invariant 6 (MAML) is in tests/teaching/test_meta.py, 8 (MOTA) in tests/auditing/test_tracking.py.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn

from tutelage.auditing.points import corruption_table
from tutelage.claims.claim import Cell
from tutelage.claims.harden import intact as claim
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, SplitError
from tutelage.core.rng import generator
from tutelage.data.points import PointSet, normalised, turned
from tutelage.methods.harden.intact import (
    Advisor,
    CorruptionTasks,
    FullNoise,
    Intact,
    IntactConfig,
    Noise,
    Plain,
    PointAdversarial,
    consistency,
    intact_train,
    meta_teacher,
    pick,
    point_saliency,
    targeted_noise,
)
from tutelage.models.points import PointNet
from tutelage.teaching.curricula.level import Curriculum
from tutelage.teaching.fit import Context
from tutelage.teaching.meta import Task
from tutelage.threats.points import PointCorruption, PointPGD


def solids(n: int = 24, points: int = 32, split: Any = "train") -> PointSet:
    y = torch.arange(n) % 3
    stretch = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.1], [0.1, 0.1, 1.0]])[y]
    x = torch.randn(n, points, 3, generator=generator(0, "solids", split)) * stretch[:, None]
    return PointSet(normalised(x), y, ("ball", "disc", "rod"), split=split)


def net(seed: int = 0, classes: int = 3) -> PointNet:
    torch.manual_seed(seed)
    return PointNet(classes, (8, 16), head=8)


def context(step: int = 5, total: int = 10) -> Context:
    return Context(step, total, 1.0, torch.Generator().manual_seed(1))


def batch(n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    return solids()[slice(0, n)]


class MeanLinear(nn.Module):
    """g(X) = W mean(x_j) over the real points."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        weight = torch.ones(points.shape[:2]) if mask is None else mask.to(points)
        out: Tensor = self.layer((points * weight[..., None]).sum(1) / weight.sum(1, keepdim=True))
        return out


class Radius(nn.Module):
    """Sees only the distances from the origin: invariant to rotations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(points.norm(dim=2, keepdim=True)).mean(1)
        return out


# 1: without noise and teacher it is ordinary training


def test_invariant_1_without_noise_it_is_ordinary_training() -> None:
    data, config = solids(), IntactConfig(Noise(sigma=0.0, drop=0.0), w_distill=0.0, saliency="uniform")
    ours, plain = net(), net()
    intact_train(ours, None, data, config=config, epochs=2, batch_size=8, seed=4, turn=False)
    intact_train(plain, None, data, objective=Plain(), epochs=2, batch_size=8, seed=4, turn=False)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert not torch.equal(ours.head[0].weight, net().head[0].weight)


def test_invariant_1_holds_with_a_teacher_that_only_gives_saliency() -> None:
    data, start = solids(), {"epochs": 1, "batch_size": 8, "seed": 4, "turn": False}
    ours, plain = net(), net()
    intact_train(ours, net(1), data, config=IntactConfig(Noise(sigma=0.0, drop=0.0), w_distill=0.0), **start)  # type: ignore[arg-type]
    intact_train(plain, None, data, objective=Plain(), **start)  # type: ignore[arg-type]
    assert torch.equal(ours.head[0].weight, plain.head[0].weight)


# 2: level 0


def test_invariant_2_at_level_0_the_clouds_come_back_bit_for_bit() -> None:
    points, mask, labels = batch()
    p = mask / mask.sum(1, keepdim=True)
    found = targeted_noise(net(), points, mask, labels, p, 0.0, Noise(), generator(0, "n"))
    assert found.points is points
    assert torch.equal(found.mask, mask)
    assert not bool(found.attacked.any())


# 3 and 4: saliency


@pytest.mark.parametrize("kind", ["grad", "radial"])
def test_invariant_3_saliency_is_a_distribution_and_goes_with_the_points(kind: Any) -> None:
    points, mask, labels = batch()
    mask = mask.clone()
    mask[0, 20:] = False
    p = point_saliency(net(), points, labels, mask, kind=kind)
    torch.testing.assert_close(p.sum(1), torch.ones(6))
    assert float(p[0, 20:].abs().sum()) == 0
    order = torch.randperm(32, generator=generator(0, "order"))
    turned_p = point_saliency(net(), points[:, order], labels, mask[:, order], kind=kind)
    torch.testing.assert_close(turned_p, p[:, order], atol=1e-5, rtol=0)


def test_invariant_3_a_rotation_changes_nothing_for_a_model_that_does_not_see_it() -> None:
    points, mask, labels = batch()
    p = point_saliency(Radius(), points, labels, mask)
    again = point_saliency(Radius(), turned(points, torch.full((6,), 0.7)), labels, mask)
    torch.testing.assert_close(again, p, atol=1e-5, rtol=0)
    assert float(p.std()) > 1e-3


def test_invariant_4_saliency_of_a_linear_model_of_the_mean_is_uniform() -> None:
    points, mask, labels = batch()
    p = point_saliency(MeanLinear(), points, labels, mask)
    torch.testing.assert_close(p, torch.full_like(p, 1 / 32), atol=1e-6, rtol=0)


def test_gradient_and_radial_saliency_by_hand() -> None:
    class Two(nn.Module):
        """Logits (0, -3 z of point 0 - 1 z of point 1): of class 1 at even odds the loss falls by half of that."""

        def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
            value = -3 * points[:, 0, 2] - points[:, 1, 2]
            return torch.stack((torch.zeros(len(points)), value), 1)

    points = torch.zeros(1, 16, 3)
    points[0, 0, 2], points[0, 1, 2] = 1.0, -3.0  # 3 - 3 = 0: even odds; the median centre is the origin
    labels = torch.tensor([1])
    p = point_saliency(Two(), points, labels)
    assert p[0, :3].tolist() == pytest.approx([0.75, 0.25, 0.0])
    # dl/dx = (1/2) (3, 1): radially outward 1.5 at r = 1 and -0.5 at r = 3; s = -g r^2 = (-1.5, 4.5), and below 0 counts 0
    radial = point_saliency(Two(), points, labels, kind="radial")
    assert radial[0, :3].tolist() == pytest.approx([0.0, 1.0, 0.0])


def test_a_saturated_model_gives_uniform_saliency_and_says_so() -> None:
    class Sure(nn.Module):
        def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.stack((points.sum((1, 2)) * 1e-3 + 1e4, torch.zeros(len(points))), 1)

    points, mask, _ = batch(2)
    mask = mask.clone()
    mask[0, 16:] = False
    with pytest.warns(UserWarning, match="2 of 2 clouds"):
        p = point_saliency(Sure(), points, torch.zeros(2, dtype=torch.long), mask)
    assert p[0].tolist() == pytest.approx([1 / 16] * 16 + [0.0] * 16)


def test_saliency_leaves_the_model_as_it_was_and_averages_over_copies() -> None:
    points, mask, labels = batch()
    model = net().train()
    once = point_saliency(model, points, labels, mask)
    many = point_saliency(model, points, labels, mask, n_aug=4, generator=generator(0, "copies"))
    assert model.training
    assert all(q.grad is None and q.requires_grad for q in model.parameters())
    torch.testing.assert_close(many.sum(1), torch.ones(6))
    assert not torch.allclose(once, many)
    assert int((many > 0).sum()) > int((once > 0).sum())  # other points win the pooling in other copies


# 5: targeting


def test_invariant_5_picking_by_uniform_saliency_is_uniform() -> None:
    mask = torch.ones(4000, 20, dtype=torch.bool)
    p = mask / 20
    chosen = pick(p, mask, 0.3, 0.2, generator(0, "pick"))
    assert set(chosen.sum(1).tolist()) == {6}
    counts = chosen.double().sum(0)
    assert float(((counts - 1200).abs() / math.sqrt(4000 * 0.3 * 0.7)).amax()) < 4
    # whichever points are picked, their first position is distributed as that of a random subset
    first = chosen.double().argmax(1)
    other = torch.rand(4000, 20, generator=generator(1, "random")).argsort(1)[:, :6].amin(1)
    assert kstest(first.numpy(), other.numpy()).pvalue > 0.01


def test_invariant_5_a_share_of_1_is_untargeted_noise_in_distribution() -> None:
    points, mask, labels = (part.repeat_interleave(50, 0) for part in batch(4))
    steep = torch.softmax(8 * torch.rand(mask.shape, generator=generator(0, "p")), 1)
    flat = mask / 32
    noise = Noise(target=1.0, how=("jitter",))
    moved = [
        (targeted_noise(net(), points, mask, labels, p, 1.0, noise, generator(s, "n")).points - points).flatten().numpy()
        for s, p in enumerate((steep, flat))
    ]
    assert kstest(moved[0], moved[1]).pvalue > 0.01
    # with a share below 1, whom the noise hits does depend on p
    some = Noise(target=0.3, uniform=0.0, how=("jitter",))
    hit = targeted_noise(net(), points, mask, labels, steep, 1.0, some, generator(0, "n")).targeted
    assert float(steep[hit].mean()) > 1.5 / 32


def test_picking_goes_by_the_probabilities_and_takes_no_padding() -> None:
    # two of three points without replacement, weights 0.6, 0.3, 0.1: the first is in with
    # 0.6 + 0.3 * 0.6 / 0.7 + 0.1 * 0.6 / 0.9 = 0.924
    mask = torch.tensor([[True, True, True, False]]).repeat(20000, 1)
    p = torch.tensor([[0.6, 0.3, 0.1, 0.0]]).repeat(20000, 1)
    chosen = pick(p, mask, 2 / 3, 0.0, generator(0, "pick")).double().mean(0)
    assert chosen[0] == pytest.approx(0.924, abs=0.01)
    assert chosen[3] == 0
    explored = pick(p, mask, 1 / 3, 1.0, generator(0, "pick")).double().mean(0)
    assert explored[:3].tolist() == pytest.approx([1 / 3] * 3, abs=0.015)


# 7: balls


@pytest.mark.parametrize("how", ["jitter", "adversarial"])
def test_invariant_7_points_stay_in_their_balls_and_padding_where_it_is(how: Any) -> None:
    points, mask, labels = batch()
    mask = mask.clone()
    mask[:, 28:] = False
    p = mask / mask.sum(1, keepdim=True)
    noise, level = Noise(sigma=0.1, how=(how,), attack_steps=2), 0.5
    found = targeted_noise(net(), points, mask, labels, p, level, noise, generator(0, "n"))
    length = (found.points - points).norm(dim=2)
    reach = noise.sigma * level * (noise.cut if how == "jitter" else 1.0)
    assert bool((length[found.targeted] <= reach + 1e-6).all())
    assert bool((length <= noise.sigma * level * noise.cut + 1e-6).all())
    assert torch.equal(found.points[:, 28:], points[:, 28:])
    assert found.targeted.sum(1).tolist() == [8] * 6  # 30 % of 28 real points
    assert bool(found.attacked.all()) == (how == "adversarial")
    if how == "adversarial":  # the loss of the student rises
        model, quiet = net().eval(), Noise(sigma=0.1, rest=0.0, how=(how,), attack_steps=4)
        found = targeted_noise(model, points, mask, labels, p, level, quiet, generator(0, "n"))
        with torch.no_grad():
            assert F.cross_entropy(model(found.points, mask), labels) > F.cross_entropy(model(points, mask), labels)


def test_a_share_of_the_targeted_points_is_lost_and_never_too_many() -> None:
    points, mask, labels = batch()
    p = mask / 32
    found = targeted_noise(net(), points, mask, labels, p, 0.5, Noise(drop=0.6, target=0.5, how=("drop",)), generator(0, "n"))
    assert (~found.mask).sum(1).tolist() == [5] * 6  # 0.5 * 0.6 of 16
    assert bool((found.targeted | found.mask).all()), "only targeted points are lost"
    most = targeted_noise(net(), points, mask, labels, p, 1.0, Noise(drop=1.0, target=1.0, how=("drop",)), generator(0, "n"))
    assert most.mask.sum(1).tolist() == [16] * 6  # as many as can be spared, not none
    small = mask.clone()
    small[:, 20:], small[0, 12:] = False, False
    few = targeted_noise(net(), points, small, labels, small / 32, 1.0, Noise(target=1.0, how=("drop",)), generator(0, "n"))
    assert few.mask.sum(1).tolist() == [12] + [16] * 5


# the objective


def test_the_loss_by_hand() -> None:
    points, mask, labels = batch()
    teacher, student = net(1).eval(), net(2)
    config = IntactConfig(Noise(how=("jitter",)), w_clean=0.3, w_distill=0.5, temperature=2.0)
    objective = Intact(teacher, config, Curriculum("fixed"))
    loss, log = objective(student, (points, mask, labels), context())
    # the same noise again: the same generator, the same saliency
    p = point_saliency(teacher, points, labels, mask)
    noised = targeted_noise(student, points, mask, labels, p, 1.0, config.noise, torch.Generator().manual_seed(1))
    own, soft = student(noised.points, noised.mask), teacher(points, mask)
    a, b = torch.softmax(soft / 2, 1), torch.softmax(own / 2, 1)
    wanted = 0.7 * F.cross_entropy(own, labels) + 0.3 * F.cross_entropy(student(points, mask), labels)
    wanted = wanted + 0.5 * 4 * (a * (a / b).log()).sum(1).mean()
    torch.testing.assert_close(loss, wanted)
    assert log["level"] == 1.0
    assert objective.gradients == 3 * 6  # the teacher's saliency, the noised and the clean clouds


def test_saliency_matching_reaches_the_student_through_a_double_backward_pass() -> None:
    points, mask, labels = batch()
    teacher, student = net(1), net(2)
    config = IntactConfig(Noise(how=("jitter",)), w_clean=0.0, w_distill=0.0, w_saliency=1.0)
    loss, log = Intact(teacher, config, Curriculum("fixed"))(student, (points, mask, labels), context())
    assert float(log["loss_saliency"]) > 0
    torch.testing.assert_close(loss.detach(), log["loss_noised"] + log["loss_saliency"])
    (loss - F.cross_entropy(student(points, mask), labels)).backward()
    assert float(student.point[0].weight.grad.norm()) > 0
    assert all(q.grad is None for q in teacher.parameters())
    # a student that is the teacher, on clouds that are not changed: nothing to match
    still = IntactConfig(Noise(sigma=0.0, drop=0.0), w_clean=0.0, w_distill=0.0, w_saliency=1.0)
    twin = copy.deepcopy(teacher)
    _, log = Intact(teacher, still)(twin, (points, mask, labels), context())
    assert float(log["loss_saliency"]) == pytest.approx(0.0, abs=1e-4)


def test_the_self_paced_curriculum_sees_the_accuracy_on_noised_training_clouds() -> None:
    curriculum = Curriculum("self_paced", step=0.5, up=0.0, down=0.0, momentum=0.0)
    objective = Intact(None, IntactConfig(w_distill=0.0, saliency="uniform"), curriculum)
    student = net()
    levels = [float(objective(student, batch(), context(t))[1]["level"]) for t in range(3)]
    assert levels[0] == 0.0  # nothing was measured yet
    assert levels[1] in (0.0, 0.5)
    assert objective.last is not None
    again = Intact(None, IntactConfig(w_distill=0.0, saliency="uniform"), Curriculum("self_paced"))
    again.load_state_dict(objective.state_dict())
    assert again.last == objective.last


def test_baselines_count_what_they_cost() -> None:
    points, mask, labels = batch()
    for objective, cost in (
        (Plain(), 1),
        (FullNoise(Noise()), 1),
        (PointAdversarial(PointPGD(0.1, steps=3)), 4),
        (Advisor(0.1), 4),
    ):
        loss, _ = objective(net(), (points, mask, labels), context())
        assert loss.requires_grad
        assert objective.gradients == cost * 6, type(objective).__name__


def test_the_advisors_attack_prefers_uncertain_predictions_with_its_entropy_bonus() -> None:
    points, mask, labels = batch()
    model, found = net(), []
    for beta in (0.0, 50.0):
        x = Advisor(0.3, steps=4, beta=beta).attack(model, points, mask, labels, generator(0, "a"))
        with torch.no_grad():
            log_p = model(x, mask).log_softmax(1)
        found.append(float(-(log_p.exp() * log_p).sum(1).mean()))
    assert found[1] > found[0] + 1e-4


# teacher and training


def test_tasks_have_disjoint_halves_and_some_classes() -> None:
    data = solids()
    sampler = CorruptionTasks(data, {PointCorruption("drop"): (0.5,)}, classes=2, size=5, turn=False)
    task = sampler(generator(0, "task"))
    (support, left), labels = task.support
    assert len(labels) == 5
    assert len(set(labels.tolist()) | set(task.query[1].tolist())) <= 2
    assert left.sum(1).tolist() == [16] * 5
    rows = {tuple(x[0].tolist()) for x in support}
    assert not rows & {tuple(x[0].tolist()) for x in task.query[0][0]}
    assert task.name == "drop@0.5"


def test_the_consistency_of_saliency() -> None:
    points, mask, labels = batch()
    same = Task(((points, mask), labels), ((points, mask), labels), extra=(points, mask, labels))
    assert consistency(net(), same).detach().item() == pytest.approx(0.0, abs=1e-5)
    noisy = points + 0.3 * torch.randn(points.shape, generator=generator(0, "noise"))
    other = Task(same.support, ((noisy, mask), labels), extra=same.extra)
    assert consistency(net(), other).detach().item() > 0.01


@pytest.mark.parametrize("first_order", [True, False])
def test_a_teacher_is_meta_trained(first_order: bool) -> None:
    teacher = net()
    before = copy.deepcopy(teacher.state_dict())
    report = meta_teacher(
        teacher, solids(), {PointCorruption("jitter"): (0.2,)}, steps=2, size=4, first_order=first_order, w_consistency=0.1
    )
    assert report.gradients == 2 * 4 * 8
    assert "regulariser" in report.history[0]
    assert not torch.equal(before["head.0.weight"], teacher.state_dict()["head.0.weight"])


def test_training_learns_and_reports() -> None:
    data, val = solids(48), solids(24, split="validation")
    teacher, student = net(1), net(2)
    frozen = copy.deepcopy(teacher.state_dict())
    noise = {PointCorruption("jitter"): (0.2,), PointCorruption("drop"): (0.3,)}
    report = intact_train(
        student, teacher, data, epochs=12, batch_size=8, lr=0.01, validation=val, corruptions=noise, n_points=24
    )
    assert report.table is not None
    assert report.table.clean > 0.8  # a third by chance
    assert [row.corruption for row in report.table.rows] == ["jitter", "drop"]
    assert all(torch.equal(frozen[k], v) for k, v in teacher.state_dict().items())
    assert [level for _, level in report.levels] == sorted(level for _, level in report.levels)
    assert report.gradients > 12 * 48 * 2
    assert report.table.mce(report.table) == pytest.approx(1.0)


def test_the_table_is_the_same_for_the_same_seed_and_refuses_nothing_to_do() -> None:
    data, model = solids(12), net()
    noise = {PointCorruption("jitter"): (0.1, 1.0)}
    one, two = corruption_table(model, data, noise, seed=3), corruption_table(model, data, noise, seed=3)
    assert one == two
    assert one.mean == pytest.approx(sum(one.values) / 2)
    assert one.worst.accuracy == min(one.values)
    with pytest.raises(InputError, match="corruptions"):
        corruption_table(model, data, {})


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: IntactConfig(w_clean=1.5), "w_clean"),
        (lambda: IntactConfig(temperature=0.0), "temperature"),
        (lambda: IntactConfig(saliency="uniform", w_saliency=1.0), "w_saliency"),
        (lambda: Noise(sigma=-1.0), "sigma"),
        (lambda: Noise(target=0.0), "target"),
        (lambda: Noise(how=("rain",)), "how"),  # type: ignore[arg-type]
        (lambda: Intact(None), "teacher"),
        (lambda: intact_train(net(), net(1), "clouds"), "data"),  # type: ignore[arg-type]
        (lambda: intact_train("net", net(1), solids()), "student"),  # type: ignore[arg-type]
        (lambda: intact_train(net(), None, solids()), "teacher"),
        (lambda: intact_train(net(), net(1), solids(), n_points=8), "n_points"),
        (lambda: intact_train(net(classes=2), net(1), solids(), epochs=1), "labels"),
        (lambda: point_saliency(net(), torch.full((1, 16, 3), torch.nan), torch.tensor([0])), "points"),
        (lambda: point_saliency(net(), torch.zeros(1, 4, 3), torch.tensor([0])), "points"),
        (lambda: meta_teacher(net(), solids(), {}), "corruptions"),
        (lambda: meta_teacher(net(), "clouds", {PointCorruption("jitter"): (0.2,)}), "data"),  # type: ignore[arg-type]
        (lambda: meta_teacher(net(), solids(3), {PointCorruption("jitter"): (0.2,)}), "data"),
        (lambda: meta_teacher(net(), solids(), {PointCorruption("jitter"): (1.5,)}), "severity"),
    ],
)
def test_bad_arguments_are_named(make: Any, argument: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert error.value.argument == argument


def test_test_data_are_refused() -> None:
    test = solids(split="test")
    with pytest.raises(SplitError):
        intact_train(net(), net(1), test)
    with pytest.raises(SplitError):
        intact_train(net(), net(1), solids(), validation=test)
    with pytest.raises(SplitError):
        meta_teacher(net(), test, {PointCorruption("jitter"): (0.2,)})


# the claim


@pytest.mark.parametrize(("low", "high"), [(1e-7, 2e-2), (2e-2, 1e-7)])
def test_the_claim_gives_an_arm_the_rate_that_was_better_on_validation_clouds(
    low: float, high: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = claim.CLAIM.scales["smoke"].model_copy(update={"lr": low, "lr_high": high, "budget": 600})
    asked = list[str]()

    def sample(config: Any, split: Any, unit: int, cell: Any = None) -> PointSet:
        asked.append(split)
        return claim.solids(split, unit)

    monkeypatch.setattr(claim, "sample", sample)
    cell, train = Cell("erm", 0, config, Cache(tmp_path)), claim.solids("train", 0)
    first = claim.trained(cell, "erm", train)
    assert first["lr"] == 2e-2
    assert asked == ["validation"]
    # the student of that rate is kept
    again = claim.train_arm(cell, "erm", train, 600, 2e-2)
    monkeypatch.setattr(claim, "train_arm", None)
    kept = claim.trained(cell, "erm", train)
    assert all(torch.equal(a, b) for a, b in zip(kept["student"].parameters(), again["student"].parameters(), strict=True))
    assert {name: kept[name] for name in again if name != "student"} == {n: v for n, v in again.items() if n != "student"}


def test_the_arms_of_the_claim_differ_as_they_are_called(tmp_path: Path) -> None:
    cell = Cell("intact", 0, claim.CLAIM.scales["smoke"], Cache(tmp_path))
    train = claim.solids("train", 0)
    made = {
        arm: claim.objective_of(cell, arm, train, 0, None)[0] for arm in ("intact", "no-targeting", "untargeted-same-share")
    }
    whole, plain, bare = made.values()
    assert (whole.config.saliency, plain.config.saliency, bare.config.saliency) == ("grad", "uniform", "uniform")
    assert whole.config.noise == plain.config.noise == bare.config.noise
    assert whole.config.w_distill == plain.config.w_distill > bare.config.w_distill == 0
    assert bare.teacher is None
    assert all(torch.equal(a, b) for a, b in zip(whole.teacher.parameters(), plain.teacher.parameters(), strict=True))
    untargeted = claim.objective_of(cell, "untargeted-curriculum", train, 0, None)[0]
    assert (untargeted.config.noise.target, whole.config.noise.target) == (1.0, 0.3)
    fixed = claim.objective_of(cell, "no-curriculum", train, 0, None)[0]
    assert (fixed.curriculum.kind, whole.curriculum.kind) == ("fixed", "sqrt")


def test_teacher_and_rates_of_the_claim_see_no_corruption_that_is_called_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, asked = list[Any](), list[Any]()
    real_teacher, real_table = claim.meta_teacher, claim.corruption_table

    def teach(model: Any, data: Any, tasks: Any, **options: Any) -> Any:
        taught.append(tasks)
        return real_teacher(model, data, tasks, **options)

    def table(model: Any, data: Any, corruptions: Any, **options: Any) -> Any:
        asked.append((data.split, corruptions))
        return real_table(model, data, corruptions, **options)

    monkeypatch.setattr(claim, "meta_teacher", teach)
    monkeypatch.setattr(claim, "corruption_table", table)
    cell = Cell("intact", 0, claim.CLAIM.scales["smoke"], Cache(tmp_path))
    metrics = claim.cell(cell)
    assert [{one.name for one in tasks} for tasks in taught] == [set(claim.SEEN)]
    *pilots, last = asked
    assert [split for split, _ in pilots] == ["validation", "validation"]
    assert all({one.name for one in corruptions} == set(claim.SEEN) for _, corruptions in pilots)
    assert last[0] == "test"
    assert metrics["lr"] in (cell.config.lr, cell.config.lr_high)
    rows = [metrics[f"{name}_{s:g}"] for name, strengths in (claim.SEEN | claim.UNSEEN).items() for s in strengths]
    assert metrics["mean_corrupted_accuracy"] == pytest.approx(sum(rows) / len(rows))
    assert metrics["worst"] == min(rows)
