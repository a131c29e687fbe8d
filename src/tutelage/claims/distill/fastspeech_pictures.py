"""For the report of the claim: what each arm of unit 0 says, to hear and to see, and its files in the run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from tutelage.auditing.figures import SERIES
from tutelage.claims.claim import ClaimResult
from tutelage.claims.distill.fastspeech import Config, corpora, teacher, trained, vocabulary
from tutelage.core.cache import Cache
from tutelage.core.files import write_atomic
from tutelage.core.progress import QUIET
from tutelage.data.speakers import speaker
from tutelage.data.spectrogram import sound, wav_bytes
from tutelage.data.utterances import spoken_utterance
from tutelage.methods.distill.fastspeech.training import say
from tutelage.methods.distill.fastspeech.voice import Speech, Voice

TEXT = "Row row row your boat, row row row your boat"
LONGEST = 6.0  # seconds of each sound
MODELS = ("autoregressive-teacher", "fastspeech-student", "recordings-student", "uniform-durations")


def spoken(result: ClaimResult, cache: Cache | None = None) -> dict[str, Speech]:
    """What each arm of unit 0 says of `TEXT`; the student also at half and at twice its speed. Nets come from the cache."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    real = spoken_utterance(speaker(config.speaker), TEXT, config.mel)
    durations = real.durations if real.durations is not None else torch.zeros(0)
    found = {"true-voice": Speech(TEXT, real.mel, real.phonemes, durations, config.mel)}
    for arm in MODELS:
        voice = _voice(arm, result, config, cache)
        found[arm] = voice.synthesize(TEXT)
        if arm == "fastspeech-student":
            found[f"{arm}, alpha 0.5"] = voice.synthesize(TEXT, alpha=0.5)
            found[f"{arm}, alpha 2, pauses 3"] = voice.synthesize(TEXT, alpha=2.0, pauses=3.0)
    return found


def _voice(arm: str, result: ClaimResult, config: Config, cache: Cache) -> Voice:
    before = torch.get_num_threads()
    torch.set_num_threads(int(result.environment.get("threads", 1)))  # a part of what names the nets
    try:
        data = corpora(config, cache)
        symbols = vocabulary(data)
        return Voice(trained(arm, 0, config, cache, data, symbols, QUIET)[0], symbols, config.mel, config.speaker)
    finally:
        torch.set_num_threads(before)


def sounds(result: ClaimResult, cache: Cache | None = None) -> list[tuple[str, bytes]]:
    """(who, wav file) of each arm."""
    found = []
    for who, said in spoken(result, cache).items():
        mel = said.mel[: int(LONGEST * said.config.frames_per_second)]
        found.append((who, wav_bytes(sound(mel, said.config, steps=24), said.rate)))
    return found


def leave(result: ClaimResult, folder: Path, cache: Cache | None = None) -> None:
    """Write a wav of each arm, and the student's voice, into a run folder: `sounds/<arm>.wav`, `voice/`."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    for who, content in sounds(result, cache):
        write_atomic(folder / "sounds" / f"{who.replace(', ', '-').replace(' ', '-')}.wav", content)
    _voice("fastspeech-student", result, config, cache).save(folder / "voice")


def pictures(result: ClaimResult, cache: Cache | None = None) -> list[tuple[Figure, str]]:
    """(figure, caption): spectrograms of `TEXT` with the phonemes below, and the teacher's attention."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    said = spoken(result, cache)
    arms = [who for who in said if "alpha" not in who]
    figure = Figure(figsize=(8.6, 1.55 * len(arms)), layout="constrained")
    for axes, who in zip(figure.subplots(len(arms), 1, squeeze=False)[:, 0], arms, strict=True):
        one = said[who]
        n = int(LONGEST * one.config.frames_per_second)
        seconds = min(len(one.mel), n) / one.config.frames_per_second
        axes.imshow(
            one.mel[:n].T.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=-1.2, vmax=2,
            extent=(0, seconds, 0, one.config.bands),
        )  # fmt: skip
        at = 0
        for name, d in zip(one.phonemes, one.durations.tolist(), strict=True):
            if at < n and who != "autoregressive-teacher":
                axes.axvline(at / one.config.frames_per_second, color="white", linewidth=0.4, alpha=0.7)
                if d > 2:
                    axes.text((at + d / 2) / one.config.frames_per_second, 1, name, color="white", fontsize=6, ha="center")
            at += int(d)
        axes.set_title(who, fontsize=9, loc="left")
        axes.set_yticks([])
        axes.set_xlim(0, seconds)
    axes.set_xlabel("seconds")
    caption = (
        f"“{TEXT}”, unit 0: mel bands over time, at most {LONGEST:g} s. White lines: where each phoneme begins, for the voice "
        "itself by its own clock, for students by the duration predictor."
    )
    return [(figure, caption), _attention(result, config, cache)]


def _attention(result: ClaimResult, config: Config, cache: Cache) -> tuple[Figure, str]:
    before = torch.get_num_threads()
    torch.set_num_threads(int(result.environment.get("threads", 1)))
    try:
        data = corpora(config, cache)
        symbols = vocabulary(data)
        net = teacher(0, config, cache, data, symbols, QUIET)
    finally:
        torch.set_num_threads(before)
    phonemes = spoken_utterance(speaker(config.speaker), TEXT, config.mel).phonemes
    one = say(net, [symbols.encode(phonemes)])[0]
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    axes = figure.subplots()
    path = one.alignment.path.numpy()
    axes.plot(np.arange(len(path)) * config.hop / 16000, path, color=SERIES[0], linewidth=1.5)
    axes.set_yticks(range(len(phonemes)), phonemes, fontsize=5)
    axes.set_xlabel("seconds")
    axes.set_ylabel("phoneme")
    end = "stopped by itself" if one.stopped else "never stopped: cut off at its limit"
    caption = (
        f"The phoneme that the teacher of unit 0 looks at most, speaking alone (focus rate {one.alignment.focus:.2f}; {end}). "
        "Flat: one sound held. Down: something said again. A jump up: something left out."
    )
    return figure, caption
