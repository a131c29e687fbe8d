"""What hardening did: elicitation curves, answers, retention, and how fast a behaviour comes back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.methods.harden.lat.adversary import LatentAttack, attack, logits_of, reference_of, scaled, without_dropout
from tutelage.methods.harden.lat.batches import Pair, Triple, TripleBatch, to_device, triple_batch
from tutelage.models.blocks import perturbed
from tutelage.models.guard import evaluating
from tutelage.teaching.language.divergences import token_divergences
from tutelage.teaching.language.sequences import completion_batch, sequence_logprobs, token_logprobs
from tutelage.threats.latent.search import Delta, Keep


def greedy_answers(logits: Tensor, ids: Tensor, completion: Tensor) -> Tensor:
    """(B,) booleans: whether greedy decoding would give this completion, from the logits of the text itself."""
    right = logits[:, :-1].argmax(2) == ids[:, 1:]
    return (right | ~completion[:, 1:]).all(1)


def answers(model: nn.Module, pairs: Sequence[Pair], *, batch_size: int = 256) -> Tensor:
    """(N,) booleans: whether the model, decoding greedily, gives the completion of each (prompt, completion) of ids."""
    return torch.cat([greedy_answers(_quiet(model, *one), one[0], one[2]).cpu() for one in _batches(model, pairs, batch_size)])


def _batches(model: nn.Module, pairs: Sequence[Pair], size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(ids, attention, completion) of `size` rows each, on the model's device."""
    check_integer("batch_size", size)
    if not pairs:
        raise InputError("pairs", "none", "one (prompt ids, completion ids) at least")
    device = next(model.parameters()).device
    parts = [completion_batch(pairs[at : at + size]) for at in range(0, len(pairs), size)]
    return [(ids.to(device), attention.to(device), completion.to(device)) for ids, attention, completion in parts]


def _quiet(model: nn.Module, ids: Tensor, attention: Tensor, _: Tensor) -> Tensor:
    """Logits in evaluation mode, without a gradient."""
    with torch.no_grad(), evaluating(model, verify=False):
        return logits_of(model, ids, attention)


@dataclass(frozen=True)
class Elicited:
    """One radius. eps: in the attack's units. bad, good: share of the prompts, in [0, 1], after which greedy decoding gives
    the bad or the good completion under the perturbation. p_bad: geometric mean over the prompts of the bad completion's
    probability. loss: the adversary's, mean over the prompts.
    """

    eps: float
    bad: float
    good: float
    p_bad: float
    loss: float


