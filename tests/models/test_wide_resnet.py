"""WideResNet: published sizes, a block by hand, shapes, loading by name, bad arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.models import load_model, save_weights
from tutelage.models.wide_resnet import WideBlock, WideResNet, wide_resnet, wrn_16_4, wrn_28_10, wrn_34_10, wrn_40_2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("build", "millions"),
    # table 4 of the paper in millions: 2.7, 2.2, 36.5; WRN-34-10 as in the papers on adversarial training, 46.2
    [(wrn_16_4, 2.7), (wrn_40_2, 2.2), (wrn_28_10, 36.5), (wrn_34_10, 46.2)],
)
def test_published_sizes(build: Callable[[], WideResNet], millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(build()) / 1e6, 1) == millions


def test_size_by_hand() -> None:
    # WRN-10-2, 1 channel, 5 classes. Stem 1*16*9 = 144.
    # Group 1, 16 -> 32: norms 32 + 64, convolutions 16*32*9 = 4608 and 32*32*9 = 9216, shortcut 16*32 = 512: 14432
    # Group 2, 32 -> 64: 64 + 128, 18432, 36864, 2048: 57536. Group 3, 64 -> 128: 128 + 256, 73728, 147456, 8192: 229760
    # Last norm 256; head 128*5 + 5 = 645.
    assert parameters(wide_resnet(10, 2, channels=1, classes=5)) == 144 + 14432 + 57536 + 229760 + 256 + 645


@pytest.mark.parametrize("depth", [10, 16, 22])
def test_depth_counts_the_layers(depth: int) -> None:
    # In the paper's count: the 3x3 convolutions, one shortcut in each of the three groups.
    model = wide_resnet(depth, 2)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == depth


def test_a_block_by_hand() -> None:
    block = WideBlock(1, 1, stride=1, dropout=0.0).eval()
    assert block.shortcut is None
    nn.init.zeros_(block.conv2.weight)  # nothing is left of the branch: the input itself, not rectified
    x = torch.tensor([[[[-1.0, 2.0], [0.5, -3.0]]]])
    assert torch.equal(block(x), x)
    narrow = WideBlock(1, 1, stride=2, dropout=0.0).eval()
    nn.init.zeros_(narrow.conv2.weight)
    assert narrow.shortcut is not None
    nn.init.constant_(narrow.shortcut.weight, 3.0)
    # Every second pixel of the rectified input, times 3; a fresh norm divides by sqrt(1 + 1e-5).
    assert narrow(x).item() == 0.0
    assert narrow(-x).item() == pytest.approx(3.0, abs=1e-4)


def test_dropout_is_between_the_convolutions_and_off_in_evaluation() -> None:
    model = wide_resnet(10, 1, channels=1, classes=3, dropout=0.5)
    x = torch.rand(4, 1, 28, 28)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    assert parameters(model) == parameters(wide_resnet(10, 1, channels=1, classes=3))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 64), (3, 33)])
def test_shapes(channels: int, size: int) -> None:
    model = wide_resnet(10, 1, channels=channels, classes=7).eval()
    assert model(torch.rand(2, channels, size, size)).shape == (2, 7)
    assert model.layers(model.stem(torch.rand(1, channels, size, size))).shape[2:] == (-(-size // 4),) * 2


def test_a_fresh_net_keeps_the_scale_and_every_parameter_learns() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = wide_resnet(16, 2, channels=1, classes=4)
        logits = model(torch.rand(8, 1, 16, 16))
    assert 0.01 < float(logits.detach().std()) < 10
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_load_model_finds_it_by_name(tmp_path: Path) -> None:
    model = wrn_16_4().eval()
    save_weights(model, tmp_path / "wrn.safetensors")
    loaded = load_model("tutelage.models.wide_resnet:wrn_16_4", tmp_path / "wrn.safetensors")
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        *[("depth", lambda d=d: wide_resnet(d, 2)) for d in (0, 4, 11, 18, -2)],
        ("widen", lambda: wide_resnet(10, 0)),
        ("channels", lambda: wide_resnet(10, 1, channels=0)),
        ("classes", lambda: wide_resnet(10, 1, classes=0)),
        ("dropout", lambda: wide_resnet(10, 1, dropout=1.0)),
    ],
)
def test_bad_arguments(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
