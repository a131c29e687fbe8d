"""Audits under common corruptions: rows by hand, the same noise for all, mean corruption error, going on after a stop."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from audits import audited, mask
from test_report import page_of
from torch import Tensor, nn

import tutelage
from tutelage.auditing import AuditResult
from tutelage.auditing.corruption import chosen, corruption_rows
from tutelage.core.errors import InputError
from tutelage.data.images import ImageSet
from tutelage.threats.corruptions import COMMON, FAMILIES, Corruption

# mean over images: fog 5/8 = (1, 1/2, 1, 0), snow 2/8 = (1/2, 0, 1/2, 0), impulse_noise 1/2
RIGHT = {
    "fog@1": mask("1110"),
    "fog@3": mask("1010"),
    "snow@1": mask("1010"),
    "snow@3": mask("0000"),
    "impulse_noise@1": mask("1111"),
    "impulse_noise@3": mask("0000"),
}
ASKED = chosen(["fog@1,3", "snow@1,3", "impulse_noise@1,3"])


def row(rows, category, name):
    (found,) = [r for r in rows if (r.category, r.name) == (category, name)]
    return found


class Bright(nn.Module):
    """Logits by the mean grey level; counts what it sees and can be stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-8.0, 8.0]))
        self.inputs: list[Tensor] = []
        self.seen, self.stop_at = 0, 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        if self.seen >= self.stop_at:
            raise KeyboardInterrupt
        self.inputs.append(x.clone())
        return (x.mean((1, 2, 3)) - 0.5)[:, None] * self.weight


@pytest.fixture(scope="module")
def data() -> ImageSet:
    labels = torch.arange(40) % 2
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(40, 1, 16, 16, generator=rng) * 0.6 + 0.2 * torch.rand(40, 1, 1, 1, generator=rng)
    return ImageSet(x + 0.16 * labels[:, None, None, None], labels, ("dark", "bright"))


def test_rows_are_the_means_by_hand():
    rows = corruption_rows(RIGHT, ASKED)
    assert row(rows, "corruption", "fog@1").value == 0.75
    assert row(rows, "corruption", "fog").value == 0.625
    assert row(rows, "corruption family", "weather@1").value == pytest.approx((0.75 + 0.5) / 2)
    assert row(rows, "corruption family", "weather").value == pytest.approx((0.625 + 0.25) / 2)
    assert row(rows, "corruption family", "noise").value == 0.5
    # corruptions weigh the same, not families
    assert row(rows, "corruptions", "mean").value == pytest.approx((0.625 + 0.25 + 0.5) / 3)
    assert rows[-1].name == "mean"
    assert not [r for r in rows if r.name == "mCE"]


def test_the_interval_of_a_mean_is_students_over_images():
    # fog, image by image: 1, 1/2, 1, 0; mean 0.625, s^2 = (0.375^2 * 2 + 0.125^2 + 0.625^2) / 3, t(0.975, 3) = 3.18245
    found = row(corruption_rows(RIGHT, ASKED), "corruption", "fog")
    half = 3.182446 * math.sqrt((2 * 0.375**2 + 0.125**2 + 0.625**2) / 3 / 4)
    assert found.ci95 == pytest.approx((0.0, 1.0))  # cut: four images say little
    assert 0.625 - half < 0
    assert 0.625 + half > 1
    many = {key: value.repeat(25) for key, value in RIGHT.items()}
    wide = row(corruption_rows(many, ASKED), "corruption", "fog")
    t = 1.984217  # t(0.975, 99)
    half = t * math.sqrt(25 * (2 * 0.375**2 + 0.125**2 + 0.625**2) / 99 / 100)
    assert wide.ci95 == pytest.approx((0.625 - half, 0.625 + half), abs=1e-6)


def test_without_a_spread_the_interval_does_not_vanish():
    same = {"fog@1": mask("11111"), "fog@3": mask("11111")}
    low, high = row(corruption_rows(same, chosen("fog@1,3")), "corruptions", "mean").ci95
    assert high == 1.0
    assert 0.1 < 1 - low < 1


def test_one_severity_has_no_rows_of_its_own():
    rows = corruption_rows(RIGHT, chosen(["fog@1", "snow@1"]))
    assert [(r.category, r.name) for r in rows] == [
        ("corruption", "fog@1"),
        ("corruption", "snow@1"),
        ("corruption family", "weather"),
        ("corruptions", "mean"),
    ]


