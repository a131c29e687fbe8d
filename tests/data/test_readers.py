"""Readers: what users have goes in; what is wrong is named, before anything is computed, and nothing is executed."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tutelage.core.errors import InputError, MissingError
from tutelage.data import ImageSet, as_images, read_images
from tutelage.data.readers import _decode

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)

GREY = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
COLOUR = np.stack([GREY, GREY + 60, 255 - GREY], 1)  # (4, 3, 5, 6)
LABELS = np.array([0, 2, 1, 2])


def encoded(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """(H, W) or (H, W, 3) -> a file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def grid(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def parquet(path: Path, images: Any, labels: Any, **metadata: str) -> Path:
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata or None), path)
    return path


# Folders


def test_a_folder(tmp_path: Path) -> None:
    files = {
        "dogs/b.png": encoded(GREY[1]),
        "dogs/a.PNG": encoded(GREY[0]),
        "cats/x.bmp": encoded(GREY[2], "BMP"),
        "cats/notes.txt": b"not an image",
        ".cache/y.png": b"hidden",
        "README.md": b"not a folder",
    }
    data = read_images(grid(tmp_path / "pets", files))
    assert data.classes == ("cats", "dogs")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.name == "pets"
    assert data.images.dtype == torch.uint8
    assert np.array_equal(data.images.numpy()[:, 0], GREY[[2, 0, 1]])  # sorted by class, then by name


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_formats(tmp_path: Path, form: str) -> None:
    picture = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    options = {"lossless": True} if form == "WEBP" else {}
    data = read_images(grid(tmp_path, {f"a/x.{form.lower()}": encoded(picture, form, **options)}))
    assert data.images.shape == (1, 3, 8, 8)
    assert data.images[0, :, 3, 3].tolist() == pytest.approx([200, 100, 50], abs=6 if form == "JPEG" else 0)


def test_grey_and_colour_mixed_become_colour(tmp_path: Path) -> None:
    data = read_images(grid(tmp_path, {"a/1.png": encoded(GREY[0]), "a/2.png": encoded(COLOUR[0].transpose(1, 2, 0))}))
    assert data.images.shape == (2, 3, 5, 6)
    assert torch.equal(data.images[0, 0], data.images[0, 2])
    assert np.array_equal(data.images[1].numpy(), COLOUR[0])


def test_palettes_and_black_and_white(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR[0].transpose(1, 2, 0)).quantize(256)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    bilevel = io.BytesIO()
    Image.fromarray(GREY[0] > 12).save(bilevel, "PNG")
    data = read_images(grid(tmp_path / "p", {"a/x.png": buffer.getvalue()}))
    assert data.images.shape == (1, 3, 5, 6)
    data = read_images(grid(tmp_path / "b", {"a/x.png": bilevel.getvalue()}))
    assert np.array_equal(data.images.numpy()[0, 0], np.where(GREY[0] > 12, 255, 0))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, form: str) -> None:
    # 0, a quarter, a half and full of 65535 are 0, 64, 128 and 255 of 255 (or a clear error says that they are not read)
    picture = np.array([[0, 16448, 32896, 65535]], np.uint16)
    try:
        data = read_images(grid(tmp_path, {f"a/x.{form.lower()}": encoded(picture, form)}))
    except InputError:
        return
    assert data.images[0, 0, 0].tolist() == pytest.approx([0, 64, 128, 255], abs=1)


@pytest.mark.parametrize("picture", [np.array([[0.0, 0.5, 1.0]], np.float32), np.array([[0, 1000, 60000]], np.int32)])
def test_pixels_that_do_not_fit_in_a_byte_are_not_cut_off(tmp_path: Path, picture: np.ndarray) -> None:
    try:
        data = read_images(grid(tmp_path, {"a/x.tiff": encoded(picture, "TIFF")}))
    except InputError:
        return
    assert len(set(data.images[0, 0, 0].tolist())) == 3


