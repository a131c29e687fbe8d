"""FastSpeech: phonemes to a mel-spectrogram in one parallel pass (Ren et al. 2019, arXiv 1905.09263)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.speech.blocks import Stack, check_block, valid
from tutelage.models.speech.regulator import Alpha, check_alpha, check_durations, length_regulate, scaled_durations


@dataclass(frozen=True)
class FastSpeechConfig:
    """Sizes. symbols: of the vocabulary, 0 is padding. blocks: FFT blocks on each side of the length regulator.

    The paper's own: blocks 6, width 384, heads 2, hidden 1536, kernel 3, predictor 384, 80 bands.
    detach_durations: no gradient from the duration predictor into the phoneme states (the paper lets it through).
    longest: frames of one utterance; more are refused.
    """

    symbols: int
    bands: int = 40
    blocks: int = 3
    width: int = 128
    heads: int = 2
    hidden: int = 512
    kernel: int = 3
    predictor: int = 128
    dropout: float = 0.1
    detach_durations: bool = False
    longest: int = 4000

    def __post_init__(self) -> None:
        check_integer("symbols", self.symbols, low=2)
        for name in ("bands", "blocks", "predictor", "longest"):
            check_integer(name, getattr(self, name))
        check_block(self.width, self.heads, self.hidden, self.kernel, self.dropout)


@dataclass(frozen=True, eq=False)
class Out:
    """mel (B, S, bands), 0 at padding; log_durations (B, T): log(1 + d) as predicted; mel_lens (B,); durations (B, T) used."""

    mel: Tensor
    log_durations: Tensor
    mel_lens: Tensor
    durations: Tensor


class DurationPredictor(nn.Module):
    """Two convolutions with ReLU, norm and dropout, then one number a phoneme: log(1 + frames). No ReLU at the end."""

    def __init__(self, width: int, hidden: int, dropout: float, kernel: int = 3) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(width, hidden, kernel, padding=kernel // 2), nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 1)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width), (B, T) -> (B, T), 0 at padding."""
        kept = mask[:, :, None].to(h.dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = self.dropout(norm(F.relu(convolution(h.transpose(1, 2)).transpose(1, 2)))) * kept
        out: Tensor = (self.out(h) * kept).squeeze(2)
        return out


class FastSpeech(nn.Module):
    """Embedding and N FFT blocks over phonemes, length regulator, N FFT blocks over frames, one linear layer to mel bands."""

    def __init__(self, config: FastSpeechConfig) -> None:
        super().__init__()
        if not isinstance(config, FastSpeechConfig):
            raise InputError("config", type(config).__name__, "a FastSpeechConfig")
        self.config = config
        c = config
        self.embedding = nn.Embedding(c.symbols, c.width, padding_idx=0)
        self.phonemes = Stack(c.blocks, c.width, c.heads, c.hidden, c.kernel, c.dropout)
        self.predictor = DurationPredictor(c.width, c.predictor, c.dropout)
        self.frames = Stack(c.blocks, c.width, c.heads, c.hidden, c.kernel, c.dropout)
        self.out = nn.Linear(c.width, c.bands)

    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    def forward(
        self,
        tokens: Tensor,
        token_lens: Tensor,
        durations: Tensor | None = None,
        mel_lens: Tensor | None = None,
        alpha: Alpha = 1.0,
        *,
        carry_error: bool = False,
    ) -> Out:
        """tokens: (B, T) int64 in [1, symbols), 0 at padding; token_lens: (B,).

        durations: (B, T) frames, as in training; without them, the predictor's. mel_lens: (B,) what the durations must sum
        to at alpha 1, or InputError. alpha: speed, a number > 0 or one factor a phoneme (B, T). A row that the predictor
        gives no frame at all (an untrained one may) gets one frame on each phoneme. Raises InputError.
        """
        mask = check_tokens(tokens, token_lens, self.config.symbols)
        alpha = check_alpha(alpha)
        if durations is not None:
            durations = check_durations(durations, (tokens.shape[0], tokens.shape[1]))
            if bool((durations * ~mask).any()):
                raise InputError("durations", "frames on padding", "0 behind the length of a text")
            if mel_lens is not None and not torch.equal(durations.sum(1), mel_lens.to(durations.device)):
                sums, wanted = durations.sum(1).tolist(), mel_lens.tolist()
                raise InputError("durations", f"sums {sums}", f"the frames of the spectrograms, {wanted}")
        whole = None if bool(mask.all()) else mask
        h = self.phonemes(self.embedding(tokens), whole)
        log_durations = self.predictor(h.detach() if self.config.detach_durations else h, mask)
        if durations is None:
            durations = predicted_frames(log_durations.detach(), mask)
            empty = scaled_durations(durations, alpha, carry_error=carry_error).sum(1) == 0
            if bool(empty.any()):
                least = torch.ceil(1.0 / torch.as_tensor(alpha, dtype=torch.float64, device=tokens.device))
                durations = torch.where(empty[:, None], least.expand(mask.shape).long() * mask, durations)
        expanded, lengths = length_regulate(h, durations, alpha, max_len=self.config.longest, carry_error=carry_error)
        inside = valid(lengths, expanded.shape[1])
        full = bool(inside.all())
        mel = self.out(self.frames(expanded, None if full else inside))
        return Out(mel if full else mel * inside[:, :, None], log_durations, lengths, durations)


def predicted_frames(log_durations: Tensor, mask: Tensor) -> Tensor:
    """Whole frames (B, T) of predicted log(1 + d): half up, never below 0, 0 at padding."""
    frames = torch.floor(torch.expm1(log_durations.double().clamp(max=9.0)) + 0.5).clamp(min=0)
    return frames.long() * mask


def check_tokens(tokens: Tensor, token_lens: Tensor, symbols: int) -> Tensor:
    """The mask (B, T) of a batch of texts; InputError for an empty text or symbols outside the vocabulary."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
        got = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise InputError("tokens", got.removeprefix("torch."), "int64 (B, T), T > 0: a text that is not empty")
    if not isinstance(token_lens, Tensor) or token_lens.shape != tokens.shape[:1] or token_lens.is_floating_point():
        raise InputError("token_lens", getattr(token_lens, "shape", token_lens), f"int64 ({len(tokens)},)")
    if int(token_lens.min()) < 1 or int(token_lens.max()) > tokens.shape[1]:
        raise InputError("token_lens", token_lens.tolist(), f"lengths from 1 to {tokens.shape[1]}; no text may be empty")
    mask = valid(token_lens, tokens.shape[1])
    inside = tokens[mask]
    if int(inside.min()) < 1 or int(inside.max()) >= symbols:
        bad = inside[(inside < 1) | (inside >= symbols)]
        raise InputError("tokens", int(bad[0]), f"symbols from 1 to {symbols - 1}; 0 is padding")
    return mask
