"""Training the autoregressive teacher, and FastSpeech from it: durations, distilled spectrograms, filter, student."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator
from tutelage.data.utterances import Corpus, Symbols
from tutelage.methods.distill.fastspeech.alignment import AlignmentResult, Route, durations_from_attention
from tutelage.models.speech.fastspeech import FastSpeech
from tutelage.models.speech.transformer_tts import TransformerTTS
from tutelage.teaching.fit import FitResult, Objective, fit
from tutelage.teaching.schedules import Schedule, warmup_cosine
from tutelage.teaching.speech.batches import Pair, check_pairs, collate, padded, speech_loader
from tutelage.teaching.speech.objectives import FastSpeechLoss, TeacherLoss


@dataclass(frozen=True)
class SpeechTraining:
    """Adam with betas (0.9, 0.98), eps 1e-9. schedule: "noam", eq. (7), or "cosine": the same rise, then half a cosine to 0.

    lr: the highest rate. warmup: steps of the rise. batch_size: utterances.
    """

    steps: int = 3000
    batch_size: int = 16
    lr: float = 1e-3
    warmup: int = 400
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup"):
            check_integer(name, getattr(self, name))
        check_positive("lr", self.lr, "a rate > 0")
        check_choice("schedule", self.schedule, ("noam", "cosine"))

    def factor(self) -> Schedule:
        """(step, total) -> factor on `lr`, 1 at the end of the warm-up."""
        warmup = self.warmup

        def noam(step: int, total: int) -> float:
            return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))

        def cosine(step: int, total: int) -> float:
            return warmup_cosine(min(1.0, warmup / total))(step, total)

        return noam if self.schedule == "noam" else cosine


def pairs_of(corpus: Corpus, symbols: Symbols, *, durations: bool = False) -> list[Pair]:
    """Texts as symbols, with their spectrograms. durations: with those that the corpus knows, if it does."""
    return [Pair(symbols.encode(one.phonemes), one.mel, one.durations if durations else None) for one in corpus.utterances]


def train_speech(
    model: TransformerTTS | FastSpeech,
    pairs: Sequence[Pair],
    config: SpeechTraining | None = None,
    *,
    objective: Objective | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
) -> FitResult:
    """Train the teacher on texts and recordings, or FastSpeech on texts, spectrograms and durations; it comes back in
    evaluation mode.

    objective: by default `TeacherLoss()`, with guided attention, or `FastSpeechLoss()`, eq. (6). checkpoint: a folder, as in
    `fit`; written twenty times, and if it holds a checkpoint, training goes on from there to the same weights. Raises
    InputError before training.
    """
    student = isinstance(model, FastSpeech)
    if not student and not isinstance(model, TransformerTTS):
        raise InputError("model", type(model).__name__, "a TransformerTTS or a FastSpeech")
    check_pairs(pairs, durations=student)
    bands = model.config.bands
    for i, pair in enumerate(pairs):
        if pair.mel.shape[1] != bands:
            raise InputError("pairs", f"number {i} with {pair.mel.shape[1]} bands", f"the {bands} bands of the model")
    config, name = config or SpeechTraining(), "FastSpeech student" if student else "autoregressive teacher"
    return fit(
        model,
        objective or (FastSpeechLoss() if student else TeacherLoss()),
        speech_loader(pairs, config.batch_size, config.steps, generator(seed, "order")),
        steps=config.steps,
        optimizer=Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.98), eps=1e-9),
        schedule=config.factor(),
        checkpoint=checkpoint,
        checkpoint_every=max(1, config.steps // 20),
        log_every=max(1, config.steps // 50),
        seed=derive(seed, name),
        progress=progress,
        name=name,
    )


@torch.no_grad()
def align(
    teacher: TransformerTTS, pairs: Sequence[Pair], *, batch_size: int = 32, path: Route = "argmax"
) -> list[AlignmentResult]:
    """Durations of each pair, by a teacher-forced pass in evaluation mode. path: see `durations_from_attention`."""
    check_pairs(pairs)
    before, found = teacher.training, []
    teacher.eval()
    try:
        for start in range(0, len(pairs), batch_size):
            batch = collate(pairs[start : start + batch_size])
            attention = teacher(batch.tokens, batch.token_lens, batch.mel, batch.mel_lens).attention
            for row, text_len, mel_len in zip(attention, batch.token_lens.tolist(), batch.mel_lens.tolist(), strict=True):
                found.append(_aligned(row, text_len, mel_len, teacher.config.reduction, path))
    finally:
        teacher.train(before)
    return found


def _aligned(attention: Tensor, text_len: int, mel_len: int, reduction: int, path: Route) -> AlignmentResult:
    """A monotonic path needs a step for each phoneme; an utterance that is too short for it is faulty, and shows it."""
    path = path if -(-mel_len // reduction) >= text_len else "argmax"
    return durations_from_attention(attention, text_len=text_len, mel_len=mel_len, reduction=reduction, path=path)


@dataclass(frozen=True, eq=False)
class Said:
    """What a teacher said alone of one text: mel (S, bands), whether it stopped by itself, and its alignment."""

    mel: Tensor
    stopped: bool
    alignment: AlignmentResult


def say(
    teacher: TransformerTTS,
    texts: Sequence[Tensor],
    *,
    frames_per_symbol: float = 20.0,
    batch_size: int = 32,
    cache: bool = True,
    path: Route = "argmax",
    each: Callable[[int], None] | None = None,
) -> list[Said]:
    """The teacher's own speech for texts (T,) of symbols, each at most `frames_per_symbol` T + 40 frames long."""
    check_positive("frames_per_symbol", frames_per_symbol, "a number of frames > 0")
    check_integer("batch_size", batch_size)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, Said] = {}
    reduction = teacher.config.reduction
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens, token_lens = padded([texts[i] for i in rows])
        limit = int(frames_per_symbol * tokens.shape[1]) + 40
        out = teacher.generate(tokens, token_lens, max_frames=limit, cache=cache)
        for k, i in enumerate(rows):
            n = int(out.mel_lens[k])
            own = int(frames_per_symbol * len(texts[i])) + 40
            stopped = bool(out.stopped[k]) and n <= own  # the limit is each text's own, whatever its batch
            n = min(n, own)
            result = _aligned(out.attention[k], len(texts[i]), n, reduction, path)
            found[i] = Said(out.mel[k, :n].clone(), stopped, result)
        if each is not None:
            each(len(rows))
    return [found[i] for i in range(len(texts))]


