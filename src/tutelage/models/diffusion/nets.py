"""Two small networks made of diffusers' blocks: a U-Net as in Stable Diffusion, a transformer as in PixArt-alpha.

Both look at the prompt by cross-attention and take what a user's own network takes in the same place:
(x (B, C, H, W), t (B,), features (B, L, D), mask (B, L)) -> (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.diffusion.extras import extra


class Skip(nn.Module):
    """(1 + b) net(x) + c x, with b and c learned as functions of the level, 0 at first; levels: T.

    They are c_out and c_skip of Karras et al. 2022 (arXiv 2206.00364). A narrow network has too few channels before its last
    norm to hand the noise through, and the norm takes its size away.
    """

    def __init__(self, levels: int = 1000) -> None:
        super().__init__()
        self.levels = levels
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
        nn.init.zeros_(cast(nn.Linear, self.layers[2]).weight)
        nn.init.zeros_(cast(nn.Linear, self.layers[2]).bias)

    def forward(self, said: Tensor, x: Tensor, t: Tensor) -> Tensor:
        u = ((t.to(x) + 1) / self.levels)[:, None]
        found: Tensor = self.layers(torch.cat([u, u.sqrt(), u.log() / 3], 1))
        b, c = found[:, 0, None, None, None], found[:, 1, None, None, None]
        return (1 + b) * said + c * x


class UNetNet(nn.Module):
    """A `UNet2DConditionModel` of diffusers. patch: pixels are folded into channels by that factor, and back at the end."""

    def __init__(self, unet: nn.Module, patch: int = 1, *, skip: Skip | None = None) -> None:
        super().__init__()
        self.unet, self.patch, self.skip = unet, patch, skip

    def forward(self, x: Tensor, t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        folded = pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        out: Tensor = self.unet(folded, t, encoder_hidden_states=features, encoder_attention_mask=mask, return_dict=False)[0]
        out = pixel_shuffle(out, self.patch) if self.patch > 1 else out
        return out if self.skip is None else cast(Tensor, self.skip(out, x, t))


class DiTNet(nn.Module):
    """A `PixArtTransformer2DModel` of diffusers; its second half of channels, a learned variance, is left out if it has one."""

    def __init__(self, transformer: nn.Module, *, skip: Skip | None = None) -> None:
        super().__init__()
        self.transformer, self.skip = transformer, skip

    def forward(self, x: Tensor, t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        asked = {"encoder_hidden_states": features, "timestep": t, "encoder_attention_mask": mask}
        nothing = {"resolution": None, "aspect_ratio": None}
        out: Tensor = self.transformer(x, **asked, added_cond_kwargs=nothing, return_dict=False)[0]
        out = out[:, : x.shape[1]]
        return out if self.skip is None else cast(Tensor, self.skip(out, x, t))


def small_unet(
    size: int,
    *,
    channels: int = 3,
    text_dim: int = 32,
    widths: Sequence[int] = (24, 48),
    heads: int = 4,
    patch: int = 2,
    layers: int = 1,
    skip: bool = True,
) -> UNetNet:
    """A U-Net for pictures of size x size: a stage for each of `widths`, the first one without attention.

    patch: pixels folded into channels before the first stage (1: none); size / patch must be divisible by 2 for each further
    stage. text_dim: of the prompt's features. skip: with a `Skip`. Weights are drawn from torch's global generator
    (`core.rng.seeded`).
    """
    check_integer("size", size)
    for name, value in (("channels", channels), ("text_dim", text_dim), ("heads", heads), ("patch", patch), ("layers", layers)):
        check_integer(name, value)
    if len(widths) < 2 or any(not isinstance(width, int) or width % 8 or width % heads for width in widths):
        raise InputError("widths", widths, f"two or more multiples of 8 and of heads={heads}")
    if size % (patch * 2 ** (len(widths) - 1)):
        raise InputError(
            "size", size, f"a multiple of {patch * 2 ** (len(widths) - 1)}, for patch {patch} and {len(widths)} stages"
        )
    folded = channels * patch**2
    stages = len(widths) - 1
    unet = extra("diffusers", "small_unet").UNet2DConditionModel(
        sample_size=size // patch,
        in_channels=folded,
        out_channels=folded,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * stages),
        up_block_types=(*["CrossAttnUpBlock2D"] * stages, "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=text_dim,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )
    return UNetNet(unet, patch, skip=Skip() if skip else None)


def small_dit(
    size: int,
    *,
    channels: int = 3,
    text_dim: int = 32,
    width: int = 64,
    heads: int = 4,
    patch: int = 2,
    layers: int = 4,
    skip: bool = True,
) -> DiTNet:
    """A transformer over patches of size x size pictures, with adaLN for the level and cross-attention for the prompt."""
    for name, value in (
        ("size", size), ("channels", channels), ("text_dim", text_dim), ("width", width), ("heads", heads), ("patch", patch),
        ("layers", layers),
    ):  # fmt: skip
        check_integer(name, value)
    if size % patch:
        raise InputError("size", size, f"a multiple of patch={patch}")
    if width % (4 * heads):
        raise InputError("width", width, f"a multiple of 4 x heads, {4 * heads}")
    transformer = extra("diffusers", "small_dit").PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        cross_attention_dim=width,
        sample_size=size,
        patch_size=patch,
        caption_channels=text_dim,
        use_additional_conditions=False,
    )
    return DiTNet(transformer, skip=Skip() if skip else None)


def weights_of(net: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(cast(Any, p).numel() for p in net.parameters())
