"""Every snippet of the docs is right as far as can be told without running it: the commands parse, the imports exist.

What runs them: the tests of each page (`grep -l PAGE.md -r tests`), and the contract test for the pages of systems.
"""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import typer

import tutelage
from tutelage.app.cli import _USAGE_ERROR, app
from tutelage.app.site.reference import Module, docstring_html, first_sentence, reference
from tutelage.catalogue import systems
from tutelage.claims.state import state_of

BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", flags=re.S | re.M)
PLACEHOLDERS = re.compile(r"\.\.\.|\bSLUG\b|\bSYSTEM\b|\bNAME\b|\bCOMMAND\b|\[|…")
COMMAND: Any = typer.main.get_command(app)


def pages(root: Path) -> list[Path]:
    return sorted(
        [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]
    )


def commands(root: Path) -> list[tuple[str, str, bool]]:
    """(page, command line, whether it is whole) of shell blocks and of `tutelage ...` in the text, without placeholders."""
    found = []
    for page in pages(root):
        text = page.read_text()
        lines: list[tuple[str, bool]] = []
        for language, _, code in BLOCK.findall(text):
            if language in ("sh", "", "text"):
                lines += [(line, True) for line in code.replace("\\\n", " ").splitlines()]
        lines += [(" ".join(one.split()), False) for one in re.findall(r"`(tutelage [^`]+)`", BLOCK.sub("", text))]
        for line, whole in lines:
            line = re.sub(r"^(?:\w+=\S+ +)+", "", line.strip().removeprefix("$ "))
            if line.startswith("tutelage ") and not PLACEHOLDERS.search(line):
                found.append((page.name, line, whole))
    return found


def parse(arguments: list[str]) -> None:
    """Parse a command line down to its command and run nothing."""
    command, rest = COMMAND, list(arguments)
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    if hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        raise _USAGE_ERROR(f"there is no command {rest[0]}")
    command.make_context("tutelage", rest)


def test_every_command_line_of_the_docs_parses(root: Path):
    wrong = []
    found = commands(root)
    for page, line, whole in found:
        try:
            words = shlex.split(line, comments=True)[1:]
            if "--help" not in words and len(words) > 1:  # a lone name, as in "`tutelage audit` measures", is no command line
                parse(words)
        except _USAGE_ERROR as error:
            said = error.format_message()
            if whole or not re.search("^Missing|requires an argument", said):  # the text may name a part of a command line
                wrong.append(f"{page}: {line}: {said}")
    assert not wrong, "\n".join(wrong)
    assert len(found) > 100


def test_a_wrong_command_line_would_be_seen():
    for line in ("audit x.py:build --data d --no-such-option", "no-such-command x", "run", "site build --jobs 3"):
        with pytest.raises(_USAGE_ERROR):
            parse(line.split())


def imported(code: str) -> list[tuple[str, str]]:
    """(module, name) of what a snippet takes from tutelage; name is empty for whole modules."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tutelage":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "tutelage"]
    return found


def exists(module: str, name: str) -> bool:
    """Whether a module of the package has a name at its top, or below it; nothing is imported."""
    place = Path(tutelage.__file__).parent.joinpath(*module.split(".")[1:])
    source = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    if source is None or not name:
        return source is not None
    if (place / name).is_dir() or (place / f"{name}.py").is_file():
        return True
    return name in bound(source)


@cache
def bound(source: Path) -> frozenset[str]:
    """Every name that a module binds anywhere."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return frozenset(names)


@cache
def whole_reference() -> tuple[Module, ...]:
    return reference()


def snippets(root: Path) -> list[tuple[str, str]]:
    found = [
        (page.name, code)
        for page in pages(root)
        for language, _, code in BLOCK.findall(page.read_text())
        if language == "python"
    ]
    for module in whole_reference():
        for text in (module.docstring, *(name.docstring for name in module.names)):
            for block in re.findall(r"Example::\n\n((?:    .*\n|\n)+)", f"{text}\n"):
                code = re.sub(r"^    ", "", block, flags=re.M)
                found.append((module.name, doctest.script_from_examples(code) if code.startswith(">>>") else code))
    return found


