"""Draw whole batches of answers: cached decoding, one draw for all rows, and rows that ended leave the batch.

At each step a row's token is drawn by inversion from the law of the model, p_v = exp(z_v / T) / Σ exp(z / T):

    (1)  y = min{ v : Σ_{w≤v} p_w > u },  u ~ U[0, 1)

The numbers u of a row come from its own seed, one a token. So a row gets the same answer alone and in any batch, however many
rows have left, up to the rounding of the logits. Sums are in float64: a token's probability is that of the logits to 1e-7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.models.language.next_token.padded import Padded


class Stepping(Protocol):
    """What a model keeps of a batch between two tokens."""

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) after one more token (B,) in each row."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep these rows, indices (B',)."""
        ...


def noise_of(seeds: Sequence[int], length: int) -> Tensor:
    """u of equation (1): (B, length) numbers in [0, 1), float64, a row from its seed alone."""
    stream = torch.Generator()
    return torch.stack([torch.rand(length, generator=stream.manual_seed(seed), dtype=torch.float64) for seed in seeds])


def draw_rows(logits: Tensor, u: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Equation (1): tokens (B,) for logits (B, V) and u (B,) in [0, 1). A token of logit -inf is never drawn.

    Raises InputError where a row has no law: NaN, or nothing above -inf.
    """
    z = logits.float()
    if temperature != 1.0:
        z = z / temperature
    reached = (z - z.amax(1, keepdim=True)).exp_().cumsum(1, dtype=torch.float64)
    total = reached[:, -1:]
    if not bool((total > 0).all()):
        row = int((~(total > 0))[:, 0].nonzero()[0])
        raise InputError("model", f"logits of NaN, or none above -inf, in row {row}", "finite logits")
    # below the total: rounding up to it would leave the vocabulary
    wanted = torch.minimum(u.to(total)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(reached, wanted, right=True)[:, 0]


@torch.no_grad()
def roll(
    state: Stepping, logits: Tensor, *, max_new: int, seeds: Sequence[int], ends: Iterable[int], temperature: float = 1.0
) -> Padded:
    """Answers of at most `max_new` tokens, end token included, to the batch behind `state`; logits (B, V): of the first."""
    check_roll(len(logits), max_new, seeds, temperature)
    device = logits.device
    u = noise_of(seeds, max_new).to(device)
    stops = torch.tensor(sorted(ends), device=device, dtype=torch.long)
    pad = int(stops[0]) if len(stops) else 0
    ids = torch.full((len(logits), max_new), pad, device=device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    going: Tensor | None = None  # which rows are under way; None: all
    for at in range(max_new):
        tokens = draw_rows(logits, u[:, at], temperature=temperature)
        if going is None:
            ids[:, at], mask[:, at] = tokens, True
        else:
            ids[going, at], mask[going, at] = tokens, True
        if len(stops):
            on = (tokens[:, None] != stops).all(1)
            if not bool(on.all()):
                kept = on.nonzero()[:, 0]
                if not len(kept):
                    break
                going = kept if going is None else going[kept]
                tokens, u = tokens[kept], u[kept]
                if at + 1 < max_new:
                    state.select(kept)
        if at + 1 < max_new:
            logits = state.step(tokens)
    width = int(mask.any(0).sum())
    return Padded(ids[:, :width], mask[:, :width])


def check_roll(rows: int, max_new: int, seeds: Sequence[int], temperature: float) -> None:
    check_integer("max_new", max_new)
    check_positive("temperature", temperature, "a number > 0")
    if len(seeds) != rows:
        raise InputError("seeds", f"{len(seeds)}", f"{rows}, one for each prompt")
