"""Worker processes: every result, what is shared, errors, workers that are killed, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from small_tasks import broken, dies_as, refuses, square, waits, which

from tutelage.core import workers
from tutelage.core.errors import InputError, TutelageError
from tutelage.core.workers import get_engine, in_workers

HERE = Path(__file__).parent


def test_every_task_gives_its_result_and_each_worker_reads_what_is_shared_once() -> None:
    assert sorted(in_workers(square, [(n,) for n in range(5)], jobs=2, kept="")) == [(n, n * n) for n in range(5)]
    rows = list(in_workers(which, [(n,) for n in range(6)], jobs=2, kept="", shared={"add": 10}))
    assert sorted(total for total, _, _ in rows) == [10 + n for n in range(6)]
    assert os.getpid() not in {process for _, process, _ in rows}
    assert len({(process, place) for _, process, place in rows}) == len({process for _, process, _ in rows}) <= 2


def test_errors_of_tasks_come_home_as_they_are() -> None:
    with pytest.raises(InputError, match=r"^number: got 3, wanted another$") as caught:
        list(in_workers(refuses, [(3,)], jobs=2, kept=""))
    assert caught.value.argument == "number"
    with pytest.raises(ImportError, match="no module named such"):
        list(in_workers(broken, [()], jobs=1, kept=""))


def test_a_killed_worker_is_told_with_what_is_kept(tmp_path: Path) -> None:
    results = in_workers(dies_as, [(tmp_path, 0), (tmp_path, 1)], jobs=1, kept="finished cells are cached")
    assert next(results) == 0
    with pytest.raises(TutelageError) as caught:
        next(results)
    assert str(caught.value) == (
        "a worker process was killed, perhaps for its memory; finished cells are cached: run it again with fewer jobs"
    )
    (tmp_path / "0").touch()
    with pytest.raises(TutelageError, match=r"with fewer jobs .a script calls this below `if __name__"):
        list(in_workers(dies_as, [(tmp_path, 1)], jobs=1, kept=""))  # killed before anything was done


def test_a_result_that_came_with_a_death_is_given_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are known at once, the death as the first of them."""
    real = workers.wait

    def all_at_once(futures: set[Future[object]], **_: object) -> tuple[list[Future[object]], set[Future[object]]]:
        done, waiting = real(futures)
        return sorted(done, key=lambda one: one.exception() is None), waiting

    monkeypatch.setattr(workers, "wait", all_at_once)
    results = in_workers(dies_as, [(tmp_path, 0), (tmp_path, 1)], jobs=1, kept="")
    assert next(results) == 0
    with pytest.raises(TutelageError, match="a worker process was killed"):
        next(results)


def test_ctrl_c_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> object:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "wait", pressed)
    with pytest.raises(KeyboardInterrupt):
        list(in_workers(waits, [(tmp_path, 3.0)], jobs=2, kept=""))
    assert (tmp_path / "started").exists()
    time.sleep(4)
    assert not (tmp_path / "ended").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_a_run_that_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from small_tasks import waits\nfrom tutelage.core.workers import in_workers\n"
        f"if __name__ == '__main__':\n    list(in_workers(waits, [(Path({str(tmp_path)!r}), 600.0)] * 2, jobs=2, kept=''))\n"
    )
    run = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "started").exists()
    # Ctrl-C goes to every process of the terminal, a kill to one
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    said = run.communicate(timeout=60)[1]  # ends when the last worker has let go of it
    assert said.count("Traceback") == (said.count("KeyboardInterrupt") > 0), said
    assert not (tmp_path / "ended").exists()


def test_an_unknown_engine_is_refused() -> None:
    assert [get_engine("local"), get_engine("ray")] == ["local", "ray"]
    with pytest.raises(InputError, match=r"^on: got slurm, wanted local or ray$"):
        get_engine("slurm")
