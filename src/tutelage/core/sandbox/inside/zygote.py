"""The small interpreter that forks a process for each program. It never runs a program itself."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
from typing import Any

from tutelage.core.sandbox.inside import kernel, program, warden
from tutelage.core.sandbox.inside.place import INNER_UID, Place

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SINGLE = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl/openssl.cnf", "/nix/store")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Refused(Exception):
    """Nothing here is safe enough to run a program."""


def main(descriptor: int) -> None:
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited from whoever calls
    control = socket.socket(fileno=descriptor)
    os.umask(0o022)
    settings = receive(control)
    if settings is None:
        return
    for name in settings["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.path[:] = [*(p for p in sys.path if p), *settings["packages"]]
    importlib.invalidate_caches()
    try:
        place = settle(settings, control)
        program.prepare()
        for name in settings["imports"]:
            importlib.import_module(name)
    except Exception as error:
        send(control, {"refused": f"{error}" if isinstance(error, Refused) else f"{type(error).__name__}: {error}"})
        return
    if place.confined:
        kernel.prepare_refusals()
    gc.collect()
    gc.freeze()  # a collection in a fork shall not touch, and so copy, what is here
    folder = "" if place.confined or place.outer else place.work
    send(control, {"layers": place.layers, "missing": place.missing, "folder": folder})
    try:
        while (job := receive(control)) is not None:
            answer = warden.watch(job, place, control.fileno())
            if answer is None:
                return
            send(control, answer)
    finally:
        if not place.confined:
            with contextlib.suppress(OSError):
                warden.erase(place.work)


# --- where programs run


def settle(settings: dict[str, Any], control: socket.socket) -> Place:
    """Move into the best place there is, or raise Refused or OSError. With namespaces, go on as their first process."""
    readable = tuple(dict.fromkeys([sys.base_prefix, sys.base_exec_prefix, *settings["packages"]]))
    if settings["backend"] != "namespaces":
        return _plain(readable, settings)
    if not kernel.KNOWN_CPU:
        raise Refused(f"{sys.platform} on {os.uname().machine} has none")
    place = _namespaces(readable)
    pid = os.fork()
    if pid:  # the child is the first process of the namespace of processes, and ends all others when it ends
        control.close()
        os.waitpid(pid, 0)
        os._exit(0)
    if os.getpid() != 1:
        raise Refused("the namespace of processes is not there")
    kernel.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # with no handler, no signal from within the namespace reaches it
    _try(place)
    return place


def _try(place: Place) -> None:
    """Whether a process as each program will have it can be made, and reads the standard library."""
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            program.own_folders(place.work, 1)
            if place.uid is not None:
                os.setresgid(place.uid, place.uid, place.uid)
                os.setresuid(place.uid, place.uid, place.uid)
            with open(os.__file__, "rb") as stream:
                stream.read(1)
            code = 0
        except BaseException as error:
            os.write(say, f"{error}".encode()[:500])
        finally:
            os._exit(code)
    os.close(say)
    with open(said, "rb") as stream:
        reason = stream.read().decode(errors="replace")
    if os.waitpid(pid, 0)[1] != 0:
        raise Refused(reason or "refused by the kernel")


def _namespaces(readable: tuple[str, ...]) -> Place:
    """Own user, mount, network and System V namespaces; a root folder with the interpreter and nothing of the user's."""
    uid, gid = os.geteuid(), os.getegid()
    flags = kernel.NEWUSER | kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWPID
    if uid == 0:
        outside = _free_uid()
        maps = (f"0 0 1\n{INNER_UID} {outside} 1\n", f"0 0 1\n{INNER_UID} {outside} 1\n")
        _unshare_mapped(flags, maps)
        inner: int | None = INNER_UID
    else:
        kernel.unshare(flags)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{INNER_UID} {uid} 1"), ("gid_map", f"{INNER_UID} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as stream:
                stream.write(text)
        inner = None
    # an interpreter that lies in /tmp must stay to be seen
    work = "/run/program" if any(f"{path}/".startswith("/tmp/") for path in readable) else "/tmp"
    _own_root(readable, work)
    layers = {
        "files": "own root folder: the interpreter, read-only; an empty folder in memory, gone afterwards",
        "network": "own namespace without any interface",
        "processes": "own namespace: sees no others, and all end with the program",
        "ipc": "own namespace",
        "user": "unprivileged user of its own" if uid == 0 else "own user namespace without capabilities",
        "syscalls": "seccomp",
        "limits": "CPU, memory, files, processes of the program alone",
    }
    return Place(confined=True, uid=inner, work=work, layers=layers)


def _unshare_mapped(flags: int, maps: tuple[str, str]) -> None:
    """As root: a process that stays outside writes the map, which may then hold a second user."""
    ready, done = os.pipe(), os.pipe()
    here = os.getpid()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.close(ready[1])
            if os.read(ready[0], 1):
                for name, text in zip(("uid_map", "gid_map"), maps, strict=True):
                    with open(f"/proc/{here}/{name}", "w") as stream:
                        stream.write(text)
                code = 0
        finally:
            os._exit(code)
    try:
        kernel.unshare(flags)
        os.write(ready[1], b"1")
    finally:
        for end in (*ready, *done):
            os.close(end)
        _, status = os.waitpid(helper, 0)
    if status != 0:
        raise OSError("the user map was refused")


