"""The point corruption suite: ten corruptions, each with a severity from 0 (nothing) to 1, masks respected.

Each works on the real points of one cloud alone, with a generator of that cloud's own, so that what happens to a cloud does not
depend on the batch or on its padding. Points are never set to the origin: what is lost is lost in the mask.

    jitter       x_j + sigma n_j, n_j ~ N(0, I)                                                             (1)
    range_noise  along the ray from the sensor o: o + (r_j + sigma n_j) (x_j - o) / r_j, r_j = |x_j - o|     (2)
    drop         a share of the points, at random
    local_drop   the same share, the nearest to a random point of the cloud
    ring_drop    whole rings: bins of elevation as seen from the sensor
    ray_drop     whole patches of a grid of elevation and azimuth
    occlusion    the share whose rays are nearest to the ray of a random point: something stands before the object
    outliers     a share of the points is replaced by ones uniform in the ball around the cloud
    tilt         a rotation about a random horizontal axis
    scale        stretched or shrunk along each axis

Lengths are in units of the clouds: 0.1 is a tenth of the radius of a normalised object, and 10 cm in a scene in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.data.points.checks import LEAST, check_cloud

SENSOR = (4.0, 0.0, 1.0)  # where the sensor is, for an object in the unit sphere
RINGS, COLUMNS = 32, 32


class Corrupted(NamedTuple):
    """points (B, N, 3), mask (B, N), and which clouds (B,) would have lost more points and kept the least number instead."""

    points: Tensor
    mask: Tensor
    at_least: Tensor


# points (n, 3) of one cloud, strength (severity x highest), sensor (3,), generator -> (points (n, 3), kept (n,) or None)
Change = Callable[[Tensor, float, Tensor, torch.Generator], tuple[Tensor, Tensor | None]]


def _jitter(p: Tensor, sigma: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, None]:
    return p + sigma * torch.randn(p.shape, generator=g).to(p), None


def _range_noise(p: Tensor, sigma: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, None]:
    ray = p - sensor
    r = ray.norm(dim=1, keepdim=True).clamp(min=1e-9)
    return p + sigma * torch.randn(len(p), 1, generator=g).to(p) * ray / r, None


def _drop(p: Tensor, share: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return p, _all_but(torch.rand(len(p), generator=g), share)


def _local_drop(p: Tensor, share: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return p, _all_but((p - _one_of(p, g)).norm(dim=1), share)


def _occlusion(p: Tensor, share: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    ray = nn.functional.normalize(p - sensor, dim=1)
    return p, _all_but(1 - ray @ _one_of(ray, g), share)


def _ring_drop(p: Tensor, share: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return p, torch.rand(RINGS, generator=g)[_bins(p, sensor)[0].cpu()].to(p.device) >= share


def _ray_drop(p: Tensor, share: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    row, column = _bins(p, sensor)
    return p, torch.rand(RINGS * COLUMNS, generator=g)[(row * COLUMNS + column).cpu()].to(p.device) >= share


def _outliers(p: Tensor, share: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, None]:
    n = round(share * len(p))
    centre = p.mean(0)
    radius = (p - centre).norm(dim=1).max()
    away = nn.functional.normalize(torch.randn(n, 3, generator=g), dim=1) * torch.rand(n, 1, generator=g) ** (1 / 3)
    out = p.clone()
    out[torch.randperm(len(p), generator=g)[:n].to(p.device)] = centre + radius * away.to(p)
    return out, None


def _tilt(p: Tensor, degrees: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, None]:
    angle, about = torch.deg2rad(torch.tensor(degrees)), torch.rand((), generator=g) * 2 * torch.pi
    axis = torch.stack((about.cos(), about.sin(), torch.zeros(())))
    cross = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross  # Rodrigues
    centre = p.mean(0)
    return (p - centre) @ rotation.T.to(p) + centre, None


def _scale(p: Tensor, most: float, sensor: Tensor, g: torch.Generator) -> tuple[Tensor, None]:
    factor = torch.exp((2 * torch.rand(3, generator=g) - 1) * torch.log1p(torch.tensor(most)))
    centre = p.mean(0)
    return (p - centre) * factor.to(p) + centre, None


def _one_of(p: Tensor, g: torch.Generator) -> Tensor:
    return p[int(torch.randint(len(p), (), generator=g))]


def _all_but(value: Tensor, share: float) -> Tensor:
    """(n,) bool: False for the `share` of the points with the smallest value."""
    kept = torch.ones(len(value), dtype=torch.bool, device=value.device)
    kept[value.argsort(stable=True)[: round(share * len(value))]] = False
    return kept


def _bins(p: Tensor, sensor: Tensor) -> tuple[Tensor, Tensor]:
    """Ring and column (n,) of each point as the sensor sees it; the bins span what the cloud spans."""
    x, y, z = (p - sensor).unbind(1)
    toward = torch.atan2(p.mean(0)[1] - sensor[1], p.mean(0)[0] - sensor[0])
    azimuth = torch.remainder(torch.atan2(y, x) - toward + torch.pi, 2 * torch.pi)  # no cut through the object
    elevation = torch.atan2(z, torch.hypot(x, y))

    def binned(value: Tensor, n: int) -> Tensor:
        span = (value.max() - value.min()).clamp(min=1e-9)
        return ((value - value.min()) / span * n).long().clamp(max=n - 1)

    return binned(elevation, RINGS), binned(azimuth, COLUMNS)


# name -> (what it does, the strength at severity 1, unit)
TABLE: dict[str, tuple[Change, float, str]] = {
    "jitter": (_jitter, 0.1, "length"),
    "range_noise": (_range_noise, 0.2, "length"),
    "drop": (_drop, 1.0, "share of the points"),
    "local_drop": (_local_drop, 1.0, "share of the points"),
    "ring_drop": (_ring_drop, 1.0, "share of the rings"),
    "ray_drop": (_ray_drop, 1.0, "share of the patches"),
    "occlusion": (_occlusion, 1.0, "share of the points"),
    "outliers": (_outliers, 0.5, "share of the points"),
    "tilt": (_tilt, 90.0, "degrees"),
    "scale": (_scale, 1.0, "largest factor less 1"),
}
NAMES = tuple(TABLE)


@dataclass(frozen=True)
class PointCorruption:
    """A corruption of point clouds: `corruption(points, severity, generator) -> (points, mask)`.

    name: one of NAMES. highest: its strength at severity 1, in its own unit (jitter: standard deviation 0.1; drop: share 1;
    outliers: 0.5; tilt: 90 degrees). sensor: where the sensor is, for what depends on it. least: real points that stay.
    """

    name: str
    highest: float | None = None
    sensor: tuple[float, float, float] = SENSOR
    least: int = LEAST

    def __post_init__(self) -> None:
        check_choice("name", self.name, NAMES)
        if self.highest is not None:
            check_positive("highest", self.highest, "a strength above 0 at severity 1")
            if TABLE[self.name][2].startswith("share") and self.highest > 1:
                raise InputError("highest", self.highest, "a share of at most 1")

    def __call__(
        self,
        points: Tensor,
        severity: float,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
        seeds: Sequence[int] | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """points (B, N, 3), severity in [0, 1] -> (points (B, N, 3), mask (B, N)); see `corrupt_points`."""
        return corrupt_points(self, points, severity, mask=mask, generator=generator, seeds=seeds)[:2]

    @property
    def strength(self) -> float:
        """At severity 1."""
        return TABLE[self.name][1] if self.highest is None else self.highest

    @property
    def unit(self) -> str:
        return TABLE[self.name][2]

    def severity_of(self, strength: float) -> float:
        """The severity of a strength in the corruption's own unit: jitter 0.02 is severity 0.2."""
        check_number("strength", strength, f"a {self.unit} from 0 to {self.strength:g}", low=0, high=self.strength)
        return strength / self.strength


