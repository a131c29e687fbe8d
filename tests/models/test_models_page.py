"""The page on models runs, and its table names what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage import models
from tutelage.app.cli import run

BLOCK = re.compile(r"```(\w+)([^\n]*)\n(.*?)```", flags=re.S)


def test_every_block_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for language, options, code in BLOCK.findall((root / "docs" / "models.md").read_text(encoding="utf-8")):
        if language == "python" and (name := re.search(r"file=(\S+)", options)):
            Path(name[1]).write_text(code, encoding="utf-8")
        elif language == "python":
            with torch.random.fork_rng():
                torch.manual_seed(0)
                exec(compile(code, "docs/models.md", "exec"), names)
        elif language == "sh":
            wanted = int(found[1]) if (found := re.search(r"exit=(\d+)", options)) else 0
            for line in code.strip().splitlines():
                program, *arguments = shlex.split(line)
                if program == "tutelage":
                    assert run(arguments) == wanted, line
                else:
                    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    dtype, pipeline, server, *_ = capsys.readouterr().out.splitlines()
    assert dtype == "torch.float32"
    clean, robust = map(float, pipeline.split())
    assert 0 < robust < clean
    assert clean > 0.5
    assert re.fullmatch(r"0\.\d+ \d+ requests, 0 tried again", server)
    assert (tmp_path / "audit" / "report.html").is_file()
    images = names["test"][[0, 1, 2]][0]
    assert torch.equal(names["rule"](images).argmax(1), torch.from_numpy(names["nearest_mean"](images.numpy()).argmax(1)))


def test_the_table_names_what_there_is(root: Path) -> None:
    table = (root / "docs" / "models.md").read_text(encoding="utf-8").split("| I have a |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)\(", table))
    assert named == {
        "Endpoint", "InDtype", "LogProbabilities", "Logits", "Normalized", "from_function", "from_sklearn"
    } <= set(models.__all__)  # fmt: skip
    for name in named:
        black_box = re.search(rf"`{name}\([^|]*\| black-box \|", table) is not None
        assert black_box == (name in ("Endpoint", "from_function", "from_sklearn"))
