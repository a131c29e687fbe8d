"""The standard suite against the AutoAttack of pyautoattack and of torchattacks: robust accuracy and time, image by image.

    python benchmarks/attack_suite.py [--models ...] [--tools ...] [--n 1000]

Six models (attacked.py) are attacked by each tool in turn, one at a time: same images, budget, batch size and threads, each
tool in its own environment (peers.py) but on the same torch. Two of the models hide their gradients. Every model and tool is
one file under runs/attack_suite/: who stops the race and starts it again loses one of them, and only what has changed is run
again. The models are trained when they are first needed. With fewer images than 1,000 nothing is kept in results.json, and
what 1,000 will about take is told.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from attacked import MODELS, split, weights
from common import HERE, RESULTS, keep, versions
from peers import missing, python_of
from report import attacks_table

from tutelage.claims.codehash import code_sha256
from tutelage.core.errors import MissingError
from tutelage.core.files import canonical_json, sha256_file, sha256_text, write_json
from tutelage.core.progress import shown
from tutelage.core.stats import newcombe_paired

OURS, PEERS = "tutelage", ("pyautoattack", "torchattacks")
LEAST = 1000  # images of a race that counts
BATCH = 250  # AutoAttack's own
# what the project asks for: how far above theirs our robust accuracy may be at most, and how many times faster we are
ABOVE, ABOVE_MASKED, FASTER = 0.002, 0.005, 5.0
FORMAT = 1  # of an outcome file; higher: run all again

Mask = npt.NDArray[np.bool_]


def job_of(tool: str, name: str, path: Path, got: argparse.Namespace) -> dict[str, Any]:
    """All that the outcome of a tool on a model depends on."""
    job: dict[str, Any] = {
        "format": FORMAT,
        "tool": tool,
        "model": name,
        "budget": str(MODELS[name].budget),
        "weights": str(path),
        "sha256": sha256_file(path),
        "n": got.n,
        "batch": got.batch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "quick": got.quick,
    }
    if tool == OURS:
        return {**job, "code": [code_sha256(module) for module in ("tutelage.auditing.measure", "tutelage.threats.suite")]}
    return {**job, "peer": (HERE / "peers" / f"{tool}.txt").read_text()}


def file_of(job: dict[str, Any], folder: Path) -> Path:
    return folder / f"{job['model']}-{job['tool']}-{job['n']}.json"


def kept(job: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """What a tool found when this very job was run."""
    found = read(file_of(job, folder))
    return found if found and found.get("key") == sha256_text(canonical_json(job)) else None


def outcome(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a tool found; run if it is not kept. A failure is not."""
    if before := kept(job, folder):
        return before
    python = sys.executable if job["tool"] == OURS else str(python_of(job["tool"]))
    with tempfile.TemporaryDirectory() as scratch:
        order, out = Path(scratch) / "job.json", Path(scratch) / "out.json"
        write_json(order, job)
        code = subprocess.run(
            [python, str(HERE / "attack_side.py"), job["tool"], str(order), str(out)],
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": str(job["threads"])},
        ).returncode
        found = read(out) or {"failed": f"it ended with exit code {code}"}
    if "failed" in found:
        return found
    found |= {"key": sha256_text(canonical_json(job)), "job": job, "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    write_json(file_of(job, folder), found)
    return found


def read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def mask(digits: str) -> Mask:
    return np.array([digit == "1" for digit in digits])


def compared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """One row of results.json: our outcome against a peer's, on the same images."""
    name, peer = ours["job"]["model"], theirs["job"]["tool"]
    masked = MODELS[name].masked
    mine, yours = mask(ours["robust"]), mask(theirs["robust"])
    interval = newcombe_paired(mine, yours)
    difference = float(mine.mean() - yours.mean())
    faster = theirs["seconds"] / ours["seconds"]
    above = ABOVE_MASKED if masked else ABOVE
    missed = [f"{100 * difference:+.1f} points above theirs"] if difference > above + 1e-9 else []
    if not masked and faster < FASTER:
        missed.append(f"only {faster:.1f} times")
    notes = {
        "model": f"{name}: {MODELS[name].what}",
        "budget": ours["job"]["budget"],
        "masked": masked,
        "images": len(mine),
        "clean accuracy": float(mask(ours["clean"]).mean()),
        "robust accuracy": {OURS: float(mine.mean()), peer: float(yours.mean())},
        "difference": [difference, interval.lo, interval.hi],
        "only ours breaks": int((~mine & yours).sum()),
        "only theirs breaks": int((mine & ~yours).sum()),
        "times faster": faster,
        "times faster in processor time": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "missed": missed,
        "after each attack": {OURS: ours["after"], peer: theirs["after"]},
        "outside the budget": {OURS: ours["outside"], peer: theirs["outside"]},
        "disputed": {OURS: ours["disputed"], peer: theirs["disputed"]},
        "passes": ours["passes"],
        "searched in": ours["search"],
        "warnings": {OURS: ours["warnings"], peer: theirs["warnings"]},
        "audit": {"status": ours["status"], "warnings": ours["flags"]},
        "load at the start": {OURS: ours["load"], peer: theirs["load"]},
    }
    ratio = ours["seconds"] / theirs["seconds"]
    return {
        "name": f"{name} against {peer}",
        "group": "attacks",
        "ours": "standard suite",
        "peer": f"{peer}'s AutoAttack",
        "unit": "seconds",
        "median_ratio": ratio,
        "ratio_quartiles": [ratio, ratio],
        "median_ours": ours["seconds"],
        "median_peer": theirs["seconds"],
        "wanted": f"at most {100 * above:+.1f} points" + ("" if masked else f", {FASTER:.0f} times faster"),
        "n": 1,
        "rounds": [[ours["seconds"], theirs["seconds"]]],
        "notes": notes,
        "versions": {**ours["versions"], **{k: v for k, v in theirs["versions"].items() if k == peer}},
        "machine": ours["machine"],
        "date": theirs["date"],
        "commit": ours["commit"],
        "dirty": ours["dirty"],
    }


def told(found: dict[str, Any]) -> str:
    """One outcome in one line."""
    if "failed" in found:
        return f"did not finish: {found['failed']}"
    n, seconds = len(found["robust"]), found["seconds"]
    line = (
        f"{seconds:.1f} s ({found['cpu_seconds']:.1f} s of processor time), robust accuracy {mask(found['robust']).mean():.1%}"
    )
    if n < LEAST:
        line += f"; {LEAST:,} images: about {seconds * LEAST / n:.0f} s ({found['cpu_seconds'] * LEAST / n:.0f} s)"
    if found["status"] == "unreliable":
        line += "; UNRELIABLE: " + "; ".join(found["flags"])
    return line


def several(allowed: tuple[str, ...]) -> Any:
    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"got {unknown[0]}, wanted some of {', '.join(allowed)}")
        return list(dict.fromkeys(names))

    return read


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=several(tuple(MODELS)), default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--tools", type=several((OURS, *PEERS)), default=[OURS, *PEERS], help=", ".join((OURS, *PEERS)))
    parser.add_argument("--n", type=int, default=LEAST, help="images a model")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--train", action="store_true", help="only train the models")
    parser.add_argument("--folder", type=Path, default=HERE / "runs" / "attack_suite", help="of models and outcomes")
    parser.add_argument("--results", type=Path, help="the JSON file that the comparisons are put into")
    parser.add_argument("--quick", action="store_true", help="barely trained models, a few queries: to see that it runs")
    got = parser.parse_args(arguments)
    if got.quick and got.folder == parser.get_default("folder"):
        got.folder /= "quick"
    if got.n < 1 or got.batch < 1:
        parser.error("--n and --batch: wanted at least 1")
    if got.threads:
        torch.set_num_threads(got.threads)
    if got.results is None and got.n >= LEAST and not got.quick:
        got.results = RESULTS
    return got


