"""A small convolutional classifier for small images."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage.core.errors import InputError


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers: images (B, C, H, W) in [0, 1] -> logits (B, classes).

    With `unshuffle=True` a PixelUnshuffle(2) stem turns (C, H, W) into (4C, H/2, W/2) first; then only the second
    convolution strides. H and W must be multiples of 4. Without it both convolutions stride.

    >>> SmallCNN(width=16)              # the student "u16" of the claims: 16 and 32 channels, 64 hidden units
    """

    def __init__(
        self,
        width: int = 16,
        *,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        hidden: int | None = None,
        unshuffle: bool = True,
    ) -> None:
        super().__init__()
        if size < 4 or size % 4:
            raise InputError("size", size, "a multiple of 4: the net halves its images twice")
        hidden = hidden or 4 * width
        stem: list[nn.Module] = [nn.PixelUnshuffle(2)] if unshuffle else []
        first = 4 * channels if unshuffle else channels
        self.features = nn.Sequential(
            *stem,
            nn.Conv2d(first, width, 3, stride=1 if unshuffle else 2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(2 * width * (size // 4) ** 2, hidden),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits
