"""No room, no permission, limits on files, and many processes that want the same entry of the cache."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cases import Case, hash_of, waited
from lines import commands
from place import ON_GOOD

from tutelage.app import cli
from tutelage.catalogue import find
from tutelage.claims import runner
from tutelage.claims.claim import Cell, load_claim
from tutelage.core.cache import Cache

SMALL = ("--set", "epochs=1", "--set", "long_epochs=1", "--seeds", "1")
# what writes, with "DISK" for the folder that has no room
WRITERS: dict[str, tuple[str, ...]] = {
    "audit": (*ON_GOOD, "--out", "out/disk/audit"),
    "compare": ("compare", "saved", "saved2", "--out", "out/disk/compare"),
    "report": ("report", "saved", "--out", "out/disk/x.html"),
    "report of a claim": ("report", "result", "--out", "out/disk/x.html"),
    "run": ("run", "mtard", *SMALL, "--out", "out/disk/run"),
    "demo": ("demo", "--quick", "--out", "out/disk/demo"),
    "data make": ("data", "make", "Pendulum-v1", "--steps", "300", "--to", "out/disk/sets"),
    "site build": ("site", "build", "--out", "out/disk/site"),
    "init": ("init", "out/disk/mine"),
}


def writers() -> dict[str, tuple[str, ...]]:
    """Those whose command is there."""
    there = commands()
    return {name: words for name, words in WRITERS.items() if name.split(" of ")[0] in there}


def no_room(disk: Callable[[], None], private_cache: bool = True) -> Callable[[Path], None]:
    """In the child: out/disk is made so by `disk`."""

    def prepare(_: Path) -> None:
        Path("out/disk").mkdir(parents=True)
        if private_cache:
            os.environ["TUTELAGE_CACHE"] = str(Path("out/cache").resolve())
        disk()

    return prepare


def mounted(options: str) -> Callable[[], None]:
    def mount() -> None:
        os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else None  # from Python 3.12 on; else it is unmounted below
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "out/disk"], check=True, capture_output=True)

    return mount


def may_mount() -> bool:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, check=False)
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=True)
        return done.returncode == 0


def nothing_half(place: Path) -> str:
    """No half-written file is left on the disk without room; the disk itself is given back."""
    disk = place / "out" / "disk"
    try:
        half = [p.name for p in disk.rglob(".*") if p.is_file() and not p.name.endswith(".lock")]
        return f"left {half[0]}" if half else ""
    finally:
        while disk.is_mount():
            subprocess.run(["umount", "-l", str(disk)], check=True)


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_disks(slugs: list[str]) -> Iterator[Case]:
    """A file system of so many kB, or a read-only one, under the output of every command that writes."""
    if not may_mount():
        return
    for name, words in writers().items():
        for said, options in {"8 kB": "size=8k", "64 kB": "size=64k", "read-only": "ro"}.items():
            yield Case(
                f"{name} on a disk of {said}", words=words, prepare=no_room(mounted(options)), check=nothing_half, limit=300
            )
    for name in ("run", "demo"):
        if name in writers():
            words = tuple(word.replace("out/disk", "out/else") for word in writers()[name])

            def cache_there() -> None:
                mounted("size=16k")()
                os.environ["TUTELAGE_CACHE"] = str(Path("out/disk").resolve())

            yield Case(
                f"{name} with a cache of 16 kB",
                words=words,
                prepare=no_room(cache_there),
                check=nothing_half,
                must_refuse=True,
                limit=300,
            )


def limits(slugs: list[str]) -> Iterator[Case]:
    """A limit on the size of files (RLIMIT_FSIZE), which binds every user."""
    for name, words in writers().items():
        for size in (0, 1000, 20_000):
            yield Case(
                f"{name} with files of at most {size} bytes",
                words=words,
                prepare=no_room(limited(size)),
                check=nothing_half,
                limit=300,
            )


def permissions(slugs: list[str]) -> Iterator[Case]:
    """As a user who may write nothing here: the place belongs to root."""
    if os.geteuid() != 0:
        return

    def nobody() -> None:
        os.chmod("out/disk", 0o755)
        os.chmod(Path.cwd().parent, 0o755)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    def unreadable(name: str) -> Callable[[Path], None]:
        def prepare(place: Path) -> None:
            Path("out").mkdir()
            content = (place / name).read_bytes()
            target = Path("out") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0)
            os.environ["TUTELAGE_CACHE"] = "/tmp"
            Path("out/free").mkdir(mode=0o777)
            Path("out/free").chmod(0o777)
            os.chmod(Path.cwd().parent, 0o755)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

        return prepare

    for name, words in writers().items():
        if name not in ("site build",):
            yield Case(
                f"{name} into a folder of somebody else", words=words, prepare=no_room(nobody), must_refuse=True, limit=120
            )
    for name, words in {
        "good.npz": (*ON_GOOD, "--data", "out/good.npz"),
        "good.parquet": (*ON_GOOD, "--data", "out/good.parquet"),
        "net.safetensors": (*ON_GOOD, "--weights", "out/net.safetensors"),
        "slices.csv": (*ON_GOOD, "--slices", "out/slices.csv"),
        "saved/audit.json": ("report", "out/saved", "--out", "out/free/x.html"),
        "result/result.json": ("report", "out/result", "--out", "out/free/x.html"),
        "my_net.py": ("audit", "out/my_net.py:build", *ON_GOOD[2:]),
    }.items():
        words = tuple(word.replace("out/audit", "out/free/audit") for word in words)
        yield Case(f"{name} that may not be read", words=words, prepare=unreadable(name), must_refuse=True, limit=120)


def no_room_in_claims(slugs: list[str]) -> Iterator[Case]:
    """A disk that fills up in the smoke claim of each system, at a drawn write; the same command then ends well."""
    for slug in slugs:
        at = hash_of(f"full {slug}") % 12

        def fills(_: Path, at: int = at) -> None:
            os.environ["TUTELAGE_CACHE"] = str(Path("out/cache").resolve())
            Path("out").mkdir(exist_ok=True)
            real, left = os.fsync, [at + 4]

            def fsync(handle: int) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                real(handle)

            os.fsync = fsync

        def again(place: Path, slug: str = slug) -> str:
            return _goes_on(place, slug)

        yield Case(f"{slug}: full after {at + 4} writes", words=("run", slug, "--out", "out/run"), prepare=fills, check=again,
                   must_refuse=True, limit=600)  # fmt: skip


def _goes_on(place: Path, slug: str) -> str:
    """The same command where there is room: every cell well, and none that was finished is computed again."""
    kept = {p: p.stat().st_mtime_ns for p in (place / "out/cache/cells").glob("[0-9a-f]*/manifest.json")}
    half = [p.name for p in (place / "out").rglob(".*") if p.is_file() and not p.name.endswith(".lock")]
    if half:
        return f"left {half[0]}"
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(place)
            os.dup2(os.open("out/again.txt", os.O_WRONLY | os.O_CREAT), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.environ["TUTELAGE_CACHE"] = str(Path("out/cache").resolve())
            code = cli.run(["run", slug, "--out", "out/run"])
        finally:
            os._exit(code)
    code, stopped = waited(pid, 600)
    if code or stopped:
        return f"the same command then ended with {code}: {(place / 'out/again.txt').read_text()[-300:]}"
    wrong = [p for p, when in kept.items() if p.stat().st_mtime_ns != when]
    return f"{len(wrong)} finished cells were computed again" if wrong else ""


def many_writers(slugs: list[str]) -> Iterator[Case]:
    """Three processes run the smoke claim of a system on one cache at once; one of them is killed on its way."""
    for slug in slugs:
        yield Case(f"{slug}: three on one cache", call=lambda slug=slug: _three(slug), limit=900)
    yield Case("two audits into one folder", call=_two_audits, limit=300)


def _three(slug: str) -> None:
    """In the child, which forks three more. Raises AssertionError where cells are computed twice or rows differ."""
    import random
    import signal
    import time

    claim = load_claim(slug)
    out = Path("out").resolve()
    out.mkdir()

    def cell(one: Cell) -> Any:
        with (out / "started").open("a") as file:
            file.write(f"{one.arm} {one.unit}\n")
        found = claim.cell(one)
        with (out / "ended").open("a") as file:
            file.write(f"{one.arm} {one.unit}\n")
        return found

    sys.modules[find(slug).claim_module].CLAIM = replace(claim, cell=cell)  # type: ignore[attr-defined]
    pids = []
    for k in range(3):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                result = runner.run_claim(slug, cache=Cache(out / "cache"), out=out / f"run{k}")
                rows = [[row.arm, row.unit_id, row.status, row.metrics] for row in result.rows]
                (out / f"rows{k}.json").write_text(json.dumps(rows))
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    time.sleep(random.Random(slug).uniform(0.3, 3.0))
    os.kill(pids[0], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if codes[1:] != [0, 0]:
        raise AssertionError(f"two were to end well, they ended with {codes[1:]}")
    first, second = ((out / f"rows{k}.json").read_text() for k in (1, 2))
    if first != second:
        raise AssertionError("two processes have other rows")
    cells = len(json.loads(first))
    ended, started = ((out / name).read_text().splitlines() for name in ("ended", "started"))
    # only the cell that the killed one had begun may be begun once more
    if (
        len(set(ended)) != len(ended) - (codes[0] != 0 and len(ended) > cells)
        or len(started) > cells + 1
        or len(set(started)) != cells
    ):
        raise AssertionError(f"{len(started)} starts and {len(ended)} ends of {cells} cells")


def _two_audits() -> None:
    codes = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = cli.run([*ON_GOOD, "--out", "out/audit"])
            finally:
                os._exit(code)
        codes.append(pid)
    ended = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in codes)
    if ended not in ([0, 0], [0, 2]):
        raise AssertionError(f"two audits into one folder ended with {ended}")


GROUPS: dict[str, Callable[[list[str]], Iterator[Case]]] = {
    "a full or read-only disk under every command that writes": full_disks,
    "a limit on the size of files": limits,
    "folders and files of somebody else": permissions,
    "a disk that fills up within each system's claim": no_room_in_claims,
    "three processes on one cache, one killed": many_writers,
}
