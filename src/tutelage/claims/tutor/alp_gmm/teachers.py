"""The teachers of the arms, the control among them, and where what they taught is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from tutelage.claims.claim import Cell
from tutelage.claims.codehash import code_sha256
from tutelage.claims.tutor.alp_gmm.config import Config
from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.methods.tutor.alp_gmm.mixtures import ALPGMM, CovarGMM
from tutelage.methods.tutor.alp_gmm.riac import RIAC
from tutelage.methods.tutor.alp_gmm.windows import ADR, Oracle
from tutelage.teaching.checkpoint import save_checkpoint
from tutelage.teaching.curricula.run import History
from tutelage.teaching.curricula.sampler import TaskSampler, Uniform


class ShuffledReturns:
    """A sampler that is told the return of a random episode so far, the present one included, in place of the true one."""

    def __init__(self, inner: TaskSampler, rng: np.random.Generator) -> None:
        self.inner, self.rng, self.space = inner, rng, inner.space
        self.told: list[float] = []

    def sample(self) -> Floats:
        return self.inner.sample()

    def update(self, task: ArrayLike, ret: float) -> None:
        self.told.append(float(ret))
        self.inner.update(task, self.told[int(self.rng.integers(len(self.told)))])

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "told": list(self.told), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.told, self.rng.bit_generator.state = list(state["told"]), state["rng"]


def teacher(arm: str, space: TaskSpace, seed: int, *, fit_rate: int, random_ratio: float = 0.2, **options: Any) -> TaskSampler:
    """The teacher that the name of an arm says, seeded. options: of all teachers."""
    rng = numpy_generator(seed, "teacher")
    name = arm.removeprefix("rl-").removeprefix("digits-").removesuffix("-irrelevant")
    start = [*space.low]
    if name == "random-teacher":
        return Uniform(space, rng=rng, **options)
    if name == "riac":
        return RIAC(space, rng=rng, **options)
    if name == "adr":
        return ADR(space, rng=rng, start=start, **options)
    if name == "oracle":
        steps = [0.1 * (b - a) for a, b in zip(space.low, space.high, strict=True)]
        return Oracle(space, rng=rng, step=steps, threshold=0.75, **options)
    mixture: dict[str, Any] = {"fit_rate": fit_rate, "random_ratio": random_ratio, **options}
    if name == "covar-gmm":
        return CovarGMM(space, rng=rng, **mixture)
    found = ALPGMM(space, rng=rng, **mixture)
    return ShuffledReturns(found, numpy_generator(seed, "shuffled")) if name == "shuffled-returns" else found


def kept(config: Config, arm: str, unit: int, threads: int) -> dict[str, Any]:
    """The key under which the cache keeps what an arm has taught: for later cells, and for the pictures of the report."""
    code = code_sha256("tutelage.claims.tutor.alp_gmm")
    return {
        "arm": arm, "unit": unit, "config": config.model_dump(), "code": code, "torch": torch.__version__, "threads": threads,
    }  # fmt: skip


def keep_history(cell: Cell, history: History) -> None:
    def build(folder: Path) -> None:
        save_checkpoint(folder, len(history), {"history": history.state_dict()})

    cell.cache.get("curricula", kept(cell.config, cell.arm, cell.unit, torch.get_num_threads()), build)
