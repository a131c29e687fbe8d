"""Edits of texts and attacks on text classifiers: characters, words, phrases, style, back-translation."""

from tutelage.threats.text.attack import GreedyWords, TextAttack, TextAttackResult, TextBugger
from tutelage.threats.text.character import ButterFingers, ChangeCharCase, OCRErrors, SwapCharacters, Typos, Whitespace
from tutelage.threats.text.edit import Chain, Change, Edited, FunctionEdit, Identity, TextEdit, spans_of
from tutelage.threats.text.lexicon import WORDNET, Lexicon, WordNet, wordnet
from tutelage.threats.text.phrase import Distractor, OpeningPhrase, PhraseParaphrase
from tutelage.threats.text.recode import docstring_edits
from tutelage.threats.text.style import Casual, Elongated, LowerCase, NoPunctuation, UpperCase
from tutelage.threats.text.translation import BackTranslation, there_and_back
from tutelage.threats.text.word import (
    Contract,
    EntitySwap,
    ExpandContractions,
    InflectionalVariation,
    Negation,
    SynonymInsertion,
    SynonymSubstitution,
    TenseFuture,
    TensePast,
)

__all__ = [
    "WORDNET",
    "BackTranslation",
    "ButterFingers",
    "Casual",
    "Chain",
    "Change",
    "ChangeCharCase",
    "Contract",
    "Distractor",
    "Edited",
    "Elongated",
    "EntitySwap",
    "ExpandContractions",
    "FunctionEdit",
    "GreedyWords",
    "Identity",
    "InflectionalVariation",
    "Lexicon",
    "LowerCase",
    "Negation",
    "NoPunctuation",
    "OCRErrors",
    "OpeningPhrase",
    "PhraseParaphrase",
    "SwapCharacters",
    "SynonymInsertion",
    "SynonymSubstitution",
    "TenseFuture",
    "TensePast",
    "TextAttack",
    "TextAttackResult",
    "TextBugger",
    "TextEdit",
    "Typos",
    "UpperCase",
    "Whitespace",
    "WordNet",
    "docstring_edits",
    "spans_of",
    "there_and_back",
    "wordnet",
]
