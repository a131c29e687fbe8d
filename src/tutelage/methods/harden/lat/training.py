"""The defender and the loop of both: equations (4) to (7) of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import CheckpointError, InputError
from tutelage.core.files import sha256_tensors
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.methods.harden.lat.adversary import (
    LatentAttack,
    Scaled,
    attack,
    has_adapter,
    logits_of,
    reference_of,
    reference_scores,
    scaled,
    without_dropout,
)
from tutelage.methods.harden.lat.batches import Pair, Triple, TripleBatch, triple_batch
from tutelage.models.blocks import Layer, layer_name, perturbed
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.language.divergences import token_divergences
from tutelage.teaching.language.preferences import pair_loss
from tutelage.teaching.language.sequences import completion_batch, sequence_logprobs
from tutelage.teaching.language.unlikelihood import away, toward
from tutelage.teaching.processes import launched
from tutelage.teaching.schedules import Schedule, constant
from tutelage.threats.latent.search import Delta

if TYPE_CHECKING:
    from accelerate import Accelerator

Form = Literal["toward_away", "dpo"]
Retain = Literal["sft", "kl", "none"]
Reference = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Defence:
    """What the defender learns under the perturbation, and what keeps the rest of the model as it is.

    form: "toward_away" (4) with coefficients toward and away, or "dpo" (5) with weight `toward` and strength beta.
    retain: on benign texts without a perturbation: "sft" cross-entropy, "kl" KL(reference || model), or "none". w: its
    weight.
    """

    form: Form = "toward_away"
    toward: float = 1.0
    away: float = 0.0
    beta: float = 0.3
    retain: Retain = "sft"
    w: float = 1.0

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(Form))
        check_choice("retain", self.retain, get_args(Retain))
        check_positive("beta", self.beta, "a number > 0")
        for name in ("toward", "away", "w"):
            check_number(name, getattr(self, name), "a number >= 0", low=0.0)
        if self.toward + self.away == 0:
            raise InputError("toward", self.toward, "something to learn: toward or away above 0")
        if self.form == "dpo" and (self.away or not self.toward):
            raise InputError("away", self.away, "0 with the form 'dpo', whose weight is toward > 0")


class LAT:
    """Equations (4) to (6) as an objective of `fit`.

    Batches are (ids, attention, completion) of triples, (B, 2, T) each with the good completion and the bad one, then of benign
    texts, (B, T): rows come first, so that a batch can be split among processes.

    adversary: None leaves the perturbation out: plain fine-tuning, or DPO. inner_per_outer: a new perturbation is searched
    every so many steps, and held in between. Its state (the perturbation, its scale) is checkpointed by `fit`.
    """

    def __init__(
        self, adversary: LatentAttack | None, defence: Defence, reference: Reference | None, *, inner_per_outer: int = 4
    ) -> None:
        check_integer("inner_per_outer", inner_per_outer)
        self.adversary, self.defence, self.reference, self.every = adversary, defence, reference, inner_per_outer
        self.delta: Delta | None = None
        self.scale: Scaled | None = None
        self.refs: tuple[Tensor, Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        triples, benign = TripleBatch(*(part.transpose(0, 1).flatten(0, 1) for part in batch[:3])), batch[3:]
        log: dict[str, Tensor | float] = {}
        if self.defence.form == "dpo":
            assert self.reference is not None
            if ctx.step % self.every == 0 or self.refs is None:
                self.refs = reference_scores(self.reference, triples)
        with without_dropout(model):
            if self.adversary is not None:
                if ctx.step % self.every == 0 or self.delta is None:
                    self.delta = self._searched(model, triples, ctx)
                log["adversary_loss"] = self.delta.losses[-1] if self.delta.losses else 0.0
            loss = self._defended(model, triples)
            log["loss_defence"] = loss.detach()
            if self.defence.retain != "none":
                kept = self._retained(model, *benign)
                log["loss_retain"] = kept.detach()
                loss = loss + self.defence.w * kept
        return loss, log

    def _searched(self, model: nn.Module, triples: TripleBatch, ctx: Context) -> Delta:
        assert self.adversary is not None
        # measured once: a model must not win by letting its own yardstick grow
        self.scale = self.scale or scaled(self.adversary, model, triples)
        return attack(
            model, triples, self.adversary, reference=self.reference, scale=self.scale, generator=ctx.generator
        )  # fmt: skip

    def _defended(self, model: nn.Module, triples: TripleBatch) -> Tensor:
        ids, attention, completion = triples.ids, triples.attention, triples.completion
        both = self.defence.form == "dpo" or self.defence.away > 0
        if not both:
            ids, attention, completion = triples.half("good")
        layers = {} if self.delta is None else (self.delta.repeated(2) if both else self.delta).layers
        with perturbed(model, layers):
            logits = logits_of(model, ids, attention)
        return defence_loss(self.defence, logits, ids, completion, self.refs)

    def _retained(self, model: nn.Module, ids: Tensor, attention: Tensor, completion: Tensor) -> Tensor:
        logits = logits_of(model, ids, attention)
        if self.defence.retain == "sft":
            return toward(logits, ids, completion).mean()
        assert self.reference is not None
        divergences = token_divergences(self.reference(ids, attention), logits)[:, :-1]
        mask = completion[:, 1:]
        return (torch.where(mask, divergences, 0.0).sum(1) / mask.sum(1)).mean()

    def state_dict(self) -> dict[str, Any]:
        scale = None if self.scale is None else [_listed(self.scale.eps), _listed(self.scale.lr)]
        delta = None if self.delta is None else [_listed(self.delta.layers), list(self.delta.losses)]
        return {"scale": scale, "delta": delta, "refs": None if self.refs is None else list(self.refs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = None if state["scale"] is None else Scaled(*(dict(map(tuple, part)) for part in state["scale"]))
        if launched() > 1:
            return  # they are of the main process's rows: each process searches its own again
        delta = state["delta"]
        self.delta = None if delta is None else Delta(dict(map(tuple, delta[0])), delta[1])
        self.refs = None if state["refs"] is None else tuple(state["refs"])


def split_rows(batch: TripleBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, attention, completion) of a batch as `LAT` takes them, (B, 2, T) each."""
    ids, attention, completion = (torch.stack(part.chunk(2), dim=1) for part in (batch.ids, batch.attention, batch.completion))
    return ids, attention, completion


