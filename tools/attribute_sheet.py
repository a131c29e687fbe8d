"""Draw docs/images/attributes.png: bundled emoji before photographs, after each edit of ImageNet-E.

python tools/attribute_sheet.py
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from tutelage.claims.audit.imagenet_e import four_blocks
from tutelage.core.rng import seeded
from tutelage.data.photographs import sample_photograph
from tutelage.methods.audit.imagenet_e import build_suite
from tutelage.threats.attributes import emoji_pictures

SHOWN = (1, 2, 6, 8, 12)
NAMES = ("inversion", "background\n−20", "background\n+20", "+20,\nadversarial", "background\nrandom", "size\nfull",
         "size\n10 %", "size\n8 %", "size\n5 %", "position", "direction")  # fmt: skip


def main() -> None:
    data = emoji_pictures(40, [sample_photograph("china"), sample_photograph("flower")], split="train", seed=5)
    with seeded(0):
        net = four_blocks()
    torch.set_num_threads(1)
    suite = build_suite(data, surrogate=net)
    columns = {"original": suite.original.images}
    columns |= {name: one.images.images for name, one in zip(NAMES, suite.edited.values(), strict=True)}
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    axes = figure.subplots(len(SHOWN), len(columns))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)  # type: ignore[union-attr]
    for j, (name, images) in enumerate(columns.items()):
        axes[0, j].set_title(name, fontsize=9)
        for i, k in enumerate(SHOWN):
            axes[i, j].imshow(images[k].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes[i, j].axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80, facecolor="white", metadata={"Software": None})
    path = Path(__file__).parents[1] / "docs" / "images" / "attributes.png"
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
