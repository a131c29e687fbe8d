"""Reference nets for point clouds: masks, permutations, and the wrapper for nets without masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.models.points import DGCNN, PointNet, WithoutMask, masked_max
from tutelage.models.points.dgcnn import neighbours


def nets() -> list[nn.Module]:
    torch.manual_seed(0)
    return [PointNet(3, (8, 16), head=8).eval(), DGCNN(3, (8, 8), k=4, head=8).eval()]


def batch(n: int = 24) -> tuple[Tensor, Tensor]:
    points = torch.randn(2, n, 3, generator=generator(0, "points"))
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[0, 20:], mask[1, 3] = False, False
    return points, mask


@pytest.mark.parametrize("which", [0, 1], ids=["pointnet", "dgcnn"])
def test_masked_points_do_not_influence_the_logits(which: int) -> None:
    net, (points, mask) = nets()[which], batch()
    before = net(points, mask)
    moved = torch.where(mask[..., None], points, torch.full_like(points, 1000.0))
    assert torch.equal(net(moved, mask), before)
    kept = net(points[:1, :20])  # as if they had never been there
    torch.testing.assert_close(kept[0], before[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("which", [0, 1], ids=["pointnet", "dgcnn"])
def test_the_order_of_the_points_does_not_matter(which: int) -> None:
    net, (points, mask) = nets()[which], batch()
    order = torch.randperm(24, generator=generator(0, "order"))
    torch.testing.assert_close(net(points[:, order], mask[:, order]), net(points, mask), atol=1e-5, rtol=0)


def test_a_net_is_the_same_for_a_mask_of_true_and_for_none() -> None:
    points = batch()[0]
    for net in nets():
        torch.testing.assert_close(net(points, torch.ones(2, 24, dtype=torch.bool)), net(points), atol=1e-6, rtol=0)


def test_the_masked_maximum_by_hand() -> None:
    features = torch.tensor([[[1.0, -5.0], [3.0, -7.0]], [[1.0, 2.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_max(features, mask).tolist() == [[3.0, -5.0], [1.0, 2.0]]
    assert masked_max(features, torch.zeros(2, 2, dtype=torch.bool)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_neighbours_are_real_points_and_repeat_where_there_are_too_few() -> None:
    line = torch.tensor([[[0.0], [1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert neighbours(line, mask, 2)[0, :3].tolist() == [[0, 1], [1, 0], [2, 1]]
    few = neighbours(line, torch.tensor([[True, False, False, False]]), 3)[0, 0]
    assert few.tolist() == [0, 0, 0]


def test_a_net_without_masks_sees_only_real_points() -> None:
    class Pooled(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return points.amax(2)  # (B, 3, N) -> (B, 3)

    points, mask = batch()
    points = torch.where(mask[..., None], points, torch.full_like(points, 1000.0))
    out = WithoutMask(Pooled(), channels_first=True)(points, mask)
    torch.testing.assert_close(out, masked_max(points, mask))


def test_wrong_shapes_are_refused() -> None:
    net = nets()[0]
    for shape in ((2, 24, 2), (2, 8, 3), (24, 3)):
        with pytest.raises(InputError, match="points"):
            net(torch.zeros(shape))
    with pytest.raises(InputError, match="widths"):
        PointNet(3, ())
