"""The adversary: equations (1) to (5) of the package."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import generator as generator_of
from tutelage.methods.harden.lat.batches import TripleBatch, Where
from tutelage.models.blocks import Layer, residual_norms, residual_states
from tutelage.models.guard import evaluating
from tutelage.teaching.language.preferences import pair_loss
from tutelage.teaching.language.sequences import sequence_logprobs
from tutelage.teaching.language.unlikelihood import away, toward
from tutelage.threats.latent.search import Delta, Keep, LatentBall, Norm, random_delta, search

Adversary = Literal["targeted", "untargeted", "dpo", "random"]
Units = Literal["absolute", "residual"]


@dataclass(frozen=True)
class LatentAttack:
    """What the adversary may do and wants.

    eps: the radius of each token's ball. units: "absolute" in units of the hidden states, as the paper; "residual" in mean
        lengths of the prompts' hidden states at each layer, so that one eps means the same at every layer and in every model.
        lr is in the same units: a step moves a token by about lr * sqrt(d) ("absolute") or lr ("residual").
    layers: "embedding", numbers of blocks (what leaves them), or names of modules. steps, lr: of AdamW without weight decay.
    adversary: "targeted" (1), "untargeted" (2), "dpo" (3), or "random" (drawn from the ball, the control).
    toward, away: the coefficients of (1). beta: of (3). where: the tokens that are perturbed. norm, per_token: of the ball.
    """

    eps: float
    layers: tuple[Layer, ...] = ("embedding",)
    steps: int = 16
    lr: float = 5e-2
    adversary: Adversary = "targeted"
    toward: float = 1.0
    away: float = 0.0
    beta: float = 0.3
    where: Where = "prompt"
    norm: Norm = "l2"
    per_token: bool = True
    units: Units = "absolute"

    def __post_init__(self) -> None:
        check_number("eps", self.eps, "a finite number >= 0", low=0.0)
        check_integer("steps", self.steps, low=0)
        check_positive("lr", self.lr, "a number > 0")
        check_positive("beta", self.beta, "a number > 0")
        check_choice("adversary", self.adversary, get_args(Adversary))
        check_choice("where", self.where, get_args(Where))
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("units", self.units, get_args(Units))
        for name in ("toward", "away"):
            check_number(name, getattr(self, name), "a number >= 0", low=0.0)
        if self.adversary == "targeted" and self.toward + self.away == 0:
            raise InputError("toward", self.toward, "something to want: toward or away above 0")
        if not isinstance(self.layers, tuple) or not self.layers or len(set(self.layers)) != len(self.layers):
            raise InputError("layers", self.layers, "a tuple of one layer at least, each once")


@dataclass(frozen=True)
class Scaled:
    """An attack in units of the hidden states: eps and lr of each layer."""

    eps: dict[Layer, float]
    lr: dict[Layer, float]


def scaled(attack: LatentAttack, model: nn.Module, batch: TripleBatch) -> Scaled:
    """eps and lr of `attack` in units of the model's hidden states, measured on the prompts of `batch` where it needs them.

    Warns where lr * steps cannot reach eps: the ball is then not what limits the attack.
    """
    ids, attention, _ = batch.half("good")
    mask = batch.mask("prompt")

    def run() -> Any:
        return logits_of(model, ids, attention)

    with evaluating(model, verify=False):
        widths = {layer: state.shape[2] for layer, state in residual_states(model, attack.layers, run).items()}
    units = dict.fromkeys(attack.layers, 1.0)
    rates = dict.fromkeys(attack.layers, attack.lr)
    if attack.units == "residual":
        units = residual_norms(model, attack.layers, run, mask)
        rates = {layer: attack.lr * units[layer] / math.sqrt(widths[layer]) for layer in attack.layers}
    found = Scaled({layer: attack.eps * units[layer] for layer in attack.layers}, rates)
    if attack.adversary != "random" and attack.steps and attack.norm == "l2" and attack.per_token:
        for layer in attack.layers:
            reach = found.lr[layer] * attack.steps * math.sqrt(widths[layer])
            if reach < found.eps[layer]:
                warnings.warn(
                    f"the attack cannot reach its ball at layer {layer!r}: {attack.steps} steps of {found.lr[layer]:.3g} move "
                    f"a token by at most about {reach:.3g}, eps is {found.eps[layer]:.3g}; raise lr or steps",
                    stacklevel=2,
                )
    return found


def attack(
    model: nn.Module,
    batch: TripleBatch,
    config: LatentAttack,
    *,
    reference: Callable[[Tensor, Tensor], Tensor] | None = None,
    scale: Scaled | None = None,
    start: Delta | None = None,
    keep: Keep = "last",
    generator: torch.Generator | None = None,
) -> Delta:
    """The perturbation that `config` asks for, of the batch's prompts; the model is not changed.

    model: a causal language model of transformers (or with its surface): (input_ids, attention_mask) -> .logits.
    reference: (ids, attention) -> logits of the reference of (3); default `reference_of(model)` where the model has an
    adapter.
    scale: of `scaled`, measured here by default. start: a perturbation to go on from. keep: "last" step, or each row's
    "best".
    generator: of the adversary "random"; seed 0 by default. Raises InputError.
    """
    scale = scale or scaled(config, model, batch)
    ball, mask = LatentBall(scale.eps, config.norm, config.per_token), batch.mask(config.where)
    if config.adversary == "random":
        ids, attention, _ = batch.half("good")
        noise = generator or generator_of(0, "random delta")
        return random_delta(model, config.layers, ball, mask, lambda: logits_of(model, ids, attention), generator=noise)
    wanted = _needed(config)
    refs = None
    if config.adversary == "dpo":
        if reference is None and not has_adapter(model):
            raise InputError("reference", None, "logits of a reference: reference_of(model), taken before training")
        refs = reference_scores(reference or reference_of(model), batch)
    ids, attention, completion = (batch.ids, batch.attention, batch.completion) if wanted == "both" else batch.half(wanted)

    def loss() -> Tensor:
        return adversary_loss(config, logits_of(model, ids, attention), ids, completion, refs)

    copies = 2 if wanted == "both" else 1
    return search(
        model, config.layers, ball, mask, loss, steps=config.steps, lr=scale.lr, start=start, keep=keep, copies=copies
    )  # fmt: skip


def _needed(config: LatentAttack) -> Literal["good", "bad", "both"]:
    """Which completions the adversary's loss reads: the others cost no time."""
    if config.adversary == "untargeted":
        return "good"
    if config.adversary == "targeted" and 0 in (config.toward, config.away):
        return "bad" if config.away == 0 else "good"
    return "both"


