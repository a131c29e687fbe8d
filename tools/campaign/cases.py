"""A case: one command line, or one call of a reader, in a forked child with limits; and what came of it.

Importing torch takes longer than a case, so a process that has imported everything forks a child for each. The child has no
network, a cache of its own, a limit of memory and of time; what it writes to standard error is read, files and exit code are
looked at. A case is "refused" if it ends with exit code 2 and one sentence, "fine" if it ends with 0 (or 1 where that means
that something else was found wrong, such as damaged data). Everything else is a failure.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tutelage.app import cli
from tutelage.core.errors import TutelageError

LIMIT = 120.0  # seconds of one case
MEMORY = 2 << 30  # bytes that a case may take beside what the parent holds
REFUSED = re.compile(r"^error: (?!\d+ of \d+ cells failed)", re.M)  # with code 1: of the gate, where 2 says something else
LONGEST = 700  # characters of a sentence


@dataclass(frozen=True)
class Case:
    """name: what to write down if it fails. words: a command line, without the program. call: instead of it, a reader.

    files: what the user has beside the place's own, below given/: name -> content.
    prepare: run in the child before, with the place; it may replace functions. also: exit codes that are fine beside 0 and 2.
    must_refuse: success would be a failure. runs_on: it is stopped after the limit, which is no failure (a server).
    check: looks at the place afterwards, in the parent; returns what is wrong, or nothing. limit: seconds. writes: the file
    given is one that is written, as a database is when it is opened.
    """

    name: str
    words: tuple[str, ...] = ()
    call: Callable[[], Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    also: tuple[int, ...] = ()
    must_refuse: bool = False
    runs_on: bool = False
    check: Callable[[Path], str] | None = None
    limit: float = LIMIT
    writes: bool = False


@dataclass
class Group:
    """What came of the cases of one kind."""

    cases: int = 0
    refused: int = 0
    fine: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"cases": self.cases, "refused": self.refused, "fine": self.fine, "failures": self.failures}


@dataclass(frozen=True)
class Ended:
    """How a child ended. code: the exit code, None where it was stopped by its limit, negative for a signal."""

    code: int | None
    said: str
    seconds: float


def child(case: Case, place: Path) -> int:
    """In the child: the exit code of the case."""
    if case.prepare is not None:
        case.prepare(place)
    if case.call is None:
        return cli.run(list(case.words))
    try:
        case.call()
    except TutelageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.exit_code in (1, 2) else error.exit_code
    return 0


def no_network(*_: Any, **__: Any) -> Any:
    raise OSError(101, "Network is unreachable")


def forked(case: Case, place: Path) -> Ended:
    """Run a case in a child."""
    ours, theirs = os.pipe()  # no file: a limit on the size of files would bind it too
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 1 << 20)  # room for all that is said, so that nobody has to read meanwhile
    sys.stdout.flush()
    sys.stderr.flush()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            os.dup2(theirs, 2)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115  # as Python opens it
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            os.chdir(place)
            held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            socket.socket.connect = no_network  # type: ignore[method-assign]
            warnings.showwarning = cli._say_warning
            code = child(case, place)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(theirs)
    code, stopped = waited(pid, case.limit)
    said = b""
    os.set_blocking(ours, False)
    try:
        while part := os.read(ours, 1 << 16):
            said += part
    except BlockingIOError:  # something that it started still holds the other end
        pass
    os.close(ours)
    return Ended(None if stopped else code, said.decode(errors="replace"), time.monotonic() - begin)


def waited(pid: int, limit: float) -> tuple[int, bool]:
    """(exit code, whether it had to be stopped) of a child; its session ends with it."""
    stop, stopped = time.monotonic() + limit, False
    pause = 0.001
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what it started
            return os.waitstatus_to_exitcode(status), stopped
        if time.monotonic() > stop and not stopped:
            os.killpg(pid, signal.SIGKILL)
            stopped = True
        time.sleep(pause)
        pause = min(0.02, 1.5 * pause)


def wrong_with(case: Case, ended: Ended) -> str:
    """What should not have been, in words; nothing if all is well."""
    lines = [line for line in ended.said.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in ended.said:
        return f"traceback: {lines[-1][:300]}"
    if ended.code is None:
        return "" if case.runs_on else f"did not end within {case.limit:.0f} s"
    if ended.code < 0:
        return f"ended by signal {-ended.code}"
    if ended.code == 0 or ended.code in case.also:
        taken = ended.code != 1 or not REFUSED.search(ended.said)
        return "was taken, and must be refused" if case.must_refuse and taken else ""
    if ended.code != 2:
        return f"exit code {ended.code}: {lines[-1][:300] if lines else 'no message'}"
    errors = [line for line in lines if line.startswith("error: ")]
    if errors != lines[-1:] and not (not errors and "Usage" in ended.said):
        return f"not one sentence: {' / '.join(lines)[:300]}"
    if any(not line.startswith(("error: ", "warning: ")) for line in lines) and not ended.said.lstrip().startswith("Usage"):
        others = [line for line in lines if not line.startswith(("error: ", "warning: "))]
        if any(re.match(r"\s+File \"|\w*Error\b", line) for line in others):
            return f"Python shows through: {others[0][:300]}"
    if errors and len(errors[0]) > LONGEST:
        return f"a sentence of {len(errors[0])} characters: {errors[0][:200]}"
    return ""


def run_cases(cases: Iterable[Case], place: Place, tell: Callable[[str], None] = lambda line: None) -> Group:
    """All cases of a group, one after the other in the same place, which is put right where a case changed it."""
    group = Group()
    for case in cases:
        place.add(case.files)
        ended = forked(case, place.path)
        wrong = wrong_with(case, ended)
        if not wrong and not case.writes and (changed := place.changed(done=ended.code != 2)):
            wrong = f"changed {changed}"
        if not wrong and case.check is not None:
            wrong = case.check(place.path)
        group.cases += 1
        if wrong:
            group.failures.append({"case": case.name[:400], "problem": wrong})
            tell(f"  FAILED {case.name[:300]}: {wrong}")
        elif ended.code == 2 or (ended.code == 1 and REFUSED.search(ended.said)):
            group.refused += 1
        else:
            group.fine += 1
        place.clean()
    return group


class Place:
    """A user's folder, made by `make`; what lies below out/ may change, nothing else."""

    def __init__(self, make: Callable[[Path], None]) -> None:
        self.make = make
        self.root = Path(tempfile.mkdtemp(prefix="campaign-"))
        self.path = self.root / "place"
        self._fill()

    def _fill(self) -> None:
        self.path.mkdir()
        self.make(self.path)
        self.own = self.before = look(self.path)

    def add(self, files: Mapping[str, bytes]) -> None:
        """Files of one case, below given/."""
        for name, content in files.items():
            path = self.path / "given" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.before = look(self.path) if files else self.own

    def changed(self, done: bool = False) -> str:
        """The first file that is not as it was, or nothing. done: the command did its work, so that new files may be there."""
        now = look(self.path)
        names = sorted(self.before if done else {*now, *self.before})
        return next((name for name in names if now.get(name) != self.before.get(name)), "")

    def clean(self) -> None:
        shutil.rmtree(self.path / "out", ignore_errors=True)
        shutil.rmtree(self.path / "given", ignore_errors=True)
        self.before = self.own
        if self.changed():
            shutil.rmtree(self.path)
            self._fill()

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def look(folder: Path) -> dict[str, Any]:
    """Every file below `folder` but those in out/, with size, time of its last change and mode."""
    found: dict[str, Any] = {}
    for at, folders, names in os.walk(folder):
        if at == str(folder) and "out" in folders:
            folders.remove("out")
        for name in (*names, *folders):
            path = Path(at) / name
            about = path.lstat()
            found[str(path.relative_to(folder))] = (about.st_mode, about.st_size, about.st_mtime_ns if name in names else 0)
    return found


def drawn(strategy: st.SearchStrategy[Any], n: int, seed: int, name: str) -> list[Any]:
    """n examples of a strategy, or as many as there are."""
    found: list[Any] = []

    @seeded(hash_of(f"{seed} {name}"))
    @settings(
        max_examples=n, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found[:n]


def hash_of(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def summary(groups: dict[str, Group]) -> str:
    total: Counter[str] = Counter()
    for group in groups.values():
        total.update(cases=group.cases, refused=group.refused, fine=group.fine, failed=len(group.failures))
    return ", ".join(f"{value} {key}" for key, value in total.items())
