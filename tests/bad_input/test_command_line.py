"""Bad input on the command line: exit code 2, one sentence on standard error that names what is wrong, no traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from photographed import files_of, flat, make_user, picture
from PIL import Image
from safetensors.torch import save_file

from tutelage.app.cli import run
from tutelage.core.rng import rng_state


class Case(NamedTuple):
    command: str
    argument: str
    got: str
    wanted: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with good files and with bad ones."""
    folder = tmp_path_factory.mktemp("place")
    user = make_user(folder)
    grey = (user.x[:, 0] * 255).to(torch.uint8).numpy()
    y = user.y.numpy()
    arrays = {
        "floats": (grey.astype(np.float32), y),
        "nan": (np.where(np.arange(12)[:, None, None] == 11, np.nan, grey / 255).astype(np.float32), y),
        "infinite": (np.where(np.arange(12)[:, None, None] == 11, np.inf, grey / 255).astype(np.float32), y),
        "normalised": ((grey / 255 - 0.5).astype(np.float32), y),
        "high": (grey, y + 1),
        "negative": (grey, y - 1),
        "shares": (grey, y / 3),
        "short": (grey, y[:5]),
        "onehot": (grey, np.eye(3)[y]),
        "rank": (grey.reshape(12, -1), y),
        "channels": (np.repeat(grey[:, None], 5, 1), y),
        "colour": (np.repeat(grey[:, None], 3, 1), y),
        "large": (np.repeat(np.repeat(grey, 2, 1), 2, 2), y),
        "none": (grey[:0], y[:0]),
        "integers": (grey.astype(np.int64), y),
    }
    for name, (image, label) in arrays.items():
        np.savez(folder / f"{name}.npz", image=image, label=label)
    np.savez(folder / "keys.npz", images=grey, labels=y)
    np.savez(folder / "objects.npz", image=np.array([None] * 12, object), label=y)
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:200])
    (folder / "cut.parquet").write_bytes((folder / "good.parquet").read_bytes()[:-40])
    pq.write_table(pa.table({"img": [b"x"], "label": [0]}), folder / "columns.parquet")
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), folder / "corrupt.parquet")
    images = {
        "corrupt/cat/1.png": picture(grey[0])[:60],
        "text/cat/1.png": b"meow",
        "bomb/cat/1.png": picture(Image.new("1", (9000, 9000), 1)),
        "sizes/cat/1.png": picture(grey[0]),
        "sizes/dog/1.png": picture(grey[0][:4]),
        "alpha/cat/1.png": picture(np.full((4, 4, 4), 128, np.uint8)),
        "hidden/cat/._1.png": b"Mac OS X",
        "flat/1.png": picture(grey[0]),
    }
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    weight, bias = torch.zeros(3, 64), torch.zeros(3)
    tensors = {
        "fits": {"1.weight": weight, "1.bias": bias},
        "wide": {"1.weight": torch.zeros(5, 64), "1.bias": torch.zeros(5)},
        "partial": {"1.weight": weight},
        "extra": {"1.weight": weight, "1.bias": bias, "2.weight": bias + 1},
        "notanumber": {"1.weight": weight * torch.nan, "1.bias": bias},
        "double": {"1.weight": torch.full((3, 64), 0.1, dtype=torch.float64), "1.bias": bias},
    }
    for name, state in tensors.items():
        save_file(state, folder / f"{name}.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "fits.safetensors").read_bytes()[:100])
    (folder / "net.pt").write_bytes(b"\x80\x02K\x01.")
    (folder / "raises.py").write_text("half = 1 / 0\n")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "audit.json").write_text('{"rows": ')
    (folder / "other").mkdir()
    (folder / "other" / "result.json").write_text('{"slug": "mtard"}')
    (folder / "foreign").mkdir()
    (folder / "foreign" / "run.json").write_text("[]")
    return folder


def audit(**options: str) -> str:
    """The audit command with some options replaced."""
    model = options.pop("model", "my_net.py:build")
    options = {"data": "good.npz", "threats": "pgd-1:linf@0.1"} | options
    rest = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    return " ".join(["audit", model, "--no-curve", *rest])


