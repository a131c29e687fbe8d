"""Named sets: the bundled one, and standard sets from `$TUTELAGE_DATA/<set>` or from the user's cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tutelage.core.cache import default_cache_dir
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_file, sha256_text
from tutelage.data.homes import CIFAR10_FILES, HOMES, IDX_FILES
from tutelage.data.images import ImageSet
from tutelage.data.readers import read_cifar10_binary, read_idx, read_images

FASHION_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
JPEG_COPY = "CIFAR-10 (JPEG copy)"


@dataclass(frozen=True)
class Layout:
    """One way in which a set may lie in a folder: the form of its files, and split -> their paths below that folder."""

    form: Literal["npz", "parquet", "idx", "cifar10"]
    parts: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class StandardSet:
    """folder: its name under `$TUTELAGE_DATA`; layouts in the order of looking; rows: the official number of images a split."""

    what: str
    classes: tuple[str, ...]
    folder: str
    layouts: tuple[Layout, ...]
    rows: dict[str, int]
    page: str


@dataclass(frozen=True)
class Found:
    """The files of one split, and whether the user's cache holds them (as opposed to `$TUTELAGE_DATA`)."""

    layout: Layout
    paths: tuple[Path, ...]
    cached: bool


_WHOLE = {"train": 60_000, "test": 10_000}
_NPZ = Layout("npz", {"train": ("train.npz",), "test": ("test.npz",)})
_IDX = Layout("idx", IDX_FILES)
_PARQUET = Layout("parquet", {"train": ("train.parquet",), "test": ("test.parquet",)})
_BINARY = Layout("cifar10", CIFAR10_FILES)
_SMALL = Layout("npz", {"train": ("train10k.npz",), "test": ("test.npz",)})
_COLOUR = {"train": 50_000, "test": 10_000}
_FASHION, _MNIST, _CIFAR10 = HOMES["fashion-mnist"], HOMES["mnist"], HOMES["cifar10"]

SETS: dict[str, StandardSet] = {
    "fashion-mnist": StandardSet(_FASHION.what, FASHION_CLASSES, "fashion-mnist", (_NPZ, _IDX), _WHOLE, _FASHION.page),
    "mnist": StandardSet(_MNIST.what, DIGITS, "mnist", (_IDX, _NPZ), _WHOLE, _MNIST.page),
    "mnist-10k": StandardSet(
        "10,000 of MNIST's training digits, and all its 10,000 test digits",
        DIGITS, "mnist", (_SMALL,), {"train": 10_000, "test": 10_000}, _MNIST.page,
    ),
    "cifar10": StandardSet(_CIFAR10.what, CIFAR10_CLASSES, "cifar10", (_BINARY, _PARQUET), _COLOUR, _CIFAR10.page),
    "cifar10-jpeg": StandardSet(
        "CIFAR-10 as a JPEG copy: grey levels differ a little from the original",
        CIFAR10_CLASSES, "cifar10", (_PARQUET,), _COLOUR, _CIFAR10.page,
    ),
}  # fmt: skip

# set -> classes, and split -> file under $TUTELAGE_DATA in the form of one file a split
STANDARD: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    name: (one.classes, {split: f"{one.folder}/{paths[0]}" for split, paths in layout.parts.items()})
    for name, one in SETS.items()
    for layout in one.layouts
    if layout.form in ("npz", "parquet")
}


