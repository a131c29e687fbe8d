"""Mahalanobis against its card: the invariants, values by hand, the step's direction, the ensemble, classes, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.auditing.detection import GuardedModel, attacked_pairs, attacked_triples, auroc
from tutelage.core.errors import InputError, SplitError
from tutelage.data.images import ImageSet
from tutelage.methods.detect.mahalanobis import Mahalanobis
from tutelage.models.loading import fingerprint
from tutelage.threats import FGSM, L2, PGD, Linf

LAYERS = ("stem", "body", "head:input")


class Net(nn.Module):
    """Images (B, 1, 6, 6) -> 3 logits; three taps of 4, 5 and 6 features."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.norm, self.body = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
        self.last, self.head = nn.Linear(20, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.last(self.body(F.relu(self.norm(self.stem(x)))).flatten(1))))
        return out


class Pixels(nn.Module):
    """The features are the two pixels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.head = nn.Flatten(), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.same(x))
        return out


def images(n: int = 90, seed: int = 0, split: str = "train") -> ImageSet:
    """Three classes, told apart by the brightness of a third of the rows."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.5 * torch.rand(n, 1, 6, 6, generator=g)
    for c in range(3):
        x[y == c, :, 2 * c : 2 * c + 2] += 0.4
    return ImageSet(x, y, ("a", "b", "c"), split=split)  # type: ignore[arg-type]


def fitted(eps: float = 0.0, layers: tuple[str, ...] = LAYERS, **about: object) -> Mahalanobis:
    return Mahalanobis(Net().eval(), layers, eps=eps, **about).fit(images().loader(20))  # type: ignore[arg-type]


