"""The claim of fastspeech: on hard sentences, does the parallel student say fewer wrong phones than its teacher?

Voice: espeak-ng reading 600 examples of use from WordNet, so that the true phonemes and times are known. A unit is a seed with
its own teacher (trained with guided attention), its own distilled data and students. All are heard by one recogniser, trained
on other sentences of the same voice and on drawn ones of the hard kinds, none of which is among the fifty. It hears
spectrograms. Arms: the voice itself (what the recogniser gets wrong anyway), the teacher, the student, the student taught on
recordings with the teacher's durations instead of the teacher's spectrograms, and the control: a student whose phonemes all
get the same share of the time. The rate is 1e-3 for teachers and
students alike. Sizes were found with 660 examples drawn from all of WordNet, of which one or two may be among the held-out
ones here; the fifty hard sentences are read in the end only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Adam

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.cache import Cache
from tutelage.core.files import write_json
from tutelage.core.progress import Progress
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.homes import HOMES
from tutelage.data.sentences import drawn_hard, hard_sentences, plain_sentences, wordnet_sentences
from tutelage.data.speakers import speaker
from tutelage.data.spectrogram import MelConfig
from tutelage.data.spoken import PAUSE
from tutelage.data.utterances import Corpus, Symbols, Utterance, spoken_corpus
from tutelage.methods.distill.fastspeech.measure import (
    Spoken,
    attention_faults,
    attention_skips,
    duration_error,
    heard_edits,
    mel_cepstral_distortion,
    robustness,
    speak_all,
)
from tutelage.methods.distill.fastspeech.training import (
    SpeechTraining,
    align,
    distilled_pairs,
    pairs_of,
    train_speech,
    uniform_durations,
)
from tutelage.models.loading import load_weights, save_weights
from tutelage.models.speech.fastspeech import FastSpeech, FastSpeechConfig
from tutelage.models.speech.recogniser import Recogniser, RecogniserConfig
from tutelage.models.speech.transformer_tts import TeacherConfig, TransformerTTS
from tutelage.teaching.fit import fit
from tutelage.teaching.speech.batches import Pair, speech_loader
from tutelage.teaching.speech.objectives import FastSpeechLoss, TeacherLoss
from tutelage.teaching.speech.recognition import CTCLoss


class Config(ClaimConfig):
    """What `--set` may change."""

    speaker: Literal["espeak-ng", "formant"] = Field("espeak-ng", description="whose speech is learnt")
    train: int = Field(600, ge=2, description="sentences for teachers and students")
    heldout: int = Field(60, ge=2, description="sentences of the same kind for the measures beside the hard ones")
    hard: int = Field(50, ge=2, le=50, description="how many of the fifty hard sentences")
    heard: int = Field(1500, ge=2, description="other sentences, for the recogniser")
    heard_hard: int = Field(500, ge=1, description="drawn sentences of the hard kinds, for the recogniser")
    bands: int = Field(40, ge=8)
    hop: int = Field(200, ge=1, description="samples a frame, at 16 kHz")
    blocks: int = Field(2, ge=1, description="of encoder and decoder, of teacher and student")
    width: int = Field(128, ge=4, multiple_of=4)
    hidden: int = Field(256, ge=1, description="channels inside the convolutions")
    reduction: int = Field(2, ge=1, description="frames a step of the teacher")
    postnet: int = Field(64, ge=1)
    guide: float = Field(1.0, ge=0, description="weight of the guided attention")
    frame_noise: float = Field(0.1, ge=0, description="noise on the frames that the teacher sees while it learns")
    teacher_steps: int = Field(2500, ge=1)
    teacher_lr: float = Field(1e-3, gt=0)
    student_steps: int = Field(1000, ge=1)
    student_lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(16, ge=1)
    warmup: int = Field(400, ge=1)
    min_coverage: float = Field(0.7, ge=0, le=1, description="of an alignment that is learnt from")
    max_backward: int = Field(2, ge=0, description="jumps backwards in an alignment that is learnt from")
    recogniser_width: int = Field(128, ge=4)
    recogniser_steps: int = Field(1500, ge=1)
    recogniser_lr: float = Field(2e-3, gt=0)

    @property
    def mel(self) -> MelConfig:
        return MelConfig(16000, self.bands, self.hop, 1024)


ARMS = ("true-voice", "autoregressive-teacher", "fastspeech-student", "recordings-student", "uniform-durations")
SPEEDS = (0.5, 1.3)
MODULE = "tutelage.claims.distill.fastspeech"


def cell(cell: Cell) -> Mapping[str, float]:
    """What an arm says of the hard and the held-out sentences, as the recogniser hears it, and how its durations are."""
    config: Config = cell.config
    data = corpora(config, cell.cache)
    symbols = vocabulary(data)
    heard_by = recogniser(config, cell.cache, data, symbols, cell.progress)
    silent = [int(symbols.encode([PAUSE])[0])] if PAUSE in symbols.names else []
    hard, heldout = pairs_of(data["hard"], symbols, durations=True), pairs_of(data["heldout"], symbols, durations=True)
    found: dict[str, float] = {}
    if cell.arm == "true-voice":
        spoken = {"hard": Spoken([one.mel for one in hard]), "heldout": Spoken([one.mel for one in heldout])}
        found["heldout_mcd"] = 0.0  # it is the recordings
    else:
        model, distillation = trained(cell.arm, cell.unit, config, cell.cache, data, symbols, cell.progress)
        found |= distillation
        spoken = {"hard": speak_all(model, tokens(hard)), "heldout": speak_all(model, tokens(heldout))}
        pairs = zip(spoken["heldout"].mels, heldout, strict=True)
        found["heldout_mcd"] = sum(mel_cepstral_distortion(mel, one.mel) for mel, one in pairs) / len(heldout)
        found |= timing(model, heldout, config)
    said = spoken["hard"].said
    if said is not None:
        found["attention_faults"] = attention_faults(said)
        found["attention_skips"] = attention_skips(said, tokens(hard), silent)
    on_hard = robustness(heard_edits(heard_by, tokens(hard), spoken["hard"].mels, silent))
    on_heldout = robustness(heard_edits(heard_by, tokens(heldout), spoken["heldout"].mels, silent))
    return {
        "hard_sentence_phone_error_rate": on_hard.phone_error_rate,
        "hard_faulty_sentences": on_hard.faulty,
        "heldout_phone_error_rate": on_heldout.phone_error_rate,
        **found,
    }


def tokens(pairs: Sequence[Pair]) -> list[Tensor]:
    return [one.tokens for one in pairs]


@torch.no_grad()
def timing(model: FastSpeech | TransformerTTS, pairs: Sequence[Pair], config: Config) -> dict[str, float]:
    """How far durations are from the true ones, in ms, and how far lengths are from alpha times the length, in per cent."""
    true = [one.durations for one in pairs if one.durations is not None]
    ms = 1000 * config.hop / 16000
    if isinstance(model, TransformerTTS):
        return {"duration_error": ms * duration_error([one.durations for one in align(model, pairs)], true)}
    own = [model(one.tokens[None], torch.tensor([len(one.tokens)])) for one in pairs]
    found = {"duration_error": ms * duration_error([one.durations[0] for one in own], true)}
    for name, carry in (("speed_error", False), ("carried_speed_error", True)):
        errors = []
        for alpha in SPEEDS:
            given = {"alpha": alpha, "carry_error": carry}
            lengths = [model(one.tokens[None], torch.tensor([len(one.tokens)]), **given).mel_lens for one in pairs]
            ratio = sum(int(n) for n in lengths) / sum(int(one.mel_lens) for one in own)
            errors.append(abs(ratio / alpha - 1))
        found[name] = 100 * max(errors)
    return found


# ---------------------------------------------------------------------------------------------------------------- data


def texts(config: Config) -> dict[str, tuple[str, ...]]:
    """The texts of each part, none in two of them."""
    n, m, k = config.train, config.heldout, config.heard
    if config.speaker == "formant":
        plain = plain_sentences(n + m + k)
        hard = tuple(text for text in hard_sentences() if not any(one.isdigit() for one in text))
        drawn = tuple(text for text in drawn_hard(4 * config.heard_hard + 8) if text.replace(" ", "").isalpha())
    else:
        # the first 200 are left for trials
        plain, hard, drawn = wordnet_sentences()[200:], hard_sentences(), drawn_hard(config.heard_hard)
    spread = [hard[i * len(hard) // config.hard] for i in range(config.hard)]  # of all five kinds
    return {
        "train": plain[:n], "heldout": plain[n : n + m], "heard": plain[n + m : n + m + k],
        "heard_hard": drawn[: config.heard_hard], "hard": tuple(dict.fromkeys(spread)),
    }  # fmt: skip


def corpora(config: Config, cache: Cache) -> dict[str, Corpus]:
    """Each part spoken, from the cache: the synthesiser's breath is not the same twice."""
    who = speaker(config.speaker)
    key = {
        "speaker": who.name, "mel": asdict(config.mel), "texts": {k: list(v) for k, v in texts(config).items()},
        "code": code_sha256("tutelage.data.utterances"),
    }  # fmt: skip

    def build(folder: Path) -> None:
        from safetensors.torch import save_file

        for part, lines in texts(config).items():
            found = spoken_corpus(who, lines, config.mel)
            rows = [one for one in found.utterances if one.durations is not None]
            frames = {f"{i} mel": one.mel for i, one in enumerate(rows)}
            times = {f"{i} durations": one.durations for i, one in enumerate(rows) if one.durations is not None}
            save_file({**frames, **times}, folder / f"{part}.safetensors")
            lines_of = [f"{one.text}|{' '.join(one.phonemes)}" for one in rows]
            (folder / f"{part}.txt").write_text("\n".join(lines_of) + "\n", encoding="utf-8")

    return _read(str(cache.get("speech-corpora", key, build)), config.mel, who.name)


