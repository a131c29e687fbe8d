"""A content-addressed cache of artifacts: what was made once from the same inputs is not made twice.

The address of an artifact is the hash of everything it depends on (data, configuration, seed, code). Processes may
share a cache: one builds, the others wait for it; a builder that is killed leaves nothing behind that could be read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.core.files import canonical_json, locked, sha256_file, sha256_text, sync_folder, write_json, writing


def default_cache_dir() -> Path:
    """`$TUTELAGE_CACHE`, or `tutelage` in the user's cache folder."""
    if path := os.environ.get("TUTELAGE_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage"


@dataclass(frozen=True)
class Cache:
    """Folders under `root/<kind>/<hash>`, each whole and verified against its manifest when it is read."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        return cls(default_cache_dir())

    def folder(self, kind: str, key: dict[str, Any]) -> Path:
        return self.root / kind / sha256_text(canonical_json(key))[:24]

    def get(self, kind: str, key: dict[str, Any], build: Callable[[Path], None]) -> Path:
        """The folder for `key`; if it is not there (or damaged), `build(folder)` fills it first.

        `key` is anything JSON that names all the artifact depends on. The folder is read-only by convention.
        """
        target = self.folder(kind, key)
        if _intact(target):
            return target
        with locked(target.with_suffix(".lock")):
            if _intact(target):
                return target
            # under the lock this name is ours: whatever is there is what a killed builder left
            scratch = target.with_name(f".new-{target.name}")
            with writing(scratch):
                for remains in (target, scratch):
                    shutil.rmtree(remains, ignore_errors=True)
                scratch.mkdir()
            try:
                build(scratch)
                files = sorted(p for p in scratch.rglob("*") if p.is_file())
                manifest = {str(p.relative_to(scratch)): sha256_file(p) for p in files}
                write_json(scratch / "manifest.json", {"key": key, "files": manifest})
                with writing(target):
                    os.replace(scratch, target)
                    sync_folder(target.parent)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        return target

    def size(self) -> int:
        """Bytes on disk."""
        return sum(p.stat().st_size for p in self.root.rglob("*") if p.is_file()) if self.root.exists() else 0


def _intact(folder: Path) -> bool:

    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        return all(sha256_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
