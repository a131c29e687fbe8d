"""Tied Gaussians: by hand, against numpy and LDA, invariances, new classes, refusals; and pooled layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.gaussians import TiedGaussians
from tutelage.models.pooled import PooledLayers, penultimate


def data(n: int = 200, d: int = 5, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    mixing = torch.randn(d, d, generator=g, dtype=torch.float64)
    f = torch.randn(n, d, generator=g, dtype=torch.float64) @ mixing + 2 * torch.randn(classes, d, generator=g).double()[y]
    return f, y


def test_by_hand() -> None:
    # class 0: (0, 0), (2, 0), mean (1, 0); class 1: (5, 1), (5, 5), mean (5, 3). Scatter diag(2, 8) over N = 4: diag(1/2, 2).
    f = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 5.0]])
    g = TiedGaussians.fit(f, torch.tensor([0, 0, 1, 1]), shrinkage=0)
    assert g.means.tolist() == [[1.0, 0.0], [5.0, 3.0]]
    assert g.covariance.tolist() == [[0.5, 0.0], [0.0, 2.0]]
    # (3, 2): to class 0 2^2 / 0.5 + 2^2 / 2 = 10, to class 1 2^2 / 0.5 + 1 / 2 = 8.5
    x = torch.tensor([[3.0, 2.0]])
    torch.testing.assert_close(g.distances(x), torch.tensor([[10.0, 8.5]], dtype=torch.float64))
    nearest, label = g.nearest(x)
    assert (nearest.item(), label.item()) == (pytest.approx(8.5), 1)
    # gradient of half of 8.5: S^-1 (f - m) = (-2 / 0.5, -1 / 2)
    assert g.gradient(x, label).tolist() == [[pytest.approx(-4.0), pytest.approx(-0.5)]]
    assert (g.rank, g.condition) == (2, pytest.approx(4.0))


def test_shrinkage_by_hand() -> None:
    # trace of diag(1/2, 2) over 2 is 1.25; 0.1 of it on the diagonal: diag(0.625, 2.125)
    f = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 5.0]])
    g = TiedGaussians.fit(f, torch.tensor([0, 0, 1, 1]), shrinkage=0.1)
    assert g.distances(torch.tensor([[3.0, 2.0]]))[0].tolist() == [
        pytest.approx(4 / 0.625 + 4 / 2.125),
        pytest.approx(4 / 0.625 + 1 / 2.125),
    ]


def test_it_agrees_with_numpy_over_several_chunks_and_dtypes() -> None:
    f, y = data(20_000, 4)
    g = TiedGaussians.fit(f, y, shrinkage=0)
    x, means = f.numpy(), np.stack([f.numpy()[y.numpy() == c].mean(0) for c in range(3)])
    centred = x - means[y.numpy()]
    inverse = np.linalg.inv(centred.T @ centred / len(x))
    expected = np.stack([np.einsum("ni,ij,nj->n", x - m, inverse, x - m) for m in means], 1)
    np.testing.assert_allclose(g.distances(f).numpy(), expected, rtol=1e-9, atol=1e-9)
    nearest, labels = g.nearest(f)
    np.testing.assert_allclose(nearest.numpy(), expected.min(1), rtol=1e-9, atol=1e-9)
    assert (labels.numpy() == expected.argmin(1)).all()
    torch.testing.assert_close(g.distances(f.float()).float(), g.distances(f).float(), rtol=1e-3, atol=1e-3)


def test_any_invertible_affine_map_of_the_features_leaves_distances_alone() -> None:
    f, y = data()
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 3 * torch.eye(5)
    moved = f @ matrix + 7.0
    plain, mapped = (TiedGaussians.fit(x, y, shrinkage=0) for x in (f, moved))
    torch.testing.assert_close(plain.distances(f), mapped.distances(moved), rtol=1e-8, atol=1e-8)


def test_labels_are_those_of_lda_with_equal_priors() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    f, y = data(90, 4, 3, seed=5)
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3).fit(f.numpy(), y.numpy())
    probe = data(500, 4, 3, seed=6)[0]
    assert (TiedGaussians.fit(f, y, shrinkage=0).nearest(probe)[1].numpy() == lda.predict(probe.numpy())).all()


def test_a_mean_is_at_distance_zero_from_itself_even_far_from_the_origin() -> None:
    f, y = data()
    g = TiedGaussians.fit(f + 1e5, y)
    nearest, labels = g.nearest(g.means)
    assert labels.tolist() == [0, 1, 2]
    assert float(nearest.max()) < 1e-12


def test_features_that_never_vary_are_left_out_and_counted() -> None:
    f, y = data()
    dead = torch.cat([f, torch.full((len(f), 1), 0.3)], 1)
    g = TiedGaussians.fit(dead, y, name="stem", shrinkage=0)
    assert (g.dropped, g.rank, g.dim) == (1, 5, 6)
    lit = dead.clone()
    lit[:, 5] = 99.0
    torch.testing.assert_close(g.distances(lit), TiedGaussians.fit(f, y, shrinkage=0).distances(f))
    assert g.gradient(lit, y)[:, 5].abs().max() == 0


def test_a_new_class_by_hand() -> None:
    f = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 5.0]])
    g = TiedGaussians.fit(f, torch.tensor([0, 0, 1, 1])).with_class(torch.tensor([[9.0, 9.0], [9.0, 13.0], [12.0, 11.0]]))
    # the new class: mean (10, 11), variances 2 and 8/3, no covariance; S = 2/3 diag(1/2, 2) + 1/3 diag(2, 8/3)
    assert g.means[2].tolist() == [10.0, 11.0]
    torch.testing.assert_close(g.covariance, torch.diag(torch.tensor([1.0, 20 / 9], dtype=torch.float64)))
    assert g.counts.tolist() == [2, 2, 3]
    assert g.nearest(torch.tensor([[10.0, 10.5]]))[1].item() == 2


def test_refusals() -> None:
    f, y = data(40, 5, 3)
    with pytest.raises(InputError, match="fewer than 2 samples of class 3"):
        TiedGaussians.fit(f, y, classes=4)
    with pytest.raises(InputError, match="fewer than 2 samples of class 1, 2,"):
        TiedGaussians.fit(f[:3], torch.tensor([0, 0, 2]))
    with pytest.raises(InputError, match=r"shrinkage: got 0, with 6 samples .* 'stem'"):
        TiedGaussians.fit(f[:6], torch.tensor([0, 0, 1, 1, 2, 2]), shrinkage=0, name="stem")
    twice = torch.cat([f, f[:, :1]], 1)  # enough samples, but one feature is another one's copy
    with pytest.raises(InputError, match="rank 5 for the 6 features"):
        TiedGaussians.fit(twice, y, shrinkage=0)
    assert TiedGaussians.fit(twice, y).rank == 5
    with pytest.raises(InputError, match="NaN or infinity in 'stem'"):
        TiedGaussians.fit(torch.full((4, 2), float("nan")), torch.tensor([0, 0, 1, 1]), name="stem")
    with pytest.raises(InputError, match="without variance"):
        TiedGaussians.fit(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))
    g = TiedGaussians.fit(f, y)
    for bad in (f[:, :3], f[0], torch.ones(2, 5, dtype=torch.int64), "f"):
        with pytest.raises(InputError, match=r"^features"):
            g.distances(bad)
    with pytest.raises(InputError, match="2 samples or more of the new class"):
        g.with_class(f[:1])
    with pytest.raises(InputError, match=r"^shrinkage"):
        TiedGaussians.fit(f, y, shrinkage=-1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.stem(x)).mean((2, 3)))
        return out


def test_pooled_layers_are_spatial_means_also_before_an_inplace_relu() -> None:
    net, x = Net().eval(), torch.rand(5, 1, 6, 6)
    logits, (stem, act, last) = PooledLayers(net, ["stem", "act", "head:input"])(x)
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(stem, net.stem(x).mean((2, 3)))
    torch.testing.assert_close(act, net.stem(x).relu().mean((2, 3)))
    torch.testing.assert_close(last, act)
    assert penultimate(net, x) == "head:input"


def test_pooled_layers_refuse_what_they_cannot_use() -> None:
    net, x = Net().eval(), torch.rand(5, 1, 6, 6)
    for layers in ("stem", [], ["stem", "stem"], ["steam"]):
        with pytest.raises(InputError):
            PooledLayers(net, layers)
    with torch.no_grad():
        net.stem.weight[0] = float("inf")
    with pytest.raises(InputError):
        PooledLayers(net, ["stem"])(x)