def test_size_resizes_each_image(tmp_path: Path) -> None:
    big, small = np.zeros((8, 8), np.uint8), np.full((2, 4), 200, np.uint8)
    big[:, 4:] = 100
    folder = grid(tmp_path, {"a/1.png": encoded(big), "a/2.png": encoded(small)})
    data = read_images(folder, size=4)
    assert data.images.shape == (2, 1, 4, 4)
    assert bool((data.images[1] == 200).all())
    assert int(data.images[0, 0, 0, 0]) < 20
    assert int(data.images[0, 0, 0, 3]) > 80
    with pytest.raises(InputError, match=r"^data: got images of 2 sizes, such as \(2, 4\) and \(8, 8\), wanted one size"):
        read_images(folder)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_size_that_is_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(InputError, match=r"^size: got "):
        read_images(grid(tmp_path, {"a/1.png": encoded(GREY[0])}), size=size)


def test_folders_without_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "x.png").write_bytes(encoded(GREY[0]))
    with pytest.raises(
        InputError, match=r"^data: .*without sub-folders, wanted a folder with one sub-folder of images a class"
    ):
        read_images(tmp_path / "flat")
    (tmp_path / "some" / "empty").mkdir(parents=True)
    grid(tmp_path / "some", {"full/x.png": encoded(GREY[0])})
    with pytest.raises(InputError, match=r"^data: got class folder 'empty' without images, wanted files ending in "):
        read_images(tmp_path / "some")


def broken_tiff() -> bytes:
    """A TIFF whose StripOffsets (tag 273) claim to be floating point (type 11)."""
    content = bytearray(encoded(GREY[0], "TIFF"))
    (start,) = struct.unpack("<I", content[4:8])
    (entries,) = struct.unpack("<H", content[start : start + 2])
    for entry in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack("<H", content[entry : entry + 2]) == (273,):
            content[entry + 2 : entry + 4] = struct.pack("<H", 11)
            return bytes(content)
    raise AssertionError


def short_header() -> bytes:
    """A PNG whose first chunk says that it has 4 bytes."""
    content = bytearray(encoded(GREY[0]))
    content[8:12] = struct.pack(">I", 4)
    return bytes(content)


BROKEN_IMAGES = {
    "empty": b"",
    "text": b"this is no image",
    "truncated PNG": encoded(GREY[0])[:50],  # 8 signature, 25 header, 8 of the data chunk, 9 of its data
    "header only": encoded(GREY[0])[:16],
    "truncated JPEG": encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")[:300],
    "short PNG header": short_header(),
    "broken TIFF": broken_tiff(),
}


@pytest.mark.parametrize("what", list(BROKEN_IMAGES))
def test_a_corrupt_image_in_a_folder_is_named(tmp_path: Path, what: str) -> None:
    folder = grid(tmp_path, {"good/x.png": encoded(GREY[0]), "bad/broken.png": BROKEN_IMAGES[what]})
    with pytest.raises(InputError, match=r"^data: got bad/broken\.png, wanted an image that Pillow can read"):
        read_images(folder)


@pytest.mark.parametrize("what", list(BROKEN_IMAGES))
def test_a_corrupt_image_in_a_parquet_file_is_named(tmp_path: Path, what: str) -> None:
    path = parquet(tmp_path / "x.parquet", [encoded(GREY[0]), BROKEN_IMAGES[what]], [0, 1])
    with pytest.raises(InputError, match=r"^data: got row 1, wanted an image that Pillow can read"):
        read_images(path)


