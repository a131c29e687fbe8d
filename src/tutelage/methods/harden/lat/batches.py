"""Prompts with a good and a bad completion, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.teaching.language.sequences import completion_batch

Where = Literal["prompt", "prompt+completion"]
Pair = tuple[Sequence[int], Sequence[int]]  # ids of a prompt, ids of its completion


@dataclass(frozen=True)
class Triple:
    """Ids of a prompt, of what the model shall say after it, and of what it shall not."""

    prompt: tuple[int, ...]
    good: tuple[int, ...]
    bad: tuple[int, ...]


def encode(tokenizer: Any, texts: Sequence[Sequence[str]], *, end: bool = True) -> list[Triple]:
    """Triples of (prompt, good completion, bad completion) as texts.

    tokenizer: of transformers, or with its surface. What it puts before a text (BOS) is put before the prompt, nothing
    before a completion. end: whether its end token follows each completion. Prompt and completion are encoded apart, so no
    token crosses the border. Raises InputError.
    """
    if end and tokenizer.eos_token_id is None:
        raise InputError("end", True, "False: the tokenizer has no end token")
    found = []
    for row, one in enumerate(texts):
        if isinstance(one, str) or len(one) != 3 or not all(isinstance(text, str) for text in one):
            raise InputError("texts", f"row {row}: {one!r}", "three texts: prompt, good completion, bad completion")
        prompt, good, bad = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in one)
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id in tokenizer("")["input_ids"] else []
        tail = [tokenizer.eos_token_id] if end else []
        found.append(Triple((*start, *prompt), (*good, *tail), (*bad, *tail)))
    return found


@dataclass(frozen=True)
class TripleBatch:
    """B prompts, each with both completions, padded on the right to one width T: a prompt stands at the same positions in
    both.

    ids, attention, completion: (2B, T); rows 0 to B - 1 have the good completions, rows B to 2B - 1 the bad ones.
    """

    ids: Tensor
    attention: Tensor
    completion: Tensor

    def __len__(self) -> int:
        return len(self.ids) // 2

    def mask(self, where: Where = "prompt") -> Tensor:
        """(B, T) booleans: the prompt's tokens, or those of the completions too."""
        check_choice("where", where, ("prompt", "prompt+completion"))
        good, bad = self.attention.chunk(2)
        return good & ~self.completion.chunk(2)[0] if where == "prompt" else good | bad

    def half(self, which: Literal["good", "bad"]) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, attention, completion), (B, T) each, with one of the completions."""
        at = 0 if which == "good" else 1
        return self.ids.chunk(2)[at], self.attention.chunk(2)[at], self.completion.chunk(2)[at]


def triple_batch(triples: Sequence[Triple], *, pad: int = 0, max_length: int | None = None) -> TripleBatch:
    """A batch of triples. Raises InputError, with the row, for an empty part or a row longer than `max_length`."""
    if not triples:
        raise InputError("triples", "none", "one triple at least")
    for row, one in enumerate(triples):
        if not isinstance(one, Triple):
            raise InputError("triples", f"row {row}: {type(one).__name__}", "Triple(prompt, good, bad) of token ids")
    pairs: list[Pair] = [(one.prompt, tail) for one, tail in [(t, t.good) for t in triples] + [(t, t.bad) for t in triples]]
    return TripleBatch(*completion_batch(pairs, pad=pad, max_length=max_length))


def to_device(batch: TripleBatch, device: torch.device) -> TripleBatch:
    """The batch on a device."""
    return TripleBatch(batch.ids.to(device), batch.attention.to(device), batch.completion.to(device))