def point_corruptions(names: Sequence[str] = NAMES) -> tuple[PointCorruption, ...]:
    """Corruptions by name, with their own strengths."""
    if isinstance(names, str) or not names:
        raise InputError("corruptions", names, f"a list of names among {', '.join(NAMES)}")
    return tuple(PointCorruption(name) for name in names)


def corrupt_points(
    corruption: PointCorruption,
    points: Tensor,
    severity: float,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | Tensor | None = None,
) -> Corrupted:
    """Corrupt clouds (B, N, 3) with mask (B, N): new points, new mask, and where `least` points were kept against the draw.

    seeds: B integers, one a cloud; or a CPU generator, from which they are drawn. Severity 0 gives the clouds back as they are.

    Raises InputError for a severity outside [0, 1], neither generator nor seeds, and what `check_cloud` refuses.
    """
    points, mask = check_cloud(points, mask)
    check_number("severity", severity, "a severity from 0 (nothing) to 1", low=0, high=1)
    chosen = _seeds(len(points), generator, seeds)
    out, left = points.clone(), mask.clone()
    at_least = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    if severity == 0:
        return Corrupted(out, left, at_least)
    change, sensor = TABLE[corruption.name][0], points.new_tensor(corruption.sensor)
    for i, seed in enumerate(chosen):
        own = mask[i].nonzero().squeeze(1)
        g = torch.Generator().manual_seed(derive(seed, corruption.name))
        moved, kept = change(points[i, own], severity * corruption.strength, sensor, g)
        out[i, own] = moved
        if kept is None:
            continue
        wanted = min(corruption.least, len(own))
        if int(kept.sum()) < wanted:  # too few: the least number is kept, drawn from what was lost
            back = (~kept).nonzero().squeeze(1)
            back = back[torch.randperm(len(back), generator=g)[: wanted - int(kept.sum())].to(back.device)]
            kept = kept.index_fill(0, back, True)
            at_least[i] = True
        left[i, own] = kept.to(left.device)
    return Corrupted(out, left, at_least)


def _seeds(n: int, generator: torch.Generator | None, seeds: Sequence[int] | Tensor | None) -> list[int]:
    if seeds is not None:
        found = [int(one) for one in seeds]
        if len(found) != n:
            raise InputError("seeds", f"{len(found)} seeds", f"{n}, one a cloud")
        return found
    if generator is None:
        raise InputError("generator", None, "a CPU torch.Generator, or seeds, one a cloud")
    return [int(one) for one in torch.randint(2**62, (n,), generator=generator)]