def test_all_corrupt_images_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    """Cut, empty, transparent and a text, between good ones: one error names all four, and why the first is refused."""
    clear = np.zeros((5, 6, 4), np.uint8)
    wrong = {"a/1.png": b"", "a/3.png": encoded(GREY[0])[:50], "b/0.png": b"text", "b/2.png": encoded(clear)}
    good = {name: encoded(GREY[0]) for name in ("a/0.png", "a/2.png", "b/1.png", "c/0.png")}
    folder = grid(tmp_path, {**good, **wrong})
    with pytest.raises(InputError) as error:
        read_images(folder)
    message = str(error.value)
    assert message.startswith("data: got 4 images that cannot be used, wanted good ones in the place of ")
    assert "place of a/1.png, a/3.png, b/0.png, b/2.png; the first: " in message
    assert "the first: got a/1.png, wanted an image that Pillow can read (cannot identify image file)" in message
    assert "BytesIO" not in message
    for name in wrong:
        (folder / name).write_bytes(encoded(GREY[1]))
    assert len(read_images(folder)) == 8


def test_many_corrupt_images_are_counted(tmp_path: Path) -> None:
    folder = grid(tmp_path, {f"a/{i:02}.png": b"" for i in range(25)})
    with pytest.raises(InputError, match=r"^data: got 25 images .* a/00\.png, .*a/19\.png and 5 more; the first: got a/00"):
        read_images(folder)


def test_all_corrupt_rows_of_a_parquet_file_are_named_at_once(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", [b"", encoded(GREY[1]), b"text"], [0, 1, 0])
    with pytest.raises(InputError, match=r"got 2 images .* in the place of row 0, row 2; the first: got row 0"):
        read_images(path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = grid(tmp_path, {"a/0.png": encoded(GREY[0]), "a/1.png": encoded(GREY[0])})
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:  # a mode would not stop a superuser
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"^data: got a/1\.png, wanted a file that can be read \(Permission denied\)"):
        read_images(folder)


@light
@given(st.integers(0, 75), st.integers(0, 255), st.integers(0, 3))
def test_a_damaged_png_is_read_or_refused(position: int, value: int, cut: int) -> None:
    content = bytearray(encoded(GREY[0]))
    content[position % len(content)] = value
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of large pictures and of odd metadata
            array = _decode(bytes(content[: len(content) - cut]), "x.png", None)
    except InputError:
        return
    assert array.dtype == np.uint8


# .npz


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (GREY, (4, 1, 5, 6)),
        (GREY[:, None], (4, 1, 5, 6)),
        (GREY[..., None], (4, 1, 5, 6)),
        (COLOUR, (4, 3, 5, 6)),
        (COLOUR.transpose(0, 2, 3, 1), (4, 3, 5, 6)),
    ],
)
def test_npz_in_all_layouts(tmp_path: Path, images: np.ndarray, shape: tuple[int, ...]) -> None:
    data = read_images(npz(tmp_path / "set.npz", image=images, label=LABELS))
    assert tuple(data.images.shape) == shape
    assert np.array_equal(data.images.numpy(), COLOUR if shape[1] == 3 else GREY[:, None])
    assert data.images.is_contiguous()
    assert data.labels.tolist() == [0, 2, 1, 2]
    assert data.classes == ("0", "1", "2")
    assert data.name == "set"
    assert len(data.origin["file_sha256"]) == 64


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_of_floats(tmp_path: Path, dtype: type) -> None:
    data = read_images(npz(tmp_path / "x.npz", image=(GREY / 256).astype(dtype), label=LABELS))
    assert data.images.dtype == torch.float32
    assert np.allclose(data.images.numpy()[:, 0], GREY / 256, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint16])
def test_npz_label_types(tmp_path: Path, dtype: type) -> None:
    data = read_images(npz(tmp_path / "x.npz", image=GREY, label=LABELS.astype(dtype)))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0, 2, 1, 2]


