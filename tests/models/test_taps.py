"""Taps and the feature/head split on nets of many styles; none of them is ours."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.taps import find_head, split_head, taps

Pair = namedtuple("Pair", "first second")


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Normalise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4]))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / 0.2


class Functional(nn.Module):
    """Normalisation inside, pooling, flatten and ReLU as functions, the head defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.normalise = Normalise()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv1(self.normalise(x))), inplace=True)
        x = F.adaptive_avg_pool2d(F.relu(self.conv2(x)), 1)
        return self.fc(F.dropout(torch.flatten(x, 1), 0.5, self.training))


class TimmLike(nn.Module):
    """forward_features and forward_head, a pool and a drop module, an unused pre-logits layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(inplace=True))
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.fc_norm, self.drop, self.head = nn.LayerNorm(5), nn.Dropout(0.3), nn.Linear(5, 3)
        self.spare = nn.Linear(5, 3)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.fc_norm(self.global_pool(x)))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))
        return self.head(self.norm(tokens)[:, 0])


class Reused(nn.Module):
    """One head on two depths; only the second makes the logits, or both do."""

    def __init__(self, summed: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.summed = summed

    def forward(self, x: Tensor) -> Tensor:
        shallow = torch.tanh(self.a(x.flatten(1)))
        early, late = self.head(shallow), self.head(torch.tanh(self.b(shallow)))
        return early + late if self.summed else late


class TwoSummed(nn.Module):
    def __init__(self, zero: bool = False) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(16, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        if zero:
            nn.init.zeros_(self.two.weight), nn.init.zeros_(self.two.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x.flatten(1)))
        return self.one(h) + self.two(h)


class ConvHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 7, 4), nn.Conv2d(7, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)).mean((2, 3), keepdim=True)).flatten(1)


class Adapter(nn.Module):
    """A low-rank adapter around a linear layer; fresh ones add zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))

    def forward(self, h: Tensor) -> Tensor:
        return 8 * F.normalize(h, dim=1) @ F.normalize(self.weight, dim=1).T


