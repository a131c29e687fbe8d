"""Hostile programs: none escapes, none hangs, none passes, none leaves a process or a file; and the sandbox goes on working."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hostile_programs import HOSTILE, TESTS

from tutelage.core.errors import TutelageError
from tutelage.core.sandbox import Limits, Sandbox, pool

LIMITS = Limits(cpu_s=5, wall_s=0.8, mem_mb=128, procs=6, disk_mb=4)
AT_EASE = Limits(wall_s=30)
MARK = f"hostile-{uuid.uuid4().hex[:12]}"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox is POSIX only")


@dataclass
class Scene:
    """A sandbox, and what a program could reach for: files, a listener, an environment."""

    box: Sandbox
    folder: Path
    listener: socket.socket
    abstract: socket.socket | None
    zygote: int
    at_rest: list[int]
    work: str

    def names(self) -> str:
        values = {
            "MARK": MARK, "PARENT": os.getpid(), "ZYGOTE": self.zygote, "PORT": self.listener.getsockname()[1], "SOCKET": MARK,
            "SECRET": str(self.folder / "secret"), "CANARY": str(self.folder / "canary"),
        }  # fmt: skip
        return "".join(f"{name} = {value!r}\n" for name, value in values.items())


@pytest.fixture(scope="module", params=["auto", "plain"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEY", f"secret-{MARK}")
        patch.setattr(pool, "_START", f"{pool._START}# {MARK}\n")  # forks of the zygote can be told by their command line
        try:
            box = Sandbox(backend=request.param, limits=LIMITS)
        except TutelageError as error:
            if os.geteuid() != 0 or "as root" not in str(error):
                raise
            pytest.skip(f"rightly refused: {error}")
        if request.param == "plain" and sys.platform != "linux":
            pytest.skip("the same as auto here")
        folder = tmp_path_factory.mktemp("scene")
        (folder / "secret").write_text(f"secret-{MARK}")
        (folder / "canary").write_text("canary")
        abstract = None
        if sys.platform == "linux":
            abstract = socket.socket(socket.AF_UNIX)
            abstract.bind("\0" + MARK)
            abstract.listen()
        with box, socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            worker = box._free.get()
            assert worker is not None
            box._free.put(worker)
            assert box.run_program("1", limits=AT_EASE).passed
            yield Scene(box, folder, listener, abstract, worker.process.pid, processes(), worker.folder)
        if abstract is not None:
            abstract.close()
        assert processes() == [], "nothing is left of a closed sandbox"
        assert not worker.folder or not os.path.exists(worker.folder)


def processes() -> list[int]:
    """Processes that carry the mark in their command line: the zygote, its forks, and what they execute."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (one / "cmdline").read_bytes() and int(one.name) != os.getpid():
                found.append(int(one.name))
        except OSError:
            continue
    return sorted(found)


def marked_files(folder: Path) -> list[str]:
    places = {
        Path(tempfile.gettempdir()),
        Path("/tmp"),
        Path("/var/tmp"),
        Path("/dev/shm"),
        Path("/etc"),
        Path("/usr/lib"),
        Path("/"),
    }
    places |= {Path.home(), Path.cwd(), folder}
    return [str(place / MARK) for place in places if (place / MARK).exists()]


# what a program may only reach where this layer is missing, and then the result says so
NEEDS = {
    "another's memory": "files",
    "the environment of the parent": "files",
    "reading what is not its own": "files",
    "files outside": "files",
    "symbolic links": "files",
    "hard links": "files",
    "shared memory": "files",
    "connecting": "network",
    "listening and sending": "network",
    "raw sockets": "network",
    "kill its parent and all": "processes",
    "limits of others": "syscalls",
    "ptrace": "syscalls",
    "namespaces of its own": "syscalls",
    "a child that hops from process to process": "processes",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program(scene: Scene, name: str) -> None:
    layer = NEEDS.get(name)
    if layer in scene.box.isolation.missing:
        pytest.skip(f"{layer}: {scene.box.isolation.missing[layer]}")
    statuses, source = HOSTILE[name]
    # one that ends by itself is not hurried: a busy machine shall not turn its status into a time-out
    limits = LIMITS if "timeout" in statuses else replace(LIMITS, wall_s=30)
    start = time.monotonic()
    result = scene.box.run_tests(scene.names() + source, TESTS, limits=limits)
    took = time.monotonic() - start
    assert result.status in statuses.split(), result
    assert "ESCAPED" not in result.stdout
    assert f"secret-{MARK}" not in result.stdout + result.stderr
    assert result.isolation == scene.box.isolation
    assert len(result.stdout) <= 1024 * LIMITS.output_kb
    assert result.wall_s < limits.wall_s + 1
    assert took < limits.wall_s + 15
    assert processes() == scene.at_rest, "no process is left, and the sandbox is not hurt"
    assert marked_files(scene.folder) == []
    assert not scene.work or os.listdir(scene.work) == [], "its folder is gone"
    assert (scene.folder / "canary").read_text() == "canary"
    assert (scene.folder / "secret").read_text() == f"secret-{MARK}"
    for one in (scene.listener, scene.abstract):
        if one is not None:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.accept()


def test_honest_programs_pass_after_all_of_that(scene: Scene) -> None:
    good = scene.box.run_tests("def answer():\n    return 42", TESTS, limits=AT_EASE)
    assert good.passed, good
    assert scene.box.run_program("import os\nprint(os.listdir())", limits=AT_EASE).stdout == "[]\n"


def test_there_are_at_least_forty() -> None:
    assert len(HOSTILE) >= 40
