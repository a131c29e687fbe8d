"""Readers for what users have: image folders, .npz, Parquet with image bytes, arrays, torch data sets and loaders."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError, TutelageError
from tutelage.core.files import sha256_file
from tutelage.core.rng import rng_state, set_rng_state
from tutelage.data.checks import check_image_arrays
from tutelage.data.guard import split_of, wrapped
from tutelage.data.images import ImageSet, Split

MAX_PIXELS = 2**26  # of one image; what is larger was most likely made to fill the memory
MAX_SIZE = 4096  # of a resized image
MAX_CLASSES = 2**20
MAX_NAMED = 20  # of the images that cannot be read
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes, row by row
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}

Images = ImageSet | Dataset[Any] | DataLoader[Any] | tuple[Tensor, Tensor] | str | Path


def as_images(data: Images, *, name: str = "", classes: Sequence[str] | None = None, size: int | None = None) -> ImageSet:
    """Whatever holds labelled images -> an ImageSet.

    data: an ImageSet; a path (see `read_images`); a pair (images, labels) of tensors; a torch Dataset of (image,
    label) pairs; a DataLoader of (images, labels) batches. Images (N, C, H, W) uint8 or float32 in [0, 1].
    name, classes: instead of the data's own. size: for paths only. What wraps an ImageSet keeps its split and classes.
    Raises InputError for wrong shapes, ranges or labels.
    """
    if isinstance(data, str | Path):
        found = read_images(data, classes=classes, size=size)
        return replace(found, name=name) if name else found
    if size is not None:
        raise InputError(
            "size", f"{size} with {type(data).__name__}", "a size with a path only; resize images in memory yourself"
        )
    if isinstance(data, ImageSet):
        own = data if classes is None else replace(data, classes=_names(classes))
        return replace(own, name=name) if name else own
    two: Any = data if isinstance(data, tuple | list) and len(data) == 2 else ()
    if isinstance(two, tuple | list) and two and (isinstance(two, tuple) or isinstance(two[0], Tensor | np.ndarray)):
        return _from_arrays(two[0], two[1], classes, name or "arrays")
    inside = [one for one in wrapped(data) if isinstance(one, ImageSet)]
    if classes is None and len({one.classes for one in inside}) == 1:
        classes = inside[0].classes
    loaded = _from_torch(data, classes, name)
    split = split_of(data)
    return replace(loaded, split=cast(Split, split)) if split in get_args(Split) else loaded


def _from_torch(data: Any, classes: Sequence[str] | None, name: str) -> ImageSet:
    """A DataLoader or a Dataset, read to its end."""
    if isinstance(data, DataLoader):
        batches = [_pair(batch) for batch in _items(data)]
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
        pairs = [_pair(item) for item in _items(data)]
        singles = [_tensor("image", image) for image, _ in pairs]
        shapes = {tuple(image.shape) for image in singles}
        if len(shapes) > 1:
            raise InputError("data", f"images of different shapes, such as {sorted(shapes)[:2]}", "one shape for all")
        labels = _tensor("label", [_number(label) for _, label in pairs])
        return _from_arrays(torch.stack(singles), labels, classes, name or type(data).__name__)
    raise InputError("data", type(data).__name__, "a path, an ImageSet, (images, labels), a Dataset or a DataLoader")


def _items(data: Any) -> list[Any]:
    """All batches of a loader, or all samples of a data set. The user's own code may raise anything, and draw numbers."""
    before = rng_state()  # even a loader that does not shuffle draws from the global generator
    try:
        return list(data) if isinstance(data, DataLoader) else [data[i] for i in range(len(data))]
    except TutelageError:
        raise
    except Exception as error:
        raise InputError(
            "data", f"{type(data).__name__} raising {type(error).__name__}: {error}", "(image, label) pairs"
        ) from error
    finally:
        set_rng_state(before)


