"""Readers for what users have: image folders, .npz, Parquet with image bytes, arrays, torch data sets and loaders."""

from __future__ import annotations

import gzip
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_file
from tutelage.data.checks import check_image_arrays
from tutelage.data.images import ImageSet

CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes, row by row
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}

Images = ImageSet | Dataset[Any] | DataLoader[Any] | tuple[Tensor, Tensor] | str | Path


def as_images(data: Images, *, name: str = "", classes: Sequence[str] | None = None, size: int | None = None) -> ImageSet:
    """Whatever holds labelled images -> an ImageSet.

    data: an ImageSet; a path (see `read_images`); a pair (images, labels) of tensors; a torch Dataset of (image,
    label) pairs; a DataLoader of (images, labels) batches. Images (N, C, H, W) uint8 or float32 in [0, 1].
    Raises InputError for wrong shapes, ranges or labels.
    """
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, str | Path):
        return read_images(Path(data), classes=classes, size=size)
    if isinstance(data, tuple) and len(data) == 2:
        return _from_arrays(data[0], data[1], classes, name or "arrays")
    if isinstance(data, DataLoader):
        batches = [_pair(batch) for batch in data]
        if not batches:
            raise InputError("data", "an empty DataLoader", "at least one batch")
        try:
            images = torch.cat([_tensor("image", batch[0]) for batch in batches])
            labels = torch.cat([_tensor("label", batch[1]) for batch in batches])
        except RuntimeError as error:
            raise InputError("data", f"batches that do not fit together ({error})", "one shape for all") from error
        return _from_arrays(images, labels, classes, name or type(data.dataset).__name__)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        if len(data) == 0:
            raise InputError("data", "an empty data set", "at least one sample")
        pairs = [_pair(data[i]) for i in range(len(data))]
        singles = [_tensor("image", image) for image, _ in pairs]
        shapes = {tuple(image.shape) for image in singles}
        if len(shapes) > 1:
            raise InputError("data", f"images of different shapes, such as {sorted(shapes)[:2]}", "one shape for all")
        labels = _tensor("label", [_number(label) for _, label in pairs])
        return _from_arrays(torch.stack(singles), labels, classes, name or type(data).__name__)
    raise InputError("data", type(data).__name__, "a path, an ImageSet, (images, labels), a Dataset or a DataLoader")


