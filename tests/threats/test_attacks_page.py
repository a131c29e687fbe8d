"""The page on attacks runs, and names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tutelage import threats


def test_the_example_of_the_page_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (root / "docs" / "attacks.md").read_text(encoding="utf-8")
    names = {"__name__": "page"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(code, "docs/attacks.md", "exec"), names)
    *attacks, last, one, five = capsys.readouterr().out.splitlines()
    counts = [[int(n) for n in re.findall(r"\d+", line)] for line in (one, five)]
    assert counts[0][1] <= counts[0][0]
    assert counts[1][1] <= counts[1][0]
    assert [line.split(":")[0] for line in attacks] == [
        "linf@8/255 APGD-100 cross_entropy",
        "l1@4 APGD-100 margin",
        "l2@0.5 Square-100",
    ]
    assert re.fullmatch(r"median distance 0\.\d{4}, accuracy at 4/255: [01]\.\d\d", last)


def test_every_attack_has_its_row(root: Path) -> None:
    page = (root / "docs" / "attacks.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)\(", page, re.MULTILINE))
    concrete = {
        name
        for name in threats.__all__
        if isinstance(kind := getattr(threats, name), type) and issubclass(kind, threats.Attack) and kind is not threats.Attack
    }
    assert rows == concrete | {"FGSM"}
