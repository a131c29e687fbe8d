"""The point corruption suite: strengths, masks, seeds, what is refused; and the attack of balls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.threats.points import NAMES, PointCorruption, PointPGD, corrupt_points, point_corruptions, within_balls


def cloud(b: int = 3, n: int = 200) -> Tensor:
    x = torch.randn(b, n, 3, generator=generator(0, "cloud"))
    return x / x.norm(dim=2, keepdim=True)


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_changes_nothing_and_1_something(name: str) -> None:
    x, corruption = cloud(), PointCorruption(name)
    points, mask = corruption(x, 0.0, generator(0, "c"))
    assert torch.equal(points, x)
    assert bool(mask.all())
    points, mask = corruption(x, 0.6, generator(0, "c"))
    assert not torch.equal(points, x) or not bool(mask.all())
    assert bool(torch.isfinite(points).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_cloud_does_not_depend_on_its_batch_nor_on_its_padding(name: str) -> None:
    x, corruption = cloud(), PointCorruption(name)
    mask = torch.ones(3, 200, dtype=torch.bool)
    mask[1, 150:] = False
    points, left = corruption(x, 0.5, mask=mask, seeds=[1, 2, 3])
    alone, alone_left = corruption(x[1:2, :150], 0.5, seeds=[2])
    assert torch.equal(points[1, :150], alone[0])
    assert torch.equal(left[1, :150], alone_left[0])
    assert not bool(left[1, 150:].any()), "what was padding stays padding"
    assert torch.equal(points[1, 150:], x[1, 150:])


@pytest.mark.parametrize("name", ["drop", "local_drop", "occlusion"])
def test_a_share_of_the_points_is_lost(name: str) -> None:
    _, mask = PointCorruption(name)(cloud(), 0.3, generator(0, "c"))
    assert mask.sum(1).tolist() == [140, 140, 140]  # 30 % of 200


def test_what_is_lost_locally_is_what_is_nearest_to_some_point() -> None:
    x = cloud(1)
    _, mask = PointCorruption("local_drop")(x, 0.2, generator(0, "c"))
    lost, kept = x[0, ~mask[0]], x[0, mask[0]]
    reach = torch.cdist(lost, lost).amax(1)  # from the centre, which is among them, to the farthest lost point
    nearest_kept = torch.cdist(lost, kept).amin(1)
    assert bool((reach <= nearest_kept).any())


@pytest.mark.parametrize(("name", "count"), [("ring_drop", 32), ("ray_drop", 1024)])
def test_rings_and_patches_are_lost_whole_and_in_their_share(name: str, count: int) -> None:
    x = cloud(1, 4000)
    _, mask = PointCorruption(name)(x, 0.5, seeds=[4])
    assert 0.25 < float(mask.double().mean()) < 0.75
    if name == "ring_drop":
        sensor = torch.tensor(PointCorruption(name).sensor)
        offset = x[0] - sensor
        elevation = torch.atan2(offset[:, 2], offset[:, :2].norm(dim=1))
        ring = ((elevation - elevation.min()) / (elevation.max() - elevation.min()) * count).long().clamp(max=count - 1)
        for one in ring.unique():
            assert len(mask[0, ring == one].unique()) == 1


def test_the_jitter_has_its_standard_deviation_and_range_noise_stays_on_the_ray() -> None:
    x = cloud(1, 4000)
    moved = PointCorruption("jitter")(x, 0.4, generator(0, "c"))[0] - x
    assert float(moved.std()) == pytest.approx(0.04, rel=0.05)
    corruption = PointCorruption("range_noise")
    sensor = torch.tensor(corruption.sensor)
    moved = corruption(x, 0.5, generator(0, "c"))[0]
    before, after = nn.functional.normalize(x - sensor, dim=2), nn.functional.normalize(moved - sensor, dim=2)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    assert float((moved - x).norm(dim=2).pow(2).mean().sqrt()) == pytest.approx(0.1, rel=0.05)


def test_outliers_replace_their_share_within_the_ball_of_the_cloud() -> None:
    x = cloud(2)
    points, mask = PointCorruption("outliers")(x, 0.2, generator(0, "c"))  # of at most a half: 10 %
    strangers = (points != x).any(2)
    assert strangers.sum(1).tolist() == [20, 20]
    assert bool(mask.all())
    centre = x.mean(1, keepdim=True)
    reach = (x - centre).norm(dim=2).amax(1, keepdim=True)
    assert bool(((points - centre).norm(dim=2) <= reach + 1e-5).all())


def test_a_tilt_is_a_rotation_by_its_angle() -> None:
    x = cloud(1)
    points, _ = PointCorruption("tilt")(x, 1 / 3, generator(0, "c"))  # of 90 degrees: 30
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(x, x), atol=1e-3, rtol=0)
    before, after = x[0] - x[0].mean(0), points[0] - points[0].mean(0)
    rotation = torch.linalg.lstsq(before, after).solution
    assert float(torch.rad2deg(torch.acos((rotation.trace() - 1) / 2))) == pytest.approx(30, abs=0.1)
    assert float(rotation[2, 2]) == pytest.approx(math.cos(math.radians(30)), abs=1e-3)  # about a horizontal axis


def test_the_least_number_of_points_is_kept_and_flagged() -> None:
    found = corrupt_points(PointCorruption("drop"), cloud(2, 40), 0.9, generator=generator(0, "c"))
    assert found.mask.sum(1).tolist() == [16, 16]
    assert found.at_least.tolist() == [True, True]
    assert corrupt_points(PointCorruption("drop"), cloud(), 0.5, seeds=[1, 2, 3]).at_least.tolist() == [False] * 3


def test_strengths_and_severities() -> None:
    assert PointCorruption("jitter").severity_of(0.02) == pytest.approx(0.2)
    assert PointCorruption("jitter", highest=0.2).strength == 0.2
    assert [one.name for one in point_corruptions(["drop", "tilt"])] == ["drop", "tilt"]


@pytest.mark.parametrize("severity", [-0.1, 1.1, math.nan, True, "1"])
def test_severities_outside_0_to_1_are_refused(severity: object) -> None:
    with pytest.raises(InputError, match="severity"):
        PointCorruption("jitter")(cloud(), severity, generator(0, "c"))  # type: ignore[arg-type]


def test_what_else_is_refused() -> None:
    with pytest.raises(InputError, match="name"):
        PointCorruption("rain")
    with pytest.raises(InputError, match="highest"):
        PointCorruption("drop", highest=1.5)
    with pytest.raises(InputError, match="generator"):
        PointCorruption("jitter")(cloud(), 0.5)
    with pytest.raises(InputError, match="2 seeds"):
        PointCorruption("jitter")(cloud(), 0.5, seeds=[1, 2])
    with pytest.raises(InputError, match="at least 16"):
        PointCorruption("jitter")(cloud(1, 10), 0.5, seeds=[1])
    with pytest.raises(InputError, match="corruptions"):
        point_corruptions([])


# the attack


class First(nn.Module):
    """Logits (0, s x): the loss of class 0 grows with the x coordinate of the first point."""

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.stack((torch.zeros(len(points)), 5 * points[:, 0, 0]), 1)


def test_one_step_moves_the_only_point_that_matters_to_the_edge_of_its_ball() -> None:
    x = cloud(2, 20)
    attack = PointPGD(0.1, steps=1, step_size=1.0, start=False)
    out = attack(First(), x, None, torch.zeros(2, dtype=torch.long), generator(0, "a"))
    torch.testing.assert_close(out[:, 0] - x[:, 0], torch.tensor([[0.1, 0.0, 0.0]]).expand(2, 3), atol=1e-6, rtol=0)
    assert torch.equal(out[:, 1:], x[:, 1:])


def test_points_stay_in_their_balls_and_masked_and_chosen_ones_where_they_are() -> None:
    x = cloud(2, 20)
    mask, moved = torch.ones(2, 20, dtype=torch.bool), torch.zeros(2, 20, dtype=torch.bool)
    mask[:, 5], moved[:, :10] = False, True
    radii = torch.tensor([0.05, 0.2])
    attack = PointPGD(0.1, steps=3)
    out = attack(First(), x, mask, torch.zeros(2, dtype=torch.long), generator(0, "a"), moved=moved, eps=radii)
    length = (out - x).norm(dim=2)
    assert bool((length <= radii[:, None] + 1e-6).all())
    assert torch.equal(out[:, 5], x[:, 5])
    assert torch.equal(out[:, 10:], x[:, 10:])
    assert bool((length[:, :5] > 0).all())


def test_the_projection_by_hand() -> None:
    delta = torch.tensor([[[3.0, 4.0, 0.0], [0.3, 0.4, 0.0]]])
    torch.testing.assert_close(within_balls(delta, 1.0), torch.tensor([[[0.6, 0.8, 0.0], [0.3, 0.4, 0.0]]]))
