"""The command line when it is interrupted, killed, or has no room: one sentence, an exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage.app.cli import run

FACTORY = """
import time
import torch
from torch import nn

class Bright(nn.Module):
    '''Dark or bright; slow enough to be stopped.'''

    def forward(self, x):
        time.sleep(PAUSE)
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1) * 8

def build():
    return Bright()
"""
THREATS = "pgd-4:linf@0.07,pgd-4:l2@0.3"
COMMAND = ["audit", "my_net.py:build", "--data", "test.npz", "--threats", THREATS, "--batch-size", "8", "--no-curve"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a model without weights and 48 images; the command runs inside it."""
    (tmp_path / "my_net.py").write_text(FACTORY.replace("PAUSE", "0.01"))
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = rng.uniform(0.2, 0.7, (48, 4, 4)) + 0.2 * labels[:, None, None]
    np.savez(tmp_path / "test.npz", image=images.astype(np.float32).clip(0, 1), label=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(arguments: list[str], place: Path, **options: Any) -> subprocess.Popen[str]:
    code = "from tutelage.app.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def after_parts(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    """Wait until so many parts of the audit are on disk."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob("state/*/*.safetensors"))) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def outcome(folder: Path) -> dict[str, Any]:
    about = json.loads((folder / "audit.json").read_text())
    about.pop("seconds")
    return {"examples": (folder / "examples.safetensors").read_bytes()[-1000:], **about}


def one_sentence(text: str) -> str:
    """The last line of standard error; no traceback anywhere."""
    assert "Traceback" not in text
    line = text.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_audit_goes_on_with_the_same_command(number: signal.Signals, code: int, place: Path, capsys: Any) -> None:
    assert run([*COMMAND, "--out", "whole"]) == 0
    process = started([*COMMAND, "--out", "stopped"], place)
    after_parts(process, place / "stopped", 4)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert one_sentence(error).startswith("error: audit stopped; its finished parts are in stopped/state")
    assert not (place / "stopped" / "audit.json").exists()
    capsys.readouterr()
    assert run([*COMMAND, "--out", "stopped"]) == 0
    assert " finished" in capsys.readouterr().err.partition("going on from")[2]
    assert outcome(place / "stopped") == outcome(place / "whole")
    assert not (place / "stopped" / "state").exists()


def test_another_audit_into_the_same_folder_is_refused_before_it_runs(place: Path, capsys: Any) -> None:
    assert run([*COMMAND, "--out", "out"]) == 0
    before = outcome(place / "out")
    (place / "my_net.py").write_text("def build():\n    raise RuntimeError('it was asked')\n")
    assert run([*COMMAND, "--seed", "1", "--out", "out"]) == 2
    assert "a folder without another run in it" in one_sentence(capsys.readouterr().err)
    assert outcome(place / "out") == before


# no room


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=40k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "read-only", "ro")


COMMANDS = {
    "audit": COMMAND,
    "run": ["run", "mtard", "--seeds", "1", "--set", "epochs=1", "--set", "long_epochs=1"],
    "demo": ["demo", "--quick"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence(name: str, place: Path, small: Path, capsys: Any) -> None:
    assert run([*COMMANDS[name], "--out", str(small / "out")]) == 2
    line = one_sentence(capsys.readouterr().err)
    assert line.startswith(f"error: cannot write {small}/out/")
    assert line.endswith(": No space left on device; free some space there (or choose another folder), then run it again")
    assert not [p for p in small.rglob(".*") if p.is_file()]


def test_an_audit_that_found_no_room_goes_on_when_there_is(place: Path, small: Path, capsys: Any) -> None:
    assert run([*COMMAND, "--out", "whole"]) == 0
    assert run([*COMMAND, "--out", str(small / "out")]) == 2
    subprocess.run(["mount", "-o", "remount,size=2m", str(small)], check=True)
    capsys.readouterr()
    assert run([*COMMAND, "--out", str(small / "out")]) == 0
    assert " finished" in capsys.readouterr().err.partition("going on from")[2]
    assert outcome(small / "out") == outcome(place / "whole")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_told_before_anything_runs(name: str, place: Path, read_only: Path, capsys: Any) -> None:
    begin = time.monotonic()
    assert run([*COMMANDS[name], "--out", str(read_only / "out")]) == 2
    line = one_sentence(capsys.readouterr().err)
    assert line == (
        f"error: out: got {read_only}/out, wanted a folder that can be written; {read_only} cannot (Read-only file system)"
    )
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("name", ["run", "demo"])
def test_a_cache_that_cannot_be_written_is_told_before_anything_runs(
    name: str, place: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("mine")
    monkeypatch.setenv("TUTELAGE_CACHE", str(place / "file"))
    assert run([*COMMANDS[name], "--out", "out"]) == 2
    assert one_sentence(capsys.readouterr().err).startswith(f"error: $TUTELAGE_CACHE: got {place}/file, wanted a folder")
    assert (place / "file").read_text() == "mine"
    assert not (place / "out").exists()


def test_a_limit_on_the_size_of_files(place: Path) -> None:
    """RLIMIT_FSIZE binds every user; the system refuses the write in the middle of the audit."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    process = started([*COMMAND, "--out", "out"], place, preexec_fn=limit, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    line = one_sentence(error)
    assert line.startswith("error: cannot write out/state/")
    assert "choose another folder or raise the limit (ulimit -f)" in line
    assert not [p for p in (place / "out").rglob(".*") if p.is_file()]
    assert run([*COMMAND, "--out", "out"]) == 0