@lru_cache(maxsize=2)
def _read(folder: str, mel: MelConfig, name: str) -> dict[str, Corpus]:
    from safetensors.torch import load_file

    found = {}
    for path in sorted(Path(folder).glob("*.txt")):
        kept = load_file(path.with_suffix(".safetensors"))
        rows = [line.split("|") for line in path.read_text(encoding="utf-8").splitlines()]
        found[path.stem] = Corpus(
            tuple(
                Utterance(text, tuple(phonemes.split()), kept[f"{i} mel"], kept[f"{i} durations"])
                for i, (text, phonemes) in enumerate(rows)
            ),
            mel,
            name,
        )
    return found


def vocabulary(data: Mapping[str, Corpus]) -> Symbols:
    """All phonemes of the voice, of every part: a rare one that the training sentences lack is refused of no arm, and learnt
    by none."""
    return Symbols.of(one for corpus in data.values() for one in corpus.utterances)


# ---------------------------------------------------------------------------------------------------------------- nets


def fingerprint(config: Config, data: Mapping[str, Corpus], *fields: str) -> dict[str, Any]:
    """What every net depends on, and the settings that are its own."""
    shared = ("speaker", "train", "bands", "hop", "batch_size", *fields)
    return {
        "config": {name: getattr(config, name) for name in shared}, "data": {k: v.sha256 for k, v in sorted(data.items())},
        "torch": torch.__version__, "threads": torch.get_num_threads(), "code": code_sha256(MODULE),
    }  # fmt: skip


