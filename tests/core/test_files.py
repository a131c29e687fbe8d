"""Files that are whole or absent, hashes, and locks between processes."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.files import canonical_json, locked, sha256_file, sha256_tensors, sha256_text, write_atomic, write_json

light = settings(max_examples=60, deadline=None, database=None, derandomize=True)
FORK: Any = multiprocessing.get_context("fork")  # the children only touch files


def started(target: Any, *arguments: Any) -> Any:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: this process has threads
        process.start()
    return process


# Writing


def test_text_bytes_and_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_atomic(path, "grüße\n")
    assert path.read_bytes() == "grüße\n".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new and longer")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_the_new_content_is_on_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(f"flush {os.fstat(fd).st_size}"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    write_atomic(tmp_path / "x", "12345")
    assert steps[:2] == ["flush 5", "rename"]


def replace_for_ever(path: Path, sizes: list[int]) -> None:
    while True:
        for size in sizes:
            write_atomic(path, bytes([size % 256]) * size)


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, sizes = tmp_path / "x", [1, 70_000, 300_001]
    write_atomic(path, b"\x01")
    writer = started(replace_for_ever, path, sizes)
    try:
        seen = set()
        stop = time.monotonic() + 2
        while len(seen) < 3 and time.monotonic() < stop:
            content = path.read_bytes()
            assert len(content) in sizes
            assert content == bytes([len(content) % 256]) * len(content)
            seen.add(len(content))
    finally:
        writer.kill()
        writer.join()
    assert len(seen) > 1
    assert len(path.read_bytes()) in sizes  # killed at whatever moment


def test_json(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "ü ∞ \u2028"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert "ü" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_json_has_no_nan(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", value)
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)
    assert list(tmp_path.iterdir()) == []


# Spelling and hashes


def test_canonical_json_by_hand() -> None:
    assert canonical_json({"b": 1, "a": [True, None, "ü", 0.5]}) == '{"a":[true,null,"ü",0.5],"b":1}'
    assert canonical_json({"a": {"y": 1, "x": 2}}) == canonical_json({"a": {"x": 2, "y": 1}})
    assert canonical_json([1, 2]) != canonical_json([2, 1])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@light
@given(st.dictionaries(st.text(max_size=4), values, max_size=4), st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any], rng: Any) -> None:
    keys = list(value)
    rng.shuffle(keys)
    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


def test_known_hashes(tmp_path: Path) -> None:
    # SHA-256 of "abc", as in FIPS 180-2
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_text("abc") == abc
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == abc


def test_hash_of_tensors_by_hand() -> None:
    content = b"a:torch.int16:(2, 1);" + struct.pack("<hh", 1, -2) + b"b:torch.float32:();" + struct.pack("<f", 0.5)
    tensors = {"b": torch.tensor(0.5), "a": torch.tensor([[1], [-2]], dtype=torch.int16)}
    assert sha256_tensors(tensors) == hashlib.sha256(content).hexdigest()


def test_hash_of_tensors_sees_all_that_matters_and_nothing_else() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    base = sha256_tensors({"x": x, "y": x})
    assert sha256_tensors({"y": x, "x": x}) == base
    assert sha256_tensors({"x": x.T.contiguous().T, "y": x.clone().requires_grad_()}) == base
    others = [
        {"x": x},
        {"x": x, "z": x},
        {"x": x.reshape(3, 2), "y": x},
        {"x": x.double(), "y": x},
        {"x": x + torch.tensor([0.0, 0.0, 1e-5]), "y": x},
        {"x": x.view(torch.int32), "y": x},
        {"x": x.bfloat16(), "y": x},
        {"x": x > 1, "y": x},
        {"x": x[:0], "y": x},
        {},
    ]
    assert len({base, *map(sha256_tensors, others)}) == len(others) + 1


# Locks


def hold(path: Path, has: Any, release: Any) -> None:
    with locked(path):
        has.set()
        release.wait(20)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.lock"
    has, release, second = FORK.Event(), FORK.Event(), FORK.Event()
    first = started(hold, path, has, release)
    assert has.wait(20)
    waiting = started(hold, path, second, release)
    assert not second.wait(0.1)
    release.set()
    assert second.wait(20)
    first.join(20)
    waiting.join(20)
    assert (first.exitcode, waiting.exitcode) == (0, 0)


def test_a_lock_ends_with_its_holder_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    has, never = FORK.Event(), FORK.Event()
    holder = started(hold, path, has, never)
    assert has.wait(20)
    holder.kill()
    holder.join(20)
    with locked(path):
        pass
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with locked(path):
        pass
