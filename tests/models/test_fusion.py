"""Late fusion: the two halves are the whole, and what is missing is the mean input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.core.errors import InputError
from tutelage.core.modalities import MultiModalBatch
from tutelage.models.fusion import ConcatFusion, ConvEncoder, FusionModel, MLPEncoder, Standardised


def model(seed: int = 0) -> FusionModel:
    torch.manual_seed(seed)
    encoders = {
        "sound": Standardised(MLPEncoder(3, 6), 2.0, 0.5, (3,)),
        "sight": Standardised(ConvEncoder((1, 8, 8), 5, 4), 0.5, 0.25, (1, 8, 8)),
    }
    return FusionModel(encoders, ConcatFusion((6, 5), 4)).eval()


def inputs(n: int = 5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {"sound": torch.randn(n, 3, generator=g), "sight": torch.rand(n, 1, 8, 8, generator=g)}


def test_the_joint_head_is_a_linear_layer_on_the_concatenated_features():
    net, x = model(), inputs()
    features = net.encode(MultiModalBatch(x))
    weight = torch.cat(list(net.head.weights), 1)
    wanted = torch.cat([features["sound"], features["sight"]], 1) @ weight.T + net.head.bias
    assert torch.allclose(net(x), wanted, atol=1e-6)
    out = net.fused(x)
    assert torch.allclose(sum(out.scores) + net.head.bias, out.logits, atol=1e-6)


def test_a_missing_input_is_the_mean_input_in_forward_in_fuse_and_without_its_key():
    net, x = model(), inputs()
    present = torch.tensor([[True, False]] * 5)
    mean = {**x, "sight": torch.full((5, 1, 8, 8), 0.5)}
    wanted = net(mean)
    assert not torch.allclose(net(x), wanted)
    batch = MultiModalBatch(x, present)
    assert torch.allclose(net(batch), wanted, atol=1e-6)
    assert torch.allclose(net.fuse(net.encode(batch), present), wanted, atol=1e-6)
    assert torch.allclose(net({"sound": x["sound"]}), wanted, atol=1e-6)
    assert float(net.encoders["sight"].encoder(torch.zeros(1, 1, 8, 8)).sub(net.absent("sight")).detach().abs().max()) == 0


def test_presence_is_by_sample_and_what_is_absent_is_not_looked_at():
    net, x = model(), inputs()
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True], [False, True]])
    first = net(MultiModalBatch(x, present))
    broken = {name: value.clone() for name, value in x.items()}
    broken["sight"][1] = float("nan")
    broken["sound"][[2, 4]] = 1e30
    assert torch.equal(net(MultiModalBatch(broken, present)), first)
    assert torch.equal(first[[0, 3]], net(x)[[0, 3]])


def test_the_order_of_the_names_does_not_matter():
    net, x = model(), inputs()
    turned = MultiModalBatch({"sight": x["sight"], "sound": x["sound"]}, torch.tensor([[False, True]] * 5))
    assert torch.allclose(net(turned), net(MultiModalBatch(x, torch.tensor([[True, False]] * 5))))


def test_training_fills_before_the_encoder_and_asks_for_no_mode_of_it():
    net, x = model().train(), inputs()
    present = torch.tensor([[True, False]] + [[True, True]] * 4)
    net(MultiModalBatch(x, present)).sum().backward()
    assert all(module.training for module in net.modules())
    assert next(net.encoders["sight"].parameters()).grad is not None
    net({"sound": x["sound"]})
    assert all(module.training for module in net.modules()), "a missing key leaves the modes as they were"


def test_bad_models_and_inputs_are_named():
    net, x = model(), inputs()
    with pytest.raises(InputError, match="smell"):
        net({"smell": torch.zeros(2, 3)})
    with pytest.raises(InputError, match="head"):
        FusionModel({"a": nn.Flatten()}, ConcatFusion((2, 3), 2))
    with pytest.raises(InputError, match="without dots"):
        FusionModel({"a.b": nn.Flatten()}, ConcatFusion((2,), 2))
    with pytest.raises(InputError, match="fill"):
        FusionModel({"a": nn.Flatten()}, ConcatFusion((2,), 2), fill={"b": 0.0})
    with pytest.raises(InputError, match="encoder that gives"):
        FusionModel({"a": nn.Identity()}, ConcatFusion((2,), 2))({"a": torch.zeros(2, 3, 4)})
    with pytest.raises(InputError, match="bool of shape"):
        net.fuse(net.encode(MultiModalBatch(x)), torch.ones(5, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="unknown shape"):
        FusionModel({"a": nn.Flatten(), "b": nn.Flatten()}, ConcatFusion((2, 2), 2))({"a": torch.zeros(1, 2)})
    with pytest.raises(InputError, match="above 0"):
        Standardised(nn.Identity(), 0.0, 0.0, (1,))
