"""Back-translation through the user's own translators: nothing of ours translates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from tutelage.core.checks import check_callable
from tutelage.core.errors import InputError
from tutelage.threats.text.edit import Change, Edited, Protected, TextEdit, check_text, whole

Translate = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class BackTranslation(TextEdit):
    """Texts there and back through `translate`, a callable of a list of texts that returns as many, in batches.

    there_and_back(to_german, to_english) makes one of two. label: how results name it. A translation that lost a protected
    word, or has nothing in it, is refused and the text stays; whether the meaning is the same is for the user to judge.
    """

    translate: Translate = field(repr=False)
    label: str = "back-translation"
    batch_size: int = 32

    name = "back-translation"
    family = "translation"
    random = False

    def __post_init__(self) -> None:
        check_callable("translate", self.translate, "a callable of a list of texts that returns as many texts")
        check_text("label", self.label)

    def propose(self, text: str, rng: Random, protected: Protected) -> Iterable[Change]:
        raise NotImplementedError  # many texts at once: see _many

    def _edited(self, text: str, protected: Protected, rng: Random) -> Edited:
        return self._many([text], [protected], 0, [text])[0]

    def _many(self, texts: Sequence[str], protected: Sequence[Protected], seed: int, items: Sequence[str]) -> list[Edited]:
        made: list[str] = []
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            got = self.translate(batch)
            if not isinstance(got, list | tuple) or len(got) != len(batch) or not all(isinstance(one, str) for one in got):
                raise InputError("translate", f"{got!r:.60}", f"a list of {len(batch)} texts, one for each it was given")
            made += got
        results = []
        for before, after, kept in zip(texts, made, protected, strict=True):
            empty = before.strip() and not after.strip()
            results.append(Edited(before, (), "the translation is empty", kept.spans) if empty else whole(before, after, kept))
        return results


def there_and_back(there: Translate, back: Translate) -> Translate:
    """One callable of two: `back(there(texts))`."""
    return lambda texts: back(there(texts))
