"""The 28 transformations of ReCode under its names, in its four categories."""

from __future__ import annotations

from collections.abc import Mapping

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError, MissingError
from tutelage.threats.code import layout, names, syntax
from tutelage.threats.code.docstrings import EditDocstring
from tutelage.threats.code.edit import CATEGORIES, Category, CodeEdit
from tutelage.threats.code.released import ReleasedFormat, ReleasedRename, ReleasedSyntax
from tutelage.threats.text.character import ButterFingers, ChangeCharCase, SwapCharacters
from tutelage.threats.text.edit import TextEdit
from tutelage.threats.text.lexicon import WORDNET, Synonyms
from tutelage.threats.text.recode import docstring_edits
from tutelage.threats.text.translation import BackTranslation, Translate
from tutelage.threats.text.word import InflectionalVariation, SynonymSubstitution

NAMES: dict[Category, tuple[str, ...]] = {
    "docstring": (
        "BackTranslation", "ButterFingers", "ChangeCharCase", "EnglishInflectionalVariation", "SwapCharacters",
        "SynonymInsertion", "SynonymSubstitution", "TensePast", "TenseFuture", "Whitespace",
    ),
    "function": (
        "FuncRenameCamelCase", "FuncRenameButterFinger", "FuncRenameSwapChar", "FuncRenameChangeChar",
        "FuncRenameInflectionalVariation", "FuncRenameSynonymSub",
    ),
    "syntax": ("DeadCodeInserter", "ForWhileTransformer", "OperandSwap", "VarRenamerCB", "VarRenamerNaive", "VarRenamerRN"),
    "format": ("tab_indent", "split_lines", "doc2comments", "new_lines", "new_line_aftercode", "new_line_afterdoc"),
}  # fmt: skip
ALL: tuple[str, ...] = tuple(name for category in CATEGORIES for name in NAMES[category])


def category_of(name: str) -> Category:
    """The category of a transformation; InputError for a name that there is not."""
    check_choice("transform", name, ALL)
    return next(category for category in CATEGORIES if name in NAMES[category])


class NeedsTranslator(EditDocstring):
    """BackTranslation without a translator: listed, and not run."""

    def check(self) -> None:
        raise MissingError("BackTranslation needs a translator: give translate=, a function of texts that returns as many")


def code_edits(
    *,
    translate: Translate | None = None,
    namer: syntax.Namer | None = None,
    lexicon: Synonyms = WORDNET,
    released: bool = False,
) -> dict[str, CodeEdit]:
    """ReCode's name -> edit, all 28. `check()` of an edit says what it needs and has not; `ready` sorts them.

    translate: a function of texts that returns as many, there and back, for BackTranslation. namer: gives names to variables,
        for VarRenamerCB (`threats.code.naming`). lexicon: of synonyms. released: ReCode's own operators on strings instead.
    """
    docs = docstring_edits(lexicon=lexicon)
    made: dict[str, CodeEdit] = {}
    for name in NAMES["docstring"]:
        if name == "BackTranslation":
            none = BackTranslation(lambda texts: texts)
            made[name] = NeedsTranslator(name, none) if translate is None else EditDocstring(name, BackTranslation(translate))
        else:
            made[name] = EditDocstring(name, docs[name])
    words: dict[str, TextEdit] = {
        "FuncRenameButterFinger": ButterFingers(0.05),
        "FuncRenameSwapChar": SwapCharacters(0.05),
        "FuncRenameChangeChar": ChangeCharCase(0.35),
        "FuncRenameInflectionalVariation": InflectionalVariation(),
        "FuncRenameSynonymSub": SynonymSubstitution(0.5, senses=None, lexicon=lexicon),
    }
    by_model = syntax.RenameByModel(namer)
    if released:
        made |= {name: ReleasedRename(name, words.get(name)) for name in NAMES["function"]}
        made |= {name: ReleasedSyntax(name) if name != "VarRenamerCB" else by_model for name in NAMES["syntax"]}
        made |= {name: ReleasedFormat(name) for name in NAMES["format"]}
        return made
    made["FuncRenameCamelCase"] = names.CamelCase()
    made |= {name: names.RenameByWords(name, edit) for name, edit in words.items()}
    rest: list[CodeEdit] = [
        syntax.DeadCode(), syntax.ForWhile(), syntax.OperandSwap(), by_model, syntax.RenameNaive(), syntax.RenameRandom(),
        layout.TabIndent(), layout.SplitLines(), layout.DocstringToComments(), layout.NewLines(), layout.NewLineAfterCode(),
        layout.NewLineAfterDocstring(),
    ]  # fmt: skip
    return made | {edit.name: edit for edit in rest}


def ready(edits: Mapping[str, CodeEdit]) -> tuple[dict[str, CodeEdit], dict[str, str]]:
    """(edits that can be made here, name -> why not, of the others)."""
    if not isinstance(edits, Mapping) or not all(isinstance(edit, CodeEdit) for edit in edits.values()):
        raise InputError("edits", type(edits).__name__, "a mapping of names to edits of code, as code_edits() gives")
    able: dict[str, CodeEdit] = {}
    missing: dict[str, str] = {}
    for name, edit in edits.items():
        try:
            edit.check()
        except MissingError as reason:
            missing[name] = str(reason)
        else:
            able[name] = edit
    return able, missing
