"""Log-probabilities of completions under a causal language model, and supervised fine-tuning (SFT) on them.

With ids y_1 … y_T of prompt and completion, and the set C of positions that are the completion's (its end token included):

    (1)  S = Σ_{i∈C} log π(y_i | y_<i)             the log-probability of the completion, in nats
    (2)  L_SFT = -(1/Σ|C|) Σ_batch Σ_{i∈C} log π(y_i | y_<i)

In float32 whatever the model's precision: the target's logit is gathered first, and the normaliser taken from it, so no (B, T,
V) tensor of probabilities is made. Time is cut in chunks, recomputed on the way back, so only one chunk is in float32 at a
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.teaching.fit import Context

CHUNK = 128  # positions in float32 at a time


def completion_batch(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, pad: int = 0, max_length: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention and completion mask, (B, T) each, padded on the right, of (ids of a prompt, ids of its completion).

    The masks are boolean and say by position what is text, so `pad` may be any id, the end token too. Raises InputError, with
    the row, for an empty prompt or completion, and for a row longer than `max_length`: to cut it would compare unlike texts.
    """
    if not pairs:
        raise InputError("pairs", "none", "one (prompt, completion) at least")
    if max_length is not None:
        check_integer("max_length", max_length)
    for row, (prompt, completion) in enumerate(pairs):
        for part, given in (("prompt", prompt), ("completion", completion)):
            if not len(given):
                raise InputError("pairs", f"row {row} with an empty {part}", "one token at least")
        if max_length is not None and len(prompt) + len(completion) > max_length:
            raise InputError("pairs", f"row {row} of {len(prompt) + len(completion)} tokens", f"at most {max_length}")
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids = torch.full((len(pairs), width), pad)
    attention, completions = torch.zeros(len(pairs), width, dtype=torch.bool), torch.zeros(len(pairs), width, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(pairs):
        n = len(prompt) + len(completion)
        ids[row, :n] = torch.tensor([*prompt, *completion])
        attention[row, :n] = True
        completions[row, len(prompt) : n] = True
    return ids, attention, completions


def token_logprobs(logits: Tensor, ids: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """log π(y_i | y_<i) for i = 2 … T: (B, T - 1), float32, of logits (B, T, V) and ids (B, T). Gradients pass.

    Example::

        >>> import torch
        >>> from tutelage.teaching.language import token_logprobs
        >>> token_logprobs(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]])).exp()
        tensor([[0.2500, 0.2500]])
    """
    if logits.dim() != 3 or ids.shape != logits.shape[:2]:
        raise InputError("ids", tuple(ids.shape), f"(B, T) for logits (B, T, V), got {tuple(logits.shape)}")
    check_integer("chunk", chunk)
    parts = [
        recomputed(_gathered, logits[:, at : at + chunk], ids[:, at + 1 : at + 1 + chunk])
        for at in range(0, logits.shape[1] - 1, chunk)
    ]
    return torch.cat(parts, dim=1) if parts else logits.new_zeros(len(ids), 0, dtype=torch.float32)


def _gathered(logits: Tensor, ids: Tensor) -> Tensor:
    z = logits[:, : ids.shape[1]].float()  # the last position predicts nothing
    return z.gather(2, ids[..., None])[..., 0] - torch.logsumexp(z, 2)


def recomputed(function: Any, *tensors: Tensor) -> Tensor:
    """A chunk whose float32 copies are made again for the backward pass instead of being kept."""
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        found: Tensor = function(*tensors)
        return found
    again: Tensor = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return again


def sequence_logprobs(logits: Tensor, ids: Tensor, completion: Tensor, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Equation (1): the log-probability (B,) of each completion, in nats, and its number of tokens (B,).

    completion: (B, T), which ids are the completion's. Raises InputError, with the row, where there is none, or where it begins
        at the first position, which nothing predicts.
    """
    check_completions(completion, ids)
    mask = completion[:, 1:].to(logits.device)
    values = token_logprobs(logits, ids.to(logits.device), chunk=chunk)
    # where, not a product: what stands at a padded place may be infinite
    return torch.where(mask, values, 0.0).sum(1), mask.sum(1)


def check_completions(completion: Tensor, ids: Tensor) -> None:
    """A boolean mask of the shape of ids, with a token in each row, and none at the first position."""
    if completion.dtype != torch.bool or completion.shape != ids.shape:
        raise InputError("completion", f"{completion.dtype} {tuple(completion.shape)}", f"booleans {tuple(ids.shape)}")
    if bool(completion[:, 0].any()):
        row = int(completion[:, 0].nonzero()[0])
        raise InputError("completion", f"row {row} from its first position", "a prompt before the completion (the first token)")
    if not bool(completion.any(1).all()):
        row = int((~completion.any(1)).nonzero()[0])
        raise InputError("completion", f"row {row} without a token", "one token of a completion in each row")


class SFT:
    """Equation (2) as an objective of `fit`: batches (ids, attention, completion) of `completion_batch`, any causal HF model.

    per_sequence: the mean over the tokens of each completion first, so that a long one counts no more than a short one.
    """

    def __init__(self, *, per_sequence: bool = False, chunk: int = CHUNK) -> None:
        check_integer("chunk", chunk)
        self.per_sequence, self.chunk = per_sequence, chunk

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if not isinstance(batch, tuple | list) or len(batch) != 3:
            raise InputError("loader", f"batches of type {type(batch).__name__}", "batches (ids, attention, completion)")
        ids, attention, completion = batch
        logits = model(input_ids=ids, attention_mask=attention.long()).logits
        sums, lengths = sequence_logprobs(logits, ids, completion, chunk=self.chunk)
        loss = -(sums / lengths).mean() if self.per_sequence else -sums.sum() / lengths.sum()
        return loss, {"tokens": lengths.sum().detach()}
