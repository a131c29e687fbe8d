"""Objectives of attacks: values and gradients computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tutelage.core.errors import InputError
from tutelage.threats import AttackBatch, cross_entropy, dlr, kl_to_reference, margin, misclassified

# Three classes. First row: e^2 + e^0 + e^1 = 7.389056 + 1 + 2.718282 = 11.107338, its log is 2.407606.
# Second row: all equal, the log of the sum is log 3 = 1.098612.
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def batch(y: list[int], target: list[int] | None = None, reference: torch.Tensor | None = None) -> AttackBatch:
    return AttackBatch(torch.zeros(len(y), 1), torch.tensor(y), None if target is None else torch.tensor(target), reference)


def test_cross_entropy_by_hand() -> None:
    # 2.407606 - 2 for class 0; log 3
    torch.testing.assert_close(cross_entropy(LOGITS, batch([0, 2])), torch.tensor([0.407606, 1.098612]))


def test_cross_entropy_to_a_target_by_hand() -> None:
    # towards class 1: -(2.407606 - 0); the label is ignored
    torch.testing.assert_close(cross_entropy(LOGITS, batch([0, 2], [1, 1])), torch.tensor([-2.407606, -1.098612]))


def test_margin_by_hand() -> None:
    # y = 0: max(0, 1) - 2 = -1; y = 1: max(2, 1) - 0 = 2; y = 2: max(2, 0) - 1 = 1
    assert margin(LOGITS[[0, 0, 0]], batch([0, 1, 2])).tolist() == [-1.0, 2.0, 1.0]
    # t = 0: 2 - max(0, 1) = 1; t = 1: 0 - max(2, 1) = -2
    assert margin(LOGITS[[0, 0]], batch([2, 2], [0, 1])).tolist() == [1.0, -2.0]


def test_margin_of_negative_logits_by_hand() -> None:
    # the label itself must not count among the others, nor may a 0 slip in: max(-5, -4) - (-3) = -1
    assert margin(torch.tensor([[-3.0, -5.0, -4.0]]), batch([0])).tolist() == [-1.0]


def test_margin_gradient_by_hand() -> None:
    logits = LOGITS[:1].clone().requires_grad_()
    (grad,) = torch.autograd.grad(margin(logits, batch([0])).sum(), logits)
    assert grad.tolist() == [[-1.0, 0.0, 1.0]]  # down with the label, up with the runner-up


def test_dlr_by_hand() -> None:
    z = torch.tensor([[4.0, 1.0, 3.0, 0.0]])
    # y = 0: (3 - 4) / (4 - 1); y = 1: (4 - 1) / (4 - 1)
    torch.testing.assert_close(dlr(z[[0, 0]], batch([0, 1])), torch.tensor([-1 / 3, 1.0]))
    # y = 0 towards 3: (0 - 4) / (4 - (1 + 0) / 2)
    torch.testing.assert_close(dlr(z, batch([0], [3])), torch.tensor([-4 / 3.5]))


def test_dlr_does_not_change_with_scale_and_shift() -> None:
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) * 3
    for extra in (batch([0, 1, 2, 3, 4]), batch([0, 1, 2, 3, 4], [5, 5, 5, 5, 5])):
        torch.testing.assert_close(dlr(1000 * z + 7, extra), dlr(z, extra), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("classes", "target"), [(2, None), (3, [1])])
def test_dlr_needs_classes_to_compare(classes: int, target: list[int] | None) -> None:
    with pytest.raises(InputError, match=f"^objective: got dlr with {classes} classes, wanted at least"):
        dlr(torch.zeros(1, classes), batch([0], target))


def test_kl_by_hand() -> None:
    # p = (1/2, 1/2), q = (4/5, 1/5): 0.5 ln(0.5/0.8) + 0.5 ln(0.5/0.2) = 0.5 * (-0.470004 + 0.916291) = 0.223144
    logits, reference = torch.tensor([[math.log(4.0), 0.0]]), torch.zeros(1, 2)
    torch.testing.assert_close(kl_to_reference(logits, batch([0], None, reference)), torch.tensor([0.223144]))
    # the other way round: 0.8 ln(0.8/0.5) + 0.2 ln(0.2/0.5) = 0.376003 - 0.183258 = 0.192745
    torch.testing.assert_close(kl_to_reference(reference, batch([0], None, logits)), torch.tensor([0.192745]))


def test_kl_to_itself_is_zero() -> None:
    torch.testing.assert_close(kl_to_reference(LOGITS, batch([0, 0], None, LOGITS + 7)), torch.zeros(2), atol=1e-6, rtol=0)


def test_kl_without_reference() -> None:
    with pytest.raises(InputError, match="reference"):
        kl_to_reference(LOGITS, batch([0, 0]))


def test_misclassified_by_hand() -> None:
    assert misclassified(LOGITS[[0, 0]], batch([0, 1])).tolist() == [False, True]
    assert misclassified(LOGITS[[0, 0]], batch([0, 1], [0, 1])).tolist() == [True, False]


def test_a_part_of_a_batch_keeps_its_rows_together() -> None:
    whole = AttackBatch(torch.arange(3.0)[:, None], torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2]), LOGITS[[0, 1, 0]])
    part = whole.take(torch.tensor([2, 0]))
    assert part.x.tolist() == [[2.0], [0.0]]
    assert part.y.tolist() == [7, 5]
    assert part.target is not None
    assert part.target.tolist() == [2, 0]
    assert part.reference is not None
    assert part.reference.tolist() == [[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]]
    bare = AttackBatch(whole.x, whole.y).take(torch.tensor([1]))
    assert bare.target is None
    assert bare.reference is None
