"""Draw the next token: temperature, nucleus, and one uniform number a token from the sample's own stream.

With logits z over the vocabulary, p_v ∝ exp(z_v / T). top_p = q keeps the smallest set of most probable tokens whose sum is at
least q and renormalises (Holtzman et al., The Curious Case of Neural Text Degeneration, arXiv 1904.09751):

    (1)  V_q = argmin |V'|  such that  Σ_{v∈V'} p_v ≥ q

The token is drawn by inversion, in float64 on the CPU, in the order of the ids: the first id whose cumulative probability
exceeds u ~ U[0, 1). One number a token means that a row takes the same noise alone and in a batch. Logits of different batches
differ by rounding, so a draw can differ where u falls within ~1e-7 of a boundary, and a greedy choice where two logits tie to
that precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def next_tokens(
    logits: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], streams: Sequence[np.random.Generator]
) -> Tensor:
    """Ids (B,) on the CPU for logits (B, V). Temperature 0 takes the largest logit, the lowest id among equals, and no noise.

    Example::

        >>> import numpy as np, torch
        >>> from tutelage.models.language.sampling import next_tokens
        >>> next_tokens(torch.tensor([[0.0, 2.0, 1.0]]), [0.0], [1.0], [np.random.default_rng(0)])
        tensor([1])
    """
    chosen = torch.argmax(logits, dim=1).cpu()
    for row, temperature in enumerate(temperatures):
        if temperature > 0:
            scaled = logits[row].detach().to("cpu", torch.float64) / temperature
            chosen[row] = draw(torch.softmax(scaled, 0).numpy(), top_ps[row], streams[row])
    return chosen


def draw(probabilities: np.ndarray, top_p: float, stream: np.random.Generator) -> int:
    """One index, drawn from `probabilities` (V,) that sum to 1, cut by equation (1)."""
    if top_p < 1.0:
        probabilities = nucleus(probabilities, top_p)
    cumulative = np.cumsum(probabilities)
    # scaled by the total: rounding must not leave a gap above the last token
    at = int(np.searchsorted(cumulative, stream.random() * cumulative[-1], side="right"))
    return min(at, int(np.flatnonzero(probabilities)[-1]))


def nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Probabilities (V,) with zeros outside the nucleus of equation (1), not renormalised; ties keep the lower id."""
    order = np.argsort(-probabilities, kind="stable")
    reached = np.cumsum(probabilities[order])
    kept = int(np.searchsorted(reached, top_p - 1e-12)) + 1
    cut = np.zeros_like(probabilities)
    cut[order[:kept]] = probabilities[order[:kept]]
    return cut