TABLE = {
    # the model
    "no factory": Case("audit", "'model'", "Missing argument", "audit --help"),
    "no data": Case("audit my_net.py:build", "'--data'", "Missing option", "audit --help"),
    "factory without a function": Case(audit(model="my_net.py"), "model", "my_net.py", "file.py:function"),
    "factory file that is absent": Case(audit(model="absent.py:build"), "model", "absent.py", ""),
    "factory module that is absent": Case(audit(model="absent_module:build"), "model", "absent_module", "imported"),
    "factory function that is absent": Case(audit(model="my_net.py:biuld"), "model", "my_net.py", "no 'biuld'"),
    "factory with arguments": Case(audit(model="my_net.py:needs"), "model", "'width'", "no arguments"),
    "factory that fails": Case(audit(model="my_net.py:fails"), "model", "KeyError", "returns"),
    "factory of a number": Case(audit(model="my_net.py:number"), "model", "int", "nn.Module"),
    "file that fails": Case(audit(model="raises.py:build"), "model", "ZeroDivisionError", "can be run"),
    "model of dicts": Case(audit(model="my_net.py:dictionary"), "model", "dict", r"outputs\['logits'\]"),
    "model of tuples": Case(audit(model="my_net.py:pair"), "model", "tuple", r"outputs\[0\]"),
    "model in half precision": Case(audit(model="my_net.py:half"), "model", "RuntimeError", "float32|logits"),
    "model of probabilities": Case(audit(model="my_net.py:softmax"), "model", "probabilities", "LogProbabilities"),
    "model of NaN": Case(audit(model="my_net.py:nan_logits"), "model", "NaN", "finite"),
    "model at chance": Case(audit(weights="fits.safetensors"), "clean accuracy", "%", "check weights"),
    # weights
    "weights that are absent": Case(audit(weights="absent.safetensors"), "weights", "absent.safetensors", ""),
    "weights that are a folder": Case(audit(weights="good"), "weights", "good", ""),
    "weights that are pickled": Case(audit(weights="net.pt"), "weights", "net.pt", "safetensors"),
    "weights that are cut off": Case(audit(weights="cut.safetensors"), "weights", "cut.safetensors", "readable"),
    "weights of another shape": Case(audit(weights="wide.safetensors"), "weights", r"\(5", r"\(3"),
    "weights that are partial": Case(audit(weights="partial.safetensors"), "weights", "without '1.bias'", "every tensor"),
    "weights with more": Case(audit(weights="extra.safetensors"), "weights", "'2.weight'", "only tensors"),
    "weights of NaN": Case(audit(weights="notanumber.safetensors"), "weights", "NaN", "finite"),
    "weights that would be rounded": Case(audit(weights="double.safetensors"), "weights", "float64", "float32 can hold"),
    # data
    "data that is absent": Case(audit(data="absent"), "data", "absent", ""),
    "data of another format": Case(audit(data="my_net.py"), "data", "my_net.py", r"\.npz"),
    "npz of 0-255 floats": Case(audit(data="floats.npz"), "image", "values from", "as uint8"),
    "npz with NaN": Case(audit(data="nan.npz"), "image", "NaN", r"\[0, 1\]"),
    "npz with infinity": Case(audit(data="infinite.npz"), "image", "inf", r"\[0, 1\]"),
    "npz that is normalised": Case(audit(data="normalised.npz"), "image", "from -0", "inside the model"),
    "npz of labels too high": Case(audit(data="high.npz"), "label", "3", "from 0 to 2"),
    "npz of labels below 0": Case(audit(data="negative.npz"), "label", "-1", "from 0"),
    "npz of labels that are shares": Case(audit(data="shares.npz"), "label", "float64", "integer"),
    "npz of too few labels": Case(audit(data="short.npz"), "label", r"\(5,\)", r"\(12,\)"),
    "npz of one-hot labels": Case(audit(data="onehot.npz"), "label", "float64", "integer"),
    "npz of flat images": Case(audit(data="rank.npz"), "image", r"\(12, 64\)", "N, C, H, W"),
    "npz of five channels": Case(audit(data="channels.npz"), "image", r"\(12, 5", "1 or 3"),
    "npz of colour for a grey model": Case(audit(data="colour.npz"), "model", r"\(12, 3, 8, 8\)", "logits .* channels"),
    "npz of another size": Case(audit(data="large.npz"), "model", r"\(12, 1, 16, 16\)", "logits"),
    "npz of nothing": Case(audit(data="none.npz"), "image", "no images", "at least one"),
    "npz of int64 images": Case(audit(data="integers.npz"), "image", "int64", "uint8"),
    "npz of other keys": Case(audit(data="keys.npz"), "data", "images, labels", "keys image and label"),
    "npz of objects": Case(audit(data="objects.npz"), "data", "objects.npz", "without pickled objects"),
    "npz that is cut off": Case(audit(data="cut.npz"), "data", "cut.npz", "readable"),
    "npz to be resized": Case(audit(size="4"), "size", "4 with good.npz", "folder"),
    "parquet that is cut off": Case(audit(data="cut.parquet"), "data", "cut.parquet", "a Parquet file"),
    "parquet of other columns": Case(audit(data="columns.parquet"), "data", "columns.parquet", "it has img, label"),
    "parquet with a corrupt image": Case(audit(data="corrupt.parquet"), "data", "row 0", "Pillow can read"),
    "folder with a corrupt image": Case(audit(data="corrupt"), "data", "cat/1.png", "Pillow can read"),
    "folder with a text": Case(audit(data="text"), "data", "cat/1.png", "Pillow can read"),
    "folder with a bomb": Case(audit(data="bomb"), "data", "9000 x 9000", "million pixels"),
    "folder of two sizes": Case(audit(data="sizes"), "data", "2 sizes", "--size N"),
    "folder with transparency": Case(audit(data="alpha"), "data", "transparent", "flatten"),
    "folder of hidden files": Case(audit(data="hidden"), "data", "'cat' without images", "png"),
    "folder without classes": Case(audit(data="flat"), "data", "without sub-folders", "a class"),
    # options
    "unknown norm": Case(audit(threats="l7@0.1"), "threats", "l7@0.1", "linf@8/255"),
    "no eps": Case(audit(threats="linf"), "threats", "linf", "NORM@EPS"),
    "eps of 0": Case(audit(threats="linf@0"), "threats", "linf@0", "above 0"),
    "eps below 0": Case(audit(threats="l2@-1"), "threats", "l2@-1", "above 0"),
    "eps of NaN": Case(audit(threats="linf@nan"), "threats", "linf@nan", "NORM@EPS"),
    "eps of 255 pixels": Case(audit(threats="linf@8"), "threats", "linf@8", "linf@8/255"),
    "eps over 0": Case(audit(threats="linf@8/0"), "threats", "linf@8/0", "a number as EPS"),
    "unknown attack": Case(audit(threats="warp-9:linf@0.1"), "threats", "warp-9", "pgd-STEPS"),
    "no threat": Case(audit(threats=","), "threats", ",", "at least one"),
    "one threat twice": Case(audit(threats="linf@0.1,linf@0.10"), "threats", "linf@0.1 twice", "once"),
    "n below 0": Case(audit(n="-1"), "n", "-1", "at least 0"),
    "n above the data": Case(audit(n="99"), "n", "99", "at most 12"),
    "n that is no number": Case(audit(n="many"), "'--n'", "Invalid value|integer", "audit --help"),
    "size below 0": Case(audit(data="good", size="-4"), "size", "-4", "at least 0"),
    "size of a million": Case(audit(data="good", size="1000000"), "size", "1000000", "4096"),
    "batch size of 0": Case(audit(batch_size="0"), "batch-size", "0", "at least 1"),
    "seed that is no number": Case(audit(seed="1.5"), "'--seed'", "Invalid value|integer", "audit --help"),
    "device that is unknown": Case(audit(device="warp"), "device", "warp", "a device of this machine"),
    "device without numbers": Case(audit(device="meta"), "model", "meta device", "loaded"),
    "output that is a file": Case(audit(out="my_net.py"), "out", "my_net.py", "a folder"),
    "output below a file": Case(audit(out="my_net.py/x"), "out", "my_net.py", "a folder"),
    "output of another program": Case(audit(out="foreign"), "out", "foreign", "another folder"),
    "unknown option": Case(audit(weight="fits.safetensors"), "--weight", "No such option", "audit --help"),
    # the other commands
    "unknown command": Case("adit my_net.py:build", "'adit'", "No such command", "--help"),
    "run: no system": Case("run", "'slug'", "Missing argument", "run --help"),
    "run: unknown system": Case("run mtrd", "slug", "mtrd", "such as mtard"),
    "run: planned system": Case("run w2s-deception", "w2s-deception", "planned", "not built yet"),
    "run: unknown scale": Case("run mtard --scale huge", "scale", "huge", "smoke, claim or paper"),
    "run: unknown setting": Case("run mtard --set epoch=3", "set", "epoch", "epochs"),
    "run: setting without value": Case("run mtard --set epochs", "set", "epochs", "key=value"),
    "run: setting without key": Case("run mtard --set =3", "set", "=3", "key=value"),
    "run: setting of text": Case("run mtard --set epochs=many", "set", "epochs=many", "integer"),
    "run: setting below its range": Case("run mtard --set eps=-1", "set", "eps=-1", "greater than 0"),
    "run: setting of infinity": Case("run mtard --set lr=inf", "set", "lr=inf", "finite"),
    "run: setting of NaN": Case("run mtard --set weight_decay=nan", "set", "weight_decay=nan", "finite|greater"),
    "run: no units": Case("run mtard --seeds -1", "seeds", "-1", ">= 1"),
    "run: no workers": Case("run mtard --jobs 0", "jobs", "0", ">= 1"),
    "run: recording at smoke scale": Case("run mtard --record", "record", "scale smoke", "--scale claim alone"),
    "run: output that is a file": Case("run mtard --out my_net.py", "out", "my_net.py", "a folder"),
    "run: output of another program": Case("run mtard --out foreign", "out", "foreign", "another folder"),
    "run: a set that is absent": Case("run mtard --set data=cifar10", "data", "cifar10|TUTELAGE_DATA", "TUTELAGE_DATA"),
    "show: unknown system": Case("show mtrd", "slug", "mtrd", "such as mtard"),
    "show: no system": Case("show", "'slug'", "Missing argument", "show --help"),
    "report: nothing": Case("report absent-run", "slug", "absent-run", "tutelage list"),
    "report: another folder": Case("report good", "RUN", "good", "audit.json or result.json"),
    "report: a damaged audit": Case("report damaged", "folder", "damaged", "as `save` writes"),
    "report: a damaged result": Case("report other", "RUN", "result.json", "as `run` writes"),
    "report: without a recorded result": Case("report w2s-deception", "w2s-deception", "no recorded result", "tutelage run"),
    "list: unknown room": Case("list --room attic", "room", "attic", "distill"),
    "list: unknown option": Case("list --jsn", "--jsn", "No such option", "--help"),
    "list: a value for a flag": Case("list --json=3", "'--json'", "does not take a value", "--help"),
    "demo: output that is a file": Case("demo --quick --out good.npz", "out", "good.npz", "a folder"),
    "demo: seed of text": Case("demo --seed one", "'--seed'", "Invalid value|integer", "demo --help"),
    "demo: an argument": Case("demo now", "now", "", "demo --help"),
    "doctor: an argument": Case("doctor now", "now", "", "doctor --help"),
    "data: unknown set": Case("data get imagenett", "NAME|data|name", "imagenett", "data list|one of"),
    "data: no set": Case("data get", "'NAME...'", "Missing argument", "data get --help"),
}


