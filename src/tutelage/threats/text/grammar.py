"""English grammar for edits: parts of speech (Penn tags) by textblob, lemmas and inflections by lemminflect.

Both come with the extra `text`, carry their tables inside the package and need no download. Only words of their tables are
inflected: what they do not know stays.
"""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from tutelage.core.errors import MissingError
from tutelage.threats.text.tokens import tokens

# first letters of a Penn tag -> WordNet's part of speech, and lemminflect's name for it
PARTS = {"NN": "n", "VB": "v", "JJ": "a", "RB": "r"}
UNIVERSAL = {"n": "NOUN", "v": "VERB", "a": "ADJ", "r": "ADV"}
HAVE_AND_BE = "have has had having 've be am is are was were been being 's 're 'm"
HELPING = frozenset(HAVE_AND_BE.split())
# words that carry grammar, not content: they have no synonyms that could stand for them
FUNCTION_WORDS = """
a an the this that these those some any no every each all both either neither much many more most few less least other
another such same own i you he she it we they me him her us them my your his its our their mine yours hers ours theirs
myself yourself himself herself itself ourselves themselves who whom whose which what where when why how and or but
nor so yet for if then else because although though while as than of in on at by to from with without into onto over
under about above below between among through during before after against off out up down not n't never is am are was
were be been being do does did done doing have has had having will would shall should can could may might must ought
ca wo sha 's 're 've 'll 'd 'm just only even also too very there here now one two three first
"""
CLOSED = frozenset(FUNCTION_WORDS.split())


def extra(library: str) -> Any:
    """A package of the extra `text`; MissingError says what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(library)
    except ImportError as error:
        name = library.partition(".")[0]
        raise MissingError(f"edits by grammar need {name}: pip install 'tutelage[text]'") from error


@cache
def _tagger() -> Any:
    parser = extra("textblob.en").parser
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser.find_tags(["a"])  # reads its tables now, and leaves their files to the garbage collector, which warns
    return parser


@lru_cache(maxsize=8192)
def tags(text: str) -> tuple[str, ...]:
    """The Penn tag of each of `tokens(text)`: NN, VBD, JJR, ..."""
    words = [token.text.replace("’", "'") for token in tokens(text)]
    if not words:
        return ()
    kinds = [str(tag) for _, tag in _tagger().find_tags(words)]
    return tuple(_repaired(words, kinds, i) for i in range(len(words)))


def _repaired(words: list[str], kinds: list[str], i: int) -> str:
    """Slips of the tagger mended: a participle needs "have" or "be" before it; verbs with an object are no nouns."""
    tag = kinds[i]
    if tag == "VBN" and i > 0 and kinds[i - 1] == "PRP":
        return "VBD"
    if tag == "VBD":
        j = i - 1
        while j >= 0 and (kinds[j].startswith("RB") or words[j].lower() in ("not", "n't")):
            j -= 1
        return "VBN" if j >= 0 and words[j].lower() in HELPING else tag
    # "the actors love their roles", "if it is empty, returns 0"
    if tag in ("NN", "NNS") and 0 < i < len(words) - 1 and words[i].isalpha():
        before, after = kinds[i - 1], kinds[i + 1]
        if before in ("NNS", "PRP", ",") and after in ("DT", "PRP", "PRP$", "CD"):
            base = lemma(words[i], "v")
            if inflect(base, "VBZ") == words[i].lower():
                return "VBZ"
            if base == words[i].lower() and inflect(base, "VBZ"):
                return "VBP"
    return tag


def part_of(tag: str) -> str:
    """n, v, a or r of a Penn tag; "" for others and for names."""
    return "" if tag.startswith("NNP") else PARTS.get(tag[:2], "")


@lru_cache(maxsize=1 << 16)
def lemma(word: str, part: str) -> str:
    """The lemma of `word` as n, v, a or r; the word itself where the table has none."""
    found = extra("lemminflect").getAllLemmas(word.lower(), upos=UNIVERSAL[part])
    forms = found.get(UNIVERSAL[part], ())
    return str(forms[0]) if forms else word.lower()


@lru_cache(maxsize=1 << 16)
def inflect(base: str, tag: str) -> str:
    """The form of the lemma `base` that a Penn tag asks for; "" where the table has none."""
    if base == "be" and tag in ("VBD", "VBP", "VBZ"):
        return {"VBD": "was", "VBP": "are", "VBZ": "is"}[tag]
    found = extra("lemminflect").getInflection(base, tag, inflect_oov=False)
    return str(found[0]) if found else ""


@lru_cache(maxsize=1 << 16)
def inflections(word: str, part: str) -> tuple[str, ...]:
    """Other forms of `word` as n, v or a, sorted: ("goes", "going", "gone", "went") of "go"."""
    forms = extra("lemminflect").getAllInflections(lemma(word, part), upos=UNIVERSAL[part])
    return tuple(sorted({str(form) for options in forms.values() for form in options} - {word.lower()}))


def check_grammar() -> None:
    """Raise MissingError where a package of the extra is not installed."""
    _tagger()
    extra("lemminflect")
