"""Tasks on Ray: every result, workers that die, errors that come home, Ctrl-C, and whose Ray is shut down."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_tasks import broken, dies, refuses, square, waits, which

from tutelage.core.errors import InputError, MissingError
from tutelage.core.on_ray import QUIET, RETRIES, rows_on_ray

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def own_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray that the caller has started: it must be there afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in QUIET.items():
            patch.setenv(key, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # workers import small_tasks
        folder = tempfile.mkdtemp(prefix="own-ray-", dir="/tmp")  # pytest's own folders are too long for sockets
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20, _temp_dir=folder)
        yield
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def lost(index: int, reason: str) -> tuple[int, str]:
    return index, reason


def test_every_task_gives_its_result_and_the_callers_ray_stays(own_ray: None) -> None:
    rows = list(rows_on_ray(square, [(n,) for n in range(7)], lost, jobs=2))
    assert sorted(rows) == [(n, n * n) for n in range(7)]
    assert ray.is_initialized()


def test_a_killed_worker_is_replaced_and_a_hopeless_task_fails(own_ray: None, tmp_path: Path) -> None:
    for name in ("once", "always"):
        (tmp_path / name).mkdir()
    rows = list(rows_on_ray(dies, [(tmp_path / "once", 1), (tmp_path / "always", 99)], lost, jobs=2))
    assert "done in attempt 1" in rows
    index, reason = next(row for row in rows if isinstance(row, tuple))
    assert index == 1
    assert "the worker of this task was lost 3 times" in reason
    assert len(list((tmp_path / "always").iterdir())) == RETRIES + 1


def test_a_worker_that_cannot_begin_says_why(own_ray: None) -> None:
    rows = list(rows_on_ray(broken, [()], lost, jobs=2))
    assert rows == [(0, "the worker failed: ImportError: no module named such")]


def test_ctrl_c_cancels_what_runs(own_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "wait", pressed)
    with pytest.raises(KeyboardInterrupt):
        list(rows_on_ray(waits, [(tmp_path, 3.0)], lost, jobs=2))
    assert (tmp_path / "started").exists()
    time.sleep(4)
    assert not (tmp_path / "ended").exists()


def test_what_is_shared_is_read_once_by_each_worker(own_ray: None) -> None:
    rows = list(rows_on_ray(which, [(n,) for n in range(6)], lost, jobs=2, shared={"add": 10}))
    assert sorted(total for total, _, _ in rows) == [10 + n for n in range(6)]
    objects: dict[int, set[int]] = {}
    for _, process, place in rows:
        objects.setdefault(process, set()).add(place)
    assert all(len(places) == 1 for places in objects.values())


def test_an_error_of_ours_comes_home_as_it_is(own_ray: None) -> None:
    with pytest.raises(InputError, match=r"^number: got 3, wanted another$") as caught:
        list(rows_on_ray(refuses, [(3,)], lost, jobs=1))
    assert caught.value.argument == "number"


# refusals


def test_an_address_without_a_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(MissingError, match="RAY_ADDRESS: there is no Ray cluster at nonsense"):
        list(rows_on_ray(square, [(1,)], lost, jobs=1))
