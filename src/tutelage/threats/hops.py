"""The smallest change in L2 and L1 by labels alone: steps along the border (HopSkipJump; Chen et al. 2020, arXiv 1904.02144).

phi(x') is 1 if x' is misclassified and -1 if not. From a misclassified point x~ the nearest one on its way to x is searched
by bisection over the radius,

    x_t = P_r(x~),    the smallest r with phi(P_r(x~)) = 1,    P_r the projection to the ball of radius r,            (1)

B unit vectors u_b of noise tell on which side of the border they end, and so its normal,

    v_t = sum_b (phi(x_t + delta u_b) - mean phi) u_b,    delta = 2 |x_t - x|_2 / sqrt(D),                           (2)

and the next x~ is x_t + xi v_t / |v_t|_2 with the largest xi of |x_t - x|_2 / sqrt(t) / (1, 2, 4, ...) that is misclassified.
Our additions: (1) with the projection in L1, which makes changes sparse; and for images two estimates (2) of three take their
noise from half the resolution, where borders vary most (as QEBA does; Li et al. 2020, arXiv 2005.14137).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.core.rng import normal, uniform
from tutelage.threats.asked import Asked, wide
from tutelage.threats.budgets import L2

# chosen on held-out training images of Fashion-MNIST, as delta is
STARTS = 20  # first points tried at a time
GRIDS = (1, 2, 4, 7, 0)  # ... and the cells along a side that these have; 0: pixels
BISECTIONS = 10  # queries of (1)
LENGTHS = 6  # lengths xi tried
DRAWN_AT_ONCE = 10  # unit vectors drawn and asked about together
DRAWS, GROWTH = 30, 0.25  # B is DRAWS t^GROWTH, rounded up


def search_hops(asked: Asked, queries: int) -> None:
    """Find a broken point, then step along the border. No sample begins what it has not the queries left to finish."""
    spent = _find_starts(asked, queries)
    if none := int(torch.isinf(asked.size).sum()):
        asked.found.warnings.append(f"no broken point to start from was found for {none / len(spent):.0%} of the samples")
    hop = 0
    while True:
        draws = math.ceil(DRAWS * hop**GROWTH / DRAWN_AT_ONCE) * DRAWN_AT_ONCE
        cost = BISECTIONS if hop == 0 else draws + LENGTHS + BISECTIONS
        able = torch.isfinite(asked.size) & (spent + cost <= queries) & ~(asked.inside() & asked.attack.retire)
        left = able.nonzero().squeeze(1)
        if not len(left):
            return
        asked.take(left)
        spent = spent[left] + cost
        _shorten(asked, asked.nearest if hop == 0 else _hop(asked, hop, draws))
        hop += 1


def _find_starts(asked: Asked, queries: int) -> Tensor:
    """Random points, each farther on the way from x than the one before; the nearest broken one counts -> (N,) queries."""
    x, bounds = asked.x, asked.attack.bounds
    spent = torch.zeros(len(x), dtype=torch.long, device=x.device)
    while len(rows := (torch.isinf(asked.size) & (spent < queries)).nonzero().squeeze(1)):
        sources = [asked.noise[i] for i in rows.tolist()]
        for i in range(min(STARTS, queries - int(spent[rows].max()))):
            drawn = _pattern(x[rows], sources, GRIDS[i % len(GRIDS)])
            if bounds is None:
                way = 2 * drawn - 1
                way = way * wide(asked.reach[rows] / asked.budget.size(0 * way, way).clamp_min(1e-12), way)
            else:
                way = bounds[0] + (bounds[1] - bounds[0]) * drawn - x[rows]
            asked.ask(asked.in_range(x[rows] + (i + 1) / STARTS * way), rows)
            spent[rows] += 1
    return spent


def _shorten(asked: Asked, points: Tensor) -> None:
    """The bisection (1) from points (N, ...), which are broken, towards x."""
    low, high = torch.zeros_like(asked.size), asked.budget.size(asked.x, points)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        broken = asked.ask(replace(asked.budget, eps=middle).project_within(asked.x, points, asked.attack.bounds))
        high, low = torch.where(broken, middle, high), torch.where(broken, low, middle)


def _hop(asked: Asked, hop: int, draws: int) -> Tensor:
    """One step along the border: the farthest broken point along the normal (2), or the nearest point if none is."""
    x, here = asked.x, asked.nearest
    n, shape = len(x), tuple(x.shape[1:])
    coarse = len(shape) == 3 and min(shape[1:]) >= 4 and hop % 3 != 0
    drawn = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2)) if coarse else shape
    away = torch.linalg.vector_norm((here - x).flatten(1), dim=1)
    delta = wide(2 * away / math.sqrt(x[0].numel()), x).clamp_min(1e-9)
    along, total, balance = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(away)
    rows = torch.arange(n, device=x.device).repeat_interleave(DRAWN_AT_ONCE)
    for _ in range(draws // DRAWN_AT_ONCE):
        u = normal((n, DRAWN_AT_ONCE, *drawn), asked.noise).to(x).flatten(0, 1)
        if coarse:
            u = F.interpolate(u, shape[1:], mode="bilinear")
        u = L2(1.0).steepest(u)
        points = asked.in_range(here[rows] + delta[rows] * u)
        u = (points - here[rows]) / delta[rows]  # what the range cuts off was not tried
        phi = 2 * asked.ask(points, rows).to(x) - 1
        along += (wide(phi, u) * u).reshape(n, DRAWN_AT_ONCE, *shape).sum(1)
        total += u.reshape(n, DRAWN_AT_ONCE, *shape).sum(1)
        balance += phi.reshape(n, DRAWN_AT_ONCE).sum(1)
    mean = balance / draws
    mean = torch.where(mean.abs() < 1, mean, 0.0)  # where all draws agree there is nothing to compare with
    normals = L2(1.0).steepest(along - wide(mean, total) * total)
    best, found = here, torch.zeros_like(away, dtype=torch.bool)
    for k in range(LENGTHS):
        points = asked.in_range(here + wide(away / math.sqrt(hop) / 2**k, x) * normals)
        broken = asked.ask(points)
        best = torch.where(wide(broken & ~found, best), points, best)
        found |= broken
    return best


def _pattern(x: Tensor, noise: list[torch.Generator], cells: int) -> Tensor:
    """Random numbers in [0, 1) of the shape of x; in images constant on `cells` x `cells` fields (0: one a pixel)."""
    if x.dim() != 4 or cells == 0:
        return uniform(x.shape, noise).to(x)
    height, width = x.shape[2:]
    drawn = uniform((len(x), x.shape[1], min(cells, height), min(cells, width)), noise).to(x)
    return F.interpolate(drawn, (height, width), mode="nearest")
