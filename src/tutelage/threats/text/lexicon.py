"""Where synonyms come from: WordNet 3.0 on the user's disk, or a small table of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from tutelage.core.errors import InputError, MissingError
from tutelage.data.fetch import verified_folder

PartOfSpeech = Literal["n", "v", "a", "r"]
FILES: dict[str, str] = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}


@runtime_checkable
class Synonyms(Protocol):
    """A source of synonyms. by_lemma: whether it is asked for lemmas with a part of speech, or for words as they stand."""

    by_lemma: bool

    def synonyms(self, word: str, part: str, senses: int | None = None) -> tuple[str, ...]: ...

    @property
    def identity(self) -> str: ...


class Lexicon:
    """A table of one's own: {"good": ["fine", "nice"]}. Words are looked up as they stand in the text, in lower case."""

    by_lemma = False

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        if not isinstance(table, Mapping) or any(isinstance(v, str) for v in table.values()):
            raise InputError("table", type(table).__name__, "a mapping of a word to a list of its synonyms")
        self.table = {word.lower(): tuple(others) for word, others in table.items()}

    def synonyms(self, word: str, part: str = "", senses: int | None = None) -> tuple[str, ...]:
        return self.table.get(word.lower(), ())

    @property
    def identity(self) -> str:
        return f"table of {len(self.table)} words"


class WordNet:
    """The database files of WordNet 3.0 (`data.noun`, `index.noun`, ...) in a folder; each is read when it is first needed."""

    by_lemma = True

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        names = [f"{kind}.{part}" for part in FILES.values() for kind in ("index", "data")]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise InputError("folder", str(folder), f"the folder of WordNet's files; there is no {missing[0]}")
        self._texts: dict[str, bytes] = {}
        self._indices: dict[str, dict[bytes, bytes]] = {}

    @property
    def identity(self) -> str:
        return "WordNet 3.0"

    def senses(self, lemma: str, part: str) -> tuple[tuple[str, ...], ...]:
        """For each sense of `lemma`, most frequent first, the words of its synset; () for a word it does not know.

        part: n, v, a (satellites included) or r.
        """
        if part not in FILES:
            raise InputError("part", part, "one of n, v, a, r")
        line = self._index(part).get(lemma.lower().replace(" ", "_").encode())
        if line is None:
            return ()
        parts = line.split()
        count = int(parts[1])
        return tuple(self._synset(part, int(offset)) for offset in parts[len(parts) - count :])

    def synonyms(self, word: str, part: str, senses: int | None = None) -> tuple[str, ...]:
        """Other words of the first `senses` synsets of the lemma `word` (default: of all), in their order, each once."""
        return _others(self, word.lower(), part, senses)

    def _index(self, part: str) -> dict[bytes, bytes]:
        if part not in self._indices:
            # "good a 21 4 ! & ..." : a licence text of lines that begin with two spaces comes first
            lines = (self.folder / f"index.{FILES[part]}").read_bytes().split(b"\n")
            pairs = (line.split(b" ", 1) for line in lines if line and not line.startswith(b" "))
            self._indices[part] = dict(pairs)
        return self._indices[part]

    def _synset(self, part: str, offset: int) -> tuple[str, ...]:
        if part not in self._texts:
            self._texts[part] = (self.folder / f"data.{FILES[part]}").read_bytes()
        data = self._texts[part]
        fields = data[offset : data.index(b"\n", offset)].split(b" ")
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        # "awake(p)": an adjective's marker of place
        return tuple(word.decode().partition("(")[0].replace("_", " ") for word in words)


@lru_cache(maxsize=1 << 16)
def _others(source: WordNet, word: str, part: str, senses: int | None) -> tuple[str, ...]:
    found = source.senses(word, part)[:senses]
    return tuple(dict.fromkeys(one for synset in found for one in synset if one.lower() != word))


@cache
def _opened(folder: Path) -> WordNet:
    return WordNet(folder)


def wordnet() -> WordNet:
    """WordNet in `$TUTELAGE_DATA/wordnet` or the user's cache; MissingError says how to get it."""
    return _opened(verified_folder("wordnet") / "dict")


class DefaultLexicon:
    """WordNet, opened when the first word is looked up; so edits can be made and named where it is not installed."""

    by_lemma = True

    @cached_property
    def _source(self) -> WordNet:
        return wordnet()

    def synonyms(self, word: str, part: str, senses: int | None = None) -> tuple[str, ...]:
        return self._source.synonyms(word, part, senses)

    @property
    def identity(self) -> str:
        return "WordNet 3.0"

    def __repr__(self) -> str:
        return self.identity

    def check(self) -> None:
        """Raise MissingError if it is not on this machine."""
        _ = self._source


WORDNET = DefaultLexicon()


def check_lexicon(argument: str, value: object) -> None:
    if not isinstance(value, Synonyms):
        raise InputError(argument, type(value).__name__, "WORDNET, a WordNet or a Lexicon")


def check_ready(source: Iterable[object] | object) -> None:
    """Raise MissingError where a source of synonyms is not on this machine."""
    check = getattr(source, "check", None)
    if check is not None:
        try:
            check()
        except MissingError as error:
            raise MissingError(f"synonyms come from WordNet: {error}") from error
