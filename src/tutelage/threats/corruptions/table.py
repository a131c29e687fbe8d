"""What each corruption is made with: the published constants for 32 and 224 pixels, and how they grow with the image.

The numbers are those with which the authors made CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tutelage.threats.corruptions import blur, digital, extra, noise, weather

Constants = Literal["auto", "cifar10-c", "imagenet-c"]
Row = tuple[float, ...]
LARGE = 112  # from this many pixels on the ImageNet-C table is the nearer one: half of 224


@dataclass(frozen=True)
class Entry:
    """A corruption. small, large: five rows of constants, for 32 and 224 pixels.

    growth: the power of size / 32 or size / 224 by which each constant is multiplied: 1 for a length in pixels, 0 for what has
    no length. Smoothed noise keeps its spread only if the noise grows as its filter does, and an elastic shift is
    alpha / sigma large, so that alpha has power 2. random: whether it draws anything.
    """

    apply: Callable[..., Tensor]
    family: str
    small: tuple[Row, Row, Row, Row, Row]
    large: tuple[Row, Row, Row, Row, Row]
    growth: tuple[int, ...]
    random: bool = True

    def constants(self, severity: int, size: int, which: Constants) -> Row:
        """Those of a severity, for images whose shorter side has `size` pixels; unchanged where a table is asked for."""
        if which != "auto":
            return (self.small if which == "cifar10-c" else self.large)[severity - 1]
        table, scale = (self.small, size / 32) if size < LARGE else (self.large, size / 224)
        return tuple(value * scale**power for value, power in zip(table[severity - 1], self.growth, strict=True))


def _rows(*values: float) -> tuple[Row, Row, Row, Row, Row]:
    one, two, three, four, five = values
    return (one,), (two,), (three,), (four,), (five,)


def _times(side: int, *rows: Row) -> tuple[Row, Row, Row, Row, Row]:
    one, two, three, four, five = (tuple(side * value for value in row) for row in rows)
    return one, two, three, four, five


# fmt: off
TABLE: dict[str, Entry] = {
    "gaussian_noise": Entry(noise.gaussian_noise, "noise", _rows(.04, .06, .08, .09, .1), _rows(.08, .12, .18, .26, .38), (0,)),
    "shot_noise": Entry(noise.shot_noise, "noise", _rows(500, 250, 100, 75, 50), _rows(60, 25, 12, 5, 3), (0,)),
    "impulse_noise": Entry(noise.impulse_noise, "noise", _rows(.01, .02, .03, .05, .07), _rows(.03, .06, .09, .17, .27), (0,)),
    "defocus_blur": Entry(  # radius, softness of the rim, scale of both
        blur.defocus_blur, "blur",
        ((.3, .4, 1), (.4, .5, 1), (.5, .6, 1), (1, .2, 1), (1.5, .1, 1)),
        ((3, .1, 1), (4, .5, 1), (6, .5, 1), (8, .5, 1), (10, .5, 1)),
        (0, 0, 1), random=False,
    ),
    "glass_blur": Entry(  # sigma, reach, rounds
        blur.glass_blur, "blur",
        ((.05, 1, 1), (.25, 1, 1), (.4, 1, 1), (.25, 1, 2), (.4, 1, 2)),
        ((.7, 1, 2), (.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        (1, 1, 0),
    ),
    "motion_blur": Entry(  # radius, sigma
        blur.motion_blur, "blur",
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        (1, 1),
    ),
    "zoom_blur": Entry(  # factors from 1 to below this one, in steps of
        blur.zoom_blur, "blur",
        ((1.06, .01), (1.11, .01), (1.16, .01), (1.21, .01), (1.26, .01)),
        ((1.11, .01), (1.16, .01), (1.21, .02), (1.26, .02), (1.31, .03)),
        (0, 0), random=False,
    ),
    "snow": Entry(  # mean, std, zoom, threshold, radius, sigma, share of the image that is kept
        weather.snow, "weather",
        ((.1, .2, 1, .6, 8, 3, .95), (.1, .2, 1, .5, 10, 4, .9), (.15, .3, 1.75, .55, 10, 4, .9),
         (.25, .3, 2.25, .6, 12, 6, .85), (.3, .3, 1.25, .65, 14, 12, .8)),
        ((.1, .3, 3, .5, 10, 4, .8), (.2, .3, 2, .5, 12, 4, .7), (.55, .3, 4, .9, 12, 8, .7),
         (.55, .3, 4.5, .85, 12, 8, .65), (.55, .3, 2.5, .85, 12, 12, .55)),
        (0, 0, 1, 0, 1, 1, 0),
    ),
    "frost": Entry(  # share of the image that is kept, strength, scale of the texture
        weather.frost, "weather",
        ((1, .2, .2), (1, .3, .2), (.9, .4, .2), (.85, .4, .2), (.75, .45, .2)),
        ((1, .4, 1), (.8, .6, 1), (.7, .7, 1), (.65, .7, 1), (.6, .75, 1)),
        (0, 0, 1),
    ),
    "fog": Entry(  # amount, decay of the plasma
        weather.fog, "weather",
        ((.2, 3), (.5, 3), (.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        (0, 0),
    ),
    "brightness": Entry(
        weather.brightness, "weather", _rows(.05, .1, .15, .2, .3), _rows(.1, .2, .3, .4, .5), (0,), random=False,
    ),
    "contrast": Entry(digital.contrast, "digital", _rows(.75, .5, .4, .3, .15), _rows(.4, .3, .2, .1, .05), (0,), random=False),
    "elastic_transform": Entry(  # alpha, sigma, affine; the authors' 244 for 224 pixels is theirs
        digital.elastic_transform, "digital",
        _times(32, (0, 0, .08), (.05, .2, .07), (.08, .06, .06), (.1, .04, .05), (.1, .03, .03)),
        _times(244, (2, .7, .1), (2, .08, .2), (.05, .01, .02), (.07, .01, .02), (.12, .01, .02)),
        (2, 1, 1),
    ),
    "pixelate": Entry(
        digital.pixelate, "digital", _rows(.95, .9, .85, .75, .65), _rows(.6, .5, .4, .3, .25), (0,), random=False,
    ),
    "jpeg_compression": Entry(
        digital.jpeg_compression, "digital", _rows(80, 65, 58, 50, 40), _rows(25, 18, 15, 10, 7), (0,), random=False,
    ),
    "speckle_noise": Entry(extra.speckle_noise, "extra", _rows(.06, .1, .12, .16, .2), _rows(.15, .2, .35, .45, .6), (0,)),
    "gaussian_blur": Entry(blur.gaussian_blur, "extra", _rows(.4, .6, .7, .8, 1), _rows(1, 2, 3, 4, 6), (1,), random=False),
    "spatter": Entry(  # mean, std, sigma, threshold, strength of water, sigma of mud (0: water)
        extra.spatter, "extra",
        ((.62, .1, .7, .7, .5, 0), (.65, .1, .8, .7, .5, 0), (.65, .3, 1, .69, .5, 0),
         (.65, .1, .7, .69, 0, .6), (.65, .1, .5, .68, 0, .6)),
        ((.65, .3, 4, .69, .6, 0), (.65, .3, 3, .68, .6, 0), (.65, .3, 2, .68, .5, 0),
         (.65, .3, 1, .65, 0, 1.5), (.67, .4, 1, .65, 0, 1.5)),
        (0, 1, 1, 0, 0, 1),
    ),
    "saturate": Entry(  # factor, more
        extra.saturate, "extra",
        ((.3, 0), (.1, 0), (1.5, 0), (2, .1), (2.5, .2)),
        ((.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2)),
        (0, 0), random=False,
    ),
}
# fmt: on

NAMES = tuple(TABLE)
COMMON = NAMES[:15]  # the benchmark; the other four are for validation

FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(name for name in NAMES if TABLE[name].family == family)
    for family in ("noise", "blur", "weather", "digital", "extra")
}
# the extra four are relatives of the families, so a model that has seen one has seen something of the family
KIN = {"speckle_noise": "noise", "gaussian_blur": "blur", "spatter": "weather", "saturate": "digital"}
