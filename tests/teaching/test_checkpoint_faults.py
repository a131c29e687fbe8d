"""Checkpoints that were cut, tampered with or made by others: refused by name, and the good one before them is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.errors import CheckpointError, WriteError
from tutelage.models.loading import fingerprint
from tutelage.teaching import CrossEntropy, FitResult, fit
from tutelage.teaching.checkpoint import _seal, load_checkpoint, save_checkpoint

NEW = "step-00000002"


def two(folder: Path) -> None:
    for step in (1, 2):
        save_checkpoint(folder, step, {"w": torch.full((40,), float(step)), "note": "plain"})


def tensors(folder: Path, stem: str = NEW) -> Path:
    (path,) = folder.glob(f"{stem}-*.safetensors")
    return path


def refused(folder: Path, reason: str = "") -> None:
    """The newest is named, the one before it is used; with that one gone too, CheckpointError."""
    with pytest.warns(UserWarning, match=rf"{NEW}\.json.*{reason}.*trying the one before it"):
        found = load_checkpoint(folder)
    assert found is not None
    assert (found[0], found[1]["w"].tolist()) == (1, [1.0] * 40)
    (folder / "step-00000001.json").write_text("{}")
    with (
        pytest.warns(UserWarning, match="trying the one before"),
        pytest.raises(CheckpointError, match=r"step-00000001\.json.*no earlier one.*delete"),
    ):
        load_checkpoint(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = False) -> None:
    """Change the newest header; with `seal`, as somebody would who knows the format."""
    path = folder / f"{NEW}.json"
    header = json.loads(path.read_text())
    change(header)
    if seal:
        header.pop("seal", None)
        header["seal"] = _seal(header)
    path.write_text(json.dumps(header))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("which", ["json", "safetensors"])
def test_truncated_at_any_byte(tmp_path: Path, share: float, which: str) -> None:
    two(tmp_path)
    path = tmp_path / f"{NEW}.json" if which == "json" else tensors(tmp_path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: min(int(share * size), size - 2)])
    refused(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_one_bit_of_the_tensors(tmp_path: Path, share: float) -> None:
    two(tmp_path)
    path = tensors(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)
    refused(tmp_path, "truncated or were changed")


def point_at(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.update(file=name)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "step": (lambda h: h.update(step=7), "was changed"),
    "step as text": (lambda h: h.update(step="2"), "cannot be read|was changed"),
    "a value": (lambda h: h["state"]["items"][1].__setitem__(1, "another"), "was changed"),
    "a tensor moved": (lambda h: h["state"]["items"][0][1].update(at="1"), "was changed"),
    "format": (lambda h: h.update(format="torch-pickle"), "format 'torch-pickle'"),
    "no seal": (lambda h: h.pop("seal"), "cannot be read"),
    "file above": (point_at("../evil.safetensors"), "was changed"),
    "absolute file": (point_at("/etc/passwd"), "was changed"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_changed_header(tmp_path: Path, case: str) -> None:
    two(tmp_path)
    edit(tmp_path, EDITS[case][0])
    refused(tmp_path, EDITS[case][1])


def other_files(folder: Path) -> dict[str, str]:
    """Real, readable tensors in places that a header must not reach."""
    made = {"above": folder.parent / "evil.safetensors", "beside": folder / "evil.safetensors"}
    for path in made.values():
        shutil.copy(tensors(folder), path)
    return {
        "above": "../evil.safetensors",
        "beside": "evil.safetensors",
        "absolute": str(made["above"]),
        "the older one": tensors(folder, "step-00000001").name,
        "a folder": ".",
        "nothing": "",
        "no text": "\0",
    }


@pytest.mark.parametrize("where", ["above", "beside", "absolute", "the older one", "a folder", "nothing", "no text"])
def test_a_sealed_header_reaches_no_other_file(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "run"
    two(folder)
    edit(folder, point_at(other_files(folder)[where]), seal=True)
    refused(folder, "not its own file")


def test_a_sealed_header_with_the_hash_of_another_file(tmp_path: Path) -> None:
    two(tmp_path)
    other = tensors(tmp_path, "step-00000001")
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    edit(tmp_path, lambda h: h.update(sha256=digest), seal=True)
    refused(tmp_path, "not its own file")
    two(tmp_path)
    edit(tmp_path, lambda h: h.update(sha256=digest, file=f"{NEW}-{digest[:8]}.safetensors"), seal=True)
    refused(tmp_path, "cannot be read")  # that file is not there


def test_well_named_tensors_that_are_none(tmp_path: Path) -> None:
    two(tmp_path)
    content = b"\x80\x04pickled weights"
    digest = hashlib.sha256(content).hexdigest()
    name = f"{NEW}-{digest[:8]}.safetensors"
    (tmp_path / name).write_bytes(content)
    edit(tmp_path, lambda h: h.update(sha256=digest, file=name), seal=True)
    refused(tmp_path, "SafetensorError")


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"step"', "[" * 100_000, "\ufeff{}", "{}", '{"format": null}'])
def test_json_of_somebody_else(tmp_path: Path, text: str) -> None:
    two(tmp_path)
    (tmp_path / f"{NEW}.json").write_text(text)
    refused(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / f"{NEW}.json").write_bytes(b"\xff\xfe\x00\x80")
    refused(tmp_path)


def test_a_header_under_the_name_of_another_step(tmp_path: Path) -> None:
    """An old checkpoint copied over a newer name would silently take steps back."""
    two(tmp_path)
    shutil.copy(tmp_path / "step-00000001.json", tmp_path / f"{NEW}.json")
    refused(tmp_path, "was changed")


def test_a_damaged_later_checkpoint_never_pushes_out_a_good_one(tmp_path: Path) -> None:
    for step in (1, 2, 9):
        save_checkpoint(tmp_path, step, {"w": torch.tensor(float(step))})
    (tmp_path / "step-00000009.json").write_text("{")
    with pytest.warns(UserWarning, match="step-00000009"):
        assert (load_checkpoint(tmp_path) or (0,))[0] == 2
    for step in (3, 4):
        save_checkpoint(tmp_path, step, {"w": torch.tensor(float(step))})
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["step-00000003.json", "step-00000004.json"]
    assert (load_checkpoint(tmp_path) or (0,))[0] == 4


# a full disk


def test_a_full_disk_leaves_the_checkpoint_before_it_and_no_litter(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own: the system itself refuses the write."""
    script = f"""
import resource, sys
from pathlib import Path
import torch
from tutelage.core.errors import WriteError
from tutelage.teaching.checkpoint import save_checkpoint
folder = Path({str(tmp_path)!r})
save_checkpoint(folder, 1, {{"w": torch.ones(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for attempt in range(5):
    try:
        save_checkpoint(folder, 2, {{"w": torch.ones(100_000)}})
    except WriteError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert line.startswith(f"cannot write {tmp_path}/step-00000002-")
        assert "choose another folder or raise the limit" in line
    assert sorted(p.name.split("-")[1][:8] for p in tmp_path.iterdir()) == ["00000001", "00000001"]
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], found[1]["w"].tolist()) == (1, [1.0] * 10)


# through `fit`


def train(folder: Path, *, hidden: int = 6, seed: int = 0, epochs: int = 3) -> tuple[FitResult, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 3))
    rng = torch.Generator().manual_seed(4)
    points = TensorDataset(torch.rand(16, 4, generator=rng), torch.randint(3, (16,), generator=rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    loader = DataLoader(points, batch_size=4, shuffle=True)
    result = fit(model, CrossEntropy(), loader, epochs=epochs, optimizer=optimizer, checkpoint=folder, seed=seed)
    return result, model


@pytest.mark.parametrize("damage", ["cut", "bit", "step", "outside"])
def test_fit_names_the_damaged_checkpoint_and_ends_with_the_same_weights(tmp_path: Path, damage: str) -> None:
    _, whole = train(tmp_path)
    newest = max(tmp_path.glob("step-*.json"))
    data = max(tmp_path.glob("*.safetensors"))
    content = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        content[-1] ^= 1
        data.write_bytes(content)
    else:
        header = json.loads(newest.read_text())
        header.update({"step": 11} if damage == "step" else {"file": "../" + data.name})
        newest.write_text(json.dumps(header))
    with pytest.warns(UserWarning, match=newest.name):
        result, resumed = train(tmp_path)
    assert result.resumed_from == 8
    assert fingerprint(resumed) == fingerprint(whole)


def test_fit_with_damaged_checkpoints_only_raises_and_trains_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with (
        pytest.warns(UserWarning, match="trying the one before"),
        pytest.raises(CheckpointError, match=r"step-00000008\.json.*no earlier one"),
    ):
        train(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"hidden": 7}, "another model"), ({"seed": 1}, "seed: 0, here: 1"), ({"epochs": 4}, "number of steps")],
)
def test_the_checkpoint_of_another_run_is_refused_and_kept(tmp_path: Path, other: dict[str, Any], reason: str) -> None:
    train(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=reason):
        train(tmp_path, **other)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_full_disk_stops_the_training_with_one_sentence_and_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = train(tmp_path / "whole")
    real = os.fsync

    def full(descriptor: int) -> None:
        if list((tmp_path / "run").glob(".step-00000012*")):  # the third checkpoint meets a full disk
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*step-00000012.*No space left on device; free some space"):
        train(tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".step-*"))
    result, resumed = train(tmp_path / "run")
    assert result.resumed_from == 8
    assert fingerprint(resumed) == fingerprint(whole)
