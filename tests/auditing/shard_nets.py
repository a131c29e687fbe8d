"""Models that workers of an audit make again; importable there, and without heavy imports of tests."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

SIDE = 16


class Net(nn.Module):
    """Light or dark, and how many samples it has seen in this process. In a worker it may be killed."""

    def __init__(self, killed: Path | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, 2)
        self.killed, self.seen = killed, 0
        with torch.no_grad():
            self.linear.weight.copy_(torch.stack([torch.full((SIDE * SIDE,), -0.0325), torch.full((SIDE * SIDE,), 0.0325)]))
            self.linear.bias.copy_(torch.tensor([4.368, -4.368]))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        if self.killed is not None and self.seen > 3500 and multiprocessing.parent_process() is not None:
            (self.killed / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.as_tensor(self.linear(x.flatten(1)))


def hidden() -> nn.Module:
    """A model that cannot be pickled, with other weights each time."""

    class Hidden(Net):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Parameter(torch.rand(3))

    return Hidden()


def inverted() -> nn.Module:
    """The same state, but another forward."""

    class Inverted(Net):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    return Inverted()
