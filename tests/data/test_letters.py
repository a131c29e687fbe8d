"""Rendered letters: form, seeds, and that they look like digits of MNIST without being any."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.errors import InputError
from tutelage.data.letters import LETTERS, letters


def test_letters_have_the_form_of_mnist() -> None:
    data = letters(300, seed=3, split="test")
    assert (data.images.shape, data.images.dtype) == ((300, 1, 28, 28), torch.uint8)
    assert (data.classes, data.kind, data.split) == (LETTERS, "generated", "test")
    assert len(data.labels.unique()) == 26
    rows, columns = (data.images.amax(dims)[:, 0] > 0 for dims in (3, 2))
    assert bool((torch.maximum(rows.sum(1), columns.sum(1)) <= 20).all())  # the box of 20 pixels
    assert bool((torch.maximum(rows.sum(1), columns.sum(1)) >= 14).all())
    ink = data.images.float().mean() / 255
    assert 0.08 < ink < 0.18  # MNIST: 0.13
    assert int((data.images[:, :, :2] > 0).sum()) == 0


def test_the_seed_decides_and_sizes_scale() -> None:
    assert letters(20, seed=1).sha256 == letters(20, seed=1).sha256
    assert letters(20, seed=1).sha256 != letters(20, seed=2).sha256
    assert letters(4, size=8).images.shape == (4, 1, 8, 8)
    assert bool((letters(50, size=64).images.flatten(1).amax(1) == 255).all())


def test_a_letter_is_the_one_that_its_label_says() -> None:
    data = letters(400)
    i_s, m_s = (data.images[data.labels == LETTERS.index(letter)].float() for letter in "IM")
    assert float((i_s.amax(2) > 0).sum(-1).float().mean()) < float((m_s.amax(2) > 0).sum(-1).float().mean()) - 5


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"^n"):
        letters(0)
    with pytest.raises(InputError, match=r"^size"):
        letters(1, size=7)
