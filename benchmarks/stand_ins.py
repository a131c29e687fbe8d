"""Importing this lets peers be imported without libraries and parts that their raced code never calls.

torchvision comes for one build of torch only and torchsort is compiled on the spot; pytorch-ood and TorchCP import them at
their head for other parts. Where they are installed, they are used; elsewhere an empty module stands for each, whose every
name is an empty class. TorchCP's parts for graphs and language models, which ask for large libraries of their own, are never
read. A race that called any of this would fail, not measure something else.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT, UNREAD = ("torchsort", "torchvision"), ("torchcp.graph", "torchcp.llm")


class _StandIn(ModuleType):
    """Every name in it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _Absent:
    """Asked last: only for what no other finder has."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Absent, is_package=True) if name.split(".")[0] in ABSENT else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """There is nothing to run."""


class _Unread(_Absent):
    """Asked first: whether the part is there or not."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Unread, is_package=True) if name in UNREAD else None


# what text peers import for models that a race of character edits never loads
TEXT_ABSENT = (
    *("flair", "bert_score", "language_tool_python", "OpenHowNet", "pinyin", "jieba", "word2number", "num2words", "datasets"),
    *("Levenshtein", "gdown", "langdetect"),
)


def _for_textattack() -> None:
    """TextAttack reads models of transformers and nltk's stop words as it is imported: empty ones, and a few words."""
    global ABSENT
    ABSENT = (*ABSENT, "transformers")
    sys.modules["transformers"] = _Absent.create_module(ModuleSpec("transformers", _Absent, is_package=True))  # type: ignore[arg-type]
    sys.modules["transformers"].__path__ = []
    for name in ("flair.data", "flair.models"):
        import_module(name)
    words = Path(tempfile.mkdtemp()) / "corpora" / "stopwords" / "english"
    words.parent.mkdir(parents=True)
    words.write_text("the\na\nof\nand\n")
    os.environ["NLTK_DATA"] = str(words.parents[2])


if _Absent not in sys.meta_path:
    sys.meta_path[:] = [_Unread, *sys.meta_path, _Absent]  # type: ignore[list-item]
    # only in the environments of these peers
    if find_spec("textattack") or find_spec("nlpaug"):
        ABSENT = (*ABSENT, *TEXT_ABSENT)
        if find_spec("textattack"):
            _for_textattack()
