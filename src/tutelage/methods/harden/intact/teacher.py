"""Phase 1: the teacher, meta-trained over corruption tasks so that its saliency is stable under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.points.cloud import PointSet, random_turn, thinned
from tutelage.methods.harden.intact.saliency import saliency_map
from tutelage.teaching.meta import Call, MetaReport, Task, maml_train
from tutelage.threats.points.corruptions import PointCorruption


class CorruptionTasks:
    """Draws tasks: a corruption, a severity, some of the classes; a support and a query half of disjoint clouds.

    corruptions: name by severities, {PointCorruption("jitter"): (0.2, 0.8)}; severity 0, the clean task, is one among them.
    classes: how many a task has (None: all). size: clouds in each half. n_points: drawn of each cloud.
    """

    def __init__(
        self,
        data: PointSet,
        corruptions: Mapping[PointCorruption, Sequence[float]],
        *,
        classes: int | None = None,
        size: int = 16,
        n_points: int | None = None,
        turn: bool = True,
    ) -> None:
        if not isinstance(data, PointSet):
            raise InputError("data", type(data).__name__, "a PointSet")
        with training_only():
            refuse_test_data(data)
        if not corruptions:
            raise InputError("corruptions", "none", "at least one corruption with its severities")
        check_integer("size", size)
        if classes is not None:
            check_integer("classes", classes, low=1, high=len(data.classes))
        self.data, self.size, self.classes, self.turn = data, size, classes, turn
        self.pairs = [(one, float(severity)) for one, severities in corruptions.items() for severity in severities]
        for _, severity in self.pairs:
            check_number("severity", severity, "a severity from 0 (nothing) to 1", low=0, high=1)
        self.n = data.points.shape[1] if n_points is None else n_points
        check_integer("n_points", self.n, low=16, high=data.points.shape[1])
        rows = [(data.labels == c).nonzero().squeeze(1) for c in range(len(data.classes))]
        self.by_class = [own for own in rows if len(own) >= 2]  # one for each half
        if not self.by_class:
            raise InputError("data", "no class with two clouds", "at least one, for a support and a query half")

    def __call__(self, generator: torch.Generator) -> Task:
        corruption, severity = self.pairs[int(torch.randint(len(self.pairs), (), generator=generator))]
        there = self.by_class
        if self.classes is not None:
            there = [there[int(i)] for i in torch.randperm(len(there), generator=generator)[: self.classes]]
        pool = torch.cat(there)
        pool = pool[torch.randperm(len(pool), generator=generator)]
        size = min(self.size, len(pool) // 2)
        halves = []
        for rows in (pool[:size], pool[size : 2 * size]):
            points, mask, labels = self.data[rows]
            if self.n < points.shape[1]:
                points, mask = thinned(points, self.n, generator), mask[:, : self.n]
            if self.turn:
                points = random_turn(points, generator)
            halves.append((points, mask, labels))
        noisy = [(*corruption(points, severity, generator, mask=mask), labels) for points, mask, labels in halves]
        (sp, sm, sy), (qp, qm, qy) = noisy
        return Task(((sp, sm), sy), ((qp, qm), qy), extra=halves[1], name=f"{corruption.name}@{severity:g}")


def consistency(call: Call, task: Task) -> Tensor:
    """1 - cos(S(X clean), S(X corrupt)) of the query clouds, over the points that both have; the last term of (2)."""
    points, mask, labels = task.extra
    (noisy, left), _ = task.query
    clean = saliency_map(call, points, labels, mask, create_graph=True).p * left
    corrupt = saliency_map(call, noisy, labels, left, create_graph=True).p
    return 1 - F.cosine_similarity(clean, corrupt, dim=1).mean()


def meta_teacher(
    teacher: nn.Module,
    data: PointSet,
    corruptions: Mapping[PointCorruption, Sequence[float]],
    *,
    steps: int = 200,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    first_order: bool = True,
    tasks_per_step: int = 4,
    size: int = 16,
    classes: int | None = None,
    n_points: int | None = None,
    w_consistency: float = 0.0,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Progress = QUIET,
    **options: Any,
) -> MetaReport:
    """Phase 1: meta-train `teacher` in place over corruption tasks (1), (2); w_consistency: c of (2). See `maml_train`."""
    check_number("w_consistency", w_consistency, "a weight >= 0", low=0)
    tasks = CorruptionTasks(data, corruptions, classes=classes, size=size, n_points=n_points)
    return maml_train(
        teacher, tasks, steps=steps, inner_lr=inner_lr, inner_steps=inner_steps, first_order=first_order,
        tasks_per_step=tasks_per_step, lr=lr, seed=seed, progress=progress,
        regulariser=(lambda call, task: w_consistency * consistency(call, task)) if w_consistency else None, **options,
    )  # fmt: skip
