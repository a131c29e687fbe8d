"""Streaming class statistics: by hand, against numpy, batches in any order, merging, bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.core.errors import InputError
from tutelage.models.statistics import ClassStatistics

light = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def data(n: int, dim: int, classes: int, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    source = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), source.integers(0, classes, n - classes)])
    features = source.normal(size=(n, dim)) @ source.normal(size=(dim, dim)) + labels[:, None] + offset
    return torch.tensor(features), torch.tensor(labels)


def streamed(features: Tensor, labels: Tensor, classes: int, batch: int) -> ClassStatistics:
    statistics = ClassStatistics(classes, features.shape[1])
    for x, y in zip(features.split(batch), labels.split(batch), strict=True):
        statistics.update(x, y)
    return statistics


def test_by_hand() -> None:
    # Class 0: (0, 0) and (2, 4), mean (1, 2), deviations -+(1, 2); class 1: (5, 5) alone.
    # Scatter 2 * [[1, 2], [2, 4]] over 3 samples, or over 3 - 2 = 1.
    statistics = ClassStatistics(2, 2)
    statistics.update(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([0, 1]))
    statistics.update(torch.tensor([[2.0, 4.0]]), torch.tensor([0], dtype=torch.int32))
    moments = statistics.result()
    assert moments.counts.tolist() == [2, 1]
    assert moments.means.tolist() == [[1.0, 2.0], [5.0, 5.0]]
    torch.testing.assert_close(moments.covariance, torch.tensor([[2.0, 4.0], [4.0, 8.0]], dtype=torch.float64) / 3)
    assert statistics.result(unbiased=True).covariance.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    assert (moments.means.dtype, moments.covariance.dtype, moments.unseen) == (torch.float64, torch.float64, ())


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_agrees_with_numpy(batch: int, offset: float) -> None:
    features, labels = data(100, 4, 3, offset=offset)
    moments = streamed(features, labels, 3, batch).result()
    x, y = features.numpy() - offset, labels.numpy()
    means = np.stack([x[y == k].mean(0) for k in range(3)])
    covariance = sum(np.cov(x[y == k].T, bias=True) * (y == k).sum() for k in range(3)) / 100
    np.testing.assert_allclose(moments.means.numpy() - offset, means, atol=1e-8)
    # a one-pass sum of squares would lose every digit at an offset of 1e6 in float32, and four here
    np.testing.assert_allclose(moments.covariance.numpy(), covariance, rtol=1e-7, atol=1e-7)
    assert torch.equal(moments.covariance, moments.covariance.T)


def test_float32_features_with_a_large_offset_keep_their_spread() -> None:
    x = torch.tensor([[4096.0], [4096.5], [4097.0]])  # exact in float32; variance (0.25 + 0 + 0.25) / 3
    assert streamed(x, torch.zeros(3, dtype=torch.long), 1, 1).result().covariance.item() == pytest.approx(0.5 / 3, rel=1e-12)


@light
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_batches_order_and_workers_do_not_matter(batch: int, cut: int, seed: int) -> None:
    features, labels = data(40, 3, 4, seed)
    whole = streamed(features, labels, 4, 40).result()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(40))
    one, two = (streamed(features[part], labels[part], 4, batch) for part in (order[:cut], order[cut:]))
    one.merge(two)
    merged = one.result()
    assert torch.equal(merged.counts, whole.counts)
    torch.testing.assert_close(merged.means, whole.means)
    torch.testing.assert_close(merged.covariance, whole.covariance)
    assert bool((torch.linalg.eigvalsh(merged.covariance) > -1e-12).all())


def test_merging_nothing_changes_nothing_and_the_other_is_kept() -> None:
    statistics, empty = streamed(*data(20, 3, 2), 2, 8), ClassStatistics(2, 3)
    before = statistics.result()
    statistics.merge(empty)
    empty.merge(statistics)
    for after in (statistics.result(), empty.result()):
        torch.testing.assert_close(after.means, before.means)
        torch.testing.assert_close(after.covariance, before.covariance)
    statistics.update(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
    assert torch.equal(statistics.result().means, before.means)


def test_classes_that_were_not_seen_are_told() -> None:
    statistics = ClassStatistics(4, 1)
    statistics.update(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([1, 1, 3]))
    with pytest.raises(InputError, match="labels: got no sample of class 0, 2, wanted samples of every class"):
        statistics.result()
    moments = statistics.result(allow_unseen=True)
    assert (moments.unseen, moments.counts.tolist()) == ((0, 2), [0, 2, 0, 1])
    assert moments.means.isnan().flatten().tolist() == [True, False, True, False]
    assert moments.covariance.item() == pytest.approx(2 / 3)  # (1 + 1 + 0) / 3
    assert statistics.result(allow_unseen=True, unbiased=True).covariance.item() == 2.0  # 3 samples, 2 classes seen


def test_state_is_a_copy_and_resumes() -> None:
    features, labels = data(30, 3, 2)
    statistics = streamed(features[:10], labels[:10], 2, 5)
    resumed = ClassStatistics(2, 3)
    resumed.load_state_dict(statistics.state_dict())
    for one in (statistics, resumed):
        one.update(features[10:], labels[10:])
    assert torch.equal(resumed.result().covariance, statistics.result().covariance)
    first = statistics.result()
    first.means.zero_()
    assert not torch.equal(statistics.result().means, first.means)


def test_gradients_are_not_followed() -> None:
    statistics = ClassStatistics(1, 2)
    statistics.update(torch.rand(3, 2, requires_grad=True), torch.zeros(3, dtype=torch.long))
    assert not statistics.result().means.requires_grad


def filled() -> ClassStatistics:
    return streamed(*data(10, 3, 2), 2, 10)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("classes", lambda: ClassStatistics(0, 3)),
        ("dim", lambda: ClassStatistics(2, 1.5)),  # type: ignore[arg-type]
        ("features", lambda: filled().update(torch.rand(2, 4), torch.zeros(2, dtype=torch.long))),
        ("features", lambda: filled().update(torch.rand(2, 3, 1), torch.zeros(2, dtype=torch.long))),
        ("features", lambda: filled().update(torch.ones(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long))),
        ("features", lambda: filled().update(torch.full((2, 3), torch.nan), torch.zeros(2, dtype=torch.long))),
        ("features", lambda: filled().update(np.zeros((2, 3)), torch.zeros(2, dtype=torch.long))),  # type: ignore[arg-type]
        ("features", lambda: ClassStatistics(2, 3).result(allow_unseen=True)),
        ("labels", lambda: filled().update(torch.rand(2, 3), torch.tensor([0, 2]))),
        ("labels", lambda: filled().update(torch.rand(2, 3), torch.tensor([0, -1]))),
        ("labels", lambda: filled().update(torch.rand(2, 3), torch.zeros(3, dtype=torch.long))),
        ("labels", lambda: filled().update(torch.rand(2, 3), torch.zeros(2))),
        ("other", lambda: filled().merge(ClassStatistics(2, 4))),
        ("other", lambda: filled().merge(3)),  # type: ignore[arg-type]
        ("unbiased", lambda: streamed(*data(2, 3, 2), 2, 2).result(unbiased=True)),
        ("state['means']", lambda: filled().load_state_dict({"counts": torch.zeros(2), "means": torch.zeros(2, 4)})),
        ("state['counts']", lambda: filled().load_state_dict({})),
    ],
)
def test_bad_input_is_refused_by_name(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument


def test_a_refused_batch_adds_nothing() -> None:
    statistics = filled()
    before = statistics.result()
    with pytest.raises(InputError):
        statistics.update(torch.tensor([[0.0, 0.0, 0.0], [0.0, torch.inf, 0.0]]), torch.tensor([0, 1]))
    assert torch.equal(statistics.result().counts, before.counts)
