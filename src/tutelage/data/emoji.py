"""The second bundled set: emoji in five drawing styles, 32 x 32 with alpha, with names and keywords in English and Chinese.

A style is a domain, an emoji a concept that the styles share. Splits part emoji, never pictures of one emoji: what is in
the test split was seen in no style during training. The alpha channel is the exact mask of the drawing.

Example::

    from tutelage.data.emoji import SUBJECTS, emoji

    train = emoji(styles=("noto", "fluent-flat"), split="train", groups=SUBJECTS).on("white")
    shifted = emoji(styles="noto-v1", split="test", groups=SUBJECTS).on("white")
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal

import torch
from torch import Tensor

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_tensors
from tutelage.data.images import ImageSet, Split

STYLES = ("noto", "noto-v1", "fluent-flat", "fluent-shaded", "fluent-high-contrast")
GROUPS = (
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
    "flags",
)
# drawings of something: symbols are signs, and hardly any flags are there
SUBJECTS = GROUPS[:7]
SPLITS = ("train", "validation", "test", "")
FILE_SHA256 = "37fe2f00ed0a73792a6914304beb996fea790fb99eeca8f637962e4a2699fe2a"

Labels = Literal["group", "subgroup", "emoji", "style"]
Background = str | float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Emoji:
    """One emoji, whatever its drawings: code points in Unicode's spelling ("1F431"), and what it is called.

    family: the emoji that it shares its side of the split with (its own hexcode, or that of the first of them): the same
    concept for man, woman and person, and emoji that some style draws alike.
    """

    hexcode: str
    group: str
    subgroup: str
    name: str
    name_zh: str
    keywords: tuple[str, ...]
    keywords_zh: tuple[str, ...]
    family: str

    @property
    def code_points(self) -> tuple[int, ...]:
        return tuple(int(part, 16) for part in self.hexcode.split("-"))

    @property
    def text(self) -> str:
        """The emoji as a string."""
        return "".join(map(chr, self.code_points))

    @property
    def split(self) -> Split:
        """Fixed by the hash of the family: a tenth of the families are for validation, two tenths for the test."""
        share = int.from_bytes(hashlib.sha256(f"emoji/{self.family}".encode()).digest()[:8], "big") % 10
        return "test" if share < 2 else "validation" if share < 3 else "train"


@dataclass(frozen=True, eq=False)
class EmojiSet:
    """Pictures of emoji, N of them.

    images: (N, 4, 32, 32) uint8, RGB and straight (not premultiplied) alpha; the colour of an invisible pixel is 0.
    style: (N,) int64, index into `STYLES`. emoji: (N,) int64, index into `table`, the same in every split and style.
    groups: the classes of the label "group", in the order of their numbers. split: "" if all splits are in it.
    """

    images: Tensor
    style: Tensor
    emoji: Tensor
    table: tuple[Emoji, ...]
    groups: tuple[str, ...] = GROUPS
    split: Split = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def entries(self) -> list[Emoji]:
        """What each of the N pictures shows."""
        return [self.table[i] for i in self.emoji.tolist()]

    @property
    def masks(self) -> Tensor:
        """How much of each pixel the drawing covers: (N, 1, 32, 32) float32 in [0, 1]."""
        return self.images[:, 3:].float() / 255

    @property
    def sha256(self) -> str:
        """Hash of pixels, styles and emoji."""
        return sha256_tensors({"image": self.images, "style": self.style, "emoji": self.emoji})

    def take(self, index: Sequence[int] | Tensor | slice) -> EmojiSet:
        """A part of the set, by position or by a mask of shape (N,)."""
        try:
            part = index if isinstance(index, slice) else torch.as_tensor(index)
            images, style, emoji = self.images[part], self.style[part], self.emoji[part]
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            wanted = f"positions from 0 to {len(self) - 1}, or a mask of shape ({len(self)},)"
            raise InputError("index", index, wanted) from error
        if images.dim() != 4 or not len(images):
            raise InputError("index", index, "at least one position, in a list")
        return replace(self, images=images, style=style, emoji=emoji)

    def by_group(self) -> dict[str, EmojiSet]:
        """The parts of the set, group by group; groups without a picture are left out."""
        return self._parts([one.group for one in self.entries], self.groups)

    def by_style(self) -> dict[str, EmojiSet]:
        """The parts of the set, style by style."""
        return self._parts([STYLES[i] for i in self.style.tolist()], STYLES)

    def _parts(self, keys: list[str], order: Sequence[str]) -> dict[str, EmojiSet]:
        positions: dict[str, list[int]] = {name: [] for name in order}
        for position, key in enumerate(keys):
            positions[key].append(position)
        return {name: self.take(found) for name, found in positions.items() if found}

    def labels(self, by: Labels = "group") -> tuple[Tensor, tuple[str, ...]]:
        """(labels (N,) int64, class names). The numbers are the same in every split and style of one choice of groups.

        by: "group" (up to 9 classes), "subgroup" (in the order of the table), "emoji" (one class an emoji, English names;
        the styles are domains) or "style".
        """
        check_choice("labels", by, ("group", "subgroup", "emoji", "style"))
        if by == "style":
            return self.style.clone(), STYLES
        if by == "emoji":
            return self.emoji.clone(), tuple(one.name for one in self.table)
        # all of the table, so that a class has its number also where no picture of it is
        names = self.groups if by == "group" else tuple(dict.fromkeys(one.subgroup for one in self.table))
        number = {name: i for i, name in enumerate(names)}
        return torch.tensor([number[getattr(one, by)] for one in self.entries]), names

    def on(self, background: Background = "white", *, labels: Labels = "group") -> ImageSet:
        """The drawings on a background: an ImageSet of N RGB images (N, 3, 32, 32), float32 in [0, 1].

        colour = alpha * drawing + (1 - alpha) * background, on sRGB values as browsers do it; where alpha is 0 or 1 the
        result is exactly the background or the drawing. background: "white", "black", a grey or (r, g, b) in [0, 1], an
        image (3, 32, 32) or one for each drawing (N, 3, 32, 32), uint8 or floats in [0, 1].
        The high-contrast style is black line art: on black nothing of it can be seen.
        """
        behind, words = _background(background, len(self))
        alpha = self.masks
        rgb = alpha * (self.images[:, :3].float() / 255) + (1 - alpha) * behind
        numbers, classes = self.labels(labels)
        shown = ", ".join(name for i, name in enumerate(STYLES) if bool((self.style == i).any()))
        return ImageSet(
            rgb.clamp_(0, 1),
            numbers,
            classes,
            name=f"emoji ({shown})",
            split=self.split,
            origin={"file": "emoji.parquet", "file_sha256": FILE_SHA256, "background": words, "labels": labels},
        )


def emoji(
    styles: str | Sequence[str] = STYLES,
    split: Split = "",
    *,
    groups: str | Sequence[str] = GROUPS,
    complete: bool = False,
) -> EmojiSet:
    """The bundled emoji: 1,663 emoji without skin tones, in up to five styles.

    styles: one or several of `STYLES`. split: "train", "validation", "test" (disjoint by emoji, about 70, 10 and 20 %),
    or "" for all. groups: one or several of `GROUPS`; their order is that of the labels. complete: only the emoji that
    every one of the five styles draws. Pictures come emoji by emoji (Unicode's order), in the order of `STYLES`.
    Raises InputError for unknown names or a file that was changed, MissingError if the package lacks it.
    """
    wanted = _some_of("styles", styles, STYLES)
    kinds = _some_of("groups", groups, GROUPS)
    check_choice("split", split, SPLITS)
    table, images, present = _bundled()
    kept = [i for i, one in enumerate(table) if one.group in kinds]
    rows, columns = [], [STYLES.index(style) for style in STYLES if style in wanted]
    for new, i in enumerate(kept):
        if (split and table[i].split != split) or (complete and not bool((present[i] >= 0).all())):
            continue
        rows += [(new, j, int(present[i, j])) for j in columns if present[i, j] >= 0]
    chosen = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    return EmojiSet(
        images[chosen[:, 2]], chosen[:, 1].clone(), chosen[:, 0].clone(), tuple(table[i] for i in kept), kinds, split
    )


@cache
def _bundled() -> tuple[tuple[Emoji, ...], Tensor, Tensor]:
    """(table of M emoji, all pictures (P, 4, 32, 32) uint8, position of each picture (M, styles) int64, -1 where none is)."""
    import pyarrow.parquet as pq

    try:
        content = (files("tutelage") / "data" / "bundled" / "emoji.parquet").read_bytes()
    except OSError as error:
        raise MissingError("emoji.parquet is not in this installation of tutelage; install the package again") from error
    if (got := hashlib.sha256(content).hexdigest()) != FILE_SHA256:
        raise InputError("emoji.parquet", f"SHA-256 {got}", f"{FILE_SHA256}; install the package again")
    columns = pq.read_table(io.BytesIO(content)).to_pydict()
    words = ("hexcode", "group", "subgroup", "name_en", "name_zh", "keywords_en", "keywords_zh", "family")
    table = tuple(
        Emoji(code, group, subgroup, name, name_zh, tuple(keywords), tuple(keywords_zh), family)
        for code, group, subgroup, name, name_zh, keywords, keywords_zh, family in zip(
            *(columns[word] for word in words), strict=True
        )
    )
    present = torch.full((len(table), len(STYLES)), -1)
    pixels = bytearray()
    for i, row in enumerate(zip(*(columns[style] for style in STYLES), strict=True)):
        for j, picture in enumerate(row):
            if picture is not None:
                present[i, j] = len(pixels) // 4096
                pixels += picture
    return table, torch.frombuffer(pixels, dtype=torch.uint8).reshape(-1, 4, 32, 32), present


def _some_of(argument: str, got: str | Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    names = (got,) if isinstance(got, str) else tuple(got)
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise InputError(argument, got, f"one or several of {', '.join(known)}, each once")
    return names


def _background(got: Background, n: int) -> tuple[Tensor, str]:
    """(the background, of a shape that broadcasts to (N, 3, 32, 32), float32 in [0, 1]; what it is, in words)."""
    wanted = "white, black, a grey or (r, g, b) in [0, 1], or images (3, 32, 32) or (N, 3, 32, 32) with the N drawings"
    if isinstance(got, str):
        check_choice("background", got, ("white", "black"))
        return torch.full((1, 1, 1), float(got == "white")), got
    if not isinstance(got, Tensor):
        try:
            colour = torch.as_tensor(got, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError("background", got, wanted) from error
        words = f"colour {got}"
        behind = colour.reshape(-1, 1, 1)
        right = colour.shape in ((), (3,))
    else:
        behind = got.detach().cpu()
        behind = behind.float() / 255 if behind.dtype == torch.uint8 else behind.float()
        words = "images"
        right = behind.shape in ((3, 32, 32), (n, 3, 32, 32))
    if not right:
        raise InputError("background", f"shape {tuple(torch.as_tensor(got).shape)}", wanted)
    low, high = float(behind.min()), float(behind.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise InputError("background", f"values from {low:.4g} to {high:.4g}", wanted)
    return behind, words
