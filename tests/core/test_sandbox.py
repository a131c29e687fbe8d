"""Honest programs: what passes, what fails, what is said of each."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.sandbox import Isolation, Job, Limits, Sandbox, run_program, run_tests

SMALL = Limits(cpu_s=2, wall_s=10, mem_mb=256)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1, limits=SMALL) as one:
        yield one


def test_a_right_program_passes_and_a_wrong_one_says_why(box: Sandbox) -> None:
    double = "def double(x):\n    return 2 * x\n"
    tests = "def check(f):\n    assert f(4) == 8, 'not doubled'\ncheck(double)\n"
    good, bad = box.run_many([Job(double, tests), Job(double.replace("2 * x", "x"), tests)])
    assert (good.status, good.passed, good.error) == ("passed", True, "")
    assert (bad.status, bad.passed, bad.error) == ("failed", False, "AssertionError: not doubled")
    assert "assert f(4) == 8" in bad.stderr, "the traceback shows the line"
    assert "tutelage" not in bad.stderr, "and nothing of the sandbox"
    assert 0 < good.wall_s < 10


def test_a_script_is_given_its_input_and_what_it_prints_comes_back(box: Sandbox) -> None:
    result = box.run_program("import sys\nprint(int(input()) + 1)\nprint('é', file=sys.stderr)", stdin="41\n")
    assert (result.status, result.stdout, result.stderr) == ("passed", "42\n", "é\n")


def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs = [Job(f"import time\ntime.sleep({0.2 if i == 0 else 0})\nprint({i})") for i in range(6)]
    with Sandbox(workers=2, limits=SMALL) as box:
        assert [result.stdout for result in box.run_many(jobs)] == [f"{i}\n" for i in range(6)]
        assert box.run_many([]) == []


@pytest.mark.parametrize(
    ("source", "tests", "status", "error"),
    [
        ("x = (", "", "failed", "SyntaxError"),
        ("x = 1\0", "", "failed", "SyntaxError|ValueError"),
        ("x = '\ud800'", "", "failed", "UnicodeEncodeError"),
        ("1 / 0", "", "failed", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)", "", "failed", "SystemExit: 0"),
        ("def f(): raise KeyboardInterrupt", "f()", "failed", "KeyboardInterrupt"),
        ("def f(): return f()", "f()", "failed", "RecursionError"),
        ("def f(): return [0] * 10**10", "f()", "memory", "MemoryError"),
    ],
)
def test_how_tests_fail(box: Sandbox, source: str, tests: str, status: str, error: str) -> None:
    result = box.run_tests(source, tests)
    assert result.status == status
    assert any(result.error.startswith(one) for one in error.split("|")), result.error


def test_a_script_that_exits_with_zero_has_passed(box: Sandbox) -> None:
    assert box.run_program("import sys\nprint(1)\nsys.exit(0)").status == "passed"
    assert box.run_program("import sys\nsys.exit()").status == "passed"
    assert box.run_program("import sys\nsys.exit(3)").status == "failed"
    ends = box.run_program(
        "import atexit, threading\natexit.register(print, 'last')\nthreading.Timer(0.05, print, ['timer']).start()"
    )
    assert (ends.status, ends.stdout) == ("passed", "timer\nlast\n"), "threads are waited for, exit functions run"


def test_the_wall_clock_ends_a_program_that_waits_and_the_cpu_clock_one_that_works(box: Sandbox) -> None:
    start = time.monotonic()
    waits = box.run_program("import time\ntime.sleep(60)", limits=Limits(wall_s=0.3))
    assert (waits.status, waits.error) == ("timeout", "longer than 0.3 s")
    assert 0.3 <= waits.wall_s < 1.3, "within a second of its limit"
    works = box.run_program("while True: pass", limits=Limits(cpu_s=1, wall_s=60))
    assert (works.status, works.error) == ("timeout", "more than 1 s of CPU")
    assert time.monotonic() - start < 30


def test_limits_relative_to_a_reference() -> None:
    limits = Limits(wall_s=8)
    assert limits.relative_to(0.3).wall_s == pytest.approx(3.0)
    assert limits.relative_to(0.0).wall_s == 1.0
    assert limits.relative_to(100.0).wall_s == 8
    assert limits.relative_to(2, factor=2, least_s=5).wall_s == 5
    assert run_program("import time\ntime.sleep(5)", reference_wall=0.01).error == "longer than 1 s"


def test_the_least_limits_hold_a_small_program(box: Sandbox) -> None:
    least = Limits(wall_s=30, mem_mb=64, procs=1, file_mb=1, disk_mb=1, files=16, output_kb=1)
    assert box.run_tests("import json\nx = json.loads('[1]')", "assert x == [1]", limits=least).passed
    assert box.run_program("import threading\nthreading.Thread(target=print).start()", limits=least).status == "failed"


def test_long_output_is_cut_and_said_to_be(box: Sandbox) -> None:
    result = box.run_program("print('a' * 5000)\nimport os\nos.write(2, b'\\xff' * 10)", limits=Limits(output_kb=1))
    assert (result.status, result.stdout, result.truncated) == ("passed", "a" * 1024, True)
    assert result.stderr == "\ufffd" * 10
    assert not box.run_program("print('a' * 1023)", limits=Limits(output_kb=1)).truncated


def test_programs_share_nothing(box: Sandbox) -> None:
    first = box.run_program(
        "import builtins, json, os\nbuiltins.left = json.left = 1\nopen('left', 'w').write('x')\nos.environ['LEFT'] = '1'"
    )
    assert first.passed
    look = (
        "import builtins, json, os\nprint(hasattr(builtins, 'left'), hasattr(json, 'left'), os.listdir(), 'LEFT' in os.environ)"
    )
    assert box.run_program(look).stdout == "False False [] False\n"


def test_a_program_behaves_alike_each_time(box: Sandbox) -> None:
    source = "import random\nprint({'a', 'b', 'c', 'd', 'e'}, random.random(), hash('x'))"
    assert box.run_program(source).stdout == run_program(source).stdout


def test_tests_meet_the_builtins_and_no_tracer(box: Sandbox) -> None:
    patched = "import builtins\nbuiltins.abs = lambda x: 0\ndef f(): return -5\n__builtins__ = {}"
    assert box.run_tests(patched, "assert abs(f()) == 0, 'five'").error == "AssertionError: five"
    traced = "import sys\ntry:\n    sys.settrace(print)\nexcept RuntimeError as error:\n    print(error)\n"
    assert box.run_tests(traced, "").stdout == "sys.settrace is not allowed in the sandbox\n"


HONEST = {
    "threads": """
