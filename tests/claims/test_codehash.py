"""What of the code counts towards a result: the hash changes with what makes numbers, and not with what cannot."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage.claims import codehash
from tutelage.claims.codehash import Kept, code_sha256, reached
from tutelage.claims.parts import Module, read
from tutelage.claims.refusals import refuses, told

SOURCE = '''
"""Module docstring."""

def f(x):
    """What f does."""
    # a comment
    return g(x, 0.5)  # another
'''


def whole(source: str) -> str:
    return told(ast.parse(textwrap.dedent(source)))


def lean(source: str) -> list[tuple[str, ...]]:
    """What is left of each part without refusals."""
    return [(*part.names, part.lean, *part.uses) for part in read(textwrap.dedent(source)).parts]


def test_comments_docstrings_and_layout_do_not_count():
    other = "def f(x):\n\n    return g(x,\n             0.5)\n"
    assert whole(SOURCE) == whole(other)
    assert lean(SOURCE) == lean(other)


@pytest.mark.parametrize("form", [whole, lean])
def test_numbers_names_strings_and_nesting_do(form: Callable[[str], object]):
    assert form(SOURCE) != form(SOURCE.replace("0.5", "0.25"))
    assert form(SOURCE) != form(SOURCE.replace("g(x", "h(x"))
    assert form('x = "a"') != form('x = "b"')
    assert form("x = f'{a}'") != form("x = f'{b}'")
    assert form("if a:\n    b()\nc()") != form("if a:\n    b()\n    c()")


PLAIN = """
def f(x, names):
    total = 0
    for name in names:
        total += x[name]
    return total
"""


@pytest.mark.parametrize(
    "refusing",
    [
        """
        def f(x, names):
            if not names:
                raise InputError("names", names, "at least one")
            total = 0
            for name in names:
                total += x[name]
            return total
        """,
        """
        def f(x, names):
            check_names("names", names)
            total = 0
            for name in names:
                try:
                    total += x[name]
                except (KeyError, TypeError) as error:
                    told = str(error)
                    raise InputError("x", told, f"an entry {name}") from None
            return total
        """,
        """
        def f(x, names):
            import zlib
            total = 0
            for name in names:
                if name.startswith("_"):
                    if len(name) > 3:
                        raise errors.MissingError("a")
                    else:
                        raise InputError("b", zlib.crc32(name), "c")
                try:
                    total += x[name]
                except RuntimeError as error:
                    if "unused" not in str(error):
                        raise
                    raise InputError("x", x, "used") from error
            return total
        """,
    ],
)
def test_refusals_do_not_count(refusing: str):
    assert lean(refusing) == lean(PLAIN)
    assert whole(refusing) != whole(PLAIN)


@pytest.mark.parametrize(
    "other",
    [
        "def f(x):\n    if x > 1:\n        raise Stopped(x)\n    return g(x)",  # another error may be a message
        "def f(x):\n    if x > 1:\n        return 0\n    return g(x)",
        "def f(x):\n    if (y := next(x)):\n        raise InputError('x', y, 'z')\n    return g(x)",  # the test does something
        "def f(x):\n    try:\n        return g(x)\n    except KeyError:\n        return 0",
        "def f(x):\n    check_model(x).eval()\n    return g(x)",
        "def f(x):\n    try:\n        return g(x)\n    except KeyError:\n        if x:\n            return 1\n        raise",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_refusal_counts(other: str):
    assert lean(other) != lean("def f(x):\n    return g(x)")


def test_a_body_that_may_go_on_does_not_refuse():
    body = ast.parse("if a:\n    raise InputError('a', a, 'b')\n").body
    assert not refuses(body)
    assert refuses([*body, *ast.parse("raise MissingError('c')").body])
    assert not refuses([])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes modules of a small `tutelage` and gives the hash of its claim."""
    for function in (codehash.code_sha256, codehash.reached, codehash._reach, codehash._read, codehash._path):
        function.cache_clear()
    kept = Kept(tmp_path / "code.json", "")
    monkeypatch.setattr(codehash, "_kept", lambda: kept)
    monkeypatch.setattr(codehash, "_path", lambda module: path if (path := place(module)).is_file() else None)

    def place(module: str) -> Path:
        return tmp_path / f"{module}.py"

    def hashed(**modules: str) -> str:
        for name, source in modules.items():
            place(f"tutelage.{name}").write_text(textwrap.dedent(source))
        codehash.code_sha256.cache_clear()
        codehash._reach.cache_clear()
        codehash._read.cache_clear()
        return code_sha256("tutelage.claim")

    yield hashed
    for function in (codehash.code_sha256, codehash.reached, codehash._reach, codehash._read):
        function.cache_clear()


CLAIM = "from tutelage.tool import Tool, helped\n\ndef cell(x):\n    return Tool(x).run() + helped(x)\n"
TOOL = """
import math
from tutelage.deep import depth

LIMIT = 3
UNUSED = 4

class Tool:
    def __init__(self, x):
        self.x = x
    def run(self):
        return self._inner(LIMIT)
    def _inner(self, n):
        return math.sqrt(n * self.x)
    def show(self):
        return "x"

def helped(x):
    return depth(x)

def other(x):
    return x
"""
DEEP = "def depth(x):\n    return 2 * x\n\ndef shallow(x):\n    return x\n"


