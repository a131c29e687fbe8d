"""What a voice does with sentences: phone errors as a recogniser hears them, faults of attention, distance to recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.data.spectrogram import SPREAD
from tutelage.data.speech import require
from tutelage.methods.distill.fastspeech.training import Said, say
from tutelage.models.speech.fastspeech import FastSpeech
from tutelage.models.speech.recogniser import Recogniser
from tutelage.models.speech.transformer_tts import TransformerTTS
from tutelage.teaching.speech.batches import padded
from tutelage.teaching.speech.recognition import Edits, audible, compare, error_rate

RUN = 3  # phones left out or added next to each other: that is a skip or a repetition, not one misheard sound


@dataclass(frozen=True, eq=False)
class Spoken:
    """A model's speech for some texts. mels: (S_i, bands) each; said: the teacher's alignments, None for a student."""

    mels: list[Tensor]
    said: list[Said] | None = None


@torch.no_grad()
def speak_all(
    model: FastSpeech | TransformerTTS, texts: Sequence[Tensor], *, alpha: float = 1.0, batch_size: int = 16
) -> Spoken:
    """Each text (T,) as the model says it, in batches of like length. alpha: of a student."""
    check_integer("batch_size", batch_size)
    if isinstance(model, TransformerTTS):
        said = say(model, texts, batch_size=batch_size)
        return Spoken([one.mel for one in said], said)
    order, mels = sorted(range(len(texts)), key=lambda i: len(texts[i])), dict[int, Tensor]()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        out = model(*padded([texts[i] for i in rows]), alpha=alpha)
        for k, i in enumerate(rows):
            mels[i] = out.mel[k, : int(out.mel_lens[k])].clone()
    return Spoken([mels[i] for i in range(len(texts))])


def heard_edits(
    recogniser: Recogniser, texts: Sequence[Tensor], mels: Sequence[Tensor], silent: Sequence[int], batch_size: int = 16
) -> list[Edits]:
    """What the recogniser heard of each text against what was to be said; silent: symbols that make no sound (pauses)."""
    if len(texts) != len(mels) or not texts:
        raise InputError("mels", f"{len(mels)} of them", f"one for each of the {len(texts)} texts, at least one")
    recogniser.eval()
    found: list[Edits] = []
    for start in range(0, len(texts), batch_size):
        rows = recogniser.hear(*padded(list(mels[start : start + batch_size])))
        for text, row in zip(texts[start : start + batch_size], rows, strict=True):
            found.append(compare(audible(text, silent).tolist(), [one for one in row if one not in silent]))
    return found


@dataclass(frozen=True)
class Robustness:
    """Shares in per cent. phone_error_rate: errors over all phones. faulty: sentences with at least three phones in a row
    left out (skips) or added (repeats), as heard."""

    phone_error_rate: float
    faulty: float
    skips: float
    repeats: float
    sentences: int


def robustness(edits: Sequence[Edits]) -> Robustness:
    """The sentences that `edits` counted, together."""
    n = len(edits)
    skips = [one.longest_skip >= RUN for one in edits]
    repeats = [one.longest_extra >= RUN for one in edits]
    faulty = sum(a or b for a, b in zip(skips, repeats, strict=True))
    return Robustness(100 * error_rate(edits), 100 * faulty / n, 100 * sum(skips) / n, 100 * sum(repeats) / n, n)


def attention_faults(said: Sequence[Said]) -> float:
    """Per cent of texts whose attention left out three phonemes in a row, went back by two or more, or never came to an end."""
    bad = [not one.stopped or one.alignment.backward > 0 or one.alignment.longest_gap >= RUN for one in said]
    return 100 * sum(bad) / len(said)


def attention_skips(said: Sequence[Said], texts: Sequence[Tensor], silent: Sequence[int]) -> float:
    """Per cent of the phonemes of all texts, pauses aside, that no frame looked at most."""
    skipped = total = 0
    for one, text in zip(said, texts, strict=True):
        quiet = torch.zeros_like(text, dtype=torch.bool)
        for symbol in silent:
            quiet |= text == symbol
        skipped += one.alignment.skipped(quiet)
        total += int((~quiet).sum())
    return 100 * skipped / max(1, total)


def mel_cepstral_distortion(a: Tensor, b: Tensor, coefficients: int = 13) -> float:
    """Decibels between two spectrograms (S, bands) of `mel_frames`, aligned by dynamic time warping (librosa).

    sqrt(sum_k (c_k(a) - c_k(b))^2), meaned along the path, over the cepstral coefficients k = 1 to 13 of the levels in
    decibels, scaled so that all of them together give the root mean square difference of the bands. c_0, the loudness, is
    left out.
    """
    dtw = require("librosa").sequence.dtw
    dct = import_module("scipy.fft").dct
    first, second = (
        dct(one.double().numpy() * SPREAD, axis=1, norm="ortho")[:, 1 : coefficients + 1] / np.sqrt(one.shape[1])
        for one in (a, b)
    )
    _, path = dtw(first.T, second.T)
    return float(np.linalg.norm(first[path[:, 0]] - second[path[:, 1]], axis=1).mean())


def duration_error(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Mean |d - d_true| in frames over all phonemes of all texts."""
    return float(torch.cat([(a - b).abs().double() for a, b in zip(found, true, strict=True)]).mean())
