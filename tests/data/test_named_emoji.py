from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, MissingError
from tutelage.data import named_emoji as module
from tutelage.data.emoji import emoji
from tutelage.data.named_emoji import named_emoji


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reader of names that needs no weights: the length of a name is its first number."""

    def vectors(_: Path, texts: tuple[str, ...]) -> Tensor:
        found = torch.zeros(len(texts), module.DIM)
        found[:, 0] = torch.tensor([float(len(text)) for text in texts])
        return found

    monkeypatch.setattr(module, "weights_folder", lambda name: tmp_path)
    monkeypatch.setattr(module, "sentence_vectors", vectors)
    module._vectors.cache_clear()
    yield
    module._vectors.cache_clear()


def test_every_drawing_has_its_own_name(by_length: None, tmp_path: Path) -> None:
    found, drawn = named_emoji("test", cache=Cache(tmp_path)), emoji(split="test")
    x, y = found.take(slice(None), "test").inputs, found.labels
    assert x["picture"].shape == (len(drawn), 3, 32, 32)
    assert x["name"][:, 0].tolist() == [len(one.name) for one in drawn.entries]
    assert [found.classes[i] for i in y.tolist()] == [one.group for one in drawn.entries]
    assert len(found.classes) == 9


def test_no_emoji_is_in_two_splits(by_length: None, tmp_path: Path) -> None:
    parts = [
        set(named_emoji(split, styles="noto", cache=Cache(tmp_path)).groups.tolist())
        for split in ("train", "validation", "test")
    ]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[2] & (parts[0] | parts[1])


def test_unknown_splits_and_missing_weights_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^split: got all, wanted one of train, validation, test"):
        named_emoji("all")  # type: ignore[arg-type]
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    module._vectors.cache_clear()
    with pytest.raises(MissingError, match="tutelage data get minilm"):
        named_emoji("test")
