"""Objectives that methods are compared with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import Noise
from tutelage.teaching.fit import Context
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy, RobustDistillation
from tutelage.teaching.teachers import Teacher
from tutelage.threats import PGD, Linf, kl_to_reference


class Shift:
    """An attack that adds a constant and remembers what it was given."""

    def __init__(self, by: float = 0.0) -> None:
        self.by = by
        self.references: list[Tensor | None] = []
        self.generators: list[Noise] = []

    def __call__(self, x: Tensor, y: Tensor, *, model: nn.Module, generator: Noise, reference: Tensor | None = None) -> Tensor:
        self.references.append(reference)
        self.generators.append(generator)
        return x + self.by


def context(step: int = 0) -> Context:
    return Context(step, 10, 1.0, torch.Generator().manual_seed(5))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch() -> tuple[Tensor, Tensor]:
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)) / 2
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


class Fixed(nn.Module):
    """The same logits for every sample."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_cross_entropy_by_hand() -> None:
    # p = (1/4, 3/4): -ln(3/4) for class 1, -ln(1/4) for class 0
    model, x = Fixed(0.0, math.log(3)), torch.zeros(2, 4)
    loss, extra = CrossEntropy()(model, (x, torch.tensor([1, 0])), context())
    assert float(loss.detach()) == pytest.approx((0.2876821 + 1.3862944) / 2, abs=1e-6)
    assert extra == {}


@pytest.mark.parametrize("attacked", [False, True])
def test_label_smoothing_by_hand(attacked: bool) -> None:
    # smoothing 0.2 over 2 classes: target (0.1, 0.9); -0.1 ln(1/4) - 0.9 ln(3/4) = 0.1386294 + 0.2589139 = 0.3975433
    model, x, y = Fixed(0.0, math.log(3)), torch.zeros(2, 4), torch.tensor([1, 1])
    objective = AdversarialTraining(Shift(), label_smoothing=0.2) if attacked else CrossEntropy(label_smoothing=0.2)
    assert float(objective(model, (x, y), context())[0].detach()) == pytest.approx(0.3975433, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_adversarial_training_with_an_identity_attack_is_cross_entropy(smoothing: float) -> None:
    model = net()
    ours, _ = AdversarialTraining(Shift(0.0), label_smoothing=smoothing)(model, batch(), context())
    plain, _ = CrossEntropy(label_smoothing=smoothing)(model, batch(), context())
    assert float(ours.detach()) == float(plain.detach())
    for a, b in zip(gradient(model, ours), gradient(model, plain), strict=True):
        assert torch.equal(a, b)


def test_adversarial_training_learns_at_the_attacked_point_with_the_runs_generator() -> None:
    model, (x, y), ctx, attack = net(), batch(), context(), Shift(0.3)
    loss, _ = AdversarialTraining(attack)(model, (x, y), ctx)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(model(x + 0.3), y))
    assert attack.generators == [ctx.generator]


def test_the_student_is_attacked_in_eval_mode_and_trained_in_train_mode() -> None:
    modes: list[bool] = []

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            out: Tensor = self.inner(x)
            return out

    model = Recording().train()
    loss, _ = AdversarialTraining(PGD(Linf(0.1), steps=3))(model, batch(), context())
    assert modes == [False] + [False] * 3 + [True]  # the check of the first batch, the steps of the attack, the loss
    assert all(g.abs().sum() > 0 for g in gradient(model, loss))


def test_rslad_weights_both_divergences_from_the_clean_answer_of_the_teacher() -> None:
    student, expert, (x, y) = net(0), net(1), batch()
    attack = Shift(0.25)
    total, log = RobustDistillation(Teacher(expert), attack)(student, (x, y), context())
    p = expert(x).softmax(1).detach()

    def divergence(at: Tensor) -> Tensor:
        return (p * (p.log() - student(at).log_softmax(1))).sum(1).mean()

    robust, clean = divergence(x + 0.25), divergence(x)
    assert abs(float((robust - clean).detach())) > 1e-3
    torch.testing.assert_close(total, 5 / 6 * robust + 1 / 6 * clean)
    torch.testing.assert_close(log["loss_robust"], robust.detach())
    torch.testing.assert_close(log["loss_clean"], clean.detach())
    assert attack.references[0] is not None
    torch.testing.assert_close(attack.references[0], expert(x).detach())
    assert all(p.grad is None for p in expert.parameters())


@pytest.mark.parametrize(("weight", "which"), [(1.0, "loss_robust"), (0.0, "loss_clean")])
def test_rslad_with_all_weight_on_one_side(weight: float, which: str) -> None:
    total, log = RobustDistillation(Teacher(net(1)), Shift(0.25), adversarial=weight)(net(0), batch(), context())
    assert float(total.detach()) == pytest.approx(float(log[which]), abs=1e-7)


def test_rslad_reduction_mean_is_one_third_for_three_classes() -> None:
    totals = [
        float(RobustDistillation(Teacher(net(1)), Shift(0.25), reduction=r)(net(0), batch(), context())[0].detach())
        for r in ("batchmean", "mean")
    ]
    assert totals[1] == pytest.approx(totals[0] / 3, rel=1e-6)


def test_rslad_attack_climbs_away_from_the_teacher() -> None:
    student, teacher, (x, y) = net(0), Teacher(net(1)), batch()
    attack = PGD(Linf(0.2), steps=5, objective=kl_to_reference)
    _, log = RobustDistillation(teacher, attack)(student, (x, y), context())
    assert float(log["loss_robust"]) > float(log["loss_clean"])


def test_rslad_asks_its_teacher_once_a_batch_and_its_meter_survives() -> None:
    first = RobustDistillation(Teacher(net(1)), Shift())
    for step in range(3):
        first(net(0), batch(), context(step))
    second = RobustDistillation(Teacher(net(1)), Shift())
    second.load_state_dict(first.state_dict())
    assert second.teacher.spent == 18


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_rslad_refuses_a_weight_outside_0_to_1(weight: float) -> None:
    with pytest.raises(InputError, match="adversarial"):
        RobustDistillation(Teacher(net(1)), Shift(), adversarial=weight)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_outside_0_to_1_is_refused(smoothing: float) -> None:
    with pytest.raises(InputError, match="label_smoothing"):
        CrossEntropy(label_smoothing=smoothing)
    with pytest.raises(InputError, match="label_smoothing"):
        AdversarialTraining(Shift(), label_smoothing=smoothing)


def test_rslad_refuses_inputs_outside_0_to_1_before_the_attack() -> None:
    attack, (x, y) = Shift(), batch()
    with pytest.raises(InputError, match="x: got values"):
        RobustDistillation(Teacher(net(1)), attack)(net(0), (x * 255, y), context())
    assert attack.references == []


@pytest.mark.parametrize("distilled", [False, True])
def test_a_label_beyond_the_classes_is_told_before_the_attack_in_any_batch(distilled: bool) -> None:
    attack, (x, y) = Shift(0.1), batch()
    objective = RobustDistillation(Teacher(net(1)), attack) if distilled else AdversarialTraining(attack)
    for step, labels in enumerate((y, y + 1)):
        if step:
            with pytest.raises(InputError, match="y: got label 3, wanted labels from 0 to 2"):
                objective(net(), (x, labels), context(step))
        else:
            objective(net(), (x, labels), context(step))
    assert len(attack.references) == 1


def test_adversarial_training_takes_features_of_any_range_that_its_attack_takes() -> None:
    x, y = batch()
    loss, _ = AdversarialTraining(PGD(Linf(0.1), steps=1, bounds=None))(net(), (10 * x - 3, y), context())
    assert torch.isfinite(loss)
