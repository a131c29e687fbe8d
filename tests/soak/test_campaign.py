"""The reliability campaign: a few cases of each group, that it sees what is wrong, and the recorded figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own: the campaign forks, and this one has threads."""
    environment = {**os.environ, "PYTHONWARNINGS": "", "PYTHONPATH": os.pathsep.join(["tools/campaign", "tools"])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("campaign") / "figures.json"
    done = python(root, "tools/campaign", "--limit", "2", "--cases", "1", "--systems", "doubly-robust-at", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_few_cases_of_every_group_end_with_a_sentence_or_well(figures: dict[str, Any]) -> None:
    assert set(figures) == {"inputs", "hostile", "disks"}
    for part in figures.values():
        for name, group in part["groups"].items():
            assert group["failures"] == [], name
            assert 0 < group["cases"] == group["refused"] + group["fine"], name
    assert len(figures["inputs"]["groups"]) == 5
    assert len(figures["hostile"]["groups"]) >= 6
    assert len(figures["disks"]["groups"]) >= 3


def test_a_killed_claim_ends_as_if_nothing_had_happened(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    words = ("--claims", "2", "--systems", "doubly-robust-at", "--lanes", "1", "--out", str(out))
    done = python(root, "tools/soak.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(out.read_text())["claims"]["jobs"]
    assert found["kills"] == 2
    assert found["identical"] == found["runs"] > 0
    assert found["twice"] == 0


BROKEN = """
import os, sys, time
from pathlib import Path
from cases import Case, Place, run_cases

def raises():
    raise KeyError("x")

def changes():
    Path("mine.txt").write_text("theirs")

def adds():
    Path("new.txt").write_text("")
    from tutelage.core.errors import InputError
    raise InputError("x", 1, "2")

def waits():
    time.sleep(60)

def two_lines():
    print("error: one", file=sys.stderr)
    print("error: two", file=sys.stderr)
    raise SystemExit(2)

cases = [
    Case("raises", call=raises), Case("changes", call=changes), Case("adds", call=adds), Case("waits", call=waits, limit=1),
    Case("two lines", call=two_lines), Case("taken", call=lambda: None, must_refuse=True), Case("dies", call=os.abort),
    Case("leaves", call=lambda: sys.exit(5)),
    Case("works", call=lambda: None), Case("is refused", words=("show", "no-such-system")),
    Case("fills the memory", call=lambda: bytearray(10**11)),
]
place = Place(lambda folder: (folder / "mine.txt").write_text("mine"))
group = run_cases(cases, place)
print((place.path / "mine.txt").read_text(), sorted(os.listdir(place.path)))
place.close()
print({one["case"]: one["problem"] for one in group.failures})
print(group.cases, group.refused, group.fine)
"""


def test_the_campaign_sees_what_is_wrong(root: Path) -> None:
    done = python(root, "-c", BROKEN)
    assert done.returncode == 0, done.stderr
    place, problems, counts = done.stdout.splitlines()
    assert place == "mine ['mine.txt']"  # put right after each case
    assert eval(problems) == {
        "raises": "traceback: KeyError: 'x'",
        "changes": "changed mine.txt",
        "adds": "changed new.txt",
        "waits": "did not end within 1 s",
        "two lines": "not one sentence: error: one / error: two",
        "taken": "was taken, and must be refused",
        "dies": "ended by signal 6",
        "leaves": "exit code 5: no message",
        "fills the memory": "traceback: MemoryError",
    }
    assert counts == "11 1 1"


PAGES = """
from hostile import MARKUP, not_inert
assert not not_inert("<h1>a &lt;script&gt;alert(1)&lt;/script&gt;</h1><a href='x.html'>b</a>")
for bad in ("<script>x</script>", "<b onclick=x>", "<a href='javascript:alert(1)'>", "<iframe src=x>", "<img onerror=x>"):
    assert not_inert(bad), bad
"""


def test_a_page_that_could_run_something_is_seen(root: Path) -> None:
    done = python(root, "-c", PAGES)
    assert done.returncode == 0, done.stderr


def test_the_recorded_figures_are_without_failures(root: Path) -> None:
    found = json.loads((root / "docs" / "soak.json").read_text())
    for one in found["claims"]["jobs"]:
        assert one["failures"] == []
        assert one["twice"] == 0
        assert one["identical"] == one["runs"] > 0
    cases = 0
    for part in ("inputs", "hostile", "disks"):
        for group in found[part]["groups"].values():
            assert group["failures"] == []
            cases += group["cases"]
    assert cases >= 500
