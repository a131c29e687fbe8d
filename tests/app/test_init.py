"""`tutelage init`: what it finds, what it writes, and that the scripts run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.app.cli import run
from tutelage.app.scaffold import KINDS, look, scaffold
from tutelage.core.errors import InputError
from tutelage.methods.audit.robust_mlops import read_policy

FACTORIES = """
from torch import nn

def helper(a): ...
def needs(width: int) -> nn.Module: ...
def _hidden() -> nn.Module: ...
def make_net(width: int = 8, *, depth=2) -> nn.Module: ...
def build() -> nn.Module: ...
"""


def npz(path: Path, **more: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, image=np.zeros((4, 8, 8), np.uint8), label=np.arange(4), **more)


def test_models_weights_and_data_of_a_project_are_found(tmp_path: Path):
    (tmp_path / "nets.py").write_text(FACTORIES)
    (tmp_path / "broken.py").write_text("def build(:\n")
    (tmp_path / "old.safetensors").write_bytes(b"")
    (tmp_path / "new.safetensors").write_bytes(b"")
    os.utime(tmp_path / "old.safetensors", (1, 1))
    npz(tmp_path / "data" / "train.npz")
    npz(tmp_path / "test.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))  # not labelled images
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "photos" / name / "1.png")
    found = look(tmp_path)
    assert found.factory == "nets.py:build"
    assert found.weights == "new.safetensors"
    assert (found.train, found.test) == ("data/train.npz", "test.npz")
    assert set(found.others) == {"nets.py:make_net", "old.safetensors", "photos"}


def test_an_empty_folder_gets_a_model_and_the_bundled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["init", str(tmp_path), "--kind", "audit"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit_model.py", "my_model.py"]
    said = capsys.readouterr().out
    for words in ("put your model into my_model.py", "--kind teach", "name your data", "python audit_model.py"):
        assert words in said
    text = (tmp_path / "audit_model.py").read_text()
    assert "MODEL = 'my_model.py:build'" in text
    assert "WEIGHTS = None" in text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, kind: str):
    name = KINDS[kind][0]
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name):
        scaffold(tmp_path, kind)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_an_unknown_kind_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["init", str(tmp_path / "new"), "--kind", "sing"]) == 2
    assert "kind: got sing, wanted one of audit, teach, claim, gate" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def audited(folder: Path, name: str, data: str, threats: list[str]) -> None:
    folder.mkdir(parents=True)
    kinds = ["clean", *threats]
    about = {"model": {"name": name}, "data": {"sha256": data}, "rows": [{"category": one} for one in kinds],
             "predictions": dict.fromkeys([*kinds, "fog@3"], "01")}  # fmt: skip
    (folder / "audit.json").write_text(json.dumps(about))


def test_a_policy_names_the_newest_audit_and_the_one_before_of_the_same_images(tmp_path: Path):
    audited(tmp_path / "audits" / "old", "old", "d" * 64, ["linf@8/255", "l2@1"])
    audited(tmp_path / "audits" / "other data", "other", "e" * 64, [])
    audited(tmp_path / "audit", 'new "one" # @GATES@', "d" * 64, ["linf@8/255"])
    audited(tmp_path / "audits" / "broken", "broken", "d" * 64, [])
    (tmp_path / "audits" / "broken" / "audit.json").write_text("{")
    for age, folder in enumerate(("audit", "audits/other data", "audits/old")):
        os.utime(tmp_path / folder / "audit.json", (1000 - age, 1000 - age))
    made = scaffold(tmp_path, "gate")
    assert [one.folder for one in made.found.audits] == ["audit", "audits/other data", "audits/old"]
    rules = read_policy(made.files[0])
    assert rules.name == 'new "one" # @GATES@'
    assert (rules.candidate.audit, rules.champion.audit) == ("audit", "audits/old")
    assert [(one.metric, one.rule) for one in rules.gates] == [
        ("clean", "min"), ("linf@8/255", "min"), ("clean", "noninferior"), ("linf@8/255", "noninferior"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"policy\.yaml"):
        scaffold(tmp_path, "gate")


def test_a_policy_without_an_audit_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["init", str(tmp_path), "--kind", "gate"]) == 0
    assert "1. audit the model" in capsys.readouterr().out
    rules = read_policy(tmp_path / "policy.yaml")
    assert (rules.candidate.audit, rules.champion.audit, len(rules.gates)) == ("audit", "", 2)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"gate"}))
def test_hostile_file_names_stay_text_in_the_script(tmp_path: Path, kind: str):
    bad = 'a"\'\n"""; import os; os.abort() #\\train-test.npz'
    npz(tmp_path / bad)
    (tmp_path / f"{bad}.safetensors").write_bytes(b"")
    made = scaffold(tmp_path, kind)
    tree = ast.parse(made.files[0].read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert bad in texts
    assert not [node for node in tree.body if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import) and "os" in [a.name for a in node.names]]


