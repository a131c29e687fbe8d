"""`tutelage gate`, `monitor` and `card`: every block of docs/gate.md, exit codes, and nothing that ends in 0 by accident."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from tutelage.app.cli import run

BLOCK = re.compile(r"```(\w+)([^\n]*)\n(.*?)```", flags=re.S)


# nets that end the program, fail after the first passes, and have another class at each call
NETS = {
    "leaves.py": "sys.exit(0)",
    "late.py": "return x.flatten(1)[:, :2] / (1 if self.calls < 3 else 1 / 0)",
    "grows.py": "return x.flatten(1)[:, : self.calls + 1]",
}
NET = """import sys
from torch import nn

class Net(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        {}

def build():
    return Net()
"""
# 9 ** 11 entries, if anybody counted them
GROWING = (
    "a: &a [x]\n" + "".join(f"{c}: &{c} [{','.join(['*' + b] * 9)}]\n" for b, c in pairwise("abcdefghijkl")) + "name: *l\n"
)
MIN = "gates: [{metric: clean, rule: min, value: 0}]"
TABLES = {
    "words.csv": "1,1,1,high\n2,2,2,low\n",
    "high.csv": "1,1,1,0.5\n2,2,2,1.5\n",
    "unlabelled.csv": "1,a,a,0.5\n2,,,0.5\n3,,b,0.5\n",
    "twice.csv": "1,1,1,0.5\n1,1,2,0.5\n",
    "spelt.csv": "1,1,one,0.5\n2,2,two,0.5\n",
}


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's blocks were run, from top to bottom."""
    folder = tmp_path_factory.mktemp("gate")
    commands = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, options, code in BLOCK.findall((root / "docs" / "gate.md").read_text()):
            if name := re.search(r"file=(\S+)", options):
                Path(name[1]).write_text(code)
            elif language == "python":
                exec(compile(code, "gate.md", "exec"), {})
            elif language == "yaml":
                assert yaml.safe_load(code)
            elif language == "sh":
                wanted = int(found[1]) if (found := re.search(r"exit=(\d+)", options)) else 0
                for line in code.strip().splitlines():
                    program, *arguments = shlex.split(line)
                    if program == "tutelage":
                        assert run(arguments) == wanted, line
                    else:
                        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                    commands += 1
    assert commands == 8
    return folder


def test_the_page_leaves_what_it_says(place: Path):
    for name in ("bundle.json", "report.html", "summary.md", "junit.xml", "metrics.prom", "MODEL_CARD.md"):
        assert (place / "gate" / name).is_file()
    assert json.loads((place / "gate" / "bundle.json").read_text())["verdict"]["status"] == "pass"
    assert "INCONCLUSIVE" in (place / "few" / "summary.md").read_text()
    assert yaml.safe_load((place / "README.md").read_text().split("---")[1])["license"] == "mit"
    assert "43 writers" in (place / "README.md").read_text()
    decisions = [json.loads(line) for line in (place / "monitor" / "decisions.jsonl").read_text().splitlines()]
    assert {one["action"] for one in decisions[:4]} == {"quiet"}
    assert decisions[4]["action"] == "block"  # all rows outside of the range that the reference has
    assert decisions[5]["decided"]
    assert "tutelage_monitor_alarms" in (place / "monitor" / "metrics.prom").read_text()


def test_every_policy_on_the_page_is_one(root: Path):
    from tutelage.methods.audit.robust_mlops import read_policy

    parts = [yaml.safe_load(code) for _, _, code in BLOCK.findall((root / "docs" / "gate.md").read_text()) if "gates:" in code]
    parts += [
        yaml.safe_load(code)
        for _, _, code in BLOCK.findall((root / "docs" / "gate.md").read_text())
        if code.startswith("data:")
    ]
    assert len(parts) == 4
    for part in parts:
        read_policy(part)


def test_junit_and_summary_go_where_ci_wants_them(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    (tmp_path / "summary.md").write_text("before\n")
    arguments = ["--out", str(tmp_path / "out"), "--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "summary.md")]
    assert run(["gate", "policy.yaml", *arguments]) == 0
    assert ElementTree.parse(tmp_path / "j.xml").getroot().attrib["failures"] == "0"
    assert (tmp_path / "summary.md").read_text().startswith("before\n## Gate digits: PASS")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("gates: []", "no gate was checked"),
        ("{}", "no gate was checked"),
        ("gates: [{metric: clean, rule: min, value: 0.5}]\ncandidate: {predictions: none.csv}", "no file none.csv"),
        ("gates: [{metric: clean, rule: min, valeu: 0.5}]", "policy.gates.0"),
        ("gates: [{metric: robust, rule: min, value: 0.5}]\ncandidate: {predictions: new.csv}", "no metric robust"),
        ("- 1", "names and values"),
        (GROWING, "policy.name: got [["),
        (f"candidate: {{predictions: words.csv}}\n{MIN}", "numbers in [0, 1]"),
        (f"candidate: {{predictions: high.csv}}\n{MIN}", "values from 0.5 to 1.5"),
        (f"candidate: {{predictions: unlabelled.csv}}\n{MIN}", "2 rows without a label"),
        (f"candidate: {{predictions: twice.csv}}\ndata: {{id: id}}\n{MIN}", "id '1' twice"),
        (
            f"candidate: {{predictions: new.csv}}\nchampion: {{predictions: spelt.csv}}\n{MIN}",
            "got answers such as 'one'",
        ),
        (f"candidate: {{model: 'leaves.py:build'}}\ndata: {{test: t.npz}}\n{MIN}", "SystemExit"),
        (f"candidate: {{model: 'late.py:build'}}\ndata: {{test: t.npz}}\n{MIN}", "division by zero (late.py, line 9)"),
        (f"candidate: {{model: 'grows.py:build'}}\ndata: {{test: t.npz}}\n{MIN}", "3 outputs after 2"),
        ("candidate: {predictions: new.csv}\ncard: {limits: 3}", "policy.card.limits: got 3, wanted a list of words"),
        ("candidate: {predictions: new.csv}\ntrackers: [nobody]", "policy.trackers"),
        ("candidate: {predictions: new.csv}\nregistry: new.csv", "policy.registry: got new.csv, wanted a folder"),
        ("candidate: {predictions: new.csv}\ndata: {test: new.csv, schema: {upper: {min: high}}}", "rules that fit"),
        ("candidate: {predictions: new.csv}\ndata: {test: new.csv, schema: {upper: {categories: 1}}}", "rules that fit"),
        ("gates: [", "YAML"),
    ],
)
def test_what_cannot_be_judged_is_a_fail_and_never_inconclusive(
    policy: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.chdir(place)
    for name, code in NETS.items():
        Path(name).write_text(NET.format(code))
    np.savez("t.npz", image=np.zeros((40, 1, 4, 4), np.uint8), label=np.arange(40) % 2)
    for name, rows in TABLES.items():
        Path(name).write_text("id,label,prediction,confidence\n" + rows)
    (tmp_path / "p.yaml").write_text(policy)
    assert run(["gate", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert words in " ".join((captured.out + captured.err).split())


def test_an_error_leaves_no_pass_of_an_earlier_gate_behind(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    ci = ["--out", str(tmp_path / "out"), "--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md")]
    (tmp_path / "s.md").write_bytes(b"\xff before\n")  # whatever stands there is kept
    assert run(["gate", "policy.yaml", *ci]) == 0
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run(["gate", "policy.yaml", "--candidate", "gone<&>.csv", *ci]) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["junit.xml", "mine.txt", "summary.md"]
    for file in (tmp_path / "j.xml", tmp_path / "out" / "junit.xml"):
        suite = ElementTree.parse(file).getroot()
        assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
        assert "gone<&>.csv" in str(suite.find("testcase/error").attrib["message"])  # type: ignore[union-attr]
    said = (tmp_path / "s.md").read_bytes()
    assert said.startswith(b"\xff before\n## Gate digits: PASS")
    assert said.endswith(b"Nothing was judged: candidate: there is no file gone\\<\\&\\>.csv\n")


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["policy.yaml", "another"], ["policy.yaml", "--out"], [],
                                       ["policy.yaml", "--junit", "."], ["policy.yaml", "--summary", "new.csv/x"]])  # fmt: skip
def test_a_wrong_command_line_is_not_inconclusive(arguments: list[str], place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    assert run(["gate", *arguments]) == 1
    assert run(["gate", "--help"]) == 0


def test_the_order_of_rows_that_have_ids_does_not_matter(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    head, *rows = Path("new.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join([head, *reversed(rows)]))
    assert run(["gate", "policy.yaml", "--candidate", str(tmp_path / "new.csv"), "--out", str(tmp_path / "out")]) == 0
    ours, theirs = (json.loads((folder / "bundle.json").read_text()) for folder in (tmp_path / "out", place / "gate"))
    assert ours["candidate"]["metrics"] == theirs["candidate"]["metrics"]


def test_no_policy_and_a_changed_bundle_fail(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["gate"]) == 1
    text = (place / "bad" / "bundle.json").read_text()
    (tmp_path / "bundle.json").write_text(text.replace('"status": "fail"', '"status": "pass"'))
    assert run(["gate", "--replay", str(tmp_path / "bundle.json")]) == 1
    assert "changed after" in capsys.readouterr().err
    assert run(["gate", "--replay", str(place / "bad")]) == 1
    assert run(["gate", "--replay", str(place / "few")]) == 2


def test_a_card_is_not_written_over(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "README.md").write_text("mine")
    assert run(["card", str(place / "gate"), "--out", str(tmp_path / "README.md")]) == 2
    assert (tmp_path / "README.md").read_text() == "mine"
    assert run(["card", str(place / "gate"), "--out", str(tmp_path / "README.md"), "--force"]) == 0
    assert (tmp_path / "README.md").read_text().startswith("---\n")


def test_a_quiet_stream_ends_in_0_and_bad_input_in_2(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(place)
    quiet = ["monitor", "policy.yaml", "--reference", "new.csv", "--stream", "new.csv", "--out", str(tmp_path)]
    assert run(quiet) == 0
    assert run(["monitor", "policy.yaml", "--stream", "new.csv", "--out", str(tmp_path)]) == 2
    assert run([*quiet[:-1], str(tmp_path), "--stream", "none.csv"]) == 2
    Path("words.csv").write_text(Path("stream.csv").read_text().replace("0.9", "high"))
    capsys.readouterr()
    assert run(["monitor", "policy.yaml", "--reference", "new.csv", "--stream", "words.csv", "--out", str(tmp_path)]) == 2
    assert "stream: got chunk 0 with could not convert string to float" in capsys.readouterr().err


def test_the_page_of_a_monitor_says_what_was_seen(place: Path):
    page = (place / "monitor" / "report.html").read_text()
    decisions = [json.loads(line) for line in (place / "monitor" / "decisions.jsonl").read_text().splitlines()]
    assert "1 decision in 9 chunks" in page
    assert page.count("<svg") == 2
    for word in ("Accuracy and drift", "lower", "invalid rows, which must not be answered", f"{decisions[1]['accuracy']:.3f}"):
        assert word in page
    assert len(page) < 300_000
