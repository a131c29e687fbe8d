"""Plug-ins of other packages: found, listed, shown, used in audits and on the site; a broken one costs one line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import tutelage
from tutelage.app import plugins as on_command_line
from tutelage.app.cli import run
from tutelage.app.site import build_site
from tutelage.core.errors import InputError
from tutelage.core.plugins import PluginError, find_plugin, method_info, plugins, usable
from tutelage.models import load_model

EXAMPLE = Path("examples") / "tutelage-plugin-example"


def install(place: Path, name: str, groups: dict[str, dict[str, str]], modules: dict[str, str] | None = None) -> None:
    """A package as pip leaves it: its modules, and beside them what says that it is installed."""
    for module, source in (modules or {}).items():
        (place / f"{module}.py").write_text(source)
    about = place / f"{name.replace('-', '_')}-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in given.items()) for group, given in groups.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def example(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of examples/, there as if it were installed."""
    source, place = root / EXAMPLE, tmp_path / "site-packages"
    about = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    install(place, about["name"], about["entry-points"])
    monkeypatch.syspath_prepend(place)
    monkeypatch.syspath_prepend(source / "src")
    return place


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in which everything is wrong."""
    place = tmp_path / "broken"
    modules = {
        "says_nothing": "x = 1\n",
        "wrong_room": 'ROOM, HAVE, WANT = "kitchen", "a", "b"\n',
        "bad_url": 'ROOM, HAVE, WANT, URL = "audit", "a", "b", "javascript:alert(1)"\n',
        "leaves": "print('noise')\nimport sys\nsys.exit(3)\n",
        "raises": "1 / 0\n",
        "number": "make = 3\ndef change(x, *, generator):\n    return x * 3\ndef attack(budget):\n    return None\n",
    }
    groups = {
        "tutelage.methods": {"says-nothing": "says_nothing", "wrong-room": "wrong_room", "bad-url": "bad_url"},
        "tutelage.threats": {
            "leaves": "leaves:make",
            "number": "number:make",
            "outside": "number:change",
            "none": "number:attack",
        },
        "tutelage.models": {"raises": "raises:make", "missing": "no_such_module:make"},
    }
    place.mkdir()
    install(place, "broken-things", groups, modules)
    monkeypatch.syspath_prepend(place)
    return place


def test_without_packages_there_are_no_plugins():
    assert [plugin for plugin in plugins() if plugin.package in ("tutelage-plugin-example", "broken-things")] == []


def test_the_example_is_found_by_kind_and_name(example: Path):
    assert {(p.kind, p.name) for p in plugins() if p.package == "tutelage-plugin-example"} == {
        ("methods", "label-smoothing"), ("threats", "corner"), ("threats", "raster"), ("models", "tiny-net"),
    }  # fmt: skip
    plugin = find_plugin("methods", "label-smoothing")
    assert plugin is not None
    assert plugin.origin == "tutelage-plugin-example 1.2"
    info = method_info(plugin)
    assert (info.room, info.year) == ("harden", 2015)
    assert "(1)" in info.docstring
    assert find_plugin("threats", "label-smoothing") is None


def test_list_and_show_have_plugins(example: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["list", "--search", "doubt"]) == 0
    said = capsys.readouterr()
    assert "label-smoothing" in said.out
    assert "tutelage-plugin-example 1.2" in " ".join(said.out.split())
    assert said.err == ""
    assert run(["list", "--search", "doubt", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["slug"], entry["status"], entry["room"]) == ("label-smoothing", "plug-in", "harden")
    assert run(["list", "--room", "distill"]) == 0
    assert "label-smoothing" not in capsys.readouterr().out
    for name, words in (("label-smoothing", "(1)"), ("raster", "--suite raster"), ("corner", "--threats corner:linf@8/255"),
                        ("tiny-net", "tutelage audit tiny-net")):  # fmt: skip
        assert run(["show", name]) == 0
        assert words in capsys.readouterr().out


def test_an_audit_takes_model_attack_and_change_of_a_plugin_and_a_comparison_has_them(
    example: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    test = tutelage.fashion_mnist_subset("test").take(slice(0, 60))
    net = load_model("tiny-net")
    labels = net(test.images.float() / 255).argmax(1)  # right by definition: the sanity check wants better than chance
    np.savez("test.npz", image=test.images[:, 0].numpy(), label=labels.numpy())
    command = ["audit", "tiny-net", "--data", "test.npz", "--threats", "corner:linf@8/255,fgsm:linf@8/255", "--suite", "raster"]
    assert run([*command, "--no-curve", "--out", "a"]) == 0, capsys.readouterr().err
    rows = json.loads(Path("a/audit.json").read_text())["rows"]
    named = {(row["category"], row["name"]): row["value"] for row in rows}
    (attacked,) = {value for (category, _), value in named.items() if "corner" in category}
    (one_step,) = {value for (category, _), value in named.items() if "fgsm" in category.lower()}
    assert attacked <= one_step < named["clean", "clean"]
    shifted = next(value for (category, name), value in named.items() if category == "shift" and name == "raster")
    assert shifted < named["clean", "clean"]
    for page in (root / "docs" / "plugins.md", root / EXAMPLE / "README.md"):  # their commands, from top to bottom
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.S | re.M)
        code = "".join(code for language, code in blocks if language in ("", "sh"))
        lines = [line for line in code.splitlines() if line.startswith("tutelage ")]
        assert len(lines) >= 2
        for line in lines:
            if not line.startswith("tutelage audit") or not Path("audit").exists():  # both pages have the same audit
                assert run(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    assert run(["compare", "a", "audit"]) == 0
    compared = {row["what"]: row for row in json.loads(Path("compare/compare.json").read_text())["rows"]}
    assert [what for what in compared if "corner" in what or "raster" in what] == ["linf@8/255 corner", "shifted set raster"]
    assert all(row["difference"] == 0 for row in compared.values())


def test_wrong_uses_of_threats_say_the_right_one(example: Path):
    assert on_command_line.split_threats(["linf@8/255", "pgd-3:l2@1"]) == ["linf@8/255", "pgd-3:l2@1"]
    with pytest.raises(InputError, match="--suite raster"):
        on_command_line.split_threats(["raster:linf@8/255"])
    with pytest.raises(InputError, match="--threats corner:linf"):
        on_command_line.split_changes(["corner"])
    with pytest.raises(InputError, match="each suite once"):
        on_command_line.split_changes(["raster", "raster"])
    with pytest.raises(InputError, match="huge"):
        on_command_line.split_threats(["corner:huge"])
    own, changes = on_command_line.split_changes(["noise@3", "raster", "attributes"])
    assert (own, [plugin.name for plugin in changes]) == (["noise@3", "attributes"], ["raster"])


def test_a_change_is_the_same_for_the_same_seed_and_keeps_labels(example: Path):
    raster = find_plugin("threats", "raster")
    assert raster is not None
    images = tutelage.fashion_mnist_subset("test").take(slice(0, 20))
    first, again = (on_command_line.changed(images, raster, seed=1, batch_size=8) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, images.labels)
    black = (
        (first.images[:, :, ::2] == 0).all() or (first.images[:8, :, ::2] == 0).all() or (first.images[:8, :, 1::2] == 0).all()
    )
    assert black
    assert images.images.dtype == torch.uint8, "what was given stays"


def test_names_of_the_package_itself_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(
        tmp_path / "p", "thief", {"tutelage.threats": {"fgsm": "no:no", "noise": "no:no"}, "tutelage.methods": {"mtard": "no"}}
    )
    monkeypatch.syspath_prepend(tmp_path / "p")
    assert on_command_line.split_threats(["fgsm:linf@0.1"]) == ["fgsm:linf@0.1"]
    assert on_command_line.split_changes(["noise"]) == (["noise"], [])


def test_a_broken_package_costs_a_line_each_and_nothing_else(broken: Path, capsys: pytest.CaptureFixture[str], recwarn):
    assert run(["list", "--search", "mtard"]) == 0
    said = capsys.readouterr()
    assert "mtard" in said.out
    assert "noise" not in said.out
    messages = [str(warning.message) for warning in recwarn]
    told = [message for message in messages if message.startswith("the plug-in")]
    assert len(told) == 7, told  # all but outside and none, which fail only where they are used
    for message in told:
        assert "\n" not in message
        assert "broken-things 1.2" in message
        assert "pip uninstall broken-things" in message
    assert run(["show", "raises"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("methods", "says-nothing", "has no text HAVE"),
        ("methods", "wrong-room", "wanted one of distill"),
        ("methods", "bad-url", "wanted https://"),
    ],
)
def test_what_a_method_says_of_itself_is_checked(broken: Path, kind: str, name: str, words: str):
    with pytest.raises(PluginError, match=words):
        method_info(find_plugin(kind, name))  # type: ignore[arg-type]


def test_what_a_threat_gives_is_checked(broken: Path):
    images = tutelage.fashion_mnist_subset("test").take(slice(0, 4))
    outside, number = find_plugin("threats", "outside"), find_plugin("threats", "number")
    assert outside is not None
    assert number is not None
    with pytest.raises(PluginError, match=r"outside \[0, 1\]"):
        on_command_line.changed(images, outside, 0, 4)
    with pytest.raises(PluginError, match="is no function"):
        on_command_line.is_attack(number)
    with pytest.raises(PluginError, match="wanted an Attack or a Suite"):
        on_command_line.split_threats(["none:linf@0.1"])
    with pytest.raises(PluginError, match="no_such_module"):
        load_model("missing")
    with pytest.raises(InputError, match="factory"):
        load_model("never-heard-of")


def test_usable_warns_once_and_gives_the_others(example: Path, broken: Path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = usable("models")
    assert sorted(str(one.message).split("'")[1] for one in told) == ["missing", "raises"]
    assert [plugin.name for plugin, _ in found] == ["tiny-net"]


@pytest.mark.filterwarnings("ignore:the plug-in")
def test_the_site_has_plugins_and_does_without_broken_ones(example: Path, broken: Path, tmp_path: Path):
    build_site(tmp_path / "out")
    page = (tmp_path / "out" / "plugins.html").read_text()
    for words in (
        "label-smoothing",
        "one that keeps a little doubt",
        "tiny-net",
        "--suite raster",
        "tutelage-plugin-example 1.2",
    ):
        assert words in page
    assert "wrong-room" not in page
    assert "javascript:" not in page
    index = (tmp_path / "out" / "index.html").read_text()
    assert "plugins.html#label-smoothing" in index


def test_the_examples_own_tests_pass_when_it_is_installed_by_pip(root: Path, tmp_path: Path):
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 to build without a network: pip install -U setuptools")
    source = tmp_path / "source"
    import shutil

    shutil.copytree(root / EXAMPLE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    target = tmp_path / "target"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(source)], check=True, capture_output=True, text=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "from tutelage.core.plugins import plugins\n"
        "print(sorted(p.name for p in plugins() if p.package == 'tutelage-plugin-example'))\n"
        "import runpy; tests = runpy.run_path(sys.argv[1])\n"
        "[test() for name, test in tests.items() if name.startswith('test_')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source / "tests" / "test_plugin.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['corner', 'label-smoothing', 'raster', 'tiny-net']"


def test_names_are_completed_by_the_shell(monkeypatch: pytest.MonkeyPatch):
    code = "from tutelage.app.cli import main; main()"
    environment = {"_TUTELAGE_COMPLETE": "complete_bash", "COMP_WORDS": "tutelage show mta", "COMP_CWORD": "2"}
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["mtard"], done.stderr
