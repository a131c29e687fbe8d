"""A small recogniser of phonemes: convolutions over a spectrogram, trained with connectionist temporal classification (CTC)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.core.checks import check_integer, check_number
from tutelage.models.speech.blocks import valid
from tutelage.models.speech.transformer_tts import check_mel


@dataclass(frozen=True)
class RecogniserConfig:
    """symbols: of the vocabulary, 0 is CTC's blank. layers: convolutions of `width` channels at half the frame rate."""

    symbols: int
    bands: int = 40
    width: int = 128
    layers: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_integer("symbols", self.symbols, low=2)
        for name in ("bands", "width", "layers"):
            check_integer(name, getattr(self, name))
        check_number("dropout", self.dropout, "a share in [0, 1)", low=0.0, high=1 - 1e-9)


class Recogniser(nn.Module):
    """(B, S, bands), (B,) -> log-probabilities (B, ceil(S / 2), symbols) and their lengths (B,)."""

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.first = nn.Conv1d(c.bands, c.width, 5, stride=2, padding=2)
        self.layers = nn.ModuleList(
            nn.Conv1d(c.width, c.width, 5, padding=2 * dilation, dilation=dilation)
            for dilation in (1 if i % 2 == 0 else 2 for i in range(c.layers))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c.width) for _ in range(c.layers + 1))
        self.dropout = nn.Dropout(c.dropout)
        self.out = nn.Linear(c.width, c.symbols)

    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    def forward(self, mel: Tensor, mel_lens: Tensor) -> tuple[Tensor, Tensor]:
        check_mel(mel, mel_lens, self.config.bands, len(mel))
        mel = mel * valid(mel_lens, mel.shape[1])[:, :, None]
        lengths = (mel_lens + 1) // 2
        x = self.norms[0](F.relu(self.first(mel.transpose(1, 2))).transpose(1, 2))
        kept = valid(lengths, x.shape[1])[:, :, None].to(x.dtype)
        x = x * kept
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            x = norm(x + self.dropout(F.relu(layer(x.transpose(1, 2)).transpose(1, 2)))) * kept
        return self.out(x).log_softmax(2), lengths

    @torch.no_grad()
    def hear(self, mel: Tensor, mel_lens: Tensor) -> list[list[int]]:
        """The symbols of each row: the most probable one at each step, repetitions joined, blanks dropped."""
        scores, lengths = self(mel, mel_lens)
        rows = []
        for best, length in zip(scores.argmax(2), lengths.tolist(), strict=True):
            joined = torch.unique_consecutive(best[:length]).tolist()
            rows.append([symbol for symbol in joined if symbol])
        return rows