import threading
threads = [threading.Thread(target=print) for _ in range(4)]
[one.start() for one in threads]
[one.join() for one in threads]
""",
    "thread pool": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
""",
    "process pool": """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
""",
    "another interpreter": """
import subprocess, sys
answer = subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True)
assert answer.stdout == b"5\\n", answer
""",
    "asyncio": """
import asyncio
async def f():
    await asyncio.sleep(0.01)
    return 3
assert asyncio.run(f()) == 3
""",
    "files": """
import os, tempfile
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "x"), "w") as stream:
        stream.write("y")
assert os.listdir() == []
""",
    "sqlite": """
import sqlite3
assert sqlite3.connect(":memory:").execute("select 1 + 1").fetchone() == (2,)
""",
    "pickle": """
import pickle
from dataclasses import dataclass
@dataclass
class A:
    x: int
assert pickle.loads(pickle.dumps(A(1))) == A(1)
""",
    "inspect": """
import inspect
def f():
    return 1
assert "return 1" in inspect.getsource(f)
""",
    "signals": """
import os, signal
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
os.kill(os.getpid(), signal.SIGTERM)
assert got == [1]
""",
    "main": """
import sys
assert __name__ == "__main__" and sys.argv == ["program.py"] and sys.stdin.read() == ""
""",
    "big numbers": """
assert sum(int(digit) for digit in str(3**4000)) % 9 == 0
""",
    "recursion": """
import sys
sys.setrecursionlimit(5000)
def depth(n):
    return 0 if n == 0 else 1 + depth(n - 1)
assert depth(4000) == 4000
""",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(box: Sandbox, name: str) -> None:
    result = box.run_program(HONEST[name])
    if name == "process pool" and "Landlock" in box.isolation.layers.get("files", ""):
        assert "PermissionError" in result.error, "its locks are files in /dev/shm, which only namespaces give it for its own"
    else:
        assert result.passed, (result, str(result.isolation))


def test_packages_can_be_imported_only_where_they_are_given(box: Sandbox) -> None:
    import numpy

    folder = numpy.__path__[0].rsplit("/", 1)[0]
    source = "import numpy\nassert numpy.arange(4).sum() == 6\nassert (numpy.eye(3) @ numpy.ones(3)).sum() == 3"
    assert box.run_tests(source, "").error == "ModuleNotFoundError: No module named 'numpy'"
    with Sandbox(packages=[folder], limits=Limits(mem_mb=1024, cpu_s=10, wall_s=30)) as other:
        result = other.run_tests(source, "")
        assert result.passed, result


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("workers", lambda: Sandbox(workers=0)),
        ("limits", lambda: Sandbox(limits=5)),  # type: ignore[arg-type]
        ("backend", lambda: Sandbox(backend="docker")),  # type: ignore[arg-type]
        ("require", lambda: Sandbox(require=["net"])),
        ("packages", lambda: Sandbox(packages=["/no/such/folder"])),
        ("limits.wall_s", lambda: Limits(wall_s=0)),
        ("limits.cpu_s", lambda: Limits(cpu_s=float("nan"))),
        ("limits.mem_mb", lambda: Limits(mem_mb=1)),
        ("limits.procs", lambda: Limits(procs=True)),
        ("reference_s", lambda: Limits().relative_to(-1)),
        ("source", lambda: Job(b"x")),  # type: ignore[arg-type]
        ("stdin", lambda: Job("x", stdin="\ud800")),
        ("tests", lambda: run_tests("x", 3)),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(argument: str, call: object) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert caught.value.argument == argument


