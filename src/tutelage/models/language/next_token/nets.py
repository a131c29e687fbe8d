"""Nets of transformers as next-token models, with gradients where they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.guard import evaluating
from tutelage.models.language.huggingface import takes
from tutelage.models.language.next_token.llama import LlamaState, is_plain_llama, llama_logits
from tutelage.models.language.next_token.padded import Padded
from tutelage.models.language.next_token.rolling import check_roll, roll


class _Net:
    """What both kinds share. tokens: the vocabulary by id, where it is known."""

    def __init__(self, module: nn.Module, *, ends: Iterable[int] | None = None, tokens: dict[int, str] | None = None) -> None:
        config: Any = getattr(module, "config", None)
        if not isinstance(module, nn.Module) or config is None:
            raise InputError("model", type(module).__name__, "a language model of transformers")
        self.module, self.tokens = module, tokens
        self.ends = ends_of(module) if ends is None else frozenset(int(end) for end in ends)
        head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None  # type: ignore[operator]
        self.size = int(head.weight.shape[0]) if head is not None else int(config.get_text_config().vocab_size)
        inputs: Any = module.get_input_embeddings()  # type: ignore[operator]
        self.known = int(inputs.weight.shape[0])
        self._positions, self._keeps = takes(module, "position_ids"), takes(module, "logits_to_keep")

    @property
    def device(self) -> torch.device:
        inputs: Any = self.module.get_input_embeddings()  # type: ignore[operator]
        found: torch.device = inputs.weight.device
        return found

    def logits(self, prompts: Padded, answers: Padded, *, module: nn.Module | None = None) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def log_probs(self, prompts: Padded, answers: Padded) -> Tensor:
        with evaluating(self.module, verify=False):
            return self.logits(prompts, answers).float().log_softmax(2)

    def _checked(self, prompts: Padded, answers: Padded | None) -> tuple[Padded, Padded | None]:
        for name, rows in (("prompts", prompts), ("answers", answers)):
            if rows is None:
                continue
            if not len(rows) or not bool(rows.mask.any(1).all()):
                raise InputError(name, "a row without a token", "one token at least in each row")
            if rows.highest() >= self.known:
                raise InputError(name, f"the id {rows.highest()}", f"ids below {self.known}, what the model has embeddings for")
        if answers is not None and len(answers) != len(prompts):
            raise InputError("answers", f"{len(answers)} rows", f"{len(prompts)}, one for each prompt")
        return prompts.to(self.device), None if answers is None else answers.to(self.device)


class CausalNet(_Net):
    """A decoder-only model: prompt and answer are one text."""

    def logits(self, prompts: Padded, answers: Padded, *, module: nn.Module | None = None) -> Tensor:
        prompts, found = self._checked(prompts, answers)
        assert found is not None
        count = found.width
        if (module is None or module is self.module) and is_plain_llama(self.module):
            mask = None if prompts.whole else torch.cat([prompts.mask, torch.ones_like(found.mask)], 1)[:, :-1]
            return llama_logits(self.module, torch.cat([prompts.ids, found.ids], 1)[:, :-1], mask, count)
        call: dict[str, Any] = {"input_ids": torch.cat([prompts.ids, found.ids], 1)[:, :-1], "use_cache": False}
        if not prompts.whole:
            # what is padded behind an answer needs no mask: nothing before it looks there
            mask = torch.cat([prompts.mask, torch.ones_like(found.mask)], 1)[:, :-1]
            call |= self._where(mask)
        if self._keeps:
            call["logits_to_keep"] = count
        logits: Tensor = (self.module if module is None else module)(**call).logits
        return logits[:, -count:]

    @torch.no_grad()
    def sample(self, prompts: Padded, max_new: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Padded:
        check_roll(len(prompts), max_new, seeds, temperature)
        prompts, _ = self._checked(prompts, None)
        with evaluating(self.module, verify=False):
            if is_plain_llama(self.module):
                fast = LlamaState(self.module, prompts.ids, None if prompts.whole else prompts.mask, max_new)
                return roll(fast, fast.logits, max_new=max_new, seeds=seeds, ends=self.ends, temperature=temperature)
            call: dict[str, Any] = {"input_ids": prompts.ids, "use_cache": True}
            if not prompts.whole:
                call |= self._where(prompts.mask)
            if self._keeps:
                call["logits_to_keep"] = 1
            out = self.module(**call)
            mask = None if prompts.whole else call["attention_mask"]
            state = _Causal(self.module, out.past_key_values, mask, prompts.lengths if self._positions else None)
            return roll(state, out.logits[:, -1], max_new=max_new, seeds=seeds, ends=self.ends, temperature=temperature)

    def _where(self, mask: Tensor) -> dict[str, Tensor]:
        found = {"attention_mask": mask.long()}
        return found | ({"position_ids": (found["attention_mask"].cumsum(1) - 1).clamp(min=0)} if self._positions else {})


@dataclass
class _Causal:
    """Keys and values of a batch. mask: (B, L) if something is padded. lengths: (B,) tokens so far, if positions are told."""

    module: nn.Module
    cache: Any
    mask: Tensor | None
    lengths: Tensor | None

    def step(self, tokens: Tensor) -> Tensor:
        call: dict[str, Any] = {"input_ids": tokens[:, None], "past_key_values": self.cache, "use_cache": True}
        if self.mask is not None:  # without padding a model finds its positions by itself
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
            call["attention_mask"] = self.mask
            if self.lengths is not None:
                call["position_ids"] = self.lengths[:, None]
                self.lengths = self.lengths + 1
        out = self.module(**call)
        self.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]
            self.lengths = None if self.lengths is None else self.lengths[rows]


class Seq2SeqNet(_Net):
    """An encoder-decoder: the encoder reads the prompt, the decoder writes the answer behind its start token."""

    def __init__(self, module: nn.Module, *, ends: Iterable[int] | None = None, tokens: dict[int, str] | None = None) -> None:
        super().__init__(module, ends=ends, tokens=tokens)
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        found = [value for name in names if (value := getattr(module.config, name, None)) is not None]
        if not found:
            raise InputError("model", "a configuration without decoder_start_token_id", "one that says how an answer begins")
        self.start = int(found[0])

    def logits(self, prompts: Padded, answers: Padded, *, module: nn.Module | None = None) -> Tensor:
        prompts, found = self._checked(prompts, answers)
        assert found is not None
        first = found.ids.new_full((len(found), 1), self.start)
        logits: Tensor = (self.module if module is None else module)(
            input_ids=prompts.ids,
            attention_mask=prompts.mask.long(),
            decoder_input_ids=torch.cat([first, found.ids[:, :-1]], 1),
            use_cache=False,
        ).logits
        return logits

    @torch.no_grad()
    def sample(self, prompts: Padded, max_new: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Padded:
        check_roll(len(prompts), max_new, seeds, temperature)
        prompts, _ = self._checked(prompts, None)
        with evaluating(self.module, verify=False):
            encoder: Any = self.module.get_encoder()  # type: ignore[operator]
            mask = prompts.mask.long()
            state = _Encoded(self.module, encoder(input_ids=prompts.ids, attention_mask=mask), mask)
            logits = state.step(prompts.ids.new_full((len(prompts),), self.start))
            return roll(state, logits, max_new=max_new, seeds=seeds, ends=self.ends, temperature=temperature)


@dataclass
class _Encoded:
    """What the encoder said of a batch, the mask (B, L) of its input, and the decoder's keys and values."""

    module: nn.Module
    encoded: Any
    mask: Tensor
    cache: Any = None

    def step(self, tokens: Tensor) -> Tensor:
        out = self.module(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]
        self.mask = self.mask[rows]


def ends_of(module: nn.Module) -> frozenset[int]:
    """The end tokens that a model's own configuration names."""
    for config in (getattr(module, "generation_config", None), module.config):
        ends = getattr(config, "eos_token_id", None)
        if ends is not None:
            return frozenset(int(end) for end in (ends if isinstance(ends, list | tuple) else [ends]))
    return frozenset()
