"""Teaching speech models: batches by length, losses over what is not padding, guided attention, recognisers."""

from tutelage.teaching.speech.batches import Pair, SpeechBatch, check_pairs, collate, padded, speech_loader
from tutelage.teaching.speech.objectives import FastSpeechLoss, TeacherLoss, guided_attention, masked_mean
from tutelage.teaching.speech.recognition import CTCLoss, Edits, compare, error_rate

__all__ = [
    "CTCLoss",
    "Edits",
    "FastSpeechLoss",
    "Pair",
    "SpeechBatch",
    "TeacherLoss",
    "check_pairs",
    "collate",
    "compare",
    "error_rate",
    "guided_attention",
    "masked_mean",
    "padded",
    "speech_loader",
]
