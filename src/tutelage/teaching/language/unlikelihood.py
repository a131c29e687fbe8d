"""Toward and away: pull a completion's tokens up, or push them down, under a causal language model.

With p_i = π(y_i | y_<i) for the n tokens of a completion y:

    (1)  toward(y) = -(1/n) Σ_i log p_i
    (2)  away(y)   = -(1/n) Σ_i 1[log p_i >= τ] log(1 - p_i)

(1) is the cross-entropy. (2) is the unlikelihood loss of Welleck et al., arXiv 1908.04319, with a floor τ below which a
token is
unlikely enough: it adds nothing, but still counts in n. log(1 - p_i) is the logsumexp of the other logits less that of all
logits, in float32, so it is exact where p_i is nearly 1 and no number is lost by 1 - p_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.teaching.language.sequences import CHUNK, check_completions, recomputed, token_logprobs

FLOOR = -5.0  # log p, nats


def toward(logits: Tensor, ids: Tensor, completion: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Equation (1) of each row, (B,), in nats a token. logits (B, T, V), ids (B, T), completion (B, T) booleans."""
    check_completions(completion, ids)
    return _mean(-token_logprobs(logits, ids, chunk=chunk), completion)


def away(logits: Tensor, ids: Tensor, completion: Tensor, *, floor: float = FLOOR, chunk: int = CHUNK) -> Tensor:
    """Equation (2) of each row, (B,), in nats a token. floor: τ, a log-probability in nats. Raises InputError.

    Example::

        >>> import torch
        >>> from tutelage.teaching.language.unlikelihood import away
        >>> away(torch.zeros(1, 2, 4), torch.tensor([[0, 1]]), torch.tensor([[False, True]]))  # -log(1 - 1/4)
        tensor([0.2877])
    """
    check_completions(completion, ids)
    check_integer("chunk", chunk)
    check_number("floor", floor, "a log-probability in nats, <= 0", high=0.0)

    def one(z: Tensor, y: Tensor) -> Tensor:
        z = z.float()
        whole = torch.logsumexp(z, 2)
        log_p = z.gather(2, y[..., None])[..., 0] - whole
        others = z.scatter(2, y[..., None], -torch.inf)
        kept = log_p.detach() >= floor
        return torch.where(kept, whole - torch.logsumexp(others, 2), 0.0)

    # the last position predicts nothing
    parts = [
        recomputed(one, logits[:, at : min(at + chunk, logits.shape[1] - 1)], ids[:, at + 1 : at + 1 + chunk])
        for at in range(0, logits.shape[1] - 1, chunk)
    ]
    return _mean(torch.cat(parts, dim=1), completion)


def _mean(values: Tensor, completion: Tensor) -> Tensor:
    mask = completion[:, 1:].to(values.device)
    # where, not a product: what stands at a padded place may be infinite
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1)


__all__ = ["FLOOR", "away", "toward"]