def fashion_mnist_subset(split: Literal["train", "test"]) -> ImageSet:
    """The bundled subset of Fashion-MNIST: 10,000 training or 2,000 test images 1x28x28, equal shares of 10 classes."""
    if split not in ("train", "test"):
        raise InputError("split", split, "train or test")
    with (files("tutelage") / "data" / "bundled" / "fashion_mnist.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays[f"{split}_image"], arrays[f"{split}_label"]
    return ImageSet(
        torch.from_numpy(images)[:, None],
        torch.from_numpy(labels.astype(np.int64)),
        FASHION_CLASSES,
        name="Fashion-MNIST subset (bundled)",
        split=split,
    )


@cache
def digits() -> ImageSet:
    """The 1,797 images 1x8x8 of digits that scikit-learn brings along, in its order; they have no official split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).float().div(16)[:, None]
    return ImageSet(images, torch.from_numpy(found.target).long(), DIGITS, name="scikit-learn digits")


def standard_set(name: str, split: Literal["train", "test"]) -> ImageSet:
    """A standard set: fashion-mnist, mnist, mnist-10k (10,000 of the training digits), cifar10, cifar10-jpeg.

    Looked for in `$TUTELAGE_DATA/<set>`, then in the user's cache, which `tutelage data get <set>` fills. The name of the
    ImageSet says what was read: of a JPEG copy of CIFAR-10, "CIFAR-10 (JPEG copy)". Images uint8, in the official order.
    Raises MissingError, with the command that gets the set or its home page and place; InputError for damaged files.
    """
    if name not in SETS:
        raise InputError("data", name, f"one of {', '.join(SETS)}")
    one = SETS[name]
    if split not in one.rows:
        raise InputError("split", split, " or ".join(one.rows))
    found = find_split(name, split)
    if not found:
        raise MissingError(_how_to_get(name, split))
    if found[0].cached:
        _check_cached(name, found[0].paths)
    return read_split(name, split, found[0])


def find_split(name: str, split: str) -> list[Found]:
    """The places that hold all files of a split, in the order of looking: `$TUTELAGE_DATA` first, then the cache."""
    one, found = SETS[name], []
    if root := os.environ.get("TUTELAGE_DATA"):
        folder = Path(root).expanduser() / one.folder
        found += [Found(layout, _all_there(folder, layout.parts[split]), cached=False) for layout in one.layouts]
    if name in HOMES:
        folder = default_cache_dir() / "data" / name
        fetched = [layout for layout in one.layouts if layout.form in ("idx", "cifar10")]
        found += [Found(layout, _all_there(folder, layout.parts[split]), cached=True) for layout in fetched]
    return [place for place in found if place.paths]


def read_split(name: str, split: Literal["train", "test"], found: Found) -> ImageSet:
    """Read the files that `find_split` found. Raises InputError if they are damaged or are not the set of that name."""
    one = SETS[name]
    exact = name
    if found.layout.form in ("npz", "parquet"):
        loaded = read_images(found.paths[0], classes=one.classes)
        images, labels, origin = loaded.images, loaded.labels, loaded.origin
        if found.layout.form == "parquet":
            jpeg = holds_jpeg(found.paths[0])
            if name == "cifar10-jpeg" and not jpeg:
                raise InputError("data", f"{found.paths[0]} without JPEG images", "the JPEG copy; its name is cifar10")
            exact = JPEG_COPY if jpeg else name
    else:
        if found.layout.form == "idx":
            images, labels = read_idx(found.paths[0]), read_idx(found.paths[1]).long()
            if images.dim() != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
                shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
                raise InputError("data", f"{found.paths[0].name} and its labels of shapes {shapes}", "(N, 28, 28) and (N,)")
            images = images[:, None]
        else:
            images, labels = read_cifar10_binary(found.paths)
        origin = _origin(found.paths)
    # mnist's name promises all of it: a part goes by mnist-10k
    if (name == "mnist" or found.layout.form in ("idx", "cifar10")) and len(labels) != one.rows[split]:
        raise InputError("data", f"{found.paths[0].name} with {len(labels)} images", f"the {one.rows[split]} of {name}")
    return ImageSet(images, labels, one.classes, name=exact, split=split, origin=origin)


def holds_jpeg(path: Path) -> bool:
    """Whether the first image of a Parquet file is a JPEG; False for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            batch = next(table.iter_batches(batch_size=1, columns=["image"]))
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, StopIteration):
        return False
    value = batch.column(0)[0].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    return isinstance(content, bytes) and content.startswith(b"\xff\xd8")


def _all_there(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The paths, or () if one is missing. An idx file may lie there unpacked, without its .gz."""
    paths = []
    for name in names:
        ways = [folder / name, folder / name.removesuffix(".gz")]
        there = next((path for path in ways if path.is_file()), None)
        if there is None:
            return ()
        paths.append(there)
    return tuple(paths)


def _check_cached(name: str, paths: Sequence[Path]) -> None:
    """What `data get` brought must still be what it was."""
    known = {file.name.rpartition("/")[2]: file.sha256 for file in HOMES[name].files}
    for path in paths:
        if (got := sha256_file(path)) != known.get(path.name):
            wanted = f"{known.get(path.name)}; `tutelage data get {name}` mends {path.parent}"
            raise InputError("data", f"{path.name} with SHA-256 {got}", wanted)


def _origin(paths: Sequence[Path]) -> dict[str, str]:
    """Names and hash for the record; the hash of several files is that of the lines which `sha256sum` prints for them."""
    hashes = [sha256_file(path) for path in paths]
    whole = (
        hashes[0] if len(paths) == 1 else sha256_text("".join(f"{h}  {p.name}\n" for h, p in zip(hashes, paths, strict=True)))
    )
    return {"file": ", ".join(path.name for path in paths), "file_sha256": whole}


def _how_to_get(name: str, split: str) -> str:
    """One sentence: where it was looked for, where it belongs, the command that gets it."""
    one, file = SETS[name], STANDARD[name][1][split]
    root = os.environ.get("TUTELAGE_DATA")
    where = f"{Path(root).expanduser() / file} is not there" if root else "TUTELAGE_DATA is not set"
    command = f", or run `tutelage data get {name}`" if name in HOMES else ""
    return (
        f"data: {where}; put {name} from {one.page} at $TUTELAGE_DATA/{file} "
        f"(.npz with arrays image and label, or Parquet with those columns){command}"
    )
