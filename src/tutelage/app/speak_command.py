"""`tutelage speak`: a text as a sound file, by a FastSpeech voice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from tutelage.core.cache import Cache
    from tutelage.core.progress import Progress
    from tutelage.methods.distill.fastspeech import Voice

SENTENCES, STEPS = 600, 1200


def speak(
    text: Annotated[str, typer.Argument(help="What to say.")],
    out: Annotated[Path, typer.Option("--out", help="The wav file to write.")] = Path("speech.wav"),
    alpha: Annotated[float, typer.Option(help="Durations times this: 2 is half as fast, 0.5 twice as fast.")] = 1.0,
    pauses: Annotated[float, typer.Option(help="Pauses times this, beside alpha.")] = 1.0,
    voice: Annotated[
        Path | None,
        typer.Option(help="A folder with voice.json, or a run folder of fastspeech; default: a small voice, trained once."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Griffin-Lim iterations: more sound a little better.")] = 60,
) -> None:
    """Say a text, and write it as a wav file.

    Without --voice a small FastSpeech voice is trained on espeak-ng the first time, some four minutes of one core, and kept
    (`tutelage data get espeak-ng wordnet` brings what it needs). It learns from espeak-ng's own phoneme times; a voice
    distilled from an autoregressive teacher comes out of `tutelage run fastspeech --scale claim`, as --voice RUN_FOLDER.
    """
    from tutelage.core.checks import check_integer
    from tutelage.core.errors import InputError
    from tutelage.core.files import check_folder
    from tutelage.core.progress import shown
    from tutelage.data.speakers import speaker as speaker_of
    from tutelage.data.speech import require
    from tutelage.methods.distill.fastspeech import Voice

    check_integer("steps", steps)
    if not text.strip():
        raise InputError("text", text, "some words")
    for name, value in (("alpha", alpha), ("pauses", pauses)):
        if not 0 < value < float("inf"):
            raise InputError(name, value, "a number above 0 (1: the voice's own; 2: twice as long)")
    if out.suffix.lower() != ".wav":
        raise InputError("out", str(out), "a file that ends with .wav")
    check_folder(out.parent)
    for package in ("librosa", "soundfile"):
        require(package)
    if voice is not None:
        kept = voice / "voice" if (voice / "voice" / "voice.json").is_file() else voice
        found = Voice.load(kept)
    else:
        speaker_of("espeak-ng").speak(text)  # a text that cannot be spoken is refused before a voice is trained for it
        with shown() as progress:
            found = small_voice(progress=progress)
    said = found.synthesize(text, alpha, pauses=pauses)
    said.write(out, steps=steps)
    Console(highlight=False).print(f"{out}: {said.seconds:.1f} s, {len(said.phonemes)} phonemes", soft_wrap=True)


def small_voice(
    *, speaker: str = "espeak-ng", sentences: int = SENTENCES, steps: int = STEPS, cache: Cache | None = None,
    progress: Progress | None = None,
) -> Voice:  # fmt: skip
    """A voice from the cache, trained on the speaker's own phoneme times if it is not there yet."""
    from tutelage.claims.codehash import code_sha256
    from tutelage.core.cache import Cache
    from tutelage.core.progress import QUIET
    from tutelage.core.rng import seeded
    from tutelage.data.sentences import plain_sentences, wordnet_sentences
    from tutelage.data.speakers import speaker as speaker_of
    from tutelage.data.utterances import Symbols, spoken_corpus
    from tutelage.methods.distill.fastspeech import FastSpeech, FastSpeechConfig, SpeechTraining, Voice, pairs_of, train_speech

    who, progress, cache = speaker_of(speaker), progress or QUIET, cache or Cache.default()
    texts = plain_sentences(sentences) if speaker == "formant" else wordnet_sentences()[:sentences]

    def build(folder: Path) -> None:
        progress.print(f"training a small voice on {len(texts)} sentences of {who.name}; it is kept for the next time")
        corpus = spoken_corpus(who, texts)
        symbols = Symbols.of(corpus.utterances)
        with seeded(0, "small voice"):
            net = FastSpeech(FastSpeechConfig(len(symbols), blocks=2, hidden=256))
        training = SpeechTraining(steps, 16, warmup=min(400, steps))
        running = cache.folder("voices-running", key)  # a training that is stopped goes on from here
        train_speech(net, pairs_of(corpus, symbols, durations=True), training, checkpoint=running, progress=progress)
        Voice(net, symbols, corpus.mel, speaker).save(folder)
        shutil.rmtree(running, ignore_errors=True)

    key = {
        "speaker": who.name, "sentences": sentences, "steps": steps,
        "code": code_sha256(__name__),
    }  # fmt: skip
    return Voice.load(cache.get("voices", key, build))