SIZES = ("blocks", "width", "hidden", "warmup")
TEACHER = (*SIZES, "reduction", "postnet", "guide", "frame_noise", "teacher_steps", "teacher_lr")
STUDENT = (*TEACHER, "student_steps", "student_lr", "min_coverage", "max_backward")


def recogniser(config: Config, cache: Cache, data: Mapping[str, Corpus], symbols: Symbols, progress: Progress) -> Recogniser:
    """The one that hears all arms of all units; trained once."""
    pairs = pairs_of(data["heard"], symbols) + pairs_of(data["heard_hard"], symbols)
    with seeded(0, "recogniser"):
        net = Recogniser(RecogniserConfig(len(symbols), config.bands, config.recogniser_width))

    def build(folder: Path) -> None:
        silent = symbols.encode([PAUSE]).tolist() if PAUSE in symbols.names else []
        schedule = SpeechTraining(warmup=min(config.warmup, config.recogniser_steps)).factor()
        steps, order = config.recogniser_steps, generator(0, "recogniser order")
        fit(
            net, CTCLoss(silent), speech_loader(pairs, config.batch_size, steps, order), steps=steps,
            optimizer=Adam(net.parameters(), lr=config.recogniser_lr), schedule=schedule, log_every=100,
            progress=progress, name="recogniser",
        )  # fmt: skip
        save_weights(net, folder / "net.safetensors")

    key = fingerprint(config, data, "heard", "heard_hard", "warmup", "recogniser_width", "recogniser_steps", "recogniser_lr")
    load_weights(net, cache.get("speech-recognisers", key, build) / "net.safetensors")
    return net.eval()


