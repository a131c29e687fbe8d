"""kill -9 at random moments of a training, of a grid of a claim and of an audit; then the same call again, until it ends.

    python tools/soak.py --training 200 --grid 50 --audit 50 --fresh 3 --out docs/soak.json
    python tools/soak.py --claims 10 --out docs/soak.json      # ten kills of the smoke claim of each built system
    python tools/soak.py --replay training 0.31 0.08      # one trial with these seconds before each kill

What has to hold: the end is, bit for bit, the one of a run that nobody stopped, and no finished cell of a grid is computed
again. Importing torch takes longer than such a small run, so one process imports everything and forks the others before it
starts any thread; `--fresh` adds kills of new interpreters. Which systems are built is asked of the catalogue. What a claim
measures in seconds differs from run to run; such metrics are told by their names and left out.

Moments are drawn by `--seed`: half of them over the measured length of a whole run, half of them over its progress; every
fourth then waits for the next file that is being written and hits inside it. The exit code is 1 if anything failed; the
seconds before each kill are then printed, for `--replay`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there: forked children may not inherit threads

import argparse
import hashlib
import json
import multiprocessing
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  # imported late by what is run here; once in the parent is enough
import torch
import torch._dynamo
from soak_page import beside_others, claims_table, table, write_figures
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tutelage.auditing.report  # noqa: F401
from tutelage.auditing.audit import audit
from tutelage.auditing.curve import CURVE_FACTORS
from tutelage.auditing.measure import clean_and_robust
from tutelage.auditing.state import clear_finished
from tutelage.catalogue import find, systems
from tutelage.claims import runner
from tutelage.claims.claim import Cell, load_claim
from tutelage.claims.codehash import code_sha256
from tutelage.core import workers as pool
from tutelage.core.cache import Cache
from tutelage.core.environment import environment, git_state
from tutelage.core.errors import MissingError
from tutelage.core.files import canonical_json, sha256_text, write_json
from tutelage.data.images import ImageSet, random_flip
from tutelage.methods.distill.mtard import MTARD, MTARDConfig
from tutelage.models.loading import fingerprint
from tutelage.teaching import Teacher, fit, warmup_cosine
from tutelage.threats import PGD, Linf

LIMIT = 300.0  # seconds that one process may take


# the three runs: each goes on from what is in `folder` and returns a text that says all of its outcome


def images(n: int, seed: int, split: str = "") -> ImageSet:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    x = torch.rand(n, 1, 4, 4, generator=rng) * 0.6 + 0.15 * labels[:, None, None, None]
    return ImageSet(x, labels, ("a", "b", "c"), split=split)  # type: ignore[arg-type]


def net(seed: int) -> nn.Module:
    """BatchNorm and dropout: what a resume forgets first."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


EPOCHS, BATCHES = 4, 5


def training(folder: Path) -> str:
    """B-MTARD with dropout, BatchNorm, averaged weights, augmentation and selection, a checkpoint every second step."""
    student = net(1)
    teachers = {"clean": Teacher(linear(2)), "robust": Teacher(linear(3))}
    attack = PGD(Linf(0.1), steps=2, step_size=0.05, start="gaussian")
    objective = MTARD(teachers, attack, MTARDConfig(eta_w=0.2, eta_tau=0.05))
    train, validation = images(8 * BATCHES, 8), images(24, 9, "validation")
    result = fit(
        student,
        objective,
        DataLoader(TensorDataset(train.images, train.labels), batch_size=8, shuffle=True),
        epochs=EPOCHS,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.3, momentum=0.9, weight_decay=2e-4),
        schedule=warmup_cosine(0.2),
        augment=random_flip,
        ema=0.8,
        validate=lambda model: clean_and_robust(model, validation, PGD(Linf(0.1), steps=2), seed=5),
        select="w_robust",
        checkpoint=folder / "checkpoints",
        checkpoint_every=2,
        seed=17,
    )
    log = (folder / "checkpoints" / "metrics.jsonl").read_text()
    return canonical_json([fingerprint(student), repr(objective.state_dict()), result.history, result.epochs, result.best, log])


def training_share(folder: Path) -> float:
    log = folder / "checkpoints" / "metrics.jsonl"
    return log.read_bytes().count(b"\n") / (EPOCHS * (BATCHES + 1)) if log.exists() else 0.0


