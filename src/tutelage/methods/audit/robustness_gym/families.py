"""Ready-made subpopulations: buckets of a score, words and phrases, overlap of two columns, labels, confidence, entities."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.data.tables import Table
from tutelage.methods.audit.robustness_gym.operations import CachedOperation
from tutelage.methods.audit.robustness_gym.slices import Bools, Context, Subpopulation
from tutelage.threats.text.gazetteer import NAMES, PLACES

Bound = float | int | str
Interval = Sequence[Bound]


class ScoreBuckets(Subpopulation):
    """Rows whose score lies in an interval, closed on both ends.

    intervals: pairs of numbers, or of percentiles of the whole data set ("0%", "10%"), which are cut after all scores are
    known. Where many rows have one score, a percentile bucket may hold many more or fewer than it says: look at its size.
    """

    title: str
    intervals: Sequence[Interval]

    @abstractmethod
    def scores(self, data: Table, context: Context) -> npt.NDArray[np.float64]: ...

    @property
    def names(self) -> list[str]:
        return [f"{self.title} {low} to {high}" for low, high in self.intervals]

    def members(self, data: Table, context: Context) -> Bools:
        scores = np.asarray(self.scores(data, context), np.float64)
        columns = []
        for low, high in self.intervals:
            a, b = _cut(low, scores), _cut(high, scores)
            columns.append((scores >= a) & (scores <= b))
        return np.stack(columns, 1) if columns else np.zeros((len(data), 0), bool)


def _cut(bound: Bound, scores: npt.NDArray[np.float64]) -> float:
    if not isinstance(bound, str):
        return float(bound)
    return float(np.percentile(scores, float(bound[:-1]))) if len(scores) else 0.0


def check_intervals(intervals: object) -> None:
    if isinstance(intervals, str) or not isinstance(intervals, Sequence) or not intervals:
        raise InputError("intervals", intervals, "a list of pairs (low, high)")
    for pair in intervals:
        ok = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not ok or not all(_is_bound(one) for one in pair):
            raise InputError("intervals", pair, 'a pair of numbers, or of percentiles such as ("0%", "10%")')


def _is_bound(one: object) -> bool:
    if isinstance(one, str):
        return re.fullmatch(r"\d+(\.\d+)?%", one) is not None and float(one[:-1]) <= 100
    return isinstance(one, int | float) and not isinstance(one, bool)


Unit = Literal["tokens", "characters", "sentences"]
UNITS: dict[str, Callable[[str], int]] = {
    "tokens": lambda text: len(text.split()),
    "characters": len,
    "sentences": lambda text: len(re.findall(r"[^.!?\s][^.!?]*", text)),
}


@dataclass(frozen=True, eq=False)
class Length(ScoreBuckets):
    """Buckets of length in words, characters or sentences."""

    intervals: Sequence[Interval] = (("0%", "10%"), ("90%", "100%"))
    unit: Unit = "tokens"

    def __post_init__(self) -> None:
        check_intervals(self.intervals)
        check_choice("unit", self.unit, tuple(UNITS))

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"length in {self.unit}"

    def scores(self, data: Table, context: Context) -> npt.NDArray[np.float64]:
        operation = CachedOperation("length", UNITS[self.unit], {"unit": self.unit})
        return np.array(context.store.run(data, operation, [context.column]), np.float64)


@dataclass(frozen=True, eq=False)
class OperationBuckets(ScoreBuckets):
    """Buckets of any cached operation that gives a number for a row: similarity, a parse's depth, a readability score."""

    operation: CachedOperation
    intervals: Sequence[Interval]
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_intervals(self.intervals)

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.operation.identity

    def scores(self, data: Table, context: Context) -> npt.NDArray[np.float64]:
        return np.array(context.store.run(data, self.operation, self.columns or (context.column,)), np.float64)


def lexical_overlap(a: str, b: str) -> float:
    """|A and B| / |A or B| of the lower-case word sets; 0 for two empty texts."""
    one, other = set(re.findall(r"\w+", a.lower())), set(re.findall(r"\w+", b.lower()))
    return len(one & other) / len(one | other) if one | other else 0.0


def is_subsequence(premise: str, hypothesis: str) -> bool:
    """HANS' heuristic: the words of the hypothesis stand in the premise in the same order, without a gap."""
    a, b = re.findall(r"\w+", premise.lower()), re.findall(r"\w+", hypothesis.lower())
    return any(a[i : i + len(b)] == b for i in range(len(a) - len(b) + 1))


def lexical_overlap_buckets(first: str, second: str, intervals: Sequence[Interval]) -> OperationBuckets:
    """Buckets of the lexical overlap of two columns, such as premise and hypothesis."""
    return OperationBuckets(CachedOperation("lexical overlap", lexical_overlap), intervals, (first, second))


