"""The cells of the claim of Mahalanobis: who sees which data, what the far pictures are, what is made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.auditing.detection import Detector
from tutelage.claims.claim import Cell
from tutelage.claims.detect import mahalanobis as claim
from tutelage.claims.detect.mahalanobis import MeanBrightness
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError
from tutelage.data.images import ImageSet
from tutelage.threats import FGSM, Linf

CONFIG = claim.CLAIM.scales["smoke"]


def rows(data: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.images}


@pytest.mark.parametrize("near", [False, True])
def test_no_picture_is_in_two_parts_and_the_held_out_classes_are_nowhere_inside(near: bool) -> None:
    parts = claim.Parts(CONFIG, near=near)
    inside = [parts.train, parts.epoch, parts.setting, parts.threshold]
    assert len(set().union(*map(rows, inside))) == sum(map(len, inside))
    assert [len(part) for part in inside[1:]] == [CONFIG.n_validation, CONFIG.n_setting, CONFIG.n_validation]
    assert all(part.split == "validation" for part in inside[1:])
    assert not set().union(*map(rows, inside)) & rows(parts.test)
    classes = 8 if near else 10
    assert {int(c) for part in (*inside, parts.test) for c in part.labels} == set(range(classes))
    assert (parts.outside is not None) is near
    if parts.outside is not None:
        assert set(parts.outside.labels.tolist()) == {8, 9}
        assert len(parts.outside) + len(parts.test) == CONFIG.n_test
    assert len(parts.train.classes) == len(parts.test.classes) == classes


def test_far_pictures_have_the_form_of_the_inside_and_are_the_units_own(tmp_path: Path) -> None:
    like = claim.Parts(CONFIG, near=False).test
    far, other = (claim.far_sets(CONFIG, unit, like) for unit in (0, 1))
    assert list(far) == ["letters", "emoji", "noise"]
    for name, data in far.items():
        assert data.images.shape == (CONFIG.n_far, 1, 12, 12)
        assert data.split == "test"
        assert data.sha256 == claim.far_sets(CONFIG, 0, like)[name].sha256
        assert data.sha256 != other[name].sha256
    colour = ImageSet(torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64), ("x",))
    assert claim.far_sets(CONFIG, 0, colour)["letters"].images.shape == (CONFIG.n_far, 3, 32, 32)

    file = tmp_path / "mine.npz"
    np.savez(file, image=np.full((5, 24, 24), 51, dtype=np.uint8), label=np.zeros(5, dtype=np.int64))
    own = claim.far_sets(CONFIG.model_copy(update={"far": f"noise,{file}"}), 0, like)
    assert list(own) == ["noise", "mine"]
    torch.testing.assert_close(own["mine"].images, torch.full((5, 1, 12, 12), 0.2))


def test_the_control_is_the_distance_of_the_mean_brightness() -> None:
    grey = torch.tensor([0.2, 0.4])[:, None, None, None].expand(2, 1, 3, 3).clone()
    train = ImageSet(grey, torch.zeros(2, dtype=torch.int64), ("x",), split="train")
    control = claim.MeanBrightness(nn.Flatten()).fit(train)
    assert control.score(torch.full((1, 1, 3, 3), 0.9)).item() == pytest.approx(-0.6)
    assert control.score(torch.full((1, 1, 3, 3), 0.1)).item() == pytest.approx(-0.2)


def test_attacked_pictures_are_made_once_for_all_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    parts, net = claim.Parts(CONFIG, near=False), nn.Sequential(nn.Flatten(), nn.Linear(144, 10)).eval()
    labels = net(parts.setting[slice(None)][0]).argmax(1)  # so that the untrained net is right everywhere
    data = ImageSet(parts.setting.images, labels, parts.setting.classes, split="validation")
    cell = Cell("odin", 0, CONFIG, Cache(tmp_path))
    first = claim.attacked(net, data, FGSM(Linf(0.5)), noisy=True, seed=1, cell=cell)
    assert len(first["attacked"]) > 0
    monkeypatch.setattr(claim, "attacked_triples", None)
    again = claim.attacked(net, data, FGSM(Linf(0.5)), noisy=True, seed=1, cell=cell)
    assert all(torch.equal(first[name], again[name]) for name in ("clean", "noisy", "attacked"))
    with pytest.raises(TypeError):  # another attack is not in the cache
        claim.attacked(net, data, FGSM(Linf(0.4)), noisy=True, seed=1, cell=cell)


def test_a_detector_is_set_on_validation_pictures_of_each_attack_and_scored_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, scored, real = [], [], claim.set_on

    def spy(detector: Detector, arm: str, inside: ImageSet, outside: ImageSet, config: claim.Config) -> Detector:
        seen.append((inside, outside))
        return real(detector, arm, inside, outside, config)

    def score(self: MeanBrightness, data: ImageSet, *, batch_size: int = 256) -> torch.Tensor:
        scored.append(data)
        return Detector.scores(self, data, batch_size=batch_size)

    monkeypatch.setattr(claim, "set_on", spy)
    monkeypatch.setattr(MeanBrightness, "scores", score, raising=False)
    found = claim.cell(Cell("mean-brightness", 0, CONFIG, Cache(tmp_path)))
    assert all(data.split == "validation" for pair in seen for data in pair)
    far, fgsm, pgd, fmn, near = seen
    for inside, outside in (far, near):
        assert len(inside) == len(outside)  # as they are, and attacked by FGSM
    for inside, outside in (fgsm, pgd, fmn):
        assert len(inside) == 2 * len(outside)  # clean and noisy
    assert rows(fgsm[1]) <= rows(far[1])
    assert not rows(fgsm[1]) & rows(pgd[1])
    assert not rows(far[0]) & set().union(*(rows(data) for data in scored))
    # a score with nothing to set is the same on attacks that are known and unknown
    for name in ("pgd", "fmn"):
        assert found[f"auroc_{name}"] == found[f"auroc_{name}_unseen"]
    assert found["unseen_attack_auroc"] == pytest.approx((found["auroc_pgd"] + found["auroc_fmn"]) / 2)
    assert found["adversarial_auroc"] == pytest.approx(sum(found[f"auroc_{name}"] for name in ("fgsm", "pgd", "fmn")) / 3)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="steps"):
        claim.CLAIM.config("smoke", {"steps": "0,-1"})
    with pytest.raises(InputError, match="n_validation"):
        claim.CLAIM.config("smoke", {"n_validation": "10"})
