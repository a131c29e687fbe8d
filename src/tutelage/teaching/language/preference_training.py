"""Training on preference pairs: any causal model of transformers, with or without an adapter, under `fit` and Accelerate.

The data are offline, so the reference is asked once: its log-probabilities are computed before the first step, kept on disk if
a cache is given, and no reference model stays in memory. It may be the policy as it comes, the model below a peft adapter, or
another model. Chosen and rejected completions go through the model in one pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tutelage.core.cache import Cache
from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator
from tutelage.models.guard import evaluating
from tutelage.models.language.huggingface import HFBackend, check_same_vocabulary, takes
from tutelage.teaching.fit import Context, fit
from tutelage.teaching.language.pairs import PreferenceData, TokenPairs, tokenised
from tutelage.teaching.language.preferences import Preference, pair_loss, preference_margin
from tutelage.teaching.language.sequences import CHUNK, sequence_logprobs
from tutelage.teaching.schedules import Schedule, warmup_cosine

if TYPE_CHECKING:
    from accelerate import Accelerator

Reference = HFBackend | Tensor | Literal["start", "adapter-off"]
SMALL_BETA = 0.3  # of LN-DPO; a beta as small is one of DPO


@dataclass
class PreferenceRun:
    """What came of a training.

    history: one dict a logged step: loss, margin (mean of what stands in the brackets of the loss, see `pair_loss`), accuracy
    (share of the pairs that are ranked as labelled), logp_chosen and logp_rejected (mean sums, nats). reference: whose
    log-probabilities stood against the policy. length_gap: mean tokens of chosen less rejected. n_pairs: trained on.
    """

    loss: Preference
    history: list[dict[str, float]] = field(default_factory=list)
    reference: str = ""
    length_gap: float = 0.0
    n_pairs: int = 0
    steps: int = 0
    seconds: float = 0.0

    @property
    def margins(self) -> list[float]:
        return [row["margin"] for row in self.history]

    @property
    def accuracies(self) -> list[float]:
        return [row["accuracy"] for row in self.history]


class PreferenceObjective:
    """A preference loss as an objective of `fit`, over batches (ids, attention, completion, reference) of pairs (B, 2, ...).

    dropout: off by default, as the reference has none: the model is put into evaluation mode for its pass.
    """

    def __init__(
        self,
        loss: Preference,
        *,
        beta: float,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        dropout: bool = False,
        chunk: int = CHUNK,
        options: CallOptions | None = None,
    ) -> None:
        check_choice("loss", loss, get_args(Preference))
        self.loss, self.beta, self.gamma, self.label_smoothing = loss, beta, gamma, label_smoothing
        self.dropout, self.chunk, self.options = dropout, chunk, options or CallOptions()

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        ids, attention, completion, reference = batch
        if model.training and not self.dropout:
            model.eval()
        sums, lengths = pair_logprobs(model, ids, attention, completion, options=self.options, chunk=self.chunk)
        refs = {} if self.loss == "simpo" else {"ref_w": reference[:, 0], "ref_l": reference[:, 1]}
        answers = {"len_w": lengths[:, 0], "len_l": lengths[:, 1], **refs}
        values = pair_loss(
            self.loss, sums[:, 0], sums[:, 1], **answers,
            beta=self.beta, gamma=self.gamma, label_smoothing=self.label_smoothing,
        )  # fmt: skip
        with torch.no_grad():
            margin = preference_margin(self.loss, sums[:, 0], sums[:, 1], **answers)
            means = torch.stack([margin.mean(), (margin > 0).float().mean(), *sums.mean(0)]).tolist()
        return values.mean(), dict(zip(("margin", "accuracy", "logp_chosen", "logp_rejected"), means, strict=True))


@dataclass(frozen=True)
class CallOptions:
    """What a model's forward takes: then no cache of keys is kept, and logits are made for the completions only."""

    use_cache: bool = False
    logits_to_keep: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> CallOptions:
        return cls(takes(model, "use_cache"), takes(model, "logits_to_keep"))


