"""The tasks of reasoning-gym (github.com/open-thought/reasoning-gym, Apache-2.0) as a world, with their own verifiers.

It needs the package: pip install reasoning-gym. Over a hundred generators of algebra, arithmetic, logic, games, graphs and
more, each with a question, an answer and a score in [0, 1] for any text.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from tutelage.core.errors import InputError, MissingError
from tutelage.data.worlds.tasks import Item, LanguageWorld, Verdict

BLOCK = 64  # questions that are made at once


class ReasoningGym(LanguageWorld):
    """One task of reasoning-gym, by its name, such as "chain_sum"; settings are those of its configuration.

    A question is its own canonical spelling: the splits hold different questions. There is one style, "answer", and no wrong
    solutions. The verifier is the task's own; `right` is a score of 1. Raises MissingError, InputError.

    Example::

        from tutelage.data.worlds.reasoning_gym import ReasoningGym

        world = ReasoningGym("chain_sum", min_terms=2, max_terms=3)
        item = world.sample(1, rng=0)[0]
        assert world.verify(item, item.answer).right
    """

    styles = ("answer",)

    def __init__(self, task: str, **settings: Any) -> None:
        try:
            self._gym = import_module("reasoning_gym")
        except ImportError as error:
            raise MissingError("reasoning-gym is not installed: pip install reasoning-gym") from error
        if "seed" in settings or "size" in settings:
            raise InputError("settings", ", ".join(settings), "settings of the task without seed and size: rng and n say them")
        self.task, self.settings, self.name = task, settings, f"reasoning-gym/{task}"
        try:
            self._judge = self._made(0)
        except (ValueError, TypeError, AssertionError) as error:
            raise InputError("task", task, f"a task of reasoning-gym with its settings ({error})") from error

    def _made(self, seed: int) -> Any:
        return self._gym.create_dataset(self.task, seed=seed, size=BLOCK, **self.settings)

    @property
    def alphabet(self) -> str:
        """The characters of some of its questions and answers; others may have more."""
        return "".join(sorted({c for entry in self._judge for c in f"{entry['question']}{entry['answer']}"}))

    def draw(self, rng: np.random.Generator) -> Item:
        made = self._made(int(rng.integers(2**31)))
        return self._item(made[int(rng.integers(BLOCK))])

    def _item(self, entry: dict[str, Any]) -> Item:
        return Item(str(entry["question"]), str(entry["answer"]), str(entry["question"]), (entry,))

    def _render(self, item: Item, style: str, rng: np.random.Generator, wrong: bool) -> str:
        if wrong:
            raise InputError("wrong", wrong, "False: reasoning-gym writes no wrong solutions")
        return item.answer

    def verify(self, item: Item, text: str) -> Verdict:
        try:
            score = float(self._judge.score_answer(text, item.content[0]))
        except Exception:  # some tasks parse an answer without care
            score = 0.0
        return Verdict(score >= 1.0, text, (), score)
