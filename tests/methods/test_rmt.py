"""RMT against its card: the invariants, limit cases that are known baselines, state, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from tutelage.core.errors import InputError, NotFinite, SplitError
from tutelage.data.images import ImageSet
from tutelage.methods.adapt.rmt import RMT
from tutelage.models.batchnorm import MixedStatistics
from tutelage.models.loading import fingerprint
from tutelage.models.prototypes import class_prototypes
from tutelage.teaching.consistency import nt_xent, symmetric_cross_entropy
from tutelage.teaching.test_time import MeanTeacher, NormAdapter, RingBuffer, Source


class Net(nn.Module):
    """Images (B, 1, 8, 8) -> 3 logits, with BatchNorm, dropout and a head on 6 features."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(1, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 3)
        self(images(60).images)  # running statistics of the source
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.conv(x))).mean((2, 3))
        out: Tensor = self.head(self.drop(h))
        return out


def images(n: int = 30, seed: int = 0, split: str = "train") -> ImageSet:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(n) % 3
    x[y == 1, :, :4] *= 0.3
    x[y == 2, :, :, :4] *= 0.3
    return ImageSet(x, y, ("a", "b", "c"), split=split)  # type: ignore[arg-type]


def batch(seed: int = 5, n: int = 8) -> Tensor:
    return images(n, seed).images ** 2


