"""FastSpeech: durations from attention, filter and distillation, the finished voice, what is measured."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.core.errors import InputError, MissingError
from tutelage.core.rng import seeded
from tutelage.data.sentences import plain_sentences
from tutelage.data.spectrogram import MelConfig
from tutelage.data.utterances import Corpus, Symbols, spoken_corpus
from tutelage.data.worlds.formant_voice import LETTERS, FormantVoice
from tutelage.methods.distill.fastspeech import (
    AlignmentResult,
    FastSpeech,
    FastSpeechConfig,
    Said,
    SpeechTraining,
    TeacherConfig,
    TransformerTTS,
    Voice,
    align,
    attention_faults,
    attention_skips,
    distill_tts,
    distilled_pairs,
    duration_error,
    durations_from_attention,
    focus_rate,
    heard_edits,
    mel_cepstral_distortion,
    monotonic_path,
    pairs_of,
    robustness,
    say,
    speak_all,
    train_speech,
    uniform_durations,
)
from tutelage.methods.distill.fastspeech import training as training_module
from tutelage.models.speech import Recogniser, RecogniserConfig
from tutelage.teaching.speech import FastSpeechLoss, Pair, TeacherLoss, compare

MEL = MelConfig(16000, bands=12, hop=400, window=1024)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return spoken_corpus(FormantVoice(), plain_sentences(4, seed=3), MEL)


@pytest.fixture(scope="module")
def symbols() -> Symbols:
    return Symbols(("_", *LETTERS))


def teacher(symbols: Symbols) -> TransformerTTS:
    with seeded(0, "teacher"):
        return TransformerTTS(
            TeacherConfig(len(symbols), MEL.bands, blocks=1, width=16, hidden=16, reduction=2, prenet=8, postnet=8)
        ).eval()


def student(symbols: Symbols) -> FastSpeech:
    with seeded(0, "student"):
        config = FastSpeechConfig(len(symbols), MEL.bands, blocks=1, width=32, hidden=32, predictor=16, dropout=0.0)
        return FastSpeech(config).eval()


# Alignment: eqs. (1), (2)


def test_identity_and_uniform_attention() -> None:
    assert focus_rate(torch.eye(5)) == 1.0
    found = durations_from_attention(torch.eye(5), text_len=5, mel_len=5)
    assert found.durations.tolist() == [1, 1, 1, 1, 1]
    assert (found.monotone, found.coverage, found.backward, found.focus) == (True, 1.0, 0, 1.0)
    assert float(focus_rate(torch.full((8, 4), 0.25))) == pytest.approx(1 / 4)
    assert focus_rate(torch.full((2, 3, 8, 4), 0.25)).shape == (2, 3)


def test_focus_and_durations_by_hand_and_the_best_head_is_taken() -> None:
    sharp = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.2, 0.7], [0.2, 0.6, 0.2]])
    flat = torch.full((4, 3), 1 / 3)
    assert float(focus_rate(sharp)) == pytest.approx((0.9 + 0.8 + 0.7 + 0.6) / 4)
    found = durations_from_attention(torch.stack([flat, sharp])[None], text_len=3, mel_len=4)
    assert found.head == (0, 1)
    assert found.durations.tolist() == [2, 1, 1]
    assert (found.monotone, found.backward) == (False, 0)  # back by one phoneme: not monotone, but no repetition
    other = durations_from_attention(torch.stack([flat, sharp])[None], text_len=3, mel_len=4, head=(0, 0))
    assert other.focus == pytest.approx(1 / 3)


@pytest.mark.parametrize(("steps", "reduction"), [(10, 1), (5, 2), (4, 3)])
def test_durations_sum_to_the_frames_and_padding_is_cut_off(steps: int, reduction: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    attn = torch.rand(2, 2, steps + 3, 7, generator=generator)
    attn[..., 6:] = 0  # padded phonemes get no weight
    attn = attn / attn.sum(-1, keepdim=True)
    attn[:, :, steps:] = 0.0  # rows behind the end mean nothing, and need not sum to 1
    found = durations_from_attention(attn, text_len=6, mel_len=10, reduction=reduction)
    assert int(found.durations.sum()) == 10
    assert len(found.durations) == 6
    assert len(found.path) == 10


def test_jumps_back_and_left_out_phonemes_are_counted() -> None:
    path = torch.tensor([0, 1, 4, 1, 2])
    found = durations_from_attention(torch.eye(5)[path], text_len=5, mel_len=5)
    assert (found.backward, found.coverage) == (1, 4 / 5)
    assert found.skipped() == 1  # phoneme 3
    assert found.skipped(torch.tensor([False, False, False, True, False])) == 0


def test_a_monotonic_path_leaves_nothing_out() -> None:
    # by argmax 0 0 2 2: phoneme 1 gets nothing. Of the paths through all three, 0 0 1 2 has .9 .8 .3 .7, the others less
    attn = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.1, 0.3, 0.6], [0.1, 0.2, 0.7]])
    assert monotonic_path(attn).tolist() == [0, 0, 1, 2]
    plain = durations_from_attention(attn, text_len=3, mel_len=4)
    assert plain.durations.tolist() == [2, 0, 2]
    forced = durations_from_attention(attn, text_len=3, mel_len=7, reduction=2, path="monotonic")
    assert forced.durations.tolist() == [4, 2, 1]
    assert (forced.coverage, forced.backward, forced.monotone) == (1.0, 0, True)
    best = max(
        ((a, b, c, d) for a in (0,) for b in (0, 1) for c in (b, b + 1) for d in (2,) if c <= 2 and d - c in (0, 1)),
        key=lambda path: float(torch.stack([attn[s, t].clamp(min=1e-12).log() for s, t in enumerate(path)]).sum()),
    )
    assert tuple(monotonic_path(attn).tolist()) == best
    with pytest.raises(InputError, match=r"^attn: got 2 steps"):
        monotonic_path(torch.eye(3)[:2])


@pytest.mark.parametrize(
    ("attn", "lengths"),
    [
        (torch.full((4, 3), 0.3), (3, 4)),  # rows of dropout
        (torch.eye(4), (5, 4)),
        (torch.eye(4), (4, 5)),
        (torch.full((4, 3), torch.nan), (3, 4)),
    ],
)
def test_alignment_refuses(attn: torch.Tensor, lengths: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"^attn"):
        durations_from_attention(attn, text_len=lengths[0], mel_len=lengths[1])


def test_a_pass_in_evaluation_mode_gives_durations_of_every_recording(corpus: Corpus, symbols: Symbols) -> None:
    pairs = pairs_of(corpus, symbols)
    net = teacher(symbols).train()
    found = align(net, pairs, batch_size=4)
    assert [int(one.durations.sum()) for one in found] == [len(pair.mel) for pair in pairs]
    assert net.training  # put back
    assert all(one.coverage == 1.0 and one.monotone for one in align(net, pairs, path="monotonic"))
    again = align(net, pairs[::-1], batch_size=2)[::-1]
    assert [one.durations.tolist() for one in again] == [one.durations.tolist() for one in found]


# Distillation


def aligned(durations: list[int], focus: float = 0.9, backward: int = 0) -> AlignmentResult:
    found = torch.tensor(durations)
    coverage = float((found > 0).double().mean())
    return AlignmentResult(found, torch.repeat_interleave(found), focus, (0, 0), True, coverage, backward)


def test_what_is_kept_replaced_and_dropped(monkeypatch: pytest.MonkeyPatch, symbols: Symbols) -> None:
    pairs = [Pair(torch.tensor([1, 2]), torch.full((4, MEL.bands), float(i))) for i in range(4)]
    forced = [aligned([2, 2]), aligned([1, 3]), aligned([4, 0]), aligned([2, 2], focus=0.2)]
    own = [
        Said(torch.full((6, MEL.bands), 9.0), True, aligned([3, 3])),
        Said(torch.full((6, MEL.bands), 9.0), False, aligned([3, 3])),  # did not stop: its recording is taken
        Said(torch.full((6, MEL.bands), 9.0), True, aligned([6, 0])),  # both leave a phoneme out
        Said(torch.full((6, MEL.bands), 9.0), True, aligned([3, 3], backward=3)),
    ]
    monkeypatch.setattr(training_module, "align", lambda *_, **__: forced)
    monkeypatch.setattr(training_module, "say", lambda *_, **__: own)
    kept, report = distilled_pairs(teacher(symbols), pairs, min_focus=0.5, min_coverage=1.0)
    assert [(one.mel[0, 0].item(), one.durations.tolist()) for one in kept if one.durations is not None] == [
        (9.0, [3, 3]),
        (1.0, [1, 3]),
    ]
    assert (report.pairs, report.kept, report.distilled) == (4, 2, 1)
    assert report.dropped == {"coverage below 1": 1, "focus rate below 0.5": 1}
    assert report.focus == pytest.approx((0.9 * 3 + 0.2) / 4)
    plain, second = distilled_pairs(teacher(symbols), pairs, sequence_level=False, min_coverage=1.0)
    assert [one.mel[0, 0].item() for one in plain] == [0.0, 1.0, 3.0]
    assert second.distilled == 0
    with pytest.raises(InputError, match=r"^teacher: got no usable alignment"):
        distill_tts(teacher(symbols), student(symbols), pairs, min_focus=1.0, sequence_level=False)


def test_what_the_teacher_says_alone_fits_its_durations(corpus: Corpus, symbols: Symbols) -> None:
    net = teacher(symbols)
    texts = [one.tokens for one in pairs_of(corpus, symbols)]
    said = say(net, texts, frames_per_symbol=1.0, batch_size=2)
    for one, text in zip(said, texts, strict=True):
        assert int(one.alignment.durations.sum()) == len(one.mel) <= len(text) + 40
    alone = say(net, texts[:1], frames_per_symbol=1.0)[0]
    torch.testing.assert_close(alone.mel, said[0].mel, atol=1e-5, rtol=0)


def test_a_student_with_true_durations_learns_and_beats_uniform_ones(corpus: Corpus, symbols: Symbols) -> None:
    pairs = pairs_of(corpus, symbols, durations=True)
    config = SpeechTraining(steps=40, batch_size=3, lr=5e-3, warmup=8)
    result = train_speech(student(symbols), pairs, config)
    even = train_speech(student(symbols), [uniform_durations(one) for one in pairs], config)
    last = [sum(row["mel"] for row in found.history[-5:]) / 5 for found in (result, even)]
    assert last[0] < 0.5 * result.history[0]["mel"]
    assert last[0] < last[1]


def test_training_twice_gives_the_same_teacher_and_schedules_rise_and_fall(corpus: Corpus, symbols: Symbols) -> None:
    config = SpeechTraining(steps=3, batch_size=2, warmup=2)
    nets = [teacher(symbols), teacher(symbols)]
    for net in nets:
        result = train_speech(net, pairs_of(corpus, symbols), config, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert {"mel", "stop", "guide"} <= result.history[0].keys()
    noam, cosine = (SpeechTraining(warmup=4, schedule=name).factor() for name in ("noam", "cosine"))
    assert [noam(step, 100) for step in (0, 3, 15)] == [0.25, 1.0, 0.5]
    assert (cosine(3, 100), cosine(52, 100)) == (1.0, pytest.approx(0.5, abs=1e-9))
    with pytest.raises(InputError, match=r"^schedule"):
        SpeechTraining(schedule="linear")


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_stopped_training_goes_on_to_the_same_weights(who: str, corpus: Corpus, symbols: Symbols, tmp_path: Path) -> None:
    pairs = pairs_of(corpus, symbols, durations=True)
    config = SpeechTraining(steps=7, batch_size=2, warmup=2)
    nets: list[TransformerTTS | FastSpeech] = [teacher(symbols) if who == "teacher" else student(symbols) for _ in range(3)]
    objective = TeacherLoss(frame_noise=0.1) if who == "teacher" else FastSpeechLoss()
    whole = train_speech(nets[0], pairs, config, objective=objective, seed=5)

    class Stopping:
        calls = 0

        def __call__(self, *given: Any) -> Any:
            self.calls += 1
            if self.calls == 5:
                raise KeyboardInterrupt
            return objective(*given)

    with pytest.raises(KeyboardInterrupt):
        train_speech(nets[1], pairs, config, objective=Stopping(), checkpoint=tmp_path / "here", seed=5)
    result = train_speech(nets[2], pairs, config, objective=objective, checkpoint=tmp_path / "here", seed=5)
    assert (whole.resumed_from, result.resumed_from, result.steps) == (None, 4, 7)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True))


def test_uniform_durations_share_out_all_frames() -> None:
    one = uniform_durations(Pair(torch.tensor([1, 2, 3]), torch.zeros(8, 2)))
    assert one.durations is not None
    assert one.durations.tolist() == [2, 3, 3]


def test_distillation_refuses_another_vocabulary(corpus: Corpus, symbols: Symbols) -> None:
    small = FastSpeech(FastSpeechConfig(3, MEL.bands, blocks=1, width=8, hidden=8))
    with pytest.raises(InputError, match=r"^student: got 3 symbols"):
        distill_tts(teacher(symbols), small, pairs_of(corpus, symbols))
    with pytest.raises(InputError, match=r"^pairs: got number 0 without durations"):
        train_speech(student(symbols), pairs_of(corpus, symbols))
    other = [Pair(torch.tensor([1]), torch.zeros(2, MEL.bands + 1), torch.tensor([2]))]
    with pytest.raises(InputError, match=r"^pairs: got number 0 with 13 bands"):
        train_speech(student(symbols), other)
    with pytest.raises(InputError, match=r"^model: got Linear"):
        train_speech(torch.nn.Linear(2, 2), other)  # type: ignore[arg-type]


# The voice


@pytest.fixture
def voice(symbols: Symbols) -> Voice:
    net = student(symbols)
    torch.nn.init.zeros_(net.predictor.out.weight)
    torch.nn.init.constant_(net.predictor.out.bias, 1.3862944)  # log 4: three frames a phoneme
    return Voice(net, symbols, MEL, "formant")


def test_speed_and_pauses(voice: Voice) -> None:
    plain = voice.synthesize("the old cat")
    n = len(plain.phonemes)
    assert plain.phonemes == ("t", "h", "e", "_", "o", "l", "d", "_", "c", "a", "t")
    assert len(plain.mel) == 3 * n
    assert plain.seconds == pytest.approx(3 * n * 400 / 16000)
    assert len(voice.synthesize("the old cat", alpha=2.0).mel) == 6 * n
    assert len(voice.synthesize("the old cat", alpha=0.5).mel) == 2 * n  # 1.5 frames, half up
    carried = voice.synthesize("the old cat", alpha=0.5, carry_error=True)
    assert len(carried.mel) == (3 * n + 1) // 2
    slow = voice.synthesize("the old cat", pauses=4.0)
    assert len(slow.mel) == 3 * n + 2 * 9


def test_a_voice_is_audible_and_comes_back_from_its_folder(voice: Voice, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    said = voice.synthesize("a cat")
    path = said.write(tmp_path / "cat.wav", steps=2)
    wave, rate = soundfile.read(io.BytesIO(path.read_bytes()))
    assert rate == 16000
    assert len(wave) == len(said.mel) * 400
    assert abs(wave).max() > 0
    again = Voice.load(voice.save(tmp_path / "voice"))
    assert torch.equal(again.synthesize("a cat").mel, said.mel)
    assert again.symbols == voice.symbols
    described = json.loads((tmp_path / "voice" / "voice.json").read_text())
    (tmp_path / "voice" / "voice.json").write_text(json.dumps({**described, "model": "Tacotron"}))
    with pytest.raises(InputError, match=r"^voice"):
        Voice.load(tmp_path / "voice")
    with pytest.raises(MissingError, match="voice"):
        Voice.load(tmp_path)


def test_a_teacher_speaks_too_but_has_no_speed(symbols: Symbols) -> None:
    voice = Voice(teacher(symbols), symbols, MEL, "formant")
    said = voice.synthesize("cat")
    assert int(said.durations.sum()) == len(said.mel)
    with pytest.raises(InputError, match=r"^alpha"):
        voice.synthesize("cat", alpha=1.3)


@pytest.mark.parametrize(
    ("argument", "text", "alpha", "pauses"),
    [
        ("text", "", 1.0, 1.0),
        ("text", " .,! ", 1.0, 1.0),
        ("text", "the ♞", 1.0, 1.0),
        ("text", "naïve", 1.0, 1.0),
        ("text", "2 cats", 1.0, 1.0),
        ("text", "q" * 20, 1.0, 1.0),  # a letter that the training data do not have
        ("text", "the cat " * 130, 1.0, 1.0),
        ("alpha", "the cat", 0.0, 1.0),
        ("alpha", "the cat", float("nan"), 1.0),
        ("alpha", "the cat", -1.0, 1.0),
        ("pauses", "the cat", 1.0, float("inf")),
    ],
)
def test_a_voice_refuses(voice: Voice, argument: str, text: str, alpha: float, pauses: float) -> None:
    if text.startswith("q"):
        voice = Voice(student(Symbols(("_", "a"))), Symbols(("_", "a")), MEL, "formant")
    with pytest.raises(InputError, match=f"^{argument}"):
        voice.synthesize(text, alpha, pauses=pauses)


def test_a_voice_needs_a_model_of_its_own_sizes(symbols: Symbols) -> None:
    with pytest.raises(InputError, match=r"^model"):
        Voice(student(symbols), Symbols(("a", "b")), MEL, "formant")
    with pytest.raises(InputError, match=r"^speaker"):
        Voice(student(symbols), symbols, MEL, "someone").synthesize("cat")


# What is measured


def test_edits_by_hand() -> None:
    edits = compare("abcdef", "axcdff")
    assert (edits.substitutions, edits.deletions, edits.insertions, edits.rate) == (2, 0, 0, 2 / 6)
    skipped = compare("abcdefgh", "abgh")
    assert (skipped.deletions, skipped.longest_skip, skipped.longest_extra) == (4, 4, 0)
    repeated = compare("abcd", "abcabcd")
    assert (repeated.insertions, repeated.longest_extra) == (3, 3)
    assert (compare("ab", "").rate, compare("", "").rate) == (1.0, 0.0)
    found = robustness([edits, skipped, repeated])
    assert found.phone_error_rate == pytest.approx(100 * 9 / 18)
    assert (found.faulty, found.skips, found.repeats) == (
        pytest.approx(200 / 3),
        pytest.approx(100 / 3),
        pytest.approx(100 / 3),
    )


def test_attention_faults_count_texts_once() -> None:
    texts = [torch.tensor([1, 2, 3])] * 4
    good, skip = aligned([1, 1, 1]), aligned([2, 0, 1])
    said = [
        Said(torch.zeros(3, 2), True, good),
        Said(torch.zeros(3, 2), False, good),
        Said(torch.zeros(3, 2), True, skip),
        Said(torch.zeros(3, 2), True, aligned([2, 0, 1], backward=2)),
    ]
    assert attention_faults(said) == 50.0  # one never stopped, one went back; a single short phoneme is no fault
    assert attention_skips(said, texts, silent=[]) == pytest.approx(100 * 2 / 12)
    assert attention_skips(said, texts, silent=[2]) == 0.0  # the left out one is a pause
    assert attention_faults([Said(torch.zeros(3, 2), True, aligned([1, 0, 0, 0, 2]))]) == 100.0
    assert aligned([1, 0, 0, 2, 0]).longest_gap == 2


def test_distances_of_durations_and_spectrograms() -> None:
    assert duration_error([torch.tensor([2, 2]), torch.tensor([4])], [torch.tensor([2, 5]), torch.tensor([3])]) == 4 / 3
    with seeded(0, "mel"):
        mel = torch.randn(9, 20)
    assert mel_cepstral_distortion(mel, mel) == pytest.approx(0.0, abs=1e-4)
    stretched = mel.repeat_interleave(2, 0)  # slower, not different
    assert mel_cepstral_distortion(mel, stretched) == pytest.approx(0.0, abs=1e-4)
    assert mel_cepstral_distortion(mel, mel + 3.0) == pytest.approx(0.0, abs=1e-4)  # louder
    wave = torch.cos(torch.pi * (torch.arange(20) + 0.5) * 2 / 20)  # one cepstral coefficient alone, of RMS 1 / sqrt 2
    assert mel_cepstral_distortion(torch.zeros(3, 20), wave.expand(3, 20)) == pytest.approx(25 / 2**0.5, rel=1e-5)


def test_the_recogniser_hears_all_arms_alike(corpus: Corpus, symbols: Symbols) -> None:
    with seeded(0, "recogniser"):
        listener = Recogniser(RecogniserConfig(len(symbols), MEL.bands, width=8, layers=1))
    pairs = pairs_of(corpus, symbols)
    texts = [one.tokens for one in pairs]
    pause = int(symbols.encode(["_"])[0])
    edits = heard_edits(listener, texts, [one.mel for one in pairs], [pause], batch_size=4)
    assert [one.length for one in edits] == [int((text != pause).sum()) for text in texts]
    spoken = speak_all(student(symbols), texts, batch_size=4)
    assert len(heard_edits(listener, texts, spoken.mels, [pause])) == len(texts)
    with pytest.raises(InputError, match=r"^mels"):
        heard_edits(listener, texts, spoken.mels[1:], [pause])
