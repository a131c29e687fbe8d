"""F10, the attack surface: what a serving process must refuse.

Inputs that are no inputs, and model files that are not what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_file
from tutelage.models.loading import PICKLES

_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x1f\x8b")


@dataclass(frozen=True)
class InputGuard:
    """What a request must be: shape of one sample, range of its values, and perhaps a score of how usual it is.

    score: samples (B, ...) -> (B,), higher is more usual, such as a `Detector` of `auditing.detection`; below `least` a sample
    is refused. largest: samples a request may hold.
    """

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    largest: int = 1024
    score: Callable[[Tensor], Tensor] | None = None
    least: float = 0.0

    @classmethod
    def calibrate(
        cls, score: Callable[[Tensor], Tensor], validation: Tensor, *, keep: float = 0.99, **limits: Any
    ) -> InputGuard:
        """A guard that lets a share `keep` of validation samples (N, ...) pass its score."""
        if not 0 < keep < 1:
            raise InputError("keep", keep, "a share between 0 and 1")
        values = score(validation).double()
        return cls(tuple(validation.shape[1:]), score=score, least=float(values.quantile(1 - keep)), **limits)

    def check(self, x: object) -> Tensor:
        """(B,) bool: which samples may be answered. Raises InputError where the request itself is wrong: type, shape, size, NaN
        or infinity, values outside of the range.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise InputError("request", type(x).__name__, "a tensor of floating-point numbers")
        if x.ndim != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            raise InputError("request", f"shape {tuple(x.shape)}", f"shape (B, {', '.join(map(str, self.shape))})")
        if not 1 <= len(x) <= self.largest:
            raise InputError("request", f"{len(x)} samples", f"1 to {self.largest}")
        if not bool(torch.isfinite(x).all()):
            raise InputError("request", "NaN or infinity", "finite numbers")
        low, high = float(x.min()), float(x.max())
        if low < self.low or high > self.high:
            raise InputError("request", f"values from {low:g} to {high:g}", f"values in [{self.low:g}, {self.high:g}]")
        if self.score is None:
            return torch.ones(len(x), dtype=torch.bool)
        return self.score(x) >= self.least


def check_model_file(path: Path | str, sha256: str = "", *, allow_pickle: bool = False) -> str:
    """The hash of a model file that may be loaded. Raises InputError for a wrong hash, and for a pickle (by its name or its
    first bytes: opening one can run anything) unless `allow_pickle`, and then only with its `sha256`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"model: there is no file {path}")
    digest = sha256_file(path)
    if sha256 and digest != sha256.lower():
        raise InputError("sha256", digest[:12] + "…", f"{sha256[:12]}…, as the file was registered")
    with path.open("rb") as file:
        start = file.read(4)
    pickled = path.suffix.lower() in PICKLES or start.startswith(_PICKLE_STARTS)
    if pickled and not (allow_pickle and sha256):
        wanted = "a .safetensors file" if not allow_pickle else "its sha256 too: only a file that is known may be opened"
        raise InputError("model", f"{path.name}, a pickle", wanted)
    if path.suffix == ".safetensors" and not pickled:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file_:
                file_.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError("model", f"{path.name} ({error})", "a whole safetensors file") from error
    return digest
