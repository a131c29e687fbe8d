"""Wrappers around a user's own module: what goes in, what comes out, and that gradients pass."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tutelage
from tutelage.core.errors import InputError
from tutelage.models import InDtype, Logits, LogProbabilities, Normalized, fingerprint, load_weights, save_weights
from tutelage.threats import PGD, Linf


class Gives(nn.Module):
    """Returns what `change` makes of the two logits (x_1, x_2)."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


def linear(seed: int = 0, inputs: int = 12, outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


# Logits


@pytest.mark.parametrize(
    ("change", "pick"),
    [
        (lambda z: {"loss": z.sum(), "logits": z}, "logits"),
        (lambda z: {"scores": z}, "scores"),
        (lambda z: SimpleNamespace(logits=z, hidden=None), "logits"),
        (lambda z: (z, None), 0),
        (lambda z: [None, z], -1),
        (lambda z: {"heads": [z]}, lambda out: out["heads"][0]),
    ],
)
def test_logits_are_picked(change: Any, pick: Any) -> None:
    x = torch.tensor([[0.25, 0.5]], requires_grad=True)
    out = Logits(Gives(change), pick)(x)
    assert torch.equal(out, x)
    (grad,) = torch.autograd.grad(out[:, 1].sum(), x)
    assert grad.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "pick", "message"),
    [
        (
            lambda z: {"a": z, "b": z},
            "logits",
            r"pick: got 'logits', wanted what is in the model's outputs: a dict of 'a', 'b'",
        ),
        (lambda z: (z, None), 2, r"pick: got 2, .*: 2 values, Tensor, NoneType"),
        (lambda z: (z,), -2, r"pick: got -2, .*: 1 values, Tensor"),
        (lambda z: z, 0, r"pick: got 0, .*: one Tensor"),
        (lambda z: z, "logits", r"pick: got 'logits', .*: one Tensor"),
    ],
)
def test_what_is_not_there_is_told(change: Any, pick: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Logits(Gives(change), pick)(torch.zeros(1, 2))


@pytest.mark.parametrize("pick", [None, 1.5, True, [0]])
def test_a_pick_that_is_none(pick: Any) -> None:
    with pytest.raises(InputError, match=r"^pick: "):
        Logits(Gives(lambda z: z), pick)


# Normalized


def test_normalisation_by_hand() -> None:
    # (0.5 - 0.25) / 0.5 = 0.5 and (0.5 - 0.5) / 0.25 = 0
    model = Normalized(Gives(lambda x: x), [0.25, 0.5], [0.5, 0.25])
    out = model(torch.full((1, 2, 1, 1), 0.5))
    assert out.flatten().tolist() == [0.5, 0.0]
    assert Normalized(Gives(lambda x: x), [0.5], [2.0])(torch.ones(1, 3, 1, 1)).flatten().tolist() == [0.25] * 3


class LikeTimm(nn.Module):
    """The surface of a timm model: its statistics in pretrained_cfg, forward_features and forward_head."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 2, 2)}
        self.body = linear()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body[0](x)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.body[1](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_a_timm_like_model_knows_its_own_statistics() -> None:
    inner = LikeTimm()
    x = torch.rand(2, 3, 2, 2)
    mean, std = (torch.tensor(inner.pretrained_cfg[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(Normalized(inner)(x), inner((x - mean) / std))
    own = Normalized(inner, mean=(0.0, 0.0, 0.0))
    assert own.mean.tolist() == [0.0] * 3
    assert own.std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_a_budget_is_in_pixels_in_front_of_the_normalisation() -> None:
    """The same images and noise, an attack in pixels: the wrapped model is broken where the hand-normalised one is."""
    inner = LikeTimm()
    x, y = torch.rand(8, 3, 2, 2), torch.arange(8) % 3
    result = PGD(Linf(0.1), steps=5).run(Normalized(inner), x, y, torch.Generator().manual_seed(0))
    assert float((result.x_adv - x).abs().max()) <= 0.1 + 1e-6
    mean, std = (torch.tensor(inner.pretrained_cfg[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    assert torch.equal(inner((result.x_adv - mean) / std).argmax(1) != y, result.success)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (None, [1.0], "^mean: got None, wanted one number a channel"),
        ([0.5], None, "^std: got None"),
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], "^mean: .* divide those of 0-255 images by 255"),
        ([0.5], [0.0], "^std: .* wanted numbers above 0"),
        ([0.5], [-1.0], "^std: "),
        ([0.5, 0.5], [1.0], "^std: got 1 numbers, wanted as many as mean has, 2"),
        ([math.nan], [1.0], "^mean: "),
        ("grey", [1.0], "^mean: "),
        ([], [], "^mean: "),
    ],
)
def test_bad_statistics(mean: Any, std: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Normalized(linear(), mean, std)


def test_one_statistic_too_many_does_not_make_channels() -> None:
    """Three means and one channel would broadcast to three channels."""
    with pytest.raises(InputError, match=r"^x: got shape \(1, 1, 2, 2\), wanted images of 3 channels"):
        Normalized(nn.Identity(), [0.5] * 3, [0.5] * 3)(torch.rand(1, 1, 2, 2))


# InDtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_in_and_float32_out(dtype: torch.dtype) -> None:
    inner = linear().to(dtype)
    x = torch.rand(4, 3, 2, 2, requires_grad=True)
    for model in (InDtype(inner), InDtype(inner, dtype)):
        out = model(x)
        assert out.dtype == torch.float32
        assert torch.equal(out, inner(x.to(dtype)).float())
        (grad,) = torch.autograd.grad(out[:, 0].sum(), x)
        torch.testing.assert_close(grad, inner[1].weight[0].float().reshape(1, 3, 2, 2).expand(4, -1, -1, -1))
    assert {p.dtype for p in inner.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("model", "dtype", "message"),
    [
        (nn.Identity(), None, "^dtype: got None, wanted a torch.dtype"),
        (nn.Identity(), torch.int8, "^dtype: .* a floating-point type"),
        (nn.Identity(), "half", "^dtype: got half"),
        (nn.Linear(2, 2), torch.float16, r"^dtype: got torch.float16, wanted torch.float32, .* model.to\(torch.float16\)"),
    ],
)
def test_bad_dtypes(model: nn.Module, dtype: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InDtype(model, dtype)


def test_a_dtype_around_a_dict_says_how() -> None:
    with pytest.raises(InputError, match=r"outputs of type dict, wanted a tensor: wrap it as InDtype\(Logits\(model\)\)"):
        InDtype(Gives(lambda z: {"logits": z}), torch.float16)(torch.zeros(1, 2))


# LogProbabilities


def test_log_probabilities_by_hand() -> None:
    model = LogProbabilities(Gives(lambda x: x))
    out = model(torch.tensor([[0.25, 0.75], [0.0, 1.0]]))
    assert out[0].tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert out[1].tolist() == pytest.approx([math.log(2**-126), 0.0])  # the smallest normal float32
    # their softmax are the probabilities again
    assert out.softmax(1).tolist()[0] == pytest.approx([0.25, 0.75])
    # d(log p_1 - log p_0) = 1 / p_1, 1 / p_0: no softmax that flattens it
    x = torch.tensor([[0.25, 0.75]], requires_grad=True)
    out = model(x)
    (grad,) = torch.autograd.grad(out[0, 0] - out[0, 1], x)
    assert grad.tolist()[0] == pytest.approx([4.0, -4 / 3])


@pytest.mark.parametrize("rows", [[[0.5, 0.6]], [[1.5, -0.5]], [[math.nan, 1.0]], [[0.2, 0.2]]])
def test_what_are_no_probabilities(rows: list[list[float]]) -> None:
    with pytest.raises(InputError, match=r"^model: got probabilities"):
        LogProbabilities(Gives(lambda x: x))(torch.tensor(rows))


# All of them


@pytest.mark.parametrize("wrap", [Logits, InDtype, LogProbabilities, lambda m: Normalized(m, [0.5], [0.5])])
def test_only_modules_are_wrapped(wrap: Any) -> None:
    with pytest.raises(InputError, match=r"^model: got function, wanted an nn.Module"):
        wrap(lambda x: x)


def test_weights_of_the_model_fit_the_wrapped_model(tmp_path: Path) -> None:
    inner = linear(seed=1)
    save_weights(inner, tmp_path / "inner.safetensors")
    model = Logits(Normalized(linear(seed=2), [0.5], [0.25]), lambda out: out)
    load_weights(model, tmp_path / "inner.safetensors")
    assert fingerprint(model.model.model) == fingerprint(inner)
    save_weights(model, tmp_path / "wrapped.safetensors")  # its own names, with the statistics
    other = Logits(Normalized(linear(seed=3), [0.1], [0.1]), lambda out: out)
    load_weights(other, tmp_path / "wrapped.safetensors")
    assert fingerprint(other) == fingerprint(model)
    assert other.model.mean.tolist() == [0.5]
    save_weights(nn.Linear(2, 2), tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match=r"weights: got foreign\.safetensors without"):
        load_weights(model, tmp_path / "foreign.safetensors")


def test_a_chain_of_wrappers_is_audited_as_the_model_inside() -> None:
    """dict -> logits, bfloat16, normalisation: the audit is that of the same function written by hand."""

    class Dict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(inputs=16, outputs=2).bfloat16()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x)}

    class ByHand(nn.Module):
        def __init__(self, inner: Dict) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.net(((x - 0.5) / 0.25).bfloat16()).float()

    inner = Dict()
    labels = torch.arange(20) % 2
    data = (torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)), labels)
    options: dict[str, Any] = {"threats": ["pgd-3:linf@0.05"], "curve": False, "force": True}
    wrapped = tutelage.audit(Normalized(InDtype(Logits(inner)), [0.5], [0.25]), data, **options)
    by_hand = tutelage.audit(ByHand(inner), data, **options)
    assert wrapped.predictions == by_hand.predictions
    assert 0 < sum(wrapped.predictions["clean"]) < 20
