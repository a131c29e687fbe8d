"""What an agent leaves behind: a policy that can be called, saved and loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.core.errors import CheckpointError, MissingError
from tutelage.core.files import write_atomic, write_json
from tutelage.core.rng import generator
from tutelage.models.ensembles import EnsembleMLP

_FORMAT = "tutelage-policy-1"


@dataclass(frozen=True, eq=False)
class Policy:
    """a = middle + half tanh(net((s - mean) / std)), middle and half those of the box from low to high.

    net: one member, (B, d) -> (1, B, m). mean, std: (d,), how the observations it learned from were normalised. low, high:
    (m,).
    """

    net: EnsembleMLP
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __call__(self, observations: Tensor) -> Tensor:
        """(B, d) in the environment's units -> (B, m) in the environment's units; differentiable."""
        raw: Tensor = self.net((observations - self.mean) / self.std)[0]
        return (self.low + self.high) / 2 + (self.high - self.low) / 2 * raw.tanh()

    def save(self, folder: str | Path) -> Path:
        """Write policy.safetensors and policy.json into `folder`."""
        folder = Path(folder)
        tensors = {f"net.{key}": value for key, value in self.net.state_dict().items()}
        tensors |= {name: getattr(self, name) for name in ("mean", "std", "low", "high")}
        write_atomic(folder / "policy.safetensors", save({key: value.contiguous().clone() for key, value in tensors.items()}))
        write_json(folder / "policy.json", {"format": _FORMAT, "sizes": list(self.net.sizes)})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Policy:
        """What `save` wrote, bit for bit. Raises MissingError, or CheckpointError for files of another kind."""
        folder = Path(folder)
        if not (folder / "policy.json").is_file():
            raise MissingError(f"there is no policy in {folder}")
        try:
            about: dict[str, Any] = json.loads((folder / "policy.json").read_text())
            if about["format"] != _FORMAT:
                raise CheckpointError(f"{folder} has format {about['format']!r}, wanted {_FORMAT!r}")
            tensors = load((folder / "policy.safetensors").read_bytes())
            net = EnsembleMLP(about["sizes"], generator=generator(0))
            net.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("net.")})
            return cls(net.requires_grad_(False), *(tensors[name] for name in ("mean", "std", "low", "high")))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"the policy in {folder} cannot be read ({type(error).__name__}: {error})") from error


def member(ensemble: EnsembleMLP, index: int) -> EnsembleMLP:
    """A frozen copy of one member."""
    one = EnsembleMLP(ensemble.sizes, generator=generator(0)).requires_grad_(False)
    with torch.no_grad():
        for new, old in zip((*one.weights, *one.biases), (*ensemble.weights, *ensemble.biases), strict=True):
            new.copy_(old[index : index + 1])
    return one
