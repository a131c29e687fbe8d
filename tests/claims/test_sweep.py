"""A sweep: the cells of all points in one line, each point the run it would be alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.app import cli
from tutelage.claims.runner import load_result, run_claim
from tutelage.claims.sweep import points, sweep
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError

FAST = {"epochs": "1", "clean_teacher_epochs": "1", "robust_teacher_epochs": "1", "long_epochs": "1"}


def metrics(result: Any) -> list[Any]:
    return [(row.arm, row.unit_id, row.status, row.metrics) for row in result.rows]


def test_each_point_is_the_run_that_it_would_be_alone(tmp_path: Path) -> None:
    found = sweep(
        "mtard", {"lr": ["0.05", "0.1"]}, changes=FAST, seeds=1, out=tmp_path / "out", cache=Cache(tmp_path / "cache")
    )  # fmt: skip
    assert found.settings == ({"lr": "0.05"}, {"lr": "0.1"})
    alone = run_claim("mtard", changes={**FAST, "lr": "0.1"}, seeds=1, cache=Cache(tmp_path / "other"))
    assert metrics(found.results[1]) == metrics(alone)
    assert metrics(found.results[0]) != metrics(found.results[1])
    assert [result.config["lr"] for result in found.results] == [0.05, 0.1]
    about = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [(row["run"], row["settings"], row["failed"]) for row in about["points"]] == [
        ("000", {"lr": "0.05"}, 0),
        ("001", {"lr": "0.1"}, 0),
    ]
    assert metrics(load_result(tmp_path / "out" / "001")) == metrics(alone)

    # again, with a point more: what was done is taken from the cache
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "cells").glob("*/manifest.json")}
    more = sweep("mtard", {"lr": ["0.1", "0.05"]}, changes=FAST, seeds=1, cache=Cache(tmp_path / "cache"))
    assert metrics(more.results[0]) == metrics(found.results[1])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "cells").glob("*/manifest.json")} == before


def test_points_are_all_combinations_the_last_setting_fastest() -> None:
    assert points({"a": ["1", "2"], "b": ["x", "y"]}) == [
        {"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({}, "over: got {}, wanted at least one setting"),
        ({"lr": "0.1"}, "over: got lr: '0.1', wanted a list of values"),
        ({"lr": []}, "over: got lr: [], wanted a list of values"),
        ({"lr": ["0.1", "0.1"]}, "over: got lr: 0.1, 0.1, wanted each value once"),
        ({"lr": [str(i) for i in range(40)], "b": [str(i) for i in range(40)]}, "over: got 1600 points, wanted at most 1000"),
        ({"epochs": ["1", "2"]}, "over: got epochs, wanted a setting that is not set as well (epochs=1)"),
        ({"lr": ["0.1", "fast"]}, "set: got lr=fast, wanted "),
        ({"rate": ["0.1"]}, "set: got rate, wanted one of "),
    ],
)
def test_wrong_grids_are_told_before_anything_runs(over: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        sweep("mtard", over, changes={"epochs": "1"}, out=tmp_path / "out", cache=Cache(tmp_path / "cache"))
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


COMMAND = ["sweep", "mtard", "--seeds", "1", *(word for key, value in FAST.items() for word in ("--set", f"{key}={value}"))]


def test_the_command_prints_a_row_a_point(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run([*COMMAND, "--over", "lr=0.05, 0.1", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "lr"
    assert [line.split()[0] for line in lines[1:3]] == ["0.05", "0.1"]
    assert (tmp_path / "out" / "001" / "result.json").is_file()
    for wrong in (["--over", "lr"], ["--over", "lr=0.1", "--over", "lr=0.2"], ["--over", "lr=,"], []):
        assert cli.run([*COMMAND, *wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