def test_npz_with_class_names(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", image=GREY, label=LABELS)
    assert read_images(path, classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    with pytest.raises(InputError, match=r"^label: got 2, wanted labels below the number of classes, 2"):
        read_images(path, classes=["a", "b"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY, "y": LABELS}, "x.npz with keys x, y, wanted keys image and label"),
        ({"image": GREY}, "x.npz with keys image, wanted keys image and label"),
        ({}, "x.npz with keys none"),
        ({"image": GREY, "label": LABELS[:3]}, r"label: got .*\(3,\), wanted integers of shape \(4,\)"),
        ({"image": GREY, "label": LABELS[:, None]}, r"label: got .*\(4, 1\)"),
        ({"image": GREY, "label": LABELS / 2}, "label: got dtype torch.float64, wanted integer class labels"),
        ({"image": GREY, "label": LABELS > 0}, "label: got dtype torch.bool"),
        ({"image": GREY, "label": LABELS - 1}, "label: got -1, wanted labels from 0"),
        ({"image": GREY[0], "label": LABELS}, r"image: got shape \(5, 6\)"),
        ({"image": GREY.reshape(4, 30), "label": LABELS}, r"image: got shape \(4, 30\)"),
        ({"image": GREY[:0], "label": LABELS[:0]}, "image: got no images"),
        ({"image": GREY.astype(np.int64), "label": LABELS}, "image: got dtype torch.int64, wanted uint8, or float32"),
        ({"image": GREY.astype(np.uint16), "label": LABELS}, "image: got dtype torch.uint16"),
        ({"image": GREY.astype(np.float32), "label": LABELS}, "image: got values from 0 to 119, .*give 0-255 images as uint8"),
        ({"image": GREY / 119 - 0.5, "label": LABELS}, "image: got values from -0.5 to 0.5"),
        ({"image": np.full((4, 5, 6), np.nan, np.float32), "label": LABELS}, "image: got NaN"),
        ({"image": GREY, "label": np.array(["a", "b", "c", "d"])}, "label"),
        ({"image": np.array(["a"] * 4), "label": LABELS}, "image"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_images(npz(tmp_path / "x.npz", **arrays))


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["image", "label", "whole file"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, where: str) -> None:
    mark, path = tmp_path / "it ran", tmp_path / "hostile.npz"
    if where == "whole file":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        arrays: dict[str, Any] = {"image": GREY, "label": LABELS, where: np.array([Bomb(mark)] * 4, dtype=object)}
        np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"^data: got hostile\.npz, wanted a readable \.npz without pickled objects"):
        read_images(path)
    assert not mark.exists()
    if where != "whole file":
        with np.load(path, allow_pickle=True) as loaded:
            loaded[where]
        assert mark.exists()  # so the test can fail


def damaged_member(path: Path) -> bytes:
    """A compressed .npz whose first deflate stream begins with a block of type 3, which there is not."""
    np.savez_compressed(path, image=GREY, label=LABELS)
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", content[26:30])
    content[30 + name + extra] = 0xFF
    return bytes(content)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "compressed", "method", ".npy"])
