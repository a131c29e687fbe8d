"""The page on building blocks is true: its code runs, and its table names what there is."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.core import stats


def test_every_block_runs_and_gives_what_it_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (root / "docs" / "building-blocks.md").read_text()
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for code in re.findall(r"```python\n(.*?)```", page, flags=re.S):
            exec(compile(code, "building-blocks", "exec"), names)
    printed = capsys.readouterr().out
    assert "torch.Size([4, 8, 26, 26]) torch.Size([4, 5408])\n3 3 5408\n" in printed
    assert names["gradient"].shape == (4, 5408)
    assert names["distance"].shape == (4, 10)
    assert int(names["moments"].counts.sum()) == 1000
    assert names["threshold"] == sorted(names["calibration"])[179]
    assert "cluster-bca" in printed
    assert "newcombe-auroc" in printed
    assert names["report"].passes == 2
    assert names["report"].domains == ("fog", "contrast")


def test_the_table_names_functions_that_exist(root: Path) -> None:
    page = (root / "docs" / "building-blocks.md").read_text()
    table = page.split("| I have |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert len(named) >= 16
    assert named <= set(stats.__all__)


def test_every_module_that_the_tables_name_exists(root: Path) -> None:
    page = (root / "docs" / "building-blocks.md").read_text()
    found = 0
    for line in page.splitlines():
        if line.startswith("|") and (first := re.search(r"`(tutelage(?:\.\w+)+)`", line)):
            package = first[1].rpartition(".")[0]
            named = [first[1], *(f"{package}{short}" for short in re.findall(r"`(\.\w+)`", line))]
            for module in named:
                import_module(module)
                found += 1
    assert found >= 10
