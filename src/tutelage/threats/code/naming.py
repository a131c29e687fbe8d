"""Names for variables from models of code: what `RenameByModel` takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.language.protocol import GenRequest, LanguageModel, require
from tutelage.threats.code.scopes import is_name
from tutelage.threats.code.source import Span


class MaskedNamer:
    """The name with the highest sum of log-probabilities over all places of a variable, each masked (CodeBERT in ReCode).

    model, tokenizer: a masked language model of transformers and its tokenizer, such as AutoModelForMaskedLM of
        "microsoft/codebert-base-mlm". Only names of one token are proposed.
    top: how many names. window: most tokens that are read; of a longer program, the part before the last place is kept.
    """

    def __init__(self, model: Any, tokenizer: Any, *, top: int = 50, window: int = 512) -> None:
        if getattr(tokenizer, "mask_token", None) is None:
            raise InputError("tokenizer", type(tokenizer).__name__, "one with a mask token, of a masked language model")
        check_integer("top", top)
        check_integer("window", window, low=8)
        self.model, self.tokenizer, self.top, self.window = model, tokenizer, top, window

    @torch.no_grad()
    def __call__(self, program: str, places: Sequence[Span]) -> list[str]:
        mask = self.tokenizer.mask_token
        pieces, at = [], 0
        for start, end in sorted(places):
            pieces += [program[at:start], mask]
            at = end
        text = "".join([*pieces, program[at:]])
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"][0]
        masked = (ids == self.tokenizer.mask_token_id).nonzero()[:, 0]
        if not len(masked):
            return []
        last = int(masked[-1]) + 1
        ids = ids[max(0, last - self.window) : max(last, self.window)]
        masked = ids == self.tokenizer.mask_token_id
        training = self.model.training
        self.model.eval()
        try:
            device = next(self.model.parameters()).device
            logits = self.model(input_ids=ids[None].to(device)).logits[0].float().cpu()
        finally:
            self.model.train(training)
        scores = logits[masked].log_softmax(-1).sum(0)
        order = scores.argsort(descending=True, stable=True).tolist()
        names: list[str] = []
        for index in order:
            name = self.tokenizer.decode([index]).strip()
            if is_name(name) and name not in names:
                names.append(name)
            if len(names) == self.top:
                break
        return names


class GeneratedNamer:
    """Names that any generating language model writes where the variable first stands; samples, the most frequent first."""

    def __init__(self, lm: LanguageModel, *, n: int = 8, max_tokens: int = 6, temperature: float = 0.8) -> None:
        require(lm, "generate", by="a namer")
        check_integer("n", n)
        self.lm, self.n, self.max_tokens, self.temperature = lm, n, max_tokens, temperature

    def __call__(self, program: str, places: Sequence[Span]) -> list[str]:
        before = program[: min(places)[0]]
        request = GenRequest(before, n=self.n, max_tokens=self.max_tokens, temperature=self.temperature)
        written = [re.match(r"\s*([A-Za-z_]\w*)", one.text) for one in self.lm.generate([request])[0]]
        names = [match[1] for match in written if match and is_name(match[1])]
        return sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
