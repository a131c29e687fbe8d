"""`tutelage audit --suite attributes`: cut-outs, images with masks, emoji; rows and pictures in the audit's own report."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.app.attributes import is_emoji, read_pictures, split_suites
from tutelage.app.cli import run
from tutelage.auditing import AuditResult
from tutelage.core.errors import InputError
from tutelage.methods.audit.imagenet_e import read_pictures as read

FACTORY = """
import torch
from torch import nn
from tutelage.models import SmallCNN, from_function

class Colours(nn.Module):
    def forward(self, x):
        tilt = x[:, 0] - x[:, 2]
        red, blue = (torch.sigmoid(20 * (side * tilt - 0.7)).flatten(1).mean(1) for side in (1, -1))
        return torch.stack([blue, red], 1) * 50

def groups():
    return SmallCNN(4, channels=3, size=24, classes=7)

def black_box():
    net = Colours()
    return from_function(lambda x: net(torch.from_numpy(x)).numpy())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blue and red squares: as cut-outs with alpha, as images with masks, and as images alone."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        for kind in ("cutouts", "images", "masks"):
            (folder / kind / name).mkdir(parents=True)
        for i in range(8):
            top, left = rng.integers(3, 9, 2)
            cutout = np.zeros((24, 24, 4), np.uint8)
            cutout[top : top + 12, left : left + 12, [channel, 3]] = 255
            Image.fromarray(cutout).save(folder / "cutouts" / name / f"{i}.png")
            alpha = cutout[..., 3:] / 255
            image = alpha * cutout[..., :3] + (1 - alpha) * rng.integers(90, 160, (24, 24, 3))
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / name / f"{i}.png")
            Image.fromarray(cutout[..., 3]).save(folder / "masks" / name / f"{i}.png")
    np.savez(folder / "test.npz", image=np.zeros((4, 24, 24, 3), np.uint8), label=np.arange(4) % 2)
    return folder


def audit(*options: str, model: str = "net.py:Colours") -> list[str]:
    return ["audit", model, "--suite", "attributes", *options]


