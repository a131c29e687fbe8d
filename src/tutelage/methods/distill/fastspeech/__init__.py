"""FastSpeech: all frames of a sentence at once, from a slow teacher that says them one after the other.

For whoever has an autoregressive text-to-speech model, which is slow, leaves words out or says them twice, and cannot be told
to speak slower; the same works for any task where the output goes through the input from left to right.

    Ren, Ruan, Tan, Qin, Zhao, Zhao, Liu: FastSpeech: Fast, Robust and Controllable Text to Speech, arXiv 1905.09263 (2019),
    NeurIPS 2019. The teacher: Li et al., arXiv 1809.08895. Guided attention: Tachibana et al., arXiv 1710.08969.

A of size S x T is one head's attention from S frames to T phonemes, each row of sum 1:

    focus rate F = (1/S) sum_s max_t A[s, t]; the head with the largest F is taken                              (1)
    duration d_t = #{ s : argmax_t' A[s, t'] = t }, so that sum_t d_t = S                                       (2)
    distilled data = (text, the teacher's own spectrogram of it, its durations)                                 (3)
    length regulator LR(H, D, alpha): h_t repeated floor(alpha d_t + 1/2) times                                 (4)
    D = [2, 2, 3, 1]: alpha 1.3 gives [3, 3, 4, 1], alpha 0.5 gives [1, 1, 2, 1]
    inference: d_t = max(0, floor(exp(p_t) - 1 + 1/2)) of the duration predictor's p_t                          (5)
    loss = mean (mel - mel^)^2 + mean (p_t - log(1 + d_t))^2, over what is not padding                          (6)
    Adam(0.9, 0.98, 1e-9); rate ~ min(step / warmup, sqrt(warmup / step)), or the same rise and a cosine        (7)

Student: embedding, N feed-forward transformer blocks over phonemes, LR, N blocks over frames, a linear layer. Speed is alpha;
pauses get a factor of their own. A phoneme cannot be skipped or said twice unless its duration says so.

Where paper and others differ: the paper rounds each phoneme alone, `carry_error=True` keeps the total; the 1 inside the
logarithm of (6) is ESPnet's, as a duration may be 0; gradients of (6) go from the predictor into the encoder, as in the
paper (`detach_durations` stops them). Of ours: `mse` in (6) can be `l1`; `path="monotonic"` in (2) leaves no phoneme out; a
faulty utterance of the teacher is replaced by its recording, or dropped, and the report counts both.

Example::

    import torch
    from tutelage.core.rng import seeded
    from tutelage.data.sentences import plain_sentences
    from tutelage.data.utterances import Symbols, spoken_corpus
    from tutelage.data.worlds.formant_voice import FormantVoice
    from tutelage.methods.distill.fastspeech import SpeechTraining, Voice, distill_tts, pairs_of, train_speech
    from tutelage.models.speech import FastSpeech, FastSpeechConfig, TeacherConfig, TransformerTTS

    corpus = spoken_corpus(FormantVoice(), plain_sentences(8))  # recordings: see data.utterances.read_ljspeech
    symbols = Symbols.of(corpus.utterances)
    with seeded(0, "nets"):
        teacher = TransformerTTS(TeacherConfig(len(symbols), blocks=1, width=32, hidden=32, reduction=4))
        student = FastSpeech(FastSpeechConfig(len(symbols), blocks=1, width=32, hidden=32))
    few = SpeechTraining(steps=6, batch_size=4, warmup=2)  # thousands, in earnest
    train_speech(teacher, pairs_of(corpus, symbols), few)
    report = distill_tts(teacher, student, pairs_of(corpus, symbols), min_coverage=0.0, max_backward=1000, training=few)
    voice = Voice(student, symbols, corpus.mel, "formant")
    said = voice.synthesize("the old cat", alpha=1.3, pauses=2.0)
    print(report.kept, said.seconds)  # said.write("cat.wav") makes it audible
"""

from tutelage.methods.distill.fastspeech.alignment import (
    AlignmentResult,
    durations_from_attention,
    focus_rate,
    monotonic_path,
)
from tutelage.methods.distill.fastspeech.measure import (
    Robustness,
    attention_faults,
    attention_skips,
    duration_error,
    heard_edits,
    mel_cepstral_distortion,
    robustness,
    speak_all,
)
from tutelage.methods.distill.fastspeech.training import (
    Report,
    Said,
    SpeechTraining,
    align,
    distill_tts,
    distilled_pairs,
    pairs_of,
    say,
    train_speech,
    uniform_durations,
)
from tutelage.methods.distill.fastspeech.voice import Speech, Voice
from tutelage.models.speech.fastspeech import FastSpeech, FastSpeechConfig
from tutelage.models.speech.regulator import length_regulate, scaled_durations
from tutelage.models.speech.transformer_tts import TeacherConfig, TransformerTTS

__all__ = [
    "AlignmentResult",
    "FastSpeech",
    "FastSpeechConfig",
    "Report",
    "Robustness",
    "Said",
    "Speech",
    "SpeechTraining",
    "TeacherConfig",
    "TransformerTTS",
    "Voice",
    "align",
    "attention_faults",
    "attention_skips",
    "distill_tts",
    "distilled_pairs",
    "duration_error",
    "durations_from_attention",
    "focus_rate",
    "heard_edits",
    "length_regulate",
    "mel_cepstral_distortion",
    "monotonic_path",
    "pairs_of",
    "robustness",
    "say",
    "scaled_durations",
    "speak_all",
    "train_speech",
    "uniform_durations",
]
