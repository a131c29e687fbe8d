"""ImageNet-E: drops by hand, invariant 8 of the card, suites on disk, the report, the claim's parts, the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tutelage.auditing.attributes import average_drop, drop_row, first_turned
from tutelage.claims.audit.imagenet_e import ANY, EDITS, FourBlocks, averages, mixed, photographs, pictures
from tutelage.claims.claim import load_claim
from tutelage.core.errors import InputError, MissingError
from tutelage.data.cutouts import CutoutSet
from tutelage.data.images import ImageSet
from tutelage.data.photographs import sample_photograph
from tutelage.data.readers import read_images
from tutelage.methods.audit.imagenet_e import (
    IMAGENET_E,
    AttributeSuite,
    Edited,
    attribute_report,
    audit_attributes,
    build_suite,
)
from tutelage.threats.attributes import AttributeEditor, Edit, emoji_pictures

SIZES = (Edit("inversion"), Edit("size"), Edit("size", 0.05))


class Counts(nn.Module):
    """Knows by how many pixels are red: class 1 where more than `at` of them are."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at
        self.register_buffer("unit", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        share = ((x[:, 0] > 0.9) & (x[:, 1] < 0.1)).float().flatten(1).mean(1)
        return torch.stack([torch.zeros_like(share), share - self.at], 1) * 100


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + 0 * x.flatten(1)[:, :2]


def red_squares(n: int = 24, side: int = 12) -> CutoutSet:
    """n red squares, all of class 1 but one, covering (side / 24)^2 of a grey frame."""
    cutouts = torch.zeros(n, 4, 24, 24)
    cutouts[:, 0], cutouts[:, 3, 2 : 2 + side, 4 : 4 + side] = 1, 1
    labels = torch.ones(n, dtype=torch.int64)
    labels[0] = 0
    behind = torch.full((n, 3, 24, 24), 0.5)
    return CutoutSet.on(cutouts, behind, labels, ("none", "red"), name="red squares")


@pytest.fixture(scope="module")
def suite() -> AttributeSuite:
    data = emoji_pictures(24, [sample_photograph("flower")], split="test", size=32, seed=0)
    return build_suite(data, surrogate=FourBlocks(width=2))


def test_a_drop_by_hand() -> None:
    right = torch.tensor([1, 1, 1, 1, 0, 0, 1, 1]).bool()
    after = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0]).bool()
    ok = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0]).bool()  # the last one does not count, in neither accuracy
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    row = drop_row("size-full", "size", right, after, ok, torch.arange(8) / 10, labels, ("a", "b", "c"))
    assert (row.n, row.total) == (7, 8)
    assert row.original == pytest.approx(100 * 5 / 7)
    assert row.edited == pytest.approx(100 * 4 / 7)
    assert row.drop == pytest.approx(100 / 7)
    assert row.ci95[0] < row.drop < row.ci95[1]
    assert row.rate == pytest.approx(0.3)
    assert row.by_class["a"] == (pytest.approx(200 / 3), 3)
    assert row.by_class["b"] == (pytest.approx(-100 * 1 / 4), 4)
    assert set(row.by_class) == {"a", "b"}
    # invariant 8: the other way round it is the other sign
    swapped = drop_row("size-full", "size", after, right, ok, torch.arange(8) / 10, labels, ("a", "b", "c"))
    assert swapped.drop == pytest.approx(-row.drop)
    assert swapped.ci95 == pytest.approx((-row.ci95[1], -row.ci95[0]))
    assert first_turned(right, after, ok, 1).tolist() == [1]
    assert first_turned(right, after, ok, 9).tolist() == [1, 2]
    with pytest.raises(InputError, match=r"could be done with no picture"):
        drop_row("size-full", "size", right, after, ~ok & False, torch.zeros(8), labels, ("a", "b"))