def test_a_damaged_npz_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    good = npz(path, image=GREY, label=LABELS).read_bytes()
    method = bytearray(good)
    method[8] = 97  # the compression method of the first member; it stands in the central directory, too
    method[good.rindex(b"PK\x01\x02", 0, good.rindex(b"PK\x01\x02")) + 10] = 97
    npy = io.BytesIO()
    np.save(npy, GREY)
    content = {
        "empty": b"",
        "text": b"no archive",
        "truncated": good[: len(good) // 2],
        "compressed": damaged_member(path),
        "method": bytes(method),
        ".npy": npy.getvalue(),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^data: got x\.npz, wanted a readable \.npz"):
        read_images(path)


# Parquet


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_parquet(tmp_path: Path, form: str) -> None:
    cells: list[Any] = [encoded(picture) for picture in GREY]
    if form == "struct":
        cells = [{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)]
    data = read_images(parquet(tmp_path / "set.parquet", cells, LABELS))
    assert np.array_equal(data.images.numpy(), GREY[:, None])
    assert data.labels.tolist() == [0, 2, 1, 2]
    assert data.classes == ("0", "1", "2")
    assert data.name == "set"
    assert data.origin["file"] == "set.parquet"


def test_parquet_labels_are_a_copy_of_our_own(tmp_path: Path) -> None:
    """torch warns, once a process, of a tensor over memory that must not be written to; here it warns always."""
    path = parquet(tmp_path / "x.parquet", [encoded(picture) for picture in GREY], LABELS)
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        read_images(path)
    finally:
        torch.set_warn_always(before)


def test_parquet_class_names_from_hugging_face_metadata(tmp_path: Path) -> None:
    about = '{"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}'
    path = parquet(tmp_path / "x.parquet", [encoded(picture) for picture in GREY], LABELS, huggingface=about)
    assert read_images(path).classes == ("cat", "dog", "eel")
    assert read_images(path, classes=("a", "b", "c")).classes == ("a", "b", "c")


def test_parquet_with_size_and_further_columns(tmp_path: Path) -> None:
    cells = [encoded(np.full((h, 4), 9, np.uint8)) for h in (3, 4)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "image": cells, "label": [0, 1]}), path)
    assert read_images(path, size=2).images.tolist() == [[[[9, 9], [9, 9]]]] * 2
    with pytest.raises(InputError, match=r"images of 2 sizes"):
        read_images(path)


PICTURES = [encoded(picture) for picture in GREY[:2]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": PICTURES}, r"^data: got x\.parquet, wanted a Parquet file with columns image and label"),
        ({"x": PICTURES, "label": [0, 1]}, r"^data: got x\.parquet, wanted a Parquet file with columns"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "^data: got no images"),
        ({"image": ["a.png", "b.png"], "label": [0, 1]}, "^data: got row 0 of x.parquet, wanted image bytes, or a struct"),
        ({"image": [PICTURES[0], None], "label": [0, 1]}, "^data: got row 1 of x.parquet, wanted image bytes"),
        ({"image": [{"bytes": None, "path": "a"}] * 2, "label": [0, 1]}, "^data: got row 0 of x.parquet, wanted image bytes"),
        ({"image": [{"path": "a"}] * 2, "label": [0, 1]}, "^data: got row 0 of x.parquet, wanted image bytes"),
        ({"image": PICTURES, "label": [0, None]}, "^label: got 1 missing labels in x.parquet, wanted an integer in each row"),
        ({"image": PICTURES, "label": [0.0, 1.5]}, "^label: got dtype torch.float32, wanted integer class labels"),
        ({"image": PICTURES, "label": [True, False]}, "^label: got dtype torch.bool"),
        ({"image": PICTURES, "label": [0, -1]}, "^label: got -1, wanted labels from 0"),
        ({"image": PICTURES, "label": ["cat", "dog"]}, "^label: got "),
        ({"image": PICTURES, "label": pa.array(["cat", "dog"]).dictionary_encode()}, "^label: got "),
        ({"image": PICTURES, "label": [[1, 0], [0, 1]]}, "^label: got "),
    ],
)
def test_bad_parquet(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        read_images(tmp_path / "x.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"^data: got x\.parquet, wanted a Parquet file"):
        read_images(tmp_path / "x.parquet")


# Paths


def test_paths_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"data: there is no file or folder .*absent"):
        read_images(tmp_path / "absent.npz")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"^data: got x\.csv, wanted a folder of class folders, an \.npz or a \.parquet file"):
        read_images(tmp_path / "x.csv")


# What is in memory


class Pairs(Dataset[Any]):
    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self.pairs):
            raise IndexError
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)


FLOATS = torch.from_numpy(COLOUR) / 255
INTEGERS = torch.from_numpy(LABELS)


