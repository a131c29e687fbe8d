"""Letters A to Z, drawn on the fly in fonts that come with matplotlib: what a net of digits has never seen.

White on black and grey at the edges, as the digits of MNIST are: a letter fills at most 20 of 28 pixels and sits in the
middle, off by up to two pixels. O, I, S and Z look like digits in some fonts; they are letters all the same.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tutelage.core.checks import check_integer
from tutelage.core.errors import MissingError
from tutelage.core.rng import numpy_generator
from tutelage.data.images import ImageSet, Split

if TYPE_CHECKING:
    from PIL.Image import Image

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
DRAWN = 96  # points: drawn large, then made small


def letters(n: int, *, size: int = 28, seed: int = 0, split: Split = "") -> ImageSet:
    """n letters (n, 1, size, size) uint8, white on black; labels 0 to 25. Letter, font, size and place are drawn by `seed`.

    Pixels depend on the versions of Pillow and matplotlib (their hinting and fonts): the hash of the set tells.
    Raises InputError for n < 1 or a size below 8.
    """
    check_integer("n", n)
    check_integer("size", size, low=8)
    rng = numpy_generator(seed, "letters", size)
    images = np.zeros((n, size, size), dtype=np.uint8)
    labels = rng.integers(0, len(LETTERS), n)
    fonts = rng.integers(0, len(FONTS), n)
    sides = np.round(size * rng.uniform(16, 20, n) / 28).astype(int)  # of the longer side
    shifts = np.round(size * rng.uniform(-2, 2, (n, 2)) / 28).astype(int)
    for i in range(n):
        glyph = _glyph(int(labels[i]), int(fonts[i]))
        scale = sides[i] / max(glyph.size)
        width, height = (max(1, round(side * scale)) for side in glyph.size)
        small = np.asarray(glyph.resize((width, height), 4))  # 4: BOX, each pixel the mean of what it covers
        top = int(np.clip((size - height) // 2 + shifts[i, 0], 0, size - height))
        left = int(np.clip((size - width) // 2 + shifts[i, 1], 0, size - width))
        images[i, top : top + height, left : left + width] = small
    return ImageSet(
        torch.from_numpy(images)[:, None],
        torch.from_numpy(labels),
        LETTERS,
        name="rendered letters A-Z",
        split=split,
        kind="generated",
    )


@cache
def _glyph(letter: int, font: int) -> Image:
    """The letter, cut out tightly, in grey."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(_folder() / f"{FONTS[font]}.ttf"), DRAWN)
    canvas = Image.new("L", (3 * DRAWN, 3 * DRAWN), 0)
    ImageDraw.Draw(canvas).text((DRAWN, DRAWN), LETTERS[letter], fill=255, font=face)
    return canvas.crop(canvas.getbbox())


@cache
def _folder() -> Path:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    if missing := [name for name in FONTS if not (folder / f"{name}.ttf").is_file()]:
        raise MissingError(f"letters: {folder} lacks {missing[0]}.ttf; install matplotlib again")
    return folder