@dataclass(frozen=True)
class Report:
    """What came of a distillation.

    pairs: texts at hand; kept: those the student learnt from, distilled: of them, those with the teacher's own spectrogram
    (the others kept their recording). dropped: reason -> number. focus, coverage: means over all texts; monotone: share.
    history: of the student's training.
    """

    pairs: int
    kept: int
    distilled: int
    dropped: dict[str, int]
    focus: float
    coverage: float
    monotone: float
    history: list[dict[str, float]] = field(default_factory=list)


def fault(alignment: AlignmentResult, min_focus: float, min_coverage: float, max_backward: int) -> str:
    """Why an alignment is not to be learnt from, or ""."""
    if alignment.focus < min_focus:
        return f"focus rate below {min_focus:g}"
    if alignment.coverage < min_coverage:
        return f"coverage below {min_coverage:g}"
    if alignment.backward > max_backward:
        return "jumps backwards"
    return ""


def distilled_pairs(
    teacher: TransformerTTS,
    pairs: Sequence[Pair],
    *,
    sequence_level: bool = True,
    min_focus: float = 0.0,
    min_coverage: float = 0.7,
    max_backward: int = 2,
    path: Route = "argmax",
    progress: Progress = QUIET,
) -> tuple[list[Pair], Report]:
    """Pairs with durations for the student, from `pairs` with or without them, and what was kept: eqs. (1) to (3).

    sequence_level: take the teacher's own spectrogram of each text and its durations; where the teacher did not stop or its
    alignment is faulty, the recording with the durations of a teacher-forced pass. What is faulty there too is dropped.
    min_coverage: with two frames a step even the best path leaves some short phonemes out. Raises InputError where nothing
    is left.
    """
    check_pairs(pairs)
    for name, value in (("min_focus", min_focus), ("min_coverage", min_coverage)):
        check_number(name, value, "a share from 0 to 1", low=0.0, high=1.0)
    check_integer("max_backward", max_backward, low=0)
    forced = align(teacher, pairs, path=path)
    own: list[Said | None] = [None] * len(pairs)
    if sequence_level:
        before = teacher.training
        teacher.eval()
        with progress.task("the teacher speaks", len(pairs)) as task:
            own = list(say(teacher, [pair.tokens for pair in pairs], path=path, each=task.advance))
        teacher.train(before)
    kept, dropped, distilled = [], dict[str, int](), 0
    for pair, alignment, said in zip(pairs, forced, own, strict=True):
        if said is not None and said.stopped and not fault(said.alignment, min_focus, min_coverage, max_backward):
            kept.append(Pair(pair.tokens, said.mel, said.alignment.durations))
            distilled += 1
        elif reason := fault(alignment, min_focus, min_coverage, max_backward):
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            kept.append(Pair(pair.tokens, pair.mel, alignment.durations))
    if not kept:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise InputError("teacher", f"no usable alignment ({reasons})", "a teacher that has learnt to align: train it longer")
    n = len(pairs)
    focus = sum(one.focus for one in forced) / n
    coverage = sum(one.coverage for one in forced) / n
    return kept, Report(n, len(kept), distilled, dropped, focus, coverage, sum(one.monotone for one in forced) / n)


