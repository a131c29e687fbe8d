"""The cache: made once from the same inputs, whole or absent, whoever is killed and whatever is damaged."""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.core.cache import Cache, default_cache_dir

FORK: Any = multiprocessing.get_context("fork")  # the children only touch files
KEY = {"data": "abc", "seed": 0}


def started(target: Any, *arguments: Any) -> Any:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: this process has threads
        process.start()
    return process


class Builder:
    """Fills a folder with two files and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        assert list(folder.iterdir()) == []
        (folder / "weights.bin").write_bytes(b"weights")
        (folder / "deep").mkdir()
        (folder / "deep" / "log.txt").write_text("log")


def test_what_is_there_is_not_built_again(tmp_path: Path) -> None:
    cache, build = Cache(tmp_path / "cache"), Builder()
    folder = cache.get("teacher", KEY, build)
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert (folder / "deep" / "log.txt").read_text() == "log"
    assert cache.get("teacher", dict(reversed(KEY.items())), build) == folder
    assert Cache(tmp_path / "cache").get("teacher", KEY, build) == folder
    assert build.calls == 1


def test_each_kind_and_key_has_its_own_folder(tmp_path: Path) -> None:
    cache, build = Cache(tmp_path), Builder()
    folders = {cache.get(kind, key, build) for kind in ("teacher", "student") for key in (KEY, {**KEY, "seed": 1}, {})}
    assert len(folders) == 6
    assert build.calls == 6
    assert {folder.parent.name for folder in folders} == {"teacher", "student"}


def test_the_manifest_says_what_it_was_made_from(tmp_path: Path) -> None:
    folder = Cache(tmp_path).get("teacher", KEY, Builder())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["key"] == KEY
    assert set(manifest["files"]) == {"weights.bin", "deep/log.txt"}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a file changed": lambda folder: (folder / "weights.bin").write_bytes(b"weighty"),
    "a file cut short": lambda folder: (folder / "weights.bin").write_bytes(b"weig"),
    "a file gone": lambda folder: (folder / "deep" / "log.txt").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"key": {}, "fil'),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text(""),
    "zeros": lambda folder: (folder / "manifest.json").write_bytes(b"\0" * 40),
    "no text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\xfa"),
    "another manifest": lambda folder: (folder / "manifest.json").write_text("{}"),
    "no object": lambda folder: (folder / "manifest.json").write_text("null"),
    "a list of files": lambda folder: (folder / "manifest.json").write_text('{"files": ["weights.bin"]}'),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_artifact_is_built_again(tmp_path: Path, damage: str) -> None:
    cache, build = Cache(tmp_path), Builder()
    folder = cache.get("teacher", KEY, build)
    (folder / "stray").touch()
    DAMAGE[damage](folder)
    assert cache.get("teacher", KEY, build) == folder
    assert build.calls == 2
    assert sorted(p.name for p in folder.iterdir()) == ["deep", "manifest.json", "weights.bin"]
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert cache.get("teacher", KEY, build) == folder
    assert build.calls == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def build(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"half")
        raise error("stopped")

    cache = Cache(tmp_path)
    with pytest.raises(error, match="stopped"):
        cache.get("teacher", KEY, build)
    assert not cache.folder("teacher", KEY).exists()
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    assert cache.size() == 0
    again = Builder()
    cache.get("teacher", KEY, again)
    assert again.calls == 1


def build_in_steps(root: Path, log: Path, building: Any, release: Any) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        (folder / "weights.bin").write_bytes(b"half")
        building.set()
        release.wait(20)
        (folder / "weights.bin").write_bytes(b"whole")

    folder = Cache(root).get("teacher", KEY, build)
    assert (folder / "weights.bin").read_bytes() == b"whole"


def test_two_processes_build_once(tmp_path: Path) -> None:
    log, building, again, release = tmp_path / "log", FORK.Event(), FORK.Event(), FORK.Event()
    first = started(build_in_steps, tmp_path / "cache", log, building, release)
    assert building.wait(20)
    second = started(build_in_steps, tmp_path / "cache", log, again, release)
    assert not again.wait(0.1)
    assert second.is_alive()  # it waits
    release.set()
    first.join(20)
    second.join(20)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert log.read_text() == "built\n"


def test_other_keys_do_not_wait(tmp_path: Path) -> None:
    building, release = FORK.Event(), FORK.Event()
    first = started(build_in_steps, tmp_path / "cache", tmp_path / "log", building, release)
    assert building.wait(20)
    Cache(tmp_path / "cache").get("teacher", {"seed": 1}, Builder())
    assert first.is_alive()
    release.set()
    first.join(20)


def test_a_killed_builder_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    building, never = FORK.Event(), FORK.Event()
    builder = started(build_in_steps, tmp_path, tmp_path / "log", building, never)
    assert building.wait(20)
    builder.kill()
    builder.join(20)
    cache, build = Cache(tmp_path), Builder()
    assert not cache.folder("teacher", KEY).exists()
    folder = cache.get("teacher", KEY, build)
    assert build.calls == 1
    assert (folder / "weights.bin").read_bytes() == b"weights"


def test_what_a_killed_builder_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    """Teachers are large: scratch folders must not pile up in the user's cache."""
    building, never = FORK.Event(), FORK.Event()
    builder = started(build_in_steps, tmp_path / "cache", tmp_path / "log", building, never)
    assert building.wait(20)
    builder.kill()
    builder.join(20)
    folder = Cache(tmp_path / "cache").get("teacher", KEY, Builder())
    assert {p for p in folder.parent.iterdir() if p.is_dir()} == {folder}


def test_size(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.size() == 0
    folder = cache.get("teacher", KEY, Builder())
    # "weights" and "log": 7 + 3 bytes, and the manifest; the lock is empty
    assert cache.size() == 10 + (folder / "manifest.json").stat().st_size


def test_keys_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Cache(tmp_path).get("teacher", {"path": tmp_path}, Builder())
    with pytest.raises(ValueError, match="JSON"):
        Cache(tmp_path).get("teacher", {"eps": float("nan")}, Builder())


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("TUTELAGE_CACHE", "~/mine")
    assert default_cache_dir() == tmp_path / "mine"
    assert Cache.default().root == tmp_path / "mine"
    monkeypatch.delenv("TUTELAGE_CACHE")
    assert default_cache_dir() == Path("/xdg/tutelage")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == tmp_path / ".cache" / "tutelage"
