"""Digits coloured by us: what they look like, their prompts, their splits."""

from __future__ import annotations

import os

import pytest
import torch

from tutelage.core.errors import InputError, SplitError
from tutelage.data.coloured_digits import ATTRIBUTES, BACKGROUNDS, COLOURS, WORDS, all_prompts, coloured, coloured_digits
from tutelage.data.guard import training_only
from tutelage.data.images import ImageSet


def test_ink_has_the_colour_and_the_rest_the_background():
    ink = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    ink[:, :, 2:14] = 255  # the upper half of what is kept
    found = coloured(ImageSet(ink, torch.arange(40) % 10, tuple("0123456789"), split="train"), 12)
    images, attributes = found[slice(None)]
    assert images.shape == (40, 3, 12, 12)
    for image, (_, colour, ground) in zip(images, attributes.tolist(), strict=True):
        assert torch.allclose(image[:, 0, 0], torch.tensor(list(COLOURS.values())[colour]), atol=1 / 255)
        assert torch.allclose(image[:, 11, 0], torch.full((3,), list(BACKGROUNDS.values())[ground]), atol=1 / 255)
    assert found.prompts[3] == f"3 {ATTRIBUTES['colour'][attributes[3, 1]]} {ATTRIBUTES['background'][attributes[3, 2]]}"
    assert len({tuple(row) for row in attributes[:, 1:].tolist()}) == 6


def test_splits_of_the_small_digits_share_no_picture_and_copies_are_coloured_anew():
    parts = {split: coloured_digits(split, 8, source="sklearn-digits") for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [1079, 359, 359]
    twice = coloured_digits("train", 8, source="sklearn-digits", copies=2)
    assert len(twice) == 2158
    assert torch.equal(twice.attributes[:1079, 0], twice.attributes[1079:, 0])
    assert not torch.equal(twice.attributes[:1079, 1], twice.attributes[1079:, 1])
    with training_only(), pytest.raises(SplitError):
        parts["test"][0]


def test_there_are_60_prompts_of_known_words():
    assert len(set(all_prompts())) == 60
    assert {word for prompt in all_prompts() for word in prompt.split()} == set(WORDS)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="split"):
        coloured_digits("all", 8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="source"):
        coloured_digits("train", 8, source="mnist")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size"):
        coloured_digits("train", 0, source="sklearn-digits")


@pytest.mark.skipif("TUTELAGE_DATA" not in os.environ, reason="needs MNIST-10k: set TUTELAGE_DATA")
def test_mnist_10k_is_split_8_to_2_and_its_test_digits_are_mnists_own():
    sizes = [len(coloured_digits(split, 12)) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert sizes == [8000, 2000, 10_000]
