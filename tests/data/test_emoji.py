"""The bundled emoji: what is in the file, splits by emoji, and compositing with values computed by hand."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from tutelage.core.errors import InputError, MissingError, SplitError
from tutelage.data import emoji as module
from tutelage.data import training_only
from tutelage.data.emoji import GROUPS, STYLES, SUBJECTS, Emoji, EmojiSet, emoji

BUNDLED = files("tutelage") / "data" / "bundled"
COUNTS = {"noto": 1653, "noto-v1": 1234, "fluent-flat": 1595, "fluent-shaded": 1595, "fluent-high-contrast": 1595}


@pytest.fixture(scope="module")
def whole() -> EmojiSet:
    return emoji()


# What is in the file


def test_the_file_is_small_and_the_one_that_was_built() -> None:
    content = (BUNDLED / "emoji.parquet").read_bytes()
    assert hashlib.sha256(content).hexdigest() == module.FILE_SHA256
    assert len(content) <= 13_000_000


def test_licences_lie_beside_it(root: Path) -> None:
    text = (BUNDLED / "PROVENANCE-emoji.md").read_text()
    for needed in ("Copyright (c) Microsoft Corporation", "Miles Johnson", "UNICODE LICENSE V3", "noto-emoji", *STYLES):
        assert needed in text
    assert text.count("The above copyright notice and this permission notice shall be included") == 2
    assert "Apache License" in (root / "LICENSE").read_text()
    # the versions that the script fetches are those that the page names
    for package, version in re.findall(r'\("([a-z0-9-]+)", "(\d[\d.]+)"', (root / "tools" / "build_emoji.py").read_text()):
        assert re.search(rf"{package}` {version}\b", text), package


def test_counts(whole: EmojiSet) -> None:
    assert len(whole.table) == 1663
    assert whole.images.shape == (sum(COUNTS.values()), 4, 32, 32)
    assert whole.images.dtype == torch.uint8
    assert {name: len(part) for name, part in whole.by_style().items()} == COUNTS
    complete = emoji(complete=True)
    assert len(complete) == 5 * 1189
    assert set(complete.emoji.bincount()[complete.emoji.bincount() > 0].tolist()) == {5}
    assert Counter(one.group for one in whole.table) == {
        "people-body": 388, "objects": 266, "symbols": 224, "travel-places": 219, "smileys-emotion": 171,
        "animals-nature": 160, "food-drink": 131, "activities": 85, "flags": 19,
    }  # fmt: skip
    assert whole.sha256 == "d266489a41ca8abced6fdcdebee329ea3820b204840c6e96a614126ed1614152"


def test_names_and_keywords(whole: EmojiSet) -> None:
    cat = next(one for one in whole.table if one.hexcode == "1F431")
    assert (cat.name, cat.group, cat.subgroup, cat.code_points, cat.text) == (
        "cat face", "animals-nature", "animal-mammal", (0x1F431,), "🐱",
    )  # fmt: skip
    assert cat.name_zh == "猫脸"
    assert {"pet", "animal"} <= set(cat.keywords)
    assert {"宠物", "猫咪"} <= set(cat.keywords_zh)
    for words in (lambda one: one.name, lambda one: one.name_zh, lambda one: one.hexcode):
        assert len({words(one) for one in whole.table}) == len(whole.table)
    assert all(re.search("[\u4e00-\u9fff]", one.name_zh + "".join(one.keywords_zh)) for one in whole.table)
    # 1F3FB to 1F3FF are the skin tones
    assert not any(0x1F3FB <= point <= 0x1F3FF for one in whole.table for point in one.code_points)


def of(whole: EmojiSet, hexcode: str, style: str) -> Tensor:
    number = next(i for i, one in enumerate(whole.table) if one.hexcode == hexcode)
    found = whole.images[(whole.emoji == number) & (whole.style == STYLES.index(style))]
    assert len(found) == 1
    return found[0].float() / 255


@pytest.mark.parametrize(
    ("hexcode", "brightest"),
    [("1F534", (0,)), ("1F7E2", (1,)), ("1F535", (2,)), ("1F34C", (0, 1)), ("1F966", (1,)), ("1F353", (0,)), ("1F499", (2,))],
)
def test_styles_agree_on_what_an_emoji_shows(whole: EmojiSet, hexcode: str, brightest: tuple[int, ...]) -> None:
    """Red, green and blue circles, a banana, broccoli, a strawberry, a blue heart: the colour is in the name."""
    for style in ("noto", "noto-v1", "fluent-flat", "fluent-shaded"):
        if hexcode == "1F7E2" and style == "noto-v1":  # younger than that style
            continue
        if hexcode == "1F966" and style == "noto-v1":
            continue
        picture = of(whole, hexcode, style)
        mean = (picture[:3] * picture[3:]).sum((1, 2)) / picture[3:].sum()
        others = [c for c in range(3) if c not in brightest]
        assert min(mean[c] for c in brightest) > max(mean[c] for c in others) + 0.1, style


def test_the_same_emoji_is_nearest_in_the_other_style() -> None:
    """Shapes find their twin: among 288 animals, plants and dishes, the flat drawing of most is nearest to the shaded one."""
    groups = ("animals-nature", "food-drink")
    flat, shaded = (emoji(styles=s, groups=groups) for s in ("fluent-flat", "fluent-shaded"))
    assert torch.equal(flat.emoji, shaded.emoji)
    nearest = torch.cdist(flat.on("white").images.flatten(1), shaded.on("white").images.flatten(1)).argmin(1)
    assert float((nearest == torch.arange(len(flat))).float().mean()) > 0.9
    # of noto, drawn by another hand, a quarter; by chance it would be 1 in 290
    noto = emoji(styles="noto", groups=groups)
    nearest = torch.cdist(noto.on("white").images.flatten(1), flat.on("white").images.flatten(1)).argmin(1)
    assert float((flat.emoji[nearest] == noto.emoji).float().mean()) > 0.15


# Alpha


def test_alpha(whole: EmojiSet) -> None:
    alpha = whole.images[:, 3]
    assert (int(alpha.min()), int(alpha.max())) == (0, 255)
    assert int((alpha > 0).flatten(1).sum(1).min()) >= 20  # every drawing can be seen
    assert bool((alpha.flatten(1).amax(1) >= 128).all())
    invisible = (alpha == 0)[:, None].expand(-1, 3, -1, -1)
    assert int(whole.images[:, :3][invisible].max()) == 0
    # line art is black
    art = whole.by_style()["fluent-high-contrast"].images
    assert float((art[:, :3].float() * (art[:, 3:] > 0)).max()) <= 40


def test_edges_have_the_colour_of_the_drawing(whole: EmojiSet) -> None:
    """A yellow face has no dark rim: pixels that it covers by half are as bright as those inside."""
    circle = of(whole, "1F7E1", "fluent-flat")  # yellow circle
    edge = (circle[3] > 0.2) & (circle[3] < 0.8)
    assert int(edge.sum()) > 20
    inside = circle[:3, 16, 16]
    assert float((circle[:3, edge] - inside[:, None]).abs().max()) < 0.06


# Compositing


def one_pixel_set() -> EmojiSet:
    """Three drawings of one colour, (51, 102, 255), whose alpha is 0, 51 and 255 throughout."""
    images = torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    images[:, :3] = torch.tensor([51, 102, 255], dtype=torch.uint8)[:, None, None]
    images[:, 3] = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None]
    table = (Emoji("41", "symbols", "alphanum", "a", "甲", (), (), "41"),)
    return EmojiSet(images, torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), table)


@pytest.mark.parametrize(
    ("background", "mixed"),
    [
        # alpha 51/255 = 0.2 of (0.2, 0.4, 1) and 0.8 of the background
        ("white", (0.84, 0.88, 1.0)),
        ("black", (0.04, 0.08, 0.2)),
        (0.5, (0.44, 0.48, 0.6)),
        ((1.0, 0.5, 0.0), (0.84, 0.48, 0.2)),
    ],
)
def test_compositing_by_hand(background: Any, mixed: tuple[float, ...]) -> None:
    drawn = one_pixel_set().on(background).images
    plain = {"white": 1.0, "black": 0.0}.get(background, background) if isinstance(background, str) else background
    behind = torch.as_tensor(plain, dtype=torch.float32).expand(3)
    assert torch.equal(drawn[0], behind[:, None, None].expand(3, 32, 32))  # exactly the background
    torch.testing.assert_close(drawn[1, :, 5, 7], torch.tensor(mixed), atol=1e-6, rtol=0)
    drawing = torch.tensor([51, 102, 255]) / 255
    assert torch.equal(drawn[2], drawing[:, None, None].expand(3, 32, 32))  # exactly the drawing


def test_compositing_on_images(whole: EmojiSet) -> None:
    part = whole.take([0, 1, 2])
    behind = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    drawn = part.on(behind)
    clear = (part.images[:, 3:] == 0).expand(-1, 3, -1, -1)
    solid = (part.images[:, 3:] == 255).expand(-1, 3, -1, -1)
    assert bool(clear.any())
    assert bool(solid.any())
    assert torch.equal(drawn.images[clear], behind[clear].float() / 255)
    assert torch.equal(drawn.images[solid], part.images[:, :3][solid].float() / 255)
    torch.testing.assert_close(drawn.images, part.on(behind.float() / 255).images)
    one = part.on(behind[0])
    assert torch.equal(one.images[0], drawn.images[0])
    # white on white stays white, whatever alpha
    white = EmojiSet(torch.full_like(part.images, 255), part.style, part.emoji, part.table)
    white.images[0, 3] = torch.arange(1024).reshape(32, 32) % 256
    assert torch.equal(white.on("white").images, torch.ones(3, 3, 32, 32))


@pytest.mark.parametrize(
    "background",
    ["green", 1.5, (0.1, 0.2), (0.0, -0.1, 0.5), torch.zeros(2, 3, 32, 32), torch.zeros(3, 28, 28), float("nan"), "0.5"],
)
def test_backgrounds_that_are_none(background: Any) -> None:
    with pytest.raises(InputError, match=r"^background: got .*, wanted "):
        one_pixel_set().on(background)


# Splits


def test_splits_are_disjoint_by_emoji_and_by_family(whole: EmojiSet) -> None:
    parts = {split: emoji(split=split) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert sum(map(len, parts.values())) == len(whole)
    seen: dict[str, set[str]] = {"hexcode": set(), "family": set()}
    for part in parts.values():
        for what, before in seen.items():
            mine = {getattr(one, what) for one in part.entries}
            assert not mine & before
            before |= mine
    assert len(seen["hexcode"]) == 1663
    share = {split: len({*part.emoji.tolist()}) for split, part in parts.items()}
    assert share == {"train": 1175, "validation": 165, "test": 323}


def test_no_picture_is_in_two_splits() -> None:
    """Not even mirrored: some emoji are drawn alike (a magnifying glass tilted left or right)."""
    seen: set[bytes] = set()
    for split in ("train", "validation", "test"):
        pictures = emoji(split=split).images.numpy()  # type: ignore[arg-type]
        mine = {min(p.tobytes(), p[:, :, ::-1].tobytes()) for p in pictures}
        assert not mine & seen
        seen |= mine


def test_man_woman_and_person_stay_together(whole: EmojiSet) -> None:
    by_name = {one.name: one for one in whole.table}
    for names in (
        ("person running", "man running", "woman running"),
        ("health worker", "man health worker", "woman health worker"),
        ("man", "woman", "person"),
    ):
        assert len({by_name[name].family for name in names}) == 1
        assert len({by_name[name].split for name in names}) == 1
    # some style draws these two alike; pizza is like nothing else
    assert by_name["cat face"].family == by_name["grinning cat"].family
    assert by_name["pizza"].family == "1F355"


def test_the_split_of_an_emoji_is_a_fact() -> None:
    # sha256("emoji/1F431"), its first 8 bytes as a number, modulo 10
    first = int(hashlib.sha256(b"emoji/1F431").hexdigest()[:16], 16)
    assert Emoji("1F431", "", "", "", "", (), (), "1F431").split == ("test", "test", "validation", *["train"] * 7)[first % 10]


def test_test_data_is_guarded() -> None:
    data = emoji(styles="noto", split="test").on("white")
    assert data.split == "test"
    with training_only(), pytest.raises(SplitError):
        data[0]


# Labels and parts


def test_labels(whole: EmojiSet) -> None:
    train, test = (emoji(styles=s, split=p) for s, p in (("noto", "train"), ("noto-v1", "test")))  # type: ignore[arg-type]
    for by, n in (("group", 9), ("subgroup", 97), ("emoji", 1663), ("style", 5)):
        a, b = train.labels(by), test.labels(by)  # type: ignore[arg-type]
        assert a[1] == b[1]
        assert len(a[1]) == n, by
        assert a[0].dtype == torch.int64
    labels, names = test.labels("group")
    assert [names[i] for i in labels.tolist()] == [one.group for one in test.entries]
    labels, names = test.labels("emoji")
    assert [names[i] for i in labels.tolist()] == [one.name for one in test.entries]
    with pytest.raises(InputError, match=r"^labels: got colour, wanted one of group, subgroup, emoji, style"):
        test.labels("colour")  # type: ignore[arg-type]


def test_groups_choose_classes_and_their_order() -> None:
    part = emoji(styles="noto", groups=("food-drink", "animals-nature"))
    labels, names = part.labels()
    assert names == ("food-drink", "animals-nature")
    assert labels.bincount().tolist() == [131, 160]
    assert part.on("black").classes == names
    assert {name: len(one) for name, one in part.by_group().items()} == {"food-drink": 131, "animals-nature": 160}
    assert len(SUBJECTS) == 7
    assert not {"symbols", "flags"} & set(SUBJECTS)


def test_take(whole: EmojiSet) -> None:
    part = whole.take([5, 3])
    assert torch.equal(part.images, whole.images[[5, 3]])
    assert [one.hexcode for one in part.entries] == [whole.entries[5].hexcode, whole.entries[3].hexcode]
    mask = whole.style == 1
    assert len(whole.take(mask)) == 1234
    assert len(whole.take(slice(0, 7))) == 7
    for index in ([len(whole)], 3, [], torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(InputError, match=r"^index: got"):
            whole.take(index)  # type: ignore[arg-type]


def test_what_one_set_changes_stays_in_it() -> None:
    before = emoji(styles="noto").sha256
    emoji(styles="noto").images.zero_()
    assert emoji(styles="noto").sha256 == before


def test_the_record_names_file_styles_and_background() -> None:
    data = emoji(styles=("noto", "noto-v1"), split="validation").on("black", labels="style")
    entry = data.describe()
    assert entry["name"] == "emoji (noto, noto-v1)"
    assert (entry["split"], entry["background"], entry["labels"]) == ("validation", "black", "style")
    assert entry["file_sha256"] == module.FILE_SHA256
    assert data.classes == STYLES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"styles": "twemoji"}, r"^styles: got twemoji, wanted one or several of noto, noto-v1, fluent-flat"),
        ({"styles": ()}, r"^styles: got \(\)"),
        ({"styles": ("noto", "noto")}, r"^styles: got .*each once"),
        ({"groups": "component"}, r"^groups: got component, wanted one or several of smileys-emotion"),
        ({"split": "dev"}, r"^split: got dev, wanted one of train, validation, test, ''"),
    ],
)
def test_unknown_choices(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        emoji(**arguments)


def test_a_file_that_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"^emoji.parquet: got SHA-256 [0-9a-f]{64}, wanted 0{64}; install the package again"):
        module._bundled.__wrapped__()


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    with pytest.raises(MissingError, match=r"^emoji.parquet is not in this installation"):
        module._bundled.__wrapped__()


# It can be learned from


def test_a_linear_probe_finds_the_group_of_unseen_emoji() -> None:
    groups = ("smileys-emotion", "animals-nature", "travel-places", "symbols")
    train = emoji(styles="fluent-flat", split="train", groups=groups).on("white")
    test = emoji(styles="fluent-flat", split="test", groups=groups).on("white")

    def small(images: Tensor) -> np.ndarray[Any, Any]:
        return torch.nn.functional.avg_pool2d(images, 4).flatten(1).numpy()

    probe = RidgeClassifier(alpha=10).fit(small(train.images), train.labels.numpy())
    largest = float(test.labels.bincount().max()) / len(test)
    assert probe.score(small(test.images), test.labels.numpy()) > largest + 0.15


# The page


def test_the_page_tells_the_truth(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: EmojiSet) -> None:
    page = (root / "docs" / "emoji.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "emoji.md", "exec"), {})
    # the table of groups: emoji, then pictures a style
    parts = whole.by_group()
    for group in GROUPS:
        number = sum(one.group == group for one in whole.table)
        styles = parts[group].style.bincount(minlength=5).tolist()
        assert "| " + " | ".join(map(str, [group, number, *styles])) + " |" in page