def subsequence(premise: str, hypothesis: str) -> OperationBuckets:
    """Rows of HANS' subsequence heuristic."""
    return OperationBuckets(CachedOperation("subsequence", is_subsequence), [(1, 1)], (premise, hypothesis))


PHRASES: dict[str, str] = {
    "negation": r"\b(?:no|not|never|none|nobody|nothing|nowhere|neither|nor|cannot|without)\b|n['’]t\b",
    "contrast": r"\b(?:but|although|though|however|yet|despite|while|whereas)\b",
    "comparative": r"\b(?:more|less|better|worse|than|further|fewer)\b|\b\w{3,}ier\b",
    "superlative": r"\b(?:most|least|best|worst)\b|\b\w{3,}iest\b",
    "quantifier": r"\b(?:all|some|any|every|each|many|much|few|several|most|both|half|enough)\b",
    "temporal": r"\b(?:before|after|since|until|during|when|while|by the time|as soon as)\b",
    "possessive": r"\b(?:my|your|his|her|its|our|their)\b|\w['’]s\b",
    "question": r"\?|^\s*(?:who|what|when|where|why|how|which|is|are|do|does|did|can)\b",
    "hedge": r"\b(?:perhaps|maybe|possibly|seems?|somewhat|rather|almost|kind of|sort of|might|could|probably)\b",
    "capitals": r"\b[A-Z]{2,}\b",
    "emoticon": r"[:;=8][-o*']?[)\](\[dDpP/\\|]|<3|[\U0001F300-\U0001FAFF☹-☻❤]",
    "exclamation": r"!",
    "number": r"\d",
}
CASED = ("capitals", "emoticon")


@dataclass(frozen=True, eq=False)
class HasPhrase(Subpopulation):
    """Rows that hold a pattern: one of `PHRASES` by name, or a regular expression of one's own under a title."""

    title: str
    pattern: str = ""

    def __post_init__(self) -> None:
        if not self.pattern:
            check_choice("title", self.title, tuple(PHRASES))
            return
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError("pattern", f"{self.pattern} ({error})", "a regular expression") from error

    @property
    def names(self) -> list[str]:
        return [self.title]

    @property
    def identity(self) -> str:
        return f"{self.title}({self.pattern})" if self.pattern else f"has {self.title}"

    def members(self, data: Table, context: Context) -> Bools:
        cased = not self.pattern and self.title in CASED
        found = re.compile(self.pattern or PHRASES[self.title], 0 if cased else re.IGNORECASE)
        return np.array([[found.search(text) is not None] for text in data.column(context.column)], bool).reshape(-1, 1)


def has_words(title: str, words: Sequence[str]) -> HasPhrase:
    """Rows with one of these words or phrases, as whole words."""
    return HasPhrase(title, r"\b(?:" + "|".join(map(re.escape, words)) + r")\b")


@dataclass(frozen=True, eq=False)
class LabelIs(Subpopulation):
    """Rows of each of these labels."""

    labels: Sequence[Hashable]

    @property
    def names(self) -> list[str]:
        return [f"label {label}" for label in self.labels]

    def members(self, data: Table, context: Context) -> Bools:
        found = data.column(context.label)
        return np.array([[one == label for label in self.labels] for one in found], bool).reshape(len(data), -1)


@dataclass(frozen=True, eq=False)
class Confidence(ScoreBuckets):
    """Buckets of a model's confidence, the largest probability: its slices are of that model."""

    intervals: Sequence[Interval] = (("0%", "10%"), ("90%", "100%"))

    needs_model = True
    title = "confidence"

    def __post_init__(self) -> None:
        check_intervals(self.intervals)

    def scores(self, data: Table, context: Context) -> npt.NDArray[np.float64]:
        if context.probabilities is None:
            raise InputError("model", None, "a model: confidence is that of one")
        result: npt.NDArray[np.float64] = context.probabilities.max(1)
        return result


@dataclass(frozen=True, eq=False)
class Entities(Subpopulation):
    """Rows that name a person ("name") or a place, and of those the ones whose rarest entity occurs at most `rare` times.

    extract: a function text -> names, in place of the two small lists of this package.
    """

    kind: Literal["name", "place"] = "name"
    rare: int = 2
    extract: Callable[[str], Sequence[str]] | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("name", "place"))

    @property
    def names(self) -> list[str]:
        return [f"has a {self.kind}", f"rare {self.kind}"]

    def members(self, data: Table, context: Context) -> Bools:
        known: Any = NAMES if self.kind == "name" else PLACES

        def listed(text: str) -> list[str]:
            return [word for word in re.findall(r"[A-Z]\w+", text) if word in known]

        found = [list((self.extract or listed)(text)) for text in data.column(context.column)]
        counts = Counter(one for names in found for one in set(names))
        return np.array([[bool(n), bool(n) and min(counts[o] for o in n) <= self.rare] for n in found], bool).reshape(-1, 2)
