"""Decoder-only language models of transformers: GPT-2, Llama, SmolLM2, Qwen, …

Prompts are padded on the left, so that the last positions of a batch are the tokens in question. What all prompts of a batch
begin with (instructions, few-shot examples, a soft prompt) is read once, and its keys and values are shared; prompts that are
equal are read once, too. Padding is told to the model by mask and positions. So a padding token that is the end token does no
harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.language.decoding import Row, decode
from tutelage.models.language.huggingface import HFBackend, not_there, scores, takes
from tutelage.models.language.protocol import Generation, GenRequest, LogLik

MIN_SHARED = 8  # tokens: below, a pass of its own costs more than it saves


class HFCausalLM(HFBackend):
    """A causal language model of transformers; see `HFBackend` for arguments and `HFBackend.load` for weights on disk.

    Text is taken byte for byte: nothing is stripped, and the first token that the tokenizer asks for (BOS) is put before it. An
    empty prompt begins with that token, or else with the end token.

    Example::

        >>> from tutelage.models.language import GenRequest, TinyGPT
        >>> lm = TinyGPT.new("0123456789+=", layers=1, width=16, heads=2, context=32)  # random weights
        >>> answer = lm.generate([GenRequest("1+1=", n=2, max_tokens=3, temperature=1.0)])[0]
        >>> len(answer), round(lm.loglikelihood([("1+1=", "2")])[0].logprob) < 0
        (2, True)
    """

    _auto = "AutoModelForCausalLM"

    def _checked_prompt(self, request: GenRequest, what: str) -> tuple[list[int], int]:
        return self._fit(self._begun(self._prompt_ids(request), what), request.max_tokens, what)

    def _checked_pair(self, pair: tuple[str, str], what: str) -> tuple[list[int], list[int]]:
        bare = self._ids(pair[0])
        tail = self._tail_ids(*pair, bare)
        if not tail:
            raise InputError("pairs", f"{what}, whose continuation has no token", "a continuation of one token at least")
        # the last token is never read: it only has to be predicted
        return self._fit(self._begun(self._start() + bare, what), len(tail) - 1, what)[0], tail

    def _checked_text(self, text: str, what: str) -> list[int]:
        return self._fit(self._begun(self._start() + self._ids(text), what), 0, what)[0]

    def _begun(self, ids: list[int], what: str) -> list[int]:
        if ids:
            return ids
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        if first is None:
            raise not_there(what)
        return [int(first)]

    def _complete(self, rows: list[Row]) -> list[Generation]:
        prompts = [tuple(row.prompt) for row in rows]
        unique = list(dict.fromkeys(prompts))
        logits, state = self._read([list(prompt) for prompt in unique], [1] * len(unique))
        logits = logits[:, -1]
        if len(unique) < len(rows):
            which = torch.tensor([unique.index(prompt) for prompt in prompts])
            state.select(which)
            logits = logits[which.to(logits.device)]
        return decode(state, logits, rows, self.ends, self._spell)

    def _scored(self, rows: list[tuple[list[int], list[int]]]) -> list[LogLik]:
        logits, _ = self._read([[*context, *tail[:-1]] for context, tail in rows], [len(tail) for _, tail in rows])
        return [scores(logits[i, -len(tail) :], tail) for i, (_, tail) in enumerate(rows)]

    def _states(self, rows: list[list[int]], layer: int | str) -> list[Tensor]:
        call, _ = self._call(rows, 0, *self._prefix(rows, 0))
        states = self._seen(call, layer, self.model, "hidden_states")
        return [states[i, -len(row) :] for i, row in enumerate(rows)]

    # -------------------------------------------------------------------------------------------------- one pass

    def _read(self, rows: list[list[int]], last: list[int]) -> tuple[Tensor, _Cached]:
        """Logits (B, K, V) of the last K positions, K the largest of `last`, and the state behind them."""
        shared = _common(rows, [len(row) - k for row, k in zip(rows, last, strict=True)])
        if len(rows) == 1 or shared < MIN_SHARED:
            shared = 0
        call, lengths = self._call(rows, shared, *self._prefix(rows, shared))
        if takes(self.model, "logits_to_keep"):
            call["logits_to_keep"] = max(last)
        out = self.model(**call, use_cache=True)
        state = _Cached(self.model, out.past_key_values, call["attention_mask"], lengths, takes(self.model, "position_ids"))
        return out.logits[:, -max(last) :], state

    def _prefix(self, rows: list[list[int]], shared: int) -> tuple[Any, int]:
        """The cache, repeated for each row, of soft prompt and first `shared` tokens; and its length."""
        if self._soft is None and not shared:
            return None, 0
        ids = torch.tensor([rows[0][:shared]], dtype=torch.long, device=self._device)
        call: dict[str, Any] = {"input_ids": ids}
        if self._soft is not None:
            call = {"inputs_embeds": torch.cat([self._soft[None], self._embed(ids)], dim=1)}
        if takes(self.model, "logits_to_keep"):
            call["logits_to_keep"] = 1
        cache = self.model(**call, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
        return cache, shared + self._virtual

    def _call(self, rows: list[list[int]], shared: int, cache: Any, before: int) -> tuple[dict[str, Any], Tensor]:
        """The arguments of one pass over what follows the prefix, padded on the left; and the lengths (B,) it reaches."""
        rest = [row[shared:] for row in rows]
        width = max(map(len, rest))
        pad = next(iter(self.ends), 0)  # any id: it is masked
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rest], device=self._device)
        own = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rest], device=self._device)
        mask = torch.cat([own.new_ones(len(rest), before), own], dim=1)
        call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if takes(self.model, "position_ids"):
            call["position_ids"] = (own.cumsum(1) - 1).clamp(min=0) + before
        if cache is not None:
            call["past_key_values"] = cache
        return call, mask.sum(1)


@dataclass
class _Cached:
    """Keys and values of a batch, the mask (B, L) of what they stand for, and the number (B,) of tokens in each row."""

    model: nn.Module
    cache: Any
    mask: Tensor
    lengths: Tensor
    positions: bool

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        call: dict[str, Any] = {"input_ids": tokens.to(self.mask.device)[:, None], "attention_mask": self.mask}
        if self.positions:
            call["position_ids"] = self.lengths[:, None]
        out = self.model(**call, past_key_values=self.cache, use_cache=True)
        self.cache, self.lengths = out.past_key_values, self.lengths + 1
        logits: Tensor = out.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]


def _common(rows: Sequence[Sequence[int]], limits: Sequence[int]) -> int:
    """How many first tokens all rows share, at most min(limits)."""
    most = max(0, min(limits))
    first = rows[0][:most]
    return min((next((i for i, (a, b) in enumerate(zip(first, row, strict=False)) if a != b), most) for row in rows), default=0)
