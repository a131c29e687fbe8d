"""F5, lineage: from what a number was made.

Content hashes, and a record that is only ever added to, each line sealing the last.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.core.environment import environment
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import canonical_json, locked, sha256_file, sha256_text
from tutelage.core.runs import append_jsonl, read_jsonl

FIRST = "0" * 64


@dataclass(frozen=True)
class Lineage:
    """A JSONL file. Each record has its own hash, over its content and the hash of the record before it."""

    path: Path

    def record(self, kind: str, content: Mapping[str, Any], *, parent: str = "") -> str:
        """Append a record; returns its hash.

        kind: "data", "model", "gate", "decision", ... parent: the record it comes from.
        """
        if parent and all(one["sha256"] != parent for one in self.records()):
            raise InputError("parent", parent, "the hash of a record of this lineage")
        with locked(self.path.with_suffix(".lock")):
            records = self.records()
            about = {
                "kind": kind,
                "content": dict(content),
                "parent": parent,
                "before": records[-1]["sha256"] if records else FIRST,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            digest = sha256_text(canonical_json(about))
            append_jsonl(self.path, {**about, "sha256": digest})
        return digest

    def records(self) -> list[dict[str, Any]]:
        """All records, after a check of the chain. Raises InputError where one was changed, removed or put in between."""
        found, before = read_jsonl(self.path), FIRST
        for i, one in enumerate(found):
            content = {key: value for key, value in one.items() if key != "sha256"}
            if one.get("before") != before or sha256_text(canonical_json(content)) != one.get("sha256"):
                raise InputError("lineage", f"{self.path.name}, line {i + 1}", "records as they were written")
            before = one["sha256"]
        return found

    def trace(self, digest: str) -> list[dict[str, Any]]:
        """The record of that hash and all it comes from, back to the first."""
        by_hash = {one["sha256"]: one for one in self.records()}
        if digest not in by_hash:
            raise MissingError(f"lineage: {self.path} has no record {digest[:12]}")
        found = [by_hash[digest]]
        while found[-1]["parent"]:
            found.append(by_hash[found[-1]["parent"]])
        return found


def hash_of(path: Path | str) -> str:
    """Content hash of a file or folder: changes with any byte, and not with the name of the file or of the folder itself."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise MissingError(f"{path} is not there")
    inside = sorted((str(one.relative_to(path)), sha256_file(one)) for one in path.rglob("*") if one.is_file())
    return sha256_text(canonical_json(inside))


def code_state(folder: Path | str = ".") -> dict[str, Any]:
    """Commit and dirty flag of the user's own checkout around `folder`; empty and None where there is none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "dirty": None}


def made_with(seed: int) -> dict[str, Any]:
    """Environment, code and seed, as a bundle lists them."""
    return {"environment": environment(), "code": code_state(), "seed": seed}
