"""Runs: a folder that says what it is, and lines that survive a kill."""

from __future__ import annotations

import json
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.core.environment import environment, git_state, installed_version
from tutelage.core.errors import MissingError, TutelageError
from tutelage.core.runs import Run, append_jsonl, read_jsonl

FORK: Any = multiprocessing.get_context("fork")  # the children only touch files
CONFIG = {"eps": 8 / 255, "arms": ["a", "b"], "names": "grün"}


def test_a_run_says_what_it_is(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "one", "audit", CONFIG)
    about = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert about == run.about
    assert (about["kind"], about["config"]) == ("audit", CONFIG)
    assert (about["commit"], about["dirty"]) == git_state()
    assert about["environment"]["device"] == "cpu"
    assert about["environment"]["threads"] == torch.get_num_threads()
    assert about["environment"]["packages"]["torch"] == installed_version("torch")
    assert about["started"][:2] == "20"


def test_the_same_run_can_be_opened_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "audit", CONFIG)
    run.log(step=1)
    before = (tmp_path / "run.json").read_bytes()
    assert Run.create(tmp_path, "audit", CONFIG).metrics() == [{"step": 1}]
    assert Run.open(tmp_path).about == run.about
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize(("kind", "config"), [("audit", {**CONFIG, "eps": 0.1}), ("train", CONFIG)])
def test_another_run_is_not_mixed_into_a_folder(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    """`run.json` would say one thing, the metrics beside it another."""
    Run.create(tmp_path, "audit", CONFIG).log(step=1)
    with pytest.raises(TutelageError):
        Run.create(tmp_path, kind, config)
    assert Run.open(tmp_path).about["config"] == CONFIG


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"is not a run folder \(it has no run\.json\)"):
        Run.open(tmp_path)
    with pytest.raises(MissingError):
        Run.open(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_metrics(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "train", {})
    assert run.metrics() == []
    run.log(step=1, loss=0.5)
    run.log(step=2, loss=0.25, note="grün", none=None)
    assert run.metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "note": "grün", "none": None}]
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25, "note": "grün", "none": null}\n'
    )


def test_nan_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "train", {})
    run.log(step=1)
    with pytest.raises(ValueError, match="JSON"):
        run.log(step=2, loss=float("nan"))
    assert run.metrics() == [{"step": 1}]


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\x85b", "a\nb", "a\r\nb", "a\x0bb\x0cc\x1cd"])
def test_text_with_odd_line_ends_comes_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"text": text})
    append_jsonl(path, {"text": "next"})
    assert read_jsonl(path) == [{"text": text}, {"text": "next"}]


def torn(path: Path, tail: bytes) -> None:
    """Two lines and a part of a third, as a kill leaves them."""
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail)


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"{", b'{"step": 3, "note": "gr\xc3', b""])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    torn(tmp_path / "metrics.jsonl", tail)
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"{", b'{"step": 3, "note": "gr\xc3'])
def test_what_is_logged_after_a_torn_line_is_kept(tmp_path: Path, tail: bytes) -> None:
    torn(tmp_path / "metrics.jsonl", tail)
    append_jsonl(tmp_path / "metrics.jsonl", {"step": 3})
    append_jsonl(tmp_path / "metrics.jsonl", {"step": 4})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": i} for i in (1, 2, 3, 4)]


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def write_lines(path: Path, writer: int) -> None:
    for i in range(40):
        append_jsonl(path, {"writer": writer, "i": i, "filling": "x" * (50_000 if i % 10 == 0 else 10)})


def test_writers_side_by_side_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    processes = [FORK.Process(target=write_lines, args=(path, writer), daemon=True) for writer in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: this process has threads
        for process in processes:
            process.start()
    for process in processes:
        process.join(20)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((row["writer"], row["i"]) for row in rows) == [(w, i) for w in range(3) for i in range(40)]


def test_versions() -> None:
    assert installed_version("torch") in (torch.__version__, torch.__version__.split("+")[0])
    assert installed_version("no-such-package-at-all") is None
    assert json.loads(json.dumps(environment())) == environment()