def read_images(path: Path, *, classes: Sequence[str] | None = None, size: int | None = None) -> ImageSet:
    """Read labelled images from disk. Nothing is executed: arrays without pickles, images through Pillow.

    A folder: one sub-folder a class, its name the class name, in sorted order. `.npz`: arrays `image` (N, H, W),
    (N, H, W, C) or (N, C, H, W), and `label` (N,). `.parquet`: columns `image` (bytes, or a struct with `bytes`)
    and `label`. size: resize every image to size x size (folder and Parquet); without it all must have one size.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InputError("size", size, "an integer >= 1")
    if not path.exists():
        raise MissingError(f"data: there is no file or folder {path}")
    if path.is_dir():
        images, labels, found = _read_folder(path, size)
        return _from_arrays(images, labels, classes or found, path.name)
    origin = {"file": path.name, "file_sha256": sha256_file(path)}
    if path.suffix == ".npz":
        images, labels, names = _read_npz(path)
    elif path.suffix == ".parquet":
        images, labels, names = _read_parquet(path, size)
    else:
        raise InputError("data", path.name, "a folder of class folders, an .npz or a .parquet file")
    return _from_arrays(images, labels, classes or names, path.stem, origin)


def read_idx(path: Path) -> Tensor:
    """An array of bytes in MNIST's idx format, gzipped or not, as a uint8 tensor of the shape that the file states.

    Raises InputError if the header is another one, or the content shorter or longer than it says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError("data", path.name, f"a whole gzip file ({error})") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise InputError(
            "data", f"{path.name} beginning with {content[:4].hex() or 'nothing'}", "an idx file of bytes (000008..)"
        )
    header = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    wanted = header + math.prod(shape)
    if len(content) != wanted:
        raise InputError("data", f"{path.name} with {len(content)} bytes", f"{wanted}, as its header says ({shape})")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def read_cifar10_binary(paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """(images (N, 3, 32, 32) uint8, labels (N,) int64) of batches of CIFAR-10's binary version, in the order of `paths`.

    Raises InputError for a file that is not made of whole records of 3,073 bytes.
    """
    parts = []
    for path in paths:
        content = path.read_bytes()
        if not content or len(content) % CIFAR_RECORD:
            raise InputError("data", f"{path.name} with {len(content)} bytes", f"whole records of {CIFAR_RECORD} bytes")
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD))
    records = torch.from_numpy(np.concatenate(parts))
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def _read_folder(path: Path, size: int | None) -> tuple[Tensor, Tensor, list[str]]:
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError("data", f"{path} without sub-folders", "a folder with one sub-folder of images a class")
    arrays, labels = [], []
    for label, name in enumerate(names):
        found = sorted(p for p in (path / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError("data", f"class folder {name!r} without images", f"files ending in {', '.join(sorted(SUFFIXES))}")
        for file in found:
            arrays.append(_decode(file.read_bytes(), f"{name}/{file.name}", size))
            labels.append(label)
    return _stack(arrays), torch.tensor(labels), names


def _read_npz(path: Path) -> tuple[Tensor, Tensor, list[str] | None]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for key in ("image", "label"):
                if key not in arrays:
                    raise InputError(
                        "data", f"{path.name} with keys {', '.join(arrays.files) or 'none'}", "keys image and label"
                    )
            image, label = arrays["image"], arrays["label"]
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, TypeError) as error:
        raise InputError("data", path.name, f"a readable .npz without pickled objects ({error})") from error
    return _tensor("image", image), _tensor("label", label), None


def _read_parquet(path: Path, size: int | None) -> tuple[Tensor, Tensor, list[str] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["image", "label"])
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise InputError("data", path.name, f"a Parquet file with columns image and label ({error})") from error
    arrays = []
    for row, value in enumerate(table["image"].to_pylist()):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InputError("data", f"row {row} of {path.name}", "image bytes, or a struct with a field bytes")
        arrays.append(_decode(content, f"row {row}", size))
    if table["label"].null_count:
        raise InputError("label", f"{table['label'].null_count} missing labels in {path.name}", "an integer in each row")
    labels = _tensor("label", table["label"].to_pylist())
    return _stack(arrays), labels, _parquet_classes(table.schema.metadata)


def _parquet_classes(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Class names from the Hugging Face feature metadata, if they are there."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
        return [str(name) for name in names]
    except (KeyError, ValueError, TypeError):
        return None


def _decode(content: bytes, where: str, size: int | None) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = _eight_bits(opened, where)
    except InputError:
        raise
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError, TypeError) as error:
        # Pillow's decoders let any of these through for damaged files
        raise InputError("data", where, f"an image that Pillow can read ({error})") from error
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Grey or colour with 8 bits a channel; 16-bit grey is scaled, what has no fixed range is refused."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError("data", f"{where} with {image.mode}-mode pixels", "8 or 16 bits a channel; use .npz for other numbers")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _stack(arrays: list[np.ndarray]) -> Tensor:
    if not arrays:
        raise InputError("data", "no images", "at least one")
    if len({array.shape[0] for array in arrays}) > 1:  # grey and colour mixed: all become colour
        arrays = [np.repeat(array, 3, 0) if array.shape[0] == 1 else array for array in arrays]
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise InputError(
            "data", f"images of {len(shapes)} sizes, such as {shapes[0]} and {shapes[-1]}", "one size (or --size N)"
        )
    return torch.from_numpy(np.stack(arrays))


def _tensor(name: str, value: Any) -> Tensor:
    """A tensor of whatever holds numbers; anything else is named."""
    try:
        return torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        got = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else f"{type(value).__name__} ({error})"
        raise InputError(name, got, "numbers in an array or a tensor") from error


def _number(label: Any) -> int:
    """One integer label, as a number or an array of one."""
    value = _tensor("label", label)
    if value.numel() != 1 or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise InputError("label", label, "one integer a sample")
    return int(value)


def _pair(sample: Any) -> tuple[Any, Any]:
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise InputError("data", f"samples of type {type(sample).__name__}", "(image, label) pairs")
    return sample[0], sample[1]


def _from_arrays(
    images: Any, labels: Any, classes: Iterable[str] | None, name: str, origin: dict[str, str] | None = None
) -> ImageSet:
    images, labels = _tensor("image", images), _tensor("label", labels)
    if images.dim() == 3:
        images = images[:, None]
    elif images.dim() == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.dtype in (torch.float64, torch.float16, torch.bfloat16):
        images = images.float()
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
        raise InputError("label", f"dtype {labels.dtype}", "integer class labels")
    labels = labels.long()
    check_image_arrays(images, labels, None)
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(int(labels.max()) + 1))
    return ImageSet(images.contiguous(), labels, names, name=name, origin=origin or {})
