"""What runs in the cells of a claim is what the hash of its code reads: watched while smoke cells run."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType

import pytest
import torch

import tutelage
from tutelage.claims.codehash import NEUTRAL, _Reach, _read
from tutelage.claims.parts import _waits
from tutelage.claims.runner import _numbered, load_claim

PACKAGE = Path(tutelage.__file__).parent
BESIDE = (
    "tutelage.claims.runner",
    "tutelage.claims.codehash",
    "tutelage.claims.parts",
    "tutelage.claims.refusals",
    "tutelage.core.memory",
)


def parts_of(path: Path) -> list[tuple[int, int, str, str]]:
    """First and last line, class and name of each part of a module; methods before their class."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for one in [*(node.body if isinstance(node, ast.ClassDef) else []), node]:
            if (one is node or _waits(one, node)) and isinstance(one, ast.FunctionDef | ast.ClassDef):
                first = min([one.lineno, *(decorator.lineno for decorator in one.decorator_list)])
                found.append((first, one.end_lineno or 0, node.name if one is not node else "", one.name))
    return found


@pytest.mark.parametrize(("slug", "arm"), [("mtard", "mtard"), ("rmt", "rmt-replay"), ("robustness-gym", "mandoline")])
def test_no_function_runs_in_a_cell_unseen(slug: str, arm: str, tmp_path: Path) -> None:
    claim = load_claim(slug)
    ran: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and code.co_name != "<module>":
            ran.add((code.co_filename, code.co_firstlineno))

    for i in range(2):  # the first time imports are made
        before = sys.getprofile()
        sys.setprofile(note if i else before)
        try:
            _, row = _numbered(0, slug, arm, 0, claim.scales["smoke"], "", tmp_path / str(i), torch.get_num_threads())
        finally:
            sys.setprofile(before)
        assert row.status == "ok", row.error
    reach = _Reach(whole=True)  # guards run, too
    reach.module(claim.system.claim_module)
    seen = {(module, _read(module).parts[i].owner, name) for module, i in reach.places for name in _read(module).parts[i].names}
    missed, counted = set(), 0
    infrastructure = (*NEUTRAL, *BESIDE)
    for file in {file for file, _ in ran}:
        path = Path(file)
        module = ".".join(("tutelage", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        if module.startswith(infrastructure) or not path.exists():
            continue
        for line in (line for name, line in ran if name == file):
            here = [(owner, name) for first, last, owner, name in parts_of(path) if first <= line <= last][:1]
            counted += len(here)
            missed |= {(module, *one) for one in here if (module, *one) not in seen}
    assert counted > 50
    assert not missed
