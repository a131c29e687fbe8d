"""The claim runner: arms x units, each cell cached, failures kept, one verdict."""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from tutelage.claims.claim import Cell, Claim, ClaimConfig, ClaimResult, Row, Scale, get_scale, load_claim
from tutelage.claims.codehash import code_sha256
from tutelage.claims.verdict import judge
from tutelage.core import on_ray
from tutelage.core.cache import Cache
from tutelage.core.checks import check_integer
from tutelage.core.environment import environment, git_state
from tutelage.core.errors import InputError, Interrupted, MissingError, WriteError
from tutelage.core.files import check_folder, write_atomic
from tutelage.core.progress import QUIET, Progress
from tutelage.core.runs import Run
from tutelage.core.workers import Engine, get_engine, in_workers
from tutelage.teaching.processes import launched


def run_claim(
    slug: str,
    *,
    scale: Scale = "smoke",
    changes: Mapping[str, str] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    on: Engine = "local",
    out: Path | None = None,
    cache: Cache | None = None,
    progress: Progress = QUIET,
) -> ClaimResult:
    """Run the claim of `slug`: every arm on every unit, then the verdict.

    changes: config fields by name (`--set`). seeds: number of units instead of the scale's own. jobs: cells at once, in
    worker processes that share the cores; on="ray" makes them Ray tasks of one core each (`core.on_ray`).
    out: the run folder (written: run.json, result.json). cache: where finished cells and trained teachers are kept; a
    cell with the same code, config, unit and threads is not computed again.
    A cell that fails is kept as a failed row; the others go on.
    """
    if changes is not None and not isinstance(changes, Mapping):
        raise InputError("changes", type(changes).__name__, "a mapping of settings, such as {'epochs': '3'}")
    return run_settings(
        slug, [changes or {}], scale=scale, seeds=seeds, jobs=jobs, on=on, outs=[out], cache=cache, progress=progress
    )[0]


