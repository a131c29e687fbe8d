"""A text encoder of whole words: a learned vector for each word of a small vocabulary, and one that prompts begin with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.diffusion.denoiser import checked_prompts

PAD, START = 0, 1


class WordEncoder(nn.Module):
    """Prompts of words apart by spaces -> features (B, L, dim); the order of words does not matter.

    words: the vocabulary. length: L, most tokens of a prompt; the first is a start token, so that the null prompt "" has
    something to be looked at. Raises InputError for a word that is not in the vocabulary, and for a prompt of more than L - 1
    words.
    """

    def __init__(self, words: Sequence[str], length: int = 4, dim: int = 32) -> None:
        super().__init__()
        if (
            isinstance(words, str)
            or not words
            or not all(isinstance(word, str) and word.strip() == word and word for word in words)
        ):
            raise InputError("words", words, "a list of words")
        if len(set(words)) != len(words) or any(" " in word for word in words):
            raise InputError("words", list(words), "words without spaces, each once")
        check_integer("length", length, low=2)
        check_integer("dim", dim)
        self.words, self.length = tuple(words), length
        self.ids = {word: i for i, word in enumerate(words, START + 1)}
        self.table = nn.Embedding(len(words) + 2, dim, padding_idx=PAD)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) int64: the start token, the words, padding."""
        prompts = checked_prompts(prompts)
        rows = torch.full((len(prompts), self.length), PAD)
        rows[:, 0] = START
        for row, prompt in zip(rows, prompts, strict=True):
            words = prompt.split()
            if unknown := [word for word in words if word not in self.ids]:
                raise InputError(
                    "prompts", f"the unknown word {unknown[0]!r} in {prompt!r}", f"words of {', '.join(self.words)}"
                )
            if len(words) > self.length - 1:
                got = f"{len(words)} words in {prompt!r}"
                raise InputError("prompts", got, f"at most {self.length - 1}, what the encoder has room for")
            row[1 : len(words) + 1] = torch.tensor([self.ids[word] for word in words], dtype=torch.long)
        return rows

    def mask(self, ids: Tensor) -> Tensor:
        """(B, L) True where there is a token."""
        return ids != PAD

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L, dim) vectors of the tokens."""
        found: Tensor = self.table(ids)
        return found

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """(B, L, dim): here the vectors themselves, which do not know of each other."""
        return embeddings