def test_a_closed_sandbox_says_so() -> None:
    with Sandbox() as box:
        pass
    with pytest.raises(InputError, match="closed"):
        box.run_program("1")


def test_a_killed_interpreter_costs_one_program_and_no_more() -> None:
    with Sandbox(limits=SMALL) as box:
        assert box.run_program("1").passed
        worker = box._free.get()
        assert worker is not None
        box._free.put(worker)
        assert not worker.folder or os.path.isdir(worker.folder)
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(TutelageError, match="killed from outside"):
            box.run_program("1")
        assert not worker.folder or not os.path.exists(worker.folder)
        assert box.run_program("1").passed


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_outlives_a_killed_run(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    script = f"""
from tutelage.core.sandbox import Limits, Sandbox, pool
pool._START += "# {mark}"
with Sandbox(limits=Limits(wall_s=600)) as box:
    box.run_program("print(1)")
    print("ready", flush=True)
    box.run_program("import os, time\\nos.fork()\\ntime.sleep(600)")
"""

    def alive() -> list[str]:
        found = []
        for one in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if mark.encode() in one.read_bytes():
                    found.append(one.parent.name)
            except OSError:
                continue
        return found

    (tmp_path / "script.py").write_text(script)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 30
        while len(alive()) < 3 and time.monotonic() < deadline:  # the interpreter, the program and its child
            time.sleep(0.05)
        assert len(alive()) >= 3
        run.kill()
    deadline = time.monotonic() + 30
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive() == []


@pytest.mark.skipif(shutil.which("bwrap") is None or os.geteuid() == 0, reason="bubblewrap, and not for root")
def test_bubblewrap_holds_what_namespaces_would() -> None:
    try:
        box = Sandbox(backend="bwrap", limits=SMALL)
    except TutelageError as error:
        pytest.skip(f"bubblewrap does not work here: {error}")
    with box:
        assert box.isolation.layers["files"].startswith("bubblewrap")
        look = box.run_program(
            f"import os\nprint(os.path.exists({str(Path(__file__))!r}), os.listdir(), os.environ.get('PWD'))"
        )
        assert look.stdout == "False [] None\n"
        assert box.run_program("while True: pass", limits=Limits(wall_s=0.5)).status == "timeout"
        assert box.run_tests("x = 1", "assert x == 1").passed


def test_bubblewrap_is_refused_to_root_and_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.core.sandbox.pool.shutil.which", lambda _: None)
    with pytest.raises(MissingError, match="install bubblewrap"):
        Sandbox(backend="bwrap")
    monkeypatch.setattr("tutelage.core.sandbox.pool.shutil.which", lambda _: "/usr/bin/bwrap")
    monkeypatch.setattr("tutelage.core.sandbox.pool.os.geteuid", lambda: 0)
    with pytest.raises(TutelageError, match="do not bind root"):
        Sandbox(backend="bwrap")


def test_a_layer_that_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(require=["limits"]) as box:
        assert "limits" in box.isolation.layers
    monkeypatch.setattr(
        "tutelage.core.sandbox.pool.Isolation", lambda layers, missing: Isolation({}, {"network": "no namespaces"})
    )
    with pytest.raises(MissingError, match="cannot isolate network here: no namespaces"):
        Sandbox(require=["limits", "network"], backend="auto")


def test_a_platform_without_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.core.sandbox.pool.os.name", "nt")
    with pytest.raises(TutelageError, match="needs Linux"):
        Sandbox()


def test_what_is_not_isolated_is_said() -> None:
    one = Isolation({"limits": "CPU"}, {"network": "no namespaces"})
    assert str(one) == "isolated: limits; not isolated: network (no namespaces)"
    assert not one.complete
    assert Isolation({"limits": "CPU"}).complete


def test_the_example_of_the_page_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "sandbox.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "sandbox.md", "exec"), {})
    assert capsys.readouterr().out.endswith("passed failed AssertionError: not doubled 42\n 20\n")
