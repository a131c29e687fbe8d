"""Teachers: frozen, metered, handed back as they were, asked once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, ModelChanged, QueryBudgetExceeded
from tutelage.models.loading import fingerprint
from tutelage.teaching.teachers import QueryBudget, Teacher, remembered_logits


class Spy(nn.Module):
    """A small net with BatchNorm and dropout that remembers how it was called."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, classes), nn.Dropout(0.5))
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        out: Tensor = self.body(x)
        return out


def inputs(n: int = 6) -> Tensor:
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(1))


def test_a_query_is_in_eval_mode_without_gradient_and_repeatable() -> None:
    model = Spy().train()
    teacher, x = Teacher(model), inputs().requires_grad_()
    first, second = teacher.query(x).logits, teacher.query(x).logits
    assert model.calls == [(6, False, False)] * 2
    assert not first.requires_grad
    assert first.grad_fn is None
    assert torch.equal(first, second)  # in train mode dropout and BatchNorm would make these differ
    torch.testing.assert_close(first, model.eval().body(x).detach())


class Prior(nn.Module):
    """Says the same of every input: its answer is a view of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.0, 2.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_no_gradient_reaches_a_teacher_that_answers_with_its_own_parameter() -> None:
    model = Prior()
    logits = Teacher(model).query(inputs()).logits
    assert not logits.requires_grad
    student = torch.zeros(6, 3, requires_grad=True)
    ((student - logits) ** 2).sum().backward()
    assert model.logits.grad is None


def test_the_model_is_handed_back_as_it_was() -> None:
    model = Spy().train()
    model.body[0].eval()
    model.body[1].bias.requires_grad_(False)
    before, flags = fingerprint(model), [p.requires_grad for p in model.parameters()]
    Teacher(model).query(inputs())
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == flags
    assert fingerprint(model) == before
    assert all(p.grad is None for p in model.parameters())


def test_modes_are_put_back_after_a_failure_and_it_is_not_metered() -> None:
    model = Spy().train()
    teacher = Teacher(model)
    with pytest.raises(InputError, match="teacher: got RuntimeError"):
        teacher.query(torch.rand(2, 5))
    assert model.training
    assert teacher.spent == 0


def test_queries_are_metered_in_samples() -> None:
    teacher = Teacher(Spy())
    teacher.query(inputs(6))
    teacher.query(inputs(5))
    assert teacher.spent == 11


def test_the_budget_is_enforced_before_the_query() -> None:
    model = Spy()
    teacher = Teacher(model, name="the expensive one", budget=QueryBudget(10))
    teacher.query(inputs(6))
    with pytest.raises(QueryBudgetExceeded, match=r"the expensive one: 6 of 10.*5 more"):
        teacher.query(inputs(5))
    assert len(model.calls) == 1
    teacher.query(inputs(4))  # exactly the budget
    assert teacher.spent == 10


def test_the_meter_survives_a_checkpoint() -> None:
    first = Teacher(Spy(), budget=QueryBudget(10))
    first.query(inputs(8))
    second = Teacher(Spy(), budget=QueryBudget(10))
    second.load_state_dict(first.state_dict())
    assert second.spent == 8
    with pytest.raises(QueryBudgetExceeded):
        second.query(inputs(3))


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value


@pytest.mark.parametrize(
    "value",
    [{"logits": torch.zeros(2, 3)}, torch.zeros(2), torch.zeros(3, 3), torch.zeros(2, 1), torch.full((2, 3), torch.nan)],
)
def test_answers_that_are_no_logits_are_refused_by_name(value: Any) -> None:
    with pytest.raises(InputError, match="my teacher"):
        Teacher(Returns(value), name="my teacher").query(torch.zeros(2, 4))


def test_something_that_is_no_module_is_refused() -> None:
    wrong: Any = lambda x: x  # noqa: E731
    with pytest.raises(InputError, match="oracle"):
        Teacher(wrong, name="oracle")


class Counting(nn.Module):
    """Changes a buffer even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x[:, :3]


def test_a_teacher_that_changes_itself_is_reported_and_put_back() -> None:
    model = Counting()
    with pytest.raises(ModelChanged, match="seen"):
        Teacher(model).query(inputs())
    assert float(model.seen) == 0


def test_remembered_logits_asks_once(tmp_path: Path) -> None:
    model = Spy()
    teacher, x = Teacher(model), inputs(7)
    first = remembered_logits(teacher, x, tmp_path, batch_size=3)
    assert [n for n, _, _ in model.calls] == [3, 3, 1]
    assert teacher.spent == 7
    again = remembered_logits(teacher, x, tmp_path, batch_size=3)
    assert len(model.calls) == 3
    assert teacher.spent == 7
    assert torch.equal(first, again)
    torch.testing.assert_close(first, teacher.query(x).logits)


def test_another_teacher_or_other_inputs_are_asked_anew(tmp_path: Path) -> None:
    model, x = Spy(), inputs(4)
    teacher = Teacher(model)
    old = remembered_logits(teacher, x, tmp_path)
    with torch.no_grad():
        model.body[1].bias += 1
    torch.testing.assert_close(remembered_logits(teacher, x, tmp_path), old + 1)
    remembered_logits(teacher, x.flip(0), tmp_path)
    assert teacher.spent == 12


def test_remembering_respects_the_budget_and_leaves_nothing_behind(tmp_path: Path) -> None:
    teacher = Teacher(Spy(), budget=QueryBudget(5))
    with pytest.raises(QueryBudgetExceeded):
        remembered_logits(teacher, inputs(7), tmp_path, batch_size=3)
    assert list(tmp_path.iterdir()) == []
