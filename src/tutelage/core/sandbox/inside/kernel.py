"""The calls of the Linux kernel that Python has no function for: namespaces, mounts, capabilities, seccomp, Landlock.

Each raises OSError where the kernel says no, so that the caller can say which layer is missing.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence

LINUX = sys.platform == "linux"
_MACHINE = platform.machine()
_KNOWN = {"x86_64": 0, "aarch64": 1}
KNOWN_CPU = LINUX and _MACHINE in _KNOWN and sys.maxsize > 2**32  # numbers of system calls below are of these two

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

# name -> numbers on (x86_64, aarch64)
_CALLS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "mount_setattr": (442, 442),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265),
    "acct": (163, 89),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "socket": (41, 198),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# never of use to a program: they reach other processes, or parts of the kernel that few programs have tested
_ALWAYS_REFUSED = (
    "unshare", "setns", "mount", "umount2", "pivot_root", "mount_setattr", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise",
    "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "init_module",
    "finit_module", "kexec_load", "open_by_handle_at", "acct", "swapon", "reboot",
)  # fmt: skip

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _done(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return int(result)


def _number(name: str) -> int:
    if not KNOWN_CPU:
        raise OSError(errno.ENOSYS, f"{name}: not Linux on x86_64 or aarch64")
    return _CALLS[name][_KNOWN[_MACHINE]]


def _call(name: str, *arguments: int) -> int:
    return _done(_libc.syscall(ctypes.c_long(_number(name)), *(ctypes.c_long(a) for a in arguments)), name)


def _prctl(option: int, value: int) -> None:
    _done(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")


def unshare(flags: int) -> None:
    """Move this process into new namespaces (`NEWPID`: its children)."""
    _call("unshare", flags)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _done(result, f"mount {target}")


def bind_readonly(source: str, target: str, *, devices: bool = False) -> None:
    """`source`, with all that is mounted below it, at `target`; nothing there can be written or gain privileges."""
    mount(source, target, "", MS_BIND | MS_REC)
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd; RDONLY 1, NOSUID 2, NODEV 4
    flags = struct.pack("QQQQ", 2 if devices else 7, 0, 0, 0)
    _call("mount_setattr", _AT_FDCWD, _address(target.encode() + b"\0"), _AT_RECURSIVE, _address(flags), len(flags))


def pivot_root(new: str, old: str) -> None:
    _call("pivot_root", _address(new.encode() + b"\0"), _address(old.encode() + b"\0"))


def detach(path: str) -> None:
    _done(_libc.umount2(path.encode(), MNT_DETACH), f"umount {path}")


def become_subreaper() -> None:
    """Orphans of this process's descendants become its children, so none is lost."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, 9)


def hide_memory() -> None:
    """Other processes of this user cannot look into this one and its forks (`/proc/<pid>/mem`, `environ`, ptrace)."""
    _prctl(_PR_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    """Programs that are executed from now on gain nothing: no setuid, no file capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """With `no_new_privileges` none comes back."""
    header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _call("capset", _address(header), _address(data))


def refuse_calls(*, confined: bool) -> None:
    """A seccomp filter for this process and its children, for ever.

    confined: namespaces keep the program to itself. Otherwise the filter also refuses sockets, System V objects, other
    sessions and groups (so that killing the group kills all), and signals for other processes.
    """
    lines = _filter(0 if confined else os.getpid())
    code = ctypes.create_string_buffer(lines)
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines) // 8, ctypes.addressof(code)))
    _done(
        _libc.prctl(
            _PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.c_ulong(ctypes.addressof(head)), ctypes.c_ulong(0), ctypes.c_ulong(0)
        ),
        "seccomp",
    )


@functools.cache
def _filter(here: int) -> bytes:
    """The program of the filter: 8 bytes a line (`struct sock_filter`). here: the only process to reach; 0: no need to say."""
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
    load, equal, any_bit, ret = 0x20, 0x15, 0x45, 0x06
    number, arch, argument = 0, 4, 16  # offsets in struct seccomp_data; the arguments are 8 bytes each

    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, arch),
        (equal, 1, 0, 0xC000003E if _MACHINE == "x86_64" else 0xC00000B7),
        (ret, 0, 0, kill),
        (load, 0, 0, number),
    ]
    if _MACHINE == "x86_64":
        program += [(any_bit, 0, 1, 0x40000000), (ret, 0, 0, kill)]  # the second set of numbers (x32)

    def when(name: str, *then: tuple[int, int, int, int]) -> None:
        program.append((equal, 0, len(then), _number(name)))
        program.extend(then)

    refused = list(_ALWAYS_REFUSED)
    if here:
        refused += ["socket", "setsid", "setpgid", "tkill", "rt_sigqueueinfo", "pidfd_open", "pidfd_send_signal"]
        refused += ["shmget", "semget", "msgget", "mq_open"]
    for name in refused:
        when(name, (ret, 0, 0, refuse))
    # clone3 hides its flags from the filter; the C library then takes clone
    when("clone3", (ret, 0, 0, 0x00050000 | errno.ENOSYS))
    namespaces = NEWUSER | NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | 0x02000000
    when("clone", (load, 0, 0, argument), (any_bit, 0, 1, namespaces), (ret, 0, 0, refuse), (ret, 0, 0, allow))
    mine = ((load, 0, 0, argument), (equal, 2, 0, here), (equal, 1, 0, 0), (ret, 0, 0, refuse), (ret, 0, 0, allow))
    when("prlimit64", *mine)
    if here:
        own = ((load, 0, 0, argument), (equal, 1, 0, here), (ret, 0, 0, refuse), (ret, 0, 0, allow))
        when("kill", *mine)  # 0: its own group
        when("tgkill", *own)
        when("rt_tgsigqueueinfo", *own)
    program.append((ret, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *line) for line in program)


def prepare_refusals() -> None:
    """Make the filter of confined programs once, before the forks that use it."""
    _filter(0)


def landlock_version() -> int:
    """0 where the kernel has no Landlock."""
    try:
        return _call("landlock_create_ruleset", 0, 0, 1)
    except OSError:
        return 0


def restrict_files(read: Iterable[str], write: Sequence[str]) -> None:
    """Landlock: from now on this process and its children open files below `read` for reading and below `write` only."""
    version = landlock_version()
    if version == 0:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock")
    everything = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    looking = 0b1101  # execute, read a file, list a folder
    rules = struct.pack("Q", everything)
    ruleset = _call("landlock_create_ruleset", _address(rules), len(rules), 0)
    try:
        for path, rights in [*((p, looking) for p in read), *((p, everything) for p in write)]:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if not os.path.isdir(path):
                    rights &= 0b111 | 1 << 14  # what a single file can be used for
                rule = struct.pack("=Qi", rights & everything, place)
                _call("landlock_add_rule", ruleset, 1, _address(rule), 0)
            finally:
                os.close(place)
        _call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


_kept: list[object] = []


def _address(data: bytes) -> int:
    """Where a buffer with these bytes lies; it stays until the process ends (a few hundred bytes)."""
    buffer = ctypes.create_string_buffer(data, len(data))
    _kept.append(buffer)
    del _kept[:-64]
    return ctypes.addressof(buffer)