def test_what_can_be_asked_for():
    assert len(chosen("corruptions")) == 75
    assert {one.name for one in chosen("corruptions@3")} == set(COMMON)
    assert [str(one) for one in chosen(["fog@2,4", Corruption("snow", 1)])] == ["fog@2", "fog@4", "snow@1"]
    assert {one.name for one in chosen("extra@1")} == set(FAMILIES["extra"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("smog", "a family or a name"),
        ("fog@6", "severities from 1 to 5"),
        ("fog@", "severities from 1 to 5"),
        ("fog@0", "severities"),
        ([], "a list of corruptions"),
        ([3], "corruptions, a family or a name"),
        (["fog@1", "weather@1"], "fog@1 twice"),
        ([Corruption("fog", 1), Corruption("snow", 1, "imagenet-c")], "one table of constants"),
        (7, "a list of corruptions"),
    ],
)
def test_what_cannot_be_asked_for(asked, message):
    with pytest.raises(InputError, match=message):
        chosen(asked)


def test_mce_by_hand():
    # errors of the model: fog 0.375, snow 0.75; of the baseline: fog 0.5, snow 1: CE = 0.75 and 0.75
    theirs = {"fog@1": "1100", "fog@3": "1100", "snow@1": "0000", "snow@3": "0000"}
    asked = chosen(["fog@1,3", "snow@1,3"])
    baseline = audited("old", "1110", corrupted=theirs)
    found = row(corruption_rows(RIGHT, asked, baseline), "corruptions", "mCE")
    assert found.value == pytest.approx(0.75)
    assert (found.under, found.metric, found.n) == ("old", "mCE", 4)
    # image by image: e_fog = (0, .5, 0, 1), b_fog = (0, 0, 1, 1), e_snow = (.5, 1, .5, 1), b_snow = 1
    z = [((e - 0.75 * b) / 0.5 + (f - 0.75) / 1.0) / 2 for e, b, f in ((0, 0, 0.5), (0.5, 0, 1), (0, 1, 0.5), (1, 1, 1))]
    assert sum(z) == pytest.approx(0)
    half = 3.182446 * math.sqrt(sum(v * v for v in z) / 3 / 4)
    assert found.ci95 == pytest.approx((max(0, 0.75 - half), 0.75 + half), abs=1e-5)


def test_the_mce_of_a_model_relative_to_itself_is_one_for_sure(data):
    first = tutelage.audit(Bright(), data, corruptions=["fog@5", "contrast@5"], name="first")
    again = tutelage.audit(Bright(), data, corruptions=["fog@5", "contrast@5"], baseline=first)
    found = again.row("corruptions", "mCE")
    assert found.value == pytest.approx(1)
    assert found.ci95 == pytest.approx((1, 1))
    assert again.row("corruptions").name == "mean"
    assert again.settings["corruptions"]["baseline"]["name"] == "first"


def test_the_audit_is_what_a_plain_loop_finds_whatever_the_batch_size(data):
    net, other = Bright(), Bright()
    found = tutelage.audit(net, data, corruptions=["snow@3", "contrast@5"], seed=4)
    small = tutelage.audit(other, data, corruptions=["snow@3", "contrast@5"], seed=4, batch_size=7)
    assert found.predictions == small.predictions
    assert found.threats == []
    snowy = torch.cat([x for x in net.inputs if len(x) == 40][1:2])  # after the clean pass
    assert torch.equal(snowy, torch.cat([x for x in other.inputs if len(x) in (7, 5)][6:12]))
    assert not torch.equal(snowy, data.images)
    right = net(snowy).argmax(1) == data.labels
    assert found.predictions["snow@3"] == right.tolist()
    assert found.row("corruption", "snow@3").value == pytest.approx(float(right.double().mean()))
    elsewhere = Bright()
    tutelage.audit(elsewhere, data, corruptions=["snow@3"], seed=5)
    assert not torch.equal([x for x in elsewhere.inputs if len(x) == 40][1], snowy)


def test_threats_run_beside_them_only_if_asked(data):
    both = tutelage.audit(Bright(), data, threats=["fgsm:linf@0.02"], corruptions="contrast@5", curve=False)
    assert both.threats == ["linf@0.02 FGSM"]
    assert both.row("corruptions").n == 40


def test_a_stopped_audit_goes_on_to_the_same_result(data, tmp_path):
    asked = ["weather@1,3", "contrast@5"]
    whole = Bright()
    expected = tutelage.audit(whole, data, corruptions=asked)
    stopped = Bright()
    stopped.stop_at = whole.seen * 2 // 3
    with pytest.raises(tutelage.core.errors.Interrupted):
        tutelage.audit(stopped, data, corruptions=asked, state=tmp_path)
    resumed = Bright()
    found = tutelage.audit(resumed, data, corruptions=asked, state=tmp_path)
    assert found.rows == expected.rows
    assert found.predictions == expected.predictions
    assert resumed.seen < whole.seen / 2 + 2 * 40
    other = Bright()
    tutelage.audit(other, data, corruptions=["contrast@5"], state=tmp_path)  # finished for another list
    assert other.seen == 2 * 32 + 40


