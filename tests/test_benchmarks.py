"""The races run and keep their results in the right form. No test looks at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FIELDS = {
    "name", "group", "ours", "peer", "unit", "median_ratio", "ratio_quartiles", "median_ours", "median_peer", "wanted", "n",
    "rounds", "notes", "versions", "machine", "date", "commit", "dirty",
}  # fmt: skip


@pytest.fixture
def common(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmarks/common.py as the races see it."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import common

    return common


def script(root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "benchmarks" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def check_form(row: dict[str, Any], *, least: int) -> None:
    assert set(row) == FIELDS
    assert row["n"] == len(row["rounds"]) >= least
    ratios = [ours / peer for ours, peer in row["rounds"]]
    assert row["median_ratio"] == pytest.approx(statistics.median(ratios))
    assert row["ratio_quartiles"][0] <= row["median_ratio"] <= row["ratio_quartiles"][1]
    assert all(ours > 0 and peer > 0 for ours, peer in row["rounds"])
    assert {"cpu", "cores", "threads", "system"} == set(row["machine"])
    assert {"python", "torch", "tutelage"} <= set(row["versions"])


@pytest.mark.parametrize(
    ("race", "group", "names"),
    [
        ("bench_pgd.py", "pgd", ["SmallCNN(32)", "ResNet-20"]),
        ("bench_fit.py", "fit", ["SmallCNN(16)", "SmallCNN(32)"]),
        ("bench_import.py", "import", ["import tutelage", "tutelage --help", "tutelage list"]),
        ("bench_audit.py", "audit", ["to the first gradient", "whole command", "audit()"]),
    ],
)
def test_a_race_runs_and_keeps_its_rounds(root: Path, tmp_path: Path, race: str, group: str, names: list[str]) -> None:
    results = tmp_path / "results.json"
    done = script(root, race, "--quick", "--results", str(results))
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    for row in rows:
        check_form(row, least=1)
        assert row["group"] == group
    for name in names:
        assert any(name in row["name"] for row in rows), name


@pytest.mark.parametrize("peer", ["foolbox", "torchattacks"])
def test_a_race_against_a_peer_runs_in_its_environment(root: Path, tmp_path: Path, peer: str, common: Any) -> None:
    import peers

    if reason := peers.missing(peer):
        pytest.skip(reason)
    results = tmp_path / "results.json"
    done = script(root, "bench_peers.py", "--quick", "--peer", peer, "--results", str(results))
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == 4  # with and without retirement, in two norms
    for row in rows:
        check_form(row, least=1)
        assert peer in row["versions"]
    for row in rows:
        if "with retirement" in row["name"]:
            assert set(row["notes"]["robust accuracy"]) == {"ours", "ours without retirement", peer}


def test_a_race_without_its_peer_says_so(root: Path, tmp_path: Path) -> None:
    # a copy of the folder has no environments in it
    folder = tmp_path / "benchmarks"
    (folder / "peers").mkdir(parents=True)
    for file in (*(root / "benchmarks").glob("*.py"), *(root / "benchmarks" / "peers").glob("*.txt")):
        (folder / file.relative_to(root / "benchmarks")).write_text(file.read_text())
    done = script(tmp_path, "bench_peers.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "left out: the environment of foolbox is not there" in done.stdout
    assert "left out: the environment of torchattacks is not there" in done.stdout


def test_rounds_are_at_least_five(root: Path) -> None:
    done = script(root, "bench_import.py", "--rounds", "4")
    assert done.returncode == 2
    assert "--rounds: got 4, wanted at least 5" in done.stderr


def test_the_median_is_of_the_ratios_of_the_rounds(common: Any) -> None:
    # ratios 2, 1, 0.5: their median is 1, while the ratio of the medians is 2 / 2.5
    outcome = common.Outcome("a", "pgd", "ours", "theirs", [[2.0, 1.0], [2.5, 2.5], [2.0, 4.0]])
    assert outcome.ratio == 1.0
    assert outcome.quartiles == (0.75, 1.5)
    check_form(outcome.row(), least=3)


def test_each_round_begins_with_another_side(common: Any) -> None:
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name)) for name in ("ours", "bare", "peer")}
    found = common.race(sides, 4)
    assert "".join(name[0] for name in order) == "obp" + "obpbpopobobp"  # once untimed, then four rounds
    assert [list(seconds) for seconds in found] == [["ours", "bare", "peer"]] * 4


def test_a_new_result_replaces_the_old_one_and_leaves_the_others(common: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for name, seconds in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        common.keep([common.Outcome(name, "pgd", "ours", "theirs", [[seconds, 1.0]]).row()], path)
    assert [(row["name"], row["median_ratio"]) for row in common.load(path)] == [("a", 2.0), ("b", 3.0)]


def test_the_page_shows_the_rows_of_each_group(common: Any) -> None:
    import report

    row = common.Outcome("a race", "fit", "ours", "theirs", [[0.0021, 0.002]] * 5, "<= 1.10", {"weights": "equal"}).row()
    page = report.filled(
        "<!-- benchmark:fit -->\nold\n<!-- /benchmark -->\n<!-- benchmark:pgd -->\n<!-- /benchmark -->\n", [row]
    )
    assert "| a race | theirs | **1.05** [1.05, 1.05] | <= 1.10 | 2.1 ms | 2 ms | 5 |" in page
    assert "- a race: weights: equal" in page
    assert "old" not in page
    assert page.count("Not measured yet") == 1


def test_the_page_is_up_to_date_and_its_numbers_are_whole(root: Path, common: Any) -> None:
    done = script(root, "report.py", "--check")
    assert done.returncode == 0, done.stderr
    for row in common.load():
        check_form(row, least=5)
        assert f"<!-- benchmark:{row['group']} -->" in (root / "docs" / "benchmarks.md").read_text()
