"""Emoji as two modalities: the drawing, and the name as MiniLM reads it. Nine groups, the second real set for fused models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.core.cache import Cache, default_cache_dir
from tutelage.core.checks import check_choice
from tutelage.core.errors import MissingError
from tutelage.core.files import sha256_text
from tutelage.data.emoji import FILE_SHA256, STYLES, Background, emoji
from tutelage.data.fetch import weights_folder
from tutelage.data.homes import HOMES
from tutelage.data.images import Split
from tutelage.data.multimodal import MultiModalSet

DIM = 384
BATCH = 64


def named_emoji(
    split: Split, *, styles: str | Sequence[str] = STYLES, background: Background = "white", cache: Cache | None = None
) -> MultiModalSet:
    """{"picture": (N, 3, 32, 32) in [0, 1], "name": (N, 384) of length 1} with the emoji's group as label, nine classes.

    split: "train", "validation" or "test", disjoint by emoji; `groups` of the set is the emoji, since its styles share a name.
    The names are Unicode's English ones, made vectors by all-MiniLM-L6-v2 once, then from the cache. Needs the extra
    `lm` and `tutelage data get minilm`: raises MissingError without them, InputError for unknown splits and styles.
    """
    check_choice("split", split, ("train", "validation", "test"))
    chosen = emoji(styles, split)
    shown = chosen.on(background)
    vectors, whose = _vectors(tuple(one.name for one in chosen.table), cache or Cache(default_cache_dir()))
    return MultiModalSet(
        {"picture": shown.images, "name": vectors[chosen.emoji]},
        shown.labels,
        shown.classes,
        groups=chosen.emoji.clone(),
        name=f"named {shown.name}",
        split=split,
        origin={**shown.origin, "names": "all-MiniLM-L6-v2", "model_sha256": whose},
    )


@lru_cache(maxsize=2)
def _vectors(names: tuple[str, ...], cache: Cache) -> tuple[Tensor, str]:
    """(M, 384) and the hash of the weights that made them."""
    folder = weights_folder("minilm")
    whose = sha256_text("".join(file.sha256 for file in HOMES["minilm"].files))  # as `weights_folder` found them

    def build(place: Path) -> None:
        save_file({"vectors": sentence_vectors(folder, names)}, place / "names.safetensors")

    key = {"emoji": FILE_SHA256, "names": sha256_text("\n".join(names)), "model": whose, "version": 1}
    return load_file(cache.get("named-emoji", key, build) / "names.safetensors")["vectors"], whose


def sentence_vectors(folder: Path, texts: Sequence[str]) -> Tensor:
    """(N, 384): the mean of MiniLM's token vectors, at length 1, as its authors use it."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingError("the names of emoji need transformers: pip install 'tutelage[lm]'") from error
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length together: less padding
    found = torch.zeros(len(texts), DIM)
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            places = order[start : start + BATCH]
            coded = tokenizer([texts[i] for i in places], padding=True, truncation=True, return_tensors="pt")
            mask = coded["attention_mask"][..., None]
            mean = (model(**coded).last_hidden_state * mask).sum(1) / mask.sum(1)
            found[places] = torch.nn.functional.normalize(mean, dim=1)
    return found
