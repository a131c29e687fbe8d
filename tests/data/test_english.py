"""The bundled trigrams are those that were counted, and one law with the n-gram model made of them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tutelage.data.english import SYMBOLS, english_trigrams, trigram_table
from tutelage.models.language import NGramLM


def test_the_counts_are_those_that_were_built():
    counts = english_trigrams()
    assert counts.shape == (27, 27, 27)
    assert int(counts.sum()) == 1_633_854
    assert int((counts > 0).sum()) == 5_451
    digest = hashlib.sha256(np.ascontiguousarray(counts.astype("<i8")).tobytes()).hexdigest()
    assert digest[:16] == "6b99ab0388912cc0"
    with pytest.raises(ValueError, match="read-only"):
        counts[0, 0, 0] = 1


def test_they_are_english():
    counts, at = english_trigrams(), SYMBOLS.index
    assert counts[at("t"), at("h")].argmax() == at("e")
    assert counts[:, at("q")].sum(0).argmax() == at("u")
    assert counts[0, 0].sum() == 0, "no two spaces"


def test_the_n_gram_model_made_of_them_has_their_shares():
    lm = NGramLM(trigram_table(), order=3, unit="character", strength=1e-9)
    counts, at = english_trigrams(), SYMBOLS.index
    p = lm.probabilities(["t", "h"])
    row = counts[at("t"), at("h")]
    assert p[lm.vocabulary.index("e")] == pytest.approx(row[at("e")] / row.sum(), rel=1e-6)
    assert lm.probabilities([])[lm.vocabulary.index("e")] == pytest.approx(counts.sum((0, 1))[at("e")] / counts.sum(), rel=1e-6)
