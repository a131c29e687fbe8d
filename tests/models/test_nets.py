"""The reference networks: shapes, sizes counted by hand, bad arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.models import ResNet, SmallCNN, resnet
from tutelage.models.resnet import BasicBlock


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_small_cnn_size_by_hand() -> None:
    # conv 4 -> 16: 4*16*9 = 576, norm 32; conv 16 -> 32: 16*32*9 = 4608, norm 64;
    # 32*7*7 = 1568 -> 64: 1568*64 + 64 = 100416; head 64*10 + 10 = 650. Sum 106346
    assert parameters(SmallCNN(16)) == 106_346
    # no unshuffle, 3 colours, 8x8, 5 classes, 20 hidden: 3*4*9 = 108, 8; 4*8*9 = 288, 16; 8*2*2 = 32 -> 20: 660; 20*5 + 5 = 105
    assert parameters(SmallCNN(4, channels=3, size=8, classes=5, hidden=20, unshuffle=False)) == 108 + 8 + 288 + 16 + 660 + 105


@pytest.mark.parametrize("unshuffle", [True, False])
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 7), (1, 4, 2)])
def test_small_cnn_shapes(unshuffle: bool, channels: int, size: int, classes: int) -> None:
    model = SmallCNN(4, channels=channels, size=size, classes=classes, unshuffle=unshuffle)
    assert model(torch.rand(3, channels, size, size)).shape == (3, classes)


def test_small_cnn_width_is_the_width() -> None:
    model = SmallCNN(6, size=8)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [6, 12]
    assert model.head.in_features == 24


@pytest.mark.parametrize("size", [30, 27, 2, 0])
def test_small_cnn_says_at_once_that_a_size_does_not_fit(size: int) -> None:
    with pytest.raises(InputError, match=r"^size: got "):
        SmallCNN(4, size=size)


def test_resnet_size_by_hand() -> None:
    # ResNet-8, width 2, 1 channel, 3 classes; a norm of c channels has 2c parameters.
    # stem 1*2*9 + 4 = 22; stage 1: 2 * (2*2*9 + 4) = 80
    # stage 2: 2*4*9 + 8 = 80, 4*4*9 + 8 = 152, shortcut 2*4 + 8 = 16: 248
    # stage 3: 4*8*9 + 16 = 304, 8*8*9 + 16 = 592, shortcut 4*8 + 16 = 48: 944; head 8*3 + 3 = 27
    assert parameters(resnet(8, width=2, channels=1, classes=3)) == 22 + 80 + 248 + 944 + 27


def test_resnet_18_has_the_published_size() -> None:
    # the CIFAR-10 ResNet-18 of many papers, with 3x3 stem and 1x1 shortcuts: 11,173,962 parameters
    with torch.device("meta"):
        assert parameters(resnet(18)) == 11_173_962


@pytest.mark.parametrize(("depth", "convolutions"), [(8, 7), (14, 13), (20, 19)])
def test_resnet_depth_counts_the_layers(depth: int, convolutions: int) -> None:
    model = resnet(depth, width=2)
    # depth = convolutions of 3x3, and the head; shortcuts are not counted
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == convolutions


@pytest.mark.parametrize("size", [8, 9, 28, 32])
def test_resnet_takes_any_size(size: int) -> None:
    model = resnet(8, width=2, channels=1, classes=4).eval()
    assert model(torch.rand(2, 1, size, size)).shape == (2, 4)


def test_resnet_halves_after_the_first_stage() -> None:
    model = ResNet((1, 1, 1), (2, 3, 4), channels=1, classes=5).eval()
    assert model.layers(model.stem(torch.rand(1, 1, 16, 16))).shape == (1, 4, 4, 4)


def test_a_block_adds_its_shortcut_by_hand() -> None:
    block = BasicBlock(1, 1, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)  # nothing is left of the branch: a rectified copy of the input
    x = torch.tensor([[[[-1.0, 2.0], [0.5, -3.0]]]])
    assert block(x).tolist() == [[[[0.0, 2.0], [0.5, 0.0]]]]
    narrow = BasicBlock(1, 1, stride=2).eval()
    nn.init.zeros_(narrow.conv2.weight)
    nn.init.constant_(narrow.shortcut[0].weight, 3.0)
    # every second pixel, times 3, through a fresh norm: x / sqrt(1 + 1e-5)
    assert narrow(x.abs()).tolist() == [[[[pytest.approx(3.0, abs=1e-4)]]]]


@pytest.mark.parametrize("depth", [0, 2, 7, 9, 19, -4, 1])
def test_resnet_depths_that_do_not_exist(depth: int) -> None:
    with pytest.raises(InputError, match=rf"^depth: got {depth}, wanted 18, or 6n \+ 2"):
        resnet(depth)


@pytest.mark.parametrize("build", [lambda: SmallCNN(4, size=8), lambda: resnet(8, width=2, channels=1)])
def test_a_sample_does_not_see_its_neighbours_in_eval_mode(build) -> None:  # type: ignore[no-untyped-def]
    model = build().eval()
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-5, atol=1e-6)


def test_a_net_can_learn() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallCNN(4, size=8, classes=2)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(16) % 2
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is not None for parameter in model.parameters())