def changed(path: Path, **constants: object) -> str:
    """The script with some of its constants smaller."""
    text = path.read_text()
    for name, value in constants.items():
        text, times = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {value!r}", text)
        assert times == 1, name
    return text.replace("EPOCHS, BATCH, RATE = 5, 100, 0.05", "EPOCHS, BATCH, RATE = 3, 25, 0.1").replace(
        "EPOCHS, BATCH, RATE = 3, 50, 0.05", "EPOCHS, BATCH, RATE = 1, 20, 0.05"
    )


SMALL = {
    "teach_model.py": {"N": 500, "HELD_OUT": 50},
    "audit_model.py": {"N": 60, "THREATS": ["fgsm:linf@4/255"]},
    "claim.py": {"N": 80, "SEEDS": 2},
}


def test_the_commands_of_the_first_use_page_lead_from_an_empty_folder_to_a_verdict(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """docs/first-use.md, line by line, with small constants in the scripts; then a claim."""
    monkeypatch.chdir(tmp_path)
    said = {}
    for code in re.findall(r"^```sh\n(.*?)^```", (root / "docs" / "first-use.md").read_text(), flags=re.S | re.M):
        for line in code.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "python":
                name = arguments[0]
                exec(compile(changed(Path(name), **SMALL[name]), name, "exec"), {"__name__": "__main__"})
            else:  # the verdict on so small a model is no matter
                assert run(arguments) in ((0, 1, 2) if arguments == ["gate", "policy.yaml"] else (0,)), line
            said[line.partition("#")[0].strip()] = capsys.readouterr().out
    assert Path("my_model-robust.safetensors").is_file()
    assert "found weights: my_model-robust.safetensors" in said["tutelage init --kind audit"]
    assert "fgsm" in said["python audit_model.py"].lower()
    assert Path("audit/report.html").is_file()
    assert "found audits: audit" in said["tutelage init --kind gate"]
    verdict = json.loads(Path("gate/bundle.json").read_text())["verdict"]
    assert [one["gate"] for one in verdict["outcomes"]] == ["clean", "linf@4/255 FGSM"]
    assert verdict["outcomes"][0]["value"] is not None
    assert not [one for one in verdict["outcomes"] if "no metric" in one["reason"]]
    assert Path("README.md").read_text().startswith("---\n")
    assert run(["init", "--kind", "claim"]) == 0
    script = compile(changed(Path("claim.py"), **SMALL["claim.py"]), "claim.py", "exec")
    capsys.readouterr()
    exec(script, {"__name__": "__main__"})
    first = capsys.readouterr().out
    assert len(Path("claim.jsonl").read_text().splitlines()) == 2 * 3
    assert re.search(r"margin 0: (holds|does not hold|undecided)", first)
    exec(script, {"__name__": "__main__"})  # finished cells are not run again
    assert capsys.readouterr().out == first[first.index("Adversarial training has") :]
