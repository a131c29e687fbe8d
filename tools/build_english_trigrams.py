"""Count the bundled trigrams of English letters: how often each letter or space follows each two others in real text.

    TUTELAGE_DATA=folder python tools/build_english_trigrams.py

reads the questions of `folder/gsm8k/train.jsonl.gz` (7,473 problems in words; K. Cobbe et al., arXiv:2110.14168, MIT) and
writes `src/tutelage/data/bundled/english_trigrams.npz`: `counts` (27, 27, 27), oldest first, over a space and the letters a to
z. Letters are made small; whatever is no letter becomes one space. A question begins and ends with a space.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

SOURCE = "d7741145657f4e52b75f63b9fb9469cb4ad3febd01d62a1068c75e33e04245c5"
TARGET = Path(__file__).parents[1] / "src/tutelage/data/bundled/english_trigrams.npz"
SYMBOLS = " abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    folder = Path(os.environ.get("TUTELAGE_DATA") or sys.exit("set TUTELAGE_DATA to the folder that holds gsm8k/"))
    path = folder / "gsm8k" / "train.jsonl.gz"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SOURCE:
        sys.exit(f"{path} is not the file that was counted")
    counts = np.zeros((27, 27, 27), dtype=np.uint32)
    for line in gzip.decompress(content).decode().strip().split("\n"):  # not splitlines: some questions hold other line ends
        text = f" {re.sub('[^a-z]+', ' ', json.loads(line)['question'].lower()).strip()} "
        ids = np.array([SYMBOLS.index(symbol) for symbol in text])
        np.add.at(counts, (ids[:-2], ids[1:-1], ids[2:]), 1)
    np.savez_compressed(TARGET, counts=counts)
    print(f"{TARGET.name}: {int(counts.sum()):,} trigrams, {int((counts > 0).sum()):,} kinds, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
