"""kill -9 at random moments, the small version of `make soak`: five kills each of a training, a grid and an audit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = 5


def soaked(root: Path, *arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """tools/soak.py in an interpreter of its own: it forks, and this one has threads."""
    code = f"import sys; sys.path.insert(0, 'tools'); import soak\n{script}\nsys.argv[1:] = {list(arguments)!r}\nsoak.main()"
    environment = {**os.environ, "PYTHONWARNINGS": ""}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root, out = Path(__file__).parents[2], tmp_path_factory.mktemp("soak") / "soak.json"
    wanted = [word for job in ("training", "grid", "audit") for word in (f"--{job}", str(KILLS))]
    done = soaked(root, *wanted, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return {one["job"]: one for one in json.loads(out.read_text())["jobs"]}


@pytest.mark.parametrize("job", ["training", "grid", "audit"])
def test_a_killed_run_ends_as_if_nothing_had_happened(job: str, figures: dict[str, dict[str, Any]]) -> None:
    found = figures[job]
    assert found["kills"] == sum(found["quarters"]) == KILLS
    assert found["identical"] == found["runs"] > 0
    assert found["twice"] == 0
    assert found["failures"] == []


BROKEN = """
import shutil

def forgetful(folder):
    with (folder / "starts").open("a") as file:
        file.write("x")
    soak.training(folder)
    return str((folder / "starts").stat().st_size)

def wasteful(folder):
    shutil.rmtree(folder / "cache" / "cells", ignore_errors=True)
    return soak.grid(folder)

def littering(folder):
    outcome = soak.audited(folder)
    (folder / "state").mkdir()
    (folder / "state" / ".half").touch()
    return outcome

for name, run in (("training", forgetful), ("grid", wasteful), ("audit", littering)):
    soak.JOBS[name] = soak.replace(soak.JOBS[name], run=run)
soak.moment = lambda job, folder, seconds, rng: (60, lambda: soak.JOBS[job].share(folder) > 0.3)
"""


def test_the_soak_sees_what_is_wrong(root: Path) -> None:
    done = soaked(root, *(word for job in ("training", "grid", "audit") for word in (f"--{job}", "1")), script=BROKEN)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    problems = ("another outcome than without a kill", "computed again: ", "left behind: ")
    for line, job, problem in zip(failed, ("training", "grid", "audit"), problems, strict=True):
        assert problem in line
        assert f"--replay {job} " in line


def test_the_page_shows_the_recorded_figures(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/soak_page.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_recorded_figures_are_without_failures(root: Path) -> None:
    for one in json.loads((root / "docs" / "soak.json").read_text())["jobs"]:
        assert one["failures"] == []
        assert one["twice"] == 0
        assert one["identical"] == one["runs"]