class Dazzled(Bright):
    """NaN for images that are nearly white."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x.mean((1, 2, 3)) > 0.9)[:, None], torch.nan, super().forward(x))


def test_what_fails_has_no_number_and_is_in_no_mean(data, tmp_path):
    bright = ImageSet(torch.cat([data.images[:3], torch.full_like(data.images[:1], 0.95)]), data.labels[:4], data.classes)
    sound = ImageSet(1 - data.images[:4], data.labels[:4], data.classes)
    shifts = {"white": bright, "negative": sound}
    options = {"shifts": shifts, "state": tmp_path / "state"}
    result = tutelage.audit(Dazzled(), data, corruptions=["brightness@1,5", "noise@1"], **options)
    assert list(result.failed) == ["corruption brightness@5", "shifted set white"]
    assert "NaN" in result.failed["corruption brightness@5"]
    assert result.settings["corruptions"]["names"] == ["brightness@1", *(f"{name}@1" for name in FAMILIES["noise"])]
    assert [one["shift"] for one in result.settings["shifts"]] == result.shifts == ["negative"]
    found = [(one.category, one.name) for one in result.rows if one.category.startswith("corruption")]
    each = [("corruption", f"{name}@1") for name in ("brightness", *FAMILIES["noise"])]
    assert set(found) == {*each, ("corruption family", "noise")}  # no mean over all, none of brightness
    page = result.save(tmp_path / "out").read_text()
    assert "No number is there of what failed: corruption brightness@5, shifted set white." in page
    # what was measured is not measured again
    model = Dazzled()
    again = tutelage.audit(model, data, corruptions=["gaussian_noise@1"], **{**options, "shifts": {"negative": sound}})
    assert model.seen == 2 * 32 + 40 + 2  # whether the shifted set fits
    assert again.row("corruption", "gaussian_noise@1") == result.row("corruption", "gaussian_noise@1")


def test_what_is_wrong_is_told_before_the_model_runs(data):
    net = Bright()
    small = replace(data, images=data.images[:, :, :8, :8])
    clean = audited("old", "1" * 40)
    there = audited("old", "1" * 40, corrupted={"fog@3": "1" * 39 + "0"}, data={**clean.data, "sha256": data.sha256})
    cases = [
        (small, {"corruptions": "fog@3"}, r"corruptions: got images of 8 x 8 pixels"),
        (data, {"corruptions": "smog"}, "corruptions: got smog"),
        (data, {"baseline": clean}, "with corruptions only"),
        (data, {"corruptions": "fog@3", "baseline": clean}, "an audit of the same images"),
        (data, {"corruptions": "fog@4", "baseline": there}, "old without fog@4"),
        (data, {"corruptions": "fog@3", "baseline": 3}, "an AuditResult"),
        (data, {"corruptions": [Corruption("fog", 3, "imagenet-c")], "baseline": there}, "constants auto, wanted imagenet-c"),
        (
            data,
            {"corruptions": "fog@3", "baseline": replace(there, predictions={"fog@3": [True] * 40})},
            "no mistake under fog",
        ),
    ]
    for images, options, message in cases:
        with pytest.raises(InputError, match=message):
            tutelage.audit(net, images, **options)
    assert net.seen == 0


def test_the_page_shows_every_row(data, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)  # with it frost may lay photographs on
    baseline = tutelage.audit(Bright(), data, corruptions=["weather@1,3", "contrast@3"], name="old net")
    baseline.save(tmp_path / "old")
    result = tutelage.audit(
        Bright(), data, corruptions=["weather@1,3", "contrast@3"], baseline=tmp_path / "old", slices={"first": range(9)}
    )
    page = page_of(result.save(tmp_path / "new"))
    for one in result.rows:
        low, high = one.ci95
        assert f"{100 * one.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in page.text, one
    for said in ("Common corruptions", "weather", "severity 3", "of the errors of old net", "procedural textures", "all"):
        assert said in page.text
    assert page.count("svg") == 1
    assert 'corruptions=["snow@1,3", "frost@1,3", "fog@1,3", "brightness@1,3", "contrast@3"]' in page.text
    again = AuditResult.load(tmp_path / "new")
    assert again.predictions == result.predictions
    assert again.rows == result.rows
