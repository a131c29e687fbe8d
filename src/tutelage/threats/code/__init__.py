"""Edits of code that leave its meaning alone: docstrings, names, syntax, format; scope-aware, and proved by running."""

from tutelage.threats.code.docstrings import EditDocstring
from tutelage.threats.code.edit import CATEGORIES, Category, CodeEdit, EditedProgram, Program, Proposal
from tutelage.threats.code.layout import (
    DocstringToComments,
    NewLineAfterCode,
    NewLineAfterDocstring,
    NewLines,
    SplitLines,
    TabIndent,
)
from tutelage.threats.code.names import CamelCase, RenameByWords, rename_function, toggle_case
from tutelage.threats.code.naming import GeneratedNamer, MaskedNamer
from tutelage.threats.code.scopes import Occurrence, Scope, occurrences, rename
from tutelage.threats.code.source import Refused, Source, parsed
from tutelage.threats.code.syntax import DeadCode, ForWhile, Namer, OperandSwap, RenameByModel, RenameNaive, RenameRandom
from tutelage.threats.code.transforms import ALL, NAMES, category_of, code_edits, ready

__all__ = [
    "ALL",
    "CATEGORIES",
    "NAMES",
    "CamelCase",
    "Category",
    "CodeEdit",
    "DeadCode",
    "DocstringToComments",
    "EditDocstring",
    "EditedProgram",
    "ForWhile",
    "GeneratedNamer",
    "MaskedNamer",
    "Namer",
    "NewLineAfterCode",
    "NewLineAfterDocstring",
    "NewLines",
    "Occurrence",
    "OperandSwap",
    "Program",
    "Proposal",
    "Refused",
    "RenameByModel",
    "RenameByWords",
    "RenameNaive",
    "RenameRandom",
    "Scope",
    "Source",
    "SplitLines",
    "TabIndent",
    "category_of",
    "code_edits",
    "occurrences",
    "parsed",
    "ready",
    "rename",
    "rename_function",
    "toggle_case",
]
