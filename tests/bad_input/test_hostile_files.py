"""What `tools/campaign` found once, kept as tests: pipes, devices, nested JSON, long names, results of other code."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from photographed import make_user
from torch import Tensor, nn

from tutelage.app.cli import run
from tutelage.auditing.audit import audit
from tutelage.core.errors import InputError, WriteError
from tutelage.core.rng import generator
from tutelage.data import ImageSet
from tutelage.data.code_problems import read_problems
from tutelage.data.offline import read_offline
from tutelage.data.readers import read_idx, read_images
from tutelage.data.tables import as_table
from tutelage.methods.audit.robustness_gym import Store
from tutelage.models.language.ngram import NGramLM
from tutelage.threats import PGD, Linf


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_an_image_that_is_no_file_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "set" / "cat" / "1.png"
    path.parent.mkdir(parents=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(InputError, match=r"^data: got cat/1\.png, wanted an image file, no folder, pipe or device$"):
        read_images(tmp_path / "set")


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_a_set_that_is_a_pipe_or_a_device_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / name).symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / "zero" / name):
        with pytest.raises(InputError, match=f"^data: got {name}, wanted a folder or a file, no pipe and no device$"):
            read_images(path)


def test_a_gzip_file_that_does_not_fit_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: bytes) -> bytes:
        raise MemoryError

    (tmp_path / "x.gz").write_bytes(b"\x1f\x8b")
    monkeypatch.setattr(gzip, "decompress", no_memory)
    with pytest.raises(InputError, match=r"^data: got x\.gz, too large when unpacked, wanted a file that fits the memory$"):
        read_idx(tmp_path / "x.gz")


def test_an_audit_of_brackets_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "audit.json").write_text("[" * 100_000 + "]" * 100_000)
    assert run(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "nested too deeply" in said
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == ["audit.json"]


def test_of_a_long_path_the_end_is_shown() -> None:
    shown = str(WriteError("x" * 5000 + "/end", OSError(28, "")))
    assert "/end: No space left on device" in shown
    assert len(shown) < 400


def test_a_result_whose_pictures_cannot_be_drawn_still_has_its_page(tmp_path: Path) -> None:
    result = json.loads((files("tutelage") / "results" / "neur2ro.json").read_text(encoding="utf-8"))
    result["config"] = {"a setting of another version <b>": 1}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert run(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "They could not be drawn from this result (ValidationError: " in page
    assert "version &lt;b&gt;" in page
    assert "version <b>" not in page
    assert escape(result["claims"][0]["sentence"]).replace("&#x27;", "&#39;") in page


def test_a_page_does_not_replace_a_file_that_is_no_page(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "data.npz").write_bytes(b"mine")
    (tmp_path / "page.HTML").write_text("an old page")
    assert run(["report", "neur2ro", "--out", str(tmp_path / "data.npz")]) == 2
    assert capsys.readouterr().err.endswith("data.npz, wanted a new file, or an .html page, which is replaced\n")
    assert (tmp_path / "data.npz").read_bytes() == b"mine"
    assert run(["report", "grokking", "--out", str(tmp_path / "page.HTML")]) == 0
    assert "<html" in (tmp_path / "page.HTML").read_text(encoding="utf-8")


@pytest.mark.parametrize(("key", "value"), [("ci95", [0.5]), ("value", []), ("n", "many")])
def test_an_audit_with_other_values_is_one_sentence(key: str, value: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "user").mkdir()
    user = make_user(tmp_path / "user")
    result = audit(user.model, user.images, threats=["fgsm:linf@0.1"], curve=False, force=True, name="mine")
    for name in ("one", "two"):
        result.save(tmp_path / name)
    about = json.loads((tmp_path / "two" / "audit.json").read_text())
    about["rows"][0][key] = value
    (tmp_path / "two" / "audit.json").write_text(json.dumps(about))
    (tmp_path / "two" / "report.html").unlink()
    capsys.readouterr()
    assert run(["report", str(tmp_path / "two")]) == 2
    assert re.fullmatch(r"error: RUN: got .*two, wanted an audit as `audit` writes it \(\w+: .*\)\n", capsys.readouterr().err)
    assert not (tmp_path / "two" / "report.html").exists()


BRACKETS = "[" * 200_000 + "]" * 200_000


def test_nested_json_is_refused_by_every_reader(tmp_path: Path) -> None:
    for suffix, reader in {
        ".json": as_table,
        ".jsonl": read_problems,
        ".store": Store.load,
        ".ngram": NGramLM.load,
    }.items():
        path = tmp_path / f"x{suffix}"
        path.write_text(BRACKETS)
        with pytest.raises(InputError):
            reader(path)


def test_half_a_character_in_a_column_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"lone surrogate.*wanted names that are Unicode text"):
        as_table([{"a\udc80": 1}])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves a damaged archive open
@pytest.mark.parametrize("keep", [40, 200, 300])
def test_logged_decisions_that_are_cut_are_refused(keep: int, tmp_path: Path) -> None:
    for name in ("d.npz", "d.hdf5"):
        path = tmp_path / name
        whole = io.BytesIO()
        if name == "d.npz":
            np.savez_compressed(whole, observations=np.zeros((9, 2), np.float32), actions=np.zeros((9, 1), np.float32))
        else:
            with h5py.File(whole, "w") as store:
                store["observations"] = np.zeros((9, 2), np.float32)
        path.write_bytes(whole.getvalue()[:keep])
        with pytest.raises(InputError):
            read_offline(path)


class Grows(nn.Module):
    classes = 3

    def forward(self, x: Tensor) -> Tensor:
        self.classes += 1
        return x.flatten(1)[:, : self.classes]


class Stopped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.flatten(1)[:, :4]  # a view keeps saying that it has a gradient


def test_a_model_whose_number_of_classes_changes_is_refused() -> None:
    images = ImageSet(torch.rand(8, 1, 4, 4), torch.arange(8) % 4, tuple("abcd"), name="x", split="test")
    with pytest.raises(InputError, match=r"^model: got 4 classes, and 5 when it was asked again, wanted as many outputs"):
        audit(Grows(), images, threats=["linf@0.1"])


def test_a_model_without_a_gradient_in_it_is_refused() -> None:
    x = torch.eye(4)[:2].reshape(2, 1, 2, 2)
    with pytest.raises(InputError, match=r"^model: got logits that do not depend on the input for autograd"):
        PGD(Linf(0.01), steps=2).run(Stopped(), x, torch.tensor([0, 1]), generator(0))
