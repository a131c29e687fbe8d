from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tutelage
from tutelage.app.cli import _interval, run
from tutelage.app.suites import check_corruptions, split_standard
from tutelage.core.errors import InputError
from tutelage.models.cnn import SmallCNN
from tutelage.models.loading import save_weights
from tutelage.teaching import CrossEntropy, fit

FACTORY = """
from tutelage.models.cnn import SmallCNN

def build():
    return SmallCNN(4)

def needs_arguments(width):
    return SmallCNN(width)

def fails():
    return {}["width"]

number = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a factory, trained weights, test images."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_net.py").write_text(FACTORY)
    (folder / "broken.py").write_text("half = 1 / 0\n")
    torch.manual_seed(0)
    net = SmallCNN(4)
    train = tutelage.fashion_mnist_subset("train").take(slice(0, 1000))
    fit(net, CrossEntropy(), train.loader(50), epochs=2, optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    save_weights(net, folder / "net.safetensors")
    test = tutelage.fashion_mnist_subset("test").split_off(50, split="test")[1]
    np.savez(folder / "test.npz", image=test.images[:, 0].numpy(), label=test.labels.numpy())
    bad = test.images[:, 0].numpy().astype(np.float32)
    np.savez(folder / "floats.npz", image=bad, label=test.labels.numpy())
    nan = bad / 255
    nan[3, 3, 3] = np.nan
    np.savez(folder / "nan.npz", image=nan, label=test.labels.numpy())
    np.savez(folder / "labels.npz", image=test.images[:, 0].numpy(), label=test.labels.numpy() + 5)
    np.savez(folder / "keys.npz", images=test.images[:, 0].numpy(), labels=test.labels.numpy())
    np.savez(folder / "rank.npz", image=test.images[:, 0].numpy().reshape(50, -1), label=test.labels.numpy())
    np.savez(folder / "colour.npz", image=test.images[:, 0, :, :, None].numpy().repeat(3, 3), label=test.labels.numpy())
    np.savez(folder / "large.npz", image=np.pad(test.images[:, 0].numpy(), ((0, 0), (2, 2), (2, 2))), label=test.labels.numpy())
    save_weights(SmallCNN(8), folder / "wide.safetensors")
    (folder / "net.pt").write_bytes(b"not safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:200])
    return folder


AUDIT = [
    "audit",
    "my_net.py:build",
    "--weights",
    "net.safetensors",
    "--data",
    "test.npz",
    "--threats",
    "pgd-2:linf@0.1",
    "--no-curve",
]


def changed(**options: str) -> list[str]:
    """The audit command with some options replaced."""
    command = list(AUDIT)
    for key, value in options.items():
        if key == "model":
            command[1] = value
            continue
        option = f"--{key.replace('_', '-')}"
        if option in command:
            command[command.index(option) + 1] = value
        else:
            command += [option, value]
    return command


def test_an_audit_without_code(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}
    assert run([*AUDIT, "--out", "out"]) == 0
    shown = capsys.readouterr().out
    about = json.loads((place / "out" / "audit.json").read_text())
    assert f"{100 * about['rows'][0]['value']:.1f}" in shown
    assert "out/report.html" in shown.replace("\n", "")
    assert (place / "out" / "report.html").is_file()
    assert (place / "out" / "run.json").is_file()
    assert before == {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}, "a file of the user changed"
    (place / "out" / "report.html").unlink()
    assert run(["report", "out"]) == 0
    assert (place / "out" / "report.html").is_file()


WRONG = {
    "unknown threat": (changed(threats="l3@0.1"), "threats: got l3@0.1"),
    "threat without eps": (changed(threats="linf"), "threats: got linf"),
    "eps of zero": (changed(threats="linf@0"), "EPS above 0"),
    "no threat": (changed(threats=","), "at least one threat"),
    "no such data": (changed(data="nowhere"), "there is no file or folder nowhere"),
    "0-255 floats": (changed(data="floats.npz"), "float images in [0, 1]"),
    "NaN in data": (changed(data="nan.npz"), "NaN"),
    "labels out of range": (changed(data="labels.npz"), "labels from 0 to 9"),
    "wrong keys": (changed(data="keys.npz"), "keys image and label"),
    "wrong rank": (changed(data="rank.npz"), "image: got shape (50, 784)"),
    "wrong channels": (changed(data="colour.npz"), "on images of as many channels as the model takes, not 3"),
    "no such shift": (changed(shift="new=nowhere"), "shift new: there is no file or folder nowhere"),
    "shift with other keys": (changed(shift="new=keys.npz"), "shift new: got keys.npz with keys images, labels, wanted keys"),
    "NaN in a shift": (changed(shift="new=nan.npz"), "shift new: image: got NaN"),
    "shift of other channels": (changed(shift="new=colour.npz"), "shift new: got images of 3 x 28 x 28, wanted 1 x 28 x 28"),
    "shift of another size": (changed(shift="new=large.npz"), "--size 28 resizes those of a folder"),
    "another size": (changed(data="large.npz"), "size and channels that the model takes, not 32 x 32: --size N"),
    "no such weights": (changed(weights="gone.safetensors"), "there is no file gone.safetensors"),
    "weights of another net": (changed(weights="wide.safetensors"), "shape"),
    "pickled weights": (changed(weights="net.pt"), "safetensors"),
    "truncated weights": (changed(weights="cut.safetensors"), "readable safetensors"),
    "no such factory file": (changed(model="gone.py:build"), "there is no file gone.py"),
    "no such function": (changed(model="my_net.py:biuld"), "has no 'biuld'"),
    "no such module": (changed(model="no_such_module:build"), "no_such_module"),
    "no function named": (changed(model="my_net.py"), "factory"),
    "factory with arguments": (changed(model="my_net.py:needs_arguments"), "no arguments"),
    "factory that fails": (changed(model="my_net.py:fails"), "raising KeyError: 'width'"),
    "file that fails": (changed(model="broken.py:build"), "raising ZeroDivisionError"),
    "factory of a number": (changed(model="my_net.py:number"), "returns an nn.Module"),
    "too many samples": (changed(n="51"), "n: got 51, wanted at most 50"),
    "negative batch": (changed(batch_size="-1"), "batch-size: got -1"),
    "output that is a file": (changed(out="my_net.py"), "out: got my_net.py, wanted a folder"),
    "output below a file": (["demo", "--quick", "--out", "my_net.py/demo"], "is a file"),
    "no such device": (changed(device="warp"), "device: got warp"),
    "unknown suite": (changed(suite="standart"), "suite: got standart, wanted standard (attacks), attributes, corruptions,"),
    "unknown system": (["run", "mtrd"], "such as mtard"),
    "planned system": (["run", "w2s-deception"], "planned"),
    "unknown setting": (["run", "mtard", "--set", "epoch=3"], "set: got epoch"),
    "setting without value": (["run", "mtard", "--set", "epochs"], "key=value"),
    "unknown scale": (["run", "mtard", "--scale", "huge"], "smoke, claim or paper"),
    "record at smoke": (["run", "mtard", "--record"], "--scale claim alone"),
    "no such run": (["report", "nowhere-at-all"], "tutelage list"),
    "unknown room": (["list", "--room", "attic"], "room: got attic"),
    "unknown show": (["show", "mtrd"], "such as mtard"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_sentence_and_exit_code_2(case, place, monkeypatch, capsys):
    command, message = WRONG[case]
    monkeypatch.chdir(place)
    assert run(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (place / "audit").exists()


@pytest.mark.parametrize(
    ("threats", "suites", "wanted", "left"),
    [
        (None, [], ["linf@8/255"], []),
        (None, ["standard"], ["linf@8/255"], []),
        (None, ["corruptions", "standard"], ["linf@8/255"], ["corruptions"]),
        (None, ["corruptions"], [], ["corruptions"]),
        ("l2@0.5,fgsm:linf@0.1", ["standard"], ["l2@0.5", "fgsm:linf@0.1"], []),
        ("fgsm:linf@0.1", ["standard"], ["fgsm:linf@0.1", "linf@8/255"], []),
    ],
)
def test_the_standard_suite_is_what_a_budget_alone_means(threats, suites, wanted, left):
    assert split_standard(threats, suites, []) == (wanted, left)


def test_suites_that_do_not_go_together():
    with pytest.raises(InputError, match=r"^suite: got standard twice"):
        split_standard(None, ["standard", "standard"], [])
    with pytest.raises(InputError, match=r"^suite: got fog@2 twice"):
        check_corruptions(["fog", "fog@2"])


def test_the_standard_suite_beside_another(place, monkeypatch):
    monkeypatch.chdir(place)
    command = ["audit", *AUDIT[1:6], "--n", "10", "--no-curve", "--out", "both", "--suite", "standard", "--suite", "fog@1"]
    assert run(command) == 0
    about = json.loads((place / "both" / "audit.json").read_text())
    assert {"linf@8/255", "corruption"} <= {row["category"] for row in about["rows"]}


def test_the_installed_command_shows_no_traceback(place):
    done = subprocess.run(
        [sys.executable, "-c", "from tutelage.app.cli import main; main()", "audit", "gone.py:f", "--data", "test.npz"],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "error: model: there is no file gone.py"


def test_a_model_that_is_at_chance_is_stopped(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    command = [a for a in AUDIT if a not in ("--weights", "net.safetensors")]
    torch.manual_seed(1)
    assert run(command) == 2
    assert "not above 10.0 %" in capsys.readouterr().err


def test_list_show_and_doctor(capsys):
    assert run(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 64
    assert next(e for e in entries if e["slug"] == "mtard")["status"] != "planned"
    assert run(["list", "--room", "distill", "--search", "clean robust teacher"]) == 0
    assert "mtard" in capsys.readouterr().out
    assert run(["show", "mtard"]) == 0
    shown = capsys.readouterr().out
    assert "2306.16170" in shown
    assert "Example::" in shown
    assert run(["show", "w2s-deception"]) == 0
    assert "planned" in capsys.readouterr().out
    assert run(["doctor"]) == 0
    assert "TUTELAGE_CACHE" in capsys.readouterr().out


def test_who_reads_only_the_first_line_gets_no_error():
    command = [sys.executable, "-c", "from tutelage.app.cli import main; main()", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == b""
        assert listing.wait() == 141


def test_run_writes_a_folder_that_report_can_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["run", "mtard", "--seeds", "2", "--out", "first"]) == 0
    assert "primary" in capsys.readouterr().out
    assert (tmp_path / "first" / "result.json").is_file()
    assert run(["report", "first", "--out", "again.html"]) == 0
    assert (tmp_path / "again.html").read_text().count("b-mtard") > 1


def test_a_difference_that_rounds_to_nothing_has_no_minus():
    assert _interval(-1e-9, -0.004, 0.004, signed=True) == r"+0.00 \[+0.00, +0.00]"
    assert _interval(-0.006, -0.1, 0.1, signed=True) == r"-0.01 \[-0.10, +0.10]"
    assert _interval(0.5, 0.25, 0.75, signed=False) == r"0.5000 \[0.2500, 0.7500]"


def test_failed_cells_are_said_and_exit_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["run", "mtard", "--seeds", "1", "--set", "clean_teacher=nothing", "--out", "bad"]) == 1
    assert "cells failed" in capsys.readouterr().err


def test_the_demo_writes_a_report_of_three_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--quick", "--out", "demo"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == "report: demo/report.html"
    page = (tmp_path / "demo" / "report.html").read_text()
    for name in ("clean teacher", "robust teacher", "student (B-MTARD)"):
        assert name in page
    assert (tmp_path / "demo" / "student.safetensors").is_file()
