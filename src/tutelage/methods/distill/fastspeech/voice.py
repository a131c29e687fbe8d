"""A finished voice: text in, sound out, with control of speed and pauses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_positive
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_atomic, write_json
from tutelage.data.speakers import speaker as speaker_of
from tutelage.data.spectrogram import MelConfig, sound, wav_bytes
from tutelage.data.spoken import PAUSE
from tutelage.data.utterances import Symbols
from tutelage.methods.distill.fastspeech.training import say
from tutelage.models.loading import load_weights, save_weights
from tutelage.models.speech.fastspeech import FastSpeech, FastSpeechConfig
from tutelage.models.speech.transformer_tts import TeacherConfig, TransformerTTS

KINDS: dict[str, Callable[[dict[str, Any]], FastSpeech | TransformerTTS]] = {
    "FastSpeech": lambda settings: FastSpeech(FastSpeechConfig(**settings)),
    "TransformerTTS": lambda settings: TransformerTTS(TeacherConfig(**settings)),
}
LONGEST = 1000  # phonemes of one text


@dataclass(frozen=True, eq=False)
class Speech:
    """What was said. mel (S, bands); phonemes (T); durations (T,) frames; rate in Hz; config: of the spectrogram."""

    text: str
    mel: Tensor
    phonemes: tuple[str, ...]
    durations: Tensor
    config: MelConfig

    @property
    def rate(self) -> int:
        return self.config.rate

    @property
    def seconds(self) -> float:
        return len(self.mel) / self.config.frames_per_second

    def wave(self, steps: int = 32) -> np.ndarray[Any, Any]:
        """(n,) float32 in [-1, 1] at `rate`, by Griffin and Lim's phases. Needs librosa."""
        return sound(self.mel, self.config, steps=steps)

    def wav(self, steps: int = 32) -> bytes:
        """The content of a 16-bit wav file."""
        return wav_bytes(self.wave(steps), self.rate)

    def write(self, path: Path | str, steps: int = 32) -> Path:
        """Write a wav file, whole or not at all."""
        write_atomic(Path(path), self.wav(steps))
        return Path(path)


@dataclass(frozen=True, eq=False)
class Voice:
    """A model that speaks, with what it needs to read a text.

    model: a FastSpeech student, or its autoregressive teacher (which has no speed to set). speaker: a name of
    `data.speakers.speaker`, who says how a text is pronounced.
    """

    model: FastSpeech | TransformerTTS
    symbols: Symbols
    mel: MelConfig
    speaker: str

    def __post_init__(self) -> None:
        config = self.model.config
        if (config.symbols, config.bands) != (len(self.symbols), self.mel.bands):
            got = f"{config.symbols} symbols and {config.bands} bands"
            raise InputError("model", got, f"{len(self.symbols)} symbols and {self.mel.bands} bands, as the voice has")

    def read(self, text: str) -> tuple[tuple[str, ...], Tensor]:
        """Phonemes of a text and their symbols (T,). InputError: empty text, unknown symbols, more than 1,000 phonemes."""
        phonemes = speaker_of(self.speaker).speak(text).phonemes
        tokens = self.symbols.encode(phonemes)
        if len(tokens) > LONGEST:
            raise InputError("text", f"{len(tokens)} phonemes", f"at most {LONGEST}: split it into sentences")
        return phonemes, tokens

    def synthesize(self, text: str, alpha: float = 1.0, *, pauses: float = 1.0, carry_error: bool = False) -> Speech:
        """Say `text`. alpha > 0: durations times alpha, 2 is half as fast. pauses > 0: times alpha again, on pauses alone.

        carry_error: see `length_regulate`. Raises InputError (text, alpha, pauses) before anything is computed.
        """
        for name, value in (("alpha", alpha), ("pauses", pauses)):
            check_positive(name, value, "a finite number above 0 (1: the voice's own; 2: twice as long)")
        phonemes, tokens = self.read(text)
        self.model.eval()
        if isinstance(self.model, TransformerTTS):
            if (alpha, pauses) != (1.0, 1.0):
                raise InputError("alpha", alpha, "1: an autoregressive teacher has no durations to stretch")
            said = say(self.model, [tokens])[0]
            return Speech(text, said.mel, phonemes, said.alignment.durations, self.mel)
        factors = torch.tensor([[alpha * (pauses if name == PAUSE else 1.0) for name in phonemes]])
        with torch.no_grad():
            out = self.model(tokens[None], torch.tensor([len(tokens)]), alpha=factors, carry_error=carry_error)
        return Speech(text, out.mel[0], phonemes, out.durations[0], self.mel)

    def save(self, folder: Path | str) -> Path:
        """Write `model.safetensors` and `voice.json` into a folder, which is made."""
        folder = Path(folder)
        save_weights(self.model, folder / "model.safetensors")
        described = {
            "format": "tutelage-voice-1", "model": type(self.model).__name__, "settings": self.model.settings(),
            "symbols": list(self.symbols.names), "mel": asdict(self.mel), "speaker": self.speaker,
        }  # fmt: skip
        write_json(folder / "voice.json", described)
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> Voice:
        """A voice that `save` wrote. MissingError where there is none, InputError for other content."""
        path = Path(folder) / "voice.json"
        if not path.is_file():
            raise MissingError(f"voice: there is no voice.json in {folder}, as a run of fastspeech or Voice.save writes it")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            model = KINDS[found["model"]](found["settings"])
            symbols, mel, speaker = Symbols(tuple(found["symbols"])), MelConfig(**found["mel"]), str(found["speaker"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("voice", str(path), f"a voice.json as Voice.save writes it ({error})") from error
        load_weights(model, path.with_name("model.safetensors"))
        return cls(model.eval(), symbols, mel, speaker)