def _free_uid() -> int:
    """A user id that no process has, so that limits count nobody else's processes."""
    taken = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                taken.add(os.stat(f"/proc/{name}").st_uid)
    for step in range(4000):
        uid = 60500 + (os.getpid() + step) % 4000
        if uid not in taken:
            return uid
    raise OSError("no user id is free")


def _own_root(readable: tuple[str, ...], work: str) -> None:
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    base = "/tmp"
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=4k,mode=755")
    os.mkdir(f"{base}/.old")
    kernel.pivot_root(base, f"{base}/.old")
    os.chdir("/")
    bound: list[str] = []
    for path in sorted({*_SYSTEM, *_SINGLE, *readable}):
        old = f"/.old{path}"
        if os.path.islink(old) and path in _SYSTEM:
            os.symlink(os.readlink(old), path)
        elif os.path.exists(old) and not any(path == b or path.startswith(f"{b}/") for b in bound):
            _bind(old, path)
            bound.append(path)
    for path in _DEVICES:
        if os.path.exists(f"/.old{path}"):
            _bind(f"/.old{path}", path, devices=True)
    os.makedirs("/etc", exist_ok=True)
    for name, text in (
        ("passwd", f"program:x:{INNER_UID}:{INNER_UID}::/tmp:/bin/false\n"),
        ("group", f"program:x:{INNER_UID}:\n"),
    ):
        with open(f"/etc/{name}", "w") as stream:
            stream.write(text)
    for path in (work, "/dev/shm"):
        os.makedirs(path, exist_ok=True)
    kernel.detach("/.old")
    os.rmdir("/.old")
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("", "/", "", flags)


def _bind(old: str, path: str, *, devices: bool = False) -> None:
    if os.path.isdir(old):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.bind_readonly(old, path, devices=devices)


def _plain(readable: tuple[str, ...], settings: dict[str, Any]) -> Place:
    """No namespaces of our own: another user id for root, seccomp and Landlock where the kernel has them, limits."""
    place = Place(readable=readable, outer=settings["outer"])
    held, why = settings["outer"], settings["why"]
    root = os.geteuid() == 0
    if root:
        place.uid = _other_user(readable, why)
        place.layers["user"] = "unprivileged user id"
    elif held:
        place.layers["user"] = held
    else:
        place.missing["user"] = f"runs with the rights of the user who calls ({why})"
    place.layers["limits"] = "CPU, memory, files, processes" + ("" if root else " (counted with the user's others)")
    filtered = kernel.KNOWN_CPU and _works(_filtered)
    locked = kernel.KNOWN_CPU and _works(lambda: kernel.restrict_files(readable, ()))
    if filtered:
        place.layers["syscalls"] = "seccomp"
        place.layers["network"] = held or "sockets refused by seccomp"
        place.layers["processes"] = held or "signals to others refused by seccomp; all end with the program"
        place.layers["ipc"] = held or "refused by seccomp"
    else:
        reason = f"neither namespaces ({why}) nor seccomp"
        place.missing["syscalls"] = "no seccomp here"
        for name in ("network", "processes", "ipc"):
            if held:
                place.layers[name] = held
            else:
                place.missing[name] = reason
    if held:
        place.layers["files"] = f"{held} and Landlock" if locked else held
    elif locked:
        place.layers["files"] = "Landlock: reads the interpreter, writes its own temporary folder, which is removed afterwards"
    elif root:
        place.missing["files"] = f"reads and writes what any user may ({why}; no Landlock)"
    else:
        place.missing["files"] = f"reads and writes what the user may ({why}; no Landlock)"
    if kernel.LINUX:
        kernel.hide_memory()
        kernel.become_subreaper()
    import tempfile

    place.work = tempfile.mkdtemp(prefix="tutelage-sandbox-")
    os.chmod(place.work, 0o711)
    return place


def _other_user(readable: tuple[str, ...], why: str) -> int:
    uid = _free_uid() if os.path.isdir("/proc/self") else 60500 + os.getpid() % 4000

    def become() -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        with open(os.__file__, "rb") as stream:
            stream.read(1)

    if not _works(become):
        raise Refused(
            f"the sandbox runs as root, where limits on processes do not bind, and has neither namespaces ({why}) nor an "
            f"unprivileged user that can read {sys.base_prefix}: run it as another user"
        )
    return uid


def _filtered() -> None:
    kernel.no_new_privileges()
    kernel.refuse_calls(confined=False)


def _works(action: Any) -> bool:
    """Whether `action` succeeds, tried in a child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if action is not _filtered and kernel.LINUX:
                with contextlib.suppress(OSError):
                    kernel.no_new_privileges()
            action()
            code = 0
        except BaseException:
            pass
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


# --- messages


def send(to: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    to.sendall(struct.pack("!I", len(data)) + data)


def receive(of: socket.socket) -> dict[str, Any] | None:
    """The next message, or None at the end of the connection."""
    head = _exactly(of, 4)
    body = head and _exactly(of, struct.unpack("!I", head)[0])
    return json.loads(body) if body else None


def _exactly(of: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            piece = of.recv(min(size - len(data), 1 << 20))
        except ConnectionError:
            return b""
        if not piece:
            return b""
        data += piece
    return data