def run_settings(
    slug: str,
    settings: Sequence[Mapping[str, str]],
    *,
    scale: Scale = "smoke",
    seeds: int | None = None,
    jobs: int = 1,
    on: Engine = "local",
    outs: Sequence[Path | None] = (),
    cache: Cache | None = None,
    progress: Progress = QUIET,
) -> list[ClaimResult]:
    """The claim of `slug` at each of several settings (`changes` of `run_claim`), a result each, in their order.

    The cells of all settings wait in one line for the workers, so none is idle while a setting ends. outs: a run folder
    each, or nothing. The rest is as for `run_claim`.
    """
    claim = load_claim(slug)
    configs = [claim.config(get_scale(scale), changes) for changes in settings]
    units = claim.units[scale] if seeds is None else seeds
    check_integer("seeds", units)
    check_integer("jobs", jobs)
    if get_engine(on) == "ray":
        on_ray.require()
    if launched() > 1:
        raise InputError("WORLD_SIZE", launched(), "one process: a claim's cells run side by side with jobs or on Ray")
    folders = [None if out is None else Path(out) for out in outs] or [None] * len(configs)
    for folder in folders:
        if folder is not None:
            check_folder(folder)
    cache = cache or Cache.default()
    sets = [claim.data(config) for config in configs]  # a set that is missing is told before anything runs
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    commit, dirty = git_state()
    code = code_sha256(claim.system.claim_module)
    threads = 1 if on == "ray" else max(1, torch.get_num_threads() if jobs == 1 else (os.cpu_count() or 1) // jobs)
    for folder, config in zip(folders, configs, strict=True):
        if folder is not None:
            Run.create(folder, "claim", {"slug": slug, "scale": scale, "config": config.model_dump(), "units": units})
    # arms outside, units inside: workers side by side are on different units and do not wait for each other's teachers
    cells = [(arm, unit) for arm in claim.arms for unit in range(units)]
    found = _rows(claim, configs, cells, code, jobs, on, threads, cache, progress)
    results = []
    for config, rows, used, folder in zip(configs, found, sets, folders, strict=True):
        verdict, judged = judge(claim, rows)
        result = ClaimResult(
            slug=slug,
            scale=scale,
            verdict=verdict,
            claims=judged,
            rows=rows,
            controls=list(claim.controls),
            data=used,
            config=config.model_dump(),
            environment={**environment(), "threads": threads, "jobs": jobs, "on": on},
            commit=commit,
            dirty=dirty,
            code_sha256=code,
            started=started,
            seconds=sum(row.seconds for row in rows),  # of computing; cells from the cache count what they took
        )
        if folder is not None:
            write_atomic(folder / "result.json", result.model_dump_json(indent=1) + "\n")
        results.append(result)
    return results


def record(result: ClaimResult, folder: Path | None = None) -> Path:
    """Write `results/<slug>.json`: only at claim scale, from a clean tree, with every cell present."""
    claim = load_claim(result.slug)
    if result.scale != "claim":
        raise InputError("record", f"scale {result.scale}", "scale claim")
    if result.dirty or not result.commit:
        raise InputError("record", "a tree with uncommitted changes", "a clean checkout, so that the commit says what ran")
    if result.config != claim.scales["claim"].model_dump():
        raise InputError("record", "a changed config", "the claim's own config (no --set)")
    wanted = {(arm, unit) for arm in claim.arms for unit in range(claim.units["claim"])}
    if failed := [row for row in result.rows if row.status == "failed"]:
        raise InputError("record", f"{len(failed)} failed cells, first {failed[0].arm} {failed[0].unit_id}", "every cell")
    if {(row.arm, row.unit_id) for row in result.rows} != wanted:
        raise InputError("record", "other cells than the claim has", f"all {len(wanted)} of them (no --seeds)")
    path = (folder or results_folder()) / f"{result.slug}.json"
    write_atomic(path, result.model_dump_json(indent=1) + "\n")
    return path


def results_folder() -> Path:
    return Path(str(files("tutelage"))) / "results"


def recorded(slug: str) -> ClaimResult | None:
    """The shipped result of a system, if there is one."""
    path = results_folder() / f"{slug}.json"
    return ClaimResult.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def load_result(path: Path) -> ClaimResult:
    """A result from a run folder or a JSON file."""
    file = path / "result.json" if path.is_dir() else path
    if not file.is_file():
        raise MissingError(f"there is no result at {file}")
    try:
        return ClaimResult.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors, of several lines
        first = str(error).splitlines()[-1 if len(str(error).splitlines()) < 3 else 2].strip()
        raise InputError("RUN", str(file), f"a result as `run` writes it ({first})") from error


def _rows(
    claim: Claim,
    configs: Sequence[ClaimConfig],
    cells: list[tuple[str, int]],
    code: str,
    jobs: int,
    on: Engine,
    threads: int,
    cache: Cache,
    progress: Progress,
) -> list[list[Row]]:
    """The rows of each config, in the order of `cells`."""
    places = [(number, *cell) for number in range(len(configs)) for cell in cells]
    arguments = [(number, claim.slug, arm, unit, configs[number], code, cache.root, threads) for number, arm, unit in places]
    found: dict[tuple[int, str, int], Row] = {}
    what = f"{claim.slug}: {len(claim.arms)} arms x {len(cells) // len(claim.arms)} units"
    title = what if len(configs) == 1 else f"{what} x {len(configs)} settings"
    with progress.task(title, len(places)) as task:
        rows: Iterable[tuple[int, Row]]
        if on == "ray":

            def lost(index: int, reason: str) -> tuple[int, Row]:
                number, arm, unit = places[index]
                return number, Row(arm=arm, unit_id=unit, status="failed", error=reason, seconds=0.0)

            rows = on_ray.rows_on_ray(_numbered, arguments, lost, jobs=jobs)
        elif jobs == 1:
            rows = (_numbered(*one, progress=progress) for one in arguments)
        else:
            rows = in_workers(_numbered, arguments, jobs=jobs, kept="finished cells are cached")
        try:
            for number, row in rows:
                task.advance(1, f"{row.arm} {row.unit_id}: {_glance(row)}")
                found[number, row.arm, row.unit_id] = row
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; finished cells are cached, the same command goes on from there") from error
    return [[found[number, *cell] for cell in cells] for number in range(len(configs))]


def _numbered(number: int, *cell: Any, **options: Any) -> tuple[int, Row]:
    """A cell with the number of its config; workers give cells back in the order in which they end."""
    return number, _cell(*cell, **options)


def _cell(
    slug: str,
    arm: str,
    unit: int,
    config: ClaimConfig,
    code: str,
    cache_root: Path,
    threads: int,
    progress: Progress = QUIET,
) -> Row:
    """Compute one cell, or take it from the cache. Runs in a worker; any failure becomes a failed row."""
    cache, claim = Cache(cache_root), load_claim(slug)
    key: dict[str, Any] = {"slug": slug, "arm": arm, "unit": unit, "config": config.model_dump(), "code": code}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)

    def build(folder: Path) -> None:
        start = time.monotonic()
        metrics = {k: float(v) for k, v in claim.cell(Cell(arm, unit, config, cache, progress)).items()}
        if bad := [k for k, v in metrics.items() if not math.isfinite(v)]:
            raise InputError("metrics", f"{bad[0]} that is not finite", "finite numbers")
        row = Row(arm=arm, unit_id=unit, status="ok", metrics=metrics, seconds=time.monotonic() - start)
        write_atomic(folder / "row.json", row.model_dump_json())

    start = time.monotonic()
    try:
        folder = cache.get("cells", {**key, "threads": threads, "torch": torch.__version__}, build)
        return Row.model_validate_json((folder / "row.json").read_text())
    except (Interrupted, WriteError):  # a full disk would fail every cell after this one
        raise
    except Exception as error:  # a failed cell is a result: it is kept with its reason
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Row(arm=arm, unit_id=unit, status="failed", error=reason, seconds=time.monotonic() - start)
    finally:
        torch.set_num_threads(before)


def _glance(row: Row) -> str:
    if row.status == "failed":
        return row.error or "failed"
    return ", ".join(f"{key} {value:.4g}" for key, value in list(row.metrics.items())[:3])
