"""The baselines of test-time adaptation: what each may change, against losses and steps by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import InputError, MissingError
from tutelage.models.batchnorm import MixedStatistics
from tutelage.models.loading import fingerprint
from tutelage.teaching.divergences import entropy
from tutelage.teaching.test_time import Adapter, CoTTA, MeanTeacher, NormAdapter, RingBuffer, Source, Tent


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model(torch.rand(32, 1, 6, 6))
    return model.eval()


def x(seed: int = 1, n: int = 8) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) ** 2


def same(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def make(kind: str, **settings: Any) -> Adapter:
    kinds: dict[str, Any] = {"source": Source, "bn": NormAdapter, "tent": Tent, "mean-teacher": MeanTeacher, "cotta": CoTTA}
    return kinds[kind](net(), **settings)  # type: ignore[no-any-return]


KINDS = ("source", "bn", "tent", "mean-teacher", "cotta")
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_answers_come_from_before_the_step_and_predicting_changes_nothing(kind: str) -> None:
    adapter = make(kind)
    adapter.adapt(x())
    state, before = fingerprint(adapter.model), adapter.predict(x(2))
    assert torch.equal(adapter.predict(x(2)).logits, before.logits)
    assert fingerprint(adapter.model) == state
    assert torch.equal(adapter.adapt(x(2)).logits, before.logits)


@each_kind
def test_reset_and_a_second_run_are_the_same_to_the_bit(kind: str) -> None:
    adapter = make(kind)
    runs = []
    for _ in range(2):
        runs.append([adapter.adapt(x(seed)).logits for seed in range(3)])
        adapter.reset()
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert adapter.drift() == 0


@each_kind
def test_saved_states_go_on(kind: str, tmp_path: Any) -> None:
    one, other = make(kind), make(kind)
    one.adapt(x())
    one.save(tmp_path / "state")
    other.load(tmp_path / "state")
    assert torch.equal(one.adapt(x(2)).logits, other.adapt(x(2)).logits)
    with pytest.raises(MissingError):
        other.load(tmp_path / "nothing")


@each_kind
def test_a_batch_of_one(kind: str) -> None:
    adapter = make(kind)
    if kind == "source":
        assert adapter.adapt(x(n=1)).logits.shape == (1, 3)
        return
    assert adapter.smallest_batch == 2
    with pytest.raises(InputError, match="batch of one sample"):
        adapter.adapt(x(n=1))


def test_the_source_is_the_model_and_bn_the_model_in_train_mode() -> None:
    model = net()
    assert torch.equal(Source(model).adapt(x()).logits, model(x()).detach())
    torch.testing.assert_close(NormAdapter(model).adapt(x()).logits, net().train()(x()).detach())
    mixed = NormAdapter(model, MixedStatistics(1e9))
    torch.testing.assert_close(mixed.adapt(x(n=1)).logits, model(x(n=1)).detach())  # and takes single samples


def test_tent_changes_scales_and_shifts_alone_by_a_step_against_the_entropy() -> None:
    adapter = Tent(net(), optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    by_hand = net().train()
    loss = entropy(by_hand(x()))
    wanted = torch.autograd.grad(loss, [by_hand[1].weight, by_hand[1].bias])
    found = adapter.adapt(x())
    assert found.log["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    moved = dict(adapter.model.named_parameters())
    for name, before in net().named_parameters():
        if name.startswith("1."):
            gradient = wanted[0] if name.endswith("weight") else wanted[1]
            torch.testing.assert_close(moved[name].detach(), (before - 0.5 * gradient).detach())
        else:
            assert torch.equal(moved[name], before)
    assert float(entropy(adapter.predict(x()).logits)) < float(loss.detach())


def test_tent_without_batch_norm_takes_other_norms_and_refuses_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    adapter = Tent(model)
    assert adapter.smallest_batch == 1
    adapter.adapt(x(n=1))
    assert {c.name for c in adapter.diff().changes if c.change > 0} <= {"2.weight", "2.bias"}
    with pytest.raises(InputError, match="BatchNorm, LayerNorm or GroupNorm"):
        Tent(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))


def test_a_step_of_the_mean_teacher_by_hand() -> None:
    adapter = MeanTeacher(net(), augment=lambda x, g: x.flip(3), optimizer=lambda p: torch.optim.SGD(p, lr=0.5), momentum=0.9)
    student = net().train()
    z, z_aug, q = student(x()), student(x().flip(3)), net().train()(x()).softmax(1).detach()
    loss = (F.cross_entropy(z, q) + F.cross_entropy(z_aug, q)) / 2
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    found = adapter.adapt(x())
    assert found.log["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    triples = zip(net().parameters(), gradients, adapter.model.parameters(), adapter.teacher.model.parameters(), strict=True)
    for before, gradient, now, averaged in triples:
        torch.testing.assert_close(now.detach(), (before - 0.5 * gradient).detach())
        torch.testing.assert_close(averaged, (0.9 * before + 0.1 * now).detach())


def test_cotta_averages_over_augmentations_only_where_the_source_is_unsure() -> None:
    passes = []

    def counted(x: Tensor, generator: torch.Generator) -> Tensor:
        passes.append(len(x))
        return x.flip(3) if len(passes) % 2 else x

    always = CoTTA(net(), augment=counted, augmentations=4, threshold=1.0, restore=0.0)
    found = always.adapt(x())
    assert len(passes) == 4
    model = net().train()
    wanted = (model(x()) + net().train()(x().flip(3))) / 2
    torch.testing.assert_close(found.logits, wanted.detach())
    passes.clear()
    never = CoTTA(net(), augment=counted, threshold=0.0, restore=0.0)
    torch.testing.assert_close(never.adapt(x()).logits, net().train()(x()).detach())
    assert not passes


def test_cotta_restores_weights_of_the_source() -> None:
    def moved(restore: float) -> float:
        adapter = CoTTA(net(), augment=same, threshold=0.0, restore=restore, optimizer="sgd", lr=0.5)
        adapter.teacher.momentum = 0.0
        adapter.adapt(x())
        adapter.adapt(x(2))
        back = sum(int((p == q).sum()) for p, q in zip(adapter.model.parameters(), net().parameters(), strict=True))
        return back / sum(p.numel() for p in net().parameters())

    unmoved = moved(0.0)  # some weights have no gradient
    assert unmoved < 0.5
    assert moved(1.0) == 1.0
    assert moved(0.3) == pytest.approx(unmoved + 0.3 * (1 - unmoved), abs=0.1)


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        ("tent", {"lr": -1}, "lr"),
        ("mean-teacher", {"alpha": -0.1}, "alpha"),
        ("mean-teacher", {"augment": "flip"}, "augment"),
        ("mean-teacher", {"source_batch": 0}, "source_batch"),
        ("cotta", {"augmentations": 0}, "augmentations"),
        ("cotta", {"restore": 2}, "restore"),
        ("cotta", {"threshold": "high"}, "threshold"),
    ],
)
def test_wrong_arguments_are_named(kind: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make(kind, **settings)


def test_a_ring_needs_adapters_that_fit() -> None:
    with pytest.raises(InputError, match="first"):
        RingBuffer(Tent(net()), first=NormAdapter(net()))
    with pytest.raises(InputError, match="window"):
        RingBuffer(Tent(net()), window=1, first=Source(net()))
    with pytest.raises(InputError, match="adapter"):
        RingBuffer(net(), first=Source(net()))  # type: ignore[arg-type]
