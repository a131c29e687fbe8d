"""Nets that speak and listen: FastSpeech, an autoregressive transformer teacher, a small phoneme recogniser."""

from tutelage.models.speech.fastspeech import FastSpeech, FastSpeechConfig
from tutelage.models.speech.recogniser import Recogniser, RecogniserConfig
from tutelage.models.speech.regulator import length_regulate, scaled_durations
from tutelage.models.speech.transformer_tts import Generated, TeacherConfig, TransformerTTS

__all__ = [
    "FastSpeech",
    "FastSpeechConfig",
    "Generated",
    "Recogniser",
    "RecogniserConfig",
    "TeacherConfig",
    "TransformerTTS",
    "length_regulate",
    "scaled_durations",
]
