"""The process of one program: it gives up what it may not have, runs the code, and says how that ended.

Tests run in the interpreter of the program that they test, so nothing here can stop a program that is written against this very
file and searches its own memory. What can be stopped: everything that prints, exits, patches, or looks at frames and objects.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import linecache
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import traceback
import types
from typing import Any

from tutelage.core.sandbox.inside import kernel
from tutelage.core.sandbox.inside.place import INNER_UID, Place

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
}  # fmt: skip
_TRACING = (
    "sys.settrace",
    "sys.setprofile",
    "sys._settraceallthreads",
    "sys._setprofileallthreads",
    "sys.monitoring.register_callback",
)


def enter(job: dict[str, Any], place: Place, folder: str, says: tuple[int, int], result: int, gift: int, ready: int) -> None:
    """Become the program of `job`; never returns. says: pipes of its output. ready: told "1" when all is set up."""
    try:
        os.setsid()
        if place.confined:
            own_folders(folder, job["limits"]["disk_mb"])
        _descriptors(job["stdin"], folder, says, (result, gift, ready))
        os.chdir(folder)
        _limits(job["limits"], place)
        _give_up(place, folder)
        _streams(folder)
    except BaseException as error:
        os.write(ready, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)
    os.write(ready, b"1")
    os.close(ready)
    write, leave = os.write, os._exit
    # The nonce lies on the stack of this expression only: in no variable, in no object that can be found from another.
    write(result, _once(gift) + _performed(job))
    leave(0)


def own_folders(folder: str, megabytes: int) -> None:
    """A view of the files of its own, with fresh, empty, bounded folders in memory; they vanish with its last process."""
    kernel.unshare(kernel.NEWNS | kernel.NEWIPC)
    size = f"size={megabytes}m,nr_inodes=2k,uid={INNER_UID},gid={INNER_UID},mode=700"
    for path in (folder, "/dev/shm"):
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)


def _descriptors(text: str, folder: str, says: tuple[int, int], keep: tuple[int, ...]) -> None:
    if text:  # else it is /dev/null already
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(text.encode())
            stream.seek(0)
            os.dup2(stream.fileno(), 0)
    os.dup2(says[0], 1)
    os.dup2(says[1], 2)
    first = 3
    for end in sorted(keep):
        os.closerange(first, end)
        first = end + 1
    os.closerange(first, 1 << 16)


def _limits(limits: dict[str, Any], place: Place) -> None:
    megabyte = 1 << 20
    cpu = max(1, int(-(-limits["cpu_s"] // 1)))
    wanted: list[tuple[str, int, int]] = [
        ("RLIMIT_CPU", cpu, cpu + 1),
        ("RLIMIT_FSIZE", limits["file_mb"] * megabyte, limits["file_mb"] * megabyte),
        ("RLIMIT_NOFILE", limits["files"], limits["files"]),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_MEMLOCK", 0, 0),
        ("RLIMIT_MSGQUEUE", 0, 0),
        ("RLIMIT_NPROC", *(2 * [limits["procs"] + _counted(place)])),
        ("RLIMIT_AS", limits["mem_mb"] * megabyte, limits["mem_mb"] * megabyte),
    ]
    for name, soft, hard in wanted:
        which = getattr(resource, name, None)
        if which is None:
            continue
        try:
            highest = resource.getrlimit(which)[1]
            if highest != resource.RLIM_INFINITY:
                soft, hard = min(soft, highest), min(hard, highest)
            resource.setrlimit(which, (soft, hard))
        except (OSError, ValueError):
            if kernel.LINUX:
                raise  # elsewhere some of them do not exist, or cannot be set


def _counted(place: Place) -> int:
    """Processes that count as this user's already, besides this one."""
    if place.uid is not None:
        return 0
    if place.confined:
        return 2  # the zygote and its parent
    own, count = os.getuid(), 0
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{name}").st_uid == own:
                        count += len(os.listdir(f"/proc/{name}/task"))
        return max(0, count - 1)
    return 1000


def _give_up(place: Place, folder: str) -> None:
    if place.uid is not None:
        with contextlib.suppress(OSError):
            os.setgroups([])
        if kernel.LINUX:
            os.setresgid(place.uid, place.uid, place.uid)
            os.setresuid(place.uid, place.uid, place.uid)
        else:
            os.setgid(place.uid)
            os.setuid(place.uid)
    if kernel.LINUX:
        if kernel.KNOWN_CPU:
            kernel.drop_capabilities()
        kernel.no_new_privileges()
        kernel.die_with_parent()
        if "Landlock" in place.layers.get("files", ""):
            kernel.restrict_files([*place.readable, *_SYSTEM], [folder, "/dev/null"])
        if "syscalls" in place.layers:
            kernel.refuse_calls(confined=place.confined)


_SYSTEM = (
    "/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/nix/store",
    "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom",
)  # fmt: skip


_ours: list[str] = []


def prepare() -> None:
    """In the zygote, once: what else each program would have to do, and to copy pages of memory for."""
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    _ours[:] = [name for name in sys.modules if name.partition(".")[0] == "tutelage"]


def _streams(folder: str) -> None:
    """What a fresh interpreter would have: its own streams, an almost empty environment, default signals, a new __main__."""
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.argv = ["program.py"]
    random.seed(0)
    for name in _ours:
        sys.modules.pop(name, None)
    sys.addaudithook(_no_tracing)


def _no_tracing(event: str, _: tuple[Any, ...]) -> None:
    if event in _TRACING:
        raise RuntimeError(f"{event} is not allowed in the sandbox")


def _once(gift: int) -> bytes:
    nonce = os.read(gift, 64)
    os.close(gift)
    return nonce


def _performed(job: dict[str, Any]) -> bytes:
    """Run program and tests; -> b"P", or b"F" or b"M" and one line."""
    getpid, leave, finish = os.getpid, os._exit, (threading._shutdown, atexit._run_exitfuncs)  # type: ignore[attr-defined]
    me, out, err, names = getpid(), sys.stdout, sys.stderr, vars(builtins)
    before = dict(names)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    space = vars(module)
    space["__builtins__"] = builtins
    failed = b""
    try:
        _run(job["source"], "<program>", space)
        if job["tests"] is None:
            for step in finish:
                step()
        else:
            names.update(before)  # what the program replaced in here, the tests shall not meet
            space["__builtins__"] = builtins
            _run(job["tests"], "<tests>", space)
    except SystemExit as error:
        if job["tests"] is not None or error.code not in (None, 0):
            failed = b"F" + _text(error)
    except MemoryError as error:
        failed = b"M" + _text(error)
    except BaseException as error:
        failed = b"F" + _text(error)
        _show(error, err)
    if getpid() != me:
        leave(0)  # a copy that the program forked speaks for nobody
    for stream in (out, err):
        with contextlib.suppress(BaseException):
            stream.flush()
    return failed or b"P"


def _run(source: str, name: str, space: dict[str, Any]) -> None:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec", dont_inherit=True), space)


def _text(error: BaseException) -> bytes:
    try:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return text.encode("utf-8", "backslashreplace")[:1000]
    except BaseException:
        return b"an error that cannot be shown"


def _show(error: BaseException, to: Any) -> None:
    try:
        ours = error.__traceback__
        while ours is not None and ours.tb_frame.f_code.co_filename not in ("<program>", "<tests>"):
            ours = ours.tb_next
        traceback.print_exception(type(error), error, ours, file=to)
    except BaseException:
        pass
