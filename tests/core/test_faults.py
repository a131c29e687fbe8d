"""Full disks, read-only folders, several writers, kill -9: one sentence, and nothing that was there before is lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, Interrupted, NotFinite, TutelageError, WriteError
from tutelage.core.files import check_folder, locked, sync_folder, write_atomic, write_json
from tutelage.core.runs import Run, append_jsonl, read_jsonl

FREE = "free some space there (or choose another folder), then run it again"


def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A real file system of its own in memory; skipped where this process may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    yield from mounted(tmp_path / "small", "size=64k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A disk that nobody can write, not even root."""
    yield from mounted(tmp_path / "read-only", "ro")


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# a full disk


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(small: Path) -> None:
    path = small / "weights.bin"
    write_atomic(path, b"good")
    for _ in range(5):
        with pytest.raises(WriteError, match="No space left on device") as caught:
            write_atomic(path, bytes(200_000))
        assert str(caught.value) == f"cannot write {path}: No space left on device; {FREE}"
        assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"good"
    assert names(small) == ["weights.bin"]
    write_atomic(path, b"better")  # and there is room again
    assert path.read_bytes() == b"better"


def test_a_full_disk_keeps_what_is_in_the_cache(small: Path) -> None:
    cache = Cache(small / "cache")
    first = cache.get("cells", {"cell": 1}, lambda folder: write_json(folder / "row.json", {"value": 1}))
    for _ in range(3):
        with pytest.raises(WriteError, match="No space left"):
            cache.get("cells", {"cell": 2}, lambda folder: write_atomic(folder / "weights", bytes(200_000)))
    assert [p for p in first.parent.iterdir() if p.is_dir()] == [first]
    again = cache.get("cells", {"cell": 1}, lambda folder: pytest.fail("it was there"))
    assert json.loads((again / "row.json").read_text()) == {"value": 1}


def test_a_full_disk_tears_no_line_of_a_log(small: Path) -> None:
    log = small / "metrics.jsonl"
    for step in range(16):  # 21 lines of 3030 bytes are what 64 kB hold
        append_jsonl(log, {"step": step, "text": "x" * 3000})
    written = 16

    def until_full() -> None:
        nonlocal written
        while True:
            append_jsonl(log, {"step": written, "text": "x" * 3000})
            written += 1

    with pytest.raises(WriteError, match=r"metrics\.jsonl: No space left on device"):
        until_full()
    assert written < 22
    assert log.read_bytes().endswith(b"}\n")
    assert [row["step"] for row in read_jsonl(log)] == list(range(written))


