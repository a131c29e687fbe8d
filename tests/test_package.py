from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tutelage

EXTRAS = ("transformers", "peft", "gymnasium", "highspy", "librosa", "diffusers", "bm25s", "libcst", "trimesh", "ray", "mlflow")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import tutelage") & {"torch", "numpy", "scipy", "matplotlib", "accelerate", *EXTRAS}


def test_the_public_names_need_no_extra():
    loaded = modules_after("import tutelage; [getattr(tutelage, n) for n in tutelage.__all__]")
    assert "torch" in loaded
    assert not loaded & set(EXTRAS)


def test_the_command_line_answers_help_without_torch():
    assert "torch" not in modules_after("import tutelage.app.cli")


def test_every_public_name_resolves_and_others_do_not():
    assert set(tutelage.__all__) <= set(dir(tutelage))
    for name in tutelage.__all__:
        assert getattr(tutelage, name).__module__.startswith("tutelage."), name
    assert tutelage.data.as_images.__module__ == "tutelage.data.readers"
    with pytest.raises(AttributeError, match="no_such_name"):
        tutelage.no_such_name  # noqa: B018


def test_a_wheel_has_every_file_that_is_no_module(root: Path):
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["tutelage"]
    package = root / "src" / "tutelage"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    assert len(files) > 20
    assert not set(files) - taken


def test_version_is_the_same_everywhere(root: Path):
    assert f'version = "{tutelage.__version__}"' in (root / "pyproject.toml").read_text()
    assert f"version: {tutelage.__version__}" in (root / "CITATION.cff").read_text()
    assert f"## [{tutelage.__version__}]" in (root / "CHANGELOG.md").read_text()