@dataclass(frozen=True)
class ElicitationCurve:
    """rows: one a radius, rising. smallest: (N,) of each prompt, the smallest radius at which the bad completion came;
    infinity where it never did.
    """

    rows: tuple[Elicited, ...]
    smallest: Tensor

    @property
    def median(self) -> float:
        """The radius at which half of the prompts give the bad completion; infinity if none does."""
        return float(self.smallest.sort().values[(len(self.smallest) - 1) // 2])


def elicitation_curve(
    model: nn.Module, triples: Sequence[Triple], eps_grid: Sequence[float], config: LatentAttack, *, batch_size: int = 64
) -> ElicitationCurve:
    """How small a latent push elicits the bad completion? One row for each radius of `eps_grid`, rising from 0.

    Each radius begins with what the one before it found, and each prompt keeps its best step, so the adversary's loss never
    rises with eps. The model's own scale (units "residual") is measured on the first batch. Raises InputError.
    """
    grid = list(eps_grid)
    if not grid or any(not isinstance(eps, int | float) or eps < 0 for eps in grid) or grid != sorted(set(grid)):
        raise InputError("eps_grid", grid, "radii >= 0 that rise")
    check_integer("batch_size", batch_size)
    triple_batch(triples)
    device = next(model.parameters()).device
    reference = reference_of(model) if config.adversary == "dpo" else None
    unit = None
    found: list[list[Tensor]] = [[] for _ in grid]
    for at in range(0, len(triples), batch_size):
        batch = to_device(triple_batch(triples[at : at + batch_size]), device)
        unit = unit or scaled(replace(config, eps=1.0, steps=0), model, batch)
        delta: Delta | None = None
        for column, eps in zip(found, grid, strict=True):
            scale = replace(unit, eps={layer: eps * one for layer, one in unit.eps.items()})
            now = replace(config, eps=eps)
            keep: Keep = "last" if config.adversary == "random" else "best"
            start = None if config.adversary == "random" else delta
            delta = attack(model, batch, now, reference=reference, scale=scale, start=start, keep=keep)
            column.append(_elicited(model, batch, delta))
    rows = []
    table = torch.stack([torch.cat(column, dim=1) for column in found])  # (eps, 4, N)
    for eps, values in zip(grid, table, strict=True):
        bad, good, log_p, loss = values.mean(1).tolist()
        rows.append(Elicited(float(eps), bad, good, float(torch.tensor(log_p).exp()), loss))
    reached = torch.where(table[:, 0] > 0, torch.tensor(grid, dtype=torch.float64)[:, None], torch.inf)
    return ElicitationCurve(tuple(rows), reached.amin(0))


def _elicited(model: nn.Module, batch: TripleBatch, delta: Delta) -> Tensor:
    """(4, B): bad given, good given, log-probability of the bad completion, the adversary's loss (0 where not measured)."""
    with torch.no_grad(), evaluating(model, verify=False), perturbed(model, delta.repeated(2)):
        logits = logits_of(model, batch.ids, batch.attention)
    good, bad = greedy_answers(logits, batch.ids, batch.completion).double().chunk(2)
    log_p = sequence_logprobs(logits, batch.ids, batch.completion)[0].chunk(2)[1].double()
    loss = torch.zeros_like(log_p) if delta.loss is None else delta.loss.double()
    return torch.stack([bad, good, log_p, loss]).cpu()


@dataclass(frozen=True)
class Retention:
    """Benign texts before and after. Log-probabilities in nats a token, answers as shares in [0, 1], kl in nats a token."""

    logprob_before: float
    logprob_after: float
    answers_before: float
    answers_after: float
    kl: float


def retention(before: nn.Module, after: nn.Module, benign: Sequence[Pair], *, batch_size: int = 64) -> Retention:
    """What hardening cost: the benign completions under both models, and KL(before || after) at their tokens."""
    sums, tokens, right, total = [0.0, 0.0], 0, [0, 0], 0.0
    for one in _batches(after, benign, batch_size):
        ids, _, completion = one
        z_before, z_after = _quiet(before, *one), _quiet(after, *one)
        mask = completion[:, 1:]
        tokens += int(mask.sum())
        for i, z in enumerate((z_before, z_after)):
            sums[i] += float(torch.where(mask, token_logprobs(z, ids), 0.0).sum())
            right[i] += int(greedy_answers(z, ids, completion).sum())
        total += float(torch.where(mask, token_divergences(z_before, z_after)[:, :-1], 0.0).sum())
    n = len(benign)
    return Retention(sums[0] / tokens, sums[1] / tokens, right[0] / n, right[1] / n, total / tokens)


def relearn_steps(
    model: nn.Module,
    few: Sequence[Pair],
    probe: Sequence[Pair],
    *,
    target: float = 0.5,
    lr: float = 1e-4,
    max_steps: int = 100,
) -> int:
    """How many full-batch AdamW steps on `few` (prompt, unwanted completion) bring the behaviour back.

    It is back when the model answers a share `target` of `probe` with its completion. 0: it is there already; max_steps +
    1: not within max_steps. A copy is trained; the model is not changed.
    """
    check_integer("max_steps", max_steps)
    check_positive("lr", lr, "a number > 0")
    check_number("target", target, "a share in (0, 1]", low=1e-9, high=1.0)
    learner = copy.deepcopy(model)
    learned = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned or list(learner.requires_grad_(True).parameters()), lr=lr, weight_decay=0.0)
    ids, attention, completion = (part.to(next(learner.parameters()).device) for part in completion_batch(few))
    for step in range(max_steps + 1):
        if float(answers(learner, probe).double().mean()) >= target:
            return step
        with without_dropout(learner):
            sums, lengths = sequence_logprobs(logits_of(learner, ids, attention), ids, completion)
            optimizer.zero_grad()
            torch.autograd.backward(-(sums / lengths).mean())
        optimizer.step()
    return max_steps + 1


__all__ = [
    "ElicitationCurve",
    "Elicited",
    "Retention",
    "answers",
    "elicitation_curve",
    "relearn_steps",
    "retention",
]
