"""CIFAR-style residual networks: a 3x3 stem, basic blocks, global average pooling (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images (B, channels, H, W) in [0, 1] of any size from 8 -> logits (B, classes).

    `blocks[i]` basic blocks of `widths[i]` channels make stage i; every stage after the first halves the image.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        layers: list[nn.Module] = []
        inputs = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for i in range(count):
                layers.append(BasicBlock(inputs, width, stride=2 if stage and i == 0 else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layers(self.stem(x))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def resnet(depth: int, *, width: int = 16, channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet-`depth`: 18 (four stages of 2 blocks, 64-512 channels) or 6n+2 (three stages of n, `width` doubling)."""
    if depth == 18:
        return ResNet((2, 2, 2, 2), (64, 128, 256, 512), channels=channels, classes=classes)
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise InputError("depth", depth, "18, or 6n + 2 such as 8, 14, 20, 32, 56")
    return ResNet((n, n, n), (width, 2 * width, 4 * width), channels=channels, classes=classes)
