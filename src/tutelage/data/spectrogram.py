"""Mel-spectrograms of speech and the way back to sound, through librosa. Needs the extra `audio` (librosa, soundfile)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.data.speech import require

QUIETEST = 1e-4  # amplitude at which the logarithm is cut off
MIDDLE, SPREAD = -50.0, 25.0  # decibels: what speech has on average, and about its standard deviation


@dataclass(frozen=True)
class MelConfig:
    """How sound becomes frames. rate: samples a second; hop: samples a frame; window: of the transform; bands: of mel."""

    rate: int = 16000
    bands: int = 40
    hop: int = 200
    window: int = 1024

    def __post_init__(self) -> None:
        for name in ("rate", "bands", "hop", "window"):
            check_integer(name, getattr(self, name))
        if self.hop > self.window:
            raise InputError("hop", self.hop, f"at most the window of {self.window} samples")

    @property
    def frames_per_second(self) -> float:
        return self.rate / self.hop

    def frames(self, samples: int) -> int:
        """Frames of a wave of that many samples: one a hop, the last one cut short."""
        return -(-samples // self.hop)


STANDARD = MelConfig()


def check_wave(wave: Any, rate: int, config: MelConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A mono wave as float32; InputError for another rate, several channels, no samples, NaN."""
    if rate != config.rate:
        wanted = f"{config.rate} Hz, the rate of this voice; resample the recording first (librosa.resample)"
        raise InputError("rate", f"{rate} Hz", wanted)
    mono: np.ndarray[Any, np.dtype[np.float32]] = np.asarray(wave, dtype=np.float32)
    if mono.ndim != 1 or mono.size == 0 or not np.isfinite(mono).all():
        raise InputError("wave", f"shape {mono.shape}", "one channel (n,) of finite numbers, n > 0")
    return mono


def mel_frames(wave: Any, rate: int, config: MelConfig = STANDARD) -> Tensor:
    """The log-mel-spectrogram (S, bands) of a mono wave: decibels, minus -50, over 25; about -1.2 is silence.

    S is `config.frames(len(wave))`; frame s is centred on sample hop * s. Raises InputError (rate, wave), MissingError.
    """
    mono = check_wave(wave, rate, config)
    librosa = require("librosa")
    mel = librosa.feature.melspectrogram(
        y=mono, sr=rate, n_fft=config.window, hop_length=config.hop, n_mels=config.bands, power=1.0, pad_mode="constant"
    )
    level = 20.0 * np.log10(np.maximum(mel, QUIETEST))
    frames = torch.from_numpy(((level - MIDDLE) / SPREAD).T.astype(np.float32))
    return frames[: config.frames(len(mono))].contiguous()


def sound(mel: Tensor, config: MelConfig = STANDARD, *, steps: int = 32, seed: int = 0) -> np.ndarray[Any, Any]:
    """The wave (n,) float32 in [-1, 1] of a log-mel-spectrogram (S, bands) of `mel_frames`: Griffin and Lim's phases.

    steps: iterations. The phases start from `seed`. Raises InputError for other shapes and numbers that are not finite.
    """
    check_integer("steps", steps)
    if mel.ndim != 2 or mel.shape[1] != config.bands or mel.shape[0] == 0:
        raise InputError("mel", f"shape {tuple(mel.shape)}", f"(S, {config.bands}) with S > 0")
    if not bool(torch.isfinite(mel).all()):
        raise InputError("mel", "NaN or infinity", "finite numbers")
    librosa = require("librosa")
    amplitude = 10.0 ** ((mel.detach().cpu().numpy().T.astype(np.float64) * SPREAD + MIDDLE).clip(-80.0, 60.0) / 20.0)
    amplitude[amplitude <= 1.01 * QUIETEST] = 0.0
    amplitude = np.pad(amplitude, ((0, 0), (0, 1)), mode="edge")  # S hops have S + 1 frames in librosa's centred transform
    linear = _linear(amplitude, librosa.filters.mel(sr=config.rate, n_fft=config.window, n_mels=config.bands))
    wave = librosa.griffinlim(
        linear, n_iter=steps, hop_length=config.hop, n_fft=config.window, random_state=seed, length=mel.shape[0] * config.hop
    )
    sound: np.ndarray[Any, Any] = np.clip(wave, -1.0, 1.0).astype(np.float32)
    return sound


def _linear(amplitude: np.ndarray[Any, Any], bands: np.ndarray[Any, Any], steps: int = 20) -> np.ndarray[Any, Any]:
    """Non-negative amplitudes x with bands @ x near the given ones: Lee and Seung's multiplicative updates.

    librosa's own inverse solves the same problem by a general optimiser and takes 100 times as long.
    """
    x: np.ndarray[Any, Any] = np.maximum(np.linalg.pinv(bands) @ amplitude, 1e-10)
    weight = bands.sum(0)[:, None] + 1e-12
    for _ in range(steps):
        x *= (bands.T @ (amplitude / (bands @ x + 1e-12))) / weight
    return x


def wav_bytes(wave: Any, rate: int) -> bytes:
    """A mono wave as the bytes of a 16-bit wav file."""
    buffer = io.BytesIO()
    require("soundfile").write(buffer, np.asarray(wave, dtype=np.float32), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