def test_rows_and_pictures_are_in_the_same_report(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    options = ("--data", "cutouts", "--threats", "pgd-2:linf@0.02", "--no-curve", "--out", "out")
    assert run(audit(*options)) == 0
    shown = capsys.readouterr().out
    assert "drop by size-5-percent" in shown
    assert "drop, average" in shown
    assert "accuracy in per cent; drop in points [95 % interval]" in " ".join(shown.split())
    assert shown.count("linf@0.02") == 1  # one attack: it is its own worst case
    about = json.loads((place / "out" / "audit.json").read_text())
    rows = {row["name"]: row for row in about["rows"] if row["category"] == "attribute"}
    assert len(rows) == 11
    assert rows["position"]["n"] == about["rows"][0]["n"] == 16
    assert about["attributes"]["model"]["sha256"] == about["model"]["sha256"]
    page = (place / "out" / "report.html").read_text()
    for said in (
        "Top-1 drop of each edit",
        "Accuracy under each threat",
        "Drop by class",
        "pgd-2:linf@0.02",
        "with_attributes",
    ):
        assert said in page
    back = AuditResult.load(place / "out")
    assert back.attributes is not None
    assert back.row("attribute", "position").value == pytest.approx(back.attributes.row("position").drop / 100)
    assert "Edits of one attribute of the object cost" in page
    assert back.threats == ["linf@0.02 PGD-2"]
    again = back.save(place / "again")
    assert again.read_bytes() == (place / "out" / "report.html").read_bytes()
    for one in back.attributes.examples:
        assert one.original.dtype == torch.uint8
        assert one.original.shape == one.edited.shape == (3, 24, 24)
    assert run(["report", "out", "--out", "written.html"]) == 0
    assert (place / "written.html").read_bytes() == again.read_bytes()


def test_images_with_masks_and_a_model_without_gradients(place, monkeypatch):
    monkeypatch.chdir(place)
    options = ("--data", "images", "--masks", "masks", "--n", "10", "--out", "masked")
    assert run(audit(*options, model="net.py:black_box")) == 0
    back = AuditResult.load(place / "masked")
    assert back.data["n"] == 10
    names = [row.name for row in back.rows if row.category == "attribute"]
    assert len(names) == 10  # without the background that is made by gradients
    assert not any("adversarial" in name for name in names)


def cutouts(folder: Path, classes: tuple[str, ...], side: int) -> None:
    """Squares of `side` pixels in frames of 24, blue or red."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(6):
            cutout = np.zeros((24, 24, 4), np.uint8)
            cutout[:side, :side, [2 if name == "blue" else 0, 3]] = 255
            Image.fromarray(cutout).save(folder / name / f"{i}.png")


def test_an_edit_that_no_picture_allows_is_a_row_without_a_number(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    cutouts(tmp_path / "full", ("blue", "red"), 24)
    out = tmp_path / "out"
    assert run(audit("--data", str(tmp_path / "full"), "--threats", "fgsm:linf@0.02", "--no-curve", "--out", str(out))) == 0
    shown = capsys.readouterr().out
    assert re.search(r"drop by position +no picture allows it", shown)
    assert "note: edit position: no picture allows it" in shown
    about = json.loads((out / "audit.json").read_text())
    (row,) = [row for row in about["rows"] if row["name"] == "position"]
    assert (row["value"], row["ci95"], row["n"]) == (None, None, 0)
    back = AuditResult.load(out)
    assert back.attributes is not None
    assert len(back.attributes.rows) == 11
    assert math.isnan(back.attributes.row("position").drop)
    assert "position" not in dict(back.attributes.ranking())
    done = [row.drop for row in back.attributes.rows if row.n and row.attribute != "none"]
    assert back.attributes.average == pytest.approx(sum(done) / len(done))
    assert "| position | no picture allows it | – | – | – | 0 of 12 |" in back.attributes.table()
    page = (out / "report.html").read_text()
    assert "An edit that no picture allows has no drop" in page
    assert "nan" not in page.lower().replace("nano", "")
    assert back.save(tmp_path / "again").read_text() == page
    assert (tmp_path / "again" / "audit.json").read_text() == (out / "audit.json").read_text()


def test_one_class_is_told_before_anything_is_attacked(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    cutouts(tmp_path / "one", ("blue",), 12)
    monkeypatch.setattr("tutelage.models.loading.load_model", None)  # not even the model is loaded
    assert run(audit("--data", str(tmp_path / "one"), "--out", str(tmp_path / "out"))) == 2
    assert "data: got 6 of one class, wanted pictures of at least two classes for --suite attributes" in capsys.readouterr().err


def test_what_was_attacked_is_kept_when_the_edits_fail(place, tmp_path, monkeypatch, capsys):
    def fails(*_: object, **__: object) -> None:
        raise InputError("model", "a bad day", "a good one")

    monkeypatch.chdir(place)
    monkeypatch.setattr("tutelage.app.attributes.audited_attributes", fails)
    options = ("--data", "cutouts", "--threats", "fgsm:linf@0.02", "--no-curve", "--out", str(tmp_path))
    assert run(audit(*options)) == 2
    assert (
        f"wanted a good one (in --suite attributes; all the rest is in {tmp_path / 'report.html'})" in capsys.readouterr().err
    )
    assert AuditResult.load(tmp_path).threats == ["linf@0.02 FGSM"]
    assert list((tmp_path / "state").rglob("linf-*.safetensors"))  # the same command goes on from there


def test_n_draws_the_pictures_that_it_draws_of_images(place):
    whole = read(place / "cutouts")
    part = read_pictures(str(place / "cutouts"), None, 0, 6)
    assert torch.equal(part.images.images, whole.images.split_off(6, split=whole.split)[1].images)
    assert len(read_pictures(str(place / "cutouts"), None, 0, 0)) == 16


def test_emoji_come_with_their_masks():
    pictures = read_pictures("emoji", None, 32, 12)
    assert len(pictures) == 12
    assert pictures.alpha.shape == (12, 1, 32, 32)
    assert pictures.split == "test"
    assert len(pictures.classes) == 7


def test_emoji_are_data_for_every_suite(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    command = ["audit", "net.py:groups", "--data", "emoji", "--n", "12", "--size", "24", "--threats", "fgsm:linf@0.01"]
    assert run([*command, "--no-curve", "--force", "--out", str(tmp_path / "out")]) == 0
    back = AuditResult.load(tmp_path / "out")
    assert (back.data["n"], back.data["split"], back.attributes) == (12, "test", None)
    (tmp_path / "emoji").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_emoji("emoji")


WRONG = {
    "more than there are": (audit("--data", "cutouts", "--n", "17"), "n: got 17, wanted at most 16"),
    "data without masks": (audit("--data", "test.npz"), "data: got test.npz, which holds no masks, wanted pictures with masks"),
    "images without alpha": (audit("--data", "images"), "blue/0.png without alpha, wanted pictures with masks"),
    "no such folder": (audit("--data", "nowhere"), "there is no folder nowhere"),
    "no such masks": (audit("--data", "images", "--masks", "nowhere"), "masks: there is no folder nowhere"),
    "masks of emoji": (audit("--data", "emoji", "--masks", "masks"), "masks: got masks, wanted none with emoji"),
    "attributes twice": (audit("--data", "cutouts", "--suite", "attributes"), "attributes twice"),
    "masks alone": (["audit", "net.py:Colours", "--data", "images", "--masks", "masks"], "with --suite attributes only"),
    "unknown suite": (audit("--data", "cutouts", "--suite", "attribute"), "got attribute, wanted"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_sentence(case, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    command, message = WRONG[case]
    assert run([*command, "--out", "never"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (place / "never").exists()


def test_suites_are_told_apart():
    assert split_suites(["corruptions@3", "attributes"], None, "cutouts") == (["corruptions@3"], True)
    assert split_suites(None, None, "test.npz") == ([], False)
    with pytest.raises(InputError, match="masks"):
        split_suites(["fog"], Path("masks"), "images")
