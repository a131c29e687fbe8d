"""Models as users have them, made into what an audit takes: an nn.Module from inputs to logits (B, classes).

    Normalized(net)                          a net that wants normalised images, as those of timm do
    Logits(net, "logits")                    a net that returns a dict, a tuple or an object
    InDtype(net)                             a net in half precision
    LogProbabilities(net)                    a net that ends in a softmax

Each is a module around the user's own one, and passes gradients through. Models that only answer are in
`models.black_box` (functions), `models.estimators` (scikit-learn) and `models.remote` (HTTP).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError

FLOOR = float(torch.finfo(torch.float32).tiny)  # of a probability; its logarithm is -87.3
SUM = 0.05  # how far the probabilities of a row may be from 1 in sum: a server may round them


class Wrapper(nn.Module):
    """A module around the user's own one, in `model`. Weights saved without the wrapper can be loaded into it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InputError("model", type(model).__name__, "an nn.Module (from_function and from_sklearn take other models)")
        self.model = model


class Logits(Wrapper):
    """The logits of a model that returns more than logits.

    pick: the key of a dict, or the attribute of an object ("logits"); the place in a tuple or list (0, -1); or a function
    of what the model returned. Raises InputError if nothing is there.

    Example::

        model = Logits(detector, "scores")
        model = Logits(network, 0)
        model = Logits(network, lambda out: out["heads"][0])
    """

    def __init__(self, model: nn.Module, pick: str | int | Callable[[Any], Tensor] = "logits") -> None:
        super().__init__(model)
        if isinstance(pick, bool) or not (isinstance(pick, str | int) or callable(pick)):
            raise InputError("pick", pick, "a key, a position, or a function of the outputs")
        self.pick: str | int | Callable[[Any], Any] = pick

    def forward(self, *inputs: Any) -> Any:
        outputs = self.model(*inputs)
        if callable(self.pick):
            return self.pick(outputs)
        if isinstance(self.pick, str):
            if isinstance(outputs, Mapping) and self.pick in outputs:
                return outputs[self.pick]
            if hasattr(outputs, self.pick):
                return getattr(outputs, self.pick)
        elif isinstance(outputs, tuple | list) and -len(outputs) <= self.pick < len(outputs):
            return outputs[self.pick]
        raise InputError("pick", repr(self.pick), f"what is in the model's outputs: {_content(outputs)}")

    def extra_repr(self) -> str:
        return f"pick={name_of(self.pick)}"


def _content(outputs: object) -> str:
    """What a user can pick from."""
    if isinstance(outputs, Mapping):
        return f"a dict of {', '.join(map(repr, outputs)) or 'nothing'}"
    if isinstance(outputs, tuple | list):
        return f"{len(outputs)} values, {', '.join(type(value).__name__ for value in outputs)}"
    return f"one {type(outputs).__name__}"


class Normalized(Wrapper):
    """(x - mean) / std a channel, then the model: images (B, C, H, W) in [0, 1] go in, so that budgets are in pixels.

    mean, std: one number a channel, in units of pixels in [0, 1] (for statistics of 0 to 255, divide by 255). Left out,
    they are those of the model's `pretrained_cfg` or `default_cfg`, where timm keeps them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__(model)
        known = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
        for name, given in (("mean", mean), ("std", std)):
            found = (
                given if given is not None else known.get(name) if isinstance(known, Mapping) else getattr(known, name, None)
            )
            if found is None:
                raise InputError(name, None, "one number a channel (the model has no pretrained_cfg that holds it)")
            try:
                values = torch.as_tensor(found, dtype=torch.float32).reshape(-1)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(name, found, "one number a channel") from error
            if not len(values) or not bool(torch.isfinite(values).all()) or bool((values.abs() > 2).any()):
                raise InputError(
                    name, found, "finite numbers in units of pixels in [0, 1]; divide those of 0-255 images by 255"
                )
            self.register_buffer(name, values)
        if not bool((self.std > 0).all()):
            raise InputError("std", self.std.tolist(), "numbers above 0")
        if len(self.mean) != len(self.std):
            raise InputError("std", f"{len(self.std)} numbers", f"as many as mean has, {len(self.mean)}")

    def forward(self, x: Tensor) -> Any:
        if x.dim() < 2 or len(self.mean) not in (1, x.shape[1]):
            raise InputError("x", f"shape {tuple(x.shape)}", f"images of {len(self.mean)} channels, as mean and std have")
        shape = (1, -1, *[1] * (x.dim() - 2))
        return self.model((x - self.mean.to(x).reshape(shape)) / self.std.to(x).reshape(shape))

    def extra_repr(self) -> str:
        return f"mean={[round(v, 6) for v in self.mean.tolist()]}, std={[round(v, 6) for v in self.std.tolist()]}"


class InDtype(Wrapper):
    """A model in another precision: inputs are cast to `dtype`, logits come back in float32.

    dtype: by default the type of the model's own floating-point parameters. The model is not converted. Gradients pass
    through both casts; in float16 small ones become zero, so attack a float32 copy too before you trust a number.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        super().__init__(model)
        own = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        if dtype is None:
            if not own:
                raise InputError("dtype", None, "a torch.dtype: the model has no parameters that tell its own")
            dtype = own[0]
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InputError("dtype", dtype, "a floating-point type such as torch.bfloat16")
        if own and dtype not in own:
            raise InputError("dtype", str(dtype), f"{own[0]}, which the model's parameters have, or model.to({dtype}) first")
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x.to(self.dtype))
        if not isinstance(outputs, Tensor):
            raise InputError(
                "model", f"outputs of type {type(outputs).__name__}", "a tensor: wrap it as InDtype(Logits(model))"
            )
        return outputs.float()

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


class LogProbabilities(Wrapper):
    """log p of a model that returns probabilities (B, classes), with gradients.

    Better is a model without its softmax: where p is 0 or 1 in float32, no logarithm brings the gradient back.
    """

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x)
        if not isinstance(outputs, Tensor):
            raise InputError("model", f"outputs of type {type(outputs).__name__}", "a tensor of probabilities (B, classes)")
        check_probabilities(outputs)
        return log_probabilities(outputs)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """log p in float32; a probability below 1.2e-38 counts as that, so that the result is at least -87.4."""
    wide = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    return wide.clamp_min(FLOOR).log().float()


def check_probabilities(values: Tensor) -> None:
    """Rows (B, classes) in [0, 1] that sum to 1, up to what a server rounds away; otherwise InputError."""
    values = values.detach()
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-6 and high <= 1 + 1e-3):
        raise InputError(
            "model", f"probabilities from {low:.4g} to {high:.4g}", 'numbers from 0 to 1 (gives="logits" takes all)'
        )
    sums = values.sum(1)
    if float((sums - 1).abs().max()) > SUM:
        got = f"probabilities that sum to {float(sums.min()):.4g} up to {float(sums.max()):.4g} in a row"
        raise InputError("model", got, 'rows that sum to 1 (gives="logits" takes all)')


def name_of(value: object) -> str:
    """A function by its name, anything else as Python writes it; the same in every process."""
    return str(getattr(value, "__qualname__", type(value).__name__)) if callable(value) else repr(value)
