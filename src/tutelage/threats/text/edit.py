"""Edits of a text as pure functions: what they change, what they must leave, what becomes of the label.

An edit draws from a stream of its own, made of its name, the seed and the item, so a text's result depends neither on the
batch nor on the order, and its bytes are the same on any machine. Only `Random.random` is called, whose numbers Python
guarantees from version to version.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from hashlib import sha256
from operator import itemgetter
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple

from tutelage.core.checks import check_callable, check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import derive

Family = Literal["character", "word", "phrase", "style", "translation", "custom"]
LabelEffect = Literal["keep", "map", "unknown"]
Span = tuple[int, int]
Protect = Sequence[str | Span]
PLACE = itemgetter(0, 1)


class Change(NamedTuple):
    """text[start:end] becomes `text`; start == end inserts."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Edited:
    """A text after an edit.

    changes: of the original, sorted, not overlapping. refused: why nothing was done, or "". kept: where the protected spans
    lie now.
    """

    text: str
    changes: tuple[Change, ...] = ()
    refused: str = ""
    kept: tuple[Span, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.changes)


class Protected:
    """The spans of a text that must stay byte for byte. A word stands for each place where it occurs as a whole word."""

    def __init__(self, text: str, protect: Protect = ()) -> None:
        spans: list[Span] = []
        for one in protect:
            if isinstance(one, str):
                spans += spans_of(text, one)
                continue
            pair = tuple(one) if isinstance(one, tuple | list) else ()
            if len(pair) != 2 or not all(isinstance(i, int) for i in pair) or not 0 <= pair[0] <= pair[1] <= len(text):
                raise InputError("protect", one, f"a word, or a span (start, end) with 0 <= start <= end <= {len(text)}")
            spans.append((pair[0], pair[1]))
        self.spans = _merged(spans)
        self._starts = [start for start, _ in self.spans]
        self._ends = [end for _, end in self.spans]

    def touches(self, start: int, end: int) -> bool:
        """Whether text[start:end] shares a character with a protected span, or an insertion at start == end cuts one."""
        if not self.spans:
            return False
        if start == end:
            i = bisect_right(self._starts, start - 1) - 1  # the last that begins before `start`
            return i >= 0 and self._ends[i] > start
        i = bisect_right(self._ends, start)  # the first that ends after `start`
        return i < len(self.spans) and self._starts[i] < end

    def borders(self, start: int, end: int) -> bool:
        """Whether text[start:end] shares a character with a protected span or lies beside one."""
        i = bisect_left(self._ends, start)
        return i < len(self.spans) and self._starts[i] <= end


def spans_of(text: str, word: str) -> list[Span]:
    """Where `word` occurs in `text` with no letter, digit or underscore beside it (where its own end is one)."""
    if not word:
        return []
    left = r"(?<!\w)" if re.match(r"\w", word) else ""
    right = r"(?!\w)" if re.search(r"\w\Z", word) else ""
    return [match.span() for match in re.finditer(left + re.escape(word) + right, text)]


