"""Nets with one of everything that has bounds, for the tests of this room."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from tutelage.core.rng import generator, seeded
from tutelage.threats import PGD, Linf
from tutelage.threats.objectives import margin


class Mixed(nn.Module):
    """Normalisation, convolutions, a BatchNorm with negative scales, a residual sum, two max pools (one overlaps), a mean."""

    def __init__(self, act: nn.Module, classes: int = 5) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.3))
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = act
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.wide_pool = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(2, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.weight, -1, 1)
        nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.5
        h = self.act(self.norm(self.first(x)))
        h = self.pool(h + self.act(self.second(h)) * 0.7)
        h = self.wide_pool(1 - h) - 0.25
        return self.head(self.drop(h.flatten(1)).reshape(x.size(0), -1))


class TwoPaths(nn.Module):
    """Functional layers, a path minus another, x + x, a mean over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)
        self.head = nn.Linear(12, 4)
        self.gate = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x)) - torch.tanh(self.b(x))
        h = nn.functional.gelu(nn.functional.avg_pool2d(h + h, 2))
        h = h.view(x.size(0), 3, -1).permute(0, 2, 1)
        return self.head(h.flatten(1)) - self.gate(h.mean(1)).sigmoid()


def mixed(act: nn.Module, seed: int = 0) -> Mixed:
    with seeded(seed, "mixed"):
        return Mixed(act).eval()


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    """Linear layers of these widths with activations between them, in evaluation mode."""
    with seeded(seed, "mlp", *widths):
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), act()]
        return nn.Sequential(*layers[:-1]).eval()


def attacked_margins(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The margin z_y - max z_j (B,) at the point that PGD on the margin finds, with all its steps and three starts."""
    found = PGD(Linf(eps), steps=30, restarts=3, objective=margin, retire=False).run(net, x, y, generator(1, "attacked"))
    return -found.loss
