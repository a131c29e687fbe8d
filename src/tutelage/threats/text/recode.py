"""The docstring edits of ReCode (arXiv 2212.10264) under its names, with its probabilities."""

from __future__ import annotations

from tutelage.threats.text.character import ButterFingers, ChangeCharCase, SwapCharacters, Whitespace
from tutelage.threats.text.edit import TextEdit
from tutelage.threats.text.lexicon import WORDNET, Synonyms
from tutelage.threats.text.translation import BackTranslation, Translate
from tutelage.threats.text.word import InflectionalVariation, SynonymInsertion, SynonymSubstitution, TenseFuture, TensePast


def docstring_edits(translate: Translate | None = None, *, lexicon: Synonyms = WORDNET) -> dict[str, TextEdit]:
    """ReCode's name -> edit: nine that run offline, and BackTranslation where a callable for it is given.

    ButterFingers and SwapCharacters 0.05, ChangeCharCase 0.35, Whitespace 0.10 deleted and 0.05 inserted, synonyms 0.5 a word
    in all its senses. Synonyms need `tutelage data get wordnet`; they, tense and inflection need the extra `text`.
    """
    edits: dict[str, TextEdit] = {
        "ButterFingers": ButterFingers(0.05),
        "ChangeCharCase": ChangeCharCase(0.35),
        "EnglishInflectionalVariation": InflectionalVariation(),
        "SwapCharacters": SwapCharacters(0.05),
        "SynonymInsertion": SynonymInsertion(0.5, senses=None, lexicon=lexicon),
        "SynonymSubstitution": SynonymSubstitution(0.5, senses=None, lexicon=lexicon),
        "TensePast": TensePast(),
        "TenseFuture": TenseFuture(),
        "Whitespace": Whitespace(0.10, 0.05),
    }
    return {"BackTranslation": BackTranslation(translate), **edits} if translate is not None else edits
