"""Preference pairs: a prompt, a chosen and a rejected completion; as texts, as tokens, and as batches.

The number of tokens of a completion is that of the completion with its end token, without prompt and padding: losses divide
by it. Chosen and rejected are never cut: to cut them differently would compare unlike texts.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.models.language.huggingface import HFBackend
from tutelage.models.language.protocol import GenRequest, Message

Prompt = str | Sequence[Message | Mapping[str, str]]


@dataclass(frozen=True)
class PreferenceData:
    """Pairs as texts. prompts: texts or conversations; chosen, rejected: one completion each for every prompt.

    Pairs whose two completions are equal teach nothing in sum; they are dropped with a warning (`dropped` counts them). Raises
    InputError, with the row.

    Example::

        >>> from tutelage.teaching.language.pairs import PreferenceData
        >>> len(PreferenceData(["2+2=", "3+3="], chosen=["4", "6"], rejected=["5", "7"]))
        2
    """

    prompts: tuple[Prompt, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    dropped: int = 0

    def __init__(self, prompts: Iterable[Prompt], chosen: Iterable[str], rejected: Iterable[str]) -> None:
        columns = [_column(name, values) for name, values in (("prompts", prompts), ("chosen", chosen), ("rejected", rejected))]
        _same_length(columns)
        for name, values in zip(("chosen", "rejected"), columns[1:], strict=True):
            for row, value in enumerate(values):
                if not isinstance(value, str):
                    raise InputError(name, f"row {row} of type {type(value).__name__}", "a text")
        kept = [row for row in zip(*columns, strict=True) if row[1] != row[2]]
        _warn_dropped(len(columns[0]), len(kept))
        for name, column in zip(("prompts", "chosen", "rejected"), zip(*kept, strict=True), strict=True):
            object.__setattr__(self, name, column)
        object.__setattr__(self, "dropped", len(columns[0]) - len(kept))

    def __len__(self) -> int:
        return len(self.prompts)


class TokenPairs(Dataset[int]):
    """Pairs as token ids; as a data set its items are the numbers of its rows, which `batch` makes tensors of.

    prompts, chosen, rejected: a list of sequences of ids each. A row with an empty one is refused by its number; pairs with
    equal completions are dropped with a warning. lengths: (N, 2), tokens of chosen and rejected.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]
    ) -> None:
        columns = [_column(name, v) for name, v in (("prompts", prompts), ("chosen", chosen), ("rejected", rejected))]
        _same_length(columns)
        for name, values in zip(("prompts", "chosen", "rejected"), columns, strict=True):
            for row, ids in enumerate(values):
                if not len(ids):
                    raise InputError(name, f"row {row} without a token", "one token at least in each row")
        kept = [row for row in zip(*columns, strict=True) if list(row[1]) != list(row[2])]
        _warn_dropped(len(columns[0]), len(kept))
        self.prompts, self.chosen, self.rejected = (
            [torch.as_tensor(list(ids), dtype=torch.int32) for ids in values] for values in zip(*kept, strict=True)
        )
        sizes = [(len(a), len(b)) for a, b in zip(self.chosen, self.rejected, strict=True)]
        self.lengths = torch.tensor(sizes)
        self.dropped = len(columns[0]) - len(kept)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, row: int) -> int:
        return row

    @property
    def length_gap(self) -> float:
        """Mean tokens of the chosen completions less those of the rejected ones."""
        return float((self.lengths[:, 0] - self.lengths[:, 1]).double().mean())

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for column in (self.prompts, self.chosen, self.rejected):
            for ids in column:
                digest.update(len(ids).to_bytes(8, "little") + ids.numpy().tobytes())
        return digest.hexdigest()

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """ids, attention and completion mask (B, 2, T): [:, 0] chosen, [:, 1] rejected, padded on the right with 0."""
        pairs = [(self.prompts[row], side[row]) for row in rows for side in (self.chosen, self.rejected)]
        ids = pad_sequence([torch.cat(pair) for pair in pairs], batch_first=True).long()
        begins = torch.tensor([len(prompt) for prompt, _ in pairs])[:, None]
        ends = begins + torch.tensor([len(completion) for _, completion in pairs])[:, None]
        places = torch.arange(ids.shape[1])
        attention = places < ends
        completion = attention & (places >= begins)
        shape = (len(rows), 2, ids.shape[1])
        return ids.view(shape), attention.view(shape), completion.view(shape)


def tokenised(
    lm: HFBackend,
    data: PreferenceData,
    *,
    max_length: int | None = None,
    on_long: Literal["refuse", "drop"] = "refuse",
    end: bool = True,
) -> TokenPairs:
    """The pairs in the tokens of a language model on transformers: its own first token, its chat template, its end token.

    max_length: most tokens of prompt and completion; default: the model's context. on_long: a longer row is refused by its
    number, or the pair is dropped with a warning; nothing is cut. end: whether completions get the end token; without it a
    model does not learn to stop. Raises InputError.
    """
    check_choice("on_long", on_long, ("refuse", "drop"))
    if max_length is not None:
        check_integer("max_length", max_length, low=2)
    eos = lm.tokenizer.eos_token_id
    if end and eos is None:
        raise InputError("lm", f"{lm.name}, whose tokenizer has no end token", "one that has, or end=False")
    limit = min((n for n in (max_length, lm.max_context) if n is not None), default=None)
    tail = [int(eos)] if end else []
    rows: list[tuple[list[int], list[int], list[int]]] = []
    long = 0
    for number, (prompt, *answers) in enumerate(zip(data.prompts, data.chosen, data.rejected, strict=True)):
        first = prompt_ids(lm, prompt)
        if not first:
            raise InputError("prompts", f"row {number} without a token", "a prompt of one token at least")
        sides = [completion_ids(lm, prompt, answer) + tail for answer in answers]
        size = len(first) + max(map(len, sides))
        if limit is not None and size > limit:
            if on_long == "refuse":
                raise InputError("data", f"row {number} of {size} tokens", f"at most {limit} (or on_long='drop')")
            long += 1
            continue
        rows.append((first, sides[0], sides[1]))
    if long:
        warnings.warn(f"{long} of {len(data)} pairs are longer than {limit} tokens and were dropped", stacklevel=2)
    if not rows:
        raise InputError("data", f"no pair of at most {limit} tokens", "one at least")
    return TokenPairs(*(list(column) for column in zip(*rows, strict=True)))


def prompt_ids(lm: HFBackend, prompt: Prompt) -> list[int]:
    """Ids of a prompt as `lm` reads it when it generates."""
    return lm._prompt_ids(GenRequest(prompt))  # type: ignore[arg-type]


def completion_ids(lm: HFBackend, prompt: Prompt, completion: str) -> list[int]:
    """Ids of a completion behind a prompt, without an end token."""
    if isinstance(prompt, str):
        return lm._tail_ids(prompt, completion, lm._ids(prompt))
    return lm._ids(completion)


def _column(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError(name, type(values).__name__, "a list with an entry for each pair")
    return list(values)


def _same_length(columns: Sequence[list[Any]]) -> None:
    if not columns[0]:
        raise InputError("prompts", "none", "one pair at least")
    for name, values in zip(("chosen", "rejected"), columns[1:], strict=True):
        if len(values) != len(columns[0]):
            raise InputError(name, f"{len(values)} rows", f"{len(columns[0])}, one for each prompt")


def _warn_dropped(given: int, kept: int) -> None:
    if not kept:
        raise InputError("rejected", "the chosen completion in every row", "pairs whose completions differ")
    if kept < given:
        warnings.warn(f"{given - kept} of {given} pairs have equal completions and were dropped", stacklevel=3)
