"""Voices by name: who pronounces a text, and speaks it with known times."""

from __future__ import annotations

from tutelage.core.errors import InputError
from tutelage.data.espeak import espeak
from tutelage.data.spoken import Speaker
from tutelage.data.worlds.formant_voice import FormantVoice


def speaker(key: str) -> Speaker:
    """ "espeak-ng" (American English), "espeak-ng:<voice>" or "formant", the voice of a few lines that needs nothing.

    Raises InputError for other names, MissingError where espeak-ng is not on this machine.
    """
    kind, _, voice = key.partition(":") if isinstance(key, str) else ("", "", "")
    if kind == "espeak-ng":
        return espeak(voice or "en-us")
    if key == "formant":
        return FormantVoice()
    raise InputError("speaker", key, "espeak-ng, espeak-ng:VOICE or formant")
