"""Edits of words: synonyms, inflection, tense, contractions, negation, names and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tutelage.core.checks import check_callable, check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.threats.text.character import pick
from tutelage.threats.text.edit import Change, LabelEffect, Protected, TextEdit, check_rate
from tutelage.threats.text.gazetteer import NAMES, PLACES
from tutelage.threats.text.grammar import CLOSED, check_grammar, inflect, inflections, lemma, part_of, tags
from tutelage.threats.text.lexicon import WORDNET, Synonyms, check_lexicon, check_ready
from tutelage.threats.text.tokens import Token, like, tokens

# ------------------------------------------------------------------------------------------------------------ synonyms


def candidates(
    text: str, lexicon: Synonyms, *, senses: int | None = None, inflected: bool = True
) -> list[tuple[Token, tuple[str, ...]]]:
    """The words of `text` that have synonyms, with all of them, in the case of the word.

    From WordNet: of the word's part of speech in its sentence, single words only, brought into the word's own form ("loved" ->
    "adored") unless `inflected` is false; function words and names have none. From a table: as the table says.
    """
    found = []
    kinds = tags(text) if lexicon.by_lemma else ()
    for i, token in enumerate(tokens(text)):
        if not token.text[0].isalpha():
            continue
        options = _options(token.text, kinds[i], lexicon, senses, inflected) if kinds else lexicon.synonyms(token.text, "")
        words = tuple(dict.fromkeys(like(token.text, one) for one in options))
        if words := tuple(one for one in words if one != token.text):
            found.append((token, words))
    return found


def _options(word: str, tag: str, lexicon: Synonyms, senses: int | None, inflected: bool) -> Iterable[str]:
    part = part_of(tag)
    if not part or word.lower() in CLOSED or len(word) < 2:
        return ()
    base = lemma(word, part)
    others = [one for one in lexicon.synonyms(base, part, senses) if one.isalpha()]
    if not inflected:
        return others
    plain = tag in ("NN", "VB", "VBP", "JJ", "RB")
    return [form for one in others if (form := one if plain or one[0].isupper() else inflect(one, tag))]


def article(text: str, token: Token, new: str) -> Change | None:
    """ "a" or "an" before `token`, made to fit `new`; None where nothing is to be done."""
    before = re.search(r"\b(an?)(\s+)\Z", text[: token.start], re.IGNORECASE)
    if before is None:
        return None
    wanted = "an" if new[:1].lower() in "aeiou" else "a"
    if (token.text[:1].lower() in "aeiou") == (wanted == "an"):
        return None
    return Change(before.start(1), before.end(1), like(before[1], wanted))


@dataclass(frozen=True)
class _SynonymEdit(TextEdit):
    """rate: probability of each word that has synonyms. senses: how many of a lemma's senses are used (None: all).

    inflected: bring the synonym into the form of the word; the released code of ReCode does not.
    """

    rate: float = 0.5
    senses: int | None = 2
    inflected: bool = True
    lexicon: Synonyms = WORDNET

    family = "word"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)
        if self.senses is not None:
            check_integer("senses", self.senses)
        check_lexicon("lexicon", self.lexicon)

    def check(self) -> None:
        check_ready(self.lexicon)
        if self.lexicon.by_lemma:
            check_grammar()

    def _drawn(self, text: str, rng: Random) -> Iterator[tuple[Token, str]]:
        check_ready(self.lexicon)
        for token, options in candidates(text, self.lexicon, senses=self.senses, inflected=self.inflected):
            take, which = rng.random() < self.rate, rng.random()
            if take:
                yield token, pick(options, which)


@dataclass(frozen=True)
class SynonymSubstitution(_SynonymEdit):
    """Each word that has synonyms, with probability `rate`, becomes one of them; "a" and "an" before it follow."""

    name = "synonym-substitution"

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for token, new in self._drawn(text, rng):
            yield Change(token.start, token.end, new)
            if (fitting := article(text, token, new)) and not protected.touches(token.start, token.end):
                yield fitting


@dataclass(frozen=True)
class SynonymInsertion(_SynonymEdit):
    """Before each word that has synonyms, with probability `rate`, one of them is inserted."""

    name = "synonym-insertion"

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for token, new in self._drawn(text, rng):
            if not protected.touches(token.start, token.end):
                yield Change(token.start, token.start, f"{new} ")


# ------------------------------------------------------------------------------------------------------------- grammar


@dataclass(frozen=True)
class _GrammarEdit(TextEdit):
    family = "word"

    def check(self) -> None:
        check_grammar()


@dataclass(frozen=True)
class InflectionalVariation(_GrammarEdit):
    """Each noun, verb and adjective, with probability `rate`, takes another of its forms: "he go", "two book"."""

    rate: float = 1.0

    name = "inflectional-variation"

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for token, tag in zip(tokens(text), tags(text), strict=True):
            part = part_of(tag)
            if part not in ("n", "v", "a") or not token.text.isalpha():
                continue
            take, which = rng.random() < self.rate, rng.random()
            if take and (forms := inflections(token.text, part)):
                yield Change(token.start, token.end, like(token.text, pick(list(forms), which)))


# auxiliaries and what is left of them in contractions: "ca" of "can't", "wo" of "won't"
PAST = {
    "am": "was", "is": "was", "are": "were", "has": "had", "have": "had", "do": "did", "does": "did", "will": "would",
    "wo": "would", "can": "could", "ca": "could", "shall": "should", "may": "might", "'s": " was", "'re": " were",
    "'m": " was", "'ve": " had", "'ll": " would",
}  # fmt: skip
FUTURE = {
    "am": "will be", "is": "will be", "are": "will be", "was": "will be", "were": "will be", "has": "will have",
    "have": "will have", "had": "will have", "would": "will", "'s": " will be", "'re": " will be", "'m": " will be",
    "'ve": " will have",
}  # fmt: skip
FINITE = ("VBZ", "VBP", "VBD")
BASE_FOLLOWS = "to not n't will would can could shall should may might must do does did 'll 'd let lets"
BEFORE_BASE = frozenset(BASE_FOLLOWS.split())


@dataclass(frozen=True)
class TensePast(_GrammarEdit):
    """Every finite verb of the present, modals and imperatives at the start of a sentence too, goes into the past."""

    name = "tense-past"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        words = tokens(text)
        kinds = tags(text)
        for i, token in enumerate(words):
            low = token.text.lower().replace("’", "'")
            if low in PAST:
                if low == "'s" and not _is_verb(words, kinds, i):
                    continue
                if low in ("'s", "'re", "'m", "'ve", "'ll") and protected.borders(token.start, token.start):
                    continue
                yield Change(token.start, token.end, like(token.text, PAST[low]))
            elif _finite(words, kinds, i, ("VBZ", "VBP")) and (new := inflect(lemma(token.text, "v"), "VBD")):
                yield Change(token.start, token.end, like(token.text, new))


@dataclass(frozen=True)
class TenseFuture(_GrammarEdit):
    """Every finite verb, imperatives at the start of a sentence too, goes into the future with "will"."""

    name = "tense-future"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        words, kinds = tokens(text), tags(text)
        for i, token in enumerate(words):
            low = token.text.lower().replace("’", "'")
            following = words[i + 1].text.lower() if i + 1 < len(words) else ""
            negated = following in ("n't", "n’t") and words[i + 1].start == token.end
            if low in ("do", "does", "did") and following in ("not", "n't", "n’t"):
                yield Change(token.start, token.end, like(token.text, "wo" if negated else "will"))
            elif low in FUTURE and not (low == "'s" and not _is_verb(words, kinds, i)):
                if low[0] == "'" and protected.borders(token.start, token.start):
                    continue
                if not negated:
                    yield Change(token.start, token.end, like(token.text, FUTURE[low]))
                elif not protected.touches(token.start, words[i + 1].end):  # "isn't" -> "will not be"
                    will, _, rest = FUTURE[low].partition(" ")
                    yield Change(token.start, words[i + 1].end, like(token.text, f"{will} not {rest}".rstrip()))
            elif _finite(words, kinds, i, FINITE):
                base = lemma(token.text, "v")
                if low not in CLOSED and inflect(base, "VB"):
                    yield Change(token.start, token.end, like(token.text, f"will {base}"))


def _is_verb(words: tuple[Token, ...], kinds: tuple[str, ...], i: int) -> bool:
    """Whether "'s" at place i is "is": after a pronoun or such, not a possessive, not "let's"."""
    return i > 0 and words[i - 1].text.lower() in {
        *["it", "he", "she", "that", "this", "there", "here", "what", "who", "where", "how", "when"]
    }


def _imperative(words: tuple[Token, ...], kinds: tuple[str, ...], i: int) -> bool:
    """A verb's base form at the start of a sentence, as docstrings have it: "Return the sum." """
    word = words[i].text
    if not (i == 0 or words[i - 1].text in ".!?:;") or not word.isalpha() or word.lower() in CLOSED:
        return False
    if kinds[i] == "VB":
        return True
    # taggers take a capital verb for a noun or a name; what follows tells: an article, a pronoun, "if", "whether"
    opens = {"the", "a", "an", "all", "whether", "if", "true", "false", "none", "each", "every", "its", "this", "that", "your"}
    following = words[i + 1].text.lower() if i + 1 < len(words) else ""
    return kinds[i] in ("NN", "NNP", "VBP") and following in opens and inflect(word.lower(), "VBZ") != ""