def main() -> None:
    got = options()
    tools = []
    for tool in got.tools:
        if tool != OURS and (reason := missing(tool)):
            print(f"left out: {reason}", flush=True)
        else:
            tools.append(tool)
    rows = []
    for name in got.models:
        try:
            split(MODELS[name], "test")
            with shown() as progress:
                path = weights(MODELS[name], got.folder / "models", quick=got.quick, progress=progress)
        except MissingError as error:
            print(f"left out: {name}: {error}", flush=True)
            continue
        found = {}
        for tool in () if got.train else tools:
            found[tool] = outcome(job_of(tool, name, path, got), got.folder)
            print(f"{name}, {MODELS[name].budget}, {got.n} images, {tool}: {told(found[tool])}", flush=True)
        for tool in (OURS, *PEERS):  # those of an earlier run count, too
            if tool not in found and not got.train and (before := kept(job_of(tool, name, path, got), got.folder)):
                found[tool] = before
        done = {tool: one for tool, one in found.items() if "failed" not in one}
        new = [compared(done[OURS], done[peer]) for peer in PEERS if OURS in done and peer in done]
        rows += new
        if got.results and new:
            keep(new, got.results)
    if rows:
        print(f"\n{attacks_table(rows)}")
    elif not got.train:
        print(f"nothing to compare: {OURS} and one of {', '.join(PEERS)} are needed; versions: {versions()}")


if __name__ == "__main__":
    main()