def test_a_full_disk_is_told_before_work_is_done(small: Path) -> None:
    check_folder(small / "out")
    with (small / "everything").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(InputError, match=r"out: got .*, wanted a folder that can be written; .* \(No space left on device\)"):
        check_folder(small / "out")
    assert names(small) == ["everything"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_the_device_that_is_always_full() -> None:
    with pytest.raises(WriteError, match="cannot write /dev/full: No space left on device"):
        append_jsonl(Path("/dev/full"), {"step": 1})


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """RLIMIT_FSIZE binds every user, so this runs where nothing can be mounted."""
    script = f"""
import resource
from pathlib import Path
from tutelage.core.cache import Cache
from tutelage.core.errors import WriteError
from tutelage.core.files import write_atomic
from tutelage.core.runs import append_jsonl
folder = Path({str(tmp_path)!r})
write_atomic(folder / "x", b"good")
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for attempt in range(3):
    try:
        write_atomic(folder / "x", bytes(9000))
    except WriteError as error:
        print(error)
    try:
        Cache(folder / "cache").get("cells", {{}}, lambda at: write_atomic(at / "row", bytes(9000)))
    except WriteError as error:
        print(error)
try:
    for step in range(100):
        append_jsonl(folder / "log", {{"step": step, "text": "x" * 700}})
except WriteError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    for line in lines:
        assert line.startswith(f"cannot write {tmp_path}/")
        assert line.endswith(": choose another folder or raise the limit (ulimit -f), then run it again")
    assert (tmp_path / "x").read_bytes() == b"good"
    assert [row["step"] for row in read_jsonl(tmp_path / "log")] == list(range(6))  # 6 lines of 730 bytes are below 5000
    assert [name for name in names(tmp_path) if not name.endswith(".lock")] == ["log", "x"]


# folders that cannot be written


def test_a_read_only_disk(read_only: Path) -> None:
    with pytest.raises(InputError, match=r"out: got .* wanted a folder that can be written; .* \(Read-only file system\)"):
        check_folder(read_only / "a" / "b")
    for write in (
        lambda: write_atomic(read_only / "x", b"x"),
        lambda: append_jsonl(read_only / "log", {"step": 1}),
        lambda: Run.create(read_only / "run", "audit", {}),
        lambda: Cache(read_only / "cache").get("cells", {}, lambda folder: pytest.fail("built for nothing")),
    ):
        with pytest.raises(WriteError, match=r"cannot write .*Read-only file system; choose a folder that can be written"):
            write()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(InputError, match="out: got /proc/tutelage, wanted a folder that can be written; /proc cannot"):
        check_folder(Path("/proc/tutelage"))
    with pytest.raises(WriteError, match="cannot write /proc/tutelage/x: No such file or directory; choose another folder"):
        write_atomic(Path("/proc/tutelage/x"), b"x")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for write in (
        lambda: write_atomic(tmp_path / "file" / "x", b"x"),
        lambda: append_jsonl(tmp_path / "file" / "log", {}),
        lambda: Run.create(tmp_path / "file", "audit", {}),
        lambda: Cache(tmp_path / "file").get("cells", {}, lambda folder: pytest.fail("built for nothing")),
    ):
        with pytest.raises(WriteError, match=r"cannot write .*(Not a directory|File exists); choose another folder"):
            write()
    assert (tmp_path / "file").read_text() == "mine"


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


# renames


def test_a_rename_is_flushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = os.fsync, []

    def fsync(descriptor: int) -> None:
        steps.append(os.path.realpath(f"/proc/self/fd/{descriptor}") if Path("/proc").exists() else "")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "x", b"12345")
    assert len(steps) == 2
    if steps[0]:
        assert Path(steps[0]).name.startswith(".x.")
        assert steps[1] == str(tmp_path)


def test_a_file_system_that_cannot_flush_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    number = errno.EINVAL
    sync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="no"):
        sync_folder(tmp_path)


# several writers

RACER = """
import os, sys, time
from pathlib import Path
from tutelage.core.cache import Cache
root, log, start = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
def build(folder):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    (folder / "half").write_bytes(b"1")
    time.sleep(float(sys.argv[4]))
    (folder / "whole").write_bytes(b"12")
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
folder = Cache(root).get("cells", {"cell": 1}, build)
assert (folder / "whole").read_bytes() == b"12"
print("has it", flush=True)
"""


def racer(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [str(tmp_path / "cache"), str(tmp_path / "log"), str(tmp_path / "start"), str(seconds)]
    process = subprocess.Popen([sys.executable, "-c", RACER, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_fresh_processes_on_one_key_compute_it_once(tmp_path: Path) -> None:
    processes = [racer(tmp_path, 0.2) for _ in range(2)]
    (tmp_path / "start").touch()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["has it\n"] * 2
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_writer_killed_inside_blocks_nobody(tmp_path: Path) -> None:
    first, second = racer(tmp_path, 60), racer(tmp_path, 0)
    (tmp_path / "start").touch()
    deadline = time.monotonic() + 60
    builders: list[str] = []
    while not builders and time.monotonic() < deadline:
        builders = (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []
        time.sleep(0.005)
    if builders == [str(second.pid)]:  # the quick one was first and is through: then it is the other's turn to have it
        assert first.communicate(timeout=60)[0] == "has it\n"
        assert second.communicate(timeout=60)[0] == "has it\n"
        return
    assert builders == [str(first.pid)]
    first.kill()
    assert second.communicate(timeout=60)[0] == "has it\n"
    first.communicate(timeout=60)
    assert (tmp_path / "log").read_text().split() == [str(first.pid), str(second.pid)]
    (folder,) = [p for p in (tmp_path / "cache" / "cells").iterdir() if p.is_dir()]
    assert sorted(p.name for p in folder.iterdir()) == ["half", "manifest.json", "whole"]


def test_a_lock_that_is_held_can_be_told_without_waiting(tmp_path: Path) -> None:
    with locked(tmp_path / "x.lock"), pytest.raises(BlockingIOError), locked(tmp_path / "x.lock", wait=False):
        pass
    with locked(tmp_path / "x.lock", wait=False):
        pass


# errors come home from worker processes


@pytest.mark.parametrize(
    "error",
    [
        InputError("eps", -1, "a number"),
        WriteError("/full/x", OSError(errno.ENOSPC, "No space left on device")),
        NotFinite(3, "the loss"),
        Interrupted("stopped"),
    ],
)
def test_errors_survive_pickling(error: TutelageError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert getattr(found, "errno", None) == getattr(error, "errno", None)
    assert found.exit_code == error.exit_code
