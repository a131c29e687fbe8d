from __future__ import annotations

from tutelage.claims.codehash import code_sha256, normalised, reached

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
