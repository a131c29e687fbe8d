"""The files that the official homes serve: idx files, CIFAR-10's binary batches, and what damaged ones get told."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from local_server import idx
from tutelage.core.errors import InputError, MissingError
from tutelage.data.homes import HOMES
from tutelage.data.readers import read_cifar10_binary, read_idx
from tutelage.data.sets import JPEG_COPY, standard_set

# Readers


def test_an_idx_file_written_by_hand(tmp_path: Path) -> None:
    # magic 0x00000803, then 2 x 1 x 3, then six bytes
    content = bytes.fromhex("00000803 00000002 00000001 00000003 00 01 7f 80 fe ff".replace(" ", ""))
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        array = read_idx(tmp_path / name)
        assert array.tolist() == [[[0, 1, 127]], [[128, 254, 255]]]
        assert array.dtype == torch.uint8
        array += 1  # the tensor is its own, not a view of read-only bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx((2, 3), b"123456", kind=0x0D), r"a\.gz beginning with 00000d02, wanted an idx file of bytes"),  # floats
        (b"\x89PNG....", "beginning with 89504e47"),
        (b"", "beginning with nothing"),
        (idx((2, 3), b"12345"), r"a\.gz with 17 bytes, wanted 18, as its header says \(\[2, 3\]\)"),
        (idx((2, 3), b"1234567"), "with 19 bytes, wanted 18"),
        (idx((2, 3), b"")[:9], "with 9 bytes, wanted"),
    ],
)
def test_a_damaged_idx_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "a.gz")


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(idx((100, 100), bytes(range(100)) * 100))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[:-9], b"not gzip", bytes(flipped)):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"^data: got a\.gz, wanted a whole gzip file"):
            read_idx(tmp_path / "a.gz")


def record(label: int, red: int, green: int, blue: int) -> bytearray:
    return bytearray([label]) + bytearray([red] * 1024 + [green] * 1024 + [blue] * 1024)


def test_a_cifar10_batch_written_by_hand(tmp_path: Path) -> None:
    first = record(3, 10, 20, 30)
    first[1 + 5] = 11  # red, row 0, column 5
    first[1 + 1024 + 32] = 21  # green, row 1, column 0
    first[-1] = 31  # blue, the last row and column
    (tmp_path / "1.bin").write_bytes(first + record(9, 1, 2, 3))
    (tmp_path / "2.bin").write_bytes(record(0, 255, 0, 128))
    images, labels = read_cifar10_binary([tmp_path / "1.bin", tmp_path / "2.bin"])
    assert images.shape == (3, 3, 32, 32)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert labels.tolist() == [3, 9, 0]
    assert images[0, 0, 0, 5] == 11
    assert images[0, 1, 1, 0] == 21
    assert images[0, 2, 31, 31] == 31
    assert images[0].int().sum() == 1024 * (10 + 20 + 30) + 3
    assert images[2].flatten(1).float().mean(1).tolist() == [255, 0, 128]


@pytest.mark.parametrize("size", [0, 3072, 3074, 2 * 3073 - 1])
def test_a_cut_cifar10_batch(tmp_path: Path, size: int) -> None:
    (tmp_path / "b.bin").write_bytes(bytes(size))
    with pytest.raises(InputError, match=rf"^data: got b\.bin with {size} bytes, wanted whole records of 3073 bytes"):
        read_cifar10_binary([tmp_path / "b.bin"])


# Sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def put_idx(folder: Path, images: np.ndarray, labels: np.ndarray, split: str = "t10k", end: str = ".gz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if end else bytes
    (folder / f"{split}-images-idx3-ubyte{end}").write_bytes(pack(idx(images.shape, images.tobytes())))
    (folder / f"{split}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels.shape, labels.tobytes())))


@pytest.mark.parametrize("end", [".gz", ""])
def test_mnist_from_idx_files(folder: Path, end: str) -> None:
    images, labels = np.zeros((10_000, 28, 28), np.uint8), (np.arange(10_000) % 10).astype(np.uint8)
    images[7, 2, 5] = 200
    put_idx(folder / "mnist", images, labels, end=end)
    data = standard_set("mnist", "test")
    assert data.images.shape == (10_000, 1, 28, 28)
    assert (data.name, data.split) == ("mnist", "test")
    assert data.images[7, 0, 2, 5] == 200
    assert data.images.int().sum() == 200
    assert data.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.origin["file"] == f"t10k-images-idx3-ubyte{end}, t10k-labels-idx1-ubyte{end}"
    with pytest.raises(MissingError):
        standard_set("mnist", "train")


def test_a_part_is_not_called_mnist(folder: Path) -> None:
    put_idx(folder / "mnist", np.zeros((9_999, 28, 28), np.uint8), np.zeros(9_999, np.uint8))
    with pytest.raises(InputError, match=r"idx3-ubyte\.gz with 9999 images, wanted the 10000 of mnist"):
        standard_set("mnist", "test")
    for file in (folder / "mnist").iterdir():
        file.unlink()
    np.savez(folder / "mnist" / "train.npz", image=np.zeros((5, 28, 28), np.uint8), label=np.zeros(5, np.uint8))
    with pytest.raises(InputError, match=r"train\.npz with 5 images, wanted the 60000 of mnist"):
        standard_set("mnist", "train")


def test_images_and_labels_that_do_not_belong_together(folder: Path) -> None:
    put_idx(folder / "fashion-mnist", np.zeros((4, 28, 28), np.uint8), np.zeros(5, np.uint8))
    with pytest.raises(InputError, match=r"shapes \(4, 28, 28\) and \(5,\), wanted \(N, 28, 28\) and \(N,\)"):
        standard_set("fashion-mnist", "test")


def test_a_cached_file_that_changed_is_not_read(folder: Path) -> None:
    put_idx(folder.parent / "cache" / "data" / "mnist", np.zeros((10_000, 28, 28), np.uint8), np.zeros(10_000, np.uint8))
    wanted = HOMES["mnist"].files[2].sha256
    with pytest.raises(InputError, match=rf"with SHA-256 \w{{64}}, wanted {wanted}; `tutelage data get mnist` mends /"):
        standard_set("mnist", "test")


def parquet(path: Path, form: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(out, form)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": out.getvalue(), "path": "a"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": images, "label": pa.array([6])}), path)


def test_cifar10_says_what_was_read(folder: Path) -> None:
    parquet(folder / "cifar10" / "test.parquet", "JPEG")
    for name in ("cifar10", "cifar10-jpeg"):
        assert standard_set(name, "test").name == JPEG_COPY == "CIFAR-10 (JPEG copy)"
    parquet(folder / "cifar10" / "test.parquet", "PNG")
    assert standard_set("cifar10", "test").name == "cifar10"
    with pytest.raises(InputError, match="without JPEG images, wanted the JPEG copy"):
        standard_set("cifar10-jpeg", "test")
    # the binary version is the original, so it comes first
    batch = folder / "cifar10" / "cifar-10-batches-bin" / "test_batch.bin"
    batch.parent.mkdir()
    batch.write_bytes((record(3, 1, 2, 3) + record(8, 4, 5, 6)) * 5_000)
    data = standard_set("cifar10", "test")
    assert (data.name, len(data)) == ("cifar10", 10_000)
    assert data.labels[:4].tolist() == [3, 8, 3, 8]
    assert data.images[1, :, 0, 0].tolist() == [4, 5, 6]
    with pytest.raises(InputError, match="JPEG"):
        standard_set("cifar10-jpeg", "test")
    batch.write_bytes(record(3, 1, 2, 3) * 2)
    with pytest.raises(InputError, match=r"test_batch\.bin with 2 images, wanted the 10000 of cifar10"):
        standard_set("cifar10", "test")