class Checked(nn.Module):
    """Refuses what is no image, as careful nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        if x.min() < 0 or x.max() > 1:
            raise ValueError("not an image")
        return F.linear(x.flatten(1), self.weight)


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Dicts(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.head, self.kind = nn.Linear(16, 6), nn.Linear(6, 4), kind

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.body(x.flatten(1)))
        logits = self.head(h)
        return {"dict": {"logits": logits, "hidden": h}, "tuple": (h, logits), "object": Output(logits, h)}[self.kind]


def sequential() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 4, 3), act=nn.ReLU(inplace=True), flat=nn.Flatten(), fc=nn.LazyLinear(3), end=nn.Identity()
        )
    )


def mlp_head() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 6), nn.ReLU()), nn.Sequential(nn.Dropout(), nn.Linear(6, 4)))


# Taps


def test_outputs_and_inputs_by_hand() -> None:
    model = nn.Sequential(OrderedDict(twice=nn.Linear(1, 1, bias=False), act=nn.ReLU(), shift=nn.Linear(1, 1)))
    for module, weight in ((model.twice, 2.0), (model.shift, 1.0)):
        nn.init.constant_(module.weight, weight)
    nn.init.constant_(model.shift.bias, 10.0)
    with taps(model, ["twice", "act", "shift:input", "", ":input"]) as seen:
        assert len(seen) == 0
        model(torch.tensor([[3.0], [-1.0]]))
    assert seen["twice"].tolist() == [[6.0], [-2.0]]
    assert seen["act"].tolist() == seen["shift:input"].tolist() == [[6.0], [0.0]]
    assert (seen[""].tolist(), seen[":input"].tolist()) == ([[16.0], [10.0]], [[3.0], [-1.0]])
    assert list(seen) == ["twice", "act", "shift:input", "", ":input"]
    assert "act" in seen
    assert "shift" not in seen
    assert hooks_of(model) == 0


def test_gradients_flow_through_what_was_seen() -> None:
    model, x = Functional().eval(), torch.rand(2, 1, 8, 8)
    with taps(model, "conv2") as seen:
        logits = model(x)
    by_seen = torch.autograd.grad(logits[:, 0].sum(), seen["conv2"], retain_graph=True)[0]
    # d logit / d conv2 by hand: the head's weight over 16 pixels, where the ReLU is open
    expected = (model.fc.weight[0] / 16)[None, :, None, None] * (seen["conv2"] > 0)
    torch.testing.assert_close(by_seen, expected)
    seen["conv2"].sum().backward()
    assert model.conv1.weight.grad is not None


def test_detached_and_copied() -> None:
    model, x = sequential(), torch.rand(2, 1, 5, 5)
    with taps(model, ["conv", "fc"], detach=True) as seen:
        logits = model(x)
    assert not seen["fc"].requires_grad
    assert torch.equal(seen["fc"], logits)
    assert bool((seen["conv"] < 0).any())  # before the ReLU that works in place
    with taps(model, "conv", copy=True) as seen:
        model(x)
    assert seen["conv"].requires_grad
    assert bool((seen["conv"] < 0).any())


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad])
def test_a_tensor_that_was_changed_in_place_is_not_handed_out(grad: Callable[[], Any]) -> None:
    model = sequential()
    with grad(), taps(model, ["conv", "act"]) as seen:
        model(torch.rand(2, 1, 5, 5))
    assert bool((seen["act"] >= 0).all())
    with pytest.raises(InputError, match=r"name: got conv, changed in place after it was seen, wanted taps\(..., copy=True\)"):
        seen["conv"]


def test_inference_mode() -> None:
    model = nn.Linear(2, 2)
    with torch.inference_mode(), taps(model, "") as seen:
        out = model(torch.ones(1, 2))
    assert torch.equal(seen[""], out)


def test_calls_of_a_shared_module() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(OrderedDict(a=shared, act=nn.Tanh(), b=shared))
    x = torch.rand(2, 3)
    with taps(model, ["a", "b:input"], calls="all") as seen:
        first, second = model(x), model(2 * x)
    assert [v.shape for v in seen["a"]] == [(2, 3)] * 4
    assert torch.equal(seen["a"][1], first)
    assert torch.equal(seen["a"][3], second)
    assert torch.equal(seen["b:input"][2], 2 * x)
    with taps(model, ["a"]) as seen:
        last = model(x)
    assert torch.equal(seen["a"], last)


def test_last_call_does_not_keep_the_earlier_ones_alive() -> None:
    model = nn.Linear(3, 3)
    with torch.no_grad(), taps(model, "") as seen:
        gone = weakref.ref(model(torch.rand(1, 3)))
        model(torch.rand(1, 3))
        gc.collect()
        assert gone() is None
        assert len(seen) == 1


def test_hooks_are_removed_after_exceptions_and_others_stay() -> None:
    model = sequential()
    model(torch.rand(1, 1, 5, 5))  # a lazy layer has hooks of its own before
    mine = model.conv.register_forward_hook(lambda module, args, output: output + 1)
    with pytest.raises(RuntimeError), taps(model, ["conv", "fc:input"]):
        model(torch.rand(2, 2, 5, 5))
    assert hooks_of(model) == 1
    with taps(model, "conv", copy=True) as seen, taps(model, "conv", copy=True) as also:
        model(torch.zeros(1, 1, 5, 5))
    # what goes on through the net is seen: the output with the change of the user's own hook
    torch.testing.assert_close(seen["conv"], (model.conv.bias + 1)[None, :, None, None].expand(1, 4, 3, 3))
    assert torch.equal(seen["conv"], also["conv"])
    mine.remove()


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor, scale: float = 1.0, *, kind: str) -> Any:
        y = x * scale
        parts = {"tuple": (x, y), "list": [x, y], "dict": {"x": x, "rest": (y, None)}, "named": Pair(x, y)}
        return parts[kind]


@pytest.mark.parametrize("detach", [True, False])
def test_nested_outputs_keep_their_form(detach: bool) -> None:
    model = nn.ModuleDict({"m": Branches()})
    x = torch.ones(1, requires_grad=True)
    with taps(model, ["m", "m:input"], calls="all", detach=detach) as seen:
        for kind in ("tuple", "list", "dict", "named"):
            model["m"](x, 3.0, kind=kind)
        model["m"](x=x, kind="tuple")
    pair, both, named, point, _ = seen["m"]
    assert (type(pair), type(both), type(point)) == (tuple, list, Pair)
    assert (pair[1].item(), both[1].item(), named["rest"][0].item(), named["rest"][1], point.second.item()) == (
        3,
        3,
        3,
        None,
        3,
    )
    assert pair[1].requires_grad is not detach
    inputs = seen["m:input"]
    assert inputs[0][1] == 3.0
    assert set(inputs[4]) == {"x", "kind"}


def test_wrapped_models() -> None:
    model = sequential()
    model(torch.rand(1, 1, 5, 5))
    wrapped = nn.DataParallel(model)
    with taps(wrapped, ["fc", "module.fc:input", "module.fc"]) as seen:
        logits = wrapped(torch.rand(2, 1, 5, 5))
    assert torch.equal(seen["fc"], logits)
    assert torch.equal(seen["module.fc"], logits)
    assert seen["module.fc:input"].shape == (2, 36)
    assert find_head(wrapped, torch.rand(2, 1, 5, 5)) == "module.fc"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_script_modules_and_compiled_ones_are_refused() -> None:
    scripted = torch.jit.trace(nn.Sequential(nn.Linear(2, 2)), torch.rand(1, 2))
    for model, name in ((scripted, "0"), (nn.Sequential(nn.Tanh(), scripted), "1.0"), (scripted, "")):
        with pytest.raises(InputError, match="model: got a ScriptModule, which runs no hooks, wanted the eager module"):
            taps(model, name).__enter__()
    with pytest.raises(InputError, match="ScriptModule"):
        find_head(scripted, torch.rand(1, 2))
    # an eager head on a scripted body is found
    model = nn.Sequential(scripted, nn.Tanh(), nn.Linear(2, 3))
    assert find_head(model, torch.rand(4, 2)) == "2"
    with pytest.raises(InputError, match="not those of a linear module"):
        find_head(nn.Sequential(nn.Tanh(), scripted), torch.rand(4, 2))
    plain = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(InputError, match="compiled module"):
        taps(torch.compile(plain), "_orig_mod.0").__enter__()


@pytest.mark.parametrize(
    ("argument", "message", "call"),
    [
        ("name", "near: 'conv[12]', 'conv[12]'", lambda: taps(Functional(), "conv3").__enter__()),
        ("name", "near: .*'stem.0'", lambda: taps(TimmLike(), ["head", "stem.O"]).__enter__()),
        ("name", "got layer9, wanted", lambda: taps(Functional(), "layer9:input").__enter__()),
        ("name", "a string", lambda: taps(Functional(), [3]).__enter__()),  # type: ignore[list-item]
        ("names", "at least one", lambda: taps(Functional(), []).__enter__()),
        ("calls", "'last' or 'all'", lambda: taps(Functional(), "fc", calls="first").__enter__()),  # type: ignore[arg-type]
        ("model", "an nn.Module", lambda: taps(len, "fc").__enter__()),  # type: ignore[arg-type]
    ],
)
def test_bad_taps_are_refused_by_name(argument: str, message: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert caught.value.argument == argument


def test_what_was_not_called_or_not_tapped_says_so() -> None:
    model = TimmLike()
    with taps(model, ["spare", "head"]) as seen:
        model(torch.rand(1, 1, 8, 8))
    with pytest.raises(InputError, match="name: got spare, wanted a module that was called while the taps were on"):
        seen["spare"]
    with pytest.raises(InputError, match="wanted one of the taps: 'spare', 'head'"):
        seen["stem"]
    assert list(seen) == ["head"]
    assert (seen.get("spare"), seen.get("stem", 3), dict(seen)["head"].shape) == (None, 3, (1, 3))


# Split


CASES: list[tuple[Callable[[], nn.Module], str, int, int]] = [
    (sequential, "fc", 4, 16),
    (mlp_head, "2.1", 4, 6),
    (lambda: nn.Linear(16, 4), "", 0, 16),
    (Functional, "fc", 8, 6),
    (TimmLike, "head", 8, 5),
    (ViT, "head", 8, 8),
    (Reused, "head", 4, 6),
    (ConvHead, "head", 4, 7),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), Adapter(nn.Linear(5, 3))), "3", 4, 5),
    (lambda: nn.DataParallel(Functional()), "module.fc", 8, 6),
]


@pytest.mark.parametrize(("build", "name", "size", "dim"), CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_head_is_found_and_both_parts_make_the_model(
    build: Callable[[], nn.Module], name: str, size: int, dim: int, batch: int
) -> None:
    model = build()
    x = torch.rand(batch, 1, size, size) if size else torch.rand(batch, 16)
    model(x if batch > 1 else torch.cat([x, x]))  # lazy layers
    model.eval()
    assert find_head(model, x) == name
    split = split_head(model, x)
    assert (split.name, split.dim) == (name, dim)
    other = torch.rand(5, *x.shape[1:])
    features = split.features(other)
    assert features.shape == (5, dim)
    torch.testing.assert_close(split.head(features), model(other))
    assert hooks_of(model) == 0
    # the head is the model's own: training it trains the model
    owned = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in split.head.parameters()} <= owned
    split.head(features).sum().backward()
    assert any(
        p.grad is not None for n, p in model.named_parameters() if not name or not n.startswith(name)
    )  # or it is all head


def test_the_model_comes_back_as_it_was() -> None:
    model = Functional().train()
    model.bn.eval()
    model.conv1.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split_head(model, torch.rand(3, 1, 8, 8))
    assert (model.training, model.bn.training, model.conv1.weight.requires_grad, model.fc.weight.requires_grad) == (
        True, False, False, True,
    )  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_net_that_checks_its_images_only_gets_the_batch() -> None:
    class Careful(TimmLike):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return super().forward(x)

    calls: list[Tensor] = []
    x = torch.rand(2, 1, 8, 8)
    assert find_head(Careful(), x) == "head"
    assert len(calls) == 1
    assert calls[0] is x


def test_a_head_is_linear_by_hand() -> None:
    model = ConvHead().eval()
    split = split_head(model, torch.rand(2, 1, 4, 4))
    h = torch.eye(7)
    torch.testing.assert_close(split.head(h), model.head.weight.flatten(1).T + model.head.bias)


@pytest.mark.parametrize(("kind", "output"), [("dict", "logits"), ("tuple", 1), ("object", "logits")])
def test_outputs_that_are_more_than_logits(kind: str, output: str | int) -> None:
    model, x = Dicts(kind), torch.rand(3, 16)
    split = split_head(model, x, output=output)
    assert (split.name, split.dim) == ("head", 6)
    torch.testing.assert_close(split.head(split.features(x)), model.head(torch.tanh(model.body(x))))
    with pytest.raises(InputError, match="wanted the key or index of the logits") as caught:
        split_head(model, x)
    assert caught.value.argument == "output"
    with pytest.raises(InputError, match="output: got 'scores'"):
        find_head(model, x, output="scores")


def test_inputs_that_are_dicts_or_tuples() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score = nn.Embedding(9, 6), nn.Linear(6, 2)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.score((self.embed(ids) * mask[..., None]).sum(1).tanh())

    model, ids, mask = Text(), torch.randint(9, (4, 5)), torch.ones(4, 5)
    for x in ({"ids": ids, "mask": mask}, (ids, mask)):
        split = split_head(model, x)
        torch.testing.assert_close(split.head(split.features(x)), model(ids, mask))


def test_a_head_on_every_token() -> None:
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 11))
    split = split_head(model, torch.randint(11, (2, 5)))
    assert (split.name, split.dim) == ("3", 6)
    longer = torch.randint(11, (3, 8))
    torch.testing.assert_close(split.head(split.features(longer)), model(longer))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (TwoSummed, "not those of a linear module"),
        (lambda: TwoSummed(zero=True), "not those of a linear module"),  # equal values by chance
        (lambda: Reused(summed=True), "not those of a linear module"),
        (Checked, "not those of a linear module"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.LogSoftmax(1)),
            "come from '2' \\(LogSoftmax\\), not a linear",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), Cosine()),
            "come from '3' \\(Cosine\\), not a linear",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(inplace=True)), "come from '2' \\(ReLU\\)"),
        (
            lambda: nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4)),
            "come from '3' \\(BatchNorm1d\\)",
        ),
    ],
)
def test_a_head_that_is_not_there_is_not_invented(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=f"model: got a model whose outputs (are )?{message}"):
        split_head(build(), torch.rand(3, 1, 4, 4))


def test_a_named_head_may_be_nonlinear() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Sequential(nn.ReLU(inplace=True), Cosine())).eval()
    x = torch.rand(3, 1, 4, 4)
    split = split_head(model, x, name="2")
    assert split.dim == 5
    features = split.features(x)
    assert bool((features < 0).any())  # before the head's own ReLU, which works in place
    torch.testing.assert_close(split.head(features.clone()), model(x))
    assert split_head(model, x, name="2.1").name == "2.1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spare", "got spare, which the model does not call, wanted a module of one tensor"),
        ("stem", "got stem, wanted a module of one tensor whose output is the model's output"),
        ("haed", "near: 'head'"),
        ("head:input", "near: 'head'"),
    ],
)
def test_a_wrong_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        split_head(TimmLike(), torch.rand(2, 1, 8, 8), name=name)
    assert caught.value.argument == "name"


def test_a_model_that_does_not_repeat_itself_is_refused() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.tanh(x.flatten(1) + torch.randn(len(x), 16)))

    with pytest.raises(
        InputError, match=r"head\(features\(x\)\) that differs from model\(x\) by .* wanted a model that repeats"
    ):
        split_head(Noisy(), torch.rand(2, 1, 4, 4))


def test_a_batch_that_calls_the_head_less_often_is_refused() -> None:
    class Early(Reused):
        def forward(self, x: Tensor) -> Tensor:
            early = self.head(torch.tanh(self.a(x)))
            return early if float(x.max()) < 0.5 else self.head(torch.tanh(self.b(early.new_ones(len(x), 6))))

    split = split_head(Early(), torch.ones(2, 16))
    with pytest.raises(InputError, match="x: got a batch for which 'head' is called 1 times, wanted 2 or more"):
        split.features(torch.zeros(2, 16))


@pytest.mark.parametrize("outputs", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.long)])
def test_outputs_that_are_no_logits(outputs: Tensor) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return outputs

    with pytest.raises(InputError, match=r"model: got outputs of shape .* wanted logits \(B, classes\)"):
        find_head(Fixed(), torch.rand(3, 2))