def test_every_python_snippet_compiles_and_what_it_imports_exists(root: Path):
    wrong = []
    found = snippets(root)
    for page, code in found:
        try:
            wrong += [f"{page}: {module} has no {name}" for module, name in imported(code) if not exists(module, name)]
        except SyntaxError as error:
            wrong.append(f"{page}: {error}")
    assert not wrong, "\n".join(wrong)
    assert len(found) > 60


def test_what_does_not_exist_would_be_seen():
    assert imported("from tutelage.threats import PGD\nimport tutelage.data\nimport torch") == [
        ("tutelage.threats", "PGD"), ("tutelage.data", ""),
    ]  # fmt: skip
    assert exists("tutelage.threats", "PGD")
    assert exists("tutelage.data", "")
    assert exists("tutelage", "audit")
    assert not exists("tutelage.threats", "NoSuchAttack")
    assert not exists("tutelage.no_such_room", "")


# ------------------------------------------------------------------------------------------------------- the reference


def test_the_reference_has_every_public_name_of_the_rooms():
    found = {module.name: module for module in whole_reference()}
    assert {"tutelage", "tutelage.threats.engine", "tutelage.core.stats.means"} <= found.keys()
    for system in systems():
        if state_of(system).status != "planned":
            assert system.module in found, system.slug
    package = dict(found["tutelage"].exports)
    assert set(package) == set(tutelage.__all__)
    for name, home in package.items():  # through the packages to where it is defined
        assert name in {one.name for one in found[home].names}, (name, home)
    assert not [name for name in found if "._" in name]


def test_signatures_and_docstrings_are_those_of_the_source(tmp_path: Path):
    package = tmp_path / "tutelage"
    (package / "core").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core" / "__init__.py").write_text(
        '"""Core."""\nfrom tutelage.core.things import Box, LIMIT\n__all__ = ["Box", "LIMIT"]\n'
    )
    (package / "core" / "_own.py").write_text("def hidden(): ...\n")
    (package / "core" / "things.py").write_text(
        '"""Things. And more."""\n'
        "from dataclasses import dataclass\n"
        "LIMIT = 3\n"
        "def _private(): ...\n"
        'def scale(x: int, *, by: float = 2.0) -> float:\n    """x times `by`."""\n'
        "@dataclass\nclass Box:\n"
        '    """A box.\n\n    side: in metres.\n    """\n'
        "    side: float\n    name: str = 'box'\n    _cache: int = 0\n"
        '    def volume(self, power: int = 3) -> float:\n        """Cubic metres."""\n'
        "    def _secret(self): ...\n"
        '    @property\n    def half(self) -> float:\n        """Of the side."""\n'
    )
    core, things = (m for m in reference(package) if m.room == "core")
    assert core.exports == (("Box", "tutelage.core.things"), ("LIMIT", "tutelage.core.things"))
    assert (things.lead, [one.name for one in things.names]) == ("Things.", ["LIMIT", "scale", "Box"])
    limit, scale, box = things.names
    assert limit.signature == "LIMIT = 3"
    assert scale.signature == "scale(x: int, *, by: float=2.0) -> float"
    assert box.signature == "class Box(side: float, name: str = 'box')"
    assert [(m.kind, m.signature) for m in box.members] == [
        ("method", "volume(power: int=3) -> float"),
        ("property", "half -> float"),
    ]


def test_docstrings_become_html_with_examples_and_arguments_apart():
    text = (
        "First `line`\nwrapped <b>.\n\nmodel: a net.\ndata: images.\n\nExample::\n\n    import torch\n\n    x = 1 < 2\n\nEnd."
    )
    html = str(docstring_html(text))
    assert "<p>First <code>line</code> wrapped &lt;b&gt;.</p>" in html
    assert "<p>model: a net.</p>\n<p>data: images.</p>" in html
    assert html.count("<pre") == 1
    assert 'aria-label="python code"' in html
    assert "<p>End.</p>" in html
    assert first_sentence(text) == "First `line` wrapped <b>."


@pytest.mark.slow  # every docstring counts: `make docs` mends it
def test_the_committed_reference_is_up_to_date(root: Path):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "tools/build_api.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_base_brings_what_the_site_imports():
    """markdown-it-py and Pygments come with rich, jinja2 is a dependency of our own."""
    assert {"markdown_it", "pygments", "jinja2"} <= packages_distributions().keys()
