"""The decoding loop: one token a step for every row of a batch; a row that ends leaves the batch, and its cache with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tutelage.models.language.protocol import Finish, Generation, GenRequest, cut_at_stop
from tutelage.models.language.sampling import next_tokens


class State(Protocol):
    """What a model keeps between two steps of a batch."""

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) after one more token (B,) in each row."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, indices (B',) that may repeat."""
        ...


@dataclass
class Row:
    """One sample under way. prompt: ids of its prompt (for the spelling of what follows). dropped: as in `Generation`."""

    request: GenRequest
    stream: np.random.Generator
    prompt: Sequence[int] = ()
    dropped: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None


def decode(
    state: State,
    logits: Tensor,
    rows: Sequence[Row],
    ends: frozenset[int],
    spell: Callable[[Sequence[int], Sequence[int]], str],
) -> list[Generation]:
    """Complete every row; logits (B, V) are those of the first token. ends: ids that end a text.

    spell: (ids of the prompt, ids of the completion) -> the completion as a text.
    """
    active = list(rows)
    while True:
        settings = [row.request for row in active]
        tokens = next_tokens(
            logits, [r.temperature for r in settings], [r.top_p for r in settings], [row.stream for row in active]
        )
        for i, (row, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
            if row.request.logprobs:
                z = logits[i].detach().float()
                row.logprobs.append(float(z[token] - torch.logsumexp(z, 0)))
            row.tokens.append(token)
            if token in ends or _stopped(row, spell):
                row.finish = "stop"
            elif len(row.tokens) >= row.request.max_tokens:
                row.finish = "length"
        going = [i for i, row in enumerate(active) if row.finish is None]
        if not going:
            break
        if len(going) < len(active):
            active, tokens = [active[i] for i in going], tokens[going]
            state.select(torch.tensor(going))
        logits = state.step(tokens)
    return [_generation(row, ends, spell) for row in rows]


def _stopped(row: Row, spell: Callable[[Sequence[int], Sequence[int]], str]) -> bool:
    """Whether a stop text is there. The tail is looked at first: a character takes four bytes, and so four tokens, at most."""
    stop = row.request.stop
    if not stop:
        return False
    tail = row.tokens[-(4 * max(map(len, stop)) + 8) :]
    if not any(text in spell(row.prompt, tail) for text in stop):
        return False
    return cut_at_stop(spell(row.prompt, row.tokens), stop)[1]


def _generation(row: Row, ends: frozenset[int], spell: Callable[[Sequence[int], Sequence[int]], str]) -> Generation:
    tokens = row.tokens
    text = spell(row.prompt, tokens[:-1] if tokens[-1] in ends else tokens)
    assert row.finish is not None
    logprobs = tuple(row.logprobs) if row.request.logprobs else None
    return Generation(cut_at_stop(text, row.request.stop)[0], len(tokens), row.finish, tuple(tokens), logprobs, row.dropped)