def teacher(
    unit: int, config: Config, cache: Cache, data: Mapping[str, Corpus], symbols: Symbols, progress: Progress
) -> TransformerTTS:
    """The autoregressive teacher of a unit, made once for all arms."""
    seed = derive(unit, "fastspeech teacher")
    with seeded(seed, "init"):
        net = TransformerTTS(
            TeacherConfig(
                len(symbols), config.bands, config.blocks, config.width, hidden=config.hidden, reduction=config.reduction,
                postnet=config.postnet,
            )
        )  # fmt: skip

    def build(folder: Path) -> None:
        warmup = min(config.warmup, config.teacher_steps)
        train_speech(
            net, pairs_of(data["train"], symbols),
            SpeechTraining(config.teacher_steps, config.batch_size, config.teacher_lr, warmup),
            objective=TeacherLoss(guide=config.guide, frame_noise=config.frame_noise), seed=seed, progress=progress,
        )  # fmt: skip
        save_weights(net, folder / "net.safetensors")

    key = {**fingerprint(config, data, *TEACHER), "seed": seed}
    load_weights(net, cache.get("speech-teachers", key, build) / "net.safetensors")
    return net.eval()


def trained(
    arm: str, unit: int, config: Config, cache: Cache, data: Mapping[str, Corpus], symbols: Symbols, progress: Progress
) -> tuple[FastSpeech | TransformerTTS, dict[str, float]]:
    """The model of an arm, and of a student, what came of the distillation it learnt from, in per cent of the sentences."""
    if arm == "autoregressive-teacher":
        return teacher(unit, config, cache, data, symbols, progress), {}
    seed = derive(unit, "fastspeech student")  # the same start and order for all students of a unit
    with seeded(seed, "init"):
        net = FastSpeech(
            FastSpeechConfig(
                len(symbols), config.bands, config.blocks, config.width, hidden=config.hidden, predictor=config.width
            )
        )

    def build(folder: Path) -> None:
        pairs = pairs_of(data["train"], symbols)
        distilled, report = distilled_pairs(
            teacher(unit, config, cache, data, symbols, progress), pairs, sequence_level=arm != "recordings-student",
            min_coverage=config.min_coverage, max_backward=config.max_backward, progress=progress,
        )  # fmt: skip
        if arm == "uniform-durations":
            distilled = [uniform_durations(one) for one in distilled]
        training = SpeechTraining(
            config.student_steps, config.batch_size, config.student_lr, min(config.warmup, config.student_steps)
        )
        train_speech(net, distilled, training, objective=FastSpeechLoss(), seed=seed, progress=progress)
        save_weights(net, folder / "net.safetensors")
        shares = {"kept_sentences": report.kept / report.pairs, "distilled_sentences": report.distilled / report.pairs}
        write_json(folder / "distillation.json", {name: 100 * share for name, share in shares.items()})

    key = {**fingerprint(config, data, *STUDENT), "seed": seed, "arm": arm}
    folder = cache.get("speech-students", key, build)
    load_weights(net, folder / "net.safetensors")
    return net.eval(), json.loads((folder / "distillation.json").read_text(encoding="utf-8"))