class TextEdit(ABC):
    """One way to change a text. Subclasses are frozen dataclasses whose fields are the edit's strengths.

    label_effect: "keep", "map" (see `map_label`) or "unknown": then the edited text has no label that could be scored.
    random: whether the seed matters; if not, one seed is all there is.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    random: ClassVar[bool] = True
    label_effect: LabelEffect = "keep"

    @abstractmethod
    def propose(self, text: str, rng: Random, protected: Protected) -> Iterable[Change]:
        """The changes, in any order, not overlapping. Those that touch a protected span are dropped by the caller.

        The draws must not depend on `protected`, so that the rest of a text is changed alike with and without it.
        """

    def __call__(self, text: str, *, seed: int = 0, item: str | None = None, protect: Protect = ()) -> Edited:
        """`text` after the edit.

        seed: an integer; item: the name of the text, which its stream hangs on (default: the text itself), such as
        "HumanEval/3". protect: words or spans (start, end) that must stay. Raises InputError, and MissingError where the
        edit needs data or a package that is not here.
        """
        check_text("text", text)
        kept = Protected(text, protect) if protect else NOTHING
        return self._edited(text, kept, self._rng(seed, text if item is None else item))

    def many(
        self,
        texts: Sequence[str],
        *,
        seed: int = 0,
        items: Sequence[str] | None = None,
        protect: Sequence[Protect] | None = None,
    ) -> list[Edited]:
        """Each text as by itself; items and protect have one entry a text."""
        check_texts("texts", texts)
        for argument, given in (("items", items), ("protect", protect)):
            if given is not None and len(given) != len(texts):
                raise InputError(argument, f"{len(given)} entries", f"one for each of {len(texts)} texts")
        names = texts if items is None else items
        if protect is None:
            return self._many(texts, [NOTHING] * len(texts), seed, names)
        return self._many(texts, [Protected(t, p) for t, p in zip(texts, protect, strict=True)], seed, names)

    def _many(self, texts: Sequence[str], protected: Sequence[Protected], seed: int, items: Sequence[str]) -> list[Edited]:
        return [self._edited(t, p, self._rng(seed, i)) for t, p, i in zip(texts, protected, items, strict=True)]

    def map_label(self, label: Hashable) -> Hashable:
        """The label of the edited text; InputError where it is unknown."""
        if self.label_effect != "keep":
            raise InputError("label", label, f"an edit that says what becomes of labels; {self.name} does not")
        return label

    def check(self) -> None:
        """Raise MissingError, in one sentence, if data or a package that the edit needs is not here."""
        return None

    @property
    def identity(self) -> str:
        """Name and parameters, such as "butter-fingers(rate=0.05)"; equal identities make equal edits."""
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.parameters().items())})"

    def parameters(self) -> dict[str, str]:
        """The fields as text, without those that name a collaborator with an identity of its own."""
        own: Any = self  # every edit is a dataclass
        return {f.name: _shown(getattr(self, f.name)) for f in fields(own) if f.repr}

    def _rng(self, seed: int, item: str) -> Random:
        check_integer("seed", seed, low=0)
        return Random(derive(seed, "text edit", self.name, item))

    def _edited(self, text: str, protected: Protected, rng: Random) -> Edited:
        changes = [c for c in self.propose(text, rng, protected) if text[c[0] : c[1]] != c[2]]
        if protected.spans:
            changes = [c for c in changes if not protected.touches(c.start, c.end)]
        return apply(text, changes, protected.spans)


def apply(text: str, changes: Iterable[Change], spans: Sequence[Span] = ()) -> Edited:
    """`text` with all `changes` made; of two that overlap the first stays. spans: those that no change touches."""
    kept: list[Change] = []
    pieces: list[str] = []
    at = 0
    for change in sorted(changes, key=PLACE):
        start, end, new = change
        if start < at:
            continue
        pieces.append(text[at:start])
        pieces.append(new)
        at = end
        kept.append(change)
    if not kept:
        return Edited(text, kept=tuple(spans))
    result = "".join([*pieces, text[at:]])
    if result == text:
        return Edited(text, kept=tuple(spans))
    return Edited(result, tuple(kept), kept=tuple(moved(spans, kept)) if spans else ())


def moved(spans: Iterable[Span], changes: Sequence[Change]) -> list[Span]:
    """Where spans that no change touches lie after the changes. An insertion at the start of a span comes before it."""
    starts = [c.start for c in changes]
    shifts = [0]
    for change in changes:
        shifts.append(shifts[-1] + len(change.text) - (change.end - change.start))
    result = []
    for start, end in spans:
        shift = shifts[bisect_right(starts, start)]
        result.append((start + shift, end + shift))
    return result


def difference(before: str, after: str) -> tuple[Change, ...]:
    """Changes that make `after` of `before`: word by word, for edits that return only a new text."""
    if before == after:
        return ()
    old, new = re.findall(r"\s+|\w+|[^\w\s]", before), re.findall(r"\s+|\w+|[^\w\s]", after)
    at = [0]
    for piece in old:
        at.append(at[-1] + len(piece))
    found = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return tuple(Change(at[i], at[j], "".join(new[k:m])) for tag, i, j, k, m in found if tag != "equal")


# ------------------------------------------------------------------------------------------------------------ combined


@dataclass(frozen=True)
class Identity(TextEdit):
    """Changes nothing: the control of every comparison."""

    name = "identity"
    family = "custom"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterable[Change]:
        return ()


@dataclass(frozen=True)
class Chain(TextEdit):
    """Several edits, one after the other; the label is known if all of them know it."""

    edits: tuple[TextEdit, ...]

    name = "chain"
    family = "custom"

    def __post_init__(self) -> None:
        if not isinstance(self.edits, tuple) or not all(isinstance(one, TextEdit) for one in self.edits):
            raise InputError("edits", self.edits, "a tuple of text edits")

    @property
    def label_effect(self) -> LabelEffect:  # type: ignore[override]
        effects = {one.label_effect for one in self.edits}
        return "unknown" if "unknown" in effects else "map" if "map" in effects else "keep"

    def map_label(self, label: Hashable) -> Hashable:
        for one in self.edits:
            label = one.map_label(label)
        return label

    def check(self) -> None:
        for one in self.edits:
            one.check()

    @property
    def identity(self) -> str:
        return " then ".join(one.identity for one in self.edits)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterable[Change]:
        raise NotImplementedError  # each edit has a stream of its own: see _many

    def _edited(self, text: str, protected: Protected, rng: Random) -> Edited:
        raise NotImplementedError

    def __call__(self, text: str, *, seed: int = 0, item: str | None = None, protect: Protect = ()) -> Edited:
        return self.many([text], seed=seed, items=None if item is None else [item], protect=[protect])[0]

    def _many(self, texts: Sequence[str], protected: Sequence[Protected], seed: int, items: Sequence[str]) -> list[Edited]:
        now, spans = list(texts), [p.spans for p in protected]
        for i, edit in enumerate(self.edits):
            made = edit._many(
                now, [Protected(t, s) for t, s in zip(now, spans, strict=True)], seed, [f"{n}/{i}" for n in items]
            )
            spans = [one.kept for one in made]
            now = [one.text for one in made]
        return [Edited(b, difference(a, b), "", kept) for a, b, kept in zip(texts, now, spans, strict=True)]


@dataclass(frozen=True)
class FunctionEdit(TextEdit):
    """A function (text, rng) -> text of the user's own; rng is a `random.Random` of this item.

    A result that lost a protected span is refused. label_map: label -> label for effect "map".
    """

    title: str
    function: Callable[[str, Random], str]
    label_effect: LabelEffect = "keep"
    label_map: Callable[[Any], Any] | None = None

    family = "custom"

    def __post_init__(self) -> None:
        check_text("title", self.title)
        check_callable("function", self.function, "a function of (text, rng) that returns a text")
        check_choice("label_effect", self.label_effect, ("keep", "map", "unknown"))
        if (self.label_effect == "map") != (self.label_map is not None):
            raise InputError("label_map", self.label_map, 'a function of a label with label_effect="map", None otherwise')

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.title

    @property
    def identity(self) -> str:
        where = f"{getattr(self.function, '__module__', '')}.{getattr(self.function, '__qualname__', 'function')}"
        return f"{self.title}({where})"

    def map_label(self, label: Hashable) -> Hashable:
        if self.label_map is not None:
            mapped: Hashable = self.label_map(label)
            return mapped
        return super().map_label(label)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterable[Change]:
        raise NotImplementedError

    def _edited(self, text: str, protected: Protected, rng: Random) -> Edited:
        after = self.function(text, rng)
        check_text(f"result of {self.title}", after)
        return whole(text, after, protected)


def whole(before: str, after: str, protected: Protected) -> Edited:
    """An edit that rewrote everything, refused where the protected spans are not all there in their order."""
    places: list[Span] = []
    at = 0
    for start, end in protected.spans:
        found = after.find(before[start:end], at)
        if found < 0:
            return Edited(before, (), f"it lost {before[start:end]!r}, which is protected", protected.spans)
        at = found + end - start
        places.append((found, at))
    return Edited(after, difference(before, after), "", tuple(places))


# -------------------------------------------------------------------------------------------------------------- checks


def check_text(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(argument, type(value).__name__, "a text (str)")


def check_texts(argument: str, value: object) -> None:
    """A list of texts."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(argument, type(value).__name__, "a list of texts")
    for i, one in enumerate(value):
        if not isinstance(one, str):
            raise InputError(argument, f"{type(one).__name__} at place {i}", "texts (str) only")


def check_rate(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(argument, value, "a probability from 0 to 1")


def _merged(spans: list[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _shown(value: object) -> str:
    text = str(getattr(value, "identity", value))
    return text if len(text) <= 40 else f"{text[:24]}... {sha256(text.encode()).hexdigest()[:8]}"


NOTHING = Protected("")
