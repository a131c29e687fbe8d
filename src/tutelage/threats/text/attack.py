"""Attacks on text classifiers: words are changed one after the other, the most important first, until the answer changes.

Only texts that the model has right are attacked. All texts of a call go side by side: at every step the questions of all of
them are put together into batches, so the model is asked in as few calls as can be, and a result still depends on its own
text alone. What is asked is counted for each text, and a budget stops the search.

GreedyWords: the importance of a word is what the probability of the label loses without it; its candidates are WordNet's
synonyms in the form of the word (after Ren et al. 2019 and TextFooler, arXiv 1907.11932, without their embeddings).
TextBugger (arXiv 1812.05271): the candidates are slips inside the word: a space, a letter lost, two swapped, one that looks
like another, a neighbouring key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.threats.text.character import NEIGHBOURS, pick
from tutelage.threats.text.edit import Change, Protect, Protected, apply, check_rate, check_texts
from tutelage.threats.text.grammar import CLOSED, check_grammar
from tutelage.threats.text.lexicon import WORDNET, Synonyms, check_lexicon, check_ready
from tutelage.threats.text.tokens import WORD, Token
from tutelage.threats.text.word import candidates

Predict = Callable[[Sequence[str]], npt.NDArray[np.float64]]
# letters and what looks like them
LOOKALIKES = {"a": "@", "e": "3", "i": "1", "l": "1", "o": "0", "s": "$", "t": "7", "b": "8", "g": "9", "z": "2", "c": "("}


@dataclass(frozen=True, eq=False)
class TextAttackResult:
    """What an attack found for n texts. texts: the attacked ones, the originals where it failed or had nothing to attack.

    correct: (n,) what the model had right before; success: (n,) of those, where the answer now is another; queries: (n,) texts
    that the model was asked for each; words: (n,) how many words were changed.
    """

    texts: list[str]
    correct: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    queries: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]

    @property
    def robust_accuracy(self) -> float:
        """Share of all texts that are right and stay right."""
        return float((self.correct & ~self.success).mean())

    @property
    def success_rate(self) -> float:
        """Share of the texts that were right whose answer could be changed; NaN if none was right."""
        return float(self.success[self.correct].mean()) if self.correct.any() else float("nan")


@dataclass(frozen=True)
class _Found:
    text: str
    success: bool
    queries: int
    words: int


_Search = Generator[list[str], npt.NDArray[np.float64], _Found]


@dataclass(frozen=True)
class TextAttack(ABC):
    """max_changed: largest share of a text's words that may be changed (at least one word may).

    max_queries: how many texts the model may be asked for one attacked text, the first look included.
    """

    max_changed: float = 0.2
    max_queries: int = 200

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_rate("max_changed", self.max_changed)
        check_integer("max_queries", self.max_queries)

    @property
    def identity(self) -> str:
        shown = (f"{f.name}={getattr(getattr(self, f.name), 'identity', getattr(self, f.name))}" for f in fields(self))
        return f"{self.name}({', '.join(shown)})"

    @abstractmethod
    def options(self, text: str, rng: Random) -> list[tuple[Token, tuple[str, ...]]]:
        """The words that may be changed, each with what it may become."""

    def check(self) -> None:
        """Raise MissingError, in one sentence, if data or a package that the attack needs is not here."""
        return None

    def run(
        self,
        predict: Predict,
        texts: Sequence[str],
        labels: Sequence[int],
        *,
        seed: int = 0,
        items: Sequence[str] | None = None,
        protect: Sequence[Protect] | None = None,
        batch_size: int = 64,
    ) -> TextAttackResult:
        """Attack `texts`, whose true classes are `labels` (columns of what `predict` returns, probabilities (n, C)).

        items: names that the draws hang on, as for edits. Raises InputError.
        """
        check_texts("texts", texts)
        check_integer("batch_size", batch_size)
        check_integer("seed", seed, low=0)
        for argument, given in (("labels", labels), ("items", items), ("protect", protect)):
            if given is not None and len(given) != len(texts):
                raise InputError(argument, f"{len(given)} entries", f"one for each of {len(texts)} texts")
        self.check()
        n = len(texts)
        if n == 0:
            none = np.zeros(0, np.int64)
            return TextAttackResult([], none.astype(bool), none.astype(bool), none, none)
        names = texts if items is None else items
        first = _asked(predict, list(texts), batch_size)
        if min(labels) < 0 or max(labels) >= first.shape[1]:
            raise InputError("labels", f"values from {min(labels)} to {max(labels)}", f"classes from 0 to {first.shape[1] - 1}")
        correct = first.argmax(1) == np.asarray(labels)
        searches: dict[int, _Search] = {}
        for i in np.flatnonzero(correct).tolist():
            rng = Random(derive(seed, "text attack", self.name, names[i]))
            kept = Protected(texts[i], protect[i]) if protect is not None else Protected(texts[i])
            searches[i] = self._search(texts[i], int(labels[i]), float(first[i, labels[i]]), rng, kept)
        found = _side_by_side(predict, searches, batch_size)
        missed = _Found("", False, 1, 0)
        results = [found.get(i, missed) for i in range(n)]
        return TextAttackResult(
            [one.text if one.success else text for one, text in zip(results, texts, strict=True)],
            correct,
            np.array([one.success for one in results]),
            np.array([one.queries for one in results]),
            np.array([one.words if one.success else 0 for one in results]),
        )

    def _search(self, text: str, label: int, sure: float, rng: Random, kept: Protected) -> _Search:
        """Greedy search: yields the texts it wants to ask, is sent their probabilities."""
        left = self.max_queries - 1
        asked = 1
        words = [(token, new) for token, new in self.options(text, rng) if not kept.touches(token.start, token.end)]
        allowed = max(1, int(self.max_changed * len(WORD.findall(text))))
        # a word's importance: what the label loses without it
        tried = words[: max(0, left)]
        if not tried or left < 2:
            return _Found(text, False, asked, 0)
        without = yield [text[: token.start] + text[token.end :] for token, _ in tried]
        asked, left = asked + len(tried), left - len(tried)
        order = np.argsort(without[:, label], kind="stable")
        changes: list[Change] = []
        for place in order.tolist():
            token, options = tried[place]
            if len(changes) == allowed or left <= 0:
                break
            attempts = [apply(text, [*changes, Change(token.start, token.end, new)]).text for new in options[:left]]
            answers = yield attempts
            asked, left = asked + len(attempts), left - len(attempts)
            best = int(answers[:, label].argmin())
            over = np.flatnonzero(answers.argmax(1) != label)
            if len(over):
                best = int(over[answers[over, label].argmin()])
                return _Found(attempts[best], True, asked, len(changes) + 1)
            if answers[best, label] < sure:
                sure = float(answers[best, label])
                changes.append(Change(token.start, token.end, options[best]))
        return _Found(text, False, asked, 0)


@dataclass(frozen=True)
class GreedyWords(TextAttack):
    """Greedy word substitution; candidates: at most so many synonyms a word, of its first `senses` senses."""

    candidates: int = 12
    senses: int | None = 3
    lexicon: Synonyms = WORDNET

    name = "greedy-words"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("candidates", self.candidates)
        check_lexicon("lexicon", self.lexicon)

    def check(self) -> None:
        check_ready(self.lexicon)
        if self.lexicon.by_lemma:
            check_grammar()

    def options(self, text: str, rng: Random) -> list[tuple[Token, tuple[str, ...]]]:
        return [(t, new[: self.candidates]) for t, new in candidates(text, self.lexicon, senses=self.senses)]


@dataclass(frozen=True)
class TextBugger(TextAttack):
    """Slips inside words of at least `shortest` letters; function words are left."""

    shortest: int = 3

    name = "text-bugger"

    def options(self, text: str, rng: Random) -> list[tuple[Token, tuple[str, ...]]]:
        found = []
        for match in WORD.finditer(text):
            draws = [rng.random() for _ in range(5)]
            if len(match[0]) >= self.shortest and match[0].lower() not in CLOSED:
                found.append((Token(match[0], *match.span()), bugs(match[0], draws)))
        return found


def bugs(word: str, draws: Sequence[float]) -> tuple[str, ...]:
    """The five bugs of TextBugger on a word of at least 3 letters; draws: five numbers in [0, 1) that say where."""
    inside = len(word) - 2  # letters between the first and the last
    made = []
    i = 1 + int(draws[0] * (len(word) - 1))
    made.append(f"{word[:i]} {word[i:]}")
    i = 1 + int(draws[1] * inside)
    made.append(word[:i] + word[i + 1 :])
    if inside > 1:
        i = 1 + int(draws[2] * (inside - 1))
        made.append(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    alike = [i for i, letter in enumerate(word.lower()) if letter in LOOKALIKES]
    if alike:
        i = alike[int(draws[3] * len(alike))]
        made.append(word[:i] + LOOKALIKES[word[i].lower()] + word[i + 1 :])
    i = 1 + int(draws[4] * inside)
    if keys := NEIGHBOURS.get(word[i].lower()):
        made.append(word[:i] + pick(keys, (draws[4] * inside) % 1) + word[i + 1 :])
    return tuple(dict.fromkeys(one for one in made if one != word))


def _side_by_side(predict: Predict, searches: dict[int, _Search], batch_size: int) -> dict[int, _Found]:
    """Run all searches, the questions of one step in common batches."""
    found: dict[int, _Found] = {}
    waiting: dict[int, list[str]] = {}

    def advance(i: int, answer: npt.NDArray[np.float64] | None) -> None:
        try:
            waiting[i] = next(searches[i]) if answer is None else searches[i].send(answer)
        except StopIteration as stop:
            found[i] = stop.value

    for i in searches:
        advance(i, None)
    while waiting:
        asked = dict(waiting)
        waiting.clear()
        answers = _asked(predict, [text for texts in asked.values() for text in texts], batch_size)
        at = 0
        for i, texts in asked.items():
            advance(i, answers[at : at + len(texts)])
            at += len(texts)
    return found


def _asked(predict: Predict, texts: list[str], batch_size: int) -> npt.NDArray[np.float64]:
    parts: list[Any] = [predict(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
    result: npt.NDArray[np.float64] = np.concatenate([np.asarray(part, np.float64) for part in parts])
    if result.ndim != 2 or len(result) != len(texts):
        raise InputError("predict", f"an answer of shape {result.shape}", f"probabilities of shape ({len(texts)}, classes)")
    return result
