"""RIAC, a baseline of the paper: the task space is cut into boxes, and boxes of high learning progress are sampled.

After Baranes and Oudeyer, "R-IAC: Robust Intrinsically Motivated Exploration and Active Learning" (2009), in the form that
Portelas et al. compare with. The intended rules are implemented; the released code differs (it scores a split by the
constant length of a list, lets a bad second half pass, and gives children the progress of its last attempt).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tutelage.core.checks import check_integer, check_number
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.teaching.curricula.sampler import Uniform

ATTEMPTS, LEAST_POINTS, LEAST_SIDE, MUTATION = 50, 10, 1 / 15, 0.1


@dataclass
class Region:
    """A box of the unit cube, low <= u < high (or <= 1), with the (task, return) rows in it, oldest first."""

    low: Floats
    high: Floats
    rows: list[tuple[float, ...]] = field(default_factory=list)
    alp: float = 0.0

    def contains(self, where: Floats) -> bool:
        return bool(((where >= self.low) & ((where < self.high) | (self.high == 1.0))).all())


class RIAC(Uniform):
    """region_size: a region with more points is split. window: returns that the progress of a region is measured on.

    Tasks: with probability 0.7 uniform inside a region drawn in proportion to its progress, 0.2 uniform, 0.1 near the task
    of lowest return of such a region. Others: see `Uniform`.
    """

    def __init__(
        self, space: TaskSpace, *, rng: np.random.Generator, region_size: int = 200, window: int = 200, **options: Any
    ) -> None:
        super().__init__(space, rng=rng, **options)
        check_integer("region_size", region_size, low=2 * LEAST_POINTS)
        check_integer("window", window, low=2)
        check_number("region_size", region_size, "at least as large as window", low=window)
        self.region_size, self.window = region_size, window
        self.regions = [Region(np.zeros(space.dims), np.ones(space.dims))]

    def sample(self) -> Floats:
        choice = self.rng.random()
        if choice < 0.2:
            return super().sample()
        region = self.regions[int(self.rng.choice(len(self.regions), p=self.region_probabilities()))]
        if choice < 0.9 or not region.rows:
            return self.space.from_unit(self.rng.uniform(region.low, region.high))
        worst = min(region.rows, key=lambda row: row[-1])
        near = self.rng.normal(worst[:-1], MUTATION)
        return self.space.from_unit(np.clip(near, region.low, region.high))

    def region_probabilities(self) -> Floats:
        """One for each region: proportional to its progress, uniform where there is none."""
        alps = np.array([region.alp for region in self.regions])
        total = float(alps.sum())
        return alps / total if total > 0 else np.full(len(alps), 1 / len(alps))

    def _learn(self, where: Floats, ret: float) -> None:
        index = next(i for i, region in enumerate(self.regions) if region.contains(where))
        region = self.regions[index]
        region.rows.append((*where, ret))
        if len(region.rows) > self.region_size:
            children = self._split(region)
            if children is None:
                del region.rows[: len(region.rows) // 4]
            else:
                self.regions[index : index + 1] = children
                return
        region.alp = self.progress(region.rows)

    def progress(self, rows: list[tuple[float, ...]]) -> float:
        """|mean of the older half - mean of the newer half| of the last returns of a region; 0 for fewer than two."""
        returns = np.array([row[-1] for row in rows[-self.window :]])
        half = len(returns) // 2
        return float(abs(returns[:half].mean() - returns[half:].mean())) if half else 0.0

    def _split(self, region: Region) -> list[Region] | None:
        """The best of random cuts: n1 n2 |alp1 - alp2| is largest. None if no cut leaves both sides large enough."""
        points = np.array(region.rows)
        best: tuple[float, list[Region]] | None = None
        for _ in range(ATTEMPTS):
            axis = int(self.rng.integers(self.space.dims))
            cut = float(self.rng.uniform(region.low[axis], region.high[axis]))
            below = points[:, axis] < cut
            sides = min(cut - region.low[axis], region.high[axis] - cut)
            if sides < LEAST_SIDE or min(below.sum(), (~below).sum()) < LEAST_POINTS:
                continue
            first, second = (Region(region.low.copy(), region.high.copy()) for _ in range(2))
            first.high[axis] = second.low[axis] = cut
            for child, inside in ((first, below), (second, ~below)):
                child.rows = [row for row, yes in zip(region.rows, inside, strict=True) if yes]
                child.alp = self.progress(child.rows)
            score = len(first.rows) * len(second.rows) * abs(first.alp - second.alp)
            if best is None or score > best[0]:
                best = (score, [first, second])
        return None if best is None else best[1]

    def state_dict(self) -> dict[str, Any]:
        regions = [
            {
                "low": torch.from_numpy(one.low.copy()),
                "high": torch.from_numpy(one.high.copy()),
                "rows": torch.tensor(one.rows, dtype=torch.float64).reshape(-1, self.space.dims + 1),
                "alp": one.alp,
            }
            for one in self.regions
        ]
        return {**super().state_dict(), "regions": regions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.regions = [
            Region(one["low"].numpy().copy(), one["high"].numpy().copy(), [tuple(r) for r in one["rows"].tolist()], one["alp"])
            for one in state["regions"]
        ]
