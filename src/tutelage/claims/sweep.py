"""A sweep: the claim of a system at every point of a grid of its settings, the cells of all points in one line.

How far does a verdict hang on a setting? A sweep answers by running the same arms and units at each value. Nothing is chosen
by it: each point keeps its own rows and its own verdict, and the recorded claim stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tutelage.claims.claim import ClaimResult, Scale, load_claim
from tutelage.claims.runner import run_settings
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder, write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.workers import Engine

MOST_POINTS = 1000


@dataclass(frozen=True)
class Sweep:
    """settings: what was set at each point, in the order of the grid; results: what came of it, in the same order."""

    slug: str
    settings: tuple[dict[str, str], ...]
    results: tuple[ClaimResult, ...]

    def table(self) -> list[dict[str, Any]]:
        """A row a point: its settings, the verdict, the primary sentence's difference and interval (None: not judged).

        failed: cells that failed.
        """
        rows = []
        for settings, result in zip(self.settings, self.results, strict=True):
            primary = next((one for one in result.claims if one.primary), None)
            rows.append({
                "settings": settings,
                "verdict": result.verdict,
                "difference": primary.difference if primary else None,
                "ci95": list(primary.ci95) if primary else None,
                "failed": sum(row.status == "failed" for row in result.rows),
            })  # fmt: skip
        return rows


def points(over: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the values, the last setting fastest. Raises InputError.

    Example::

        >>> points({"lr": ["0.1", "0.2"], "epochs": ["3"]})
        [{'lr': '0.1', 'epochs': '3'}, {'lr': '0.2', 'epochs': '3'}]
    """
    if not isinstance(over, Mapping) or not over:
        raise InputError("over", over, "at least one setting with its values, such as {'lr': ['0.01', '0.1']}")
    for key, values in over.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError("over", f"{key}: {values!r}", "a list of values")
        if len(set(values)) < len(values):
            raise InputError("over", f"{key}: {', '.join(map(str, values))}", "each value once")
    grid = [dict(zip(over, values, strict=True)) for values in product(*over.values())]
    if len(grid) > MOST_POINTS:
        raise InputError("over", f"{len(grid)} points", f"at most {MOST_POINTS}")
    return grid


def sweep(
    slug: str,
    over: Mapping[str, Sequence[str]],
    *,
    scale: Scale = "smoke",
    changes: Mapping[str, str] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    on: Engine = "local",
    out: Path | None = None,
    cache: Cache | None = None,
    progress: Progress = QUIET,
) -> Sweep:
    """Run the claim of `slug` at each combination of the values in `over`, with `changes` at all of them.

    out: a folder; each point becomes a run folder in it, 000, 001, ..., as `run_claim` writes one, and sweep.json says which is
    which. The rest is as for `runner.run_claim`: finished cells are cached, so a sweep that was stopped goes on, and a point
    that was run before costs nothing. All settings are checked before anything runs. Raises InputError.
    """
    grid, fixed = points(over), dict(changes or {})
    if both := sorted(set(over) & set(fixed)):
        raise InputError("over", both[0], f"a setting that is not set as well ({both[0]}={fixed[both[0]]})")
    claim = load_claim(slug)
    settings = [{**fixed, **point} for point in grid]
    for one in settings:
        claim.config(scale, one)
    outs: list[Path | None] = []
    if out is not None:
        out = Path(out)
        check_folder(out)
        outs = [out / f"{number:03d}" for number in range(len(grid))]
    results = run_settings(
        slug, settings, scale=scale, seeds=seeds, jobs=jobs, on=on, outs=outs, cache=cache, progress=progress
    )  # fmt: skip
    found = Sweep(slug, tuple(grid), tuple(results))
    if out is not None:
        rows = [{"run": f"{number:03d}", **row} for number, row in enumerate(found.table())]
        write_json(out / "sweep.json", {"slug": slug, "scale": scale, "set": fixed, "points": rows})
    return found
