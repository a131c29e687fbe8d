"""The page on language models and the examples of the docstrings run."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.models import language

BLOCK = re.compile(r"```(\w+)([^\n]*)\n(.*?)```", flags=re.S)


def test_the_page_runs_and_names_what_there_is(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("transformers", reason="pip install 'tutelage[lm]'")
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "language.md").read_text(encoding="utf-8")
    for kind, options, code in BLOCK.findall(page):
        if kind == "python" and "notest" not in options:
            names: dict[str, Any] = {"__name__": "page"}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                exec(compile(code, "docs/language.md", "exec"), names)
        else:
            compile(code, "docs/language.md", "exec")
    shown = capsys.readouterr().out
    assert "2+2 ['=4.'] stop 4" in shown
    assert "greedy: True" in shown
    assert shown.endswith("3\n")  # the TinyGPT has learned 1+2=3
    table = page.partition("\n\nAll are in")[0]
    for name in re.findall(r"\| `(\w+)", table):
        assert name in language.__all__, name


@pytest.mark.parametrize("module", ["sampling", "function", "ngram", "replay", "causal"])
def test_the_examples_of_the_docstrings_run(module: str) -> None:
    if module == "causal":
        pytest.importorskip("transformers", reason="pip install 'tutelage[lm]'")
    found = doctest.testmod(import_module(f"tutelage.models.language.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
