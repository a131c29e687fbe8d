"""Losses over un-padded frames and phonemes: the teacher's, with guided attention, and FastSpeech's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_choice, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.models.speech.blocks import valid
from tutelage.teaching.fit import Context
from tutelage.teaching.speech.batches import SpeechBatch


def masked_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of (B, S) or (B, S, M) over the positions before each row's length (and over all M)."""
    mask = valid(lengths, values.shape[1])
    kept = mask if values.ndim == 2 else mask[:, :, None]
    count = mask.sum() * (1 if values.ndim == 2 else values.shape[2])
    return (values * kept).sum() / count


def guided_attention(attention: Tensor, token_lens: Tensor, steps: Tensor, sigma: float = 0.4) -> Tensor:
    """Mean of A[s, t] (1 - exp(-(t/T - s/S)^2 / (2 sigma^2))) (Tachibana et al. 2017, arXiv 1710.08969).

    attention: (B, L, H, S, T); token_lens, steps: (B,), the true T and S of each row. 0 on the diagonal; the mean is over
    rows' own S steps, for every row, layer and head alike.
    """
    check_positive("sigma", sigma, "a number > 0")
    tokens, rows = valid(token_lens, attention.shape[4]), valid(steps, attention.shape[3])
    t = torch.arange(attention.shape[4], device=attention.device) / token_lens[:, None]
    s = torch.arange(attention.shape[3], device=attention.device) / steps[:, None]
    far = 1.0 - torch.exp(-((t[:, None, :] - s[:, :, None]) ** 2) / (2 * sigma**2))
    far = far * (tokens[:, None, :] & rows[:, :, None])
    off = (attention * far[:, None, None]).sum((1, 2, 3, 4)) / (attention.shape[1] * attention.shape[2])
    return (off / steps).mean()


class TeacherLoss:
    """L1 of the spectrogram before and after the post-net, cross-entropy of the stop token, guided attention.

    stop_weight: of the one step a text that is the last, against the others. guide: weight of the guided attention, 0 for
    none; sigma: its width. frame_noise: standard deviation of noise on the frames the decoder sees.
    """

    def __init__(self, *, guide: float = 1.0, sigma: float = 0.4, stop_weight: float = 5.0, frame_noise: float = 0.0) -> None:
        for name, value in (("guide", guide), ("stop_weight", stop_weight), ("frame_noise", frame_noise)):
            check_number(name, value, "a number >= 0", low=0.0)
        check_positive("sigma", sigma, "a number > 0")
        self.guide, self.sigma, self.stop_weight, self.frame_noise = guide, sigma, stop_weight, frame_noise

    def __call__(self, model: nn.Module, batch: SpeechBatch, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        seen = batch.mel
        if self.frame_noise:
            seen = seen + self.frame_noise * torch.randn(seen.shape, generator=ctx.generator).to(seen.device)
        out = model(batch.tokens, batch.token_lens, seen, batch.mel_lens)
        mel = masked_mean((out.before - batch.mel).abs(), batch.mel_lens)
        polished = masked_mean((out.after - batch.mel).abs(), batch.mel_lens)
        reduction = int(getattr(getattr(model, "config", None), "reduction", 1))
        steps = (batch.mel_lens + reduction - 1) // reduction
        last = F.one_hot(steps - 1, out.stop.shape[1]).to(out.stop.dtype)
        weight = torch.tensor(self.stop_weight, device=out.stop.device)
        stop = F.binary_cross_entropy_with_logits(out.stop, last, pos_weight=weight, reduction="none")
        stopping = masked_mean(stop, steps)
        guide = guided_attention(out.attention, batch.token_lens, steps, self.sigma)
        loss = mel + polished + stopping + self.guide * guide
        return loss, {"mel": polished.detach(), "stop": stopping.detach(), "guide": guide.detach()}


class FastSpeechLoss:
    """Mean error of the spectrogram (mse, or l1) plus squared error of log(1 + duration), over what is not padding."""

    def __init__(self, *, distance: str = "mse", duration_weight: float = 1.0) -> None:
        check_choice("distance", distance, ("mse", "l1"))
        check_number("duration_weight", duration_weight, "a number >= 0", low=0.0)
        self.distance, self.duration_weight = distance, duration_weight

    def __call__(self, model: nn.Module, batch: SpeechBatch, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if batch.durations is None:
            raise InputError("batch", "no durations", "a duration for each phoneme")
        out = model(batch.tokens, batch.token_lens, batch.durations, batch.mel_lens)
        error = out.mel - batch.mel
        mel = masked_mean(error.abs() if self.distance == "l1" else error**2, batch.mel_lens)
        wanted = torch.log1p(batch.durations.to(out.log_durations.dtype))
        duration = masked_mean((out.log_durations - wanted) ** 2, batch.token_lens)
        return mel + self.duration_weight * duration, {"mel": mel.detach(), "duration": duration.detach()}
