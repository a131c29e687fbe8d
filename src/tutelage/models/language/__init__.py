"""Language models behind one protocol: transformers, endpoints, tiny ones trained here, n-grams, functions, recordings.

Importing this needs no extra; a backend on transformers says what to install when it is made.
"""

from tutelage.models.language.causal import HFCausalLM
from tutelage.models.language.endpoint import OpenAIEndpoint, Patience
from tutelage.models.language.function import FunctionLM
from tutelage.models.language.huggingface import check_same_vocabulary
from tutelage.models.language.ngram import NGramLM
from tutelage.models.language.protocol import (
    Capability,
    Generation,
    GenRequest,
    LanguageModel,
    LogLik,
    Message,
    require,
)
from tutelage.models.language.replay import Recorded, Replay
from tutelage.models.language.seq2seq import HFSeq2SeqLM
from tutelage.models.language.tiny import TinyGPT

__all__ = [
    "Capability",
    "FunctionLM",
    "GenRequest",
    "Generation",
    "HFCausalLM",
    "HFSeq2SeqLM",
    "LanguageModel",
    "LogLik",
    "Message",
    "NGramLM",
    "OpenAIEndpoint",
    "Patience",
    "Recorded",
    "Replay",
    "TinyGPT",
    "check_same_vocabulary",
    "require",
]
