"""Corpora of speech: texts as phonemes, spectrograms, and phoneme durations where they are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_tensors, sha256_text
from tutelage.data.spectrogram import STANDARD, MelConfig, mel_frames
from tutelage.data.speech import decode, require
from tutelage.data.spoken import Speaker, Spoken


@dataclass(frozen=True)
class Symbols:
    """A vocabulary of phonemes. Symbol 0 is padding; `names[i]` is symbol i + 1."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError("names", self.names, "different phonemes, at least one")

    def __len__(self) -> int:
        """With padding: what an embedding needs."""
        return len(self.names) + 1

    def encode(self, phonemes: Sequence[str]) -> Tensor:
        """(T,) int64, T > 0. InputError for a phoneme that is not in the vocabulary, or none at all."""
        if not phonemes:
            raise InputError("text", "no phonemes", "a text with something to say")
        place = {name: i for i, name in enumerate(self.names, 1)}
        if unknown := sorted({one for one in phonemes if one not in place}):
            raise InputError("text", f"the unknown symbol {unknown[0]!r}", f"the symbols of this voice: {' '.join(self.names)}")
        return torch.tensor([place[one] for one in phonemes])

    def decode(self, tokens: Tensor) -> tuple[str, ...]:
        return tuple(self.names[int(i) - 1] for i in tokens)

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> Symbols:
        """All phonemes that occur, in alphabetical order."""
        return cls(tuple(sorted({name for one in utterances for name in one.phonemes})))


@dataclass(frozen=True, eq=False)
class Utterance:
    """text; phonemes (T names); mel (S, bands) of `mel_frames`; durations (T,) int64 with sum S, or None if not known."""

    text: str
    phonemes: tuple[str, ...]
    mel: Tensor
    durations: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances of one voice. name: where they come from."""

    utterances: tuple[Utterance, ...]
    mel: MelConfig
    name: str

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def seconds(self) -> float:
        return sum(len(one.mel) for one in self.utterances) / self.mel.frames_per_second

    @property
    def sha256(self) -> str:
        """Of texts, phonemes and spectrograms."""
        text = "\n".join(f"{one.text}|{' '.join(one.phonemes)}" for one in self.utterances)
        frames = torch.cat([one.mel for one in self.utterances]) if self.utterances else torch.zeros(0)
        return sha256_text(sha256_text(text) + sha256_tensors({"mel": frames}))


def resampled(wave: Any, rate: int, wanted: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A mono wave at another rate (librosa)."""
    if rate == wanted:
        return np.asarray(wave, dtype=np.float32)
    found: np.ndarray[Any, np.dtype[np.float32]] = require("librosa").resample(
        np.asarray(wave, dtype=np.float32), orig_sr=rate, target_sr=wanted
    )
    return found.astype(np.float32)


def frame_durations(spoken: Spoken, frames: int, config: MelConfig) -> Tensor:
    """(T,) int64, sum `frames`: how many frames begin nearest to each phoneme's own time."""
    per_sample = config.frames_per_second / spoken.rate
    starts = np.floor(np.asarray(spoken.starts) * per_sample + 0.5).clip(0, frames)
    starts[0] = 0
    return torch.from_numpy(np.diff(np.append(starts, frames))).long()


def spoken_utterance(speaker: Speaker, text: str, config: MelConfig = STANDARD) -> Utterance:
    """`text` as the speaker says it, resampled to the voice's rate, with the true durations."""
    said = speaker.speak(text)
    mel = mel_frames(resampled(said.wave, said.rate, config.rate), config.rate, config)
    return Utterance(text, said.phonemes, mel, frame_durations(said, len(mel), config))


def spoken_corpus(speaker: Speaker, texts: Sequence[str], config: MelConfig = STANDARD) -> Corpus:
    """Each text as the speaker says it."""
    return Corpus(tuple(spoken_utterance(speaker, text, config) for text in texts), config, speaker.name)


def read_ljspeech(
    folder: Path | str, speaker: Speaker, config: MelConfig | None = None, *, resample: bool = False, limit: int | None = None
) -> Corpus:
    """Recordings with texts in the form of LJSpeech: `metadata.csv` (id|text|normalised text) beside `wavs/<id>.wav`.

    Parquet files with the columns id, audio and text are read too. speaker: pronounces the texts (its sound is not used).
    config: by default the recordings' own rate, 80 bands and a hop of 256. resample: bring other rates to that of `config`;
    otherwise InputError names them. limit: the first so many. Raises MissingError where there is no such folder.
    """
    takes = _takes(Path(folder), limit)
    found = []
    for name, text, content in takes:
        wave, rate = decode(content, name)
        config = config or MelConfig(rate, 80, 256, 1024)
        if resample:
            wave, rate = resampled(wave, rate, config.rate), config.rate
        found.append(Utterance(text, speaker.speak(text).phonemes, mel_frames(wave, rate, config)))
    return Corpus(tuple(found), config or MelConfig(), Path(folder).name)


def _takes(folder: Path, limit: int | None) -> list[tuple[str, str, bytes]]:
    """(id, text, content of the sound file) of each recording."""
    if not folder.is_dir():
        raise MissingError(f"data: there is no folder {folder}; LJSpeech is at https://keithito.com/LJ-Speech-Dataset/")
    table = folder / "metadata.csv"
    if table.is_file():
        rows = [line.split("|") for line in table.read_text(encoding="utf-8").splitlines() if line.strip()][:limit]
        if bad := next((row for row in rows if len(row) < 2), None):
            raise InputError("data", f"{table.name} with the line {'|'.join(bad)[:60]!r}", "lines of id|text|normalised text")
        return [(row[0], row[-1], _content(folder, row[0])) for row in rows]
    if paths := sorted(folder.glob("*.parquet")):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            records = [row for path in paths for row in pq.read_table(path).to_pylist()][:limit]
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError("data", f"a damaged file ({error})", "Parquet files as they were published") from error
        if not records or not {"id", "audio", "text"} <= records[0].keys():
            raise InputError("data", f"columns {', '.join(records[0]) if records else 'none'}", "columns id, audio and text")
        return [(str(row["id"]), str(row["text"]), row["audio"]["bytes"]) for row in records]
    raise InputError("data", str(folder), "a folder with metadata.csv and wavs, or with Parquet files")


def _content(folder: Path, name: str) -> bytes:
    for path in (folder / "wavs" / f"{name}.wav", folder / "wavs" / f"{name}.flac", folder / f"{name}.wav"):
        if path.is_file():
            return path.read_bytes()
    raise MissingError(f"data: metadata.csv names {name}, but there is no wavs/{name}.wav in {folder}")