def distill_tts(
    teacher: TransformerTTS,
    student: FastSpeech,
    pairs: Sequence[Pair],
    *,
    sequence_level: bool = True,
    min_focus: float = 0.0,
    min_coverage: float = 0.7,
    max_backward: int = 2,
    path: Route = "argmax",
    training: SpeechTraining | None = None,
    objective: Objective | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Report:
    """Teach `student` what the autoregressive `teacher` says: durations (2), distilled spectrograms (3), loss (6).

    pairs: texts and recordings, those the teacher was trained on. The other arguments are those of `distilled_pairs` and
    `train_speech`; with `checkpoint` the student's training is gone on from, after the teacher has spoken once more. The
    student comes back in evaluation mode. Raises InputError where vocabularies or bands differ, or
    where no alignment is good enough to learn from.
    """
    if teacher.config.symbols != student.config.symbols or teacher.config.bands != student.config.bands:
        got = f"{student.config.symbols} symbols, {student.config.bands} bands"
        raise InputError("student", got, f"the teacher's {teacher.config.symbols} symbols and {teacher.config.bands} bands")
    if checkpoint is not None:
        check_folder(Path(checkpoint), "checkpoint")
    kept, report = distilled_pairs(
        teacher, pairs, sequence_level=sequence_level, min_focus=min_focus, min_coverage=min_coverage,
        max_backward=max_backward, path=path, progress=progress,
    )  # fmt: skip
    result = train_speech(student, kept, training, objective=objective, checkpoint=checkpoint, seed=seed, progress=progress)
    return replace(report, history=result.history)


def uniform_durations(pair: Pair) -> Pair:
    """The pair with all its frames shared out evenly among its phonemes: what a student without a teacher would be told."""
    ends = torch.arange(1, len(pair.tokens) + 1) * len(pair.mel) // len(pair.tokens)
    return Pair(pair.tokens, pair.mel, torch.diff(ends, prepend=torch.zeros(1, dtype=ends.dtype)))
