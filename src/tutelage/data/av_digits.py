"""AV-digits: handwritten digits (MNIST-10k) paired by class with recorded spoken ones (FSDD), speakers held out.

Real pictures, real voices; only the pairing is ours: each picture is given a recording of the same digit at random. Both
inputs are in [0, 1]: pictures 1x28x28, log-mel spectrograms 1x32x32.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.core.cache import Cache, default_cache_dir
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.images import ImageSet, Split
from tutelage.data.multimodal import MultiModalSet
from tutelage.data.sets import DIGITS, standard_set
from tutelage.data.speech import FSDD_SPEAKERS, fsdd, fsdd_files, fsdd_sha256, log_mel

SPEAKER_ROLES = {"train": 3, "validation": 1, "test": 2}  # of six


class Voices(NamedTuple):
    """Spectrograms (N, 1, 32, 32) in [0, 1], digits (N,), speakers (N,) and the hash of the files."""

    spectrograms: Tensor
    labels: Tensor
    speakers: Tensor
    sha256: str


def voices(cache: Cache | None = None) -> Voices:
    """All recordings of FSDD as log-mel spectrograms; made once, then from the cache."""
    return _voices(cache or Cache(default_cache_dir()))


@lru_cache(maxsize=2)
def _voices(cache: Cache) -> Voices:
    sha256 = fsdd_sha256(fsdd_files())

    def build(folder: Path) -> None:
        heard = fsdd()
        made = torch.stack([log_mel(wave, heard.rate, expected_rate=8000) for wave in heard.waves])[:, None]
        tensors = {"spectrograms": made.contiguous(), "labels": heard.labels, "speakers": heard.speakers}
        save_file(tensors, folder / "log-mel.safetensors")

    place = cache.get("speech", {"fsdd": sha256, "form": "log-mel 32 x 32, 0.8 s, 80 dB", "version": 2}, build)
    made = load_file(place / "log-mel.safetensors")
    return Voices(made["spectrograms"], made["labels"], made["speakers"], sha256)


def roles(unit: int) -> dict[str, tuple[int, ...]]:
    """Who speaks in which split of a unit: the six speakers turn round, so that each is heard in every role."""
    check_integer("unit", unit, low=-1)
    order = [(unit + i) % len(FSDD_SPEAKERS) for i in range(len(FSDD_SPEAKERS))]
    return {"test": tuple(order[:2]), "validation": tuple(order[2:3]), "train": tuple(order[3:])}


def av_digits(split: Split, n: int, *, unit: int = 0, image_noise: float = 0.0, cache: Cache | None = None) -> MultiModalSet:
    """n pairs {"audio", "image"} of one split, drawn by `unit`; `groups` holds the speaker.

    Pictures: train and validation from MNIST-10k (disjoint), test from MNIST's test digits. Voices: three speakers train, one
    validates, two test, none in two roles. image_noise: standard deviation of Gaussian noise on the pictures (clamped to
    [0, 1]), part of the data. Raises MissingError if MNIST or FSDD is not at hand.
    """
    if split not in SPEAKER_ROLES:
        raise InputError("split", split, "train, validation or test")
    check_integer("n", n)
    pictures = standard_set("mnist-10k", "test" if split == "test" else "train")
    sounds = voices(cache)
    g = generator(unit, "av-digits", split)
    part = _pictures_of(pictures, split, n, unit)
    who = torch.isin(sounds.speakers, torch.tensor(roles(unit)[split]))
    chosen = torch.empty(n, dtype=torch.long)
    for digit in range(10):
        mine = (part.labels == digit).nonzero().squeeze(1)
        pool = (who & (sounds.labels == digit)).nonzero().squeeze(1)
        # all of the pool before anything is repeated
        turns = [pool[torch.randperm(len(pool), generator=g)] for _ in range(len(mine) // len(pool) + 1)]
        chosen[mine] = torch.cat(turns)[: len(mine)]
    images = part.images.float().div(255)
    if image_noise:
        images = (images + image_noise * torch.randn(images.shape, generator=g)).clamp(0, 1)
    return MultiModalSet(
        {"audio": sounds.spectrograms[chosen], "image": images},
        part.labels,
        DIGITS,
        groups=sounds.speakers[chosen],
        name="AV-digits (MNIST-10k pictures, FSDD speech, paired by class)",
        split=split,
        origin={"speakers": ", ".join(FSDD_SPEAKERS[i] for i in roles(unit)[split]), "fsdd_sha256": sounds.sha256},
    )


def _pictures_of(pictures: ImageSet, split: Split, n: int, unit: int) -> ImageSet:
    """n pictures: of the training digits the first half of a shuffle trains and the second validates."""
    order = torch.randperm(len(pictures), generator=generator(unit, "av-digits pictures", split == "test"))
    first, last = (0, len(order)) if split == "test" else (0, 8000) if split == "train" else (8000, len(order))
    if n > last - first:
        raise InputError("n", n, f"at most {last - first} for {split}")
    return pictures.take(order[first : first + n])
