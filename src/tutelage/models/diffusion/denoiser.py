"""A conditional diffusion model: what the methods ask of one, and the one that is made of a text encoder and a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError
from tutelage.models.diffusion.schedule import PREDICTIONS, NoiseSchedule, Prediction


@dataclass(frozen=True, eq=False)
class Condition:
    """Prompts as a network takes them: features (B, L, D), and mask (B, L), True where there is a token to look at."""

    features: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Any) -> Condition:
        return Condition(self.features[index], self.mask[index])

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        return Condition(self.features.to(device), self.mask.to(device))

    def expand(self, n: int) -> Condition:
        """One prompt for n samples, or n prompts as they are."""
        if len(self) == n:
            return self
        if len(self) != 1:
            raise InputError("condition", f"{len(self)} prompts for {n} samples", "one prompt, or one for each sample")
        return Condition(self.features.expand(n, -1, -1), self.mask.expand(n, -1))

    def same(self, other: Condition) -> bool:
        """Whether the tokens that are looked at are the same, row by row (one row is compared with each of the other)."""
        n = max(len(self), len(other))
        one, two = self.expand(n), other.expand(n)
        length = max(one.mask.shape[1], two.mask.shape[1])
        a, b = padded(one, length), padded(two, length)
        return torch.equal(a.mask, b.mask) and torch.equal(a.features * a.mask[..., None], b.features * b.mask[..., None])


def padded(condition: Condition, length: int) -> Condition:
    """The same prompts with room for `length` tokens."""
    missing = length - condition.mask.shape[1]
    features = nn.functional.pad(condition.features, (0, 0, 0, missing))
    return Condition(features, nn.functional.pad(condition.mask, (0, missing)))


def joined(*conditions: Condition) -> Condition:
    """Prompts one below the other, padded to the longest."""
    length = max(one.mask.shape[1] for one in conditions)
    same = [padded(one, length) for one in conditions]
    return Condition(torch.cat([one.features for one in same]), torch.cat([one.mask for one in same]))


@runtime_checkable
class Denoiser(Protocol):
    """A conditional diffusion model. x in [-1, 1] or a latent space (B, ...); t (B,) int64 levels of `schedule`.

    encode: prompts -> Condition of as many rows; "" is the null prompt. denoise: what the network says, of kind `prediction`.
    """

    schedule: NoiseSchedule
    prediction: Prediction

    def encode(self, prompts: Sequence[str]) -> Condition: ...

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor: ...


class TextEncoder(Protocol):
    """Words to features, in three steps, so that an attack may reach in between (advunlearn)."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor: ...  # (B, L) ids

    def embed(self, ids: Tensor) -> Tensor: ...  # (B, L, D)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor: ...  # (B, L, C)

    def mask(self, ids: Tensor) -> Tensor: ...  # (B, L) bool


class PromptDenoiser(nn.Module):
    """A text encoder and a network: a Denoiser.

    text: a TextEncoder that is a module. net: (x (B, C, H, W), t (B,), features (B, L, D), mask (B, L)) -> (B, C, H, W),
    as `small_unet` and `small_dit` make them. prediction: what the network says, "eps", "v" or "x0".
    """

    def __init__(
        self, text: nn.Module, net: nn.Module, schedule: NoiseSchedule, prediction: Prediction = "eps"
    ) -> None:  # fmt: skip
        super().__init__()
        for name in ("tokenize", "embed", "encode", "mask"):
            if not callable(getattr(text, name, None)):
                raise InputError("text", f"{type(text).__name__} without {name}", "a text encoder such as WordEncoder")
        if not isinstance(net, nn.Module):
            raise InputError("net", type(net).__name__, "an nn.Module: small_unet(...), small_dit(...) or your own")
        if not isinstance(schedule, NoiseSchedule):
            raise InputError("schedule", type(schedule).__name__, "a NoiseSchedule: noise_schedule()")
        check_choice("prediction", prediction, PREDICTIONS)
        self.text, self.net, self.schedule, self.prediction = text, net, schedule, prediction

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def _text(self) -> TextEncoder:
        return cast(TextEncoder, self.text)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) ids. Raises InputError for a prompt that is too long or has a word that the encoder does not know."""
        return self._text.tokenize(checked_prompts(prompts)).to(self.device)

    def condition(self, ids: Tensor) -> Condition:
        """ids (B, L) -> Condition."""
        mask = self._text.mask(ids)
        return Condition(self._text.encode(self._text.embed(ids), mask), mask)

    def encode(self, prompts: Sequence[str]) -> Condition:
        return self.condition(self.tokenize(prompts))

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return cast(Tensor, self.net(x, t, condition.features, condition.mask))

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """As `denoise`, of token ids."""
        return self.denoise(x, t, self.condition(ids))


def predicted(denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
    """(x0, eps) as the denoiser sees them at x_t."""
    return denoiser.schedule.x0_eps(denoiser.prediction, denoiser.denoise(x, t, condition), x, t)


def predicted_eps(denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """eps alone: of an x0 model it does not need a_t > 0."""
    return predicted(denoiser, x, t, condition)[1]


def checked_prompts(prompts: object) -> list[str]:
    """A list of prompts; InputError for anything else, one string included."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not all(isinstance(one, str) for one in prompts):
        raise InputError("prompts", prompts, "a list of strings")
    if not prompts:
        raise InputError("prompts", "no prompt", "one at least")
    return list(prompts)
