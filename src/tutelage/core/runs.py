"""A run is a folder on disk: configuration, environment, metrics and artifacts; enough to resume it and to trust it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.core.environment import environment, git_state
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, write_json, writing


@dataclass(frozen=True)
class Run:
    """`run.json` says what it is; `metrics.jsonl` what was measured; everything else belongs to the kind of run."""

    path: Path

    @classmethod
    def create(cls, path: Path, kind: str, config: dict[str, Any], device: str = "cpu") -> Run:
        """Make (or open again, if it is the same run) the folder `path`."""
        run = cls(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        if (path / "run.json").exists():
            about = run.about
            if about["kind"] != kind or canonical_json(about["config"]) != canonical_json(config):
                raise InputError("out", str(path), f"a folder without another run in it (it holds one of kind {about['kind']})")
        else:
            commit, dirty = git_state()
            about = {"kind": kind, "config": config, "environment": environment(device), "commit": commit, "dirty": dirty}
            write_json(path / "run.json", {**about, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        if not (path / "run.json").is_file():
            raise MissingError(f"{path} is not a run folder (it has no run.json); `tutelage run` and `audit` print theirs")
        return cls(path)

    @property
    def about(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / "run.json").read_text())
            return {"kind": found["kind"], "config": found["config"], **found}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("out", str(self.path), f"another folder, as its run.json is none of ours ({error})") from error

    def log(self, **values: Any) -> None:
        """Append one line to `metrics.jsonl`."""
        append_jsonl(self.path / "metrics.jsonl", values)

    def metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / "metrics.jsonl")


def append_jsonl(path: Path, values: dict[str, Any]) -> None:
    """One whole line in one write, so that concurrent writers and a kill do not tear lines apart."""
    line = json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, line)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: the last byte must be that of a finished write
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line that a kill tore; it must not swallow this one
                line = b"\n" + line
        size = file.seek(0, os.SEEK_END)
        try:
            while line:  # a disk that is filling up takes a part, and refuses the rest with its reason
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # a device cannot be cut
                file.truncate(size)  # a full disk takes half a line; the lines before it stay whole
            raise


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):  # not splitlines: text may hold other line breaks
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