CHANGES = {"epochs": "1", "long_epochs": "1", "clean_teacher_epochs": "1", "robust_teacher_epochs": "1"}


def grid(folder: Path) -> str:
    """The twelve cells of MTARD's smoke claim, two workers."""
    result = runner.run_claim("mtard", changes=CHANGES, seeds=1, jobs=2, cache=Cache(folder / "cache"), out=folder / "out")
    return canonical_json([[row.arm, row.unit_id, row.status, row.metrics] for row in result.rows])


def logged_cells(folder: Path, slug: str) -> None:
    """From now on (and in forked workers) the start of each cell is written down, and workers are forked, not spawned."""
    claim = load_claim(slug)

    def cell(one: Cell) -> Any:
        with (folder / "started").open("a") as file:
            file.write(f"{one.arm} {one.unit}\n")
        return claim.cell(one)

    sys.modules[find(slug).claim_module].CLAIM = replace(claim, cell=cell)  # type: ignore[attr-defined]

    class Forking:
        def __getattr__(self, name: str) -> Any:
            return getattr(multiprocessing, name)

        def get_context(self, _: str) -> Any:
            return multiprocessing.get_context("fork")

    pool.multiprocessing = Forking()  # type: ignore[assignment]


def finished_cells(folder: Path) -> dict[str, float]:
    """cell -> when it was committed."""
    found = {}
    for manifest in folder.glob("cache/cells/[0-9a-f]*/manifest.json"):
        key = json.loads(manifest.read_text())["key"]
        found[f"{key['arm']} {key['unit']}"] = manifest.stat().st_mtime
    return found


def grid_share(folder: Path, cells: int = 12) -> float:
    return len(list(folder.glob("cache/cells/[0-9a-f]*/manifest.json"))) / cells


TIMES = re.compile(r"(^|_)(s|ms|seconds|minutes|time|speed|speedup|latency|throughput|per_second)(_|$)")


def smoke(folder: Path, slug: str) -> str:
    """The smoke claim of a system, one cell after the other."""
    result = runner.run_claim(slug, cache=Cache(folder / "cache"), out=folder / "out")
    if failed := [row for row in result.rows if row.status == "failed"]:
        raise RuntimeError(f"{failed[0].arm} {failed[0].unit_id}: {failed[0].error}")
    kept = [
        [row.arm, row.unit_id, {key: value for key, value in row.metrics.items() if not TIMES.search(key)}]
        for row in result.rows
    ]
    (folder / "modules.json").write_text(json.dumps(sorted(sys.modules)))
    return canonical_json([kept, result.verdict if not any(TIMES.search(c.metric) for c in result.claims) else ""])


def audited(folder: Path) -> str:
    """Two threats in six batches each, a curve, the report."""
    data = images(24, 4)
    model = linear(6)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [0.0], [1.0]]).expand(3, 16))
        model[1].bias.copy_(torch.tensor([6.0, 0.3, -8.0]))
    result = audit(
        model, data, threats=["pgd-5:linf@0.05", "pgd-3:linf@0.05"], batch_size=4, seed=2, force=True, state=folder / "state"
    )
    result.save(folder / "out")
    clear_finished(folder / "state")
    about = json.loads((folder / "out" / "audit.json").read_text())
    about.pop("seconds")
    pictures = hashlib.sha256((folder / "out" / "examples.safetensors").read_bytes()[-4096:]).hexdigest()
    return canonical_json([about, pictures])


AUDIT_PARTS = 1 + 2 * 6 + len(CURVE_FACTORS)


def audit_share(folder: Path) -> float:
    if (folder / "out" / "audit.json").exists():
        return 1.0
    return len(list(folder.glob("state/*/*.safetensors"))) / AUDIT_PARTS


@dataclass(frozen=True)
class Job:
    run: Callable[[Path], str]
    share: Callable[[Path], float]
    slug: str = ""  # of the claim whose cells are watched


JOBS = {
    "training": Job(training, training_share),
    "grid": Job(grid, grid_share, "mtard"),
    "audit": Job(audited, audit_share),
}
KINDS = tuple(JOBS)


def claim_job(slug: str) -> Job:
    claim = load_claim(slug)
    cells = len(claim.arms) * claim.units["smoke"]
    return Job(lambda folder: smoke(folder, slug), lambda folder: grid_share(folder, cells), slug)


