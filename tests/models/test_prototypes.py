"""Class prototypes and the tap on a head: values by hand, absent classes, one pass for logits and features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.prototypes import HeadTap, class_prototypes, nearest_prototype


class Pixels(nn.Module):
    """The features are the pixels themselves."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.same, self.head = nn.Flatten(), nn.Linear(2, classes)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        out: Tensor = self.head(self.same(x))
        return out


X = torch.tensor([[0.0, 1.0], [0.5, 0.0], [1.0, 1.0], [0.5, 0.5]]).reshape(4, 1, 1, 2)
Y = torch.tensor([0, 1, 0, 1])


def test_prototypes_by_hand_whatever_the_batches() -> None:
    wanted = torch.tensor([[0.5, 1.0], [0.5, 0.25]])
    for size in (1, 3, 4):
        batches = list(zip(X.split(size), Y.split(size), strict=True))
        torch.testing.assert_close(class_prototypes(Pixels(), batches, head="head"), wanted)


def test_the_model_comes_back_as_it_was() -> None:
    model = Pixels().train()
    class_prototypes(model, [(X, Y)])
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not model.head._forward_pre_hooks


def test_a_class_without_a_sample_is_named() -> None:
    with pytest.raises(InputError, match=r"no sample of class 2, 3"):
        class_prototypes(Pixels(4), [(X, Y)])


def test_no_more_samples_are_read_than_wanted() -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield X, Y
        raise AssertionError("one batch too many")

    class_prototypes(Pixels(), batches(), head="head", limit=4)
    with pytest.raises(InputError, match="no batches"):
        class_prototypes(Pixels(), [])


def test_the_nearest_prototype_is_that_of_the_highest_cosine_not_of_the_smallest_distance() -> None:
    prototypes = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    assert nearest_prototype(prototypes, torch.tensor([[0.2, 0.1], [0.1, 0.2]])).tolist() == [0, 1]


def test_a_tap_needs_one_pass_and_gradients_flow() -> None:
    model = Pixels()
    tap = HeadTap(model, "head")
    inputs = X.clone().requires_grad_()
    logits, features = tap(inputs)
    assert model.passes == 1
    torch.testing.assert_close(model.head(features), logits)
    (2 * features).sum().backward()
    assert inputs.grad is not None
    assert bool((inputs.grad == 2).all())
    tap.close()
    with pytest.raises(InputError, match="no tensor"):
        tap(X)


def test_a_head_on_maps_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten())
    with pytest.raises(InputError, match="one vector a sample"):
        HeadTap(model, "0")(torch.rand(2, 1, 4, 4))
    with pytest.raises(InputError, match="near"):
        HeadTap(model, "head")
