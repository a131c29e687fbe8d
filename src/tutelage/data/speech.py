"""Recorded spoken digits (FSDD) and log-mel spectrograms. Needs the extra `audio` (librosa, soundfile)."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_file, sha256_text

FSDD_PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
FSDD_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.(?:wav|flac)$")


@dataclass(frozen=True, eq=False)
class Recordings:
    """N recordings. waves: mono float32 arrays in [-1, 1]. rate: in Hz. labels (N,), speakers (N,), index (N,) int64: which
    digit, who (a position in `names`), and which of their takes. sha256: of the files they came from."""

    waves: tuple[np.ndarray[Any, np.dtype[np.float32]], ...]
    rate: int
    labels: Tensor
    speakers: Tensor
    index: Tensor
    names: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.waves)


def fsdd() -> Recordings:
    """The Free Spoken Digit Dataset, all 3,000 recordings of 6 speakers at 8 kHz, in order of digit, speaker and take.

    Looked for in `$TUTELAGE_DATA/fsdd`: Parquet files (columns audio, label, speaker, index) or the `recordings` folder of the
    home page. Raises MissingError with the place and the home page, InputError for damaged files or sample rates that differ.
    """
    paths = fsdd_files()
    takes = [one for path in paths for one in (_rows(path) if path.suffix == ".parquet" else [_file(path)])]
    return _ordered(takes, fsdd_sha256(paths))


def fsdd_files() -> list[Path]:
    """The files of FSDD below `$TUTELAGE_DATA/fsdd`, or a MissingError that says where to get them."""
    root = os.environ.get("TUTELAGE_DATA")
    folder = Path(root).expanduser() / "fsdd" if root else None
    if folder is None or not folder.is_dir():
        where = f"{folder} is not there" if folder else "TUTELAGE_DATA is not set"
        raise MissingError(f"data: {where}; put fsdd (recorded spoken digits) from {FSDD_PAGE} into $TUTELAGE_DATA/fsdd")
    for pattern in ("*.parquet", "recordings/*.wav", "*.wav"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise MissingError(f"data: no Parquet file and no recordings in {folder}; fetch fsdd from {FSDD_PAGE}")


def fsdd_sha256(paths: Sequence[Path]) -> str:
    """One hash of all files."""
    return sha256_text("".join(sha256_file(path) for path in paths))


Take = tuple[int, str, int, int, Any]  # digit, speaker, take, rate, wave


def _rows(path: Path) -> list[Take]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError("data", f"{path.name}, which is damaged ({error})", "the fsdd files as they were published") from error
    found: list[Take] = []
    for i, row in enumerate(rows):
        if not {"audio", "label"} <= set(row):
            raise InputError("data", f"{path.name} with columns {', '.join(row)}", "columns audio, label, speaker and index")
        audio = row["audio"]
        match = _NAME.search(str(audio.get("path") or ""))
        speaker = row.get("speaker") or (match[2] if match else "")
        take = row.get("index", int(match[3]) if match else i)
        wave, rate = decode(audio["bytes"], f"{path.name} row {i}")
        found.append((int(row["label"]), str(speaker), int(take), rate, wave))
    return found


def _file(path: Path) -> Take:
    match = _NAME.search(path.name)
    if match is None:
        raise InputError("data", path.name, "files named digit_speaker_take.wav, as on the home page of fsdd")
    wave, rate = decode(path.read_bytes(), path.name)
    return int(match[1]), match[2], int(match[3]), rate, wave


def _ordered(takes: list[Take], sha256: str) -> Recordings:
    takes.sort(key=lambda one: one[:3])
    rates = {take[3] for take in takes}
    if len(rates) > 1:
        raise InputError(
            "data", f"recordings at {', '.join(map(str, sorted(rates)))} Hz", "one sample rate; resample them first"
        )
    names = tuple(sorted({take[1] for take in takes}))
    return Recordings(
        tuple(take[4] for take in takes),
        rates.pop(),
        torch.tensor([take[0] for take in takes]),
        torch.tensor([names.index(take[1]) for take in takes]),
        torch.tensor([take[2] for take in takes]),
        names,
        sha256,
    )


def decode(content: bytes, where: str = "audio") -> tuple[Any, int]:
    """A sound file (wav, flac, ogg) as (mono float32 wave, rate); several channels are averaged."""
    soundfile = require("soundfile")
    try:
        wave, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError("data", f"{where}, which is no sound file ({error})", "wav, flac or ogg") from error
    return np.ascontiguousarray(wave.mean(1)), int(rate)


def log_mel(
    wave: Any, rate: int, *, expected_rate: int | None = None, bands: int = 32, frames: int = 32, seconds: float = 0.8
) -> Tensor:
    """The log-mel spectrogram (bands, frames) of a mono wave, from 0 (80 dB below its loudest point, or silence) to 1.

    The wave is cut or padded with silence to `seconds`, in the middle. expected_rate: raises InputError if the rate is
    another, as a net trained at one rate hears another one as slow or fast.
    """
    check_integer("bands", bands)
    check_integer("frames", frames)
    if expected_rate is not None and rate != expected_rate:
        raise InputError("rate", f"{rate} Hz", f"{expected_rate} Hz; resample the recording first (librosa.resample)")
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or wave.size == 0 or not np.isfinite(wave).all():
        raise InputError("wave", f"shape {wave.shape}", "one channel (n,) of finite numbers, n > 0")
    librosa = require("librosa")
    n = round(seconds * rate)
    if len(wave) > n:
        at = (len(wave) - n) // 2
        wave = wave[at : at + n]
    before = (n - len(wave)) // 2
    wave = np.pad(wave, (before, n - len(wave) - before))
    window = 1 << round(float(np.log2(rate * 0.064)))
    power = librosa.feature.melspectrogram(y=wave, sr=rate, n_fft=window, hop_length=max(1, n // frames), n_mels=bands)
    loudest = float(power.max())
    if loudest <= 1e-20:
        return torch.zeros(bands, frames)
    level = librosa.power_to_db(power, ref=loudest, amin=1e-9 * loudest, top_db=80.0)
    return torch.from_numpy((level[:, :frames] + 80.0) / 80.0).float()


def require(package: str) -> Any:
    """librosa or soundfile, or a MissingError that says how to get them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what they import in their turn
            return import_module(package)
    except ImportError as error:
        raise MissingError(f"sound needs {package}, which is not installed: pip install 'tutelage[audio]'") from error
