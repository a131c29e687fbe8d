"""Command lines with something wrong in them: every command, every option; and every setting of every system's claim."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import typer
from cases import Case, drawn
from hypothesis import strategies as st
from place import ON_GOOD

from tutelage.app.cli import app
from tutelage.claims import runner
from tutelage.claims.claim import Row, load_claim

# good command lines, to which one wrong thing is added; a command that is not here gets nothing else
BASES: dict[str, tuple[str, ...]] = {
    "audit": (*ON_GOOD,),
    "run": ("run", "mtard", "--out", "out/run"),
    "report": ("report", "saved", "--out", "out/x.html"),
    "compare": ("compare", "saved", "saved2", "--out", "out/compare"),
    "show": ("show", "mtard"),
    "demo": ("demo", "--quick", "--out", "out/demo"),
    "data make": ("data", "make", "Pendulum-v1", "--to", "out/sets"),
    "data get": ("data", "get", "cifar10", "--to", "out/cifar10"),
    "data check": ("data", "check", "mnist-10k"),
}
SERVERS = ("site serve", "serve")  # they run until they are stopped

# outputs that would fall on what the user has
ONTO_OTHERS = (
    ("site", "build", "--out", "good"), ("site", "build", "--out", "."), ("init", "good"), ("init", "."),
    ("report", "saved", "--out", "good.npz"), ("report", "saved", "--out", "my_net.py"), ("run", "mtard", "--out", "good"),
    ("compare", "saved", "saved2", "--out", "."), (*ON_GOOD, "--out", "good"), ("data", "make", "Pendulum-v1", "--to", "good"),
)  # fmt: skip

INTEGERS = [
    "",
    "-1",
    "1.5",
    "nan",
    "1e9",
    "ten",
    "-99999999999999999999",
    "99999999999999999999",
    "0x10",
    "0",
    "1,2",
    "²",
    "٣x",
]
NUMBERS = ["", "nan", "inf", "-inf", "-1", "text", "1e400", "1/0", "0"]
PATHS = [
    "", "absent", "absent/deeper/still", "good.npz", "good", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/nothing",
    "my_net.py/x", "x" * 300, "y/" * 3000, "notes.txt", "~nobody/x", "a\nb", "\udcff", "[bold]x[/]",
]  # fmt: skip
TEXTS = [
    "", " ", "-", "nan", "x" * 5000, "\udcff\udcfe", "../../etc/passwd", "[bold]x[/]", "[/]", "{0}", "%s", "\x1b[31mred",
    "a\nb", "💥", "=", "=x", "x=", "None", "__class__", "../x.py:f", ":", "::", "http://", "http://127.0.0.1:1/x",
    "http://[::1", "file:///x",
]  # fmt: skip
LISTED = {"int": INTEGERS, "float": NUMBERS, "Path": PATHS}
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def commands() -> dict[str, Any]:
    """name -> command, of the whole program."""
    found: dict[str, Any] = {}

    def walk(group: Any, before: str) -> None:
        for name, one in group.commands.items():
            if hasattr(one, "commands"):
                walk(one, f"{before}{name} ")
            else:
                found[before + name] = one

    walk(typer.main.get_command(app), "")
    return found


def wrong_values(hint: Any) -> st.SearchStrategy[str]:
    """Values for an option of a type that are mostly no good."""
    said = str(hint)
    listed = next((values for kind, values in LISTED.items() if kind in said), TEXTS)
    return st.one_of(st.sampled_from(listed), st.sampled_from(listed), WORDS)


def fast(_: Path) -> None:
    """In the child: what takes long once the input was taken is left out."""

    def left_out(slug: str, arm: str, unit: int, *_: Any, **__: Any) -> Row:
        return Row(arm=arm, unit_id=unit, status="failed", error="left out by the campaign", seconds=0.0)

    def made(*_: Any, **__: Any) -> Any:
        raise SystemExit(0)

    runner._cell = left_out
    from tutelage.app import demo
    from tutelage.teaching.control import collect

    demo.run_demo = made
    collect.make_sets = made


def command_lines(per_option: int, seed: int) -> Iterator[Case]:
    """Every option and argument of every command with wrong values, one at a time; unknown options; too many arguments."""
    for name, command in commands().items():
        base = BASES.get(name, tuple(name.split()))
        runs_on = name in SERVERS
        limit = 20.0 if runs_on else 120.0
        hints = get_type_hints(command.callback)
        for parameter in command.params:
            if parameter.name == "help":
                continue
            kind = hints.get(parameter.name, str)
            if parameter.param_type_name == "argument":
                for value in drawn(wrong_values(kind), per_option, seed, f"{name} {parameter.name}"):
                    words = (*name.split(), value, *base[len(name.split()) + 1 :])
                    yield _case(words, runs_on, limit)
                yield _case(tuple(name.split()), runs_on, limit)
            elif getattr(parameter, "is_flag", False):
                yield _case((*base, f"{parameter.opts[0]}=3"), runs_on, limit, must_refuse=True)
            else:
                for value in drawn(wrong_values(kind), per_option, seed, f"{name} {parameter.name}"):
                    yield _case((*base, f"{parameter.opts[0]}={value}"), runs_on, limit)
                yield _case((*base, parameter.opts[0]), runs_on, limit, must_refuse=True)
        yield _case((*base, "--no-such-option", "3"), runs_on, limit, must_refuse=True)
        yield _case(
            (*base, *(["one", "too", "many"] if name not in ("compare", "data get", "data check") else ["-Z"])), runs_on, limit
        )
    for words in ONTO_OTHERS:
        if " ".join(words[: 2 if words[0] == "site" else 1]) in commands():
            yield _case(words, False, 120.0)
    for words in ((), ("no-such-command",), ("--no-such-option",), ("data",), ("data", "no-such-command"), ("\udcff",)):
        yield _case(words, False, 60.0)


def _case(words: tuple[str, ...], runs_on: bool, limit: float, must_refuse: bool = False) -> Case:
    # a download that stops keeps its lock and what has come
    writes = words[:2] == ("data", "get")
    shown = " ".join(repr(word) if len(word) < 60 else f"{word[:20]!r}... ({len(word)})" for word in words)
    return Case(
        shown, words=words, prepare=fast, also=(1,), runs_on=runs_on, limit=limit, must_refuse=must_refuse, writes=writes
    )


PROGRAM = "import sys; sys.argv[0] = 'tutelage'; from tutelage.app.cli import main; main()"


def new_interpreters(n: int, seed: int) -> Iterator[Case]:
    """Some of those command lines as a shell would start them; those that could take long or reach out are left out."""
    kinds = ("audit", "report", "compare", "show", "list", "no-such-command")
    quick = [case for case in command_lines(1, seed) if case.words and case.words[0] in kinds]
    for case in quick[:: max(1, len(quick) // n)][:n]:
        command = [sys.executable, "-c", PROGRAM, *case.words]
        yield Case(case.name, call=lambda command=command: os.execv(command[0], command), also=(1,))  # type: ignore[misc]


def wrong_settings(schema: dict[str, Any]) -> list[str]:
    """Values that the JSON schema of a field rules out, and some at its edges."""
    options = schema.get("anyOf", [schema])
    kinds = {one.get("type") for one in options}
    found = ["", "[1", "nan", "{}"]
    if kinds & {"integer", "number"}:
        found += ["text", "-1e400", "1,5"]
        for one in options:
            for edge, step in (("minimum", -1), ("exclusiveMinimum", 0), ("maximum", 1), ("exclusiveMaximum", 0)):
                if edge in one:
                    found.append(str(one[edge] + step))
    if "integer" in kinds:
        found += ["1.5", "99999999999999999999999999", "-99999999999"]
    if "number" in kinds:
        found += ["inf", "-inf"]
    if "boolean" in kinds:
        found += ["maybe", "2"]
    if "string" in kinds:
        found += ["no-such-thing", "x" * 3000, "../../etc/passwd", "\udcff", "module:function", "[bold]"]
    if kinds & {"array", "object"}:
        found += ["text", "(1,)", "null"]
    return found


def settings_of_claims(per_field: int, seed: int, slugs: list[str]) -> Iterator[Case]:
    """Every field of every system's config, from the pydantic model, with wrong values."""
    for slug in slugs:
        model = type(load_claim(slug).scales["smoke"])
        properties = model.model_json_schema().get("properties", {})
        for name in model.model_fields:
            values = st.one_of(st.sampled_from(wrong_settings(properties.get(name, {}))), WORDS)
            for value in drawn(values, per_field, seed, f"{slug} {name}"):
                yield _case(("run", slug, "--out", "out/run", "--set", f"{name}={value}"), False, 120.0)
        for text in ("no_such_setting=1", "=1", "x", "__class__=1", " =", "model_config=1"):
            yield _case(("run", slug, "--out", "out/run", "--set", text), False, 120.0, must_refuse=True)