def pair_logprobs(
    model: nn.Module,
    ids: Tensor,
    attention: Tensor,
    completion: Tensor,
    *,
    options: CallOptions | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """(log-probabilities of the completions in nats, their numbers of tokens), (B, 2) each, for pairs (B, 2, T) in one pass."""
    options = options or CallOptions.of(model)
    width = ids.shape[-1]
    ids, attention, completion = (part.reshape(-1, width) for part in (ids, attention, completion))
    call: dict[str, Any] = {"use_cache": False} if options.use_cache else {}
    if options.logits_to_keep:
        # the last position before a completion predicts its first token
        first = int(completion.any(0).int().argmax())
        call["logits_to_keep"] = width - max(0, first - 1)
    logits = model(input_ids=ids, attention_mask=attention.long(), **call).logits
    kept = logits.shape[1]
    sums, lengths = sequence_logprobs(logits, ids[:, -kept:], completion[:, -kept:], chunk=chunk)
    return sums.view(-1, 2), lengths.view(-1, 2)


def reference_logprobs(
    lm: HFBackend,
    pairs: TokenPairs,
    *,
    batch_size: int = 64,
    adapter: bool = True,
    cache: Cache | Path | str | None = None,
    progress: Progress = QUIET,
) -> Tensor:
    """log-probabilities (N, 2), float32 in nats, of chosen and rejected completions under `lm`, without a gradient.

    adapter: False switches its peft adapter off. cache: where they are kept, by the hashes of weights and pairs; the same
    question is then answered from disk. Raises InputError.
    """
    check_integer("batch_size", batch_size)
    with nullcontext(lm) if adapter else lm.without_adapter() as asked:
        if cache is None:
            return _asked(asked, pairs, batch_size, progress)
        cache = cache if isinstance(cache, Cache) else Cache(Path(cache))
        key = {"model": asked.fingerprint, "pairs": pairs.sha256, "torch": torch.__version__, "version": 1}

        def build(folder: Path) -> None:
            save_file({"logprobs": _asked(asked, pairs, batch_size, progress)}, folder / "reference.safetensors")

        return load_file(cache.get("reference-logprobs", key, build) / "reference.safetensors")["logprobs"]


def _asked(lm: HFBackend, pairs: TokenPairs, batch_size: int, progress: Progress) -> Tensor:
    found = torch.empty(len(pairs), 2)
    sizes = pairs.lengths.max(1).values + torch.tensor([len(prompt) for prompt in pairs.prompts])
    order = torch.argsort(sizes, descending=True, stable=True)  # rows of one length side by side: less padding
    options = CallOptions.of(lm.model)
    with progress.task("reference", len(pairs)) as task, torch.no_grad(), evaluating(lm.model, verify=False):
        for rows in torch.split(order, batch_size):
            ids, attention, completion = (part.to(lm._device) for part in pairs.batch(rows.tolist()))
            found[rows] = pair_logprobs(lm.model, ids, attention, completion, options=options)[0].float().cpu()
            task.advance(len(rows))
    return found


def train_preference(
    policy: HFBackend,
    data: PreferenceData | TokenPairs,
    reference: Reference | None = "start",
    *,
    loss: Preference = "ln_dpo",
    beta: float,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
    epochs: int | None = None,
    steps: int | None = None,
    lr: float = 1e-6,
    batch_size: int = 32,
    weight_decay: float = 0.0,
    schedule: Schedule | None = None,
    dropout: bool = False,
    max_length: int | None = None,
    seed: int = 0,
    cache: Cache | Path | str | None = None,
    checkpoint: Path | str | None = None,
    log_every: int = 1,
    accelerator: Accelerator | None = None,
    progress: Progress = QUIET,
) -> PreferenceRun:
    """Train `policy.model` in place by one of the losses of `pair_loss`; it comes back in evaluation mode.

    policy: a causal model of transformers or a TinyGPT, as a language model. With a peft adapter, only what requires a gradient
        is trained.
    reference: "start" (the policy as it comes, usually the SFT model), "adapter-off" (what is below its adapter), another
        language model with the same vocabulary, or log-probabilities (N, 2) of `reference_logprobs`. None, and only None or
        "start", with SimPO, which has no reference. Whatever it is, it is asked before the first step and then let go.
    beta, gamma, label_smoothing: of the loss. LN-DPO's beta is about |y| times that of DPO.
    epochs or steps: the length; default: one epoch. schedule: default: 10 % linear warm-up, then a cosine.
    cache: where the reference's log-probabilities are kept. checkpoint: a folder to go on from after a kill, see `fit`.
    Raises InputError before anything is computed, NotFinite where the training diverges.
    """
    check_choice("loss", loss, get_args(Preference))
    check_positive("beta", beta, "a number > 0")
    check_number("gamma", gamma, "a number >= 0", low=0.0)
    check_positive("lr", lr, "a learning rate > 0")
    check_number("weight_decay", weight_decay, "a number >= 0", low=0.0)
    for name, value in (("batch_size", batch_size), ("log_every", log_every)):
        check_integer(name, value)
    if gamma and loss != "simpo":
        raise InputError("gamma", gamma, f"0 with {loss}: only SimPO has a margin")
    if steps is not None and epochs is not None:
        raise InputError("epochs", f"epochs={epochs}, steps={steps}", "one of epochs and steps")
    if not isinstance(policy, HFBackend):
        raise InputError("policy", type(policy).__name__, "an HFCausalLM or a TinyGPT")
    _check_reference(policy, reference, loss)
    if loss == "ln_dpo" and beta < SMALL_BETA:
        text = f"beta {beta:g} is one of DPO: LN-DPO divides by the length and needs one about |y| times larger (1 to 5)"
        warnings.warn(text, stacklevel=2)
    pairs = data if isinstance(data, TokenPairs) else tokenised(policy, data, max_length=max_length)
    learned = [p for p in policy.model.parameters() if p.requires_grad]
    if not learned:
        raise InputError("policy", "no parameter that requires a gradient", "something to train")
    pair_loss(  # the settings are looked at before anything is computed
        loss, torch.zeros(1), torch.zeros(1), len_w=torch.ones(1), len_l=torch.ones(1), beta=beta, gamma=gamma,
        label_smoothing=label_smoothing, **({} if loss == "simpo" else {"ref_w": torch.zeros(1), "ref_l": torch.zeros(1)}),
    )  # fmt: skip
    known, name = _reference(policy, reference, pairs, loss, cache, batch_size, progress)
    objective = PreferenceObjective(
        loss, beta=beta, gamma=gamma, label_smoothing=label_smoothing, dropout=dropout, options=CallOptions.of(policy.model)
    )

    def together(rows: Sequence[int]) -> tuple[Tensor, ...]:
        return (*pairs.batch(rows), known[list(rows)])

    loader = DataLoader(
        pairs, batch_size=min(batch_size, len(pairs)), shuffle=True, collate_fn=together, generator=generator(seed, "pairs")
    )
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in learned)
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=weight_decay, fused=fused)
    result = fit(
        policy.model, objective, loader, optimizer=optimizer, schedule=schedule or warmup_cosine(0.1),
        checkpoint=checkpoint, log_every=log_every, seed=seed, accelerator=accelerator, progress=progress, name=loss,
        epochs=(1 if epochs is None else epochs) if steps is None else None, steps=steps,
    )  # fmt: skip
    return PreferenceRun(loss, result.history, name, pairs.length_gap, len(pairs), result.steps, result.seconds)


