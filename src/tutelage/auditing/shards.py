"""An audit's parts computed by several workers, on this machine or on Ray, before the audit puts them together.

A worker computes one part after the other into the state of the audit: a batch under a threat, a curve, a corruption. The
audit then finds them finished, as if it went on after a kill. So the way to the result is the same for any number of
workers; and as each worker computes with as many threads as the audit itself, so is the result, to the last bit.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.auditing.buffers import KeptBuffers
from tutelage.auditing.curve import point_names, sweep, swept_budgets
from tutelage.auditing.measure import device_of, noise_seeds
from tutelage.auditing.state import FAILURES, KeptSuite, State, place_of
from tutelage.core import on_ray
from tutelage.core.errors import InputError, TutelageError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive
from tutelage.core.workers import Engine, in_workers
from tutelage.data.images import ImageSet
from tutelage.models.checks import run_model
from tutelage.models.guard import evaluating
from tutelage.models.loading import load_model
from tutelage.threats.budgets import Budget
from tutelage.threats.suite import Suite

SAME = "a model that is the same when it is pickled, or built by its factory, once more; or jobs=1"


@dataclass(frozen=True)
class Handed:
    """A model, threats and corruptions on their way to workers.

    model: pickled; or, with a factory, its state, and the factory is called in `folder`. forget: put its buffers back after
    each pass (`KeptBuffers`).
    """

    model: bytes
    factory: str
    asked: bytes
    folder: str
    paths: tuple[str, ...]
    device: str
    forget: bool = False

    def taken(self) -> tuple[nn.Module, tuple[Suite, ...], tuple[Any, ...]]:
        """In a worker: the model on its device, threats, corruptions. Raises InputError if one cannot be made again."""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        sys.path += [path for path in self.paths if path not in sys.path]
        try:
            suites, corruptions = pickle.loads(self.asked)
            if self.factory:
                model = load_model(self.factory)
                model.load_state_dict(pickle.loads(self.model))
            else:
                model = pickle.loads(self.model)
        except TutelageError:
            raise
        except Exception as error:  # what was pickled may raise anything
            raise InputError("jobs", f"a model or threat that no worker can make again ({_first(error)})", SAME) from error
        model = model.to(torch.device(self.device))
        return (KeptBuffers(model) if self.forget else model), suites, corruptions


def hand_over(model: nn.Module, suites: Sequence[Suite], corruptions: Sequence[Any], factory: str) -> Handed:
    """Pack what workers need to make the model and the threats again; InputError if that cannot be done."""
    folder, paths, device = str(Path.cwd()), tuple(path for path in sys.path if path), str(device_of(model))
    try:
        asked = pickle.dumps((tuple(suites), tuple(corruptions)))
    except Exception as error:  # a user's objects may refuse in any way
        raise InputError("jobs", f"a threat that cannot be pickled ({_first(error)})", "named functions, or jobs=1") from error
    try:
        content = pickle.dumps({k: v.cpu() for k, v in model.state_dict().items()} if factory else model)
    except Exception as error:
        raise InputError(
            "jobs", f"a model that cannot be pickled ({_first(error)})", "a model that can be pickled, a factory, or jobs=1"
        ) from error
    return Handed(content, factory, asked, folder, paths, device)


@dataclass(frozen=True)
class Task:
    """Something for one worker. `number`: of a threat, or of a corruption. parts: the names of what it leaves."""

    kind: Literal["batch", "curve", "corruption"]
    number: int
    parts: tuple[str, ...]
    batch: int = 0
    norm: str = ""

    @property
    def label(self) -> str:
        return self.parts[-1] if self.kind != "curve" else f"curve over {self.norm} eps"

    def is_finished(self, state: State) -> bool:
        """Whether all its parts are there; of a curve, all up to a point that left nobody."""
        there = [part for part in self.parts if state.has(part)]
        if self.kind == "curve" and there and there[-1] != self.parts[-1]:
            point = state.found(there[-1])
            return point is not None and bool(point["broken"].all())
        return len(there) == len(self.parts)


@dataclass(frozen=True)
class Work:
    """What all tasks of an audit share. expected: logits of the first batch; None for a random model."""

    handed: Handed
    images: ImageSet
    seed: int
    batch_size: int
    threads: int
    folder: Path
    about: Mapping[str, Any]
    expected: Tensor | None

    @cached_property
    def state(self) -> State:
        """The audit's own state, which the audit has locked."""
        state = State(self.folder, dict(self.about))
        if state.own is None or not (state.own / "state.json").is_file():
            raise InputError("state", str(self.folder), "a folder that every node of the cluster sees")
        return state

    @cached_property
    def taken(self) -> tuple[nn.Module, tuple[Suite, ...], tuple[Any, ...]]:
        torch.set_num_threads(self.threads)
        model, suites, corruptions = self.handed.taken()
        if self.expected is not None:
            x, _ = self.images[: self.batch_size]
            with torch.no_grad(), evaluating(model):
                found = run_model(model, x.to(device_of(model))).float().cpu()
            if found.shape != self.expected.shape or not torch.allclose(found, self.expected, rtol=1e-4, atol=1e-4):
                raise InputError("jobs", "a model that gives other logits in a worker than here", SAME)
        return model, suites, corruptions

    def do(self, task: Task) -> None:
        """Compute the parts of a task into the state; those that are there are taken over."""
        model, suites, corruptions = self.taken
        torch.manual_seed(derive(self.seed, "worker", *task.parts) % 2**63)  # a random model draws the same in any worker
        images, seed, batch_size, state = self.images, self.seed, self.batch_size, self.state
        if task.kind == "batch":
            suite, device = suites[task.number], device_of(model)
            rows = slice(task.batch * batch_size, (task.batch + 1) * batch_size)
            x, y = images[rows]
            kept = KeptSuite(suite, state, place_of(suite), task.batch)
            kept.run_seeded(model, x.to(device), y.to(device), noise_seeds(len(images), seed)[rows])
        elif task.kind == "curve":
            sweep(model, images, swept_budgets(model, suites)[task.norm], seed, batch_size, QUIET, state)
        else:
            from tutelage.auditing.corruption import corrupted

            one = corruptions[task.number : task.number + 1]
            corrupted(model, images, one, seed=seed, batch_size=batch_size, progress=QUIET, parts=state)


