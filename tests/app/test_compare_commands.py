"""`tutelage compare`, and the parts of `tutelage audit` about natural change; every block of docs/compare.md."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tutelage.app.cli import run
from tutelage.app.compare_commands import comparison_table
from tutelage.auditing.compare import Comparison, Difference

BLOCK = re.compile(r"```(\w+)([^\n]*)\n(.*?)```", flags=re.S)


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's blocks were run, up to the comparison."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TUTELAGE_CACHE", str(folder / "cache"))
        commands = 0
        for language, options, code in BLOCK.findall((root / "docs" / "compare.md").read_text()):
            if language == "python" and (name := re.search(r"file=(\S+)", options)):
                Path(name[1]).write_text(code)
            elif language == "python":
                exec(compile(code, "compare", "exec"), {})
            elif language == "sh":
                for line in code.replace("\\\n", " ").strip().splitlines():
                    program, *arguments = shlex.split(line)
                    if program == "tutelage":
                        assert run(arguments) == 0, line
                    else:
                        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                    commands += 1
        assert commands == 4
    return folder


def test_the_page_runs_and_its_files_are_there(place: Path):
    for made in ("one/report.html", "two/audit.json", "difference/report.html", "difference/compare.json"):
        assert (place / made).is_file(), made
    about = json.loads((place / "two" / "audit.json").read_text())
    found = {(row["category"], row["name"]): row for row in about["rows"]}
    assert found["corruptions", "mCE"]["under"] == "one"
    assert found["shift", "flat"]["n"] == 264
    slices = [name for category, name in found if category == "slice"]
    assert len([name for name in slices if name.startswith("brightness ")]) == 4
    assert slices[-2:] == ["dark=no", "dark=yes"]
    assert about["settings"]["threats"] == []


def test_compare_prints_the_rows_and_says_where_the_page_is(place: Path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run(["compare", "one/audit.json", "two", "--out", "again", "--details"]) == 0
    shown = capsys.readouterr().out
    rows = json.loads((place / "again" / "compare.json").read_text())["rows"]
    assert len(rows) == 1 + 1 + 4 + 15 + 1
    for row in rows:
        assert f"{100 * row['difference']:+z.1f}" in shown
        assert row["verdict"] in shown
    assert "-0.0 " not in shown
    assert shown.strip().endswith("report: again/report.html")


def test_models_of_one_name_are_told_apart_by_their_folders(place: Path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    about = json.loads((place / "two" / "audit.json").read_text())
    about["model"]["name"] = "one"
    (place / "three").mkdir(exist_ok=True)
    (place / "three" / "audit.json").write_text(json.dumps(about))  # the pictures are not needed
    assert run(["compare", "one", "three/audit.json", "--out", "named"]) == 0
    models = json.loads((place / "named" / "compare.json").read_text())["models"]
    assert [one["model"] for one in models] == ["one (one)", "one (three)"]
    assert "one (three)" in capsys.readouterr().out


def test_a_models_name_breaks_at_its_parts_and_not_in_a_word():
    clean = Difference("my_models.py:build (two)", "clean", "clean", 10, 0.5, 0.6, 0.1, (0, 0.2), "newcombe-paired", 1, 2, 0.5)
    comparison = Comparison({}, "my_models.py:build (one)", [clean], [], [], [])
    lines = io.StringIO()
    Console(file=lines, width=80).print(comparison_table(comparison, clean.model))
    header = lines.getvalue().partition("clean images")[0].split()
    for part in ("my_models.py:", "build", "(one)", "(two)"):
        assert part in header


def test_effective_robustness_on_the_command_line(place: Path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    about = json.loads((place / "one" / "audit.json").read_text())
    options = []
    for i, (main, shifted) in enumerate([(0.3, 0.2), (0.4, 0.3), (0.5, 0.4)]):
        about["model"] = {"name": f"usual {i}", "sha256": f"{i}", "parameters": 1}
        for row in about["rows"]:
            row["value"] = {"shift": shifted, "shift main": main}.get(row["category"], row["value"])
        (place / f"usual-{i}.json").write_text(json.dumps(about))
        options += ["--baseline", f"usual-{i}.json"]
    assert run(["compare", "one", "two", "--out", "line", "--scale", "linear", *options]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    rows = {(r["category"], r["name"]): r for r in json.loads((place / "two" / "audit.json").read_text())["rows"]}
    expected = rows["shift", "flat"]["value"] - (rows["shift main", "flat"]["value"] - 0.1)
    assert f"effective robustness of two on flat: {100 * expected:+.1f} [" in shown


WRONG = {
    "one audit": (["compare", "one"], "AUDIT: got 1 audit, wanted two or more"),
    "none": (["compare"], "Missing argument"),
    "the same twice": (["compare", "one", "one/audit.json"], "AUDIT: got one/audit.json twice, wanted each audit once"),
    "no audit there": (["compare", "one", "gone"], "gone holds no audit"),
    "another file": (["compare", "one", "two.py"], "two.py holds no audit"),
    "another scale": (["compare", "one", "two", "--scale", "log"], "scale: got log"),
    "output that is a file": (["compare", "one", "two", "--out", "two.py"], "out: got two.py"),
    "baselines too few": (["compare", "one", "two", "--baseline", "usual.json"], "wanted at least 3 models"),
    "other data": (["compare", "one", "other"], "wanted audits of the same images"),
    "suite": (["--suite", "smog"], "suite: got smog, wanted standard (attacks), attributes, corruptions, a family or a name"),
    "severity": (["--suite", "corruptions@9"], "severities from 1 to 5"),
    "shift without a name": (["--shift", "flat.npz"], "shift: got flat.npz, wanted NAME=PATH"),
    "shift twice": (["--shift", "a=flat.npz", "--shift", "a=flat.npz"], "shift: got a twice"),
    "shift that is absent": (["--shift", "a=gone.npz"], "there is no file or folder gone.npz"),
    "slices that are absent": (["--slices", "gone.csv"], "slices: there is no file gone.csv"),
    "slices of a part": (["--slices", "about.csv", "--n", "50"], "without n"),
    "slices of another set": (["--slices", "short.csv"], "short.csv with 2 rows, wanted 273"),
    "baseline without corruptions": (["--baseline", "one"], "baseline: got one, wanted a baseline with corruptions only"),
    "baseline without these": (["--suite", "fog@2", "--baseline", "one"], "one without fog@2"),
    "no threat": (["--threats", ",", "--suite", "fog"], "at least one threat"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_sentence(case: str, place: Path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "short.csv").write_text("day\n1\n2\n")
    about = json.loads((place / "one" / "audit.json").read_text())
    about["model"]["sha256"] = "another"
    (place / "usual.json").write_text(json.dumps(about))
    (place / "other").mkdir(exist_ok=True)
    about["data"]["sha256"] = "0" * 64
    (place / "other" / "audit.json").write_text(json.dumps(about))
    command, message = WRONG[case]
    if command[0] != "compare":
        command = ["audit", "two.py:build", "--weights", "one.safetensors", "--data", "test.npz", "--out", "not-made", *command]
    assert run(command) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    error = shown.err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert len(error) == 1, "something ran before the bad part was told"
    assert not (place / "not-made").exists()