@pytest.mark.parametrize(
    "data",
    [
        (FLOATS, INTEGERS),
        (FLOATS.double(), INTEGERS.int()),
        (FLOATS.numpy(), LABELS),
        (FLOATS.permute(0, 2, 3, 1), INTEGERS),
        TensorDataset(FLOATS, INTEGERS),
        Pairs([(image, int(label)) for image, label in zip(FLOATS, INTEGERS, strict=True)]),
        Pairs([[image.numpy(), label, "more"] for image, label in zip(FLOATS, INTEGERS, strict=True)]),
        DataLoader(TensorDataset(FLOATS, INTEGERS), batch_size=3),
        ImageSet(FLOATS, INTEGERS, ("0", "1", "2")),
    ],
)
def test_arrays_data_sets_and_loaders(data: Any) -> None:
    images = as_images(data)
    assert torch.allclose(images.images, FLOATS)
    assert images.images.dtype == torch.float32
    assert images.labels.tolist() == [0, 2, 1, 2]
    assert images.classes == ("0", "1", "2")


def test_bytes_in_memory_stay_bytes() -> None:
    images = as_images((torch.from_numpy(GREY), INTEGERS), name="mine", classes=["a", "b", "c"])
    assert images.images.dtype == torch.uint8
    assert (images.name, images.classes) == ("mine", ("a", "b", "c"))


def test_names() -> None:
    assert as_images((FLOATS, INTEGERS)).name == "arrays"
    assert as_images(TensorDataset(FLOATS, INTEGERS)).name == "TensorDataset"
    assert as_images(DataLoader(TensorDataset(FLOATS, INTEGERS))).name == "TensorDataset"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read(tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    path = npz(tmp_path / "x.npz", image=GREY, label=LABELS)
    assert as_images(kind(path)).sha256 == read_images(path).sha256


def image(value: float = 0.5) -> Tensor:
    return torch.full((1, 2, 2), value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "^data: got NoneType, wanted a path, an ImageSet"),
        (7, "^data: got int, wanted a path"),
        (Pairs([]), "^data: got an empty data set, wanted at least one sample"),
        (DataLoader(TensorDataset(FLOATS[:0], INTEGERS[:0]), batch_size=2), "^data: got an empty DataLoader, wanted"),
        (Pairs([image(), image()]), r"^data: got samples of type Tensor, wanted \(image, label\) pairs"),
        (Pairs([{"image": image(), "label": 0}]), r"^data: got samples of type dict, wanted \(image, label\) pairs"),
        (Pairs([(image(),)]), r"^data: got samples of type tuple, wanted \(image, label\) pairs"),
        (DataLoader(TensorDataset(FLOATS, FLOATS), batch_size=2), "^label: got dtype torch.float32"),
        (
            Pairs([(image(), 0), (torch.zeros(1, 3, 2), 1)]),
            r"^data: got images of different shapes, .*, wanted one shape for all",
        ),
        (Pairs([(image(7.0), 0)]), "^image: got values from 7 to 7"),
        (Pairs([(image(), -1)]), "^label: got -1"),
        (Pairs([(image(), 0.7)]), "^label: got "),
        (Pairs([(image(), "cat")]), "^label: got "),
        (Pairs([(image(), None)]), "^label: got "),
        (Pairs([(image(), torch.tensor([0, 1]))]), "^label: got "),
        (Pairs([("cat.png", 0)]), "^(image|data): got "),
        (Pairs([(Image.new("RGB", (2, 2)), 0)]), "^(image|data): got "),
        ((FLOATS, INTEGERS[:2]), r"^label: got torch.int64 of shape \(2,\)"),
        ((FLOATS, INTEGERS.float()), "^label: got dtype torch.float32"),
        ((FLOATS[:, :2], INTEGERS), r"^image: got shape \(4, 2, 5, 6\)"),
        ((FLOATS * 255, INTEGERS), "^image: got values from 0 to 255, .*give 0-255 images as uint8"),
        ((FLOATS, ["a", "b", "c", "d"]), "^label: got "),
        ((None, INTEGERS), "^image: got "),
        ((FLOATS, INTEGERS, INTEGERS), "^data: got "),
    ],
)
def test_bad_data(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_images(data)