def do(work: Work, task: Task) -> str:
    """In a worker: one task, and what it is called.

    A task that fails leaves no part: the audit comes to the same failure by itself, and tells of it.
    """
    work.taken  # noqa: B018  what cannot be taken up at all is raised
    with suppress(*FAILURES):
        work.do(task)
    return task.label


def tasks_of(
    n: int, suites: Sequence[Suite], swept: Mapping[str, Sequence[Budget]], corruptions: Sequence[Any], batch_size: int
) -> Iterator[Task]:
    """Every task of an audit of n images, the long ones first. swept: see `swept_budgets`; empty for no curves."""
    for norm, budgets in swept.items():
        yield Task("curve", 0, tuple(point_names(budgets)), norm=norm)
    for number, suite in enumerate(suites):
        for batch in range(-(-n // batch_size)):
            yield Task("batch", number, (f"{place_of(suite)}-{batch:06d}",), batch)
    if corruptions:
        from tutelage.auditing.corruption import piece_names

        for number, corruption in enumerate(corruptions):
            yield Task("corruption", number, tuple(piece_names(corruption, n, batch_size)))


def compute_parts(
    parts: State, work: Work, tasks: Sequence[Task], *, jobs: int, on: Engine, kept: str, progress: Progress
) -> None:
    """Do the tasks whose parts are not in `parts` yet, `jobs` at once.

    kept: what the user is told of the parts if a worker is killed. A task's error is raised here; Ctrl-C is left to the
    caller, after the workers have ended. What makes a task alone fail (FAILURES) is not.
    """
    open_ones = [task for task in tasks if not task.is_finished(parts)]
    if not open_ones:
        return
    workers, cores = min(jobs, len(open_ones)), os.cpu_count() or 1
    if on == "local" and workers > 1 and workers * work.threads > cores:
        progress.print(
            f"{workers} workers of {work.threads} threads share {cores} cores: OMP_NUM_THREADS={max(1, cores // workers)} may "
            "be faster, but its numbers may differ in rounding"
        )
    arguments = [(task,) for task in open_ones]

    def lost(index: int, reason: str) -> str:
        raise TutelageError(f"{open_ones[index].label}: {reason}{f'; {kept}' if kept else ''}")

    if on == "ray":
        done = on_ray.rows_on_ray(do, arguments, lost, jobs=jobs, cores=work.threads, shared=work)
    else:
        done = in_workers(do, arguments, jobs=jobs, kept=kept, shared=work)
    where = "on Ray" if on == "ray" else f"by {workers} workers"
    with progress.task(f"parts of the audit {where}", len(open_ones)) as task, closing(done) as labels:
        for label in labels:
            task.advance(1, label)


def _first(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


__all__ = ["Handed", "Task", "Work", "compute_parts", "hand_over", "tasks_of"]
