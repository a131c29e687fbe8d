from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.claims.codehash import Kept, code_sha256, imports, normalised, reached

SOURCE = '''
"""Module docstring."""

def f(x):
    """What f does."""
    # a comment
    return g(x, 0.5)  # another
'''


def test_comments_docstrings_and_layout_do_not_count():
    other = "def f(x):\n\n    return g(x,\n             0.5)\n"
    assert normalised(SOURCE) == normalised(other)


def test_numbers_names_strings_and_nesting_do():
    assert normalised(SOURCE) != normalised(SOURCE.replace("0.5", "0.25"))
    assert normalised(SOURCE) != normalised(SOURCE.replace("g(x", "h(x"))
    assert normalised('x = "a"') != normalised('x = "b"')
    assert normalised("x = f'{a}'") != normalised("x = f'{b}'")
    assert normalised("if a:\n    b\nc") != normalised("if a:\n    b\n    c")


def test_a_claim_reaches_the_code_that_makes_its_numbers():
    names = reached("tutelage.claims.distill.mtard")
    assert {"tutelage.threats.engine", "tutelage.teaching.fit", "tutelage.methods.distill.mtard", "tutelage.core.rng"} <= names
    assert "tutelage.core.progress" not in names
    assert "tutelage.app.cli" not in names
    assert len(code_sha256("tutelage.claims.distill.mtard")) == 64


def test_what_a_module_takes_from_the_package():
    source = "import os\nimport tutelage.core.rng\nfrom tutelage.core import files, rng\nfrom torch import nn\n"
    assert imports(source) == [("tutelage.core.rng", ""), ("tutelage.core", "files"), ("tutelage.core", "rng")]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A file in which one module's code stands, and not what reading it again would say."""
    kept = Kept.load(tmp_path / "code.json")
    assert kept.get(SOURCE) == ([], normalised(SOURCE))
    kept.used = {key: ([("tutelage.core", "rng")], "kept") for key in kept.used}
    kept.save()
    return kept


def test_code_that_was_read_is_not_read_again(kept):
    again = Kept.load(kept.path)
    assert again.get(SOURCE) == ([("tutelage.core", "rng")], "kept")
    assert again.get(SOURCE + "x = 1") == ([], normalised(SOURCE + "x = 1"))  # other content
    again.save()
    assert len(Kept.load(kept.path).before) == 2


@pytest.mark.parametrize("damage", [lambda t: t[:-9], lambda t: t.replace("kept", "lost"), lambda t: "", lambda t: "x\n{"])
def test_a_damaged_file_is_not_believed(kept, damage):
    kept.path.write_text(damage(kept.path.read_text()))
    assert Kept.load(kept.path).get(SOURCE) == ([], normalised(SOURCE))


def test_another_version_of_the_reader_reads_anew(kept):
    kept.before, kept.reader = {}, "another"
    kept.save()
    assert Kept.load(kept.path).before == {}


def test_a_place_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    kept = Kept.load(tmp_path / "file" / "code.json")
    kept.get(SOURCE)
    kept.save()
    assert (tmp_path / "file").read_text() == ""
