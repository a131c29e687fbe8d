"""Words of a text with their places; nothing is ever put together again, so what is not edited stays byte for byte."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# letters with inner apostrophes or hyphens left out: "don't" is one word here, "well-made" two
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
# as taggers of English cut: "do" "n't", "it" "'s"
TOKEN = re.compile(r"\w+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b|\w+|[^\w\s]", re.IGNORECASE)


@dataclass(frozen=True)
class Token:
    """A word, a part of one or a punctuation mark: text[start:end]."""

    text: str
    start: int
    end: int


@lru_cache(maxsize=8192)
def tokens(text: str) -> tuple[Token, ...]:
    """The tokens of English text, contractions cut in two."""
    return tuple(Token(match[0], *match.span()) for match in TOKEN.finditer(text))


def like(pattern: str, word: str) -> str:
    """`word` in the case of `pattern`: Capital, CAPITALS, or as it is."""
    if len(pattern) > 1 and pattern.isupper():
        return word.upper()
    if pattern[:1].isupper():
        return word[:1].upper() + word[1:]
    return word