def _finite(words: tuple[Token, ...], kinds: tuple[str, ...], i: int, wanted: tuple[str, ...]) -> bool:
    """Whether the word at place i is a finite verb of these tags, or an imperative."""
    verb = kinds[i] in wanted or _imperative(words, kinds, i)
    return verb and words[i].text.isalpha() and not _after_base(words, i)


def _after_base(words: tuple[Token, ...], i: int) -> bool:
    """Whether a word before place i asks for a base form, adverbs passed over: "will quickly go"."""
    j = i - 1
    while j >= 0 and words[j].text.lower().endswith("ly"):
        j -= 1
    return j >= 0 and words[j].text.lower().replace("’", "'") in BEFORE_BASE


# -------------------------------------------------------------------------------------------------------- contractions

CONTRACTED = {
    "n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am",
}  # fmt: skip
IRREGULAR = {"ca": "can", "wo": "will", "sha": "shall"}
JOINED = re.compile(
    r"\b(?:(?P<aux>is|are|was|were|do|does|did|has|have|had|would|could|should) not"
    r"|(?P<can>can ?not)|(?P<will>will not)"
    r"|(?P<who>it|he|she|that|there|what|who) is(?! not)|(?P<we>we|you|they) are(?! not)|(?P<i>I) am"
    r"|(?P<someone>i|you|he|she|it|we|they) will|(?P<people>i|you|we|they) have(?= (?:been|seen|had|not|never|always|ever)))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ExpandContractions(TextEdit):
    """ "isn't" -> "is not", "they're" -> "they are", "it's" -> "it is" (not where "'s" is a possessive)."""

    name = "expand-contractions"
    family = "word"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        words = tokens(text)
        for i, token in enumerate(words):
            low = token.text.lower().replace("’", "'")
            if i == 0 or words[i - 1].end != token.start or protected.borders(token.start, token.start):
                continue
            before = words[i - 1]
            if low == "n't":
                if before.text.lower() == "ai":
                    continue
                if before.text.lower() in IRREGULAR:
                    yield Change(before.start, before.end, like(before.text, IRREGULAR[before.text.lower()]))
                yield Change(token.start, token.end, " NOT" if token.text.isupper() and len(token.text) > 2 else " not")
            elif low in CONTRACTED:
                yield Change(token.start, token.end, CONTRACTED[low])
            elif low == "'s" and before.text.lower() == "let":
                yield Change(token.start, token.end, " us")
            elif low == "'s" and _is_verb(words, (), i):
                following = words[i + 1].text.lower() if i + 1 < len(words) else ""
                yield Change(token.start, token.end, " has" if following in ("been", "got", "had", "become") else " is")


@dataclass(frozen=True)
class Contract(TextEdit):
    """ "is not" -> "isn't", "they are" -> "they're", "cannot" -> "can't"."""

    name = "contract"
    family = "word"
    random = False

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        for match in JOINED.finditer(text):
            kind = str(match.lastgroup)
            head = match[0].split()[0]
            new = {
                "aux": f"{head}n't", "can": like(head, "can't"), "will": like(head, "won't"), "who": f"{head}'s",
                "we": f"{head}'re", "i": f"{head}'m", "someone": f"{head}'ll", "people": f"{head}'ve",
            }[kind]  # fmt: skip
            yield Change(*match.span(), new)


# ------------------------------------------------------------------------------------------------------------ negation

NEGATED = re.compile(
    r"\b(?P<aux>is|are|was|were|am|does|did|do|can|could|will|would|should|must|might)(?P<rest>n['’]t| not)\b"
    r"|\b(?P<short>ca|wo)n['’]t\b|\b(?P<one>cannot)\b",
    re.IGNORECASE,
)
AUXILIARY = re.compile(r"\b(?:is|are|was|were|am|can|could|will|would|should|must|might)\b(?!n['’]t| not)", re.IGNORECASE)


@dataclass(frozen=True)
class Negation(TextEdit):
    """The first verb of the text is negated; where it is negated already, the negation goes.

    "is good" -> "is not good", "isn't good" -> "is good", "likes" -> "does not like" (verbs without an auxiliary need the extra
    `text`; with verbs=False they are left). What becomes of the label is the user's to say: unknown, unless label_map says
    it, such as `lambda label: 1 - label` for two opposite classes.
    """

    verbs: bool = True
    label_map: Callable[[Any], Any] | None = None

    name = "negation"
    family = "word"
    random = False

    def __post_init__(self) -> None:
        if self.label_map is not None:
            check_callable("label_map", self.label_map, "a function of a label")

    @property
    def label_effect(self) -> LabelEffect:  # type: ignore[override]
        return "unknown" if self.label_map is None else "map"

    def map_label(self, label: Hashable) -> Hashable:
        if self.label_map is None:
            return super().map_label(label)
        mapped: Hashable = self.label_map(label)
        return mapped

    def parameters(self) -> dict[str, str]:
        return {"verbs": str(self.verbs), "label": self.label_effect}

    def check(self) -> None:
        if self.verbs:
            check_grammar()

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        negated, plain = NEGATED.search(text), AUXILIARY.search(text)
        if negated is not None and (plain is None or negated.start() <= plain.start()):
            if negated["aux"]:
                yield Change(*negated.span("rest"), "")
            else:
                word = {"ca": "can", "wo": "will", "cannot": "can"}[(negated["short"] or negated["one"]).lower()]
                yield Change(*negated.span(), like(negated[0], word))
        elif plain is not None:
            yield Change(plain.end(), plain.end(), " not")
        elif self.verbs:
            yield from self._verb(text)

    def _verb(self, text: str) -> Iterator[Change]:
        helping = {"VBD": "did", "VBZ": "does", "VBP": "do"}
        for token, tag in zip(tokens(text), tags(text), strict=True):
            if tag in helping and token.text.isalpha() and token.text.lower() not in ("has", "have", "had"):
                yield Change(token.start, token.end, like(token.text, f"{helping[tag]} not {lemma(token.text, 'v')}"))
                return


# ------------------------------------------------------------------------------------------------------------ entities

NUMBER = re.compile(r"(?<![\w.,])\d{1,6}(?![\w.,]*\d)(?!\w)")
CAPITAL = re.compile(r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)?\b")


@dataclass(frozen=True)
class EntitySwap(TextEdit):
    """First names, places and numbers become others of their kind; the same name always the same, all through a text.

    kinds: of "name", "place", "number". Names and places are those of two small lists (`gazetteer`). label_effect: "keep" suits
    sentiment or topics; say "unknown" where the label is about who, where or how many.
    """

    kinds: tuple[str, ...] = ("name", "place", "number")
    label_effect: LabelEffect = "keep"

    name = "entity-swap"
    family = "word"

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, tuple) or not self.kinds or set(self.kinds) - {"name", "place", "number"}:
            raise InputError("kinds", self.kinds, 'some of ("name", "place", "number")')
        check_choice("label_effect", self.label_effect, ("keep", "unknown"))

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterator[Change]:
        chosen: dict[str, str] = {}

        def other(old: str, options: tuple[str, ...]) -> str:
            if old not in chosen:
                chosen[old] = pick(tuple(one for one in options if one != old), rng.random())
            return chosen[old]

        for match in CAPITAL.finditer(text):
            whole, first = match[0], match[0].split()[0]
            for kind, group in (("place", PLACES), ("name", NAMES)):
                known = next((one for one in (whole, first) if one in group), None)
                if kind in self.kinds and known is not None:
                    yield Change(match.start(), match.start() + len(known), other(known, group[known]))
                    break
        if "number" in self.kinds:
            for match in NUMBER.finditer(text):
                low = 10 ** (len(match[0]) - 1)
                options = tuple(str(low + i) for i in range(9 * low)) if low <= 10 else ()
                yield Change(*match.span(), other(match[0], options) if options else other(match[0], _years(match[0])))


def _years(number: str) -> tuple[str, ...]:
    """Numbers near one of three digits or more: what is a year stays one."""
    return tuple(str(int(number) + step) for step in (-9, -7, -5, -3, -2, 2, 3, 5, 7, 9))