def _check_reference(policy: HFBackend, reference: Reference | None, loss: Preference) -> None:
    if isinstance(reference, str):
        check_choice("reference", reference, ("start", "adapter-off"))
    if loss == "simpo":
        if not (reference is None or (isinstance(reference, str) and reference == "start")):
            raise InputError("reference", "a reference", "none with SimPO, which has none")
        return
    if reference is None:
        raise InputError("reference", None, f"'start', 'adapter-off' or a model: {loss} needs a reference")
    if isinstance(reference, HFBackend):
        check_same_vocabulary(policy, reference, arguments=("policy", "reference"))
    elif not isinstance(reference, str | Tensor):
        raise InputError("reference", type(reference).__name__, "'start', 'adapter-off', a language model or a tensor (N, 2)")
    if isinstance(reference, str) and reference == "adapter-off" and not hasattr(policy.model, "disable_adapter"):
        raise InputError("reference", "'adapter-off' for a policy without an adapter", "a policy with an adapter of peft")


def _reference(
    policy: HFBackend,
    reference: Reference | None,
    pairs: TokenPairs,
    loss: Preference,
    cache: Cache | Path | str | None,
    batch_size: int,
    progress: Progress,
) -> tuple[Tensor, str]:
    """The reference's log-probabilities (N, 2), and what the reference is."""
    if loss == "simpo" or reference is None:
        return torch.zeros(len(pairs), 2), "none"
    if isinstance(reference, Tensor):
        if reference.shape != (len(pairs), 2) or not bool(torch.isfinite(reference).all()):
            raise InputError("reference", f"a tensor {tuple(reference.shape)}", f"finite numbers ({len(pairs)}, 2)")
        return reference.detach().float().cpu(), "given log-probabilities"
    settings: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "progress": progress}
    if isinstance(reference, str):
        off = reference == "adapter-off"
        return reference_logprobs(policy, pairs, adapter=not off, **settings), reference
    return reference_logprobs(reference, pairs, **settings), reference.name