def read_images(path: Path | str, *, classes: Sequence[str] | None = None, size: int | None = None) -> ImageSet:
    """Read labelled images from disk. Nothing is executed: arrays without pickles, images through Pillow.

    A folder: one sub-folder a class, its name the class name, in sorted order. `.npz`: arrays `image` (N, H, W),
    (N, H, W, C) or (N, C, H, W), and `label` (N,). `.parquet`: columns `image` (bytes, or a struct with `bytes`)
    and `label`. size: resize every image to size x size (folder and Parquet); without it all must have one size.
    Hidden files are skipped. Images are turned as their EXIF orientation says; transparent ones are refused.
    """
    if not isinstance(path, str | Path):
        raise InputError("path", type(path).__name__, "the path of a folder, an .npz or a .parquet file")
    path = Path(path)
    if size is not None:
        check_integer("size", size, high=MAX_SIZE)
    if not os.path.exists(path):  # false also for names that no file can have
        raise MissingError(f"data: there is no file or folder {str(path)[-200:]}")
    if path.is_dir():
        images, labels, found = _read_folder(path, size)
        return _from_arrays(images, labels, classes or found, path.name)
    if not path.is_file():  # reading a pipe or a device could take for ever
        raise InputError("data", path.name, "a folder or a file, no pipe and no device")
    origin = {"file": path.name, "file_sha256": sha256_file(path)}
    if path.suffix == ".npz":
        if size is not None:
            raise InputError(
                "size", f"{size} with {path.name}", "a size with a folder or a .parquet file; an .npz is not resized"
            )
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
    except MemoryError as error:
        raise InputError("data", f"{path.name}, too large when unpacked", "a file that fits the memory") from error
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
    files, labels = [], []
    for label, name in enumerate(names):
        # macOS leaves `._name.png` beside images on foreign disks
        visible = [p for p in (path / name).iterdir() if not p.name.startswith(".")]
        found = sorted(p for p in visible if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError("data", f"class folder {name!r} without images", f"files ending in {', '.join(sorted(SUFFIXES))}")
        files += found
        labels += [label] * len(found)
    named = [(f"{file.parent.name}/{file.name}", file) for file in files]
    return _stack(_decode_all(named, size)), torch.tensor(labels), names


def _read_npz(path: Path) -> tuple[Tensor, Tensor, list[str] | None]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for key in ("image", "label"):
                if key not in arrays:
                    raise InputError(
                        "data", f"{path.name} with keys {', '.join(arrays.files) or 'none'}", "keys image and label"
                    )
            _fits(sum(part.file_size for part in arrays.zip.infolist() if Path(part.filename).stem in ("image", "label")), path)
            image, label = arrays["image"], arrays["label"]
    except InputError:
        raise
    except Exception as error:  # zip, decompressor, header parser and numpy raise whatever a damaged file makes them
        raise InputError("data", path.name, f"a readable .npz without pickled objects ({error})") from error
    return _tensor("image", image), _tensor("label", label), None


def _read_parquet(path: Path, size: int | None) -> tuple[Tensor, Tensor, list[str] | None]:
    import pyarrow.parquet as pq

    bytes_there = path.stat().st_size
    try:
        # nothing in a footer can be larger than the file; a damaged one that says so must not fill the memory
        limit = max(1, min(bytes_there, 2**31 - 1))
        with pq.ParquetFile(path, thrift_string_size_limit=limit, thrift_container_size_limit=limit, pre_buffer=False) as file:
            names = file.schema_arrow.names
            for column in ("image", "label"):
                if column not in names:
                    has = ", ".join(names) or "none"
                    raise InputError("data", path.name, f"a Parquet file with columns image and label (it has {has})")
            _check_footer(file.metadata, path, bytes_there)
            table = file.read(columns=["image", "label"])
            metadata = file.schema_arrow.metadata
    except InputError:
        raise
    except Exception as error:  # pyarrow raises whatever a damaged file makes it
        raise InputError("data", path.name, f"a Parquet file with columns image and label ({error})") from error
    contents = []
    for row, value in enumerate(table["image"].to_pylist()):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InputError("data", f"row {row} of {path.name}", "image bytes, or a struct with a field bytes")
        contents.append((f"row {row}", content))
    arrays = _decode_all(contents, size)
    if table["label"].null_count:
        raise InputError("label", f"{table['label'].null_count} missing labels in {path.name}", "an integer in each row")
    labels = _tensor("label", table["label"].to_pylist())
    return _stack(arrays), labels, _parquet_classes(metadata)


def _check_footer(metadata: Any, path: Path, bytes_there: int) -> None:
    """Refuse a footer that declares more than the file or the memory can hold, before room is made for it."""
    # metadata of single columns would say more, but pyarrow ends the process where they are damaged
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows, unpacked = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    if rows != metadata.num_rows or min([0, *(group.num_rows for group in groups)]) < 0 or rows > unpacked:
        # each row holds at least a byte
        raise InputError("data", f"{path.name} with a damaged footer", f"one that fits a file of {bytes_there} bytes")
    _fits(unpacked, path)


def _fits(size: int, path: Path) -> None:
    """Refuse arrays of `size` bytes that are larger than the memory of this machine."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not told
        return
    if size > memory:
        raise InputError(
            "data", f"{path.name} with {size / 1e9:.0f} GB when unpacked", f"data that fit the memory, {memory / 1e9:.0f} GB"
        )


def _parquet_classes(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Class names from the Hugging Face feature metadata, if they are there."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
        return [str(name) for name in names]
    except (KeyError, ValueError, TypeError):
        return None


def _decode_all(images: Iterable[tuple[str, bytes | Path]], size: int | None) -> list[np.ndarray]:
    """Images, each with its name, as bytes or in a file, in order. All that cannot be used are told at once, by name."""
    arrays: list[np.ndarray] = []
    wrong: dict[str, InputError] = {}
    for where, content in images:
        try:
            array = _decode(_bytes_of(content, where), where, size)
        except InputError as error:
            wrong[where] = error
        else:
            if not wrong:  # else nothing is returned
                arrays.append(array)
    if not wrong:
        return arrays
    first = next(iter(wrong.values()))
    if len(wrong) == 1:
        raise first
    more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
    wanted = (
        f"good ones in the place of {', '.join(list(wrong)[:MAX_NAMED])}{more}; the first: {str(first).removeprefix('data: ')}"
    )
    raise InputError("data", f"{len(wrong)} images that cannot be used", wanted) from first


def _bytes_of(content: bytes | Path, where: str) -> bytes:
    try:
        if isinstance(content, bytes):
            return content
        if not content.is_file() and content.exists():  # reading a pipe or a device could take for ever
            raise InputError("data", where, "an image file, no folder, pipe or device")
        return content.read_bytes()
    except OSError as error:
        raise InputError("data", where, f"a file that can be read ({error.strerror})") from error


def _decode(content: bytes, where: str, size: int | None) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            opened = Image.open(io.BytesIO(content))
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                what = f"{where} of {opened.width} x {opened.height} pixels"
                raise InputError(
                    "data", what, f"images of at most {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller first"
                )
            image = _eight_bits(_opaque(_upright(opened), where), where)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            "data", where, f"images of at most {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller first"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
        raise InputError("data", where, f"an image that Pillow can read ({reason_of(error)})") from error
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def reason_of(error: Exception) -> str:
    """What Pillow says, without the buffer that it names, of which who gave a file knows nothing."""
    return str(error).partition(" <_io.BytesIO object")[0]


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says: cameras store what the sensor saw, viewers turn it."""
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def _opaque(image: Image.Image, where: str) -> Image.Image:
    """Without an alpha channel, if it is opaque everywhere. What shows through transparent pixels is the user's to choose."""
    if not image.has_transparency_data:
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("RGBA")
    lowest = np.asarray(image)[..., 3].min()
    if lowest < 255:
        raise InputError(
            "data", f"{where} with transparent pixels", "opaque images: flatten it onto a background of your choice first"
        )
    return image.convert("L" if grey else "RGB")


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


def _names(classes: Iterable[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise InputError("classes", classes, "a list of class names")
    return tuple(classes)


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
    if (highest := int(labels.max())) >= MAX_CLASSES:
        raise InputError("label", highest, f"class numbers from 0, below {MAX_CLASSES}")
    names = _names(classes) if classes is not None else tuple(str(i) for i in range(highest + 1))
    return ImageSet(images.contiguous(), labels, names, name=name, origin=origin or {})
