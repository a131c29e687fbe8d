"""A supervised curriculum: the arms digits-..., a small net on digits with noise and rotation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.claims.claim import Cell
from tutelage.claims.tutor.alp_gmm.config import UNSEEN, Config
from tutelage.claims.tutor.alp_gmm.teachers import teacher
from tutelage.core.rng import derive, generator, numpy_generator, seeded
from tutelage.data.images import ImageSet
from tutelage.data.sets import digits
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.teaching.curricula.run import run_curriculum
from tutelage.teaching.curricula.supervised import SupervisedLearner

DIGITS_SPACE = TaskSpace((0.0, 0.0), (2.0, 180.0), ("standard deviation of the noise", "rotation, degrees"))


def change_digits(x: Tensor, task: Floats, rng: torch.Generator) -> Tensor:
    """Images (B, 1, 8, 8) in [0, 1], turned by the task's angle to either side, with its noise, clamped to [0, 1]."""
    sides = torch.randint(2, (len(x),), generator=rng).mul(2).sub(1)
    angles = sides * math.radians(float(task[1]))
    zeros = torch.zeros_like(angles)
    rows = [torch.stack(row, 1) for row in ((angles.cos(), -angles.sin(), zeros), (angles.sin(), angles.cos(), zeros))]
    turned = F.grid_sample(x, F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False), align_corners=False)
    noise = torch.randn(x.shape, generator=rng)
    return (turned + float(task[0]) * noise).clamp(0, 1)


def digit_splits() -> tuple[ImageSet, ImageSet, ImageSet]:
    """(train, validation, test), the same for every unit."""
    rest, test = digits().split_off(500, split="test")
    train, validation = rest.split_off(300)
    return train, validation, test


def on_digits(cell: Cell) -> dict[str, float]:
    config: Config = cell.config
    train, validation, test = digit_splits()
    seed = derive(cell.unit, "alp-gmm", "digits")
    with seeded(seed, "net"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    learner = SupervisedLearner(
        net, (train.images, train.labels), (validation.images, validation.labels), change_digits,
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), seed=seed,
    )  # fmt: skip
    sampler = teacher(
        cell.arm, DIGITS_SPACE, seed, fit_rate=config.digits_fit_rate, random_ratio=config.random_ratio
    )  # fmt: skip
    history = run_curriculum(sampler, learner, config.digits_episodes)
    net.eval()
    right = []
    with torch.no_grad():
        for i, task in enumerate(DIGITS_SPACE.uniform(numpy_generator(0, UNSEEN, "digits"), config.digits_tasks)):
            x = change_digits(test.images, task, generator(0, UNSEEN, "digits", i))
            right.append(float((net(x).argmax(1) == test.labels).double().mean()))
    easy = np.array(right)[np.argsort(-np.array(right))[: max(1, len(right) // 2)]]
    return {
        "accuracy": 100 * float(np.mean(right)),
        "accuracy_easier_half": 100 * float(easy.mean()),
        "mean_noise": float(history.tasks[:, 0].mean()),
    }