def same(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def rmt(model: nn.Module | None = None, **settings: Any) -> RMT:
    return RMT(model or Net(), **{"source": images(), "source_batch": 10, **settings})


class Forbidden(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        raise AssertionError("the source was touched")

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise AssertionError("the source was touched")


# the card's invariants


def test_a_momentum_of_one_never_changes_the_teacher_and_of_zero_makes_it_the_student() -> None:
    for momentum in (0.0, 1.0):
        adapter = rmt(momentum=momentum)
        first = fingerprint(adapter.teacher.model)
        for seed in range(3):
            adapter.adapt(batch(seed))
            if momentum == 1:
                assert fingerprint(adapter.teacher.model) == first
            else:
                assert fingerprint(adapter.teacher.model) == fingerprint(adapter.model) != first


def test_with_all_weights_zero_it_is_twice_batch_norm_adaptation() -> None:
    adapter, norm = rmt(lam=(0, 0, 0), lr=0.1), NormAdapter(Net())
    before = fingerprint(adapter.model)
    for seed in range(3):
        found = adapter.adapt(batch(seed))
        torch.testing.assert_close(found.logits, 2 * norm.adapt(batch(seed)).logits)
        torch.testing.assert_close(found.probs, norm.adapt(batch(seed)).probs)
    assert fingerprint(adapter.model) == before
    assert adapter.drift() == 0


@pytest.mark.parametrize("lam", [(1, 1, 0), (1, 1, 1)])
def test_reset_gives_the_same_bits_as_a_fresh_adapter(lam: tuple[float, ...]) -> None:
    used = rmt(lam=lam, warmup_samples=20, seed=3)
    for seed in range(4):
        used.adapt(batch(seed))
    used.reset()
    fresh = rmt(lam=lam, warmup_samples=20, seed=3)
    for seed in range(4):
        a, b = used.adapt(batch(seed)), fresh.adapt(batch(seed))
        assert torch.equal(a.logits, b.logits)
        assert a.log == b.log
    assert fingerprint(used.model) == fingerprint(fresh.model)


def test_a_permuted_batch_gives_permuted_answers() -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    one, two = (rmt(lam=(1, 1, 0), augment=same, optimizer="sgd") for _ in range(2))
    for seed in range(3):
        x = batch(seed)
        torch.testing.assert_close(one.adapt(x).logits[order], two.adapt(x[order]).logits, atol=1e-4, rtol=1e-4)


def test_source_free_never_touches_the_source() -> None:
    prototypes = class_prototypes(Net(), [(images().images, images().labels)])
    adapter = RMT(Net(), prototypes=prototypes, source=Forbidden(), lam=(1, 1, 0))
    adapter.adapt(batch())
    adapter.reset()
    assert adapter.adapt(batch()).log["contrastive"] > 0
    with pytest.raises(AssertionError, match="touched"):
        RMT(Net(), prototypes=prototypes, source=Forbidden(), lam=(1, 1, 1))


# the equations


def test_the_loss_is_that_of_the_equations() -> None:
    model = Net()
    adapter = rmt(model, augment=lambda x, g: x.flip(3), seed=2)
    x, prototypes = batch(), class_prototypes(model, [(images().images, images().labels)])
    net, projector = NormAdapter(model).model, adapter.projector
    assert projector is not None

    def student(x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(net.norm(net.conv(x))).mean((2, 3))  # type: ignore[operator, union-attr]
        return net.head(h), h  # type: ignore[operator]

    (z, h), (z_aug, h_aug) = student(x), student(x.flip(3))
    wanted = {"self_training": (symmetric_cross_entropy(z, z) + symmetric_cross_entropy(z_aug, z)).mean() / 2}
    nearest = prototypes[F.cosine_similarity(h[:, None], prototypes[None], dim=2).argmax(1)]
    wanted["contrastive"] = nt_xent(projector(torch.stack([nearest, h, h_aug], 1)), temperature=0.1)
    assert adapter.replay is not None
    state = adapter.replay.state_dict()
    x_s, y_s = adapter.replay()
    adapter.replay.load_state_dict(state)
    wanted["source"] = F.cross_entropy(student(x_s)[0], y_s)
    found = adapter.adapt(x)
    for name, value in wanted.items():
        assert found.log[name] == pytest.approx(float(value.detach()), rel=1e-4), name
    assert found.log["loss"] == pytest.approx(sum(found.log[name] for name in wanted), rel=1e-5)
    torch.testing.assert_close(found.logits, 2 * z)  # student and teacher are still one


def test_the_answer_is_the_sum_from_before_the_step() -> None:
    adapter = rmt(lr=0.05, momentum=0.5, optimizer="sgd")
    adapter.adapt(batch(1))
    before = adapter.predict(batch(2))
    found = adapter.adapt(batch(2))
    assert torch.equal(found.logits, before.logits)
    assert found.student_logits is not None
    assert found.teacher_logits is not None
    torch.testing.assert_close(found.logits, found.student_logits + found.teacher_logits)
    torch.testing.assert_close(found.probs, (found.logits / 2).softmax(1))
    assert not torch.allclose(found.student_logits, found.teacher_logits)
    assert not torch.allclose(adapter.predict(batch(2)).logits, before.logits)


def test_without_contrast_and_replay_it_is_the_mean_teacher() -> None:
    settings: dict[str, Any] = {"alpha": 0.0, "seed": 4, "warmup_samples": 20, "source": images(), "source_batch": 10}
    one, two = RMT(Net(), lam=(1, 0, 0), **settings), MeanTeacher(Net(), **settings)
    for seed in range(3):
        assert torch.equal(one.adapt(batch(seed)).logits, two.adapt(batch(seed)).logits)
    assert fingerprint(one.model) == fingerprint(two.model)


def test_each_part_of_the_loss_changes_what_is_learned() -> None:
    seen = set()
    for settings in ({"lam": (1, 0, 0)}, {"lam": (1, 1, 0)}, {"lam": (1, 1, 1)}, {"lam": (1, 0, 0), "alpha": 0.0},
                     {"lam": (1, 1, 0), "negatives": "other_class"}, {"lam": (1, 1, 0), "projection": 0},
                     {"lam": (1, 1, 0), "warmup_samples": 20}, {"lam": (1, 1, 0), "steps": 2}):  # fmt: skip
        adapter = rmt(**settings)
        adapter.adapt(batch(1))
        adapter.adapt(batch(2))
        seen.add(fingerprint(adapter.model))
    assert len(seen) == 8


def test_the_user_s_model_is_not_changed_and_dropout_is_off() -> None:
    model = Net().train()
    before = fingerprint(model)
    adapter = rmt(model, warmup_samples=20)
    adapter.adapt(batch())
    assert fingerprint(model) == before
    assert model.training
    assert torch.equal(adapter.predict(batch()).logits, adapter.predict(batch()).logits)


def test_running_statistics_are_gone_in_student_and_teacher() -> None:
    adapter = rmt()
    for part in adapter.parts().values():
        assert not any("running" in name for name in part.state_dict())


def test_the_warm_up_raises_the_rate_and_gives_it_back() -> None:
    rates: list[float] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])
            super().step()

    adapter = rmt(optimizer=lambda parameters: Spy(parameters, lr=0.4), lr=0.4, warmup_samples=40)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert adapter.optimizer is not None
    assert adapter.optimizer.param_groups[0]["lr"] == 0.4
    assert adapter.drift() > 0
    assert adapter.batches == 0


def test_learning_goes_on_inside_no_grad_and_inference_mode() -> None:
    wanted = rmt()
    wanted.adapt(batch())
    for context in (torch.no_grad(), torch.inference_mode()):
        adapter = rmt()
        with context:
            adapter.adapt(batch() + 0)
        assert fingerprint(adapter.model) == fingerprint(wanted.model)


# state


def test_a_saved_state_goes_on_to_the_bit(tmp_path: Path) -> None:
    one = rmt(warmup_samples=20, seed=1)
    for seed in range(3):
        one.adapt(batch(seed))
    one.save(tmp_path)
    other = rmt(seed=1)
    other.load(tmp_path)
    for seed in range(3, 6):
        assert torch.equal(one.adapt(batch(seed)).logits, other.adapt(batch(seed)).logits)


def test_a_state_of_another_model_or_with_other_constants_is_refused(tmp_path: Path) -> None:
    rmt().save(tmp_path)
    with pytest.raises(InputError, match="alpha"):
        rmt(alpha=0.0).load(tmp_path)
    with pytest.raises(InputError, match="policy"):
        rmt(policy=MixedStatistics(8)).load(tmp_path)
    with pytest.raises(InputError, match="source"):
        rmt(Net(seed=1)).load(tmp_path)
    with pytest.raises(InputError, match="adapter"):
        MeanTeacher(Net()).load(tmp_path)


def test_diff_says_what_moved_and_how_far() -> None:
    adapter = rmt()
    assert adapter.diff().total == 0
    adapter.adapt(batch())
    drift = adapter.diff()
    assert drift.total == pytest.approx(adapter.drift(), rel=1e-4)
    names = {change.name for change in drift.changes}
    assert names == {name for name, _ in Net().named_parameters()}
    moved = next(change for change in drift.changes if change.name == "conv.weight")
    gap = float((adapter.model.conv.weight - Net().conv.weight).detach().norm())  # type: ignore[operator, union-attr]
    assert moved.change == pytest.approx(gap)
    assert 0 < adapter.diff("teacher").total < drift.total
    with pytest.raises(InputError, match="part"):
        adapter.diff("projector")


# single samples


def test_the_ring_answers_the_newest_sample_and_learns_when_it_is_full() -> None:
    adapter, model = rmt(lam=(1, 1, 0)), Net()
    ring = RingBuffer(adapter, window=4, first=Source(model))
    x = batch(n=9)
    plain = rmt(lam=(1, 1, 0))
    for i in range(9):
        found = ring.adapt(x[i : i + 1])
        if i == 0:
            wanted = Source(model).predict(x[:1]).logits
        elif i < 3:
            wanted = plain.predict(x[: i + 1]).logits[-1:]
        elif i == 3:
            wanted = plain.adapt(x[:4]).logits[-1:]
        else:  # the newest takes the place of the oldest
            buffer = x[sorted(range(i - 3, i + 1), key=lambda j: j % 4)]
            said = plain.adapt(buffer) if i == 7 else plain.predict(buffer)
            wanted = said.logits[i % 4 : i % 4 + 1]
        assert torch.equal(found.logits, wanted), i
    assert adapter.batches == 2
    ring.reset()
    assert adapter.batches == 0
    together = ring.adapt(x)
    assert together.logits.shape == (9, 3)
    assert torch.equal(together.logits[8:], found.logits)


def test_a_mixture_of_statistics_takes_single_samples() -> None:
    adapter = rmt(policy=MixedStatistics(16), lam=(1, 1, 0))
    assert adapter.smallest_batch == 1
    before = fingerprint(adapter.model)
    adapter.adapt(batch(n=1))
    assert fingerprint(adapter.model) != before


def test_predicting_leaves_the_ring_as_it_was() -> None:
    ring = RingBuffer(rmt(), window=4, first=Source(Net()))
    ring.adapt(batch(n=3))
    before = ring.state_dict()
    ring.predict(batch(7, n=6))
    assert ring.state_dict()["seen"] == before["seen"] == 3
    assert torch.equal(ring.state_dict()["held"], before["held"])


# refusals


def test_a_batch_of_one_is_refused_before_anything_changes() -> None:
    adapter = rmt()
    before = fingerprint(adapter.model)
    for call in (adapter.adapt, adapter.predict):
        with pytest.raises(InputError, match="batch of one sample"):
            call(batch(n=1))
    assert fingerprint(adapter.model) == before
    assert adapter.batches == 0


def test_absent_classes_are_named() -> None:
    data = images()
    with pytest.raises(InputError, match="no sample of class 2"):
        rmt(source=data.take((data.labels < 2).nonzero().squeeze(1)))
    bad = torch.zeros(3, 6)
    bad[1] = torch.nan
    with pytest.raises(InputError, match="class 1"):
        RMT(Net(), prototypes=bad)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lam": (1, 1)}, "lam"),
        ({"lam": (1, -1, 0)}, "lam"),
        ({"alpha": 2}, "alpha"),
        ({"momentum": 1.1}, "momentum"),
        ({"temperature": 0}, "temperature"),
        ({"negatives": "some"}, "negatives"),
        ({"optimizer": "rmsprop"}, "optimizer"),
        ({"lr": 0}, "lr"),
        ({"steps": 0}, "steps"),
        ({"warmup_samples": -1}, "warmup_samples"),
        ({"source": None}, "prototypes"),
        ({"source": None, "lam": (1, 0, 1)}, "source"),
        ({"source": None, "lam": (1, 0, 0), "warmup_samples": 10}, "source"),
        ({"head": "tail"}, "name"),
        ({"source": [1, 2]}, "source"),
    ],
)
def test_wrong_arguments_are_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        rmt(**settings)


def test_test_data_are_no_source() -> None:
    with pytest.raises(SplitError):
        rmt(source=images(split="test"))


def test_prototypes_that_do_not_fit_are_refused_on_the_first_batch() -> None:
    adapter = RMT(Net(), prototypes=torch.rand(3, 5))
    with pytest.raises(InputError, match=r"prototypes.*\(3, 6\)"):
        adapter.adapt(batch())
    assert adapter.drift() == 0


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    adapter = rmt(augment=lambda x, g: x * float("nan"))
    before = fingerprint(adapter.model)
    with pytest.raises((NotFinite, InputError)):
        adapter.adapt(batch())
    assert fingerprint(adapter.model) == before


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="values from"):
        rmt().adapt(batch() * 255)
