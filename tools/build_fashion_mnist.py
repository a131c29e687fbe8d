"""Build the bundled Fashion-MNIST subset: the first 1,000 training and 200 test images of each class, in official order.

    TUTELAGE_DATA=folder python tools/build_fashion_mnist.py

reads `folder/fashion-mnist/{train,test}.npz` (keys image, label; the complete official set) and writes
`src/tutelage/data/bundled/fashion_mnist.npz`. Taking the first of each class makes the subset a fact, not a draw.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

SOURCE = {
    "train": "91191abc4b8b107b1696a7157098e33c6aabbffee696b571fccef02bb50aeb9f",
    "test": "cb89ef3e93ddce16a8496fe91795be5f8676e56e82570281a76e64f85958624c",
}
PER_CLASS = {"train": 1000, "test": 200}
TARGET = Path(__file__).parents[1] / "src/tutelage/data/bundled/fashion_mnist.npz"


def main() -> None:
    folder = Path(os.environ.get("TUTELAGE_DATA") or sys.exit("set TUTELAGE_DATA to the folder that holds fashion-mnist/"))
    arrays = {}
    for split, digest in SOURCE.items():
        path = folder / "fashion-mnist" / f"{split}.npz"
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            sys.exit(f"{path} is not the official set (its SHA-256 differs)")
        with np.load(path, allow_pickle=False) as source:
            image, label = source["image"], source["label"]
        keep = np.sort(np.concatenate([np.flatnonzero(label == c)[: PER_CLASS[split]] for c in range(10)]))
        arrays[f"{split}_image"], arrays[f"{split}_label"] = image[keep], label[keep]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.2f} MB, SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
