"""Cells on Ray: the rows of a local run, workers that die, Ctrl-C, and whose Ray is shut down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_cells import broken, dies, square, waits

from tutelage.app.cli import run
from tutelage.claims.on_ray import QUIET, RETRIES, rows_on_ray
from tutelage.claims.runner import load_result, run_claim
from tutelage.core.errors import InputError, Interrupted, MissingError

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def own_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray that the caller has started: it must be there afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in QUIET.items():
            patch.setenv(key, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # workers import ray_cells
        folder = tempfile.mkdtemp(prefix="own-ray-", dir="/tmp")  # pytest's own folders are too long for sockets
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20, _temp_dir=folder)
        yield
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def lost(index: int, reason: str) -> tuple[int, str]:
    return index, reason


def test_every_cell_gives_its_row_and_the_callers_ray_stays(own_ray: None) -> None:
    rows = list(rows_on_ray(square, [(n,) for n in range(7)], lost, jobs=2))
    assert sorted(rows) == [(n, n * n) for n in range(7)]
    assert ray.is_initialized()


def test_a_killed_worker_is_replaced_and_a_hopeless_cell_becomes_a_failed_row(own_ray: None, tmp_path: Path) -> None:
    for name in ("once", "always"):
        (tmp_path / name).mkdir()
    rows = list(rows_on_ray(dies, [(tmp_path / "once", 1), (tmp_path / "always", 99)], lost, jobs=2))
    assert "done in attempt 1" in rows
    index, reason = next(row for row in rows if isinstance(row, tuple))
    assert index == 1
    assert "the worker of this cell was lost 3 times" in reason
    assert len(list((tmp_path / "always").iterdir())) == RETRIES + 1


def test_a_worker_that_cannot_begin_says_why(own_ray: None) -> None:
    rows = list(rows_on_ray(broken, [()], lost, jobs=2))
    assert rows == [(0, "the worker could not begin: ImportError: no module named such")]


def test_ctrl_c_cancels_what_runs(own_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "wait", pressed)
    with pytest.raises(Interrupted, match="finished cells are cached"):
        list(rows_on_ray(waits, [(tmp_path, 3.0)], lost, jobs=2))
    assert (tmp_path / "started").exists()
    time.sleep(4)
    assert not (tmp_path / "ended").exists()


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


def test_an_address_without_a_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(MissingError, match="RAY_ADDRESS: there is no Ray cluster at nonsense"):
        list(rows_on_ray(square, [(1,)], lost, jobs=1))


def test_a_claim_does_not_run_in_several_processes_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE: got 2, wanted one process"):
        run_claim("mtard")
