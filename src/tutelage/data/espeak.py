"""Speech with known phonemes and times from espeak-ng, called through its C interface.

The library is looked for in the folder of `tutelage data get espeak-ng`, then where the system keeps its own. Without
either, MissingError. espeak-ng is licensed under the GPL 3; nothing of it is in this package.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.core.errors import InputError, MissingError
from tutelage.data.fetch import verified_folder
from tutelage.data.homes import ESPEAK_LIBRARY
from tutelage.data.spoken import PAUSE, Spoken

_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 1, 1 << 15  # of espeak_Initialize
_UTF8, _END, _PHONEME = 1, 0, 7
_VARIANT = re.compile(r"[#2-]+$")  # marks of allophones behind a name: t2, I#, @-


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """One voice of espeak-ng, as `speak(text)`. The library has one state a process: make voices with `espeak`."""

    def __init__(self, library: str, data: Path | None, voice: str) -> None:
        self.voice = voice
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise MissingError(f"espeak-ng: {library} cannot be loaded ({error}); {_HOW}") from error
        where = str(data).encode() if data else None
        self.rate = int(self._lib.espeak_Initialize(_SYNCHRONOUS, 0, where, _PHONEME_EVENTS | _DONT_EXIT))
        if self.rate <= 0:
            raise MissingError(f"espeak-ng: the data of its voices are not at {data or 'their place'}; {_HOW}")
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self.name = f"espeak-ng {self._lib.espeak_Info(None).decode().split()[0]}, voice {voice}"
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise MissingError(f"espeak-ng: it has no voice {voice!r}; {_HOW}")
        self._chunks: list[np.ndarray[Any, Any]] = []
        self._events: list[tuple[str, int]] = []
        self._callback = _CALLBACK(self._take)  # kept, or it would be collected while the library has its address
        self._lib.espeak_SetSynthCallback(self._callback)

    def _take(self, wave: Any, n: int, events: Any) -> int:
        if n > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (n,)).copy())
        i = 0
        while events[i].type != _END:
            if events[i].type == _PHONEME:
                self._events.append((events[i].id.string.decode("utf-8", "replace"), int(events[i].sample)))
            i += 1
        return 0

    def speak(self, text: str) -> Spoken:
        """Say `text`. InputError if it is empty or holds nothing that can be spoken.

        The breath and flutter of the voice go on from what it said before: said twice, the same text has the same
        phonemes, and times that differ by less than a millisecond.
        """
        if not isinstance(text, str) or not text.strip():
            raise InputError("text", text, "some words")
        self._chunks, self._events = [], []
        content = text.encode() + b"\0"
        # a pitch of 50 and 175 words a minute are its defaults; every call starts from them
        if self._lib.espeak_Synth(content, len(content), 0, 1, 0, _UTF8, None, None) != 0:
            raise InputError("text", text[:60], "a text that espeak-ng speaks")
        self._lib.espeak_Synchronize()
        wave = np.concatenate([*self._chunks, np.zeros(0, np.int16)]).astype(np.float32) / 32768.0
        names, starts = _joined(self._events, len(wave))
        if not any(name != PAUSE for name in names):
            raise InputError("text", text[:60], "a text with something to say: letters or digits")
        return Spoken(wave, self.rate, names, starts)


def plain_phoneme(name: str) -> str:
    """An event's name without stress and without the marks of allophones; pauses of all kinds have one name."""
    bare = name.lstrip("',%=")
    if not bare or bare.startswith("_"):
        return PAUSE
    return _VARIANT.sub("", bare) or bare


def _joined(events: list[tuple[str, int]], samples: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Phonemes with their starts, the first one 0: pauses side by side are one, what takes no time is left out."""
    kept: list[tuple[str, int]] = []
    ends = [start for _, start in events[1:]] + [samples]
    for (name, start), end in zip(events, ends, strict=True):
        plain = plain_phoneme(name)
        if end <= start or (plain == PAUSE and kept and kept[-1][0] == PAUSE):
            continue
        kept.append((plain, start if kept else 0))
    return tuple(name for name, _ in kept), tuple(start for _, start in kept)


_HOW = "get it with `tutelage data get espeak-ng`, or install your system's espeak-ng"


@cache
def espeak(voice: str = "en-us") -> Espeak:
    """The voice of that name. Raises MissingError where espeak-ng is not on this machine, or what was fetched is damaged."""
    own = ctypes.util.find_library("espeak-ng")
    try:
        folder = verified_folder("espeak-ng")
    except (MissingError, InputError) as error:  # not fetched, or no build of it is known for this kind of machine
        if own is None:
            raise MissingError(f"espeak-ng is not on this machine; {_HOW}") from error
        return Espeak(own, None, voice)
    return Espeak(str(folder / ESPEAK_LIBRARY), folder, voice)


def has_espeak() -> bool:
    """Whether espeak-ng can be used here."""
    try:
        espeak()
    except MissingError:
        return False
    return True
