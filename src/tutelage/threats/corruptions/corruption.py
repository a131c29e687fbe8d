"""`corrupt` and `Corruption`: a named corruption of a severity, as a Threat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import uniform
from tutelage.models.checks import check_inputs
from tutelage.threats.corruptions.common import Draws
from tutelage.threats.corruptions.table import FAMILIES, KIN, NAMES, TABLE, Constants

SEVERITIES = (1, 2, 3, 4, 5)
TRAIN = ("noise", "blur")  # families for "train on some, test on the others"
TEST = ("weather", "digital")
LEAST = 16  # pixels a side; below, the published lengths are less than half a pixel or longer than the image
AT_ONCE = 1 << 21  # values: as many images at once as stay in the cache of a processor


def corrupt(
    x: Tensor,
    name: str,
    severity: int,
    *,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | Tensor | None = None,
    constants: Constants = "auto",
) -> Tensor:
    """Images x (B, C, H, W), C = 1 or 3, float32 in [0, 1] -> corrupted images of the same shape, type, range and device.

    name: one of NAMES. severity: 1 to 5. seeds: B integers, one an image: then an image's result depends only on the image
    and its seed. generator: a CPU generator from which the seeds are drawn, one an image: consecutive batches get the same
    seeds however they are cut. One of the two is needed by corruptions that draw noise. constants: "auto" takes the published
    ones for 32 pixels below 112 and those for 224 from there on, lengths in proportion to the shorter side; "cifar10-c" and
    "imagenet-c" take a published table as it is.

    Raises InputError for another name, severity, shape, type or range.
    """
    check_choice("name", name, NAMES)
    check_integer("severity", severity, low=1, high=5)
    check_choice("constants", constants, get_args(Constants))
    _check_images(x)
    entry = TABLE[name]
    values = entry.constants(severity, min(x.shape[2:]), constants)
    chosen = _seeds(len(x), generator, seeds) if entry.random or seeds is not None else [0] * len(x)
    per_image = max(1, x[0].numel())
    many = max(1, AT_ONCE // per_image) if x.device.type == "cpu" else len(x)

    def made(part: slice) -> Tensor:
        draws = Draws.seeded(chosen[part], name, x.device) if entry.random else Draws((), x.device)
        given = x[part].contiguous()
        found = entry.apply(given, draws, *values)
        kept = found.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
        return (found.clamp(0, 1) if kept else found.clamp_(0, 1)).contiguous()

    with torch.no_grad():
        if len(x) <= many:
            return made(slice(None))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for start in range(0, len(x), many):
            part = slice(start, start + many)
            out[part] = made(part)
        return out


@dataclass(frozen=True)
class Corruption:
    """A corruption as a Threat: `threat(x, y, model=..., generator=...) -> x'`. It needs neither labels nor a model."""

    name: str
    severity: int = 3
    constants: Constants = "auto"

    def __post_init__(self) -> None:
        check_choice("name", self.name, NAMES)
        check_integer("severity", self.severity, low=1, high=5)
        check_choice("constants", self.constants, get_args(Constants))

    def __call__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        model: nn.Module | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W) in [0, 1] -> the same, corrupted; see `corrupt`."""
        return corrupt(x, self.name, self.severity, generator=generator, seeds=seeds, constants=self.constants)

    @property
    def family(self) -> str:
        return TABLE[self.name].family

    @property
    def random(self) -> bool:
        """Whether it draws noise, and so needs a generator or seeds."""
        return TABLE[self.name].random

    def __str__(self) -> str:
        return f"{self.name}@{self.severity}"


def corruptions(
    names: Sequence[str] = NAMES, severities: Sequence[int] = SEVERITIES, constants: Constants = "auto"
) -> Iterator[Corruption]:
    """Names and families, each at each severity, in that order."""
    for name in expanded(names):
        for severity in severities:
            yield Corruption(name, severity, constants)


def expanded(names: Sequence[str], argument: str = "names") -> tuple[str, ...]:
    """Names of corruptions, with families spelled out, each once."""
    if isinstance(names, str):
        raise InputError(argument, names, "a list of names")
    found: dict[str, None] = {}
    for name in names:
        check_choice(argument, name, (*FAMILIES, *NAMES))
        found.update(dict.fromkeys(FAMILIES.get(name, (name,))))
    return tuple(found)


def train_test(train: Sequence[str] = TRAIN, test: Sequence[str] = TEST) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the corruptions to train on and to test on; families and names may be given.

    Raises InputError where a family is on both sides. The extra four count to the family that they are related to:
    speckle_noise to noise, gaussian_blur to blur, spatter to weather, saturate to digital.
    """
    sides = expanded(train, "train"), expanded(test, "test")
    for argument, side in zip(("train", "test"), sides, strict=True):
        if not side:
            raise InputError(argument, "no corruption", f"names or families among {', '.join(FAMILIES)}")
    kin = [{KIN.get(name, TABLE[name].family) for name in side} for side in sides]
    if both := sorted(kin[0] & kin[1]):
        raise InputError(
            "test", f"corruptions of the family {both[0]!r}, which is trained on", "families that are not in train"
        )
    return sides


def _check_images(x: Tensor) -> None:
    check_inputs(x)
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        raise InputError("x", f"shape {tuple(x.shape)}", "images (B, C, H, W) with 1 or 3 channels")
    if min(x.shape[2:]) < LEAST:
        raise InputError("x", f"images of {x.shape[2]} x {x.shape[3]} pixels", f"at least {LEAST} pixels a side")
    if x.dtype != torch.float32:
        raise InputError("x", f"dtype {x.dtype}", "float32")


def _seeds(n: int, generator: torch.Generator | None, seeds: Sequence[int] | Tensor | None) -> list[int]:
    if seeds is not None:
        if generator is not None:
            raise InputError("generator", "a generator and seeds", "one of the two")
        flat = seeds.tolist() if isinstance(seeds, Tensor) else list(seeds)
        if len(flat) != n or not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in flat):
            raise InputError("seeds", f"{len(flat)} of them: {flat[:3]}", f"{n} integers, one an image")
        return [int(seed) for seed in flat]
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise InputError("generator", generator, "a CPU torch.Generator, or seeds, as this corruption draws noise")
    # two numbers of 24 bits an image, by the draw that also keeps several processes in step
    high, low = uniform((n, 2), generator).mul_(1 << 24).long().unbind(1)
    return [int(seed) for seed in (high << 24) | low]