def adversary_loss(
    config: LatentAttack, logits: Tensor, ids: Tensor, completion: Tensor, refs: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Equations (1) to (3), (B,) of each row, to be made small.

    logits, ids, completion: of the rows with the good completions and then of those with the bad ones, (2B, T); only of those
    that the loss reads where the others do not count. refs: of `reference_scores`, for (3).
    """
    wanted = _needed(config)
    if wanted != "both":
        if config.adversary == "untargeted":
            return -toward(logits, ids, completion)  # (2)
        if wanted == "bad":
            return config.toward * toward(logits, ids, completion)
        return config.away * away(logits, ids, completion)
    if config.adversary == "dpo":
        assert refs is not None
        sums, lengths = sequence_logprobs(logits, ids, completion)
        (good, bad), (n_good, n_bad) = sums.chunk(2), lengths.chunk(2)
        return pair_loss(
            "dpo", bad, good, len_w=n_bad, len_l=n_good, ref_w=refs[1], ref_l=refs[0], beta=config.beta
        )  # (3)  # fmt: skip
    good_logits, bad_logits = logits.chunk(2)
    (good_ids, bad_ids), (good_mask, bad_mask) = ids.chunk(2), completion.chunk(2)
    return config.toward * toward(bad_logits, bad_ids, bad_mask) + config.away * away(good_logits, good_ids, good_mask)  # (1)


def logits_of(model: nn.Module, ids: Tensor, attention: Tensor) -> Tensor:
    """Logits (B, T, V) of one pass without a cache."""
    logits: Tensor = model(input_ids=ids, attention_mask=attention.long(), use_cache=False).logits
    return logits


def has_adapter(model: nn.Module) -> bool:
    """Whether `model` has an adapter of peft that can be switched off."""
    return hasattr(model, "disable_adapter")


def reference_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """(ids, attention) -> logits of the model as it is now: below its peft adapter where it has one, else a frozen copy.

    Never perturbed: it must not be called inside `perturbed(model, …)` where the model has an adapter.
    """
    if has_adapter(model):

        def without_adapter(ids: Tensor, attention: Tensor) -> Tensor:
            # peft gives the adapter its gradients back when it is switched on again; the guard puts the flags back
            with torch.no_grad(), evaluating(model, verify=False), model.disable_adapter():  # type: ignore[operator]
                return logits_of(model, ids, attention)

        return without_adapter
    frozen = deepcopy(model).eval().requires_grad_(False)

    def of_copy(ids: Tensor, attention: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(frozen, ids, attention)

    return of_copy


def reference_scores(reference: Callable[[Tensor, Tensor], Tensor], batch: TripleBatch) -> tuple[Tensor, Tensor]:
    """R of the good and of the bad completions, (B,) each, in nats."""
    sums, _ = sequence_logprobs(reference(batch.ids, batch.attention), batch.ids, batch.completion)
    good, bad = sums.chunk(2)
    return good, bad


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with parameter gradients as they are; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


__all__ = ["Adversary", "LatentAttack", "Scaled", "adversary_loss", "attack", "reference_of", "scaled"]
