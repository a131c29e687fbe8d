"""Watch one program: fork it, read what it says, end it in time, and leave nothing of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import tempfile
import time
from typing import Any

from tutelage.core.sandbox.inside import kernel, program
from tutelage.core.sandbox.inside.place import Place

FLOOD = 256  # a program that prints more than this times what is kept is ended
_RESULT_BYTES = 1 << 16


def watch(job: dict[str, Any], place: Place, control: int) -> dict[str, Any] | None:
    """Run `job`; -> what came of it, or None if whoever asked is gone. At the end nothing of it is left."""
    folder = place.work
    if not place.confined:
        folder = tempfile.mkdtemp(dir=place.work)
        if place.uid is not None:
            os.chown(folder, place.uid, place.uid)
    answer = _watched(job, place, folder, control)
    if not place.confined:
        try:
            erase(folder)
        except OSError as error:
            if answer is not None:
                answer["left_files"] = f"{folder}: {error}"
    return answer


def _watched(job: dict[str, Any], place: Place, folder: str, control: int) -> dict[str, Any] | None:
    limits = job["limits"]
    out, err, result, gift, ready = (os.pipe() for _ in range(5))
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            program.enter(job, place, folder, (out[1], err[1]), result[1], gift[0], ready[1])
        finally:
            os._exit(127)
    for end in (out[1], err[1], result[1], gift[0], ready[1]):
        os.close(end)
    # Made after the fork: no object of the program's process ever held it before the program asks for it.
    nonce = os.urandom(16).hex().encode()
    with contextlib.suppress(BrokenPipeError):
        os.write(gift[1], nonce)
    os.close(gift[1])

    kept = {out[0]: b"", err[0]: b"", result[0]: b"", ready[0]: b""}
    most = {out[0]: 1024 * limits["output_kb"], err[0]: 1024 * limits["output_kb"], result[0]: _RESULT_BYTES, ready[0]: 2048}
    flood = FLOOD * 1024 * limits["output_kb"]
    seen = dict.fromkeys(kept, 0)
    waiting = select.poll()
    waiting.register(control, 0)  # tells a closed connection only
    for end in kept:
        waiting.register(end, select.POLLIN)
        os.set_blocking(end, False)
    life = _life(pid)
    if life is not None:
        waiting.register(life, select.POLLIN)
    deadline, ended = start + limits["wall_s"], ""
    status: int | None = None
    usage: Any = None
    while status is None:
        left = deadline - time.monotonic()
        if left <= 0:
            ended = "timeout"
        elif max(seen[out[0]], seen[err[0]]) > flood:
            ended = "output"
        if ended:
            _kill(pid)
            _, status, usage = os.wait4(pid, 0)
            break
        events = [end for end, _ in waiting.poll(1000 * left if life is not None else min(5, 1000 * left))]
        if control in events:
            ended = "gone"
        for end in events:
            if end in kept and not _read(end, kept, most, seen):
                waiting.unregister(end)
        if life is None or life in events:
            done, code, used = os.wait4(pid, os.WNOHANG)
            if done:
                status, usage = code, used
    wall = time.monotonic() - start
    left_over = end_all(place)
    for end in kept:
        for _ in range(32):  # what it said last
            if not _read(end, kept, most, seen):
                break
        os.close(end)
    if life is not None:
        os.close(life)
    if ended == "gone":
        return None
    answer = _judged(ended, status, usage.ru_utime + usage.ru_stime, kept[result[0]], nonce, limits)
    began = kept[ready[0]]
    if began[:1] != b"1" and not ended:
        answer = {"status": "refused", "error": began.decode(errors="replace") or "the process could not be set up"}
    return {
        **answer,
        "stdout": kept[out[0]].decode(errors="replace"),
        "stderr": kept[err[0]].decode(errors="replace"),
        "truncated": any(seen[end] > most[end] for end in (out[0], err[0])),
        "wall_s": wall,
        "left_over": left_over,
    }


def _read(end: int, kept: dict[int, bytes], most: dict[int, int], seen: dict[int, int]) -> bool:
    """Take what the pipe holds now; False if there is nothing more."""
    try:
        piece = os.read(end, 1 << 16)
    except BlockingIOError:
        return False
    seen[end] += len(piece)
    kept[end] += piece[: max(0, most[end] - len(kept[end]))]
    return bool(piece)


def _judged(ended: str, status: int, cpu: float, said: bytes, nonce: bytes, limits: dict[str, Any]) -> dict[str, Any]:
    code = os.waitstatus_to_exitcode(status)
    if ended == "timeout":
        return {"status": "timeout", "error": f"longer than {limits['wall_s']:g} s"}
    if ended == "output":
        return {"status": "output", "error": f"printed more than {FLOOD * limits['output_kb']} KB"}
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu >= limits["cpu_s"]):
        return {"status": "timeout", "error": f"more than {limits['cpu_s']:g} s of CPU"}
    if code < 0:
        with contextlib.suppress(ValueError):
            return {"status": "crashed", "error": f"ended by {signal.Signals(-code).name}"}
        return {"status": "crashed", "error": f"ended by signal {-code}"}
    if not said:
        return {"status": "exited", "error": f"left with code {code} before its end"}
    verdict, text = said[len(nonce) : len(nonce) + 1], said[len(nonce) + 1 :].decode(errors="replace")
    if said[: len(nonce)] != nonce or verdict not in (b"P", b"F", b"M") or code != 0:
        return {"status": "failed", "error": "wrote to the pipe of results itself"}
    if verdict == b"P":
        return {"status": "passed", "error": ""}
    return {"status": "memory" if verdict == b"M" else "failed", "error": text}


def _life(pid: int) -> int | None:
    """A descriptor that can be read from when the process has ended; None where the system has none."""
    opened = getattr(os, "pidfd_open", None)
    if opened is not None:
        with contextlib.suppress(OSError):
            return int(opened(pid))
    return None


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def end_all(place: Place, patience: float = 5.0) -> int:
    """Kill every descendant of this process, also those that left their group; -> how many could not be ended."""
    if not kernel.LINUX:
        return 0
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if place.confined and os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all of the namespace but this process, which is its first
        elif place.uid is not None:
            _kill_user(place.uid)
        else:
            for pid in _children():
                _kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return 0
        time.sleep(0.0005)
    return len(_children()) or 1


def _kill_user(uid: int) -> None:
    """All processes of that user at once, so that none can fork in between."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _children() -> list[int]:
    here = os.getpid()
    with contextlib.suppress(OSError), open(f"/proc/{here}/task/{here}/children") as stream:
        return [int(word) for word in stream.read().split()]
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stream:
                if int(stream.read().rpartition(")")[2].split()[1]) == here:
                    found.append(int(name))
    return found


def erase(folder: str) -> None:
    """Remove `folder`, whatever its permissions and depth, without following a link. Nothing may be at work in it any more.

    What lies in an inner folder is moved to the top before that is removed, so no path grows long. Raises OSError.
    """
    os.chmod(folder, 0o700)
    how = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    top = os.open(folder, how)
    try:
        while names := os.listdir(top):
            for name in names:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)
                inner = os.open(name, how, dir_fd=top)
                try:
                    for child in os.listdir(inner):
                        if stat.S_ISDIR(os.lstat(child, dir_fd=inner).st_mode):
                            os.chmod(child, 0o700, dir_fd=inner)
                        os.rename(child, os.urandom(16).hex(), src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)
