"""Detection metrics by hand and against scikit-learn; baseline scores by their formulas; the guarded model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage.auditing.detection import (
    ODIN,
    Detector,
    Energy,
    GuardedModel,
    MaxSoftmax,
    NearestNeighbours,
    attacked_pairs,
    attacked_triples,
    auroc,
    detection_metrics,
    threshold_at,
)
from tutelage.core.errors import InputError, MissingError, SplitError
from tutelage.data.images import ImageSet
from tutelage.models.loading import fingerprint
from tutelage.threats import FGSM, FMN, L2, PGD, Linf


class Brightness(nn.Module):
    """Two logits: 8 (m - 1/2) and the opposite, m the mean of the image."""

    def __init__(self, slope: float = 8.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-z, z], 1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def images(n: int = 60, split: str = "train", seed: int = 0, low: float = 0.0) -> ImageSet:
    g = torch.Generator().manual_seed(seed)
    x = low + (1 - low) * torch.rand(n, 1, 8, 8, generator=g)
    return ImageSet(x, torch.arange(n) % 3, ("a", "b", "c"), split=split)  # type: ignore[arg-type]


def test_metrics_by_hand() -> None:
    # inside 4 3 2 1, outside 2.5 0: of 8 pairs, 2.5 is above 2 and 1, so 6 are right
    found = detection_metrics([4, 3, 2, 1], [2.5, 0], tpr=0.75)
    assert found.auroc == 6 / 8
    assert found.threshold == 2  # 3 of 4 are at least 2
    assert (found.fpr, found.tnr) == (0.5, 0.5)
    # from the top: in in OUT in in OUT: precisions 1, 1, 3/4, 4/5 at recalls 1/4 each
    assert found.aupr_in == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)
    # from the bottom: OUT in in OUT: precision 1 and 2/4
    assert found.aupr_out == pytest.approx((1 + 2 / 4) / 2)
    # refusing only 0: TPR 1, TNR 1/2; refusing up to 2.5: TPR 1/2, TNR 1
    assert found.accuracy == 0.75
    assert (found.n_inside, found.n_outside) == (4, 2)


def test_metrics_agree_with_scikit_learn_also_with_ties() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    a, b = rng.integers(2, 9, 200).astype(float), rng.integers(0, 7, 90).astype(float)
    found, truth, scores = detection_metrics(a, b), np.r_[np.ones(200), np.zeros(90)], np.r_[a, b]
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found.aupr_in == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert found.aupr_out == pytest.approx(average_precision_score(1 - truth, -scores), abs=1e-12)
    for name, interval in found.intervals.items():
        assert interval.lo <= getattr(found, name) <= interval.hi


def test_auroc_turns_with_the_sign_and_constants_are_half() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.normal(size=40)
    assert auroc(-a, -b) == pytest.approx(1 - auroc(a, b))
    assert auroc(np.ones(5), np.ones(7)) == 0.5
    same = detection_metrics(np.ones(5), np.ones(7))
    assert (same.fpr, same.accuracy) == (1.0, 0.5)


def test_the_threshold_accepts_just_enough() -> None:
    scores = torch.arange(1, 101).float()
    assert threshold_at(scores, 0.95) == 6.0  # 6 to 100 are 95 numbers
    assert threshold_at(scores, 0.945) == 6.0
    assert threshold_at(scores, 0.951) == 5.0
    assert threshold_at([3.0], 0.5) == 3.0


@pytest.mark.parametrize("bad", [[], [[1.0]], [float("nan")], ["a"], "a", torch.tensor([math.inf])])
def test_bad_scores_are_refused(bad: object) -> None:
    with pytest.raises(InputError, match=r"^(inside|outside)"):
        detection_metrics(bad, [1.0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^outside"):
        detection_metrics([1.0], bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^tpr"):
        detection_metrics([1.0], [1.0], tpr=95)


# scores


def test_max_softmax_and_energy_by_hand() -> None:
    x = torch.full((1, 1, 2, 2), 0.75)  # logits -2 and 2
    assert MaxSoftmax(Brightness()).score(x).item() == pytest.approx(1 / (1 + math.exp(-4)), rel=1e-6)
    assert Energy(Brightness()).score(x).item() == pytest.approx(math.log(math.exp(2) + math.exp(-2)), rel=1e-6)
    assert Energy(Brightness(), 2.0).score(x).item() == pytest.approx(2 * math.log(math.e + 1 / math.e), rel=1e-6)


def test_odin_by_hand_steps_towards_confidence() -> None:
    # every pixel moves by +eps, as brighter is surer here: the mean is 0.80, logits -2.4 and 2.4
    x = torch.full((1, 1, 2, 2), 0.75)
    found = ODIN(Brightness(), temperature=10, eps=0.05).score(x).item()
    assert found == pytest.approx(1 / (1 + math.exp(-0.48)), rel=1e-6)


def test_odin_without_step_at_temperature_one_is_max_softmax() -> None:
    x = images().images
    torch.testing.assert_close(ODIN(net(), 1.0, 0.0).score(x), MaxSoftmax(net()).score(x))
    assert bool((ODIN(net(), 1.0, 0.01).score(x) > MaxSoftmax(net()).score(x)).all())


def test_nearest_neighbours_against_a_plain_loop() -> None:
    model, train, probe = net(), images(), images(7, seed=1)
    knn = NearestNeighbours(model, k=3).fit(train.loader(25))
    assert knn.layer == "4:input"
    with torch.no_grad():
        bank, mine = (nn.functional.normalize(model[:4](x)) for x in (train.images, probe.images))
    for i, score in enumerate(knn.score(probe.images)):
        assert -score.item() == pytest.approx((mine[i] - bank).norm(dim=1).sort().values[2].item(), abs=1e-3)
    assert NearestNeighbours(model, k=1).fit(train.loader(60)).score(train.images).abs().max() < 2e-3
    with pytest.raises(InputError, match=r"^k"):
        NearestNeighbours(model, k=61).fit(train.loader(60))
    with pytest.raises(InputError, match="fit"):
        NearestNeighbours(model).score(probe.images)
    with pytest.raises(SplitError):
        NearestNeighbours(model).fit(images(split="test").loader(8))


def detectors(model: nn.Module) -> list[Detector]:
    knn = NearestNeighbours(model, k=2).fit(images().loader(30))
    return [MaxSoftmax(model), Energy(model, 2.0), ODIN(model, 100.0, 0.01), knn]


def test_scores_do_not_depend_on_batches_and_leave_the_model_alone() -> None:
    model, data = net().train(), images(31, seed=2)
    before = fingerprint(model)
    for detector in detectors(model):
        whole = detector.scores(data, batch_size=31)
        torch.testing.assert_close(detector.scores(data, batch_size=7), whole, rtol=1e-4, atol=1e-4)
        assert (whole.dtype, whole.shape) == (torch.float64, (31,))
    assert fingerprint(model) == before
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_saved_detector_comes_back_and_another_model_is_refused(tmp_path: Path) -> None:
    model, x = net(), images(5, seed=3).images
    for detector in detectors(model):
        folder = tmp_path / detector.name
        detector.save(folder)
        again = type(detector).load(folder, model)
        assert torch.equal(again.score(x), detector.score(x))
        assert again.fingerprint() == detector.fingerprint()
        other = net()
        with torch.no_grad():
            other[4].bias += 1
        with pytest.raises(InputError, match=r"^model"):
            type(detector).load(folder, other)
    with pytest.raises(InputError, match="a MaxSoftmax"):
        Energy.load(tmp_path / "max-softmax", model)
    with pytest.raises(MissingError):
        Energy.load(tmp_path / "nowhere", model)
    file = tmp_path / "knn" / "detector.safetensors"
    file.write_bytes((tmp_path / "odin" / "detector.safetensors").read_bytes())
    with pytest.raises(InputError, match="was changed"):
        NearestNeighbours.load(tmp_path / "knn", model)


def test_bad_inputs_and_settings_of_detectors() -> None:
    for make in (
        lambda: Energy(net(), 0),
        lambda: ODIN(net(), eps=-1),
        lambda: MaxSoftmax("net"),
        lambda: NearestNeighbours(net(), k=0),
    ):
        with pytest.raises(InputError):
            make()
    with pytest.raises(InputError, match="normalisation"):
        MaxSoftmax(net()).score(torch.full((1, 1, 8, 8), -1.0))
    assert MaxSoftmax(net(), bounds=None).score(torch.full((1, 1, 8, 8), -1.0)).shape == (1,)
    with pytest.raises(InputError, match=r"^data"):
        MaxSoftmax(net()).scores(torch.rand(2, 1, 8, 8))  # type: ignore[arg-type]


# attacked images


def greys(*levels: float) -> ImageSet:
    """Even grey images; `Brightness` calls those above 0.5 class 1, which is the label of all."""
    x = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    return ImageSet(x, torch.ones(len(x), dtype=torch.int64), ("dark", "bright"))


def test_the_triples_of_an_linf_attack_by_hand() -> None:
    # FGSM of 0.1 makes all darker by 0.1: 0.45 is wrong from the start, 0.7 is not broken; 0.52 and 0.58 are. The largest of
    # the four entries of the noise is 0.1; with a mean below -0.02 it alone is enough for 0.52
    data = greys(0.45, 0.7, *[0.52] * 40, *[0.58] * 40)
    pairs = attacked_pairs(Brightness(), data, FGSM(Linf(0.1)), seed=1)
    assert len(pairs) == 80
    torch.testing.assert_close(pairs.attacked, pairs.clean - 0.1)
    found = attacked_triples(Brightness(), data, FGSM(Linf(0.1)), seed=1)
    assert found.total == 82
    assert set((found.clean.mean((1, 2, 3)) * 100).round().tolist()) == {52.0, 58.0}
    torch.testing.assert_close(found.attacked, found.clean - 0.1)
    noise = (found.noisy - found.clean).abs().flatten(1)
    torch.testing.assert_close(noise.amax(1), torch.full((len(found),), 0.1))
    assert float(noise.amin(1).max()) < 0.09  # no corner of the budget
    assert bool((found.noisy.mean((1, 2, 3)) > 0.5).all())
    assert 45 < len(found) < 75  # some noise alone was enough
    assert found.labels.tolist() == [1] * len(found)


def test_the_noise_of_another_attack_is_as_long_as_its_change() -> None:
    found = attacked_triples(Brightness(), greys(0.55, 0.6, 0.65), FMN(L2(2.0), steps=30))
    # the smallest changes: 0.05, 0.10 and 0.15 in each of 4 pixels, twice that in L2
    change = (found.attacked - found.clean).flatten(1).norm(dim=1)
    assert change.tolist() == pytest.approx([2 * (float(m) - 0.5) for m in found.clean.mean((1, 2, 3))], rel=0.02)
    torch.testing.assert_close((found.noisy - found.clean).flatten(1).norm(dim=1), change, rtol=1e-4, atol=1e-6)
    assert bool((Brightness()(found.attacked).argmax(1) == 0).all())


def test_an_attack_is_run_to_its_end_and_not_to_the_border() -> None:
    # the first wrong point of the search is just below 0.5, where the classifier is unsure; the end is 0.3 darker
    data, attack = greys(0.55, 0.6, 0.65), PGD(Linf(0.3), steps=30)
    found = attacked_pairs(Brightness(), data, attack)
    torch.testing.assert_close(found.attacked, found.clean - 0.3)
    clean, attacked = (MaxSoftmax(Brightness()).score(x) for x in (found.clean, found.attacked))
    assert auroc(clean[:1], attacked[:1]) == 0.0  # 0.25 is further from 0.5 than 0.55 is
    first = attack.run(Brightness(), found.clean, found.labels, torch.Generator().manual_seed(0)).x_adv
    assert auroc(clean, MaxSoftmax(Brightness()).score(first)) > 0.85  # what an audit keeps would flatter max-softmax


def test_the_noise_of_an_linf_attack_is_a_third_of_it_in_a_typical_pixel() -> None:
    grey = torch.full((30, 1, 28, 28), 0.55)
    found = attacked_triples(
        Brightness(), ImageSet(grey, torch.ones(30, dtype=torch.int64), ("dark", "bright")), FGSM(Linf(0.2))
    )
    noise = (found.noisy - found.clean).flatten(1)
    torch.testing.assert_close(noise.abs().amax(1), torch.full((len(found),), 0.2))
    assert 0.05 < float(noise.std()) < 0.08  # the largest of 784 is 3.2 deviations; a corner would be 0.2


def test_triples_may_be_none_and_need_a_model_and_an_attack() -> None:
    assert len(attacked_triples(Brightness(), greys(0.9, 0.95), PGD(Linf(0.01), steps=2))) == 0
    with pytest.raises(InputError, match=r"^model"):
        attacked_triples(Brightness(), greys(0.3), FGSM(Linf(0.1)))
    with pytest.raises(InputError, match=r"^attack"):
        attacked_triples(Brightness(), greys(0.6), "fgsm")  # type: ignore[arg-type]


# the guard


def ramp(n: int, split: str = "validation") -> ImageSet:
    """Images of even grey, from 0.5 up: the score of `Brightness` rises with the place. The first half has wrong labels."""
    grey = 0.5 + 0.49 * torch.arange(1, n + 1) / n
    labels = (torch.arange(n) >= n // 2).long()
    return ImageSet(grey[:, None, None, None].expand(n, 1, 4, 4).clone(), labels, ("dark", "bright"), split=split)  # type: ignore[arg-type]


def test_the_guard_by_hand(tmp_path: Path) -> None:
    data, dark = ramp(39), ImageSet(torch.full((10, 1, 4, 4), 0.5), torch.zeros(10, dtype=torch.int64), ("x",))
    guard = GuardedModel.calibrate(MaxSoftmax(Brightness()), data, tpr=0.9)
    # the conformal rank is ceil(40 * 0.9) = 36 from the top: the 4th lowest of 39 scores, which itself is accepted
    answer = guard.predict(data.images)
    assert answer.accepted.tolist() == [False] * 3 + [True] * 36
    assert guard.threshold == sorted(answer.score.tolist())[3]
    report = guard.report(data, {"dark": dark})
    assert report.coverage == 36 / 39
    # labels: 19 zeros, then 20 ones; the model says 1 everywhere
    assert (report.accuracy, report.selective_accuracy) == (pytest.approx(20 / 39), 20 / 36)
    assert report.refused == {"dark": 1.0}
    assert report.metrics["dark"].auroc == 1.0
    assert "refused: dark" in report.table()

    guard.save(tmp_path)
    model = Brightness()
    again = GuardedModel.load(tmp_path, MaxSoftmax.load(tmp_path / "detector", model))
    assert again.predict(data.images).accepted.tolist() == answer.accepted.tolist()
    with pytest.raises(InputError, match=r"^detector"):
        GuardedModel.load(tmp_path, Energy(model))
    with pytest.raises(MissingError):
        GuardedModel.load(tmp_path / "detector", MaxSoftmax(model))


def test_the_guard_accepts_new_inside_samples_at_its_rate() -> None:
    g = torch.Generator().manual_seed(0)
    model, rates = Brightness(), []
    for _ in range(40):
        grey = torch.rand(520, 1, 1, 1, generator=g).expand(520, 1, 2, 2).clone()
        data = ImageSet(grey, torch.zeros(520, dtype=torch.int64), ("x",), split="validation")
        guard = GuardedModel.calibrate(MaxSoftmax(model), data.take(slice(0, 20)), tpr=0.8)
        rates.append(float(guard.predict(data.images[20:]).accepted.double().mean()))
    # Beta(17, 4) around 17/21 = 0.81 with a deviation of 0.084: of 40 means, 0.013
    assert 0.77 < sum(rates) / len(rates) < 0.85


def test_what_the_guard_refuses_to_be_set_on() -> None:
    detector = MaxSoftmax(Brightness())
    with pytest.raises(InputError, match="at least 19"):
        GuardedModel.calibrate(detector, ramp(18), tpr=0.95)
    assert GuardedModel.calibrate(detector, ramp(19), tpr=0.95).n == 19
    with pytest.raises(SplitError):
        GuardedModel.calibrate(detector, ramp(40, "test"))
    with pytest.raises(InputError, match=r"^tpr"):
        GuardedModel.calibrate(detector, ramp(40), tpr=1.0)
