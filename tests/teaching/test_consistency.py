"""Symmetric cross-entropy, NT-Xent, the moving-average teacher and replay, against values by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.errors import InputError, SplitError
from tutelage.data.images import ImageSet
from tutelage.teaching.consistency import nt_xent, symmetric_cross_entropy
from tutelage.teaching.divergences import entropy
from tutelage.teaching.ema import EMATeacher
from tutelage.teaching.replay import Replay


def logits(seed: int = 0, n: int = 6) -> Tensor:
    return 3 * torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_the_reverse_term_it_is_cross_entropy_with_soft_targets() -> None:
    z, t = logits(), logits(1)
    wanted = F.cross_entropy(z, t.softmax(1), reduction="none")
    torch.testing.assert_close(symmetric_cross_entropy(z, t, alpha=0), wanted)


def test_a_half_is_symmetric_and_the_same_twice_is_the_entropy() -> None:
    z, t = logits(), logits(1)
    torch.testing.assert_close(symmetric_cross_entropy(z, t), symmetric_cross_entropy(t, z))
    torch.testing.assert_close(symmetric_cross_entropy(z, z), entropy(z, reduction="none"))
    assert bool((symmetric_cross_entropy(z, t, alpha=0.2) - symmetric_cross_entropy(t, z, alpha=0.2)).abs().max() > 0.1)


def test_symmetric_cross_entropy_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): CE = -(ln 3/4 + ln 1/4) / 2, reverse CE = ln 2
    z, t = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    ce, reverse = -(math.log(3 / 4) + math.log(1 / 4)) / 2, math.log(2)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        assert float(symmetric_cross_entropy(z, t, alpha=alpha)) == pytest.approx((1 - alpha) * ce + alpha * reverse)


def test_its_gradient_is_that_of_the_paper_and_none_reaches_the_teacher() -> None:
    z, t = logits().requires_grad_(), logits(1).requires_grad_()
    symmetric_cross_entropy(z, t, alpha=0.5).sum().backward()
    p, q = z.detach().softmax(1), t.detach().softmax(1)
    reverse = -p * (q.log() - (p * q.log()).sum(1, keepdim=True))
    torch.testing.assert_close(z.grad, 0.5 * (p - q) + 0.5 * reverse)
    assert t.grad is None


def test_extreme_logits_stay_finite() -> None:
    z, t = torch.tensor([[200.0, -200.0]]).requires_grad_(), torch.tensor([[-200.0, 200.0]])
    loss = symmetric_cross_entropy(z, t).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(400)
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())


def test_wrong_arguments_of_the_loss_are_named() -> None:
    with pytest.raises(InputError, match="alpha"):
        symmetric_cross_entropy(logits(), logits(), alpha=1.5)
    with pytest.raises(InputError, match="teacher_logits"):
        symmetric_cross_entropy(logits(), logits(n=5))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def test_nt_xent_of_one_sample_by_hand() -> None:
    views = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]])  # cosines 0.7071, 0, 0.7071
    tau = 0.5
    s = [[cosine(a, b) / tau for b in views[0]] for a in views[0]]
    terms = []
    for a in range(3):
        one, other = (b for b in range(3) if b != a)
        for positive, negative in ((one, other), (other, one)):
            terms.append(math.log(1 + math.exp(s[a][negative] - s[a][positive])))
    assert float(nt_xent(views, temperature=tau)) == pytest.approx(sum(terms) / 6)


def test_nt_xent_of_several_samples_is_the_mean_over_anchors() -> None:
    views, tau = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.1
    flat = [(i, views[i, v]) for i in range(4) for v in range(3)]
    losses = []
    for a, (i, u) in enumerate(flat):
        others = [(j, math.exp(cosine(u, w) / tau)) for b, (j, w) in enumerate(flat) if b != a]
        whole = sum(value for _, value in others)
        losses += [-math.log(value / whole) / 2 for j, value in others if j == i]
    assert float(nt_xent(views)) == pytest.approx(sum(losses) / 12)


def test_negatives_of_the_same_class_can_be_left_out() -> None:
    views = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    all_one = nt_xent(views, negatives="other_class", groups=torch.zeros(3, dtype=torch.int64))
    assert float(all_one) == pytest.approx(0, abs=1e-5)  # nothing is left but the one positive
    apart = nt_xent(views, negatives="other_class", groups=torch.arange(3))
    torch.testing.assert_close(apart, nt_xent(views))
    # without sample 1 among the negatives of 0, as it has its class; sample 2 alone is not changed
    mixed = nt_xent(views, negatives="other_class", groups=torch.tensor([0, 0, 1]))
    assert float(mixed) < float(nt_xent(views))
    with pytest.raises(InputError, match="groups"):
        nt_xent(views, negatives="other_class")
    with pytest.raises(InputError, match="views"):
        nt_xent(views[:, :1])


def test_the_average_of_weights_by_hand() -> None:
    student = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        student.weight.fill_(1.0)
    teacher = EMATeacher(student, 0.9)
    with torch.no_grad():
        student.weight.fill_(2.0)
    teacher.update(student)
    assert float(teacher(torch.ones(1, 1))) == pytest.approx(1.1)
    assert not any(p.requires_grad for p in teacher.model.parameters())
    with pytest.raises(InputError, match="student"):
        teacher.update(nn.Linear(2, 1))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_of_the_momentum(momentum: float) -> None:
    torch.manual_seed(0)
    student = nn.Linear(7, 5)
    teacher, first = EMATeacher(student, momentum), student.weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            student.weight.add_(torch.randn(5, 7))
        teacher.update(student)
        wanted = first if momentum == 1 else student.weight
        assert torch.equal(teacher.model.weight, wanted)  # type: ignore[arg-type]


def images(n: int = 10, split: str = "train") -> ImageSet:
    x = torch.arange(n).float()[:, None, None, None].expand(n, 1, 2, 2) / n
    return ImageSet(x.contiguous(), torch.arange(n) % 2, ("a", "b"), split=split)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["set", "loader", "dataset"])
def test_replay_shows_each_sample_once_a_pass_in_a_new_order(kind: str) -> None:
    data = images()
    source = {
        "set": data,
        "loader": DataLoader(TensorDataset(data.images, data.labels), batch_size=3),
        "dataset": TensorDataset(data.images, data.labels),
    }[kind]
    replay = Replay(source, 5, torch.Generator().manual_seed(0))
    passes = []
    for _ in range(2):
        batches = [replay(), replay()]
        x = torch.cat([b[0] for b in batches])[:, 0, 0, 0]
        assert torch.equal(x.sort().values, data.images[:, 0, 0, 0])
        assert torch.equal(torch.cat([b[1] for b in batches]), (x * 10).round().long() % 2)
        passes.append(x)
    assert not torch.equal(*passes)


def test_replay_goes_on_from_its_state_to_the_bit() -> None:
    replay = Replay(images(), 4, torch.Generator().manual_seed(0))
    replay()
    state = replay.state_dict()
    wanted = [replay()[0] for _ in range(5)]
    other = Replay(images(), 4, torch.Generator().manual_seed(9))
    other.load_state_dict(state)
    assert all(torch.equal(a, other()[0]) for a in wanted)


def test_replay_refuses_test_data_and_what_has_no_length() -> None:
    with pytest.raises(SplitError):
        Replay(images(split="test"), 4, torch.Generator())
    with pytest.raises(InputError, match="source"):
        Replay(iter([1]), 4, torch.Generator())
