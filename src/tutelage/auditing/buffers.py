"""A model that writes to its buffers, made to forget: for audits that were told to go on with it."""

from __future__ import annotations

from typing import Any

from torch import nn


class KeptBuffers(nn.Module):
    """A model each of whose passes starts from the buffers that it has now; what a pass writes is thrown away.

    The model works on copies, so that nothing a backward pass still needs is written over. Not for several threads at once.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, *inputs: Any) -> Any:
        kept = [(module, dict(module._buffers)) for module in self.model.modules()]
        try:
            for module, buffers in kept:
                module._buffers.update({name: None if one is None else one.clone() for name, one in buffers.items()})
            return self.model(*inputs)
        finally:
            for module, buffers in kept:
                module._buffers.clear()
                module._buffers.update(buffers)