@pytest.mark.parametrize(
    ("module", "old", "new", "counts"),
    [
        ("tool", "UNUSED = 4", "UNUSED = 5", False),
        ("tool", 'return "x"', 'return "y"', False),  # a method that nobody calls
        ("tool", "def other(x):\n    return x", "def other(x):\n    return -x", False),
        ("deep", "    return x\n", "    return -x\n", False),
        ("tool", "LIMIT = 3", "LIMIT = 4", True),
        ("tool", "n * self.x", "n + self.x", True),  # a method of a method
        ("tool", "self.x = x", "self.x = -x", True),
        ("deep", "2 * x", "3 * x", True),
        ("tool", "import math", "import cmath as math", True),
        ("tool", "class Tool:", "print()\n\nclass Tool:", True),  # runs when the module is imported
        ("tool", "class Tool:", "@wrapped\nclass Tool:", True),
    ],
)
def test_what_the_claim_does_not_name_does_not_count(world, module: str, old: str, new: str, counts: bool):
    modules = {"claim": CLAIM, "tool": TOOL, "deep": DEEP}
    before = world(**modules)
    assert modules[module].count(old) == 1
    assert (world(**{module: modules[module].replace(old, new)}) != before) == counts


def test_methods_that_others_may_call_count_unasked(world):
    """A base class of another library calls `forward` without a word of ours."""
    claim = "from tutelage.net import Net\n\ndef cell(x):\n    return Net()(x)\n"
    net = "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"
    before = world(claim=claim, net=net)
    assert world(net=net.replace("return x", "return -x")) != before


def test_a_name_in_a_text_is_a_name(world):
    claim = "import tutelage.tools\n\ndef cell(x, name='{}'):\n    return getattr(tutelage.tools, name)(x)\n"
    tools = "def one(x):\n    return x\n\ndef two(x):\n    return x\n"
    for name, counts in (("one", True), ("two", False)):
        before = world(claim=claim.format(name), tools=tools)
        assert (world(tools=tools.replace("def one(x):\n    return x", "def one(x):\n    return -x")) != before) == counts


def test_where_refusals_are_caught_they_count(world):
    """A point that is refused is left out of the mean."""
    claim = """
    from tutelage.points import far, near

    def cell(points):
        kept = []
        for point in points:
            try:
                kept.append(near(point))
            except InputError:
                continue
        return far(kept)
    """
    points = """
    def near(x):
        if x > LIMIT:
            raise InputError("x", x, "less")
        return x

    LIMIT = 2

    def far(x):
        if x > 5:
            raise InputError("x", x, "less")
        return x
    """
    before = world(claim=claim, points=points)
    assert world(points=points.replace("x > 5", "x > 6")) == before
    assert world(points=points.replace("x > LIMIT", "x >= LIMIT")) != before
    assert world(points=points.replace("LIMIT = 2", "LIMIT = 1")) != before  # only the guard reads it


def test_a_claim_reaches_the_code_that_makes_its_numbers():
    names = reached("tutelage.claims.distill.mtard")
    assert {"tutelage.threats.engine", "tutelage.teaching.fit", "tutelage.methods.distill.mtard", "tutelage.core.rng"} <= names
    assert "tutelage.core.progress" not in names
    assert "tutelage.app.cli" not in names
    assert len(code_sha256("tutelage.claims.distill.mtard")) == 64


def test_what_a_module_takes_from_the_package():
    found = read("import os\nimport tutelage.core.rng\nfrom tutelage.core import files, rng as r\nfrom torch import nn\n")
    assert found.imports == {
        "tutelage": [("tutelage.core.rng", "")], "files": [("tutelage.core", "files")], "r": [("tutelage.core", "rng")],
    }  # fmt: skip
    assert found.foreign == {"os": "os.", "nn": "torch.nn"}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A file in which one module's code stands, and not what reading it again would say."""
    kept = Kept.load(tmp_path / "code.json")
    assert kept.get(SOURCE) == read(SOURCE)
    kept.used = {key: Module([], {"rng": [("tutelage.core", "rng")]}, {"os": "os."}) for key in kept.used}
    kept.save()
    return kept


def test_code_that_was_read_is_not_read_again(kept):
    again = Kept.load(kept.path)
    assert again.get(SOURCE) == Module([], {"rng": [("tutelage.core", "rng")]}, {"os": "os."})
    assert again.get(SOURCE + "x = 1") == read(SOURCE + "x = 1")  # other content
    again.save()
    assert Kept.load(kept.path).before == again.used


@pytest.mark.parametrize("damage", [lambda t: t[:-9], lambda t: t.replace("rng", "lost"), lambda t: "", lambda t: "x\n{"])
def test_a_damaged_file_is_not_believed(kept, damage):
    kept.path.write_text(damage(kept.path.read_text()))
    assert Kept.load(kept.path).get(SOURCE) == read(SOURCE)


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
