"""Files that are whole or absent: temporary file, flush, rename; hashes; locks between processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.core.errors import InputError, WriteError

if TYPE_CHECKING:
    from torch import Tensor


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`; a reader or a crash sees the old file or the new one, never a part.

    Raises WriteError, with the old file untouched and nothing left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the system says against writing `path` becomes one sentence, a WriteError that names it."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a rename in it survives a power cut too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):  # not every file system can
            raise
    finally:
        os.close(handle)


def check_folder(path: Path, name: str = "out") -> None:
    """Raise InputError, before any work is done for it, if no folder can be made or written at `path`.

    It is tried, with a nameless file of one byte: permissions do not tell about full disks and read-only mounts.
    """
    at = path
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise InputError(name, str(path), f"a folder; {at} is a file")
    try:
        with tempfile.TemporaryFile(dir=at) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(name, str(path), f"a folder that can be written; {at} cannot ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def canonical_json(value: Any) -> str:
    """One spelling for one value: the text that cache keys and config hashes are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tensors(tensors: dict[str, Tensor]) -> str:
    """Hash of named tensors: names, dtypes, shapes and bytes, in name order."""
    import torch  # here, since `tutelage list` writes files too, and need not wait for it

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock between processes; it is released when the holder ends, however it ends.

    Raises WriteError where no lock can be made and, without `wait`, BlockingIOError if another process holds it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
