"""Claims on Ray: the rows of a local run, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tutelage.app.cli import run
from tutelage.claims.runner import load_result, run_claim
from tutelage.core.errors import InputError

pytest.importorskip("ray")


def test_the_command_gives_the_rows_of_a_local_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    small = ["--seeds", "1", "--set", "epochs=1", "--set", "long_epochs=1"]
    environment = {**os.environ, "TUTELAGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    before = set(Path("/tmp").glob("ray-*"))
    done = subprocess.run(
        [sys.executable, "-c", "from tutelage.app.cli import main; main()", "run", "mtard", *small, "--on", "ray",
         "--jobs", "2", "--out", str(tmp_path / "ray")],
        capture_output=True, text=True, timeout=200, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("mtard: 12 arms x 1 units: ") for line in done.stderr.splitlines()), done.stderr
    assert set(Path("/tmp").glob("ray-*")) <= before
    local = run_claim("mtard", seeds=1, changes={"epochs": "1", "long_epochs": "1"}, out=tmp_path / "local")
    on_ray = load_result(tmp_path / "ray")
    assert (on_ray.environment["on"], on_ray.environment["threads"], on_ray.environment["jobs"]) == ("ray", 1, 2)
    assert [(r.arm, r.unit_id, r.status) for r in on_ray.rows] == [(r.arm, r.unit_id, "ok") for r in local.rows]
    for a, b in zip(local.rows, on_ray.rows, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4), a.arm
    assert on_ray.verdict == local.verdict


def busy_workers(cache: Path) -> list[int]:
    """Ray's processes of the run with that cache that are computing a cell now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (folder / "cmdline").read_bytes().startswith(b"ray::_") and str(cache).encode() in (
                folder / "environ"
            ).read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_killed_worker_costs_no_finished_cell(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {**os.environ, "TUTELAGE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    words = ["run", "mtard", "--seeds", "2", "--on", "ray", "--jobs", "2", "--out", str(tmp_path / "out")]
    program = [sys.executable, "-c", "from tutelage.app.cli import main; main()", *words]
    process = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    stop, killed, finished = time.monotonic() + 300, [], {}
    while process.poll() is None and time.monotonic() < stop and not killed:
        manifests = list(cache.glob("cells/[0-9a-f]*/manifest.json"))
        if len(manifests) >= 3 and (workers := busy_workers(cache)):
            finished = {path: path.stat().st_mtime_ns for path in manifests}
            os.kill(workers[0], signal.SIGKILL)
            killed = workers[:1]
        time.sleep(0.02)
    _, said = process.communicate(timeout=300)
    assert killed
    assert process.returncode == 0, said
    rows = load_result(tmp_path / "out").rows
    assert [row.status for row in rows] == ["ok"] * 24
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


# refusals


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["run", "mtard", "--on", "ray", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: on: ray is not installed; pip install 'tutelage[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_an_unknown_engine_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert run(["run", "mtard", "--on", "slurm", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: on: got slurm, wanted local or ray\n"
    assert not (tmp_path / "out").exists()


def test_a_claim_does_not_run_in_several_processes_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE: got 2, wanted one process"):
        run_claim("mtard")
