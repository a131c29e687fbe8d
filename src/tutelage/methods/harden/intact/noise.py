"""The noise of phase 2: points are picked by saliency, then moved, dropped or attacked, as strongly as the curriculum says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.data.points.checks import LEAST
from tutelage.threats.points.pgd import PointPGD, within_balls

How = Literal["jitter", "drop", "adversarial"]
HOWS: tuple[How, ...] = get_args(How)


@dataclass(frozen=True)
class Noise:
    """What is done at full level. Lengths are in units of the clouds.

    sigma: highest standard deviation of the jitter of targeted points, and radius of the adversarial ball. drop: highest
    share of the targeted points that is lost, down to 16 points a cloud. target: share k of the points that is targeted; 1:
    untargeted. uniform: share rho of a uniform distribution in the picking, exploration. rest: the others' jitter, as a share
    of sigma. how: one of these at random for each cloud. attack_steps: of the adversarial search, each a gradient. cut:
    jitter is cut at so many sigma.
    """

    sigma: float = 0.08
    drop: float = 0.6
    target: float = 0.3
    uniform: float = 0.2
    rest: float = 0.25
    how: Sequence[How] = HOWS
    attack_steps: int = 1
    cut: float = 3.0

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, "a length >= 0", low=0)
        for name in ("drop", "uniform", "rest"):
            check_number(name, getattr(self, name), "a share from 0 to 1", low=0, high=1)
        check_number("target", self.target, "a share above 0, at most 1", low=1e-9, high=1)
        check_number("cut", self.cut, "a number of standard deviations above 0", low=1e-9)
        check_integer("attack_steps", self.attack_steps)
        if isinstance(self.how, str) or not self.how:
            raise InputError("how", self.how, f"some of {', '.join(HOWS)}")
        for one in self.how:
            check_choice("how", one, HOWS)


class Noised(NamedTuple):
    """points (B, N, 3), mask (B, N), targeted (B, N): which points were picked, attacked (B,): which clouds."""

    points: Tensor
    mask: Tensor
    targeted: Tensor
    attacked: Tensor


def pick(p: Tensor, mask: Tensor, share: float, uniform: float, generator: torch.Generator) -> Tensor:
    """(B, N) bool: of each cloud a share of its real points, without replacement, by (1 - rho) p + rho / n; see (4).

    Gumbel noise on the logarithms and the largest ones of the sum: the same distribution as drawing one after the other.
    """
    n = mask.sum(1)
    k = (share * n).round().clamp(min=1).long()
    q = (1 - uniform) * p + uniform * mask / n[:, None]
    gumbel = -torch.log(-torch.log(torch.rand(p.shape, generator=generator).clamp(1e-20, 1 - 1e-7))).to(p)
    # a point of probability 0 is taken only after all others
    key = (q.clamp(min=1e-30).log() + gumbel).masked_fill(~mask, -torch.inf)
    rank = key.argsort(1, descending=True).argsort(1)
    return (rank < k[:, None]) & mask


def targeted_noise(
    student: nn.Module,
    points: Tensor,
    mask: Tensor,
    labels: Tensor,
    p: Tensor,
    level: float,
    noise: Noise,
    generator: torch.Generator,
) -> Noised:
    """X' of (5): clouds (B, N, 3) corrupted at points picked by p (B, N), at a level in [0, 1]; at level 0, as they are."""
    check_number("level", level, "a level from 0 to 1", low=0, high=1)
    targeted = pick(p, mask, noise.target, noise.uniform, generator)
    choice = torch.randint(len(noise.how), (len(points),), generator=generator).to(points.device)
    attacked = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    sigma, share = noise.sigma * level, noise.drop * level
    if level == 0:
        return Noised(points, mask, targeted, attacked)

    def chosen(how: How) -> Tensor:
        where = [i for i, one in enumerate(noise.how) if one == how]
        return torch.isin(choice, torch.tensor(where, device=choice.device))

    scale = torch.where(targeted, 1.0, noise.rest).to(points)[..., None]
    still = targeted & ~chosen("jitter")[:, None]  # what is dropped or attacked does not jitter as well
    delta = within_balls(torch.randn(points.shape, generator=generator).to(points), noise.cut) * sigma * scale
    delta = delta.masked_fill((still | ~mask)[..., None], 0.0)
    moved, left = points + delta, mask
    if bool(chosen("drop").any()) and share > 0:
        draw = torch.rand(mask.shape, generator=generator).to(points.device)
        order = draw.masked_fill(~targeted, 2.0).argsort(1).argsort(1)
        # small clouds lose what they can spare, not nothing: noise on all points would pass them by, noise on some would not
        count = torch.minimum((share * targeted.sum(1)).round().long(), (mask.sum(1) - LEAST).clamp(min=0))
        left = mask & ~(targeted & (order < count[:, None]) & chosen("drop")[:, None])
    attacked = chosen("adversarial") & torch.tensor(sigma > 0, device=points.device)
    if bool(attacked.any()):
        own = attacked.nonzero().squeeze(1)
        # one step goes to the edge of the ball; more steps share the way
        attack = PointPGD(sigma, steps=noise.attack_steps, step_size=sigma * (1.0 if noise.attack_steps == 1 else 0.5))
        moved = moved.index_copy(
            0, own, attack(student, moved[own], left[own], labels[own], generator, moved=targeted[own])
        )  # fmt: skip
    return Noised(moved, left, targeted, attacked)