def test_the_average_is_over_edits() -> None:
    lost = {"a": torch.tensor([1, 0, 0, 0]), "b": torch.tensor([0, 1, 1, -1])}
    done = {"a": torch.ones(4).bool(), "b": torch.tensor([1, 1, 0, 0]).bool()}
    value, (lo, hi) = average_drop(lost, done, 0)
    assert value == pytest.approx((25 + 50) / 2)
    assert lo < value < hi
    many = {"a": torch.arange(200) % 4 == 0, "b": torch.arange(200) % 2 == 0}
    value, (lo, hi) = average_drop({k: v.long() for k, v in many.items()}, {k: v | True for k, v in many.items()}, 0)
    assert value == pytest.approx(37.5)
    # per picture 1, 0, 1/2, 0: standard error sqrt(0.171875 / 200) = 2.93 points
    assert hi - lo == pytest.approx(2 * 1.96 * 2.93, rel=0.15)


def test_a_constant_classifier_has_no_drop() -> None:
    report = audit_attributes(Constant(), red_squares(), [*SIZES, Edit("position"), Edit("direction")])
    assert [row.drop for row in report.rows] == [0.0] * 5
    assert report.average == 0.0
    assert report.ranking() == [("size", 0.0), ("position", 0.0), ("direction", 0.0)]


def test_a_classifier_that_counts_red_fails_when_the_object_is_small() -> None:
    """Squares cover 25 % of the frame; the model says red from 15 % on."""
    report = audit_attributes(Counts(0.15), red_squares(), SIZES)
    small, full = report.row("size-5-percent"), report.row("size-full")
    assert small.original == pytest.approx(100 * 23 / 24)
    # at 5 % it says "none", which is right for one picture only
    assert small.edited == pytest.approx(100 / 24)
    assert small.drop == pytest.approx(100 * 22 / 24)
    assert small.by_class["red"] == (pytest.approx(100.0), 23)
    assert small.by_class["none"] == (pytest.approx(-100.0), 1)
    assert full.drop == 0.0
    assert report.floor == 0.0
    assert report.average == pytest.approx(50 * 22 / 24)
    assert report.ranking()[0] == ("size", pytest.approx(100 * 22 / 24))
    assert len([e for e in report.examples if e.edit == "size-5-percent"]) == 4
    assert (report.examples[0].label, report.examples[0].predicted) == (1, 0)
    # without labels: all 24 answers on the originals count as right, and all change
    own = audit_attributes(Counts(0.15), red_squares(), SIZES, consistency=True)
    assert own.row("size-5-percent").original == 100.0
    assert own.row("size-5-percent").drop == 100.0


def test_pictures_that_cannot_be_edited_count_in_neither_accuracy() -> None:
    data = red_squares(24, side=12)
    alpha = data.alpha.clone()
    alpha[12:] = 1  # these fill the frame: there is no other place
    full = CutoutSet(data.colours, alpha, data.backgrounds, data.labels, data.classes)
    row = audit_attributes(Counts(0.15), full, [Edit("position")]).row("position")
    assert (row.n, row.total) == (12, 24)
    assert row.original == pytest.approx(100 * 11 / 12)
    with pytest.raises(InputError, match=r"^edits: got position, which no picture allows"):
        audit_attributes(Counts(0.15), full.take(slice(12, 24)), [Edit("position")])


