"""Made pictures, judged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.auditing.generated import features_of, likeness, suppression
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.core.stats import wilson


def test_features_are_taken_in_eval_mode_batch_by_batch_and_of_bytes_too():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 2)).train()
    images = torch.rand(7, 3, 2, 2, generator=generator(0))
    whole, parts = features_of(images, net), features_of(images, net, batch_size=3)
    assert torch.allclose(whole, parts)
    assert net.training
    assert torch.allclose(features_of((images * 255).round().to(torch.uint8), net), whole, atol=0.02)
    assert features_of(images, lambda x: x).shape == (7, 12)


def test_likeness_of_pictures_to_themselves_and_to_darker_ones():
    images = torch.rand(64, 1, 2, 2, generator=generator(1))
    same, darker = likeness(images, images, lambda x: x), likeness(images, images / 3, lambda x: x)
    assert same.frechet == pytest.approx(0, abs=1e-9)
    assert (same.precision, same.recall) == (1.0, 1.0)
    assert darker.frechet > 0.1
    assert darker.recall < 0.5
    assert (darker.n_real, darker.n_made) == (64, 64)
    assert likeness(images.flatten(1), (images / 3).flatten(1)).frechet == pytest.approx(darker.frechet)


def test_the_suppression_rate_by_hand():
    before = torch.tensor([True] * 6 + [False] * 4)
    after = torch.tensor([True] + [False] * 9)
    found = suppression(before, after)
    assert (found.n, found.before, found.after, found.without) == (10, 0.6, 0.1, 0.9)
    assert found.after_ci95 == wilson(1, 10)
    assert found.p_value == pytest.approx(2 * 0.5**5)  # five pictures changed, all one way
    assert suppression(before, before).p_value == 1.0


def test_bad_input_is_named():
    with pytest.raises(InputError, match="seen_before"):
        suppression(torch.tensor([1, 0]), torch.tensor([True, False]))
    with pytest.raises(InputError, match="seen_after"):
        suppression([True], [True, False])
    with pytest.raises(InputError, match="images"):
        features_of(torch.zeros(3, 4), lambda x: x)
    with pytest.raises(InputError, match="x"):
        features_of(torch.full((2, 1, 2, 2), 7.0), lambda x: x)
    with pytest.raises(InputError, match="neighbours"):
        likeness(torch.zeros(3, 4), torch.zeros(3, 4), neighbours=1)
