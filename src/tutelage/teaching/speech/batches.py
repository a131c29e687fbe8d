"""Batches of utterances: padded tensors, and a loader that puts utterances of like length together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Pair:
    """One text and its spectrogram. tokens (T,) int64 >= 1; mel (S, bands); durations (T,) int64 with sum S, or None."""

    tokens: Tensor
    mel: Tensor
    durations: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SpeechBatch:
    """tokens (B, T) int64, token_lens (B,), mel (B, S, bands), mel_lens (B,), durations (B, T) int64; 0 at padding."""

    tokens: Tensor
    token_lens: Tensor
    mel: Tensor
    mel_lens: Tensor
    durations: Tensor | None

    def to(self, device: torch.device | str) -> SpeechBatch:
        durations = None if self.durations is None else self.durations.to(device)
        return SpeechBatch(
            self.tokens.to(device), self.token_lens.to(device), self.mel.to(device), self.mel_lens.to(device), durations
        )

    def __len__(self) -> int:
        return len(self.tokens)


def collate(pairs: Sequence[Pair]) -> SpeechBatch:
    """Pad pairs to one batch."""
    tokens, token_lens = padded([pair.tokens for pair in pairs])
    mel, mel_lens = padded([pair.mel for pair in pairs])
    known = [pair.durations for pair in pairs if pair.durations is not None]
    durations = padded(known)[0] if len(known) == len(pairs) else None
    return SpeechBatch(tokens, token_lens, mel, mel_lens, durations)


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (n_i, ...) as (B, max n, ...), zeros behind, and their lengths (B,) int64."""
    return pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows])


def check_pairs(pairs: Sequence[Pair], *, durations: bool = False) -> None:
    """Pairs to train on; InputError for none, an empty text or spectrogram, durations that do not sum to the frames."""
    if not isinstance(pairs, Sequence) or not pairs or not all(isinstance(pair, Pair) for pair in pairs):
        raise InputError("pairs", type(pairs).__name__ if not isinstance(pairs, Sequence) else pairs[:1], "a list of Pairs")
    for i, pair in enumerate(pairs):
        if pair.tokens.ndim != 1 or len(pair.tokens) == 0 or int(pair.tokens.min()) < 1:
            raise InputError(
                "pairs", f"number {i} with the tokens {pair.tokens.tolist()[:5]}", "a text of symbols >= 1, not empty"
            )
        if pair.mel.ndim != 2 or len(pair.mel) == 0 or not bool(torch.isfinite(pair.mel).all()):
            raise InputError("pairs", f"number {i} with mel {tuple(pair.mel.shape)}", "finite frames (S, bands), S > 0")
        if pair.durations is None:
            if durations:
                raise InputError("pairs", f"number {i} without durations", "frames of each phoneme (durations_from_attention)")
        elif int(pair.durations.sum()) != len(pair.mel) or len(pair.durations) != len(pair.tokens):
            got = f"number {i} with {len(pair.durations)} durations that sum to {int(pair.durations.sum())}"
            raise InputError("pairs", got, f"{len(pair.tokens)} durations that sum to its {len(pair.mel)} frames")


def by_length(lengths: Sequence[int], batch_size: int, steps: int, generator: torch.Generator) -> list[list[int]]:
    """`steps` batches of utterances of like length, pass after pass over all of them, each pass in another order: shuffled,
    then sorted within pools of 8 batches."""
    check_integer("batch_size", batch_size)
    check_integer("steps", steps)
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = torch.randperm(len(lengths), generator=generator).tolist()
        pool, one_pass = 8 * batch_size, list[list[int]]()
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lambda i: lengths[i])
            one_pass += [near[at : at + batch_size] for at in range(0, len(near), batch_size)]
        batches += [one_pass[i] for i in torch.randperm(len(one_pass), generator=generator).tolist()]
    return batches[:steps]


class _Batches(Dataset[SpeechBatch]):
    """Batch i of a training, padded."""

    def __init__(self, pairs: Sequence[Pair], batches: Sequence[Sequence[int]]) -> None:
        self.pairs, self.batches = list(pairs), list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> SpeechBatch:
        return collate([self.pairs[k] for k in self.batches[i]])


def speech_loader(pairs: Sequence[Pair], batch_size: int, steps: int, generator: torch.Generator) -> DataLoader[SpeechBatch]:
    """A loader for `fit(steps=steps)` over pairs, batched by length.

    All batches of the training are drawn here, so that one pass over the loader is the whole training, and `fit` can go on
    from a checkpoint in the midst of it.
    """
    batches = by_length([len(pair.mel) for pair in pairs], batch_size, steps, generator)
    return DataLoader(_Batches(pairs, batches), batch_size=None)
