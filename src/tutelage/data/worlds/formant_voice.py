"""A voice of a few lines: letters as sounds of two formants or of noise, each with its time. For tests and first tries.

It speaks letters, not English. What it has is what a speech experiment needs: a sound that depends on the letter and a
little on its neighbours, durations that depend on both, and exact times, the same on every machine.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from tutelage.core.errors import InputError
from tutelage.data.spoken import PAUSE, Spoken

VOWELS = {"a": (800, 1200), "e": (450, 2100), "i": (300, 2500), "o": (500, 900), "u": (320, 750), "y": (300, 2000)}
VOICED = {"b": (250, 900), "d": (250, 1700), "g": (250, 2300), "j": (280, 2700), "l": (380, 1100), "m": (250, 1000),
          "n": (250, 1500), "r": (420, 1300), "v": (250, 1400), "w": (300, 650), "z": (250, 3000)}  # fmt: skip
NOISY = {"c": 3500, "f": 2500, "h": 1500, "k": 2000, "p": 900, "q": 1800, "s": 5500, "t": 4200, "x": 5000}
LETTERS = tuple(sorted({*VOWELS, *VOICED, *NOISY}))
SILENT = string.whitespace + string.punctuation
PITCH = 120.0


class FormantVoice:
    """`speak(text)` at 16 kHz, without randomness. Spaces and punctuation are pauses."""

    name = "formant voice 1"
    rate = 16000

    def speak(self, text: str) -> Spoken:
        """Letters a to z, spaces and punctuation; InputError for others (spell numbers out) and for a text without letters."""
        if not isinstance(text, str) or not any(one.isalpha() for one in text):
            raise InputError("text", text, "some words")
        names: list[str] = []
        for one in text.lower().strip():
            if one not in LETTERS and one not in SILENT:
                raise InputError(
                    "text", f"the unknown symbol {one!r}", "letters from a to z (numbers spelled out) and punctuation"
                )
            name = one if one.isalpha() else PAUSE
            if name != PAUSE or (names and names[-1] != PAUSE):
                names.append(name)
        parts = [self._sound(name, names[i - 1] if i else PAUSE) for i, name in enumerate(names)]
        lengths = [len(part) for part in parts]
        starts = np.cumsum([0, *lengths[:-1]])
        return Spoken(np.concatenate(parts).astype(np.float32), self.rate, tuple(names), tuple(int(s) for s in starts))

    def _sound(self, name: str, before: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        if name == PAUSE:
            return np.zeros(int(0.08 * self.rate))
        base = 0.11 if name in VOWELS else 0.07 if name in VOICED else 0.06
        seconds = base * (1.25 if before == PAUSE else 0.75 if before == name else 1.0) + 0.002 * (ord(name) % 7)
        time = np.arange(int(seconds * self.rate)) / self.rate
        edge = np.minimum(1.0, np.minimum(np.arange(len(time)), np.arange(len(time))[::-1]) / (0.008 * self.rate))
        if name in NOISY:
            steps = np.arange(1, 60)
            phases = (steps * 2.399963 * (ord(name) - 90)) % (2 * np.pi)  # fixed, spread phases: noise that is always the same
            tones = np.sin(2 * np.pi * (NOISY[name] + 17.0 * (steps - 30))[:, None] * time + phases[:, None])
            noise: np.ndarray[Any, np.dtype[np.float64]] = 0.016 * edge * tones.sum(0)
            return noise
        low, high = VOWELS.get(name) or VOICED[name]
        harmonics = PITCH * np.arange(1, 40)
        loud = sum(np.exp(-(((harmonics - f) / (0.12 * f + 60)) ** 2)) / k for k, f in ((1, low), (2, high)))
        level = (0.8 if name in VOWELS else 0.4) / float(np.sum(loud))  # in [-1, 1] even where all harmonics meet
        voice: np.ndarray[Any, np.dtype[np.float64]] = (
            level * edge * (np.asarray(loud)[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(0)
        )
        return voice
