"""The strong augmentation: identity, single parts by hand, ranges, randomness."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.data.strong import StrongAugment, shift_hue

ONE = (1.0, 1.0)
STILL: dict[str, object] = {
    "flip": False, "brightness": ONE, "contrast": ONE, "saturation": ONE, "hue": (0.0, 0.0), "gamma": ONE, "degrees": 0.0,
    "shift": 0.0, "scale": ONE, "blur": (1e-4, 1e-4), "noise": 0.0,
}  # fmt: skip


def only(**settings: object) -> StrongAugment:
    """Everything switched off but what is given."""
    return StrongAugment(**{**STILL, **settings})  # type: ignore[arg-type]


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(channels: int = 3, n: int = 4) -> Tensor:
    return torch.rand(n, channels, 12, 10, generator=g(7))


@pytest.mark.parametrize("channels", [1, 3])
def test_with_all_parts_off_nothing_changes(channels: int) -> None:
    x = pictures(channels)
    torch.testing.assert_close(only()(x, g()), x, atol=2e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_range_shape_and_the_input_itself(channels: int) -> None:
    x = pictures(channels, 16)
    before = x.clone()
    out = StrongAugment()(x, g())
    assert torch.equal(x, before)
    assert out.shape == x.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert float((out - x).abs().mean()) > 0.02


def test_the_same_generator_gives_the_same_and_each_image_its_own() -> None:
    x = pictures(n=1).expand(3, -1, -1, -1)
    out = StrongAugment()(x, g())
    assert torch.equal(out, StrongAugment()(x, g()))
    assert not torch.allclose(out[0], out[1], atol=1e-2)
    together = StrongAugment(together=True, noise=0)(x, g())
    torch.testing.assert_close(together[0], together[1])


def test_brightness_and_gamma_by_hand() -> None:
    x = torch.full((2, 1, 8, 8), 0.5)
    torch.testing.assert_close(only(brightness=(0.6, 0.6))(x, g()), torch.full_like(x, 0.3))
    torch.testing.assert_close(only(brightness=(3.0, 3.0))(x, g()), torch.ones_like(x))
    torch.testing.assert_close(only(gamma=(2.0, 2.0))(x, g()), torch.full_like(x, 0.25))


def test_contrast_draws_to_the_mean_of_the_image_and_saturation_to_grey() -> None:
    x = pictures()
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    flat = only(contrast=(0.0, 0.0))(x, g())
    torch.testing.assert_close(flat, grey.mean((2, 3), keepdim=True).expand_as(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(only(saturation=(0.0, 0.0))(x, g()), grey.expand_as(x), atol=1e-5, rtol=0)


def test_hue_is_turned_as_the_standard_library_does() -> None:
    x = pictures(n=1)
    turned = shift_hue(x, torch.full((1, 1, 1, 1), 0.3))
    for row, column in ((0, 0), (3, 5), (11, 9)):
        h, s, v = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
        wanted = colorsys.hsv_to_rgb((h + 0.3) % 1, s, v)
        assert turned[0, :, row, column].tolist() == pytest.approx(wanted, abs=1e-5)
    grey = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(shift_hue(grey, torch.full((1, 1, 1, 1), 0.3)), grey)


def test_a_flip_comes_half_the_time() -> None:
    x = pictures(1, 400)
    out = only(flip=True)(x, g())
    flipped = (out - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    kept = (out - x).abs().amax((1, 2, 3)) < 1e-5
    assert bool((flipped | kept).all())
    assert 150 < int(flipped.sum()) < 250


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    x = torch.rand(1, 1, 9, 9, generator=g(1))
    turned = only(degrees=90.0)
    # 2 u - 1 of the one draw decides the angle: look for a seed near an end
    out = [turned(x, g(seed)) for seed in range(60)]
    nearest = min(float((o - wanted).abs().mean()) for o in out for wanted in (x.rot90(1, (2, 3)), x.rot90(-1, (2, 3))))
    far = min(float((o - x.flip(3)).abs().mean()) for o in out)
    assert nearest < 0.1 < far


def test_outside_the_edge_goes_on() -> None:
    x = torch.full((8, 1, 12, 12), 0.7)
    torch.testing.assert_close(only(shift=0.5, degrees=40.0, scale=(0.5, 0.5))(x, g()), x)


def test_blur_keeps_the_sum_inside_and_spreads_a_point() -> None:
    x = torch.zeros(1, 1, 11, 11)
    x[0, 0, 5, 5] = 1
    out = only(blur=(0.5, 0.5))(x, g())
    w = torch.exp(-0.5 * (torch.arange(-2, 3) / 0.5) ** 2)
    w = w / w.sum()
    torch.testing.assert_close(out[0, 0, 3:8, 3:8], w[:, None] * w[None, :], atol=1e-6, rtol=1e-4)


def test_wrong_spans_and_inputs_are_named() -> None:
    with pytest.raises(InputError, match="gamma"):
        StrongAugment(gamma=(1.3, 0.7))
    with pytest.raises(InputError, match="noise"):
        StrongAugment(noise=-1)
    with pytest.raises(InputError, match="channels"):
        StrongAugment()(torch.rand(2, 4, 8, 8), g())