def two_pixels(eps: float = 0.0, **about: object) -> Mahalanobis:
    """Class 0 at (0.2, 0.2), class 1 at (0.8, 0.2); variances 0.01 and 0.04, no covariance."""
    offsets = torch.tensor([[0.1, 0.2], [-0.1, 0.2], [0.1, -0.2], [-0.1, -0.2]])
    x = torch.cat([offsets + torch.tensor([0.2, 0.2]), offsets + torch.tensor([0.8, 0.2])]).reshape(8, 1, 1, 2)
    loader = DataLoader(TensorDataset(x, torch.arange(8) // 4), batch_size=3)
    made = Mahalanobis(Pixels(), ["same"], shrinkage=0, eps=eps, bounds=(-1.0, 2.0), **about)  # type: ignore[arg-type]
    return made.fit(loader)


def stepped(detector: Mahalanobis, eps: float, x: Tensor) -> Tensor:
    """The layer scores after a step of another length."""
    before, detector.eps = detector.eps, eps
    found = detector.layer_scores(x)
    detector.eps = before
    return found


def by_definition(detector: Mahalanobis, x: Tensor, layer: int) -> Tensor:
    """(1) and (2) written out for one layer, from the net's own parts, with a pseudo-inverse."""
    net = detector.model.eval()

    def features(x: Tensor) -> Tensor:
        stem = net.stem(x)
        body = net.body(F.relu(net.norm(stem)))
        return (stem.mean((2, 3)), body.mean((2, 3)), torch.tanh(net.last(body.flatten(1))))[layer].double()

    data = images()
    f = features(data.images)
    means = torch.stack([f[data.labels == c].mean(0) for c in range(3)])
    centred = f - means[data.labels]
    inverse = torch.linalg.pinv(centred.T @ centred / len(f))
    gap = features(x)[:, None] - means
    return (-0.5 * torch.einsum("nci,ij,ncj->nc", gap, inverse, gap)).amax(1)


# (1), (2)


def test_scores_by_hand() -> None:
    # (0.5, 0.6): to class 0 0.3^2 / 0.01 + 0.4^2 / 0.04 = 13, and the same to class 1
    # (0.6, 0.2): to class 1 0.2^2 / 0.01 = 4
    detector = two_pixels()
    found = detector.layer_scores(torch.tensor([[0.5, 0.6], [0.6, 0.2], [0.2, 0.2]]).reshape(3, 1, 1, 2))
    assert found[:, 0].tolist() == [pytest.approx(-6.5, abs=1e-4), pytest.approx(-2.0, abs=1e-4), pytest.approx(0, abs=1e-9)]
    assert detector.nearest(torch.tensor([0.6, 0.2]).reshape(1, 1, 1, 2)).tolist() == [1]


def test_every_layer_is_what_its_definition_says() -> None:
    detector, x = fitted(shrinkage=0), images(7, seed=5).images
    found = detector.layer_scores(x)
    for layer in range(3):
        torch.testing.assert_close(found[:, layer], by_definition(detector, x, layer), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(detector.score(x), found.sum(1))  # without weights: the plain sum
    assert bool((found <= 0).all())


def test_the_class_means_are_where_the_score_is_highest() -> None:
    detector = fitted()
    means = [g.means for g in detector.gaussians]
    at = detector.feature_scores(means)
    assert at.abs().max() < 1e-12
    assert bool((detector.feature_scores([m + 0.01 for m in means]) < 0).all())


def test_batches_of_any_size_and_order_fit_the_same() -> None:
    whole, parts = (
        fitted(),
        Mahalanobis(Net().eval(), LAYERS).fit(images().loader(7, generator=torch.Generator().manual_seed(1))),
    )
    for a, b in zip(whole.gaussians, parts.gaussians, strict=True):
        # features themselves are float32, and those of a batch depend on its size in the last digit
        torch.testing.assert_close(a.means, b.means, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-5, atol=1e-8)
    f, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(60) % 3
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    one, other = (Mahalanobis(Net(), ["stem"]).fit_features([f[i]], y[i]) for i in (torch.arange(60), order))
    torch.testing.assert_close(one.gaussians[0].covariance, other.gaussians[0].covariance, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.feature_scores([f]), other.feature_scores([f]), rtol=0, atol=1e-9)


def test_training_and_cached_features_fit_the_same() -> None:
    detector, data = fitted(), images()
    cached = Mahalanobis(detector.model, LAYERS).fit_features(detector.features(data.images), data.labels)
    torch.testing.assert_close(cached.score(data.images), detector.score(data.images), rtol=1e-4, atol=1e-3)


def test_what_is_left_out_and_what_is_singular_is_said() -> None:
    f, y = images().images.flatten(1)[:, :4], images().labels
    dead = torch.cat([f, torch.ones(90, 1)], 1)
    found = Mahalanobis(Net(), ["stem", "body"]).fit_features([dead, torch.cat([f, f[:, :1]], 1)], y)
    assert [one.split(",")[0] for one in found.warnings] == [
        "stem: 1 of 5 features never vary within a class; they are left out", "body: covariance of rank 4 for 5 features",
    ]  # fmt: skip
    assert fitted().warnings == []


def test_the_layer_is_the_input_of_the_head_if_none_is_named() -> None:
    detector = Mahalanobis(Net()).fit(images().loader(30))
    assert detector.layers == ("head:input",)
    torch.testing.assert_close(detector.score(images().images), fitted(layers=("head:input",)).score(images().images))


def test_the_net_is_fitted_in_evaluation_mode_and_handed_back_as_it_was() -> None:
    net = Net().train()
    before = fingerprint(net)
    detector = Mahalanobis(net, LAYERS, eps=0.01).fit(images().loader(20))
    torch.testing.assert_close(detector.score(images().images), fitted(0.01).score(images().images))
    assert fingerprint(net) == before
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


# (3)


def test_the_step_by_hand() -> None:
    # at (0.6, 0.3), nearest to class 1 at (0.8, 0.2): the gradient of half the distance is (-0.2 / 0.01, 0.1 / 0.04), so the
    # step of 0.05 against it leads to (0.65, 0.25): half of 0.15^2 / 0.01 + 0.05^2 / 0.04 = 1.15625
    x = torch.tensor([0.6, 0.3]).reshape(1, 1, 1, 2)
    assert two_pixels().layer_scores(x).item() == pytest.approx(-0.5 * (0.04 / 0.01 + 0.01 / 0.04), abs=1e-4)
    assert two_pixels(0.05).layer_scores(x).item() == pytest.approx(-1.15625, abs=1e-4)
    assert stepped(two_pixels(), 0.05, x).item() == pytest.approx(-1.15625, abs=1e-4)


def test_the_step_is_cut_to_the_range_only_if_asked() -> None:
    far = Mahalanobis(Pixels(), ["same"], shrinkage=0, eps=0.3, clip=True)
    far.gaussians, far.weights = two_pixels().gaussians, torch.ones(1, dtype=torch.float64)
    # from (0.25, 0.25) towards (0.2, 0.2) and beyond: to (-0.05, -0.05), cut to (0, 0)
    at = torch.tensor([0.25, 0.25]).reshape(1, 1, 1, 2)
    assert far.score(at).item() == pytest.approx(-0.5 * (0.04 / 0.01 + 0.04 / 0.04), abs=1e-3)
    far.clip = False
    assert far.score(at).item() == pytest.approx(-0.5 * (0.0625 / 0.01 + 0.0625 / 0.04), abs=1e-3)


def test_a_small_step_raises_every_layer_and_none_is_the_plain_score() -> None:
    detector, x = fitted(), images(40, seed=3).images
    plain, raised = detector.layer_scores(x), stepped(detector, 1e-4, x)
    assert bool((raised >= plain).all())
    assert bool((raised > plain).double().mean() > 0.99)
    torch.testing.assert_close(stepped(detector, 1e-9, x), plain, rtol=1e-4, atol=1e-4)


def test_each_layer_has_a_gradient_of_its_own() -> None:
    together, x = fitted(0.01), images(9, seed=4).images
    alone = [fitted(0.01, layers=(layer,)).layer_scores(x)[:, 0] for layer in LAYERS]
    torch.testing.assert_close(together.layer_scores(x), torch.stack(alone, 1), rtol=1e-6, atol=1e-6)


def test_the_gradient_is_that_of_autograd_through_the_distance() -> None:
    detector, x = fitted(layers=("head:input",), shrinkage=0.0), images(5, seed=6).images.requires_grad_()
    by_definition(detector, x, 2).sum().backward()
    found = stepped(detector, 0.01, x.detach())[:, 0]
    expected = by_definition(detector, x.detach() + 0.01 * x.grad.sign(), 2)  # upwards in M is against the distance
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-2)


# (4)


def validation(n: int = 120, seed: int = 1) -> ImageSet:
    return images(n, seed, "validation")


def noise(n: int = 80, split: str = "validation", seed: int = 9) -> ImageSet:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return ImageSet(x, torch.zeros(n, dtype=torch.int64), ("noise",), split=split)  # type: ignore[arg-type]


def test_the_ensemble_weighs_layers_and_scores_are_log_odds() -> None:
    detector = fitted()
    inside, outside = detector.set_scores(validation()), detector.set_scores(noise())
    detector.fit_ensemble(inside, outside)
    s = detector.score(validation(60, 2).images)
    torch.testing.assert_close(s, detector.layer_scores(validation(60, 2).images) @ detector.weights + detector.bias)
    assert auroc(s, detector.score(noise(60, seed=10).images)) > 0.95
    right = (torch.cat([s, -detector.score(noise(60, seed=10).images)]) > 0).double().mean()
    assert right > 0.85  # 0 is even odds


def test_the_plain_sum_of_standardised_scores() -> None:
    detector = fitted()
    inside = detector.set_scores(validation())
    detector.fit_standardised(inside)
    expected = ((inside - inside.mean(0)) / inside.std(0)).sum(1)
    torch.testing.assert_close(detector.combine(inside), expected)


def test_the_length_of_the_step_is_chosen_on_validation_data() -> None:
    detector = fitted().fit_on_sets(validation(), noise(), choices=(0.0, 0.01))
    assert detector.eps in (0.0, 0.01)
    fixed = fitted().fit_on_sets(validation(), noise(), choices=(detector.eps,))
    assert fixed.weights.tolist() == detector.weights.tolist()
    assert fixed.eps == detector.eps
    with pytest.raises(SplitError):
        fitted().fit_on_sets(validation(), noise(split="test"))
    with pytest.raises(SplitError):
        fitted().fit_on_sets(images(split="test"), noise())


def test_attacked_validation_images_stand_for_the_outside() -> None:
    made = Mahalanobis(Rows(), ["pool"], shrinkage=1e-3).fit(images().loader(30))
    made.fit_on_attacks(validation(), FGSM(Linf(0.3)), choices=(0.0,))
    three = attacked_triples(Rows(), validation(90, 5), FGSM(Linf(0.3)))
    assert auroc(made.score(three.clean), made.score(three.attacked)) > 0.9
    pairs = attacked_pairs(Rows(), validation(), FGSM(Linf(0.3)))  # no image is lost to noise
    inside, outside = (ImageSet(x, pairs.labels, ("a", "b", "c"), split="validation") for x in (pairs.clean, pairs.attacked))
    same = Mahalanobis(Rows(), ["pool"], shrinkage=1e-3).fit(images().loader(30)).fit_on_sets(inside, outside, choices=(0.0,))
    assert same.weights.tolist() == made.weights.tolist()
    with pytest.raises(InputError, match=r"^attack: got one that breaks 0 of 120"):
        made.fit_on_attacks(validation(), FGSM(Linf(0.001)))
    with pytest.raises(InputError, match=r"^attack"):
        made.fit_on_attacks(validation(), "fgsm")  # type: ignore[arg-type]
    with pytest.raises(SplitError):
        made.fit_on_attacks(images(split="test"), PGD(L2(1.0)))


class Rows(nn.Module):
    """The class is the brightest pair of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.head = nn.Sequential(nn.AvgPool2d((2, 6)), nn.Flatten()), nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(5 * torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(x))
        return out


# (5)


def test_a_new_class_without_training() -> None:
    two = images().take((images().labels < 2).nonzero().squeeze(1))
    detector = Mahalanobis(Rows(), ["pool"]).fit(two.loader(30), classes=2)
    assert detector.labels(images().images[2:3]).tolist() == [2]  # the classifier's own answer
    with pytest.raises(InputError, match=r"^labels: got label 2"):
        Mahalanobis(Rows(), ["pool"]).fit(images().loader(30), classes=2)
    before, third = detector.gaussians[0], images().take((images().labels == 2).nonzero().squeeze(1))
    assert detector.add_class(detector.features(third.images)) == 2
    after, f = detector.gaussians[0], detector.features(third.images)[0].double()
    own = (f - f.mean(0)).T @ (f - f.mean(0)) / len(f)
    torch.testing.assert_close(after.covariance, (2 * before.covariance + own) / 3)
    probe = images(60, seed=8)
    assert (detector.labels(probe.images) == probe.labels).double().mean() > 0.95  # now the nearest of three


# all of it


def test_a_saved_detector_and_its_guard_come_back(tmp_path: Path) -> None:
    detector = fitted(0.002).fit_on_sets(validation(), noise(), choices=(0.002,))
    detector.add_class([torch.randn(5, g.dim, generator=torch.Generator().manual_seed(0)) for g in detector.gaussians])
    guard = GuardedModel.calibrate(detector, validation(60, 4), tpr=0.9)
    guard.save(tmp_path)
    model = Net().eval()
    again = GuardedModel.load(tmp_path, Mahalanobis.load(tmp_path / "detector", model))
    x = images(9, seed=2).images
    for a, b in zip(guard.predict(x), again.predict(x), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(InputError, match=r"^model"):
        Mahalanobis.load(tmp_path / "detector", Net(1))


def test_refusals() -> None:
    net, x = Net(), images().images
    for about in ({"shrinkage": 2.0}, {"eps": -1.0}, {"eps": "no"}):
        with pytest.raises(InputError):
            Mahalanobis(net, LAYERS, **about)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="near"):
        Mahalanobis(net, ["stern"])
    for call in ("score", "layer_scores", "nearest"):
        with pytest.raises(InputError, match=r"fit\(loader\) first"):
            getattr(Mahalanobis(net, LAYERS), call)(x)
    with pytest.raises(InputError, match="fewer than 2 samples of class 2"):
        Mahalanobis(net, LAYERS).fit(images().take([0, 1, 3, 4]).loader(2))
    part = images().take([0, 1, 3, 4])
    with pytest.raises(InputError, match="fewer than 2 samples of class 2"):  # a loader whose labels are not at hand
        Mahalanobis(net, LAYERS).fit(DataLoader(TensorDataset(part.images, part.labels), batch_size=2))
    with pytest.raises(InputError, match=r"^shrinkage: got 0"):
        Mahalanobis(net, LAYERS, shrinkage=0).fit(images(6).loader(3))
    with pytest.raises(InputError, match=r"^loader"):
        Mahalanobis(net, LAYERS).fit(images())  # type: ignore[arg-type]
    with pytest.raises(SplitError):
        Mahalanobis(net, LAYERS).fit(images(split="test").loader(20))
    with torch.no_grad():
        net.stem.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError):
        Mahalanobis(net, LAYERS).fit(images().loader(20))


def test_refusals_of_a_fitted_detector() -> None:
    detector = fitted()
    for bad in ([torch.rand(3, 4)], torch.rand(3, 4), [torch.rand(3, 9)] * 3):
        with pytest.raises(InputError, match=r"^features"):
            detector.feature_scores(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="as many of every layer"):
        detector.add_class([torch.rand(3, 4), torch.rand(3, 5), torch.rand(2, 6)])
    with pytest.raises(InputError, match="at least 10"):
        detector.fit_ensemble(torch.rand(9, 3), torch.rand(30, 3))
    with pytest.raises(InputError, match=r"^outside"):
        detector.fit_ensemble(torch.rand(30, 3), torch.rand(30, 2))
    with pytest.raises(InputError, match=r"^choices"):
        detector.fit_on_sets(validation(), noise(), choices=())
    with pytest.raises(InputError, match=r"^outside"):
        detector.fit_on_sets(validation(), noise(19))
    with pytest.raises(InputError, match=r"^eps"):
        detector.fit_on_sets(validation(), noise(), choices=(0.0, float("nan")))
    assert detector.eps == 0.0
    assert detector.weights.tolist() == [1.0] * 3  # what failed has changed nothing
    with pytest.raises(InputError, match=r"^loader"):
        Mahalanobis(Net(), LAYERS).fit(DataLoader(TensorDataset(images().images), batch_size=9))