@pytest.mark.parametrize("name", TABLE)
def test_bad_command_lines(name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = TABLE[name]
    monkeypatch.chdir(place)
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    files, generators = files_of(place), flat(rng_state())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = run(case.command.split())
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert code == 2, shown
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], shown.err
    for part in (case.argument, case.got, case.wanted):
        assert re.search(part, lines[-1]), lines[-1]
    if case.command.startswith("audit") and "chance" not in name:
        assert len(lines) == 1, f"something ran before the bad part was told: {lines}"
    assert files_of(place) == files
    if not case.command.startswith("audit"):  # there, the user's factory draws the initial weights
        assert flat(rng_state()) == generators


def test_the_table_is_large_enough() -> None:
    assert len(TABLE) >= 100


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "absent.py:f", "--data", "good.npz"],
        ["audit", "my_net.py:build", "--data", "cut.parquet"],
        ["run", "mtard", "--sets", "epochs=3"],
        ["list", "--room", "attic"],
    ],
    ids=" ".join,
)
def test_the_installed_command_shows_one_line(place: Path, arguments: list[str]) -> None:
    program = "import sys; sys.argv[0] = 'tutelage'; from tutelage.app.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=place, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr


def test_a_good_command_line_still_works(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = files_of(place / "good")
    command = f"{audit(data='good', weights='fits.safetensors')} --force --out {tmp_path / 'out'}"
    assert run(command.split()) == 0
    assert files_of(place / "good") == before
    assert (tmp_path / "out" / "report.html").is_file()