def _listed(values: Any) -> list[list[Any]]:
    """A mapping as a list: layers are numbers or names, and must come back as what they were."""
    return [[key, value] for key, value in values.items()]


def defence_loss(
    defence: Defence, logits: Tensor, ids: Tensor, completion: Tensor, refs: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Equation (4) or (5), a scalar. logits, ids, completion: of the good rows and then the bad ones, (2B, T), or of the good
    rows alone where the bad ones do not count. refs: of `reference_scores`, for (5).
    """
    if defence.form == "dpo":
        assert refs is not None
        sums, lengths = sequence_logprobs(logits, ids, completion)
        (good, bad), (n_good, n_bad) = sums.chunk(2), lengths.chunk(2)
        one = pair_loss(
            "dpo", good, bad, len_w=n_good, len_l=n_bad, ref_w=refs[0].to(good), ref_l=refs[1].to(good), beta=defence.beta
        )
        return defence.toward * one.mean()  # (5)
    if not defence.away:
        return defence.toward * toward(logits, ids, completion).mean()
    (good, bad), (good_ids, bad_ids), (good_mask, bad_mask) = logits.chunk(2), ids.chunk(2), completion.chunk(2)
    pull = defence.toward * toward(good, good_ids, good_mask) if defence.toward else 0.0
    return (pull + defence.away * away(bad, bad_ids, bad_mask)).mean()  # (4)


def check_fits(model: nn.Module, argument: str, pairs: Sequence[Pair], longest: int) -> None:
    """Refuse texts that are longer than the model's context, or that have tokens which it has no embedding for."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < longest:
        raise InputError(argument, f"a text of {longest} tokens", f"at most {limit}, the context of the model")
    get = getattr(model, "get_input_embeddings", None)
    weight = getattr(get(), "weight", None) if callable(get) else None
    highest = max((max((*prompt, *tail)) for prompt, tail in pairs), default=0)
    if isinstance(weight, Tensor) and weight.dim() == 2 and highest >= len(weight):
        raise InputError(argument, f"token {highest}", f"ids below {len(weight)}, for which the model has embeddings")


class _Rounds(Dataset[tuple[Tensor, ...]]):
    """Batch r of `rounds`, `repeats` times in a row: rows in an order drawn anew each time all have been seen."""

    def __init__(
        self, triples: Sequence[Triple], benign: Sequence[Pair], size: int, rounds: int, repeats: int, pad: int, seed: int
    ) -> None:
        self.triples, self.benign, self.size, self.rounds, self.repeats = triples, benign, size, rounds, repeats
        self.pad, self.seed = pad, seed
        self._orders: dict[tuple[str, int], list[int]] = {}

    def __len__(self) -> int:
        return self.rounds * self.repeats

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        found = split_rows(
            triple_batch([self.triples[i] for i in self._rows("triples", len(self.triples), index)], pad=self.pad)
        )
        if not self.benign:
            return found
        rows = self._rows("benign", len(self.benign), index)
        return (*found, *completion_batch([self.benign[i] for i in rows], pad=self.pad))

    def _rows(self, which: str, n: int, index: int) -> list[int]:
        start = index // self.repeats * self.size
        return [self._order(which, n, i // n)[i % n] for i in range(start, start + self.size)]

    def _order(self, which: str, n: int, turn: int) -> list[int]:
        if (which, turn) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != which or key[1] == turn - 1}
            self._orders[which, turn] = torch.randperm(n, generator=generator(self.seed, "lat", which, turn)).tolist()
        return self._orders[which, turn]


@dataclass
class LATTrainer:
    """Latent adversarial training of a causal language model of transformers, in place.

    model: full, or with a peft adapter (then only the adapter learns, and the reference is the model below it).
    triples: the prompts with good and bad completions. benign: (prompt ids, completion ids) that the model shall keep.
    attack: None trains without a perturbation: supervised fine-tuning or DPO, the baselines, on the same batches and steps.
    rounds: batches of `batch_size` triples; on each, one search and `inner_per_outer` steps of the defender.
    lr, weight_decay, clip: of AdamW, and the largest norm of a gradient. optimizer: another one, over the model's parameters.
    layers: only these blocks (or modules) learn; None: all that require a gradient. pad: any id, padding is masked.
    reference: (ids, attention) -> logits, where DPO or KL shall have another reference than the model as it comes.
    Raises InputError before anything is computed.
    """

    model: nn.Module
    triples: Sequence[Triple]
    benign: Sequence[Pair] = ()
    attack: LatentAttack | None = None
    defence: Defence = field(default_factory=Defence)
    rounds: int = 100
    batch_size: int = 16
    inner_per_outer: int = 4
    lr: float = 2e-5
    weight_decay: float = 0.0
    clip: float = 1.0
    optimizer: Optimizer | None = None
    schedule: Schedule = constant
    layers: Sequence[Layer] | None = None
    reference: Reference | None = None
    pad: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "batch_size", "inner_per_outer"):
            check_integer(name, getattr(self, name))
        for name in ("lr", "clip"):
            check_positive(name, getattr(self, name), "a number > 0")
        triple_batch(self.triples)  # each row is looked at
        if self.defence.retain != "none":
            if not self.benign:
                raise InputError("benign", "none", "texts to keep, or Defence(retain='none')")
            completion_batch(list(self.benign))
        check_fits(self.model, "triples", [(t.prompt, (*t.good, *t.bad)) for t in self.triples], self._longest())
        check_fits(self.model, "benign", self.benign, max((len(p) + len(c) for p, c in self.benign), default=0))
        if self.attack is not None and not isinstance(self.attack, LatentAttack):
            raise InputError("attack", type(self.attack).__name__, "a LatentAttack, or None")
        for layer in (*(self.attack.layers if self.attack else ()), *(self.layers or ())):
            layer_name(self.model, layer)

    def _longest(self) -> int:
        return max(len(one.prompt) + max(len(one.good), len(one.bad)) for one in self.triples)

    def fit(
        self,
        *,
        checkpoint: Path | str | None = None,
        checkpoint_every: int | None = None,
        accelerator: Accelerator | None = None,
        progress: Progress = QUIET,
        log_every: int = 1,
    ) -> FitResult:
        """Train. checkpoint: a folder; a training that was stopped goes on from it to the same weights (start it with the
        model as it was at first). Returns a FitResult, whose history has the losses of each step. Raises as `fit` does.
        """
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            if self.layers is not None:
                self._freeze_others()
            objective = self._objective()
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            optimizer = self.optimizer or AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
            clipping = optimizer.register_step_pre_hook(lambda *_: _clipped(trained, self.clip))
            benign = self.benign if self.defence.retain != "none" else ()
            rounds = _Rounds(
                self.triples, benign, self.batch_size, self.rounds, self.inner_per_outer, self.pad, self.seed
            )  # fmt: skip
            try:
                return fit(
                    self.model,
                    objective,
                    DataLoader(rounds, batch_size=None, sampler=SequentialSampler(rounds)),
                    steps=len(rounds),
                    optimizer=optimizer,
                    schedule=self.schedule,
                    checkpoint=checkpoint,
                    checkpoint_every=checkpoint_every,
                    log_every=log_every,
                    seed=self.seed,
                    accelerator=accelerator,
                    progress=progress,
                    name="LAT" if self.attack else "training without a perturbation",
                )
            finally:
                clipping.remove()
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def _objective(self) -> LAT:
        needed = self.defence.form == "dpo" or self.defence.retain == "kl"
        needed |= self.attack is not None and self.attack.adversary == "dpo"
        reference = self.reference or (reference_of(self.model) if needed else None)
        # of an adapter's base, or of the user's own, nothing is copied, and nothing can have been trained
        copied = needed and self.reference is None and not has_adapter(self.model)
        mark = sha256_tensors(dict(self.model.state_dict())) if copied else ""
        return _Marked(self.attack, self.defence, reference, inner_per_outer=self.inner_per_outer, mark=mark)

    def _freeze_others(self) -> None:
        names = [layer_name(self.model, layer) for layer in self.layers or ()]
        for name, parameter in self.model.named_parameters():
            chosen = any(name.startswith(f"{layer}.") for layer in names)
            parameter.requires_grad_(parameter.requires_grad and chosen)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise InputError("layers", tuple(self.layers or ()), "layers with parameters that may learn")


class _Marked(LAT):
    """LAT that knows its reference: a run that is gone on with needs the model that it began with."""

    def __init__(self, *args: Any, mark: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mark = mark

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "reference": self.mark}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["reference"] != self.mark:
            raise CheckpointError("the reference is another model: go on with the model as it was when the training began")
        super().load_state_dict(state)


def _clipped(parameters: Sequence[nn.Parameter], limit: float) -> None:
    nn.utils.clip_grad_norm_(parameters, limit)
