"""What is where: sets and weights in the package, in `$TUTELAGE_DATA` and in the user's cache, and whether they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.files import sha256_file
from tutelage.core.progress import QUIET, Progress
from tutelage.data.emoji import FILE_SHA256, emoji
from tutelage.data.fetch import data_folder
from tutelage.data.homes import HOMES, File
from tutelage.data.sets import JPEG_COPY, SETS, Found, fashion_mnist_subset, find_split, holds_jpeg, read_split

BUNDLED, EMOJI = "fashion-mnist-subset", "emoji"
BUNDLED_SHA256 = "76d227fe11dd10e4978cc53069dcf1b3c271b0247c411b7290fc0b7b0386a4a2"
Where = Literal["bundled", "$TUTELAGE_DATA", "cache"]


@dataclass(frozen=True)
class Place:
    """A folder that holds a set or weights now; of a set, which splits, and whether they are a JPEG copy."""

    where: Where
    folder: str
    splits: tuple[str, ...] = ()
    jpeg: bool = False


@dataclass(frozen=True)
class Entry:
    """One set or model: what it is, and the places where it is now, in the order of looking.

    bytes: of the files that its home serves, 0 if nobody serves it; partial: of an unfinished download in the cache;
    command: the one that fetches it, or "".
    """

    name: str
    kind: Literal["images", "weights", "text", "points", "speech"]
    what: str
    licence: str
    bytes: int
    page: str
    places: tuple[Place, ...]
    partial: int
    command: str


@dataclass(frozen=True)
class Check:
    """One file after its check: its SHA-256, how many rows it brings (0: not counted), and what is wrong ("" if nothing).

    file: its name below the folder of the set.
    """

    name: str
    file: str
    path: Path
    sha256: str
    rows: int
    remark: str
    damage: str


def inventory() -> list[Entry]:
    """Everything that has a name here, in the order of `tutelage data list`."""
    bundled = Place("bundled", str(files("tutelage") / "data" / "bundled"), ("train", "test"))
    what = "10,000 + 2,000 images of Fashion-MNIST, equal shares of 10 classes"
    page = HOMES["fashion-mnist"].page
    subset = Entry(BUNDLED, "images", what, "MIT", _bundled_size("fashion_mnist.npz"), page, (bundled,), 0, "")
    parts = replace(bundled, splits=("train", "validation", "test"))
    what = "7,672 drawings of 1,663 emoji in five styles, 32 x 32 with alpha"
    size = _bundled_size("emoji.parquet")
    drawings = Entry(EMOJI, "images", what, "MIT and Apache-2.0", size, "https://emojibase.dev", (parts,), 0, "")
    weights = [_fetched_entry(name) for name, home in HOMES.items() if home.kind != "images"]
    return [subset, drawings, *(_set_entry(name) for name in SETS), *weights]


def check(names: Sequence[str] = (), progress: Progress = QUIET) -> Iterator[Check]:
    """Hash every file at hand of `names` (default: all), read the sets, count their rows.

    Published files are compared with their published SHA-256; other files of a set must be readable and have its rows.
    Raises InputError for an unknown name, MissingError for a name that was asked for and is not at hand.
    """
    entries = {entry.name: entry for entry in inventory()}
    for name in names:
        if name not in entries:
            raise InputError("NAME", name, f"one of {', '.join(entries)}")
        if not entries[name].places:
            raise MissingError(f"{name} is not on this machine{_hint(entries[name])}")
    wanted = [entries[name] for name in dict.fromkeys(names)] or [entry for entry in entries.values() if entry.places]
    return _checks(wanted, progress)


def _checks(entries: Sequence[Entry], progress: Progress) -> Iterator[Check]:
    seen: set[tuple[Path, ...]] = set()  # cifar10 and cifar10-jpeg, mnist and mnist-10k may be the same files
    with progress.task("checking", len(entries)) as task:
        for entry in entries:
            if entry.name == BUNDLED:
                yield _check_bundled(BUNDLED, "fashion_mnist.npz", BUNDLED_SHA256, _rows_of_subset)
            elif entry.name == EMOJI:
                yield _check_bundled(EMOJI, "emoji.parquet", FILE_SHA256, _rows_of_emoji)
            elif entry.kind != "images":
                for place in entry.places:
                    cached = place.where == "cache"
                    for file in HOMES[entry.name].files:
                        yield _check_file(entry.name, Path(place.folder) / file.name, file, cached)
            else:
                for split in SETS[entry.name].rows:
                    for found in find_split(entry.name, split):
                        if found.paths in seen:
                            continue
                        seen.add(found.paths)
                        yield from _check_split(entry.name, split, found)
            task.advance(note=entry.name)


# ---------------------------------------------------------------------------------------------------------------- where


def _set_entry(name: str) -> Entry:
    one, home = SETS[name], HOMES.get(name)
    splits: dict[tuple[Where, str, bool], list[str]] = {}
    for split in one.rows:
        for found in find_split(name, split):
            jpeg = found.layout.form == "parquet" and holds_jpeg(found.paths[0])
            splits.setdefault(("cache" if found.cached else "$TUTELAGE_DATA", _folder(found), jpeg), []).append(split)
    places = tuple(
        Place(where, folder, tuple(dict.fromkeys(there)), jpeg) for (where, folder, jpeg), there in sorted(splits.items())
    )
    licence = home.licence if home else HOMES["mnist" if name == "mnist-10k" else "cifar10"].licence
    command = f"tutelage data get {name}" if home else ""
    return Entry(name, "images", one.what, licence, home.size if home else 0, one.page, places, _partial(name), command)


def _fetched_entry(name: str) -> Entry:
    home = HOMES[name]
    candidates = [Place("cache", str(data_folder(name)))]
    if root := os.environ.get("TUTELAGE_DATA"):
        candidates.insert(0, Place("$TUTELAGE_DATA", str(Path(root).expanduser() / name)))
    places = tuple(one for one in candidates if all((Path(one.folder) / file.name).is_file() for file in home.files))
    command = f"tutelage data get {name}"
    return Entry(name, home.kind, home.what, home.licence, home.size, home.page, places, _partial(name), command)


def _folder(found: Found) -> str:
    parent = found.paths[0].parent
    return str(parent.parent if found.layout.form == "cifar10" else parent)


def _partial(name: str) -> int:
    """Bytes of an unfinished download in the cache."""
    return sum(path.stat().st_size for path in data_folder(name).rglob("*.part")) if name in HOMES else 0


def _bundled_size(file: str) -> int:
    with as_file(files("tutelage") / "data" / "bundled" / file) as path:
        return path.stat().st_size


def _hint(entry: Entry) -> str:
    if entry.command:
        return f"; get it with `{entry.command}`"
    return f"; put it from {entry.page} into $TUTELAGE_DATA/{SETS[entry.name].folder}"


# ---------------------------------------------------------------------------------------------------------------- checks


def _check_bundled(name: str, file: str, sha256: str, rows: Callable[[], int]) -> Check:
    with as_file(files("tutelage") / "data" / "bundled" / file) as path:
        got = sha256_file(path)
        damage = "" if got == sha256 else f"SHA-256 should be {sha256}; install tutelage again"
        return Check(name, path.name, path, got, 0 if damage else rows(), "", damage)


def _rows_of_subset() -> int:
    return len(fashion_mnist_subset("train")) + len(fashion_mnist_subset("test"))


def _rows_of_emoji() -> int:
    return len(emoji())


def _check_file(name: str, path: Path, file: File, cached: bool) -> Check:
    got = sha256_file(path)
    return Check(name, file.name, path, got, 0, "", "" if got == file.sha256 else _mend(name, path, file, cached))


def _check_split(name: str, split: str, found: Found) -> list[Check]:
    """The files of one split; the first of them carries the rows, or what is wrong with the content."""
    published = {file.name.rpartition("/")[2]: file for file in HOMES[name].files} if name in HOMES else {}
    results = []
    for path in found.paths:
        file, got = published.get(path.name), sha256_file(path)
        same = file is not None and got == file.sha256
        damage = _mend(name, path, file, True) if found.cached and file and not same else ""
        results.append(Check(name, path.name, path, got, 0, "" if same or damage else "not a published file", damage))
    rows, remark, damage = _content(name, split, found)
    first = results[0]
    return [replace(first, rows=rows, remark=remark or first.remark, damage=first.damage or damage), *results[1:]]


def _content(name: str, split: str, found: Found) -> tuple[int, str, str]:
    """(rows, remark, damage) of a split, from reading all of it."""
    try:
        data = read_split(name, "train" if split == "train" else "test", found)
    except TutelageError as error:
        return 0, "", str(error)
    wanted = SETS[name].rows[split]
    return (
        len(data),
        data.name if data.name == JPEG_COPY else "",
        "" if len(data) == wanted else f"{len(data)} rows, wanted {wanted}",
    )


def _mend(name: str, path: Path, file: File, cached: bool) -> str:
    size = path.stat().st_size
    what = f"{size} bytes, wanted {file.size}" if size != file.size else f"SHA-256 should be {file.sha256}"
    return f"{what}; `tutelage data get {name}` {'mends it' if cached else 'brings it once this one is removed'}"
