"""`tutelage data`: list, get, check, with homes on a server of this machine in place of the public ones."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from local_server import Server, file_of, idx, serving, slowly
from tutelage.app.cli import run
from tutelage.data.fetch import weights_folder
from tutelage.data.homes import HOMES, IDX_FILES, Mirror
from tutelage.data.sets import standard_set

NAMES = [
    "fashion-mnist-subset",
    "emoji",
    "fashion-mnist",
    "mnist",
    "mnist-10k",
    "cifar10",
    "cifar10-jpeg",
    "smollm2-135m",
    "minilm",
    "wordnet",
    "furniture",
    "espeak-ng",
]


def mnist_like() -> dict[str, bytes]:
    """Files with the shapes of MNIST, black images, labels 0..9 in turn."""
    content = {}
    for split, n in (("train", 60_000), ("test", 10_000)):
        images, labels = IDX_FILES[split]
        content[images] = gzip.compress(idx((n, 28, 28), bytes(n * 784)), 1)
        content[labels] = gzip.compress(idx((n,), (np.arange(n) % 10).astype(np.uint8).tobytes()))
    return content


@pytest.fixture(scope="module")
def content() -> dict[str, bytes]:
    return mnist_like()


@pytest.fixture
def server(content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The names mnist and minilm lead to this server; cache and data folder are private."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    model = {"model.safetensors": b"weights " * 20_000, "config.json": b"{}"}
    with serving(**content, **model) as site:
        for name, files in (("mnist", content), ("minilm", model)):
            listed = tuple(file_of(key, value) for key, value in files.items())
            monkeypatch.setitem(HOMES, name, replace(HOMES[name], files=listed, sources=(Mirror(site.url),)))
        yield site


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    assert run(["data", "list", "--json"]) == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


def test_a_set_from_nothing_to_images(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert list(listed(capsys)) == NAMES
    assert listed(capsys)["mnist"]["places"] == []
    assert run(["data", "get", "mnist"]) == 0
    folder = tmp_path / "cache" / "data" / "mnist"
    assert f"mnist: {folder}" in capsys.readouterr().out
    entry = listed(capsys)["mnist"]
    assert entry["places"] == [{"where": "cache", "folder": str(folder), "splits": ["train", "test"], "jpeg": False}]
    assert entry["command"] == "tutelage data get mnist"
    assert entry["bytes"] == sum(path.stat().st_size for path in folder.glob("*.gz"))
    train, test = standard_set("mnist", "train"), standard_set("mnist", "test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels.bincount().tolist() == [6_000] * 10
    before = server.sent
    assert run(["data", "get", "mnist"]) == 0
    assert server.sent == before
    assert run(["data", "check", "mnist"]) == 0
    shown = capsys.readouterr().out
    assert "60,000" in shown
    assert "10,000" in shown
    assert shown.count("whole") == 4


def test_several_names_and_a_folder_of_ones_own(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["data", "get", "mnist", "minilm", "mnist"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["mnist", "minilm"]
    assert weights_folder("minilm") == tmp_path / "cache" / "data" / "minilm"
    assert run(["data", "get", "minilm", "--to", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / "config.json").read_bytes() == b"{}"
    assert run(["data", "get", "minilm", "mnist", "--to", str(tmp_path / "own")]) == 2
    assert "one name, or no --to" in capsys.readouterr().err


def test_the_data_folder_comes_first_and_get_says_so(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    own = tmp_path / "data" / "mnist"
    own.mkdir(parents=True)
    np.savez(own / "test.npz", image=np.zeros((10_000, 28, 28), np.uint8), label=np.zeros(10_000, np.uint8))
    assert run(["data", "list"]) == 0
    assert re.search(r"^mnist .*\$TUTELAGE_DATA\s*\n\s.* test only\s*$", capsys.readouterr().out, flags=re.M)
    assert run(["data", "get", "mnist"]) == 0
    assert f"note: {own} ($TUTELAGE_DATA) is looked at before the cache" in capsys.readouterr().out
    assert [place["where"] for place in listed(capsys)["mnist"]["places"]] == ["$TUTELAGE_DATA", "cache"]
    assert run(["data", "check", "mnist"]) == 0
    assert "readable, not a" in capsys.readouterr().out  # "published file" may be on the next line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "SHA-256 should be"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, wanted"),
    ],
)
def test_check_finds_damage_and_get_mends_it(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path, damage, message: str
) -> None:
    assert run(["data", "get", "minilm"]) == 0
    file = tmp_path / "cache" / "data" / "minilm" / "model.safetensors"
    damage(file)
    assert run(["data", "check"]) == 1
    captured = capsys.readouterr()
    assert "damaged" in captured.out
    error = next(line for line in captured.err.splitlines() if line.startswith("error: "))
    assert str(file) in error
    assert message in error
    assert "`tutelage data get minilm`" in error
    assert run(["data", "get", "minilm"]) == 0
    assert run(["data", "check"]) == 0


def test_check_reads_the_content_too(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").mkdir()
    np.savez(tmp_path / "fashion-mnist" / "test.npz", image=np.zeros((50, 28, 28), np.uint8), label=np.zeros(50, np.uint8))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train10k.npz").write_bytes(b"nothing of the kind")
    assert run(["data", "check"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "50 rows, wanted 10000" in errors[0]
    assert "train10k.npz" in errors[1]


def test_the_bundled_set_is_checked(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check"]) == 0
    shown = capsys.readouterr().out
    assert "fashion-mnist-subset" in shown
    assert "12,000" in shown


WRONG = {
    "unknown name": (["get", "imagenet"], "NAME: got imagenet, wanted one of fashion-mnist, mnist, cifar10"),
    "nobody serves it": (["get", "mnist-10k"], "NAME: got mnist-10k"),
    "one of two unknown": (["get", "minilm", "imagenet"], "NAME: got imagenet"),
    "check unknown": (["check", "imagenet"], "NAME: got imagenet, wanted one of fashion-mnist-subset"),
    "check what is not here": (["check", "mnist"], "mnist is not on this machine; get it with `tutelage data get mnist`"),
    "check what nobody serves": (["check", "mnist-10k"], "into $TUTELAGE_DATA/mnist"),
    "get to a file": (["get", "minilm", "--to", __file__], "wanted a folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_sentence_and_exit_code_2(case: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command, message = WRONG[case]
    assert run(["data", *command]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("error: ")
    assert message in captured.err
    assert server.log == []


def test_a_home_that_does_not_have_it_is_exit_code_1(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.files.clear()
    assert run(["data", "get", "minilm"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: minilm could not be fetched (127.0.0.1:")
    assert "HTTP 404" in error


JOB = """
import sys
from dataclasses import replace
from tutelage.app.cli import main
from tutelage.data.homes import HOMES, File, Mirror
url, size, sha256 = sys.argv[1:]
HOMES["minilm"] = replace(HOMES["minilm"], files=(File("model.safetensors", int(size), sha256),), sources=(Mirror(url),))
sys.argv[1:] = ["data", "get", "minilm"]
main()
"""


def test_ctrl_c_leaves_the_part_and_the_list_shows_it(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.faults["/model.safetensors"] = [slowly(0.1)]
    file = HOMES["minilm"].files[0]
    part = tmp_path / "cache" / "data" / "minilm" / "model.safetensors.part"
    command = [sys.executable, "-c", JOB, server.url, str(file.size), file.sha256]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 20_000):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "error: stopped; the same command goes on from what has come of minilm"
    assert "Traceback" not in said
    there = part.stat().st_size
    assert 20_000 < there < file.size
    entry = listed(capsys)["minilm"]
    assert entry["partial"] == there
    assert entry["places"] == []
    assert run(["data", "list"]) == 0
    assert "MB so far" in capsys.readouterr().out
    assert run(["data", "get", "minilm"]) == 0
    assert server.log[-2].range == f"bytes={there}-"


def test_the_page_of_data_is_true(server: Server, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands and its Python run; its table has every name; nothing is fetched."""
    page = (root / "docs" / "data.md").read_text()
    for language, code in re.findall(r"```(sh|python)\n(.*?)```", page, flags=re.S):
        if language == "python":
            exec(compile(code, "data.md", "exec"), {})
        else:
            for line in code.strip().splitlines():
                assert run(shlex.split(line)[1:]) == 0, line
    shown = capsys.readouterr().out
    assert "Fashion-MNIST subset (bundled) 10000" in shown
    assert "`tutelage data get mnist`" in shown
    assert server.log == []
    rows = dict(re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([\d-]+) \|", page, flags=re.M))
    assert list(rows) == NAMES
    for name in ("fashion-mnist", "cifar10", "smollm2-135m"):
        assert int(rows[name]) == round(HOMES[name].size / 1e6)
