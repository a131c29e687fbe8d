"""`tutelage data make`: sets for offline reinforcement learning, logged once."""

from __future__ import annotations

from pathlib import Path

import pytest

import line_world
from tutelage.app.cli import run
from tutelage.data.offline import read_offline

LINE = line_world.register()


def test_sets_are_logged_once_and_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "line"
    command = ["data", "make", LINE, "--to", str(folder), "--steps", "2000", "--update-every", "40"]
    assert run(command) == 0
    said = capsys.readouterr().out
    for quality in ("random", "replay", "medium"):
        data = read_offline(folder / f"{quality}.hdf5")
        assert data.environment == LINE
        assert f"{len(data):,}" in said
    assert "random actions return" in said
    before = (folder / "replay.hdf5").stat().st_mtime_ns
    assert run(command) == 0
    assert (folder / "replay.hdf5").stat().st_mtime_ns == before


def test_wrong_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "make", "NoSuchWorld-v0", "--to", str(tmp_path / "a")]) == 2
    assert "environment: got NoSuchWorld-v0" in capsys.readouterr().err
    assert run(["data", "make", "CartPole-v1", "--to", str(tmp_path / "b")]) == 2
    assert "action_space" in capsys.readouterr().err
    assert run(["data", "make", LINE, "--steps", "5", "--to", str(tmp_path / "c")]) == 2
    assert "steps: got 5" in capsys.readouterr().err
