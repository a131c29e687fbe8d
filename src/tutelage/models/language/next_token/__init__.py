"""Next-token models: the law of each token of an answer, and answers drawn from it, for whole batches of token ids.

`LanguageModel` speaks text. Distillation, divergences and on-policy training need the full law p(· | prompt, answer so far) at
every token instead. Anything with the two methods of `NextTokenModel` can be a teacher or an oracle; one with a `module` and
`logits`, which pass gradients, can be a student. `next_token_model` makes one from what users have.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.language.huggingface import HFBackend
from tutelage.models.language.next_token.nets import CausalNet, Seq2SeqNet
from tutelage.models.language.next_token.padded import Padded
from tutelage.models.language.next_token.rolling import draw_rows, noise_of, roll
from tutelage.models.language.next_token.table import NGramTable
from tutelage.models.language.ngram import NGramLM


@runtime_checkable
class NextTokenModel(Protocol):
    """size: V, how many ids its law is over. ends: ids that end an answer; they are part of it."""

    @property
    def size(self) -> int: ...
    @property
    def ends(self) -> frozenset[int]: ...

    def log_probs(self, prompts: Padded, answers: Padded) -> Tensor:
        """(B, T, V), float32, no gradient: row t is the law of answer token t, given prompt and answer tokens before it."""
        ...

    def sample(self, prompts: Padded, max_new: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Padded:
        """An answer of at most max_new tokens, end token included, to each prompt; row i is a function of seeds[i] alone."""
        ...


@runtime_checkable
class TrainableNet(NextTokenModel, Protocol):
    """A next-token model that can be trained."""

    @property
    def module(self) -> nn.Module: ...

    def logits(self, prompts: Padded, answers: Padded, *, module: nn.Module | None = None) -> Tensor:
        """(B, T, V), with gradients; module: what to call instead of the net itself (a wrapper around it)."""
        ...


class Trimmed:
    """A next-token model over its first `size` ids, for models whose vocabularies are padded to different sizes.

    The law is renormalised over these ids. A prompt or an answer with another id is refused when it is met, and so is one
    that the model draws.
    """

    def __init__(self, model: NextTokenModel, size: int) -> None:
        self.inner, self.size = model, size
        self.ends = frozenset(end for end in model.ends if end < size)
        self.tokens = _tokens(model)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.inner.module  # type: ignore[attr-defined]
        return module

    def log_probs(self, prompts: Padded, answers: Padded) -> Tensor:
        self._check(prompts, answers)
        return self.inner.log_probs(prompts, answers)[..., : self.size].log_softmax(2)

    def logits(self, prompts: Padded, answers: Padded, *, module: nn.Module | None = None) -> Tensor:
        self._check(prompts, answers)
        found: Tensor = self.inner.logits(prompts, answers, module=module)  # type: ignore[attr-defined]
        return found[..., : self.size]

    def sample(self, prompts: Padded, max_new: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Padded:
        self._check(prompts)
        answers = self.inner.sample(prompts, max_new, seeds=seeds, temperature=temperature)
        self._check(answers)
        return answers

    def _check(self, *many: Padded) -> None:
        for rows in many:
            if rows.highest() >= self.size:
                raise InputError("trim", f"the id {rows.highest()} in a text", f"ids below {self.size}, which both models have")


def next_token_model(lm: Any, argument: str = "lm", *, trainable: bool = False) -> Any:
    """A `NextTokenModel` (`TrainableNet`) of a model of transformers, of an `HFCausalLM`, `HFSeq2SeqLM`, `TinyGPT`, or what is
    one already. InputError says what is wrong with anything else.
    """
    found = lm
    if isinstance(lm, NGramLM):
        raise InputError(argument, lm.name, "its law over the ids of the other models: NGramTable.of(lm, tokens)")
    if isinstance(lm, HFBackend):
        if lm._virtual:
            raise InputError(argument, f"{lm.name} with a soft prompt", "the model without it")
        spelled = {i: token for token, i in lm.tokenizer.get_vocab().items()}
        found = _net(lm.model, argument, ends=lm.ends, tokens=spelled)
    elif isinstance(lm, nn.Module) and not isinstance(lm, NextTokenModel):
        found = _net(lm, argument)
    wanted = (
        "a causal or seq2seq model of transformers, an HFCausalLM, a TinyGPT, or an object with size, ends, log_probs, sample"
    )
    if not isinstance(found, NextTokenModel):
        raise InputError(argument, type(lm).__name__, wanted)
    if trainable and not (hasattr(found, "logits") and isinstance(getattr(found, "module", None), nn.Module)):
        raise InputError(argument, f"{type(lm).__name__}, which cannot be trained", "a model of transformers, or a TinyGPT")
    return found


def _net(module: nn.Module, argument: str, **settings: Any) -> CausalNet | Seq2SeqNet:
    config: Any = getattr(module, "config", None)
    if config is None:
        raise InputError(argument, type(module).__name__, "a language model of transformers")
    return (Seq2SeqNet if getattr(config, "is_encoder_decoder", False) else CausalNet)(module, **settings)


def common_vocabulary(models: dict[str, Any], *, trim: bool = False) -> dict[str, Any]:
    """The same models over one vocabulary, or an InputError that says how they differ.

    models: argument -> next-token model. Where both tokenizers are known, an id that they have in common must mean the same.
    Laws over different numbers of ids are refused, unless `trim`: then all are cut to the smallest (see `Trimmed`).
    """
    names = list(models)
    for first, second in pairwise(names):
        ones, others = _tokens(models[first]), _tokens(models[second])
        if ones is not None and others is not None:
            for i in sorted(ones.keys() & others.keys()):
                if ones[i] != others[i]:
                    got = f"{others[i]!r} at id {i}, where {first} has {ones[i]!r}"
                    raise InputError(second, got, "the same vocabulary: no divergence is defined between others")
    sizes = {name: int(model.size) for name, model in models.items()}
    least = min(sizes.values())
    if len(set(sizes.values())) == 1:
        return models
    if not trim:
        spelled = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(
            names[-1],
            f"vocabularies of different sizes ({spelled})",
            f"one vocabulary; if ids from {least} on are only padding, trim=True",
        )
    return {name: model if sizes[name] == least else Trimmed(model, least) for name, model in models.items()}


def _tokens(model: Any) -> dict[int, str] | None:
    found = getattr(model, "tokens", None)
    return found if isinstance(found, dict) else None


def sample_in_parts(
    model: NextTokenModel, prompts: Padded, max_new: int, *, seeds: Sequence[int], size: int = 64, temperature: float = 1.0
) -> Padded:
    """`model.sample`, at most `size` prompts at a time; answers on the CPU."""
    parts = [
        model.sample(part, max_new, seeds=seeds[at * size : (at + 1) * size], temperature=temperature).to("cpu")
        for at, part in enumerate(prompts.parts(size))
    ]
    return joined(parts)


def joined(parts: Sequence[Padded]) -> Padded:
    """Rows of several batches, padded on the right, in one."""
    width = max(part.width for part in parts)
    grown = [
        Padded(
            torch.nn.functional.pad(part.ids, (0, width - part.width)),
            torch.nn.functional.pad(part.mask, (0, width - part.width)),
        )
        for part in parts
    ]
    return Padded(torch.cat([part.ids for part in grown]), torch.cat([part.mask for part in grown]))


__all__ = [
    "CausalNet",
    "NGramTable",
    "NextTokenModel",
    "Padded",
    "Seq2SeqNet",
    "TrainableNet",
    "Trimmed",
    "common_vocabulary",
    "draw_rows",
    "joined",
    "next_token_model",
    "noise_of",
    "roll",
    "sample_in_parts",
]