def data(config: Config) -> list[dict[str, Any]]:
    """The generated speech, as results list it. What is missing is told here, before anything runs."""
    who = speaker(config.speaker)
    source = "WordNet 3.0 examples" if config.speaker == "espeak-ng" else "drawn words"
    made = {"kind": "generated", "generator": who.name, "version": 1}
    named = {
        "train": source, "heldout": source, "heard": f"{source}, for the recogniser",
        "heard_hard": "drawn hard sentences, for the recogniser", "hard": "tutelage.data.sentences.HARD",
    }  # fmt: skip
    found = [
        {"name": f"{who.name}: {named[part]}", "split": part, "n": len(lines), **made} for part, lines in texts(config).items()
    ]
    if config.speaker == "espeak-ng":
        found.append({"name": "WordNet 3.0 (the texts)", "split": "all", "n": len(HOMES["wordnet"].files), "kind": "file"})
    return found


CLAIM = Claim(
    slug="fastspeech",
    arms=ARMS,
    controls=("uniform-durations",),
    scales={
        "smoke": Config(
            speaker="formant", train=12, heldout=2, hard=4, heard=6, heard_hard=4, bands=20, hop=400, blocks=1, width=16,
            hidden=16, reduction=4, postnet=16, teacher_steps=12, student_steps=10, batch_size=4, warmup=4, min_coverage=0.0,
            max_backward=10_000, recogniser_width=16, recogniser_steps=10,
        ),
        "claim": Config(),
        "paper": Config(
            train=12_500, heldout=300, bands=80, blocks=6, width=384, hidden=1536, reduction=1, postnet=512,
            teacher_steps=80_000, student_steps=80_000, batch_size=64, warmup=4000,
        ),
    },
    units={"smoke": 2, "claim": 3, "paper": 3},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "On hard sentences fewer of the student's have three phones in a row left out or added than of the teacher's.",
            "hard_faulty_sentences", "fastspeech-student", "autoregressive-teacher", better="lower",
        ),
        Sentence(
            "On held-out sentences of the trained kind the student's phone error rate is within 2 points of the teacher's.",
            "heldout_phone_error_rate", "fastspeech-student", "autoregressive-teacher", kind="noninferiority",
            better="lower", margin=-2.0,
        ),
        Sentence(
            "On hard sentences the attention of the teacher is faulty in more than 10 % of them.",
            "attention_faults", "autoregressive-teacher", kind="threshold", margin=10.0,
        ),
        Sentence(
            "At alpha 0.5 and 1.3 the student's speech is within 2 % of 0.5 and 1.3 times as long.",
            "speed_error", "fastspeech-student", kind="threshold", better="lower", margin=2.0,
        ),
        Sentence(
            "With rounding errors carried on, the student's speech is within 2 % of 0.5 and 1.3 times as long.",
            "carried_speed_error", "fastspeech-student", kind="threshold", better="lower", margin=2.0,
        ),
        Sentence(
            "The student's durations are nearer to the true ones than equal shares.",
            "duration_error", "fastspeech-student", "uniform-durations", better="lower",
        ),
        Sentence(
            "The student's phone error rate on hard sentences is lower with the teacher's spectrograms than with recordings.",
            "hard_sentence_phone_error_rate", "fastspeech-student", "recordings-student", better="lower",
        ),
        Sentence(
            "Held-out speech of the student is at most 0.3 dB farther from the true voice than the teacher's.",
            "heldout_mcd", "fastspeech-student", "autoregressive-teacher", kind="noninferiority", better="lower", margin=-0.3,
        ),
    ),
    axes=("heldout_mcd", "hard_sentence_phone_error_rate"),
    metric_labels={
        "hard_sentence_phone_error_rate": "phone error rate on hard sentences, %",
        "hard_faulty_sentences": "hard sentences with a skip or repeat as heard, %",
        "heldout_phone_error_rate": "phone error rate on held-out sentences, %",
        "heldout_mcd": "cepstral distance to recordings, dB",
        "attention_faults": "hard sentences with faulty attention, %",
        "attention_skips": "phonemes of hard sentences without attention, %",
        "duration_error": "duration error a phoneme, ms",
        "speed_error": "length error at alpha 0.5 and 1.3, %",
        "carried_speed_error": "the same, errors of rounding carried on, %",
        "kept_sentences": "training sentences whose alignment was good enough to learn from, %",
        "distilled_sentences": "training sentences learnt from the teacher's own spectrogram, %",
    },
)  # fmt: skip
