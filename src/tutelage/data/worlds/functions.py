"""Small Python functions to write: a signature and a docstring, tests by construction, held-out combinations.

A task is (source, which, change, result): of the numbers of a list, of the numbers from 1 to n, or of the letters of a word,
keep some, change each, and put them together. It is asked for in one of six phrasings, with other names of arguments. The
tests come from evaluating the parts, not from the solution's text, so that solution and tests check each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.data.code_problems import CodeProblem
from tutelage.data.worlds.tasks import Split, split_of


@dataclass(frozen=True)
class Part:
    """A piece of a task: word of the function's name, words of the docstring, its Python, and what it computes."""

    name: str
    words: str
    code: str
    apply: Callable[[Any], Any] = field(compare=False, repr=False)


# {x} is the item. Words end up as "the sum of the squares of the even numbers"
WHICH_NUMBERS = (
    Part("", "", "", lambda x: True),
    Part("even", "even", "{x} % 2 == 0", lambda x: x % 2 == 0),
    Part("odd", "odd", "{x} % 2 == 1", lambda x: x % 2 == 1),
    Part("large", "above 5", "{x} > 5", lambda x: x > 5),
    Part("small", "up to 5", "{x} <= 5", lambda x: x <= 5),
)
CHANGE_NUMBERS = (
    Part("", "", "{x}", lambda x: x),
    Part("squared", "squares of the", "{x} * {x}", lambda x: x * x),
    Part("doubled", "doubles of the", "2 * {x}", lambda x: 2 * x),
    Part("negated", "negatives of the", "-{x}", lambda x: -x),
    Part("increased", "successors of the", "{x} + 1", lambda x: x + 1),
)
# (name, words, first value, how an item goes in, what it computes)
Result = tuple[str, str, str, str, Callable[[list[Any]], Any]]
PUT_NUMBERS: tuple[Result, ...] = (
    ("sum", "sum of", "0", "{r} += {c}", sum),
    ("list", "list of", "[]", "{r}.append({c})", list),
    ("count", "number of", "0", "{r} += 1", len),
    ("largest", "largest of", "0", "{r} = max({r}, {c})", lambda found: max([0, *found])),
)
WHICH_LETTERS = (
    Part("", "", "", lambda x: True),
    Part("vowels", "vowels", '{x} in "aeiou"', lambda x: x in "aeiou"),
    Part("consonants", "consonants", '{x} not in "aeiou"', lambda x: x not in "aeiou"),
    Part("early", "before m", '{x} < "m"', lambda x: x < "m"),
    Part("late", "from m on", '{x} >= "m"', lambda x: x >= "m"),
)
CHANGE_LETTERS = (
    Part("", "", "{x}", lambda x: x),
    Part("capital", "capitals of the", "{x}.upper()", lambda x: x.upper()),
    Part("twice", "pairs of the", "2 * {x}", lambda x: 2 * x),
)
PUT_LETTERS: tuple[Result, ...] = (
    ("word", "word of", '""', "{r} += {c}", "".join),
    ("list", "list of", "[]", "{r}.append({c})", list),
    ("count", "number of", "0", "{r} += 1", len),
    ("reverse", "reversed word of", '""', "{r} = {c} + {r}", lambda found: "".join(reversed(found))),
)
# how it is asked; {what}: "sum of the squares of the even numbers", {place}: "in the list xs"
PHRASINGS = (
    "Return the {what} {place}.",
    "Compute the {what} {place}.",
    "Given {given}, return the {what}.",
    "Find the {what} {place} and return it.",
    "This function returns the {what} {place}.",
    "You are given {given}. What is the {what}?",
)
ARGUMENTS = {"list": ("numbers", "values", "items"), "range": ("n", "limit", "bound"), "word": ("word", "text", "letters")}


@dataclass(frozen=True)
class FunctionTask:
    """One combination of parts; key names it in splits."""

    source: str
    which: Part
    change: Part
    result: Result

    @property
    def key(self) -> str:
        return "/".join((self.source, self.which.name or "all", self.change.name or "same", self.result[0]))

    @property
    def name(self) -> str:
        """The function's name, such as sum_of_even_squared."""
        items = {"list": "numbers", "range": "range", "word": "letters"}[self.source]
        return "_".join(word for word in (self.result[0], "of", self.change.name, self.which.name, items) if word)

    def answer(self, argument: Any) -> Any:
        """What the function has to return, from the parts alone."""
        items = range(1, argument + 1) if self.source == "range" else argument
        return self.result[4]([self.change.apply(x) for x in items if self.which.apply(x)])


