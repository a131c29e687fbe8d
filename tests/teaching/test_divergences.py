"""Divergences against arithmetic done by hand and against torch.distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from tutelage.core.errors import InputError
from tutelage.teaching.divergences import entropy, kl

LN3 = math.log(3)
TEACHER = torch.tensor([[0.0, LN3], [1.0, 1.0]])  # p = (1/4, 3/4) and (1/2, 1/2)
STUDENT = torch.tensor([[5.0, 5.0], [-2.0, -2.0]])  # q = (1/2, 1/2) twice
# KL of the first sample: 1/4 ln(1/2) + 3/4 ln(3/2) = -0.1732868 + 0.3040988 = 0.1308120; of the second: 0
FIRST = 0.1308120


def test_kl_by_hand_in_all_reductions() -> None:
    assert kl(TEACHER, STUDENT, reduction="none").tolist() == pytest.approx([FIRST, 0.0], abs=1e-6)
    assert float(kl(TEACHER, STUDENT)) == pytest.approx(FIRST / 2, abs=1e-6)
    assert float(kl(TEACHER, STUDENT, reduction="batchmean")) == pytest.approx(FIRST / 2, abs=1e-6)
    assert float(kl(TEACHER, STUDENT, reduction="mean")) == pytest.approx(FIRST / 4, abs=1e-6)


def test_kl_is_not_symmetric_and_the_teacher_comes_first() -> None:
    # KL(q || p) = 1/2 ln 2 + 1/2 ln(2/3) = 0.3465736 - 0.2027326 = 0.1438410
    assert float(kl(STUDENT[:1], TEACHER[:1])) == pytest.approx(0.1438410, abs=1e-6)


def test_each_temperature_divides_its_own_logits_and_no_square_is_applied() -> None:
    assert float(kl(2 * TEACHER, STUDENT, teacher_temperature=2)) == pytest.approx(FIRST / 2, abs=1e-6)
    # student logits (0, 2 ln 3) at T = 2 are q = (1/4, 3/4), the teacher's own p: KL 0
    assert float(kl(TEACHER[:1], 2 * TEACHER[:1], student_temperature=2)) == pytest.approx(0, abs=1e-6)
    # at T = 1 they are q = (1/10, 9/10): 1/4 ln(2.5) + 3/4 ln(5/6) = 0.2290727 - 0.1367412 = 0.0923315
    assert float(kl(TEACHER[:1], 2 * TEACHER[:1])) == pytest.approx(0.0923315, abs=1e-6)


@pytest.mark.parametrize(("t_teacher", "t_student"), [(1.0, 1.0), (4.0, 1.0), (1.0, 2.5), (0.5, 7.0)])
def test_kl_and_entropy_agree_with_torch_distributions(t_teacher: float, t_student: float) -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn(16, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    expected = kl_divergence(Categorical(logits=a / t_teacher), Categorical(logits=b / t_student))
    options: dict[str, Any] = {"teacher_temperature": t_teacher, "student_temperature": t_student}
    torch.testing.assert_close(kl(a, b, reduction="none", **options), expected)
    torch.testing.assert_close(kl(a, b, reduction="mean", **options), expected.mean() / 7)
    torch.testing.assert_close(entropy(a, temperature=t_teacher, reduction="none"), Categorical(logits=a / t_teacher).entropy())


def test_the_gradient_for_the_student_is_q_minus_p() -> None:
    student = STUDENT.clone().requires_grad_()
    kl(TEACHER, student).backward()
    # mean over 2 samples: (q - p)/2 = (1/4, -1/4)/2 and 0
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[0.125, -0.125], [0.0, 0.0]]))


def test_entropy_by_hand() -> None:
    # H(1/4, 3/4) = 1/4 ln 4 + 3/4 ln(4/3) = 0.3465736 + 0.2157616 = 0.5623351; H(1/2, 1/2) = ln 2
    assert entropy(TEACHER, reduction="none").tolist() == pytest.approx([0.5623351, math.log(2)], abs=1e-6)
    assert float(entropy(TEACHER)) == pytest.approx((0.5623351 + math.log(2)) / 2, abs=1e-6)
    assert float(entropy(TEACHER, reduction="mean")) == pytest.approx((0.5623351 + math.log(2)) / 4, abs=1e-6)
    assert float(entropy(2 * TEACHER[:1], temperature=2)) == pytest.approx(0.5623351, abs=1e-6)
    assert float(entropy(torch.zeros(3, 10))) == pytest.approx(math.log(10), abs=1e-6)


def test_saturated_logits_stay_finite() -> None:
    sharp, other = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]])
    assert float(entropy(sharp)) == 0
    # p is (1, 0, 0), log q of the first class is -2e4: KL = 2e4
    assert float(kl(sharp, other)) == pytest.approx(2e4)


@pytest.mark.parametrize("student", [torch.zeros(2, 3), torch.zeros(1, 2), torch.zeros(2, 1), torch.zeros(2)])
def test_other_shapes_are_refused_and_not_broadcast(student: torch.Tensor) -> None:
    with pytest.raises(InputError, match="student_logits"):
        kl(TEACHER, student)


def test_an_unknown_reduction_is_refused() -> None:
    unknown: Any = "sum"
    with pytest.raises(InputError, match="reduction"):
        kl(TEACHER, STUDENT, reduction=unknown)
    with pytest.raises(InputError, match="reduction"):
        entropy(TEACHER, reduction=unknown)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_that_are_not_above_zero_are_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature"):
        kl(TEACHER, STUDENT, teacher_temperature=temperature)
    with pytest.raises(InputError, match="temperature"):
        kl(TEACHER, STUDENT, student_temperature=temperature)
    with pytest.raises(InputError, match="temperature"):
        entropy(TEACHER, temperature=temperature)