def built() -> list[str]:
    """The systems whose claims are built, in the catalogue's order."""
    found = []
    for one in systems():
        with suppress(MissingError):  # planned
            load_claim(one.slug)
            found.append(one.slug)
    return found


def import_all(names: list[str]) -> None:
    """Here, once, what a run imports late."""
    for name in names:
        if name not in sys.modules and not name.startswith(("__", "torch._dynamo", "torch._inductor")):
            with suppress(Exception):  # a part that is not to be imported by itself
                import_module(name)


# one process


def child(name: str, folder: Path) -> None:
    """Run a job and leave what came of it in outcome.json; a failure in failure.txt."""
    try:
        torch.set_num_threads(1)
        write_json(folder / "outcome.json", {"sha256": sha256_text(JOBS[name].run(folder))})
    except BaseException:
        with (folder / "failure.txt").open("a") as file:
            file.write(traceback.format_exc())
        raise


def start(name: str, folder: Path, fresh: bool) -> int:
    """Start a job in a session of its own; returns its process id."""
    if fresh:
        command = [sys.executable, __file__, "--child", name, str(folder)]
        with (folder / "output.txt").open("a") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True).pid
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with (folder / "output.txt").open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if JOBS[name].slug:
            logged_cells(folder, JOBS[name].slug)
        child(name, folder)
        code = 0
    finally:
        os._exit(code)


