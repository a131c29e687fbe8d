"""Training a phoneme recogniser, and counting what it heard wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_number
from tutelage.core.rng import normal, uniform
from tutelage.teaching.fit import Context
from tutelage.teaching.speech.batches import SpeechBatch


class CTCLoss:
    """CTC on spectrograms that are blurred, shifted in level and noisy by chance: synthetic speech is smoother than recordings.

    silent: symbols that are not to be heard (pauses); they are left out of the targets. rough: how strong the changes are,
    0 for none.
    """

    def __init__(self, silent: Sequence[int] = (), *, rough: float = 1.0) -> None:
        check_number("rough", rough, "a number >= 0", low=0.0)
        self.silent, self.rough = tuple(silent), rough

    def __call__(self, model: nn.Module, batch: SpeechBatch, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        mel = roughened(batch.mel, ctx.generator, self.rough) if self.rough else batch.mel
        scores, lengths = model(mel, batch.mel_lens)
        targets = [audible(row[:n], self.silent) for row, n in zip(batch.tokens, batch.token_lens.tolist(), strict=True)]
        sizes = torch.tensor([len(one) for one in targets])
        loss = F.ctc_loss(scores.transpose(0, 1), torch.cat(targets), lengths, sizes, zero_infinity=True)
        return loss, {"ctc": loss.detach()}


def audible(tokens: Tensor, silent: Sequence[int]) -> Tensor:
    """Tokens without those in `silent`."""
    keep = torch.ones_like(tokens, dtype=torch.bool)
    for symbol in silent:
        keep &= tokens != symbol
    return tokens[keep]


def roughened(mel: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """(B, S, bands) each row blurred over frames and bands, shifted in level and covered with noise, each by chance."""
    rows = (len(mel), 1, 1)
    blur = (0.9 * strength * uniform(rows, generator)).clamp(max=1.0).to(mel)
    over_time = F.avg_pool1d(F.pad(mel.transpose(1, 2), (1, 1), mode="replicate"), 3, stride=1).transpose(1, 2)
    soft = F.avg_pool1d(F.pad(over_time, (1, 1), mode="replicate"), 3, stride=1)
    mel = mel + blur * (soft - mel)
    level = 0.1 * strength * normal(rows, generator).to(mel)
    noise = 0.15 * strength * uniform(rows, generator).to(mel) * normal(mel.shape, generator).to(mel)
    return mel + level + noise


@dataclass(frozen=True)
class Edits:
    """How a heard sequence differs from what was to be said, by an alignment of least cost.

    longest_skip, longest_extra: most deletions, insertions next to each other.
    """

    substitutions: int
    deletions: int
    insertions: int
    length: int
    longest_skip: int
    longest_extra: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a symbol that was to be said; above 1 where much was added."""
        return self.errors / max(1, self.length)


def compare(said: Sequence[object], heard: Sequence[object]) -> Edits:
    """Levenshtein's alignment of `heard` to `said`; among those of least cost, one with substitutions first."""
    rows, columns = len(said), len(heard)
    cost = [list(range(columns + 1))]
    for i in range(1, rows + 1):
        line, above = [i], cost[-1]
        for j in range(1, columns + 1):
            same = above[j - 1] + (said[i - 1] != heard[j - 1])
            line.append(min(same, above[j] + 1, line[j - 1] + 1))
        cost.append(line)
    steps: list[str] = []
    i, j = rows, columns
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (said[i - 1] != heard[j - 1]):
            steps.append("same" if said[i - 1] == heard[j - 1] else "substitution")
            i, j = i - 1, j - 1
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            steps.append("deletion")
            i -= 1
        else:
            steps.append("insertion")
            j -= 1
    return Edits(
        steps.count("substitution"), steps.count("deletion"), steps.count("insertion"), rows,
        _longest(steps, "deletion"), _longest(steps, "insertion"),
    )  # fmt: skip


def _longest(steps: Sequence[str], kind: str) -> int:
    best = run = 0
    for step in steps:
        run = run + 1 if step == kind else 0
        best = max(best, run)
    return best


def error_rate(edits: Sequence[Edits]) -> float:
    """Errors over all sentences together, by the symbols that were to be said."""
    return sum(one.errors for one in edits) / max(1, sum(one.length for one in edits))
