"""MAML and curricula of levels: limit cases, the analytic factor of the second order, schedules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.teaching.curricula.level import Curriculum
from tutelage.teaching.meta import Task, adapted, maml_train, meta_loss


def half(seed: int, n: int = 10) -> tuple[tuple[Tensor], Tensor]:
    g = generator(seed, "half")
    return (torch.randn(n, 3, generator=g, dtype=torch.float64),), torch.randn(n, 1, generator=g, dtype=torch.float64)


def tasks(n: int = 3) -> list[Task]:
    return [Task(half(2 * i), half(2 * i + 1)) for i in range(n)]


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1, bias=False).double()


def gradient(first_order: bool, inner_lr: float, some: list[Task], inner_steps: int = 1) -> Tensor:
    model = linear()
    loss, _ = meta_loss(
        model, some, inner_lr=inner_lr, inner_steps=inner_steps, first_order=first_order, loss=F.mse_loss
    )  # fmt: skip
    loss.backward()
    assert model.weight.grad is not None
    return model.weight.grad.squeeze(0)


def test_with_inner_rate_0_it_is_joint_training_on_the_query_halves() -> None:
    some, model = tasks(), linear()
    pooled = sum(F.mse_loss(model(*task.query[0]), task.query[1]) for task in some) / len(some)
    pooled.backward()
    for first_order in (True, False):
        torch.testing.assert_close(gradient(first_order, 0.0, some), model.weight.grad.squeeze(0))


def test_the_second_order_is_the_first_times_i_minus_a_hessian() -> None:
    # squared loss of a linear model: the Hessian of the support loss is 2 X'X / n, the same everywhere
    (task,) = some = tasks(1)
    a, x = 0.1, task.support[0][0]
    hessian = 2 * x.T @ x / len(x)
    first, whole = gradient(True, a, some), gradient(False, a, some)
    torch.testing.assert_close(whole, (torch.eye(3, dtype=torch.float64) - a * hessian) @ first)
    assert float((whole - first).norm()) > 0.05 * float(first.norm())
    two = gradient(False, a, some, inner_steps=2)
    factor = torch.eye(3, dtype=torch.float64) - a * hessian
    torch.testing.assert_close(two, factor @ factor @ gradient(True, a, some, inner_steps=2))


def test_the_orders_agree_as_the_inner_rate_goes_to_0() -> None:
    some = tasks()
    gaps = [float((gradient(True, a, some) - gradient(False, a, some)).norm()) for a in (1e-1, 1e-3, 1e-5)]
    assert gaps[0] > 50 * gaps[1] > 2500 * gaps[2]
    assert gaps[2] < 1e-3


def test_one_inner_step_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    batch = ((torch.tensor([[1.0], [3.0]]),), torch.tensor([[0.0], [0.0]]))
    # loss 1/2 (w^2 + 9 w^2) = 5 w^2, gradient 10 w = 20; 2 - 0.05 * 20 = 1
    found = adapted(model, dict(model.named_parameters()), batch, inner_lr=0.05, loss=F.mse_loss)
    assert found["weight"].item() == pytest.approx(1.0)
    assert model.weight.item() == 2.0


def test_training_lowers_the_loss_after_a_step_and_counts_what_it_cost() -> None:
    def sampler(g: torch.Generator) -> Task:
        slope = torch.rand((), generator=g) * 4 - 2
        x = torch.rand(2, 8, 1, generator=g) * 2 - 1
        return Task(((x[0],), slope * x[0]), ((x[1],), slope * x[1]))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    report = maml_train(
        model, sampler, steps=60, inner_lr=0.5, first_order=False, lr=0.01, loss=F.mse_loss, seed=3
    )  # fmt: skip
    early, late = (sum(row["loss"] for row in part) / len(part) for part in (report.history[:15], report.history[-15:]))
    assert late < 0.7 * early
    assert report.gradients == 60 * 4 * 16
    assert not model.training


def test_the_schedule_scales_the_meta_rate() -> None:
    def weights(steps: int, factors: tuple[float, ...], rate: float) -> Tensor:
        model, some = linear(), iter(tasks(4))
        sgd = torch.optim.SGD(model.parameters(), lr=rate)
        maml_train(
            model, lambda g: next(some), steps=steps, tasks_per_step=2, optimizer=sgd, loss=F.mse_loss,
            schedule=lambda step, total: factors[step],
        )  # fmt: skip
        return model.weight.detach()

    assert torch.equal(weights(1, (0.0,), 0.1), linear().weight.detach())
    torch.testing.assert_close(weights(1, (0.5,), 0.2), weights(1, (1.0,), 0.1))
    # the base is kept, not what it was scaled to
    torch.testing.assert_close(weights(2, (0.5, 0.0), 0.2), weights(1, (1.0,), 0.1))
    assert not torch.equal(weights(2, (0.0, 1.0), 0.1), linear().weight.detach())
    with pytest.raises(InputError, match="schedule"):
        maml_train(linear(), lambda g: tasks(1)[0], steps=1, schedule=0.5)  # type: ignore[arg-type]


def test_running_statistics_are_refused() -> None:
    with pytest.raises(InputError, match="running statistics"):
        maml_train(nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4)), lambda g: tasks(1)[0], steps=1)


# levels


def test_fixed_schedules_by_hand() -> None:
    assert [Curriculum("linear", until=0.5).level(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert [Curriculum("sqrt", until=1.0).level(p) for p in (0.0, 0.25, 1.0)] == [0.0, 0.5, 1.0]
    assert Curriculum("fixed").level(0.0) == 1.0


@pytest.mark.parametrize("kind", ["linear", "sqrt"])
def test_fixed_schedules_never_fall(kind: str) -> None:
    curriculum = Curriculum(kind)  # type: ignore[arg-type]
    levels = [curriculum.level(i / 50) for i in range(51)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0.0, 1.0)


def test_the_self_paced_level_goes_with_the_accuracy() -> None:
    curriculum = Curriculum("self_paced", step=0.25, momentum=0.0)
    assert curriculum.level(0.9) == 0.0  # nothing was measured yet
    assert [curriculum.level(0.1, m) for m in (0.8, 0.9, 0.6, 0.3, 0.9, 0.9, 0.9, 0.9)] == [
        0.25, 0.5, 0.5, 0.25, 0.5, 0.75, 1.0, 1.0,
    ]  # fmt: skip
    saved = curriculum.state_dict()
    again = Curriculum("self_paced", step=0.25, momentum=0.0)
    again.load_state_dict(saved)
    assert again.level(0.1, 0.2) == 0.75


def test_curricula_that_make_no_sense_are_refused() -> None:
    for wrong in ({"kind": "cubic"}, {"until": 0.0}, {"until": 1.5}, {"up": 0.3, "down": 0.4}, {"momentum": 2.0}):
        with pytest.raises(InputError):
            Curriculum(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="progress"):
        Curriculum().level(1.5)