def ended(pid: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """The exit code within so many seconds, else None; `until` ends the wait early."""
    stop = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= stop or until():
            return None
        time.sleep(0.002)


def clear_session(pid: int) -> None:
    """End whatever a killed run left behind: workers that have lost their run."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def workers(pid: int) -> list[int]:
    lines = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = [line.split(maxsplit=2) for line in lines]
    return [int(own) for own, parent, command in found if int(parent) == pid and "resource_tracker" not in command]


def half_written(folder: Path) -> list[Path]:
    """Files that are being written now, or that a killed writer left."""
    found = []
    for at, _, names in os.walk(folder):  # not rglob: folders vanish while we look
        found += [Path(at, name) for name in names if name.startswith(".")]
    return found


def left_behind(folder: Path) -> list[Path]:
    """What must not pile up where a run goes on: in checkpoints, cache and state. (Beside a result one may stay.)"""
    inside = [p for name in ("checkpoints", "cache", "state") for p in half_written(folder / name)]
    return inside + list(folder.glob("cache/*/.new-*"))


# trials


@dataclass
class Trial:
    """One folder: killed at some moments, then run to the end. problems: what should not have been."""

    job: str
    number: int
    fresh: bool
    delays: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    inside: int = 0
    twice: int = 0
    identical: bool = False
    problems: list[str] = field(default_factory=list)


def trial(
    job: str, number: int, kills: int, expected: str, seconds: float, rng: random.Random, *, fresh: bool = False,
    delays: list[float] | None = None,
) -> Trial:  # fmt: skip
    """Kill `job` up to `kills` times (or after exactly these `delays`), then let it end and compare."""
    result = Trial(job, number, fresh)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{job}-"))
    sessions = []
    settled: dict[str, float] = {}
    logged = 0
    try:
        while not result.problems:
            pid = start(job, folder, fresh)
            sessions.append(pid)
            killing = len(result.delays) < (len(delays) if delays is not None else kills)
            victim = rng.choice(("run", "run", "all", "worker")) if job == "grid" else "run"
            code = None
            begin = time.monotonic()
            if not killing:
                code = ended(pid, LIMIT)
            elif delays is not None:
                code = ended(pid, delays[len(result.delays)])
            else:
                code = ended(pid, *moment(job, folder, seconds, rng))
                if code is None and rng.random() < 0.25:  # the next write, if one comes soon
                    code = ended(pid, 0.3 * seconds, lambda: bool(half_written(folder)))
            delay = time.monotonic() - begin
            if code is None and not killing:
                result.problems.append(f"did not end within {LIMIT:.0f} s")
            elif code is None:
                strike(pid, victim)
                result.delays.append(round(delay, 4))
                result.shares.append(min(1.0, JOBS[job].share(folder)))
                result.inside += bool(half_written(folder))
            if JOBS[job].slug:
                twice = again(folder, settled, logged)
                result.twice += len(twice)
                result.problems += [f"computed again: {cell}" for cell in twice]
                settled = finished_cells(folder)  # first this, then the length: what starts after it is a mistake
                logged = len(starts(folder))
            if code is not None:
                if code != 0:
                    result.problems.append(f"ended with {code}: {last_words(folder)}")
                else:
                    result.identical = json.loads((folder / "outcome.json").read_text())["sha256"] == expected
                    if not result.identical:
                        result.problems.append("another outcome than without a kill")
                    if litter := left_behind(folder):
                        result.problems.append(f"left behind: {litter[0]}")
                break
    finally:
        for pid in sessions:
            clear_session(pid)
        if not result.problems:
            shutil.rmtree(folder, ignore_errors=True)
    return result


def moment(job: str, folder: Path, seconds: float, rng: random.Random) -> tuple[float, Callable[[], bool]]:
    """When to kill: after so many seconds, or sooner once so much is done."""
    share = JOBS[job].share(folder)
    if rng.random() < 0.5:
        return rng.uniform(0.0, 1.02 * seconds * max(0.2, 1 - share)), lambda: False
    target, rest, reached = rng.uniform(share, 1.0), rng.uniform(0.0, 0.1 * seconds), []

    def done() -> bool:
        if not reached and JOBS[job].share(folder) >= target:
            reached.append(time.monotonic())
        return bool(reached) and time.monotonic() >= reached[0] + rest

    return 3 * seconds, done


def strike(pid: int, victim: str) -> None:
    """kill -9: the run alone (its workers lose it), one of its workers, or all of them at once."""
    if victim == "all":
        os.killpg(pid, signal.SIGKILL)
    elif victim == "worker" and (found := workers(pid)):
        os.kill(found[0], signal.SIGKILL)
        if ended(pid, LIMIT) is not None:  # a run that has lost a worker may end, or go on without it
            return
        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def starts(folder: Path) -> list[str]:
    log = folder / "started"
    return log.read_text().splitlines() if log.exists() else []


def again(folder: Path, settled: dict[str, float], logged: int) -> list[str]:
    """Cells that were finished before and were started, or written, once more."""
    now = finished_cells(folder)
    wrong = {cell for cell in starts(folder)[logged:] if cell in settled}
    return sorted(wrong | {cell for cell, when in settled.items() if now.get(cell) != when})


def last_words(folder: Path) -> str:
    texts = [(folder / name).read_text() for name in ("failure.txt", "output.txt") if (folder / name).exists()]
    lines = [line for text in texts for line in text.strip().splitlines()]
    return lines[-1] if lines else "no message"


def whole(job: str, fresh: bool = False) -> tuple[str, float]:
    """(outcome, seconds) of a run that nobody stops. What it imported late is imported here, for those that come."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{job}-whole-"))
    before = time.monotonic()
    pid = start(job, folder, fresh)
    code = ended(pid, LIMIT)
    seconds = time.monotonic() - before
    clear_session(pid)
    if code != 0:
        sys.exit(f"{job} failed without any kill: {last_words(folder)}")
    outcome = json.loads((folder / "outcome.json").read_text())["sha256"]
    if not fresh and (folder / "modules.json").exists():
        import_all(json.loads((folder / "modules.json").read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    return outcome, seconds


def lane(job: str, first: int, step: int, kills: int, expected: str, seconds: float, seed: int, fresh: bool, to: Path) -> None:
    """Trials first, first + step, ... until so many kills have hit; one JSON line a trial."""
    number, done = first, 0
    with to.open("a") as file:
        while done < kills:
            rng = random.Random(f"{seed} {job} {number} {fresh}")
            found = trial(job, number, min(kills - done, rng.choice((1, 1, 2, 3))), expected, seconds, rng, fresh=fresh)
            done += len(found.delays)
            number += step
            file.write(json.dumps(asdict(found)) + "\n")
            file.flush()
            if found.problems:
                return


def soak(job: str, kills: int, seed: int, lanes: int, fresh: bool) -> dict[str, Any]:
    """`kills` kills of a job, in several lanes side by side; what came of them."""
    expected, _ = whole(job)
    again, seconds = whole(job, fresh)
    if again != expected:
        sys.exit(f"{job} differs between two runs that nobody stopped")
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-lanes-"))
    lanes = max(1, min(lanes, kills))
    pids = []
    for i in range(lanes):
        share = kills // lanes + (i < kills % lanes)
        pid = os.fork()
        if pid == 0:
            try:
                lane(job, i, lanes, share, expected, seconds, seed, fresh, folder / f"{i}.jsonl")
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    trials = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    shutil.rmtree(folder)
    shares = [share for one in trials for share in one["shares"]]
    quarters = [sum(q / 4 <= share < (q + 1) / 4 + (q == 3) for share in shares) for q in range(4)]
    return {
        "job": job,
        "fresh": fresh,
        "kills": len(shares),
        "wanted": kills,
        "runs": len(trials),
        "identical": sum(one["identical"] for one in trials),
        "twice": sum(one["twice"] for one in trials),
        "quarters": quarters,
        "inside": sum(one["inside"] for one in trials),
        "whole_seconds": round(seconds, 2),
        "seconds": round(time.monotonic() - begin, 1),
        "failures": [
            {key: one[key] for key in ("job", "number", "fresh", "delays", "problems")} for one in trials if one["problems"]
        ],
    }


def soak_claims(kills: int, seed: int, lanes: int, slugs: list[str]) -> list[dict[str, Any]]:
    """`kills` kills of the smoke claim of each of these systems."""
    results = []
    for slug in slugs:  # all of them now: what is edited meanwhile is not mixed in
        JOBS[slug] = claim_job(slug)
        code_sha256(load_claim(slug).system.claim_module)
    for slug in slugs:
        results.append(soak(slug, kills, seed, lanes, False))
        print(json.dumps({key: value for key, value in results[-1].items() if key != "failures"}), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for job in KINDS:
        parser.add_argument(f"--{job}", type=int, default=0, help=f"kills of {job}")
    parser.add_argument("--claims", type=int, default=0, help="kills of the smoke claim of each built system")
    parser.add_argument(
        "--systems", nargs="+", metavar="SLUG", help="with --claims: only these; --out keeps the rows of the others"
    )
    parser.add_argument("--fresh", type=int, default=0, help="kills of each job in new interpreters, beside those")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=min(2, os.cpu_count() or 1), help="trials side by side")
    parser.add_argument("--out", type=Path, help="write the figures here; docs/soak.json also fills docs/reliability.md")
    parser.add_argument("--replay", nargs="+", metavar=("JOB", "SECONDS"), help="one trial with these seconds before each kill")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    torch.set_num_threads(1)
    code_sha256(load_claim("mtard").system.claim_module)  # once, here: children see the same code, whoever edits meanwhile
    if options.replay:
        job, *delays = options.replay
        if job not in JOBS:
            JOBS[job] = claim_job(job)
        expected, seconds = whole(job)
        found = trial(job, 0, 0, expected, seconds, random.Random(0), delays=[float(delay) for delay in delays])
        print(json.dumps(asdict(found), indent=1))
        sys.exit(bool(found.problems))
    about = provenance(options.seed)
    results = []
    for fresh in (False, True):
        for job in KINDS:
            kills = getattr(options, job)
            if kills and fresh:
                kills = options.fresh
            if kills:
                results.append(soak(job, kills, options.seed, options.lanes, fresh))
                print(json.dumps({key: value for key, value in results[-1].items() if key != "failures"}), flush=True)
    figures: dict[str, Any] = {}
    if results:
        figures = {**about, "jobs": results}
        print(table(figures))
    failures = [failure for one in results for failure in one["failures"]]
    if options.claims:
        found_claims = soak_claims(options.claims, options.seed, options.lanes, options.systems or built())
        figures["claims"] = {**about, "jobs": found_claims}
        if options.systems and options.out:
            figures["claims"] = beside_others(figures["claims"], options.out, built())
        print(claims_table(figures["claims"]))
        failures += [failure for one in found_claims for failure in one["failures"]]
    for failure in failures:
        delays = " ".join(map(str, failure["delays"]))
        print(f"FAILED {failure['problems']}; again: python tools/soak.py --replay {failure['job']} {delays}")
    if options.out:
        write_figures(options.out, figures)
    sys.exit(bool(failures))


def provenance(seed: int) -> dict[str, Any]:
    """What the figures were made by."""
    commit, dirty = git_state()
    return {
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit + ("+" if dirty else ""),
        "torch": torch.__version__,
        "machine": f"{environment()['platform']}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    main()
