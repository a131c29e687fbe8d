"""What a project folder holds: models, weights, labelled images. Files are looked at, nothing is run."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST = 400  # entries of a folder that are looked at
LARGEST = 1 << 20  # bytes of a Python file
LARGEST_AUDIT = 1 << 26
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
USUAL = ("build", "build_model", "make", "make_model", "create_model", "get_model", "model", "net", "load_model")


@dataclass(frozen=True)
class Found:
    """Paths below the folder, as text; empty where there is none.

    factory: `file.py:function` that makes a model. train, test: labelled images, by their names; one set stands for both.
    others: what else would have fitted, for people to choose.
    """

    factory: str = ""
    weights: str = ""
    train: str = ""
    test: str = ""
    others: tuple[str, ...] = ()
    audits: tuple[Audited, ...] = ()


@dataclass(frozen=True)
class Audited:
    """A folder with a saved audit, what stands in it: "clean", threats, "corruptions". data: hash of its images."""

    folder: str
    model: str
    data: str
    metrics: tuple[str, ...]


def look(folder: Path) -> Found:
    """Look into `folder`, its `data` folder and no deeper."""
    factories = [one for path in _files(folder, ".py") for one in _factories(path)]
    factories.sort(key=lambda one: (USUAL.index(one[1]) if one[1] in USUAL else len(USUAL), one[0]))
    weights = sorted(_files(folder, ".safetensors"), key=lambda path: (-path.stat().st_mtime, path.name))
    sets = [str(path.relative_to(folder)) for path in _sets(folder)]
    names = [f"{file}:{function}" for file, function in factories]
    train = next((one for one in sets if "train" in one.lower()), "")
    test = next((one for one in sets if any(word in one.lower() for word in ("test", "val"))), "")
    both = next((one for one in sets if one not in (train, test)), "")
    train, test = train or both or test, test or both or train
    others = [*names[1:], *(path.name for path in weights[1:]), *(one for one in sets if one not in (train, test))]
    first = "".join(path.name for path in weights[:1])
    return Found("".join(names[:1]), first, train, test, tuple(others), tuple(_audits(folder)))


def _audits(folder: Path) -> list[Audited]:
    """Of `folder`, the folders in it and those in `audits`; the newest first."""
    found = []
    for place in (folder, *_entries(folder), *_entries(folder / "audits")):
        try:
            file = place / "audit.json"
            about = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= LARGEST_AUDIT else {}
            kinds = {row["category"] for row in about["rows"]}
            metrics = [one for one in about["predictions"] if one in kinds]  # "clean" and the threats
            metrics += ["corruptions"] if "corruptions" in kinds else []
            name, data = str(about["model"]["name"]), str(about["data"]["sha256"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue
        found.append((-file.stat().st_mtime, Audited(str(place.relative_to(folder)), name, data, tuple(metrics))))
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].folder))]


def _files(folder: Path, suffix: str) -> Iterator[Path]:
    for path in _entries(folder):
        if path.suffix == suffix and path.is_file():
            yield path


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))[:MOST]
    except OSError:
        return []


def _factories(path: Path) -> Iterator[tuple[str, str]]:
    """Functions that need no argument and say that they give a module, or have a usual name for it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST else ast.Module([], [])
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        given = node.args
        needed = len(given.posonlyargs) + len(given.args) - len(given.defaults)
        needed += sum(default is None for default in given.kw_defaults)
        says = ast.unparse(node.returns) if node.returns else ""
        if needed <= 0 and ("Module" in says or (node.name in USUAL and says in ("", "Any"))):
            yield path.name, node.name


def _sets(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / "data"):
        for path in _entries(place):
            try:
                if _is_set(path):
                    yield path
            except (OSError, ValueError, zipfile.BadZipFile):
                continue


def _is_set(path: Path) -> bool:
    if path.is_dir():  # one folder of pictures a class
        inside = [one for one in _entries(path) if one.is_dir()]
        return len(inside) > 1 and all(any(p.suffix.lower() in PICTURES for p in _entries(one)) for one in inside[:3])
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {"image.npy", "label.npy"} <= set(archive.namelist())
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            return {"image", "label"} <= set(parquet.read_schema(path).names)
        except pyarrow.ArrowException:
            return False
    return False
