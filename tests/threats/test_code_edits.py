"""Edits of code: what they change, byte for byte, what they refuse, and that nothing changes what a program does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap

import pytest

from tutelage.core.errors import InputError, MissingError
from tutelage.core.sandbox import Job, Sandbox
from tutelage.data.worlds.functions import FunctionWorld
from tutelage.threats.code import (
    ALL,
    NAMES,
    CamelCase,
    DeadCode,
    DocstringToComments,
    ForWhile,
    NewLineAfterCode,
    NewLineAfterDocstring,
    NewLines,
    OperandSwap,
    Program,
    Refused,
    RenameByModel,
    RenameNaive,
    RenameRandom,
    SplitLines,
    TabIndent,
    category_of,
    code_edits,
    occurrences,
    parsed,
    ready,
    rename,
    toggle_case,
)
from tutelage.threats.code.released import ReleasedRename
from tutelage.threats.text import Lexicon, UpperCase

WORDS = Lexicon({"return": ["give back"], "sum": ["total"], "numbers": ["figures"], "list": ["row"], "letters": ["signs"]})


def program(text: str, entry_point: str = "f", cut: str = "", test: str = "") -> Program:
    """A program split before `cut` (default: at its end)."""
    text = textwrap.dedent(text).lstrip("\n")
    return Program(text, text.index(cut) if cut else len(text), entry_point, test, "item")


def body(lines: str, head: str = "def f(xs, n=3):") -> Program:
    return program(f"{head}\n" + textwrap.indent(textwrap.dedent(lines).strip("\n"), "    ") + "\n")


def edited(edit, one: Program, seed: int = 0) -> str:
    done = edit(one, seed=seed)
    assert not done.refused, done.refused
    return done.program.text


# -------------------------------------------------------------------------------------------------------------- scopes


def test_a_name_is_renamed_in_its_own_scope_only():
    source = parsed(
        textwrap.dedent(
            """
            x = 1
            def f(x, y=x):
                g = lambda x: x + y
                z = [x for x in range(x)]
                class A:
                    x = x
                    def h(self):
                        return x
                return f"{x}", self.x, dict(x=2)
            """
        )
    )
    home = next(one.home for one in occurrences(source) if one.role == "parameter" and one.name == "x")
    changes = rename(source, home, "x", "fresh")
    text = source.text
    for change in sorted(changes, key=lambda c: -c.start):
        text = text[: change.start] + change.text + text[change.end :]
    wanted = (
        source.text.replace("def f(x, ", "def f(fresh, ")
        .replace("range(x)", "range(fresh)")
        .replace("return x", "return fresh")
        .replace('f"{x}"', 'f"{fresh}"')
    )
    assert text == wanted  # the class's own x, the lambda's, the comprehension's, the attribute and the keyword stay


def test_walrus_in_a_comprehension_binds_outside_and_nonlocal_follows():
    source = parsed(
        "def f(xs):\n    last = 0\n    def g():\n        nonlocal last\n        last = 2\n"
        "    any((last := x) > 1 for x in xs)\n    return last\n"
    )
    homes = {one.home for one in occurrences(source) if one.name == "last"}
    assert len(homes) == 1
    assert sum(one.name == "last" for one in occurrences(source)) == 5


def test_names_that_are_taken_or_seen_as_text_are_refused():
    source = parsed("def f(x):\n    y = locals()\n    return x\n")
    home = next(one.home for one in occurrences(source) if one.role == "parameter")
    with pytest.raises(Refused, match="locals"):
        rename(source, home, "x", "z")
    for taken in ("y", "len", "class", "1x"):
        with pytest.raises(Refused):
            rename(source, home, "x", taken)


# -------------------------------------------------------------------------------------------------------------- syntax


def test_counting_loop_by_hand():
    text = edited(ForWhile(), body("total = 0\nfor i in range(1, n, 2):\n    total += i  # add\nreturn total"))
    assert text == (
        "def f(xs, n=3):\n    total = 0\n    i = 1\n    while i < n:\n"
        "        total += i  # add\n        i += 2\n    return total\n"
    )


def test_bound_that_could_change_is_kept_and_steps_may_go_down():
    text = edited(ForWhile(), body("for i in range(len(xs) - 1, -1, -1):\n    xs.append(i)\nreturn xs"))
    assert "    i = len(xs) - 1\n    while i > -1:\n" in text
    assert "        i -= 1\n" in text
    text = edited(ForWhile(), body("for i in range(len(xs)):\n    xs.append(i)\nreturn xs"))
    assert "    _i_i = len(xs)\n    i = 0\n    while i < _i_i:\n" in text


def test_loop_over_a_sequence_by_hand():
    text = edited(ForWhile(), body("for x in xs:\n    print(x)\nreturn 1", head="def f(xs: list):"))
    assert text == (
        "def f(xs: list):\n    _x_i = 0\n    while _x_i < len(xs):\n        x = xs[_x_i]\n"
        "        print(x)\n        _x_i += 1\n    return 1\n"
    )
    text = edited(ForWhile(), body("for i, x in enumerate(xs):\n    print(i, x)\nreturn 1"))
    assert (
        "    _i_x_i = list(enumerate(xs))\n    _i_x_j = 0\n    while _i_x_j < len(_i_x_i):\n        i, x = _i_x_i[_i_x_j]\n"
        in text
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("for i in range(n):\n    if i:\n        continue\n    print(i)\nreturn 1", "continue"),
        ("for i in range(n):\n    pass\nelse:\n    n = 2\nreturn 1", "else"),
        ("for i in range(n):\n    i += 1\nreturn 1", "sets its own variable"),
        ("for i in range(n):\n    pass\nreturn i", "read outside"),
        ("fs = []\nfor i in range(n):\n    fs.append(lambda: i)\nreturn fs", "keeps its variable"),
        ("for i in range(0, n, n):\n    pass\nreturn 1", "step"),
        ("for x in open('f'):\n    pass\nreturn 1", "no sequence"),
        ("for x in xs:\n    xs.remove(x)\nreturn 1", "may change"),
        ("while True:\n    for i in range(n):\n        pass\n    if i > 2:\n        return i", "read outside"),
    ],
)
def test_loops_that_cannot_be_turned_are_refused(lines: str, reason: str):
    assert reason in ForWhile()(body(lines)).refused


def test_a_variable_that_another_loop_sets_again_is_no_obstacle():
    text = edited(ForWhile(), body("for i in range(n):\n    print(i)\nfor i in xs:\n    print(i)\nreturn 1"))
    assert "while i < n" in text
    assert "for i in xs" in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("if a < b + 1:", "if b + 1 > a:"),
        ("if (a + b) >= c and d:", "if c <= (a + b) and d:"),
        ("if a == b:", "if b == a:"),
        ("if(a)<b:", "if b>(a):"),
        ("while a is None or 1<=c:", "while a is None or c>=1:"),
        ("if a < b < c or d != 2:", "if a < b < c or 2 != d:"),
        ("if a.pop() > 3:", "if 3 < a.pop():"),
    ],
)
def test_operands_change_places(before: str, after: str):
    one = body(f"{before}\n    return 1", head="def f(a, b, c, d):")
    assert edited(OperandSwap(), one) == one.text.replace(before, after)


def test_operands_with_effects_stay_in_order():
    assert "order" in OperandSwap()(body("return xs.pop() == next(n)")).refused


def test_dead_code_is_never_entered_and_copies_only_what_is_seen():
    one = program(
        "def f(xs):\n    total = 0\n    total += len(xs)\n    secret = 5\n    return total + secret\n", cut="    secret"
    )
    seen = set()
    for seed in range(30):
        done = DeadCode()(one, seed=seed)
        added = [line for line in done.program.prompt.splitlines() if line not in one.prompt.splitlines()]
        assert "secret" not in "".join(added)
        assert done.program.solution == one.solution
        assert done.program.prompt.endswith("    total += len(xs)\n")
        names: dict = {}
        exec(done.program.text, names)
        assert names["f"]([1, 2]) == 7
        seen.add(added[0].split()[0])
    assert {"for", "while", "if", "v"} <= seen


def test_dead_code_takes_no_yield_or_jump():
    one = body("for x in xs:\n    if x:\n        break\n    yield x")
    for seed in range(10):
        done = DeadCode()(one, seed=seed)
        assert done.program.text.count("yield") == 1
        assert done.program.text.count("break") == 1


def test_variables_are_renamed_with_meaning():
    one = body("total = 0\nfor x in xs:\n    total += x.total\nreturn dict(total=total), 'total'")
    wanted = one.text.replace("total = 0", "VAR_0 = 0").replace("total += ", "VAR_0 += ").replace("=total)", "=VAR_0)")
    assert edited(RenameNaive(), one) == wanted
    names = {edited(RenameRandom(), one, seed) for seed in range(8)}
    assert len(names) == 8
    for text in names:
        assert [len(line) for line in text.splitlines()] == [len(line) for line in one.text.splitlines()]
        ast.parse(text)


def test_an_argument_that_is_given_by_name_keeps_it():
    one = program("def f(xs):\n    y = 1\n    return xs + xs + y\n", test="def check(c):\n    assert c(xs=1) == 3\n")
    assert "xs + xs + VAR_0" in edited(RenameNaive(), one)


def test_a_model_names_variables():
    asked = []

    def namer(prompt, places):
        asked.append([prompt[start:end] for start, end in places])
        return ["for", "len", "n", "amount", "other"]

    one = body("total = n\ntotal += n\ntotal += 1\nreturn total")
    assert edited(RenameByModel(namer), one) == one.text.replace("total", "amount")
    assert asked == [["total"] * 4]
    with pytest.raises(MissingError, match="namer"):
        RenameByModel()(one)


# -------------------------------------------------------------------------------------------------------------- format


def test_tabs_and_back_again():
    one = body('"""Doc\n    more"""\nif n:\n    s = """a\n    b"""\n    g(1,\n      2)\n# note\nreturn xs')
    text = edited(TabIndent(), one)
    assert text == (
        'def f(xs, n=3):\n\t"""Doc\n\t\tmore"""\n\tif n:\n\t\ts = """a\n        b"""\n'
        "\t\tg(1,\n\t\t  2)\n\t# note\n\treturn xs\n"
    )
    back = edited(TabIndent(), Program(text, len(text), "f"))
    assert back == one.text


def test_the_longest_line_is_broken_at_its_middle_token():
    one = body("a = 1\nbcd = a + a * 2 + len('a longer text here')\nreturn bcd")
    assert "    bcd = a + a * \\\n        2 + len('a longer text here')\n" in edited(SplitLines(), one)


def test_docstring_becomes_comments_and_lines_are_added():
    one = program('def f(x):\n    """Say it.\n\n    >>> f(1)\n    """\n    y = x\n    z = y\n    return z\n', cut="    return")
    assert edited(DocstringToComments(), one).startswith("def f(x):\n    # Say it.\n    #\n    # >>> f(1)\n    y = x\n")
    assert edited(NewLineAfterDocstring(), one) == one.text.replace('"""\n    y', '"""\n\n    y')
    done = NewLineAfterCode()(one).program
    assert (done.prompt, done.solution) == (one.prompt + "\n", one.solution)
    texts = {edited(NewLines(), one, seed) for seed in range(12) if not NewLines()(one, seed=seed).refused}
    assert len(texts) == 3  # one newline, the other, both
    assert "needed" in DocstringToComments()(program('def f():\n    """x"""\n    return f.__doc__\n')).refused


# ---------------------------------------------------------------------------------------------------- names, docstring


@pytest.mark.parametrize("name", ["has_close_elements", "a_b", "f", "is_a_word_b"])
def test_case_toggle_is_an_involution(name: str):
    assert toggle_case(toggle_case(name)) == name


def test_case_toggle_by_hand():
    assert [toggle_case(n) for n in ("has_close_elements", "hasCloseElements", "add", "_inner_name")] == [
        "hasCloseElements", "has_close_elements", "add", "_innerName",
    ]  # fmt: skip


def test_a_function_is_renamed_with_examples_calls_and_tests_but_not_inside_other_words():
    one = program(
        '''
        def my_sum(xs):
            """The my_sum of xs, no my_sums, as a summary.
            >>> my_sum([1])
            """
            return xs[0] + my_sum(xs[1:]) if xs else my_summary()
        def my_summary(my_sum=0):
            return my_sum
        ''',
        "my_sum",
        test="def check(candidate):\n    assert candidate([1]) == my_sum([1])\n",
    )
    done = CamelCase()(one).program
    assert done.entry_point == "mySum"
    assert done.text == one.text.replace("def my_sum(", "def mySum(").replace("The my_sum of", "The mySum of").replace(
        ">>> my_sum(", ">>> mySum("
    ).replace("+ my_sum(", "+ mySum(")
    assert done.test == one.test.replace("my_sum", "mySum")


def test_docstring_edits_leave_code_words_quotes_and_examples():
    one = program(
        '''
        def total(values):
            """Return the total of all \\n values, "quoted" and {braced}, as int.
            >>> total([1])  # return the total
            """
            return sum(values)
        ''',
        "total",
    )
    edits, missing = ready(code_edits(lexicon=WORDS))
    assert {"BackTranslation", "VarRenamerCB"} <= set(missing)
    changed = 0
    for name in set(NAMES["docstring"]) & set(edits):
        for seed in range(4):
            text = edits[name](one, seed=seed).program.text
            changed += text != one.text
            for kept in (
                "total",
                "values",
                '"',
                "{",
                "}",
                "\\n",
                "int",
                ">>> total([1])  # return the total\n",
            ):
                assert kept in text, (name, seed)
            assert ast.dump(ast.parse(text)).count("FunctionDef") == 1
    assert changed > 10


def test_back_translation_takes_a_callable_and_keeps_identifiers():
    one = program('def f(values):\n    """Add up all values."""\n    return sum(values)\n')
    edits = code_edits(translate=lambda texts: [text.replace("Add up", "Sum up") for text in texts])
    assert '"""Sum up all values."""' in edited(edits["BackTranslation"], one)
    lost = code_edits(translate=lambda texts: ["nothing of it" for _ in texts])["BackTranslation"]
    assert "values" in lost(one).refused


# ----------------------------------------------------------------------------------------------------------------- all


def test_there_are_28_in_four_categories():
    assert (len(ALL), len(set(ALL))) == (28, 28)
    assert [len(NAMES[c]) for c in ("docstring", "function", "syntax", "format")] == [10, 6, 6, 6]
    assert set(code_edits()) == set(ALL) == set(code_edits(released=True))
    assert category_of("tab_indent") == "format"
    with pytest.raises(InputError, match="transform"):
        category_of("nothing")


def test_every_edit_leaves_programs_passing_and_is_the_same_twice():
    edits, _ = ready(code_edits(lexicon=WORDS, namer=lambda text, places: ["found", "amount"]))
    world = FunctionWorld()
    problems = [world.problem(task, 1) for task in world.tasks[::23]]
    jobs, changed = [], dict.fromkeys(edits, 0)
    for problem in problems:
        for name, edit in edits.items():
            split = len(problem.prompt)
            if edit.partial:
                lines = problem.canonical_solution.splitlines(keepends=True)
                split += sum(map(len, lines[: len(lines) // 2 + 1]))
            one = Program(problem.program, split, problem.entry_point, problem.test, problem.task_id)
            done = edit(one, seed=3)
            assert done == edit(one, seed=3)
            ast.parse(done.program.text)
            if not done.refused:
                changed[name] += 1
                jobs.append((name, Job(done.program.text, f"{done.program.test}\ncheck({done.program.entry_point})\n")))
    assert all(changed.values()), changed
    with Sandbox(2) as box:
        results = box.run_many([job for _, job in jobs])
    assert [
        (name, job.source, result.error) for (name, job), result in zip(jobs, results, strict=True) if not result.passed
    ] == []


def test_seeds_differ_and_the_stream_hangs_on_the_item():
    one = body("total = 0\nfor x in xs:\n    total += x\nreturn total")
    other = Program(one.text, one.split, one.entry_point, one.test, "other")
    assert len({edited(RenameRandom(), one, seed) for seed in range(5)}) == 5
    assert edited(RenameRandom(), one) != edited(RenameRandom(), other)


SPELLED = """
import hashlib
from tutelage.data.worlds.functions import FunctionWorld
from tutelage.threats.code import Program, code_edits, ready
from tutelage.threats.text import Lexicon
edits, _ = ready(code_edits(lexicon=Lexicon({"return": ["give back", "hand over"], "numbers": ["figures", "digits"]})))
problems = FunctionWorld().problems(4)
made = [
    edit(Program(p.program, len(p.program) - 12, p.entry_point, p.test, p.task_id), seed=seed).program
    for p in problems for edit in edits.values() for seed in range(2)
]
found = hashlib.sha256(repr(made).encode()).hexdigest()
"""


def test_the_same_bytes_in_a_process_with_other_hashes():
    names: dict = {}
    exec(SPELLED, names)
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run(
        [sys.executable, "-c", f"{SPELLED}\nprint(found)"], env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == names["found"]


def test_released_operators_do_what_the_scopes_prevent():
    one = body("total = 0\nfor x in xs:\n    if x:\n        continue\n    total += x\nreturn total")
    text = code_edits(released=True)["ForWhileTransformer"](one).program.text
    assert text.index("continue") < text.index("_x_i += 1")  # it never ends
    spoken = program("def add(xs):\n    addition = 1\n    return addition\n", "add")
    assert "ADDition" in ReleasedRename("x", UpperCase())(spoken).program.text


def test_wrong_input_is_named():
    one = body("return xs")
    with pytest.raises(InputError, match="seed"):
        RenameNaive()(one, seed=-1)
    with pytest.raises(InputError, match="program"):
        RenameNaive()("def f(): pass")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="split"):
        RenameNaive()(Program("x = 1", 99, "f"))
    assert "parse" in RenameNaive()(Program("def f(:", 3, "f")).refused
    assert "carriage" in RenameNaive()(Program("def f():\r\n    pass", 3, "f")).refused
