"""Wide residual networks for images of about 28 to 64 pixels (Zagoruyko & Komodakis 2016, arXiv 1605.07146).

WRN-d-k has d = 6n + 4 layers: a 3x3 convolution to 16 channels, three groups of n pre-activation blocks with 16k, 32k and
64k channels (table 1), a last norm, global average pooling, a linear head. The second and third group halve the image.
Images go in as they are, in [0, 1]: every block starts with a BatchNorm, so none stands in front.

`load_model("tutelage.models.wide_resnet:wrn_28_10", "weights.safetensors")` loads a net of three colours and ten classes;
for others, name a function of your own that calls `wide_resnet`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError


class WideBlock(nn.Module):
    """BatchNorm - ReLU - convolution, twice, plus the input; dropout stands between the convolutions (figure 1d).

    Where channels or size change, the shortcut is a 1x1 convolution of the rectified input, as in the authors' code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out: Tensor = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(activated)))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Images (B, channels, H, W) in [0, 1], H and W from 4 -> logits (B, classes).

    depth: 6n + 4, such as 10, 16, 22, 28, 34, 40; widen: k, how many times 16, 32 and 64 channels the groups have;
    dropout: probability between the two convolutions of a block, in [0, 1); the paper takes 0 or 0.3.
    Convolutions are initialised after He et al. (2015, fan out), the head with zero bias. Raises InputError.
    """

    def __init__(self, depth: int, widen: int, *, channels: int = 3, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        n, rest = divmod(depth - 4, 6)
        if rest or n < 1:
            raise InputError("depth", depth, "6n + 4 such as 10, 16, 28, 34, 40")
        for argument, value in (("widen", widen), ("channels", channels), ("classes", classes)):
            if value < 1:
                raise InputError(argument, value, "a positive integer")
        if not 0.0 <= dropout < 1.0:
            raise InputError("dropout", dropout, "a probability in [0, 1)")
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = 16
        for group in range(3):
            outputs = 16 * widen * 2**group
            for i in range(n):
                blocks.append(WideBlock(inputs, outputs, 2 if group and i == 0 else 1, dropout))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.norm(self.layers(self.stem(x))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def wide_resnet(depth: int, widen: int, *, channels: int = 3, classes: int = 10, dropout: float = 0.0) -> WideResNet:
    """WRN-`depth`-`widen`; see `WideResNet`."""
    return WideResNet(depth, widen, channels=channels, classes=classes, dropout=dropout)


def wrn_16_4(channels: int = 3, classes: int = 10) -> WideResNet:
    """WRN-16-4, 2.7 million parameters."""
    return wide_resnet(16, 4, channels=channels, classes=classes)


def wrn_40_2(channels: int = 3, classes: int = 10) -> WideResNet:
    """WRN-40-2, 2.2 million parameters."""
    return wide_resnet(40, 2, channels=channels, classes=classes)


def wrn_28_10(channels: int = 3, classes: int = 10) -> WideResNet:
    """WRN-28-10, 36.5 million parameters."""
    return wide_resnet(28, 10, channels=channels, classes=classes)


def wrn_34_10(channels: int = 3, classes: int = 10) -> WideResNet:
    """WRN-34-10, 46.2 million parameters: the usual net of adversarial training (Madry et al. 2018)."""
    return wide_resnet(34, 10, channels=channels, classes=classes)
