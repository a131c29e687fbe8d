"""Teaching language models: log-probabilities of sequences, supervised fine-tuning, preference losses, token divergences."""

from tutelage.teaching.language.divergences import Divergence, token_divergences
from tutelage.teaching.language.preferences import Preference, pair_loss, preference_margin
from tutelage.teaching.language.sequences import SFT, completion_batch, sequence_logprobs, token_logprobs

__all__ = [
    "SFT",
    "Divergence",
    "Preference",
    "completion_batch",
    "pair_loss",
    "preference_margin",
    "sequence_logprobs",
    "token_divergences",
    "token_logprobs",
]
