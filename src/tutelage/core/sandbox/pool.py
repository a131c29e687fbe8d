"""The outer side of the sandbox: start small interpreters, hand them programs, read what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.sandbox.limits import ExecResult, Isolation, Limits

if TYPE_CHECKING:  # not loaded here, but what a result hangs on
    from tutelage.core.sandbox.inside import zygote  # noqa: F401

Backend = Literal["auto", "namespaces", "bwrap", "plain"]

INSIDE = Path(__file__).parent / "inside"
# The packages above `inside` are made empty: nothing of this library is loaded where programs run, but the few files there.
_START = """
import sys, types
for name, path in zip(("tutelage", "tutelage.core", "tutelage.core.sandbox"), sys.argv[1:4]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from tutelage.core.sandbox.inside import zygote
zygote.main(int(sys.argv[4]))
"""
# common imports of programs: made once, before the fork
_PRELOAD = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq",
    "inspect", "io", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "time", "traceback",
    "typing",
)  # fmt: skip
_START_UP = 60.0  # seconds
_NONE = "no sandbox here"


@dataclass(frozen=True)
class Job:
    """One program. tests: run after it, in its namespace (None: it runs alone, as a script). stdin: what it can read."""

    source: str
    tests: str | None = None
    stdin: str = ""
    limits: Limits | None = None

    def __post_init__(self) -> None:
        for name in ("source", "stdin"):
            if not isinstance(getattr(self, name), str):
                raise InputError(name, type(getattr(self, name)).__name__, "text")
        try:
            self.stdin.encode()
        except UnicodeEncodeError as error:
            raise InputError("stdin", repr(error.object[error.start]), "text that UTF-8 can hold") from error
        if self.tests is not None and not isinstance(self.tests, str):
            raise InputError("tests", type(self.tests).__name__, "text or None")
        if self.limits is not None and not isinstance(self.limits, Limits):
            raise InputError("limits", type(self.limits).__name__, "Limits")


class Sandbox:
    """A pool of small interpreters, each of which forks a fresh process for one program after the other.

    workers: programs at once. limits: of jobs that bring none. packages: folders that programs may import from, as in
    `site.getsitepackages()`; without them they have the standard library. imports: modules to import once, before the fork
    (numpy, say). require: layers that must be isolated ("network", "files", …), else MissingError. backend: "auto" takes
    namespaces, else bubblewrap, else limits with seccomp and Landlock where the kernel has them; a name takes that or fails.

    Raises: InputError; MissingError for a required layer; TutelageError where nothing may be run (Windows; root without
    namespaces and without a user to become).
    """

    def __init__(
        self,
        workers: int = 1,
        limits: Limits | None = None,
        *,
        packages: Sequence[str | Path] = (),
        imports: Sequence[str] = (),
        require: Sequence[str] = (),
        backend: Backend = "auto",
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 1024:
            raise InputError("workers", workers, "a number of processes, 1 to 1024")
        if limits is not None and not isinstance(limits, Limits):
            raise InputError("limits", type(limits).__name__, "Limits")
        if backend not in ("auto", "namespaces", "bwrap", "plain"):
            raise InputError("backend", backend, "auto, namespaces, bwrap or plain")
        layers = ("files", "network", "processes", "ipc", "user", "syscalls", "limits")
        for name in require:
            if name not in layers:
                raise InputError("require", name, f"names out of {', '.join(layers)}")
        if os.name != "posix":
            raise TutelageError("the sandbox needs Linux (or, with less isolation, macOS): run this in WSL or a container")
        self.limits = limits or Limits()
        self._packages = [str(Path(one).resolve()) for one in packages]
        for one in self._packages:
            if not Path(one).is_dir():
                raise InputError("packages", one, "folders that exist")
        self._settings = {"preload": _PRELOAD, "packages": self._packages, "imports": list(imports)}
        self._backend: Backend = backend
        self._free: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._count = workers
        self._closed = False
        first = self._start()
        self.isolation = first.isolation
        lacking = [name for name in require if name in first.isolation.missing]
        if lacking:
            first.close()
            raise MissingError(f"the sandbox cannot isolate {lacking[0]} here: {first.isolation.missing[lacking[0]]}")
        self._free.put(first)
        for _ in range(workers - 1):
            self._free.put(None)  # started when it is needed

    def run_many(self, jobs: Sequence[Job]) -> list[ExecResult]:
        """Results in the order of the jobs."""
        jobs = list(jobs)
        for i, job in enumerate(jobs):
            if not isinstance(job, Job):
                raise InputError(f"jobs[{i}]", type(job).__name__, "a Job")
        if self._closed:
            raise InputError("sandbox", "closed", "a sandbox that is still open")
        results: list[ExecResult | None] = [None] * len(jobs)
        left = iter(enumerate(jobs))
        lock, errors = threading.Lock(), list[BaseException]()

        def work() -> None:
            while True:
                with lock:
                    number, job = next(left, (-1, None))
                if job is None or errors:
                    return
                try:
                    results[number] = self._run(job)
                except BaseException as error:
                    errors.append(error)

        if self._count == 1 or len(jobs) < 2:
            work()
        else:
            threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self._count, len(jobs)))]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException as error:  # Ctrl-C: no further job is begun
                errors.append(error)
        if errors:
            raise errors[0]
        return [result for result in results if result is not None]

    def run_program(self, source: str, *, stdin: str = "", limits: Limits | None = None) -> ExecResult:
        """Run a script; *passed* if it comes to its end, or to `sys.exit(0)`."""
        return self.run_many([Job(source, None, stdin, limits)])[0]

    def run_tests(self, program: str, tests: str, *, limits: Limits | None = None) -> ExecResult:
        """Run `program`, then `tests` in the same namespace; *passed* if both come to their end."""
        return self.run_many([Job(program, tests, "", limits)])[0]

    def close(self) -> None:
        self._closed = True
        while not self._free.empty():
            worker = self._free.get()
            if worker is not None:
                worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_free"):
            self.close()

    def _run(self, job: Job) -> ExecResult:
        limits = job.limits or self.limits
        worker = self._free.get() or self._start()
        answer: dict[str, Any] | None = None
        try:
            message = {"source": job.source, "tests": job.tests, "stdin": job.stdin, "limits": limits.as_dict()}
            answer = worker.ask(message, limits.wall_s + 20)
        finally:
            if answer is None:  # it hangs, was killed, or Ctrl-C came: the next job gets a new one
                worker.close()
            self._free.put(None if answer is None else worker)
        if answer is None:
            raise TutelageError(
                "a process of the sandbox was killed from outside, perhaps for its memory: run it again with fewer workers"
            )
        if answer["status"] == "refused":
            raise TutelageError(f"the sandbox could not start a program under these limits: {answer['error']}")
        if answer.get("left_over"):
            raise TutelageError(f"{answer['left_over']} processes of a program could not be ended: look for them and end them")
        if "left_files" in answer:
            raise TutelageError(f"what a program wrote could not be removed, do that by hand: {answer['left_files']}")
        return ExecResult(
            answer["status"],
            answer["stdout"],
            answer["stderr"],
            answer["wall_s"],
            worker.isolation,
            answer["error"],
            answer.get("truncated", False),
        )

    def _start(self) -> _Worker:
        """A new interpreter; with bubblewrap around it if that is asked for, or all that there is."""
        if self._backend == "bwrap":
            return self._bubblewrap("asked not to")
        if self._backend == "plain":
            return self._plain("asked not to")
        try:
            return _Worker({**self._settings, "backend": "namespaces", "outer": "", "why": ""}, [])
        except TutelageError as error:
            if self._backend == "namespaces":
                raise
            why = str(error).removeprefix(f"{_NONE}: ")
        if shutil.which("bwrap") and os.geteuid() != 0:
            with contextlib.suppress(TutelageError):
                return self._bubblewrap(why)
        return self._plain(why)

    def _bubblewrap(self, why: str) -> _Worker:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise MissingError("bwrap is not installed: install bubblewrap, or take another backend")
        if os.geteuid() == 0:
            raise TutelageError("limits on processes do not bind root, inside bubblewrap either: run this as another user")
        around = _around(bwrap, self._packages)
        return _Worker({**self._settings, "backend": "plain", "outer": "bubblewrap", "why": why}, around)

    def _plain(self, why: str) -> _Worker:
        return _Worker({**self._settings, "backend": "plain", "outer": "", "why": why}, [])


def run_program(
    source: str,
    *,
    stdin: str = "",
    limits: Limits | None = None,
    reference_wall: float | None = None,
    packages: Sequence[str | Path] = (),
) -> ExecResult:
    """Run one script in a sandbox of its own (a `Sandbox` is much faster for many).

    reference_wall: seconds that a reference solution takes; the wall clock then ends the program after ten times that, at
        least after one second, at most after `limits.wall_s`.
    """
    with Sandbox(1, _relative(limits, reference_wall), packages=packages) as box:
        return box.run_program(source, stdin=stdin)


def run_tests(
    program: str,
    tests: str,
    *,
    limits: Limits | None = None,
    reference_wall: float | None = None,
    packages: Sequence[str | Path] = (),
) -> ExecResult:
    """Run one program and its tests in a sandbox of its own; see `run_program` and `Sandbox.run_tests`."""
    with Sandbox(1, _relative(limits, reference_wall), packages=packages) as box:
        return box.run_tests(program, tests)


def _relative(limits: Limits | None, reference_wall: float | None) -> Limits:
    limits = limits or Limits()
    return limits if reference_wall is None else limits.relative_to(reference_wall)


class _Worker:
    """One small interpreter and the socket to it."""

    def __init__(self, settings: dict[str, Any], around: list[str]) -> None:
        self.folder = ""
        self.socket, theirs = socket.socketpair()
        python = str(getattr(sys, "_base_executable", "") or sys.executable)
        folders = [str(INSIDE.parents[2]), str(INSIDE.parents[1]), str(INSIDE.parent)]
        # What -I does (no user's packages, no folder of the script, no variables: there are none but ours), with a fixed seed
        # of hashes, so that the order of a set is the same every time.
        command = [*around, python, "-s", "-S", "-P", "-X", "utf8", "-c", _START, *folders, str(theirs.fileno())]
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONHASHSEED": "0",
            "MALLOC_ARENA_MAX": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TMPDIR": "/tmp" if around else tempfile.gettempdir(),
        }
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with _without_ctrl_c():
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.stderr, pass_fds=[theirs.fileno()],
                env=environment, cwd="/", start_new_session=True,
            )  # fmt: skip
        theirs.close()
        answer = self.ask(settings, _START_UP)
        if answer is None or "refused" in answer:
            self.close(keep=True)
            self.stderr.seek(0)
            said = self.stderr.read().decode(errors="replace").strip().splitlines()
            self.stderr.close()
            reason = answer["refused"] if answer else (said[-1] if said else "its interpreter did not start")
            raise TutelageError(f"{_NONE}: {reason}")
        self.isolation = Isolation(answer["layers"], answer["missing"])
        self.folder = str(answer["folder"])  # of the folders of programs, where it is one of this machine's

    def ask(self, message: dict[str, Any], patience: float) -> dict[str, Any] | None:
        """Send a message and wait for its answer; None if none came."""
        try:
            self.socket.settimeout(patience)
            data = json.dumps(message).encode()
            self.socket.sendall(struct.pack("!I", len(data)) + data)
            head = self._exactly(4)
            answer: dict[str, Any] = json.loads(self._exactly(struct.unpack("!I", head)[0]))
            return answer
        except (OSError, EOFError):
            return None

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return data

    def close(self, *, keep: bool = False) -> None:
        """The interpreter ends when the socket does, after it has ended what it runs. keep: what it said on stderr."""
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.folder:  # there still only if the interpreter was killed
            shutil.rmtree(self.folder, ignore_errors=True)
        if not keep:
            self.stderr.close()


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _around(bwrap: str, packages: Sequence[str]) -> list[str]:
    """bubblewrap: everything unshared, the interpreter read-only, an empty /tmp, and nothing of the user's."""
    command = [
        bwrap,
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--hostname",
        "sandbox",
        "--tmpfs",
        "/tmp",
    ]
    for path in (
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/alternatives",
        "/etc/localtime",
    ):
        command += ["--symlink", os.readlink(path), path] if Path(path).is_symlink() else ["--ro-bind-try", path, path]
    for path in dict.fromkeys([sys.base_prefix, sys.base_exec_prefix, *packages, str(INSIDE)]):
        if not path.startswith("/usr/") and path != "/usr":
            command += ["--ro-bind", path, path]
    return [*command, "--dev", "/dev", "--proc", "/proc", "--chdir", "/", "--"]
