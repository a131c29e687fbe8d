"""What a voice says: a wave, and which phoneme begins where. The form that every source of speech here gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

PAUSE = "_"


@dataclass(frozen=True, eq=False)
class Spoken:
    """wave (n,): float32 in [-1, 1] at `rate`. phonemes: T names, `PAUSE` for silence.

    starts: T sample positions, ascending, the first one 0; a phoneme ends where the next begins, the last one with the wave.
    """

    wave: np.ndarray[Any, np.dtype[np.float32]]
    rate: int
    phonemes: tuple[str, ...]
    starts: tuple[int, ...]


class Speaker(Protocol):
    """A source of speech with known phonemes and times, which also says how a text is pronounced."""

    @property
    def name(self) -> str: ...

    def speak(self, text: str) -> Spoken: ...
