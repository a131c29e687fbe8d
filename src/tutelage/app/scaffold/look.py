"""What a project folder holds: models, weights, labelled images. Files are looked at, nothing is run."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST = 400  # entries of a folder that are looked at
LARGEST = 1 << 20  # bytes of a Python file
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
    return Found("".join(names[:1]), "".join(path.name for path in weights[:1]), train, test, tuple(others))


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
