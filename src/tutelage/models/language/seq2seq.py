"""Encoder-decoder language models of transformers: T5, BART, …: the prompt is read by the encoder, the decoder writes the
answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.language.decoding import Row, decode
from tutelage.models.language.huggingface import HFBackend, not_there, scores
from tutelage.models.language.protocol import Generation, GenRequest, LogLik


class HFSeq2SeqLM(HFBackend):
    """An encoder-decoder model of transformers; see `HFBackend` for arguments and `HFBackend.load` for weights on disk.

    The prompt gets the special tokens of the tokenizer. `max_context` is the encoder's: completions do not count. Hidden states
    are the encoder's, by number, or of any module of it, by name; a soft prompt stands before the encoder's input.
    """

    _auto = "AutoModelForSeq2SeqLM"

    def _prompt_ids(self, request: GenRequest) -> list[int]:
        if isinstance(request.prompt, str):
            return self._encoded(request.prompt)
        return super()._prompt_ids(request)

    def _encoded(self, text: str) -> list[int]:
        self._ids(text)  # says which text a tokenizer does not take
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _checked_prompt(self, request: GenRequest, what: str) -> tuple[list[int], int]:
        return self._fit(self._some(self._prompt_ids(request), what), 0, what)

    def _checked_pair(self, pair: tuple[str, str], what: str) -> tuple[list[int], list[int]]:
        tail = self._ids(pair[1])
        if not tail:
            raise InputError("pairs", f"{what}, whose continuation has no token", "a continuation of one token at least")
        return self._fit(self._some(self._encoded(pair[0]), what), 0, what)[0], tail

    def _checked_text(self, text: str, what: str) -> list[int]:
        return self._fit(self._some(self._encoded(text), what), 0, what)[0]

    def _some(self, ids: list[int], what: str) -> list[int]:
        if not ids and self.tokenizer.eos_token_id is None:
            raise not_there(what)
        return ids or [int(self.tokenizer.eos_token_id)]

    def _complete(self, rows: list[Row]) -> list[Generation]:
        state = self._encode([list(row.prompt) for row in rows])
        logits = state.step(torch.full((len(rows),), self._first()))
        return decode(state, logits, rows, self.ends, lambda prompt, tokens: self._decode(tokens))

    def _scored(self, rows: list[tuple[list[int], list[int]]]) -> list[LogLik]:
        state = self._encode([context for context, _ in rows])
        width = max(len(tail) for _, tail in rows)
        # padded on the right: a decoder does not look ahead, so what stands behind a row changes nothing in it
        fed = [[self._first(), *tail[:-1]] + [self._first()] * (width - len(tail)) for _, tail in rows]
        logits = self.model(
            encoder_outputs=state.encoded,
            attention_mask=state.mask,
            decoder_input_ids=torch.tensor(fed, device=self._device),
            use_cache=False,
        ).logits
        return [scores(logits[i, : len(tail)], tail) for i, (_, tail) in enumerate(rows)]

    def _states(self, rows: list[list[int]], layer: int | str) -> list[Tensor]:
        call, mask = self._inputs(rows)
        encoder: Any = self.model.get_encoder()  # type: ignore[operator]
        states = self._seen({**call, "attention_mask": mask}, layer, encoder, "hidden_states")
        return [states[i, self._virtual : self._virtual + len(row)] for i, row in enumerate(rows)]

    def _first(self) -> int:
        config = self.model.config
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            if (found := getattr(config, name, None)) is not None:
                return int(found)
        raise InputError("model", "a configuration without decoder_start_token_id", "one that says how an answer begins")

    def _inputs(self, rows: list[list[int]]) -> tuple[dict[str, Any], Tensor]:
        width = max(map(len, rows))
        pad = next(iter(self.ends), 0)  # any id: it is masked
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self._device)
        own = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._device)
        if self._soft is None:
            return {"input_ids": ids}, own
        soft = self._soft.expand(len(rows), -1, -1)
        mask = torch.cat([own.new_ones(len(rows), self._virtual), own], dim=1)
        return {"inputs_embeds": torch.cat([soft, self._embed(ids)], dim=1)}, mask

    def _encode(self, rows: list[list[int]]) -> _Encoded:
        call, mask = self._inputs(rows)
        encoder: Any = self.model.get_encoder()  # type: ignore[operator]
        return _Encoded(self.model, encoder(**call, attention_mask=mask), mask)


@dataclass
class _Encoded:
    """What the encoder said of a batch, the mask (B, L) of its input, and the decoder's keys and values so far."""

    model: nn.Module
    encoded: Any
    mask: Tensor
    cache: Any = None

    def step(self, tokens: Tensor) -> Tensor:
        out = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens.to(self.mask.device)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]
        self.mask = self.mask[rows]
