"""Phase diagrams: train many nets over corruption and data share, weight decay or dropout, and name each one's phase."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from tutelage.core.cache import Cache
from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import write_atomic
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.core.workers import in_workers
from tutelage.data.worlds.modular import Operation
from tutelage.methods.understand.grokking.data import modular_dataset
from tutelage.methods.understand.grokking.measure import Phase, classify_phase
from tutelage.methods.understand.grokking.training import GrokConfig, train_grok
from tutelage.models.modular import QuadraticMLP

Axis = Literal["alpha", "weight_decay", "dropout"]
AXES: tuple[Axis, ...] = ("alpha", "weight_decay", "dropout")
_VERSION = 1  # of what a cell holds; part of the name under which it is cached


@dataclass(frozen=True)
class DiagramCell:
    """One net at the end of its training; accuracies in [0, 1]. corrupted is NaN where xi is 0."""

    alpha: float
    xi: float
    weight_decay: float
    dropout: float
    seed: int
    train: float
    test: float
    corrupted: float
    mean_ipr: float

    @property
    def phase(self) -> Phase:
        return classify_phase(self.train, self.test, self.xi)


@dataclass(frozen=True)
class PhaseDiagram:
    """cells: one a net. p, width, config: what all of them share."""

    cells: list[DiagramCell]
    p: int
    width: int
    operation: Operation
    config: GrokConfig

    def values(self, axis: str) -> list[float]:
        """The values of an axis, sorted."""
        return sorted({getattr(cell, axis) for cell in self.cells})

    def phase(self, **at: float) -> Phase:
        """The phase of the mean accuracies of all cells with these values, as in phase(alpha=0.5, xi=0.2)."""
        found = [cell for cell in self.cells if all(getattr(cell, axis) == value for axis, value in at.items())]
        if not found:
            raise InputError("at", at, "values of this diagram")
        train, test, xi = (sum(getattr(cell, key) for cell in found) / len(found) for key in ("train", "test", "xi"))
        return classify_phase(train, test, xi)

    def to_report(self, path: Path | str) -> Path:
        """Write one self-contained HTML page with the diagram and every cell; returns its path."""
        from tutelage.methods.understand.grokking.report import write_diagram

        return write_diagram(Path(path), self)


def phase_diagram(
    p: int = 53,
    width: int = 200,
    *,
    xis: Sequence[float],
    alphas: Sequence[float] = (0.65,),
    weight_decays: Sequence[float] = (0.0,),
    dropouts: Sequence[float] = (0.0,),
    operation: Operation = "add",
    config: GrokConfig | None = None,
    seeds: int = 1,
    jobs: int = 1,
    cache: Cache | None = None,
    progress: Progress = QUIET,
) -> PhaseDiagram:
    """Train a `QuadraticMLP` at every point of xis x alphas x weight_decays x dropouts, with each seed, and name the phases.

    config: the training, whose weight decay the grid replaces. seeds: nets a point, each with its own split, labels and
    weights, the same for all points. jobs: worker processes, with one thread each. cache: where finished nets' numbers are
    kept, by default the user's cache: a diagram that was stopped goes on from there. Raises InputError before training.
    """
    config = GrokConfig() if config is None else config
    if not isinstance(config, GrokConfig):
        raise InputError("config", type(config).__name__, "a GrokConfig")
    check_integer("seeds", seeds)
    check_integer("jobs", jobs)
    for argument, values in (("xis", xis), ("alphas", alphas), ("weight_decays", weight_decays), ("dropouts", dropouts)):
        if not isinstance(values, list | tuple) or not values or len(set(values)) < len(values):
            raise InputError(argument, values, "a list of different numbers")
    for alpha, xi in product(alphas, xis):
        modular_dataset(p, alpha, xi, operation)
    for decay in weight_decays:
        check_number("weight_decays", decay, "numbers >= 0", low=0)
        replace(config, weight_decay=float(decay))
    for dropout in dropouts:
        QuadraticMLP(3, 1, dropout)
    check_integer("width", width)
    root = (cache or Cache.default()).root
    shared = {"p": p, "width": width, "operation": operation, "config": asdict(config)}
    points = list(product(map(float, xis), map(float, alphas), map(float, weight_decays), map(float, dropouts), range(seeds)))
    arguments = [(shared, xi, alpha, decay, dropout, seed, root) for xi, alpha, decay, dropout, seed in points]
    cells: list[DiagramCell] = []
    with progress.task(f"phase diagram of {len(points)} nets", len(points)) as task:
        if jobs == 1:
            found: Any = (_cell(*one) for one in arguments)
        else:
            found = in_workers(_cell, arguments, jobs=jobs, kept="finished nets are cached")
        for cell in found:
            cells.append(cell)
            task.advance(1, f"alpha {cell.alpha:g}, xi {cell.xi:g}, decay {cell.weight_decay:g}: {cell.phase}")
    cells.sort(key=lambda cell: (cell.xi, cell.alpha, cell.weight_decay, cell.dropout, cell.seed))
    return PhaseDiagram(cells, p, width, operation, config)


def _cell(shared: dict[str, Any], xi: float, alpha: float, decay: float, dropout: float, seed: int, root: Path) -> DiagramCell:
    """Train one net, or read what came of it. Runs in a worker."""
    settings = GrokConfig(**{**shared["config"], "weight_decay": decay, "betas": tuple(shared["config"]["betas"])})
    key = {
        **shared, "xi": xi, "alpha": alpha, "decay": decay, "dropout": dropout, "seed": seed, "version": _VERSION,
        "torch": torch.__version__,
    }  # fmt: skip

    def build(folder: Path) -> None:
        data = modular_dataset(shared["p"], alpha, xi, shared["operation"], seed=seed)
        net = QuadraticMLP(shared["p"], shared["width"], dropout, generator=generator(seed, "quadratic net"))
        last = train_grok(data, net, replace(settings, log_every=settings.steps), seed=seed).last
        found = {name: last[name] for name in ("train", "test", "corrupted", "mean_ipr")}
        write_atomic(folder / "cell.json", json.dumps(found))

    folder = Cache(root).get("grokking-cells", key, build)
    return DiagramCell(alpha, xi, decay, dropout, seed, **json.loads((folder / "cell.json").read_text()))