def test_all_eleven_edits_make_eleven_rows(suite: AttributeSuite, tmp_path: Path) -> None:
    report = attribute_report(FourBlocks(width=2), suite, name="a net")
    assert [row.edit for row in report.rows] == [str(edit) for edit in IMAGENET_E]
    assert len(report.table().splitlines()) == 2 + 11 + 1
    page = report.save(tmp_path).read_text()
    about = json.loads((tmp_path / "attributes.json").read_text())
    assert about["rows"][0]["edit"] == "inversion"
    assert about["model"]["name"] == "a net"
    assert all(str(edit) in page for edit in IMAGENET_E)
    assert "What hurts most" in page
    # the model comes back as it was
    net = FourBlocks(width=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    attribute_report(net, suite)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_suite_on_disk(suite: AttributeSuite, tmp_path: Path) -> None:
    suite.save(tmp_path / "set")
    again = AttributeSuite.load(tmp_path / "set")
    assert list(again.edited) == list(suite.edited)
    assert again.original.sha256 == suite.original.sha256
    assert again.settings == suite.settings
    for edit, one in suite.edited.items():
        other = again.edited[edit]
        assert torch.equal(other.images.images, one.images.images)
        assert torch.equal(other.ok, one.ok)
        assert torch.equal(other.rate, one.rate)
    net = FourBlocks(width=2)
    assert attribute_report(net, again).rows == attribute_report(net, suite).rows
    # each file is a set that the package reads
    assert torch.equal(read_images(tmp_path / "set" / "position.npz").images, suite.edited[Edit("position")].images.images)
    # written again, it is the same to the byte
    suite.save(tmp_path / "again")
    for file in sorted((tmp_path / "set").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
    arrays = dict(np.load(tmp_path / "set" / "position.npz"))
    arrays["image"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "set" / "position.npz", **arrays)
    with pytest.raises(InputError, match=r"position.npz that was changed"):
        AttributeSuite.load(tmp_path / "set")
    with pytest.raises(MissingError):
        AttributeSuite.load(tmp_path)


def test_swapping_originals_and_edits_swaps_the_sign(suite: AttributeSuite) -> None:
    edit = Edit("size", 0.05)
    one = suite.edited[edit]
    torch.manual_seed(0)
    net = FourBlocks(width=8).eval()
    there = attribute_report(net, AttributeSuite(suite.original, {edit: one})).rows[0]
    turned = AttributeSuite(one.images, {edit: Edited(suite.original, one.ok, one.rate, one.value)})
    assert attribute_report(net, turned).rows[0].drop == pytest.approx(-there.drop)


def test_the_same_twice(suite: AttributeSuite) -> None:
    data = emoji_pictures(24, [sample_photograph("flower")], split="test", size=32, seed=0)
    sizes = build_suite(data, SIZES, batch_size=7)
    for edit in SIZES:
        assert sizes.edited[edit].images.sha256 == suite.edited[edit].images.sha256


# Folders, as a user has them


def test_folders_of_cutouts_and_of_masks(tmp_path: Path) -> None:
    data = red_squares(6)
    for i, label in enumerate([0, 1, 0, 1, 1, 0]):
        name = tmp_path / "cut" / ("a", "b")[label] / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        rgba = torch.cat([data.colours[i], data.alpha[i]]).mul(255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(rgba).save(name)
        for folder, array in (("x", np.ascontiguousarray(rgba[..., :3])), ("m", np.ascontiguousarray(rgba[..., 3]))):
            place = tmp_path / folder / ("a", "b")[label] / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(place)
    model = Counts(0.15)
    cut = audit_attributes(model, tmp_path / "cut", SIZES)
    assert cut.row("size-5-percent").n == 6
    assert cut.row("size-5-percent").rate == pytest.approx(0.05, abs=0.015)
    masked = audit_attributes(model, tmp_path / "x", SIZES, masks=tmp_path / "m", size=24)
    assert masked.data["n"] == 6
    with pytest.raises(InputError, match=r"^masks, size"):
        audit_attributes(model, data, SIZES, size=24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "x"}, r"there is no folder x"),
        ({"edits": []}, r"^edits: got \[\]"),
        ({"edits": ["size"]}, r"^edits"),
        ({"edits": [Edit("size"), Edit("size")]}, r"^edits: got size-full twice"),
        ({"model": "net"}, r"^model: got str"),
        ({"editor": "direct"}, r"^editor: got str"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"model": Constant(), "data": red_squares(4), "edits": SIZES}
    with pytest.raises((InputError, MissingError), match=message):
        audit_attributes(**{**good, **change})


def test_a_suite_needs_what_its_edits_need() -> None:
    with pytest.raises(InputError, match=r"^surrogate: got None"):
        build_suite(red_squares(4), [Edit("adversarial-background", 20.0)])
    with pytest.raises(InputError, match=r"^data: got one class"):
        build_suite(red_squares(4).take([1, 2]), [Edit("random-background")])
    with pytest.raises(InputError, match=r"^data: got Tensor"):
        build_suite(torch.rand(2, 3, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^suite"):
        attribute_report(Constant(), AttributeSuite(red_squares(4).images, {}))


def test_an_editor_of_ones_own() -> None:
    """Any function from scenes to backgrounds serves; its name, without an address, stands in the settings."""

    def black(scene: Any, complexity: float, *, noise: Any, y: Any = None, model: Any = None) -> Tensor:
        return torch.zeros_like(scene.background)

    suite = build_suite(red_squares(4), [Edit("background", 1.0)], editor=AttributeEditor(black))
    edited = suite.edited[Edit("background", 1.0)].images.images
    assert int(edited[:, 1:].max()) == 0
    assert "0x" not in suite.settings["background"]
    assert "black" in suite.settings["background"]


# The claim's parts


def test_arms_are_the_edits_and_the_nets() -> None:
    claim = load_claim("imagenet-e")
    assert set(EDITS) < set(claim.arms)
    assert EDITS["size-5-percent-edit"] == Edit("size", 0.05)
    assert EDITS["size-full-edit"] == Edit("size")
    assert EDITS["background-smoother-edit"].value == -20
    assert EDITS["background-adversarial-edit"].kind == "adversarial-background"
    assert len(claim.arms) == 18


def test_emoji_and_photographs_of_the_parts_are_different_ones() -> None:
    config = load_claim("imagenet-e").scales["smoke"]
    pools = {part: photographs("samples", part, calm=False) for part in ("train", "validation", "test")}
    seen: set[bytes] = set()
    for part, pool in pools.items():
        mine = {one.numpy().tobytes() for one in pool}
        assert not mine & seen, part
        seen |= mine
        assert len(photographs("samples", part)) <= len(pool)
    assert pictures(config, "test", 1).split == "test"  # type: ignore[arg-type]
    train = pictures(config, "train", 1)  # type: ignore[arg-type]
    wide = pictures(config, "train", 1, ANY)  # type: ignore[arg-type]
    spread = [part.alpha.float().div(255).flatten(1).mean(1) for part in (train, wide)]
    assert float(spread[1].min()) < 0.06
    assert float(spread[0].min()) > 0.1
    assert float(spread[1].std()) > 2 * float(spread[0].std())


def test_mixtures_stay_pictures() -> None:
    x = torch.rand(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for seed in range(12):  # all operations come up
        out = mixed(x, torch.Generator().manual_seed(seed))
        assert out.shape == x.shape
        assert float(out.min()) >= 0
        assert float(out.max()) <= 1
        assert bool(torch.isfinite(out).all())
    assert float((out - x).abs().mean()) > 0.01
    assert torch.equal(out, mixed(x, torch.Generator().manual_seed(11)))


def test_the_averages_of_a_net(suite: AttributeSuite) -> None:
    report = attribute_report(FourBlocks(width=2), suite)
    found = averages(report)
    ten = [row.drop for row in report.rows if row.edit != "inversion"]
    assert len(ten) == 10
    assert found["top1_drop"] == pytest.approx(sum(ten) / 10)
    assert found["top1_drop"] == pytest.approx(report.average)
    nine = [row.drop for row in report.rows if row.edit not in ("inversion", "background+20-adversarial")]
    assert len(nine) == 9
    assert found["natural_drop"] == pytest.approx(sum(nine) / 9)
    assert found["drop_position"] == report.row("position").drop


def test_an_imageset_is_enough_for_images_with_masks() -> None:
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = ImageSet(x, torch.arange(8) % 2, ("a", "b"))
    masks = torch.zeros(8, 1, 16, 16)
    masks[:, :, 4:10, 4:10] = 1
    report = audit_attributes(Constant(), CutoutSet.of(images, masks), SIZES)
    assert report.row("size-5-percent").rate == pytest.approx(0.05, abs=0.015)
