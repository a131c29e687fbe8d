"""Latent search on a model that is no language model: an image transformer, any loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.threats.latent import LatentBall, random_delta, search


class Stream(nn.Module):
    """Two pre-norm blocks over (B, T, 4): x + W norm(x)."""

    def __init__(self) -> None:
        super().__init__()
        g = generator(0, "stream")
        self.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(2)])
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def setting() -> tuple[Stream, Tensor, Tensor]:
    x = torch.randn(3, 5, 4, generator=generator(1))
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return Stream().eval(), x, mask


def test_a_linear_loss_by_hand() -> None:
    """What is added to the last block's output moves a linear loss straight. Adam's steps are then lr times the sign of the
    gradient, and projected they end on the edge in that direction.
    """
    model, x, mask = setting()
    direction = torch.tensor([3.0, 0.0, -4.0, 0.0])
    delta = search(model, [-1], LatentBall(0.5), mask, lambda: (model(x) @ direction).sum(1), steps=60, lr=0.05)
    wanted = torch.where(mask[..., None], -0.5 * direction.sign() / 2**0.5, 0.0)
    torch.testing.assert_close(delta.layers[-1], wanted, atol=1e-4, rtol=0)
    assert torch.equal(delta.layers[-1][~mask], torch.zeros(2, 4))


def test_a_radius_for_each_layer_and_none_at_one() -> None:
    model, x, mask = setting()
    ball = LatentBall({0: 0.0, "blocks.1": 1.0})
    delta = search(model, [0, "blocks.1"], ball, mask, lambda: model(x).square().sum((1, 2)), steps=5, lr=0.5)
    assert float(delta.layers[0].abs().max()) == 0
    assert float(ball.sizes(delta.layers["blocks.1"]).max()) == pytest.approx(1.0, abs=1e-6)
    assert len(delta.losses) == 5


def test_best_is_never_worse_than_the_start() -> None:
    model, x, mask = setting()

    def loss() -> Tensor:
        return model(x).square().sum((1, 2))

    clean = loss().detach()
    wild = search(model, [0], LatentBall(3.0), mask, loss, steps=3, lr=50.0, keep="best")
    assert wild.loss is not None
    assert bool((wild.loss <= clean * (1 + 1e-5)).all())
    again = search(model, [0], LatentBall(3.0), mask, loss, steps=10, lr=0.1, start=wild, keep="best")
    assert again.loss is not None
    assert bool((again.loss <= wild.loss * (1 + 1e-5)).all())
    assert float(again.loss.sum()) < float(wild.loss.sum())


def test_copies_share_a_perturbation() -> None:
    model, x, mask = setting()
    twice = torch.cat([x, x])

    def loss() -> Tensor:
        one, two = model(twice).square().sum((1, 2)).chunk(2)
        return one + two

    shared = search(model, [0], LatentBall(1.0), mask, loss, steps=4, lr=0.1, copies=2)
    alone = search(model, [0], LatentBall(1.0), mask, lambda: 2 * model(x).square().sum((1, 2)), steps=4, lr=0.1)
    torch.testing.assert_close(shared.layers[0], alone.layers[0])
    assert shared.take(torch.tensor([2, 0])).layers[0].shape == (2, 5, 4)


def test_random_fills_the_ball() -> None:
    model, x, mask = setting()
    big, m = x.repeat(200, 1, 1), mask.repeat(200, 1)
    part = random_delta(model, [0], LatentBall(2.0), m, lambda: model(big), generator=generator(0)).layers[0]
    sizes = part.norm(dim=2)[m]
    assert float(sizes.max()) <= 2 + 1e-6
    assert float(sizes.mean()) == pytest.approx(2 * 4 / 5, rel=0.03)  # uniform in 4 dimensions
    assert float(part[m].mean(0).norm()) < 0.1


def test_bad_arguments_are_named() -> None:
    model, x, mask = setting()
    good = {"steps": 1, "lr": 0.1}
    for eps in (-1.0, float("nan"), True):
        with pytest.raises(InputError, match="eps"):
            LatentBall(eps)
    with pytest.raises(InputError, match="eps"):
        search(model, [0], LatentBall({1: 1.0}), mask, lambda: model(x).sum((1, 2)), **good)
    with pytest.raises(InputError, match="loss"):
        search(model, [0], LatentBall(1.0), mask, lambda: model(x).sum(), **good)
    with pytest.raises(InputError, match="mask"):
        search(model, [0], LatentBall(1.0), mask[:, :3], lambda: model(x).sum((1, 2)), **good)
    with pytest.raises(InputError, match="layers"):
        search(model, [], LatentBall(1.0), mask, lambda: model(x).sum((1, 2)), **good)
    with pytest.raises(InputError, match="lr"):
        search(model, [0], LatentBall(1.0), mask, lambda: model(x).sum((1, 2)), lr=0.0)
    other = search(model, [1], LatentBall(1.0), mask, lambda: model(x).sum((1, 2)), **good)
    with pytest.raises(InputError, match="start"):
        search(model, [0], LatentBall(1.0), mask, lambda: model(x).sum((1, 2)), start=other, **good)
