"""Texts to speak: short sentences of WordNet, fifty hard ones, and drawn ones of the same kinds for a recogniser."""

from __future__ import annotations

import re
from pathlib import Path

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.data.fetch import verified_folder

_EXAMPLE, _PLAIN = re.compile(r'"([^"]+)"'), re.compile(r"[A-Za-z][A-Za-z' ,.!?-]*")

HARD: dict[str, tuple[str, ...]] = {
    "letters": (
        "A", "I", "A B C", "X Y Z", "B B C", "U S A", "P. T. O.", "The F. B. I. and the C. I. A.", "H T T P S",
        "Q W E R T Y",
    ),
    "digits": (
        "1 2 3 4 5 6 7 8 9", "9 0 2 1 0", "5 5 5 5 5 5 5", "3 1 4 1 5 9 2 6 5 3 5", "0 0 7", "1 0 1 0 1 0 1 0",
        "2 2 4 4 6 6 8 8", "Call 8 0 0 5 5 5 1 2 3 4", "One hundred and eleven", "Seventy seven times seventy seven",
    ),
    "repeated words": (
        "No no no no no no no no", "Ha ha ha ha ha ha ha ha ha ha", "Very very very very very good",
        "Bye bye, bye bye, bye bye", "That that that that he used was right", "Tick tock tick tock tick tock tick tock",
        "Had had had had had had had", "Row row row your boat, row row row your boat",
        "The man the man the man the man the man", "Knock knock, knock knock, knock knock",
    ),
    "addresses": (
        "W W W dot example dot com", "H T T P colon slash slash example dot org", "Index dot H T M L",
        "Mail me at a dot b dot c at mail dot net", "C colon slash temp slash a slash b slash c", "Dot slash run dash dash all",
        "Version one dot two dot three dot four", "W W W dot a dot b dot c dot d dot e", "F T P dot files dot net",
        "User underscore one at home dot net",
    ),
    "long": (
        "The old man who lived in the house on the hill near the river told the children a long story about a king and a "
        "queen who lost their crown in the sea one winter and never found it again",
        "When the rain came down in the night the farmer went out to the field with his dog and his son and a lamp and "
        "looked for the sheep until the sun came up over the hills in the morning",
        "She bought bread and milk and eggs and butter and cheese and apples and pears and plums and then she forgot the "
        "salt and had to walk all the way back to the shop at the end of the street again",
        "He said that she said that they said that we said that you said that he said that she had never said a word about "
        "it to anyone at all in the town or in the house",
        "One day the wind and the sun had a quarrel about which of them was the stronger and they agreed that the one who "
        "could make the man take off his coat should be called the stronger of the two",
        "In the first month of the year the days are short and cold, in the second month they are longer but colder, and in "
        "the third month the snow begins to melt and the first green leaves come out of the ground",
        "The book on the table in the room at the end of the hall on the second floor of the house by the lake in the forest "
        "belongs to the sister of the friend of my uncle",
        "If you go down to the harbour before the boats come in you can see the birds that wait on the wall for the fish and "
        "hear the bell that rings when the first of the boats is home",
        "We walked and walked and walked and walked until we came to a bridge and on the other side of the bridge we walked "
        "and walked and walked until we could walk no more",
        "This is the cat that killed the rat that ate the malt that lay in the house that Jack built for the men who came to "
        "see the dog that ran after the cat that killed the rat",
    ),
}  # fmt: skip


def hard_sentences() -> tuple[str, ...]:
    """The fifty of `HARD`: letters, digits, repeated words, addresses, and sentences of thirty and more words."""
    return tuple(text for texts in HARD.values() for text in texts)


def wordnet_sentences(folder: Path | str | None = None, *, low: int = 3, high: int = 8) -> tuple[str, ...]:
    """The examples of use in WordNet 3.0 that have `low` to `high` words without digits and signs, each once, shuffled.

    folder: of WordNet's own files (`dict/data.noun`, ...); by default the one of `tutelage data get wordnet`. The order is
    always the same. Some 32,900 are there by default. Raises MissingError.
    """
    check_integer("low", low)
    check_integer("high", high, low=low)
    root = verified_folder("wordnet") if folder is None else Path(folder)
    found: set[str] = set()
    for part in ("noun", "verb", "adj", "adv"):
        path = root / "dict" / f"data.{part}"
        if not path.is_file():
            raise InputError("folder", str(root), f"a folder with dict/data.{part}")
        for line in path.read_text(encoding="utf-8").splitlines():
            for example in _EXAMPLE.findall(line):
                text = example.strip()
                if low <= len(text.split()) <= high and _PLAIN.fullmatch(text):
                    found.add(text)
    ordered = sorted(found)
    return tuple(ordered[i] for i in numpy_generator(0, "wordnet sentences").permutation(len(ordered)))


def drawn_hard(count: int, seed: int = 0) -> tuple[str, ...]:
    """`count` texts of the kinds of `HARD`, drawn: spelled letters, digits, words again and again, addresses.

    None is in it, not even in other letters or with other stops, which would be spoken alike.
    """
    check_integer("count", count)
    draw, known = numpy_generator(seed, "drawn hard sentences"), {_sounded(text) for text in hard_sentences()}
    found: list[str] = []
    letters, digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
    words = (
        "no", "yes", "ha", "tick", "tock", "bye", "row", "very", "knock", "had", "that", "walk", "said", "home", "mail", "run",
        "file", "net", "com", "index", "example", "good", "man", "boat", "one", "seven", "hundred", "seventy",
    )  # fmt: skip
    while len(found) < count:
        kind, n = int(draw.integers(4)), int(draw.integers(1, 11))
        if kind == 0:
            text = " ".join(draw.choice(list(letters), n))
        elif kind == 1:
            text = " ".join(draw.choice(list(digits), n))
        elif kind == 2:
            text = " ".join([str(draw.choice(words))] * n)
        else:
            parts = [*draw.choice(words, 3), *draw.choice(list(letters), 2)]
            text = f" {draw.choice(['dot', 'slash', 'at', 'colon', 'dash'])} ".join(str(p) for p in draw.permutation(parts))
        if _sounded(text) not in known:
            found.append(text)
    return tuple(found)


def _sounded(text: str) -> str:
    """A text without what is not heard of it: capitals and stops."""
    return " ".join(re.sub(r"[^a-z0-9]", " ", text.lower()).split())


def plain_sentences(count: int, seed: int = 0) -> tuple[str, ...]:
    """`count` different texts of three to six common words without sense, drawn: for voices that need no real sentences."""
    check_integer("count", count, high=5000)
    draw, found = numpy_generator(seed, "plain sentences"), dict[str, None]()
    words = (
        "the", "a", "old", "man", "cat", "dog", "ran", "sat", "saw", "red", "sea", "sun", "moon", "by", "my", "under", "over",
        "quick", "fox", "jumps", "lazy", "voice", "zebra", "wind", "hill", "river", "goes", "home", "every", "day",
    )  # fmt: skip
    while len(found) < count:
        found[" ".join(draw.choice(words, int(draw.integers(3, 7))))] = None
    return tuple(found)