class FunctionWorld:
    """All combinations: 5 x 5 x 4 of lists and of numbers up to n, 5 x 3 x 4 of words; without those that mean the same.

    A count does not depend on what is done to each item, so it is asked for only of unchanged items; nor is the largest
    negative asked for, since 0 stands for none.
    """

    name = "functions"

    def __init__(self) -> None:
        found = []
        for source in ("list", "range", "word"):
            letters = source == "word"
            for which in WHICH_LETTERS if letters else WHICH_NUMBERS:
                for change in CHANGE_LETTERS if letters else CHANGE_NUMBERS:
                    for result in PUT_LETTERS if letters else PUT_NUMBERS:
                        if (result[0], change.name) != ("largest", "negated") and (result[0] != "count" or not change.name):
                            found.append(FunctionTask(source, which, change, result))
        self.tasks: tuple[FunctionTask, ...] = tuple(found)

    def of(self, split: Split) -> list[FunctionTask]:
        """The combinations of a split: train, validation or test, disjoint by a hash of the key."""
        check_choice("split", split, ("train", "validation", "test"))
        return [task for task in self.tasks if split_of(self.name, task.key, (0.7, 0.1, 0.2)) == split]

    def problem(self, task: FunctionTask, seed: int, *, phrasing: int | None = None) -> CodeProblem:
        """A task asked for in one of the phrasings, with an example and six tests, all drawn from `seed`."""
        rng = Random(derive(seed, "function world", task.key))
        ways = range(len(PHRASINGS))
        if phrasing is not None and phrasing not in ways:
            raise InputError("phrasing", phrasing, f"a number from 0 to {len(PHRASINGS) - 1}")
        way = ways[int(rng.random() * len(ways))] if phrasing is None else phrasing
        argument = _one(ARGUMENTS[task.source], rng)
        kind = {"list": "List[int]", "range": "int", "word": "str"}[task.source]
        returned = {"sum": "int", "count": "int", "largest": "int", "word": "str", "reverse": "str"}.get(task.result[0])
        returned = returned or ("List[str]" if task.source == "word" else "List[int]")
        examples = [_argument(task.source, rng) for _ in range(7)]
        head = "from typing import List\n\n\n" if "List" in kind + returned else ""
        prompt = (
            f"{head}def {task.name}({argument}: {kind}) -> {returned}:\n"
            f'    """{_asked(task, argument, way)}\n'
            f"    >>> {task.name}({examples[0]!r})\n    {task.answer(examples[0])!r}\n"
            f'    """\n'
        )
        asserts = "".join(f"    assert candidate({one!r}) == {task.answer(one)!r}\n" for one in examples[1:])
        test = f"\n\ndef check(candidate):\n{asserts}"
        return CodeProblem(f"functions/{task.key}/{seed}", prompt, _solution(task, argument), test, task.name)

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[CodeProblem]:
        """n problems of a split: all its combinations in an order from `seed`, then again with other phrasings."""
        check_integer("n", n)
        check_integer("seed", seed, low=0)
        tasks = self.of(split)
        order = sorted(tasks, key=lambda task: derive(seed, "order", task.key))
        return [self.problem(order[i % len(order)], derive(seed, "round", i // len(order)) % 10**9) for i in range(n)]


def _asked(task: FunctionTask, argument: str, way: int) -> str:
    noun = {"list": "numbers", "range": "numbers", "word": "letters"}[task.source]
    which = task.which.words
    kept = (
        which
        if which in ("vowels", "consonants")
        else f"{which} {noun}"
        if which in ("even", "odd")
        else f"{noun} {which}".strip()
    )
    change = f"the {task.change.words}" if task.change.words else "the"
    what = f"{task.result[1]} {change} {kept}"
    place = {"list": f"in the list {argument}", "range": f"from 1 to {argument}", "word": f"in {argument}"}[task.source]
    given = {"list": f"a list {argument}", "range": f"a number {argument}", "word": f"a word {argument}"}[task.source]
    if task.source == "range" and "{place}" not in PHRASINGS[way]:
        what += f" from 1 to {argument}"
    return PHRASINGS[way].format(what=what, place=place, given=given)


def _solution(task: FunctionTask, argument: str) -> str:
    item = {"list": "x", "range": "i", "word": "c"}[task.source]
    loop = f"range(1, {argument} + 1)" if task.source == "range" else argument
    changed = task.change.code.format(x=item)
    step = task.result[3].format(r="result", c=changed)
    lines = [f"result = {task.result[2]}", f"for {item} in {loop}:"]
    if task.which.code:
        lines += [f"    if {task.which.code.format(x=item)}:", f"        {step}"]
    else:
        lines.append(f"    {step}")
    return "".join(f"    {line}\n" for line in [*lines, "return result"])


def _argument(source: str, rng: Random) -> Any:
    if source == "range":
        return 1 + int(rng.random() * 12)
    if source == "word":
        return "".join(_one("abcdeghimnopstuz", rng) for _ in range(4 + int(rng.random() * 5)))
    return [int(rng.random() * 13) for _ in range(4 + int(rng.random() * 3))]


def _one(options: Sequence[str], rng: Random) -> str:
    return options[int(rng.random() * len(options))]
