"""The docs are true: commands run, generated parts are up to date, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.app.cli import run

BLOCK = re.compile(r"```(\w+)([^\n]*)\n(.*?)```", flags=re.S)


def test_every_command_of_the_quickstart_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = 0
    for language, options, code in BLOCK.findall((root / "docs" / "quickstart.md").read_text()):
        if language == "python" and (name := re.search(r"file=(\S+)", options)):
            Path(name[1]).write_text(code)
        elif language == "python":
            exec(compile(code, "quickstart", "exec"), {})
        elif language == "sh":
            wanted = int(found[1]) if (found := re.search(r"exit=(\d+)", options)) else 0
            for line in code.replace("\\\n", " ").strip().splitlines():
                program, *arguments = shlex.split(line)
                if program == "tutelage":
                    assert run(arguments) == wanted, line
                else:
                    assert program == "python"
                    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                commands += 1
    assert commands >= 8
    for made in ("demo/report.html", "audit/report.html", "audit/audit.json", "mtard.html"):
        assert (tmp_path / made).is_file(), made


def test_generated_parts_are_up_to_date(root: Path):
    done = subprocess.run(
        [sys.executable, "tools/build_docs.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def pages(root: Path) -> list[Path]:
    return [*root.glob("*.md"), *(root / "docs").rglob("*.md")]


def test_links_between_pages_lead_somewhere(root: Path):
    broken = []
    for page in pages(root):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_the_readme_names_both_commands(root: Path):
    text, makefile = (root / "README.md").read_text(), (root / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in text
        assert re.search(rf"^{command}:", makefile, flags=re.M)
    assert "make test" in (root / ".ci" / "run").read_text()
