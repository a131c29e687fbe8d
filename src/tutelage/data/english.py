"""How letters follow each other in real English text: trigram counts that the package brings along."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

SYMBOLS = " abcdefghijklmnopqrstuvwxyz"


@cache
def english_trigrams() -> npt.NDArray[np.int64]:
    """(27, 27, 27): how often SYMBOLS[k] follows SYMBOLS[i] SYMBOLS[j] in the 7,473 training questions of GSM8K.

    Small letters; whatever is no letter is one space. The text is of Cobbe et al., arXiv 2110.14168 (MIT);
    `tools/build_english_trigrams.py` counts it.
    """
    with (files("tutelage") / "data" / "bundled" / "english_trigrams.npz").open("rb") as file:
        counts: npt.NDArray[np.int64] = np.load(file, allow_pickle=False)["counts"].astype(np.int64)
    counts.flags.writeable = False
    return counts


def trigram_table() -> dict[str, dict[str, int]]:
    """The same as the counts of an `NGramLM` of order 3 over characters: history, as a JSON list -> symbol -> count."""
    counts = english_trigrams()
    found: dict[str, dict[str, int]] = {}
    for axes, table in ((0, counts.sum((0, 1))), (1, counts.sum(0)), (2, counts)):
        for place, count in np.ndenumerate(table):
            if count:
                history = ",".join(f'"{SYMBOLS[i]}"' for i in place[:axes])
                found.setdefault(f"[{history}]", {})[SYMBOLS[place[-1]]] = int(count)
    return found
